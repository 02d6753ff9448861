package http3

import (
	"context"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/quicvarint"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// Codes of errors (RFC 9114, section 8.1; RFC 9204, section 6).
const (
	codeNo            = 0x100
	codeProtocol      = 0x101
	codeInternal      = 0x102
	codeCreation      = 0x103
	codeClosed        = 0x104
	codeUnexpected    = 0x105
	codeFrame         = 0x106
	codeLoad          = 0x107
	codeID            = 0x108
	codeSettings      = 0x109
	codeNoSettings    = 0x10a
	codeRejected      = 0x10b
	codeIncomplete    = 0x10d
	codeMessage       = 0x10e
	codeDecompression = 0x200
	codeEncoderStream = 0x201
)

// lastStream is the highest id of a request stream.
const lastStream = 1<<62 - 4

// conn is one connection.
type conn struct {
	e    *Engine
	qc   *quic.Conn
	info *exchange.Conn
	wg   sync.WaitGroup
	gone chan struct{} // closed when the connection is
	wake chan struct{} // the time is to be looked at more often

	mu       sync.Mutex // guards what follows
	control  *quic.SendStream
	seen     [3]bool // streams of the peer by type: control, encoder, decoder
	running  int     // requests being answered
	idle     time.Time
	next     quic.StreamID // the request stream after the highest that came
	leaving  time.Time     // when the first GOAWAY was sent
	over     bool          // the last one
	glitches int
}

// serve is the life of the connection.
func (c *conn) serve(ctx context.Context) {
	defer c.wg.Wait()
	defer func() { _ = c.qc.CloseWithError(codeNo, "") }()
	if !c.greet() {
		return
	}
	if c.e.draining.Load() {
		c.leave()
	}
	c.wg.Go(func() { c.acceptUni(ctx) })
	c.wg.Go(c.watch)
	for {
		s, err := c.qc.AcceptStream(ctx)
		if err != nil {
			return
		}
		if !c.begin(s.StreamID()) {
			s.CancelRead(codeRejected)
			s.CancelWrite(codeRejected)
			s.ReleaseStreamCredit()
			continue
		}
		c.wg.Go(func() {
			defer c.done(s)
			newStream(c, s).serve()
		})
	}
}

// greet opens the control stream and says what is understood.
func (c *conn) greet() bool {
	s, err := c.qc.OpenUniStream()
	if err != nil {
		return false
	}
	value := quicvarint.Append(nil, settingFieldSection)
	value = quicvarint.Append(value, uint64(c.e.set.HeaderList))
	b := quicvarint.Append(nil, streamControl)
	b = quicvarint.Append(b, frameSettings)
	b = quicvarint.Append(b, uint64(len(value)))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.control = s
	return s.TryWriteAll(append(b, value...)) == nil
}

// begin counts a request in, unless the peer was told that it comes too late.
func (c *conn) begin(id quic.StreamID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return false
	}
	c.next = max(c.next, id+4)
	c.running++
	return true
}

// done counts a request out, and lets the peer open another stream.
func (c *conn) done(s *quic.Stream) {
	s.ReleaseStreamCredit()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running--
	c.idle = time.Now()
	if c.info.Last || c.e.draining.Load() {
		c.finishLocked()
	}
}

// watch closes the connection when it has nothing to do any more.
func (c *conn) watch() {
	often := c.e.set.Idle / 15 // an idle connection is hardly ever looked at
	tick := time.NewTicker(often)
	defer tick.Stop()
	for {
		select {
		case <-c.qc.Context().Done():
			return
		case <-c.wake:
			tick.Reset(min(often, 100*time.Millisecond))
		case <-tick.C:
		}
		if c.watched() {
			_ = c.qc.CloseWithError(codeNo, "")
			return
		}
	}
}

// hurry has the end of the connection watched closely.
func (c *conn) hurry() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// watched says whether the connection is to be closed.
func (c *conn) watched() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.leaving.IsZero() && time.Since(c.leaving) >= farewell {
		c.finishLocked()
	}
	if c.running > 0 {
		return false
	}
	quiet := time.Since(c.idle)
	switch {
	case c.over:
		return quiet >= lingerFor
	case quiet >= c.e.set.Idle:
		c.finishLocked()
		c.idle = time.Now()
	}
	return false
}

// leave announces the end without an end to requests: a GOAWAY with the highest stream
// id there is (RFC 9114, section 5.2).
func (c *conn) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leaving.IsZero() && !c.over {
		c.leaving = time.Now()
		c.hurry()
		c.goAway(lastStream)
	}
}

// finish refuses new requests. The connection ends after its last one.
func (c *conn) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.finishLocked()
}

func (c *conn) finishLocked() {
	if c.over {
		return
	}
	c.over = true
	c.idle = time.Now()
	c.hurry()
	c.goAway(c.next)
}

// goAway names the first stream that is not served. c.mu is held.
func (c *conn) goAway(id quic.StreamID) {
	if c.control == nil {
		return
	}
	b := quicvarint.Append(nil, frameGoAway)
	b = quicvarint.Append(b, uint64(quicvarint.Len(uint64(id))))
	b = quicvarint.Append(b, uint64(id))
	if c.control.TryWriteAll(b) != nil { // a peer that lets nothing through
		go func() { _ = c.qc.CloseWithError(codeNo, "") }()
	}
}

// glitch counts what costs the peer nothing and this side work.
func (c *conn) glitch() {
	c.mu.Lock()
	c.glitches++
	many := c.glitches > c.e.set.Glitches
	c.mu.Unlock()
	if many {
		c.fail(codeLoad, "too many requests were given up")
	}
}

// answered forgives a glitch.
func (c *conn) answered() {
	c.mu.Lock()
	c.glitches = max(0, c.glitches-1)
	c.mu.Unlock()
}

// fail ends the connection for what the peer did.
func (c *conn) fail(code quic.ApplicationErrorCode, why string) {
	_ = c.qc.CloseWithError(code, why)
}
