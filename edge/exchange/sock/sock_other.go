//go:build unix && !linux

package sock

import "syscall"

const fast = false

// Recv reads what has come to a socket, without waiting.
func Recv(fd uintptr, p []byte) (int, syscall.Errno) {
	n, err := syscall.Read(int(fd), p)
	return errno(n, err)
}

// Send writes as much of p as the socket takes without waiting.
func Send(fd uintptr, p []byte) (int, syscall.Errno) {
	n, err := syscall.Write(int(fd), p)
	return errno(n, err)
}

func errno(n int, err error) (int, syscall.Errno) {
	if err == nil {
		return n, 0
	}
	e, ok := err.(syscall.Errno) //nolint:errorlint // system calls answer nothing else
	if !ok {
		e = syscall.EIO
	}
	return 0, e
}
