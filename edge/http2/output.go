package http2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/net/http2"
)

const (
	outLimit   = 64 << 10  // bytes that wait to be written before streams wait too
	floodLimit = 256 << 10 // before a peer that only asks and never reads is hung up on
	directSize = 4 << 10   // least size of what is written without being queued
	recordSize = 16 << 10  // what one TLS record holds
)

var (
	errStalled   = errors.New("the client takes nothing, or too little: its windows stay closed, or nearly so")
	errCancelled = errors.New("the client gave the stream up")
)

// appendFrame appends the head of a frame.
func appendFrame(b []byte, length int, kind http2.FrameType, flags http2.Flags, id uint32) []byte {
	return append(b, byte(length>>16), byte(length>>8), byte(length), byte(kind), byte(flags), byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
}

// putFrame writes the head of a frame to b.
func putFrame(b []byte, length int, kind http2.FrameType, flags http2.Flags, id uint32) {
	_ = appendFrame(b[:0], length, kind, flags, id)
}

// queue appends to what waits to be written. c.mu is held.
func (c *conn) queue(p ...byte) {
	if c.failed != nil {
		return
	}
	if c.out == nil {
		c.out = c.e.writes.Get().(*[]byte)
	}
	*c.out = append(*c.out, p...)
}

func (c *conn) queued() int {
	if c.out == nil {
		return 0
	}
	return len(*c.out)
}

// queueFrame queues a short frame. c.mu is held.
func (c *conn) queueFrame(kind http2.FrameType, flags http2.Flags, id uint32, payload ...byte) {
	var b [32]byte
	c.queue(append(appendFrame(b[:0], len(payload), kind, flags, id), payload...)...)
}

func (c *conn) queueGoAway(last uint32, code http2.ErrCode, reason string) {
	b := appendFrame(nil, 8+len(reason), http2.FrameGoAway, 0, 0)
	b = binary.BigEndian.AppendUint32(b, last)
	b = binary.BigEndian.AppendUint32(b, uint32(code))
	c.queue(append(b, reason...)...)
}

func (c *conn) queueReset(id uint32, code http2.ErrCode) {
	c.queueFrame(http2.FrameRSTStream, 0, id, byte(code>>24), byte(code>>16), byte(code>>8), byte(code))
}

func (c *conn) queueWindow(id uint32, n int64) {
	c.queueFrame(http2.FrameWindowUpdate, 0, id, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}

// greet queues what a server says first.
func (c *conn) greet() {
	set := &c.e.set
	var b []byte
	for _, s := range [...]http2.Setting{
		{ID: http2.SettingMaxConcurrentStreams, Val: set.MaxStreams},
		{ID: http2.SettingInitialWindowSize, Val: uint32(set.StreamWindow)},
		{ID: http2.SettingMaxHeaderListSize, Val: uint32(set.HeaderList)},
		{ID: http2.SettingEnableConnectProtocol, Val: 1},
		{ID: http2.SettingNoRFC7540Priorities, Val: 1},
	} {
		b = binary.BigEndian.AppendUint16(b, uint16(s.ID))
		b = binary.BigEndian.AppendUint32(b, s.Val)
	}
	c.queueFrame(http2.FrameSettings, 0, 0, b...)
	if more := int64(set.ConnWindow) - 65535; more > 0 {
		c.queueWindow(0, more)
	}
}

// pushAway has what is queued written by somebody else. c.mu is held.
func (c *conn) pushAway() {
	if c.queued() == 0 || c.writing || c.failed != nil || c.closed {
		return
	}
	c.writing = true
	c.wg.Go(func() {
		c.mu.Lock()
		c.writeQueued()
		c.mu.Unlock()
	})
}

// flush writes what is queued unless somebody else does so already. With others at
// work it lets them go first, to write what they have to say along with this. c.mu
// is held, but not while it writes.
func (c *conn) flush(others bool) {
	if c.writing || c.failed != nil {
		return
	}
	c.writing = true
	if others {
		c.mu.Unlock()
		runtime.Gosched()
		c.mu.Lock()
	}
	c.writeQueued()
}

// writeQueued writes until nothing is queued. c.writing is set and this goroutine's.
func (c *conn) writeQueued() {
	for c.queued() > 0 && c.failed == nil {
		p := c.out
		c.out, c.spare = c.spare, nil
		c.mu.Unlock()
		err := c.writeNow(*p)
		c.mu.Lock()
		*p = (*p)[:0]
		c.spare = p
		c.wrote(err)
	}
	c.writing = false
	c.written.Broadcast()
}

// wrote takes notice of the end of a write. c.mu is held.
func (c *conn) wrote(err error) {
	if err != nil {
		c.fail(fmt.Errorf("writing to the client: %w", err))
	}
	c.written.Broadcast()
}

// writeNow writes p. The deadline is set seldom: it costs more than a look at the clock.
func (c *conn) writeNow(p []byte) error {
	now := time.Now()
	if stall := c.e.set.WriteStall; c.writeBy.Sub(now) < stall*3/4 {
		c.writeBy = now.Add(stall)
		_ = c.nc.SetWriteDeadline(c.writeBy)
	}
	_, err := c.nc.Write(p)
	return err
}

// fail ends the writing side, and with it the connection. c.mu is held.
func (c *conn) fail(err error) {
	if c.failed != nil {
		return
	}
	c.failed = err
	c.written.Broadcast()
	_ = c.nc.SetReadDeadline(time.Unix(1, 0))
	if !c.closed {
		_ = c.nc.Close() // the reader ends everything else
	}
}

// releaseWrite gives the buffers of the writing side back if nothing needs them. c.mu is held.
func (c *conn) releaseWrite() {
	if c.writing || c.queued() > 0 && c.failed == nil {
		return
	}
	for _, b := range [...]*[]byte{c.out, c.spare} {
		if b != nil && cap(*b) <= 2*outLimit {
			*b = (*b)[:0]
			c.e.writes.Put(b)
		}
	}
	c.out, c.spare = nil, nil
}

// send sends b[:head], which is whole frames, and behind it n bytes of body, which
// stand in b behind a gap for the head of their frame. With end the stream ends
// with them. It waits for the peer's windows, and for room in the queue.
func (st *stream) send(b []byte, head, n int, end bool) error {
	c := st.c
	c.mu.Lock()
	defer c.mu.Unlock()
	var p pace
	for {
		if err := st.room(); err != nil {
			return err
		}
		w := int64(0)
		if n > 0 {
			w = min(int64(n), c.window, st.window, int64(c.maxFrame), int64(recordSize-frameHead-head))
		}
		if n > 0 && w <= 0 {
			if head > 0 {
				c.fresh = false
				c.queue(b[:head]...)
				b, head = b[head:], 0
				c.flush(false)
				continue
			}
			if err := st.awaitWindow(&p, n); err != nil {
				return err
			}
			continue
		}
		last := end && w == int64(n)
		size := head
		if n > 0 || end {
			c.window -= w
			st.window -= w
			c.taken += w
			var flags http2.Flags
			if last {
				flags = http2.FlagDataEndStream
			}
			putFrame(b[head:head+frameHead], int(w), http2.FrameData, flags, st.id)
			size += frameHead + int(w)
			c.glitches.forgive(small)
		}
		if last {
			st.endLocal()
		}
		st.pass(b[:size], int64(n) == w)
		if n -= int(w); n == 0 {
			return nil
		}
		// The gap of the next frame is what has just been sent.
		b, head = b[head+int(w):], 0
	}
}

// sendHead sends whole frames that are not subject to flow control. With end the
// stream ends with them.
func (st *stream) sendHead(b []byte, end bool) error {
	st.c.mu.Lock()
	defer st.c.mu.Unlock()
	if err := st.room(); err != nil {
		return err
	}
	if end {
		st.endLocal()
	}
	st.pass(b, true)
	return nil
}

// pass queues p, or writes it at once if it is long and nobody writes. c.mu is
// held, but not while it writes.
func (st *stream) pass(p []byte, last bool) {
	c := st.c
	c.fresh = false
	if len(p) < directSize || c.writing || c.queued() > 0 {
		c.queue(p...)
		c.flush(last && c.running > 1)
		return
	}
	c.writing = true
	c.mu.Unlock()
	err := c.writeNow(p)
	c.mu.Lock()
	c.wrote(err)
	c.writeQueued()
}

// room waits until the queue has room for more. c.mu is held.
func (st *stream) room() error {
	c := st.c
	for {
		switch {
		case st.dead != nil:
			return st.dead
		case st.localEnded:
			return errCancelled // somebody's last word is out
		case c.failed != nil:
			return c.failed
		case c.queued() < outLimit:
			return nil
		}
		c.written.Wait()
	}
}

// awaitWindow waits for one of the windows to open, as long as the piece of which so much
// is left may take. c.mu is held, but not meanwhile.
func (st *stream) awaitWindow(p *pace, left int) error {
	c := st.c
	now := time.Now()
	if p.by.IsZero() {
		p.begin(c, left, now)
	}
	st.blocked = true
	c.blocked++
	c.mu.Unlock()
	timer := time.NewTimer(p.by.Sub(now))
	stalled := false
	select {
	case <-st.opened:
	case <-timer.C:
		stalled = true
	}
	timer.Stop()
	c.mu.Lock()
	st.blocked = false
	c.blocked--
	if stalled && st.dead == nil {
		if p.tooSlow(c, left) {
			return errStalled
		}
		p.begin(c, left, time.Now())
	}
	return nil
}

// unblock wakes the stream if it waits for a window. c.mu is held.
func (st *stream) unblock() {
	if st.blocked {
		select {
		case st.opened <- struct{}{}:
		default:
		}
	}
}
