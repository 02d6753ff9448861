package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange/wire"
)

// conn is one connection to a target. It is owned by one exchange at a time,
// or by its stack while idle.
type conn struct {
	stack     *stack
	sock      *sock
	rw        net.Conn // the socket itself in clear, else TLS over it
	secure    bool
	address   string // ip:port, for records
	served    int    // requests begun on it
	idleSince time.Time
	readBy    time.Time // deadlines as set last
	writeBy   time.Time

	// buf[r:w] is what was read and not used yet. An idle connection keeps buf for a
	// while: those that are busy take turns in it.
	buf   []byte
	r, w  int
	heads wire.Copies // the heads of responses
}

// sock is a socket that can be asked whether something has come in.
type sock struct {
	net.Conn
	probing bool
	raw     syscall.RawConn
	once    func(fd uintptr) bool
	p       []byte
	n       int
	err     syscall.Errno
	one     [1]byte // what a probe reads into

	turn  func(fd uintptr) bool // see swap
	out   []byte
	sent  int // bytes of out that were written
	told  bool
	probe bool
	noise bool // something had come in before anything was written

	tap  *tap // of a shared connection, see listen; nil for others
	take func(fd uintptr) bool
}

// Read reads from the socket; while probing it does not wait.
func (s *sock) Read(p []byte) (int, error) {
	if s.probing {
		return s.tryRead(p)
	}
	if s.tap != nil {
		return s.tapped(p)
	}
	return s.Conn.Read(p)
}

// nothing is the answer of a probe that found a quiet, open connection. It is
// a temporary net.Error because only such a one leaves a tls.Conn usable.
type nothing struct{}

func (nothing) Error() string   { return "nothing has come in" }
func (nothing) Timeout() bool   { return true }
func (nothing) Temporary() bool { return true }

var errNothing error = nothing{}

// errNoise says that an idle connection had ended, or that bytes had come which nobody asked for.
var errNoise = errors.New("the idle connection had ended")

// quiet says that an idle connection is open and has received nothing: no end,
// no bytes after the last response. With TLS, tickets and the like are taken in
// on the way. Why at each reuse: bytes that came late would be read as the
// answer to the next request, which is another client's.
func (c *conn) quiet(now time.Time) bool {
	c.readWithin(now, patience) // an expired deadline would hide what came in, and swap needs one
	var n int
	var err error
	if c.secure {
		c.sock.probing = true
		n, err = c.rw.Read(c.sock.one[:])
		c.sock.probing = false
	} else {
		n, err = c.sock.tryRead(c.sock.one[:])
	}
	return n == 0 && errors.Is(err, errNothing)
}

// readWithin makes reads fail after wait. Deadlines are a little generous, so
// that a busy connection does not set one for each request.
func (c *conn) readWithin(now time.Time, wait time.Duration) {
	least := now.Add(wait)
	if c.readBy.Before(least) || c.readBy.After(least.Add(slack(wait))) {
		c.readBy = least.Add(slack(wait))
		_ = c.sock.SetReadDeadline(c.readBy) // a closed socket says so when it is used
	}
}

// writeWithin makes writes fail after wait.
func (c *conn) writeWithin(now time.Time, wait time.Duration) {
	least := now.Add(wait)
	if c.writeBy.Before(least) || c.writeBy.After(least.Add(slack(wait))) {
		c.writeBy = least.Add(slack(wait))
		_ = c.sock.SetWriteDeadline(c.writeBy)
	}
}

// slack is how much later than asked a deadline may come.
func slack(wait time.Duration) time.Duration {
	switch {
	case wait == patience:
		return patience
	case wait >= time.Second:
		return wait / 16
	}
	return 0
}

// close ends the connection at once. TLS gets no farewell: the write of one
// could block, and what matters was framed by HTTP.
func (c *conn) close() { _ = c.sock.Close() }

// protocol is what a TLS handshake agreed on, "" for nothing.
func (c *conn) protocol() string {
	if tc, ok := c.rw.(*tls.Conn); ok {
		return tc.ConnectionState().NegotiatedProtocol
	}
	return ""
}

// dial opens a connection of stack s within a time, TLS handshake included.
func (cl *Cluster) dial(ctx context.Context, s *stack, within time.Duration) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	address := s.id.addr.String()
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", address, err)
	}
	c := &conn{stack: s, sock: &sock{Conn: nc}, rw: nc, address: address}
	if c.sock.raw, err = nc.(*net.TCPConn).SyscallConn(); err != nil { // dialing "tcp" makes no other kind
		c.close()
		return nil, fmt.Errorf("connecting to %s: %w", address, err)
	}
	c.sock.arm()
	if !s.id.secure {
		return c, nil
	}
	s.config.Do(func() { s.tls = cl.tls.config(s) })
	tc := tls.Client(c.sock, s.tls)
	if err := tc.HandshakeContext(ctx); err != nil {
		c.close()
		return nil, fmt.Errorf("shaking hands with %s as %q: %w", address, s.id.server, err)
	}
	c.rw, c.secure = tc, true
	return c, nil
}
