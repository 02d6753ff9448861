package edge

import (
	"net"
	"os"
	"syscall"
)

// quiesce stops a listener without losing whom it has already greeted: it takes
// every connection that waits in the kernel's queue, and ends the listening the
// moment the queue is empty. A plain close would reset those that wait.
func quiesce(l net.Listener, take func(net.Conn)) {
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
		for {
			n, _, err := syscall.Accept4(int(fd), syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC)
			if err != nil {
				break
			}
			taken = append(taken, n)
		}
		// Ends listening at once, without the way through the runtime that Close takes.
		_ = syscall.Shutdown(int(fd), syscall.SHUT_RD)
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
