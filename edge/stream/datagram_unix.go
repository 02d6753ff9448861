//go:build unix

package stream

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
)

// readDatagram awaits a datagram. A buffer is taken when there is one and not before:
// thousands of sessions wait, and a buffer has room for the longest datagram.
func readDatagram(_ *net.UDPConn, raw syscall.RawConn, buffers *sync.Pool) (buf *datagram, n int, err error) {
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		buf = buffers.Get().(*datagram)
		n, failed = syscall.Read(int(fd), buf[:])
		if failed == nil {
			return true
		}
		buffers.Put(buf)
		buf, n = nil, 0
		return !errors.Is(failed, syscall.EAGAIN) && !errors.Is(failed, syscall.EINTR)
	})
	switch {
	case err != nil:
		return nil, 0, err
	case failed != nil:
		return nil, 0, fmt.Errorf("reading a datagram: %w", os.NewSyscallError("read", failed))
	}
	return buf, n, nil
}
