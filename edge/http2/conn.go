package http2

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/keyway-edge/keyway/edge/exchange"
)

const (
	bufferSize  = 16 << 10               // of the read buffer
	keepBuffers = 250 * time.Millisecond // how long a silent connection keeps buffers and goroutines
	lingerFor   = time.Second            // how long a connection that has ended waits for its peer to see that
)

// conn is one connection. What stands above mu belongs to the goroutine that reads.
type conn struct {
	e      *Engine
	nc     net.Conn
	info   *exchange.Conn
	ctx    context.Context //nolint:containedctx // a conn is the call, it does not outlive it
	cancel context.CancelFunc
	wg     sync.WaitGroup // goroutines of streams, and those that flush
	gone   chan struct{}  // closed when the connection is

	box     *[]byte // the pooled read buffer, nil while nothing comes
	buf     []byte  // *box, or a larger one for a long frame
	r, w    int     // buf[r:w] is read and not used yet
	one     [1]byte // the read buffer of a silent connection
	now     time.Time
	heard   bool      // something came since the last tick
	headBy  time.Time // when what is in the making must be complete, zero for nothing
	decoder *hpack.Decoder
	piece   []byte // what the decoder was given last
	section section
	settled bool // the peer's first SETTINGS came

	mu       sync.Mutex
	streams  map[uint32]*stream // open ones
	free     []*stream          // those whose goroutines wait for a request
	running  int                // requests being answered, also those whose stream is closed
	idle     time.Time          // when the last request ended
	maxID    uint32             // highest stream that was taken
	seenID   uint32             // and that the peer opened
	blocked  int                // streams that wait for a window
	early    earlyStreams
	glitches glitches

	leaving bool // the first GOAWAY is sent
	over    bool // the last one: no stream is opened any more
	closed  bool

	out       *[]byte // what waits to be written
	spare     *[]byte // the other buffer, while one is being written
	writing   bool
	written   sync.Cond // a write came to its end; over mu
	failed    error     // why nothing can be written any more
	writeBy   time.Time // the deadline of writes as it is set; used by who writes
	window    int64     // what the peer lets us send on the connection
	taken     int64     // bytes of bodies that were sent
	firstSend int64     // and on a new stream
	maxFrame  int       // longest payload that the peer takes
	fresh     bool      // no header section was sent yet
	owed      int64     // bytes of bodies used, not given back to the peer's window yet
	recv      int64     // what the peer may still send on the connection
}

// connError ends a connection with GOAWAY.
type connError struct {
	code   http2.ErrCode
	reason string
}

func (e *connError) Error() string { return e.code.String() + ": " + e.reason }

func protocolError(reason string) error { return &connError{http2.ErrCodeProtocol, reason} }

func frameSizeError(reason string) error { return &connError{http2.ErrCodeFrameSize, reason} }

var (
	errDone = errors.New("the connection came to its end")
	errGone = errors.New("the client's connection is gone")
)

func newConn(ctx context.Context, e *Engine, nc net.Conn, info *exchange.Conn) *conn {
	now := time.Now()
	c := &conn{
		e: e, nc: nc, info: info, gone: make(chan struct{}), now: now, idle: now, fresh: true,
		streams: make(map[uint32]*stream), window: 65535, firstSend: 65535, maxFrame: 16 << 10, recv: max(65535, int64(e.set.ConnWindow)),
		glitches: glitches{limit: large * e.set.Glitches, since: now},
	}
	c.ctx, c.cancel = context.WithCancel(ctx)
	c.written.L = &c.mu
	c.decoder = hpack.NewDecoder(4096, c.field)
	c.piece = make([]byte, 0, 512)
	c.decoder.SetMaxStringLength(e.set.HeaderList)
	return c
}

// serve is the life of the connection.
func (c *conn) serve() {
	c.mu.Lock()
	c.greet()
	c.mu.Unlock()
	c.end(c.read())
	c.wg.Wait()
	c.releaseRead()
}

// read takes frames from the connection until it ends, and answers why it did.
func (c *conn) read() error {
	c.takeRead()
	c.arm(c.now, keepBuffers)
	c.headBy = c.now.Add(c.e.set.Head)
	for at := 0; at < len(http2.ClientPreface); {
		if c.r == c.w {
			if err := c.fill(); err != nil {
				return err
			}
		}
		n := min(c.w-c.r, len(http2.ClientPreface)-at)
		if string(c.buf[c.r:c.r+n]) != http2.ClientPreface[at:at+n] {
			return protocolError("the connection does not begin with the preface of HTTP/2")
		}
		c.r += n
		at += n
	}
	for {
		if err := c.need(frameHead); err != nil {
			return err
		}
		f := parseFrame(c.buf[c.r:])
		c.r += frameHead
		if err := c.frame(f); err != nil {
			return err
		}
		if !c.section.open {
			c.headBy = time.Time{}
		}
	}
}

// need makes sure that n bytes are in the buffer. Their time is limited once the first came.
func (c *conn) need(n int) error {
	for c.w-c.r < n {
		if c.r > 0 && (c.r == c.w || len(c.buf)-c.r < n) {
			c.w = copy(c.buf, c.buf[c.r:c.w])
			c.r = 0
		}
		if n > len(c.buf) && c.box != nil {
			larger := make([]byte, n+frameHead)
			c.w = copy(larger, c.buf[c.r:c.w])
			c.r, c.buf = 0, larger
		}
		if c.w > c.r && c.headBy.IsZero() {
			c.headBy = c.now.Add(c.e.set.Head)
		}
		if err := c.fill(); err != nil {
			return err
		}
	}
	return nil
}

// fill reads once. What frames made necessary to send is sent before it waits.
func (c *conn) fill() error {
	c.mu.Lock()
	c.pushAway()
	c.mu.Unlock()
	for {
		if c.r == c.w {
			c.r, c.w = 0, 0
			if c.box != nil && len(c.buf) > len(*c.box) {
				c.buf = *c.box // the long frame is done with
			}
		}
		var n int
		var err error
		if c.box == nil {
			if n, err = c.nc.Read(c.one[:]); n > 0 {
				c.takeRead()
				c.buf[0] = c.one[0]
			}
		} else {
			n, err = c.nc.Read(c.buf[c.w:])
		}
		if n > 0 {
			c.w += n
			c.now = time.Now()
			if !c.heard {
				c.heard = true
				c.arm(c.now, keepBuffers)
			}
			return nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			if err == nil {
				err = io.ErrNoProgress
			}
			return err
		}
		if err := c.tick(); err != nil {
			return err
		}
	}
}

// arm sets the deadline of the next look at the time. A connection that has come
// to its end is looked at at once.
func (c *conn) arm(now time.Time, d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over && c.running == 0 {
		d = 0
	}
	_ = c.nc.SetReadDeadline(now.Add(d))
}

// tick looks at the time: it is called each quarter of a second while something
// comes, and seldom while nothing does.
func (c *conn) tick() error {
	now := time.Now()
	if !c.headBy.IsZero() && now.After(c.headBy) {
		return protocolError("a header section, or the beginning of the connection, took too long")
	}
	quiet := !c.heard && c.r == c.w && c.headBy.IsZero()
	c.heard = false
	wait := keepBuffers
	c.mu.Lock()
	over, running, idle := c.over, c.running, now.Sub(c.idle)
	if quiet {
		c.dismiss()
	}
	c.mu.Unlock()
	limit := c.e.set.Idle
	if c.e.draining.Load() {
		limit = min(limit, farewell)
	}
	switch {
	case over && running == 0:
		return errDone
	case running == 0 && idle >= limit:
		c.finish()
		return errDone
	case quiet && running == 0:
		wait = limit - idle
	case quiet:
		wait = limit
	}
	if quiet {
		c.releaseRead()
	}
	c.arm(now, wait)
	return nil
}

// dismiss gives back what a busy connection keeps at hand. c.mu is held.
func (c *conn) dismiss() {
	for i, st := range c.free {
		close(st.start)
		c.free[i] = nil
	}
	c.free = nil
	c.releaseWrite()
}

func (c *conn) takeRead() {
	c.box = c.e.reads.Get().(*[]byte)
	c.buf = *c.box
}

func (c *conn) releaseRead() {
	if c.box != nil {
		c.e.reads.Put(c.box)
	}
	c.box, c.buf, c.r, c.w = nil, nil, 0, 0
}

// leave announces the end of the connection without an end to its streams: a GOAWAY
// with the highest stream id there is (RFC 9113, section 6.8). What the peer sends
// before it has read this is still answered.
func (c *conn) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leaving || c.over || c.closed {
		return
	}
	c.leaving = true
	c.queueGoAway(1<<31-1, http2.ErrCodeNo, "")
	c.pushAway()
	for _, st := range c.streams {
		if st.ws != nil {
			go st.ws.goAway()
		}
	}
}

// finish refuses new streams. The connection ends with its last one.
func (c *conn) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.finishLocked()
	c.pushAway()
}

func (c *conn) finishLocked() {
	if c.over || c.closed {
		return
	}
	c.over = true
	c.queueGoAway(c.maxID, http2.ErrCodeNo, "")
	c.ended()
}

// ended wakes the reader if there is nothing left to read for. c.mu is held.
func (c *conn) ended() {
	if c.over && c.running == 0 {
		_ = c.nc.SetReadDeadline(time.Unix(1, 0))
	}
}

// end closes the connection for the reason err, and everything that hangs on it.
func (c *conn) end(err error) {
	var ce *connError
	_ = c.dropSection(err)
	c.mu.Lock()
	if errors.As(err, &ce) {
		c.over = true
		c.queueGoAway(c.maxID, ce.code, ce.reason)
	}
	c.closed = true
	for _, st := range c.streams {
		st.kill(errGone)
	}
	clear(c.streams)
	c.dismiss()
	c.cancel()
	if ce == nil && !errors.Is(err, errDone) {
		c.fail(errGone)
	}
	if c.failed == nil {
		_ = c.nc.SetWriteDeadline(time.Now().Add(lingerFor))
		c.flush(false)
		for c.writing {
			c.written.Wait()
		}
	}
	said := c.failed == nil
	c.fail(errGone)
	c.releaseWrite()
	c.mu.Unlock()
	if said {
		c.linger()
	}
	_ = c.nc.Close()
}

// linger lets the peer read what was sent last: with bytes of its own still unread,
// a plain close would make the kernel reset the connection.
func (c *conn) linger() {
	h, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || h.CloseWrite() != nil {
		return
	}
	if c.box == nil {
		c.takeRead()
	}
	_ = c.nc.SetReadDeadline(time.Now().Add(lingerFor))
	for {
		if _, err := c.nc.Read(c.buf); err != nil {
			return
		}
	}
}
