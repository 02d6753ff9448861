package edge

import (
	"net"
	"time"
)

// clientPreface is what a client of HTTP/2 begins with (RFC 9113, section 3.4).
const clientPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// clearConn is a connection in clear whose first bytes were looked at.
type clearConn struct {
	*trackedConn
	ahead []byte // what was read and not used
}

// Read gives out what was looked at, and then what comes.
func (c *clearConn) Read(p []byte) (int, error) {
	if len(c.ahead) > 0 {
		n := copy(p, c.ahead)
		c.ahead = c.ahead[n:]
		return n, nil
	}
	return c.trackedConn.Read(p)
}

// Plain is the socket itself, once nothing is left that was looked at.
func (c *clearConn) Plain() *net.TCPConn {
	if len(c.ahead) > 0 {
		return nil
	}
	return c.trackedConn.Plain()
}

// CloseWrite sends the end of our side.
func (c *clearConn) CloseWrite() error { return c.trackedConn.CloseWrite() }

// speaksHTTP2 finds out whether the client begins with the preface of HTTP/2, which
// it may do without asking where it knows that we understand (RFC 9113, section 3.3).
// No request of HTTP/1.1 begins like it, so one byte mostly tells.
func (c *clearConn) speaksHTTP2(within time.Duration) bool {
	_ = c.SetReadDeadline(time.Now().Add(within))
	defer func() { _ = c.SetReadDeadline(time.Time{}) }()
	buf := make([]byte, len(clientPreface))
	n := 0
	for n < len(buf) {
		k, err := c.trackedConn.Read(buf[n:])
		n += k
		c.ahead = buf[:n]
		if string(buf[:n]) != clientPreface[:n] {
			return false
		}
		if err != nil {
			return false // the other engine finds out the same
		}
	}
	return true
}
