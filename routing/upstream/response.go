package upstream

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	rawsock "github.com/keyway-edge/keyway/edge/exchange/sock"
)

var errBodyClosed = errors.New("the response body is closed")

// Read reads the response's body. At its end the connection goes back to its
// pool, so it must not be read by two at once.
func (k *call) Read(p []byte) (int, error) {
	if k.stream != nil {
		return k.readShared(p)
	}
	if k.conn == nil {
		if k.end == nil {
			k.end = errBodyClosed
		}
		return 0, k.end
	}
	n, err := k.readOnce(p)
	switch {
	case err == nil && !k.done():
		return n, nil
	case err == nil || errors.Is(err, io.EOF):
		k.end = io.EOF
		k.release(k.reusable)
	default:
		k.end = fmt.Errorf("reading the response body of %s: %w", k.told, err)
		k.release(false)
	}
	if n > 0 {
		return n, nil
	}
	return 0, k.end
}

// Waiting says that nothing of the body has come that was not read yet.
func (k *call) Waiting() bool {
	if k.stream != nil {
		return k.waitingShared()
	}
	return k.conn != nil && k.conn.r == k.conn.w && !k.done()
}

// done says that the whole body was read, as far as that is known.
func (k *call) done() bool {
	if k.framing.Chunked {
		return k.chunks.Done()
	}
	return k.left == 0
}

// readOnce reads once. A body without chunks goes straight from the socket to the
// reader, never beyond its end: what is behind it stays where quiet looks.
func (k *call) readOnce(p []byte) (n int, err error) {
	if k.framing.Chunked {
		return k.chunks.Read(p)
	}
	if k.left >= 0 && int64(len(p)) > k.left {
		p = p[:k.left]
	}
	if c := k.conn; c.r < c.w {
		n = copy(p, c.buf[c.r:c.w])
		c.r += n
	} else {
		n, err = k.read(p)
	}
	if k.left > 0 {
		k.left -= int64(n)
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
	}
	return n, err
}

// Close ends the exchange. A body that was not read to its end takes its
// connection with it.
func (k *call) Close() error {
	k.finishShared()
	if k.conn != nil {
		k.release(k.reusable && k.done())
	}
	return nil
}

// Buffered is what was read from the target and not used yet.
func (k *call) Buffered() []byte { return k.conn.buf[k.conn.r:k.conn.w] }

// Discard counts n buffered bytes as used.
func (k *call) Discard(n int) { k.conn.r += n }

// More reads more into the buffer.
func (k *call) More() error {
	c := k.conn
	if c.r == c.w {
		c.r, c.w = 0, 0
	} else if c.w == len(c.buf) {
		c.w = copy(c.buf, c.buf[c.r:c.w])
		c.r = 0
	}
	n, err := k.read(c.buf[c.w:])
	c.w += n
	if n > 0 {
		return nil
	}
	return err
}

// tunnel is a connection that has switched protocols.
type tunnel struct {
	call *call
	conn *conn
	once sync.Once // the end of the exchange
}

// switchOver hands the connection to the engine, which copies bytes both ways
// and minds the time; the limits of a request no longer hold.
func (k *call) switchOver() {
	c := k.conn
	if k.unwatch != nil {
		k.unwatch() // if the client is gone already, its connection is closed and the copy finds out
		k.unwatch = nil
	}
	_ = c.sock.SetDeadline(time.Time{})
	k.x.Response.Body, k.x.Response.Switch = nil, &tunnel{call: k, conn: c}
}

// Read answers first what came along with the head. One goroutine may read
// while another writes.
func (t *tunnel) Read(p []byte) (int, error) {
	c := t.conn
	if c.r < c.w {
		n := copy(p, c.buf[c.r:c.w])
		c.r += n
		return n, nil
	}
	c.rest(t.call.cluster.pools) // a tunnel may live long; it needs no buffer
	return c.rw.Read(p)
}

// Write sends to the target.
func (t *tunnel) Write(p []byte) (int, error) { return t.conn.rw.Write(p) }

// Plain is the socket to the target, nil if TLS lies over it.
func (t *tunnel) Plain() *net.TCPConn {
	if t.conn.secure {
		return nil
	}
	return rawsock.Plain(t.conn.sock.Conn)
}

// Ahead says that bytes which came along with the head were not read yet. It is the
// reader's.
func (t *tunnel) Ahead() bool { return t.conn.r < t.conn.w }

// SetReadDeadline sets the time after which a Read fails that waits.
func (t *tunnel) SetReadDeadline(at time.Time) error { return t.conn.sock.SetReadDeadline(at) }

// Close ends the connection and with it a Read and a Write that wait.
func (t *tunnel) Close() error {
	t.conn.close()
	t.once.Do(func() {
		t.call.conn = nil
		t.call.body.free()
		t.call.cluster.balancer.leave(t.call.target)
	})
	return nil
}
