// Package socktest has real sockets for tests of what is done with them.
package socktest

import (
	"net"
	"testing"
	"time"
)

// Pair are the two ends of one connection over loopback. They are closed when the test
// ends, and wait for nothing longer than half a minute.
func Pair(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	d, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	for _, c := range []net.Conn{c, d} {
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	}
	return c.(*net.TCPConn), d.(*net.TCPConn)
}
