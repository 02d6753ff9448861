package handover

import "syscall"

// sendNow sends a message if there is room for it.
func sendNow(fd int, b []byte) error {
	return syscall.Sendto(fd, b, syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, nil)
}
