//go:build !unix

package sock

import "syscall"

// Recv is not to be had here.
func Recv(uintptr, []byte) (int, syscall.Errno) { return 0, syscall.EIO }

// Peek is not to be had here.
func Peek(uintptr, []byte) (int, syscall.Errno) { return 0, syscall.EIO }

// Send is not to be had here.
func Send(uintptr, []byte) (int, syscall.Errno) { return 0, syscall.EIO }
