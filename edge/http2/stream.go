package http2

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// stream is one request and its response, and the goroutine that answers it. When it
// is done it waits for another request of the connection: nothing is made anew.
//
// x is the goroutine's from start to Done, but for the trailer section, which the
// reader fills before it says that the body ended.
type stream struct {
	c      *conn
	x      exchange.Exchange
	id     uint32
	cancel context.CancelFunc
	start  chan struct{} // one value for a request; closed to end the goroutine
	body   body
	key    string       // of the WebSocket that an extended CONNECT asks for, "" for none
	said   atomic.Int64 // when something went through its tunnel last
	stop   func()       // body.stop, made once

	// Guarded by c.mu.
	window      int64  // what the peer lets us send
	recv        int64  // what the peer may still send
	owed        int64  // bytes used, not given back to the peer's window yet
	in          []byte // body that came; in[inAt:] was not read yet
	inAt        int
	received    int64 // bytes of body that came
	declared    int64 // bytes of body that are announced, -1 for none
	localEnded  bool
	remoteEnded bool
	stopped     bool    // nobody wants the rest of the body
	dead        error   // why nothing can be sent any more
	blocked     bool    // it waits for opened
	announce    bool    // its header sections say that the table is not used
	ws          *tunnel // the WebSocket that it has become, nil for none

	opened chan struct{} // a window opened, or the stream is dead
	came   chan struct{} // something of the body came, or never will
}

// newStream makes a stream whose goroutine is not started yet.
func (c *conn) newStream() *stream {
	st := &stream{c: c, start: make(chan struct{}, 1), opened: make(chan struct{}, 1), came: make(chan struct{}, 1)}
	st.x.Conn = c.info
	st.x.Ctx, st.cancel = context.WithCancel(c.ctx)
	st.x.Interim, st.stop = st.interim, st.body.stop
	st.body.st = st
	return st
}

// reset makes the exchange ready for a request and keeps its memory.
func (st *stream) reset(id uint32, now time.Time) {
	st.x.Reset(now)
	st.x.Request.Version = exchange.HTTP2
	st.id, st.declared, st.key = id, -1, ""
	st.body.reset()
}

// dispatch opens the stream and has its request answered.
func (c *conn) dispatch(st *stream, begun, ended bool) {
	c.mu.Lock()
	st.window, st.recv, st.owed = c.firstSend, int64(c.e.set.StreamWindow), 0
	st.in, st.inAt, st.received = st.in[:0], 0, 0
	st.localEnded, st.remoteEnded, st.stopped, st.dead, st.blocked = false, ended, false, nil, false
	st.announce, st.ws = c.fresh, nil
	drop(st.opened)
	drop(st.came)
	c.streams[st.id] = st
	c.running++
	c.mu.Unlock()
	st.start <- struct{}{}
	if !begun {
		c.wg.Go(st.run)
	}
}

func drop(signal chan struct{}) {
	select {
	case <-signal:
	default:
	}
}

func tell(signal chan struct{}) {
	select {
	case signal <- struct{}{}:
	default:
	}
}

// run answers requests until the connection needs no more.
func (st *stream) run() {
	defer st.cancel()
	for range st.start {
		err := st.answer()
		x := &st.x
		x.Elapsed = time.Since(x.Start)
		st.c.e.handler.Done(x, err)
		if !st.park() {
			return
		}
	}
}

// answer has the request handled and the response sent. A panic ends the stream and no other.
func (st *stream) answer() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("answering panicked: %v\n%s", p, debug.Stack())
		}
		st.close(err)
	}()
	st.begin()
	st.c.e.handler.Handle(&st.x)
	return st.respond()
}

// park says whether the goroutine may wait for another request.
func (st *stream) park() bool {
	c := st.c
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running--
	if c.running == 0 {
		c.idle = st.x.Start.Add(st.x.Elapsed)
		c.ended()
	}
	if c.closed || st.x.Ctx.Err() != nil {
		return false
	}
	if cap(st.in) > bufferSize {
		st.in = nil
	}
	c.free = append(c.free, st)
	return true
}

// close ends the stream for this side: with RST_STREAM if its response broke off, or
// if the peer still has a body to send that nobody reads.
func (st *stream) close(err error) {
	c := st.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if st.dead == nil {
		code := http2.ErrCodeNo
		if err != nil && !st.localEnded {
			code = http2.ErrCodeInternal
		}
		if err != nil || !st.remoteEnded {
			c.resetStream(st, code, errCancelled)
			c.flush(false)
		} else {
			delete(c.streams, st.id)
			st.dead = errCancelled
		}
	}
	c.giveBack(st)
	if c.info.Last || c.e.draining.Load() {
		c.finishLocked()
		c.flush(false)
	}
}

// endLocal notes that the response is complete. c.mu is held.
func (st *stream) endLocal() {
	c := st.c
	st.localEnded = true
	c.glitches.forgive(large)
	if st.remoteEnded {
		delete(c.streams, st.id)
	}
}

// resetStream ends a stream with RST_STREAM. c.mu is held.
func (c *conn) resetStream(st *stream, code http2.ErrCode, why error) {
	delete(c.streams, st.id)
	if !st.remoteEnded {
		c.early.add(st.id)
	}
	c.queueReset(st.id, code)
	st.kill(why)
}

// kill ends what waits on the stream. c.mu is held.
func (st *stream) kill(why error) {
	if st.dead == nil {
		st.dead = why
	}
	st.unblock()
	tell(st.came)
	st.c.written.Broadcast()
}

// giveBack counts what nobody read as used. c.mu is held.
func (c *conn) giveBack(st *stream) {
	left := int64(len(st.in) - st.inAt)
	st.in, st.inAt = st.in[:0], 0
	c.consumed(left)
}

// consumed opens the connection's window again for n bytes that are not kept any
// more. c.mu is held.
func (c *conn) consumed(n int64) {
	if c.owed += n; c.owed >= int64(c.e.set.ConnWindow)/4 {
		c.queueWindow(0, c.owed)
		c.recv += c.owed
		c.owed = 0
	}
}
