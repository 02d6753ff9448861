//go:build !unix

package stream

import (
	"net"
	"sync"
	"syscall"
)

// readDatagram awaits a datagram, holding a buffer meanwhile.
func readDatagram(c *net.UDPConn, _ syscall.RawConn, buffers *sync.Pool) (*datagram, int, error) {
	buf := buffers.Get().(*datagram)
	n, err := c.Read(buf[:])
	if err != nil {
		buffers.Put(buf)
		return nil, 0, err
	}
	return buf, n, nil
}
