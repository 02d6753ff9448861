//go:build unix

package edge

import (
	"net"
	"os"
	"syscall"
)

// maxDescriptors is how many descriptors the process may have open, 0 for no limit.
func maxDescriptors() int {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil || r.Cur > 1<<30 {
		return 0
	}
	return int(r.Cur) //nolint:gosec // at most 2^30
}

// descriptorOf is the number of a connection's descriptor, -1 where it has none. A new
// one is the lowest that is free: all below it are in use.
func descriptorOf(c net.Conn) int {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return -1
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return -1
	}
	n := -1
	_ = raw.Control(func(fd uintptr) { n = int(fd) }) // a closed one has none
	return n
}

// Descriptors are how many descriptors the process has open, and how many it may have;
// 0 for what cannot be known.
func Descriptors() (open, most int) {
	most = maxDescriptors()
	for _, dir := range [...]string{"/proc/self/fd", "/dev/fd"} {
		d, err := os.Open(dir)
		if err != nil {
			continue
		}
		names, err := d.Readdirnames(-1)
		_ = d.Close()
		if err == nil {
			return len(names) - 1, most // but for the folder itself
		}
	}
	return 0, most
}
