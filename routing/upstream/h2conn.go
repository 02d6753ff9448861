package upstream

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Bounds of a connection that many requests share. What a target may make this node
// keep is h2Streams times h2StreamWindow and one header section; what it may make this
// node do for nothing is h2Junk frames in a row.
const (
	h2Streams      = 128       // requests at once on one connection, whatever the target allows
	h2StreamWindow = 256 << 10 // bytes of one response that nobody has read yet
	h2ConnWindow   = 4 << 20   // bytes on their way; given back on arrival, so that no slow reader holds up others
	h2OutHigh      = 64 << 10  // bytes that wait to be written, above which bodies wait
	h2ControlMost  = 256 << 10 // bytes that wait to be written, above which the target is not reading
	h2Junk         = 1000      // frames that serve nothing, beyond those that do
	h2FrameSize    = 16 << 10
	h2Silence      = 5*time.Minute + 10*time.Second // gRPC servers take pings more often than each 5 minutes for an attack
	h2PingWait     = 20 * time.Second
	h2LastWords    = time.Second // how long a connection that broke is read from
)

// h2conn is one HTTP/2 connection to a target. Its reader is the one goroutine that it
// always has; another one writes, while there is something to write.
type h2conn struct {
	stack   *stack
	nc      net.Conn
	sock    *sock // beneath nc, nil where it cannot be looked at
	address string
	write   time.Duration
	framer  *http2.Framer // reading is the reader's; writing appends to out, under mu
	section h2section     // the reader's
	settled chan struct{} // closed when the target's settings are known, or the connection is dead

	mu        sync.Mutex // guards all that follows
	streams   map[uint32]*h2stream
	open      int // streams and promised seats
	served    int
	next      uint32
	block     bytes.Buffer
	encoder   *hpack.Encoder
	out       h2out
	spare     []byte
	writing   bool
	taken     int64 // bytes of out that were given to be written
	left      int64 // and how many of them may have left
	window    int64 // what the target lets us send
	recv      int64 // what the target may still send
	owed      int64
	first     int64 // window of new streams
	most      int   // streams the target allows
	frameMost int
	known     bool  // settings came
	draining  bool  // no new stream
	gone      bool  // not even one that was promised: the target looks at none
	broken    error // of a write, after which the target's last words are read
	dead      error
	junk      int
	updates   int // window updates that nothing was sent for
	idleSince time.Time
	heard     time.Time
	pinged    time.Time // a ping is on its way, zero for none
}

// h2out is what is queued for writing.
type h2out struct{ b []byte }

// Write queues.
func (o *h2out) Write(p []byte) (int, error) {
	o.b = append(o.b, p...)
	return len(p), nil
}

// newH2conn begins HTTP/2 on a connection. run must be called.
func newH2conn(s *stack, nc net.Conn, address string, write time.Duration, now time.Time) *h2conn {
	c := &h2conn{
		stack: s, nc: nc, address: address, write: write, settled: make(chan struct{}),
		streams: make(map[uint32]*h2stream), next: 1,
		window: 65535, recv: h2ConnWindow, first: 65535, most: 100, frameMost: h2FrameSize,
		idleSince: now, heard: now,
	}
	c.framer = http2.NewFramer(&c.out, bufio.NewReaderSize(nc, h2FrameSize))
	c.framer.SetReuseFrames()
	c.framer.SetMaxReadFrameSize(h2FrameSize)
	c.section.begin()
	c.encoder = hpack.NewEncoder(&c.block)
	// Requests of different clients share the connection: no table, no hints by sizes.
	c.encoder.SetMaxDynamicTableSize(0)
	c.out.b = append(c.out.b, http2.ClientPreface...)
	_ = c.framer.WriteSettings(
		http2.Setting{ID: http2.SettingEnablePush, Val: 0},
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: h2StreamWindow},
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: uint32(limits.Head)},
	)
	_ = c.framer.WriteWindowUpdate(0, h2ConnWindow-65535)
	return c
}

// run reads until the connection ends.
func (c *h2conn) run() {
	c.mu.Lock()
	c.flush()
	c.mu.Unlock()
	err := c.readAll()
	c.mu.Lock()
	if c.broken != nil {
		err = c.broken
	}
	c.fail(err)
	c.mu.Unlock()
	if c.sock != nil {
		c.sock.tap.tell()
	}
	c.stack.lose(c)
}

// readAll handles frames until one ends the connection.
func (c *h2conn) readAll() error {
	for {
		f, err := c.framer.ReadFrame()
		if se, ok := errors.AsType[http2.StreamError](err); ok {
			c.mu.Lock()
			c.refuse(se.StreamID, se.Code, fmt.Errorf("%s sent a frame that breaks HTTP/2: %w", c.address, err))
			c.flush()
			c.mu.Unlock()
			continue
		}
		if err == nil {
			err = c.handle(f)
		}
		if err != nil {
			return c.farewell(err)
		}
	}
}

// farewell tells the target why the connection ends, when it is its own doing.
func (c *h2conn) farewell(err error) error {
	code := http2.ErrCode(0)
	if ce, ok := errors.AsType[http2.ConnectionError](err); ok {
		code = http2.ErrCode(ce)
	} else if errors.Is(err, http2.ErrFrameTooLarge) {
		code = http2.ErrCodeFrameSize
	}
	if errors.Is(err, io.EOF) {
		err = errH2Closed // io.EOF is the end of a body that is whole
	}
	if code == 0 {
		return fmt.Errorf("reading from %s: %w", c.address, err)
	}
	c.mu.Lock()
	c.write = min(c.write, time.Second)
	_ = c.framer.WriteGoAway(0, code, nil)
	if !c.writing && c.dead == nil && c.broken == nil {
		c.writing = true
		c.writeOut() // the last word: the connection is closed behind it
		c.writing = false
	}
	c.mu.Unlock()
	return fmt.Errorf("%s broke HTTP/2: %w", c.address, err)
}

// fail ends the connection and every stream on it. mu is held.
func (c *h2conn) fail(err error) {
	if c.dead != nil {
		return
	}
	c.dead, c.draining = err, true
	for _, st := range c.streams {
		st.kill(err, st.to > c.left) // whose head did not leave whole was not looked at
	}
	clear(c.streams)
	c.settle()
	_ = c.nc.Close()
}

// settle says that the first settings are known. mu is held.
func (c *h2conn) settle() {
	if !c.known {
		c.known = true
		close(c.settled)
	}
}

// seat promises a place for one more stream, nil when there is none.
func (c *h2conn) seat() *h2stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.draining || !c.known || c.open >= min(c.most, h2Streams) || len(c.out.b) > h2ControlMost {
		return nil
	}
	c.open++
	c.served++
	if c.served >= c.stack.pools.set.MaxRequests || c.stack.retired.Load() {
		c.draining = true
	}
	return &h2stream{c: c, came: make(chan struct{}, 1), opened: make(chan struct{}, 1), length: -1}
}

// leave gives a stream's place back. mu is held.
func (c *h2conn) leave() {
	c.open--
	c.idleSince = time.Now()
	c.endIfUnused()
}

// endIfUnused closes a connection that takes no more streams and has none. mu is held.
func (c *h2conn) endIfUnused() {
	if c.draining && c.open == 0 && c.dead == nil {
		c.fail(errH2Drained)
	}
}

var errH2Drained = errors.New("the connection served what it was to serve")

var errH2Closed = errors.New("the target closed the connection")

var errH2Gone = errors.New("the target had ended the connection")

// drain lets streams end and takes no new ones.
func (c *h2conn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.draining = true
	c.endIfUnused()
}

// sweep closes a connection that idles for too long, and asks a silent one whether it
// lives.
func (c *h2conn) sweep(now time.Time, idle time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.dead != nil:
	case c.open == 0 && now.Sub(c.idleSince) >= idle:
		c.draining = true
		c.endIfUnused()
	case !c.pinged.IsZero() && now.Sub(c.pinged) >= h2PingWait:
		c.fail(fmt.Errorf("%s: %w: a ping", c.address, errTimeout))
	case c.pinged.IsZero() && c.open > 0 && now.Sub(c.heard) >= h2Silence:
		c.pinged = now
		_ = c.framer.WritePing(false, [8]byte{'k', 'e', 'y', 'w', 'a', 'y'})
		c.flush()
	}
}

// flush has what is queued written, by a goroutine that ends when nothing is left. It
// does not wait for that: a target that does not read holds up neither the reader nor a
// request, whose time goes on. What others queue until the goroutine runs leaves in the
// same write, which measured faster than writing at once. mu is held.
func (c *h2conn) flush() {
	if c.writing || len(c.out.b) == 0 || c.dead != nil || c.broken != nil {
		return
	}
	c.writing = true
	c.stack.pools.flows.Go(c.writeAll)
}

func (c *h2conn) writeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.out.b) > 0 && c.dead == nil && c.broken == nil {
		c.writeOut()
	}
	c.writing = false
}

// writeOut writes once. mu is held, but not while writing.
func (c *h2conn) writeOut() {
	batch := c.out.b
	c.out.b = c.spare[:0]
	c.taken += int64(len(batch))
	c.left = c.taken
	c.mu.Unlock()
	_ = c.nc.SetWriteDeadline(time.Now().Add(c.write))
	n, err := c.nc.Write(batch)
	c.mu.Lock()
	c.left -= int64(len(batch) - n)
	c.spare = batch[:0]
	if cap(batch) > 2*h2OutHigh {
		c.spare = nil
	}
	if err != nil {
		if isTimeout(err) {
			c.fail(fmt.Errorf("writing to %s: %w after %v", c.address, errTimeout, c.write))
			return
		}
		c.breakOff(fmt.Errorf("writing to %s: %w", c.address, err))
		return
	}
	c.unblock()
}

// breakOff ends a connection that cannot be written to, but not before the reader has heard
// what the target said when it closed: which requests it has not looked at. mu is held.
func (c *h2conn) breakOff(err error) {
	if c.dead != nil {
		return
	}
	c.draining, c.gone, c.broken = true, true, err
	_ = c.nc.SetReadDeadline(time.Now().Add(h2LastWords))
}

// unblock wakes the bodies that wait for room. mu is held.
func (c *h2conn) unblock() {
	for _, st := range c.streams {
		if st.blocked {
			st.blocked = false
			wake(st.opened)
		}
	}
}

func wake(signal chan struct{}) {
	select {
	case signal <- struct{}{}:
	default:
	}
}

// awaitSettings waits for the first frame of the target, which says how many streams it takes.
func (c *h2conn) awaitSettings(ctx context.Context) error {
	select {
	case <-c.settled:
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.dead == nil && c.most == 0 {
			return fmt.Errorf("%s takes no streams: its SETTINGS_MAX_CONCURRENT_STREAMS is 0", c.address)
		}
		return c.dead
	case <-ctx.Done():
		return fmt.Errorf("awaiting the HTTP/2 settings of %s: %w", c.address, ctx.Err())
	}
}
