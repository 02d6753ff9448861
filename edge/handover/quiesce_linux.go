package handover

import (
	"errors"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	// quietFor is how long nobody may have come for a listener to be closed: those who have
	// begun their handshake of TCP are on the way, most of them less than this far.
	quietFor = 20 * time.Millisecond
	// quietMost is how long that is waited for.
	quietMost = 200 * time.Millisecond
)

// Quiesce stops a listener without losing whom it has already greeted. A plain close would
// reset those that wait in the kernel's queue, and those whose handshake of TCP is under way.
// So nobody new is greeted any more, everybody who was is taken, and then the listening ends.
func Quiesce(l net.Listener, take func(net.Conn)) {
	sc, ok := l.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	var taken []int
	_ = raw.Control(func(fd uintptr) {
		listener := int(fd)
		wait := time.Duration(0)
		if l.Addr().Network() == "tcp" && ignoreNew(listener) == nil {
			wait = quietFor
		}
		for until := time.Now().Add(quietMost); ; {
			n, _, err := unix.Accept4(listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			if err == nil {
				taken = append(taken, n)
				continue
			}
			if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ECONNABORTED) && (time.Now().After(until) || !comes(listener, wait)) {
				break
			}
		}
		// Ends listening at once, without the way through the runtime that Close takes.
		_ = unix.Shutdown(listener, unix.SHUT_RD)
	})
	for _, fd := range taken {
		f := os.NewFile(uintptr(fd), "accepted")
		c, err := net.FileConn(f) // has a descriptor of its own
		_ = f.Close()
		if err == nil {
			take(c)
		}
	}
}

// comes waits for somebody in the queue.
func comes(listener int, wait time.Duration) bool {
	if wait == 0 {
		return false
	}
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}, int(wait.Milliseconds()))
	return n > 0 || errors.Is(err, unix.EINTR)
}

// ignoreNew has the kernel drop the first packet of new connections to a listener. Their
// clients send it again a second later, and are refused then, or greeted by whoever listens.
// The sockets that were greeted before keep the filter; for them it is nothing.
func ignoreNew(listener int) error {
	const (
		flags    = 13 // where TCP's header has them (RFC 9293, section 3.1)
		syn, ack = 0x02, 0x10
	)
	program, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: flags, Size: 1},
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: syn | ack},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: syn, SkipTrue: 1},
		bpf.RetConstant{Val: 1<<32 - 1},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(program))
	for i, r := range program {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return unix.SetsockoptSockFprog(listener, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
}
