//go:build unix && (!linux || race)

package sock

import "syscall"

// The race detector takes what the standard library reads for ordered after what it
// wrote, as it is; calls that it does not see would make it find races that are none.

// Recv reads what has come to a socket, without waiting.
func Recv(fd uintptr, p []byte) (int, syscall.Errno) {
	return plain(syscall.Read(int(fd), p))
}

// Peek is Recv, but leaves what it reads.
func Peek(fd uintptr, p []byte) (int, syscall.Errno) {
	n, _, err := syscall.Recvfrom(int(fd), p, syscall.MSG_PEEK)
	return plain(n, err)
}

// Send writes as much of p as the socket takes without waiting.
func Send(fd uintptr, p []byte) (int, syscall.Errno) {
	return plain(syscall.Write(int(fd), p))
}

func plain(n int, err error) (int, syscall.Errno) {
	if err == nil {
		return n, 0
	}
	e, ok := err.(syscall.Errno) //nolint:errorlint // system calls answer nothing else
	if !ok {
		e = syscall.EIO
	}
	return 0, e
}
