package sock

import (
	"io"
	"net"
)

// Plain is the socket of a connection that nothing lies over, nil for every other one.
// What wraps a connection has a method Plain if it may be passed by.
func Plain(c any) *net.TCPConn {
	switch c := c.(type) {
	case *net.TCPConn:
		return c
	case interface{ Plain() *net.TCPConn }:
		return c.Plain()
	}
	return nil
}

// Splice has the kernel move at most n bytes from one socket to another: they are never
// copied to here, where the system can do that. It passes on what comes as it comes, until
// there were n, src has ended, or a deadline of either has passed. The end is no error; what
// was taken from src when writing to dst fails is lost.
func Splice(dst, src *net.TCPConn, n int64) (moved int64, end bool, err error) {
	moved, err = dst.ReadFrom(&io.LimitedReader{R: src, N: n})
	return moved, err == nil && moved < n, err
}
