package edge

import (
	"crypto/tls"
	"io"
	"net"
	"testing"

	"github.com/keyway-edge/keyway/edge/exchange/sock"
)

// TestPlainSockets: an accepted connection in clear may be left to the kernel once nothing
// of it is in hand, and no other one.
func TestPlainSockets(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	tracked := &trackedConn{Conn: c, fast: sock.New(c)}
	clear := &clearConn{trackedConn: tracked, ahead: []byte("PRI")}
	if sock.Plain(tracked) != c || sock.Plain(clear) != nil {
		t.Error("a socket is not plain, or is in spite of what was read ahead")
	}
	if got, err := io.ReadAll(io.LimitReader(clear, 3)); err != nil || string(got) != "PRI" || sock.Plain(clear) != c {
		t.Errorf("after %q, %v it is plain", got, err)
	}
	if sock.Plain(tls.Server(tracked, nil)) != nil || sock.Plain(&trackedConn{Conn: tls.Server(c, nil)}) != nil {
		t.Error("what TLS lies over is not plain")
	}
}
