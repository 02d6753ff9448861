package http1

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/exchange/wire"
)

// conn is one connection. Owned by its goroutine, but for what is named below.
type conn struct {
	s      *Server
	nc     net.Conn
	cancel context.CancelFunc
	idle   atomic.Bool // read by Drain: the goroutine waits for a request
	leave  atomic.Bool // set by Leave: this connection ends as in a drain

	tunneled atomic.Pointer[tunnel] // the WebSocket that it has become

	x        exchange.Exchange
	framing  wire.Framing
	body     requestBody
	stopBody func()
	stopped  atomic.Bool // set by stopBody, by any goroutine

	box  *[]byte // the pooled read buffer, nil while idle
	buf  []byte  // *box, or a larger one for a long head
	r, w int     // buf[r:w] is read and not used yet
	one  [1]byte // the read buffer of an idle connection

	heads wire.Copies // the heads of requests

	out *[]byte // the pooled write buffer

	sending sync.Mutex // held while an interim response is written
	readBy  time.Time  // deadlines as they are set, to set them seldom
	writeBy time.Time
	served  bool      // at least one request was answered
	ended   time.Time // when the last one was
	watch   watch
}

// ending says that the connection is to end after the request in flight.
func (c *conn) ending() bool { return c.s.draining.Load() || c.leave.Load() }

// depart has a connection that was told to end do so: at once if it waits for a
// request, by a goodbye if it is a WebSocket.
func (c *conn) depart() {
	if c.idle.Load() {
		_ = c.nc.SetReadDeadline(time.Unix(1, 0))
	}
	if t := c.tunneled.Load(); t != nil {
		go t.goAway()
	}
}

// release gives the buffers back.
func (c *conn) release() {
	c.releaseRead()
	if c.out != nil {
		c.s.writes.Put(c.out)
		c.out = nil
	}
}

func (c *conn) releaseRead() {
	if c.box != nil {
		c.s.reads.Put(c.box)
	}
	c.box, c.buf, c.r, c.w = nil, nil, 0, 0
	c.heads.Release()
}

// Buffered, Discard and More make a conn the wire.Source of its request body.

// Buffered is what was read and not used.
func (c *conn) Buffered() []byte { return c.buf[c.r:c.w] }

// Discard uses n bytes of it.
func (c *conn) Discard(n int) {
	c.r += n
	c.x.BytesIn += int64(n)
	if c.r == c.w {
		c.r, c.w = 0, 0
	}
}

// More reads once.
func (c *conn) More() error {
	if c.w == len(c.buf) {
		if c.r == 0 {
			return errFull
		}
		c.w = copy(c.buf, c.buf[c.r:c.w])
		c.r = 0
	}
	n, err := c.nc.Read(c.buf[c.w:])
	c.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

var errFull = errors.New("the buffer is full")

// readDeadline sets the read deadline to d from now.
func (c *conn) readDeadline(now time.Time, d time.Duration) {
	c.readBy = now.Add(d)
	_ = c.nc.SetReadDeadline(c.readBy)
}

// readWithin makes sure that the read deadline is d from now, give or take a
// quarter: deadlines cost more than clocks.
func (c *conn) readWithin(now time.Time, d time.Duration) {
	if left := c.readBy.Sub(now); left < d*3/4 || left > d*5/4 {
		c.readDeadline(now, d)
	}
}

// writeWithin is readWithin for writes.
func (c *conn) writeWithin(now time.Time, d time.Duration) {
	if left := c.writeBy.Sub(now); left < d*3/4 {
		c.writeBy = now.Add(d)
		_ = c.nc.SetWriteDeadline(c.writeBy)
	}
}

// await waits for the first byte of a request. It answers false when the
// connection is to be closed. While it waits for long it holds no buffer.
func (c *conn) await() bool {
	c.skipEmptyLines()
	if c.w > c.r {
		return !c.ending() || c.served
	}
	began := c.ended
	if !c.served {
		began = time.Now()
	}
	now := began
	limit := c.s.Idle
	if !c.served {
		limit = c.s.HeadTimeout
	}
	if c.box == nil {
		c.takeRead()
	}
	wait := min(keepBuffer, limit)
	lingering := false
	for ; ; now = time.Now() {
		c.readWithin(now, wait)
		c.idle.Store(true)
		if c.ending() {
			if !lingering {
				lingering = true
				limit = min(limit, now.Sub(began)+drainLinger)
			}
			c.readDeadline(now, max(limit-now.Sub(began), time.Millisecond))
		}
		ok, again := c.firstBytes()
		c.idle.Store(false)
		if c.ending() {
			c.s.woken(c)
		}
		if ok {
			c.skipEmptyLines()
			if c.w > c.r {
				return true
			}
			continue
		}
		left := limit - time.Since(began)
		if !again || left <= 0 {
			return false
		}
		c.release()
		wait = left
	}
}

func (c *conn) takeRead() {
	c.box = c.s.reads.Get().(*[]byte)
	c.buf = *c.box
}

// firstBytes reads what has come: into the buffer if there is one, else a single
// byte first, for which a buffer is then taken.
func (c *conn) firstBytes() (ok, again bool) {
	if c.box != nil {
		err := c.More()
		return err == nil, errors.Is(err, os.ErrDeadlineExceeded)
	}
	n, err := c.nc.Read(c.one[:])
	if n == 0 {
		return false, errors.Is(err, os.ErrDeadlineExceeded)
	}
	c.takeRead()
	c.buf[0] = c.one[0]
	c.r, c.w = 0, 1
	return true, false
}

// skipEmptyLines drops empty lines before a request line (RFC 9112, section 2.2).
func (c *conn) skipEmptyLines() {
	for c.w-c.r >= 2 && c.buf[c.r] == '\r' && c.buf[c.r+1] == '\n' {
		c.Discard(2)
	}
}

// readHead reads until the head is complete and answers it, or the status to
// refuse the request with; neither when the client is gone.
func (c *conn) readHead() (head string, refused int) {
	from := 0
	for {
		if end := wire.HeadEnd(c.buf[c.r:c.w], from); end >= 0 {
			if end > c.s.Limits.Head {
				return "", 431
			}
			head = c.heads.Of(c.buf[c.r : c.r+end])
			c.Discard(end)
			return head, 0
		}
		if from == 0 {
			c.readDeadline(c.x.Start, c.s.HeadTimeout)
		}
		c.x.HeadDone = time.Time{} // it takes more than one read
		from = c.w - c.r
		if from >= c.s.Limits.Head {
			return "", c.tooLong()
		}
		if c.w == len(c.buf) && c.r == 0 {
			c.grow()
		}
		if err := c.More(); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return "", 408
			}
			return "", 0
		}
	}
}

// tooLong tells a request line without an end from a head without one.
func (c *conn) tooLong() int {
	for _, b := range c.buf[c.r:c.w] {
		if b == '\n' {
			return 431
		}
	}
	return 414
}

// grow replaces the buffer by a larger one, for a head longer than most.
func (c *conn) grow() {
	larger := make([]byte, c.s.Limits.Head+bufferSize)
	c.w = copy(larger, c.buf[c.r:c.w])
	c.r = 0
	c.buf = larger
}
