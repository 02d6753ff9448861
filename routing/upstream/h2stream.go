package upstream

import (
	"fmt"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// h2stream is one request on a shared connection. The goroutine of the exchange reads
// from it, another one may write its body; everything is guarded by the connection's mu.
type h2stream struct {
	c      *h2conn
	id     uint32        // 0 until the head is queued
	to     int64         // where its head ends in what the connection writes
	came   chan struct{} // something came, or never will
	opened chan struct{} // something may be sent, or never will

	heads    []*h2head // interim ones and the final one, not taken yet
	interims int
	headed   bool // the final head came
	trailer  []exchange.Field
	in       []byte // body that came; in[at:] was not read yet
	at       int
	length   int64 // as announced, -1 for unknown
	got      int64
	bare     bool // the response has no body, whatever its length says

	recv   int64 // what the target may still send
	owed   int64 // read, and not given back yet
	window int64 // what we may still send

	localEnded  bool
	remoteEnded bool
	stopped     bool // nothing more of the request is wanted
	blocked     bool // it waits for opened
	dead        error
	refused     bool // dead, and the target has not looked at the request
	cancelled   bool // dead, because the target gave the call up
	invalid     bool // dead, because what came is not good HTTP
}

// begin queues the head. The connection's mu is held.
func (st *h2stream) begin(lines []hpack.HeaderField, end bool) {
	c := st.c
	st.id = c.next
	c.next += 2
	st.window, st.recv = c.first, h2StreamWindow
	c.streams[st.id] = st
	c.useful()
	st.section(lines, end)
	st.to = c.taken + int64(len(c.out.b))
}

// section queues a header section. The connection's mu is held.
func (st *h2stream) section(lines []hpack.HeaderField, end bool) {
	c := st.c
	c.block.Reset()
	for _, l := range lines {
		_ = c.encoder.WriteField(l) // to memory
	}
	for first := true; first || c.block.Len() > 0; first = false {
		p := c.block.Next(h2FrameSize)
		last := c.block.Len() == 0
		if first {
			_ = c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: st.id, BlockFragment: p, EndStream: end, EndHeaders: last})
		} else {
			_ = c.framer.WriteContinuation(st.id, last, p)
		}
	}
	if end {
		st.endLocal()
	}
}

// push queues as much of a body as may be sent now. The connection's mu is held.
func (st *h2stream) push(p []byte, end bool) (n int) {
	c := st.c
	for {
		m := min(int64(len(p)-n), max(st.window, 0), max(c.window, 0), int64(c.frameMost))
		if len(c.out.b) > h2OutHigh || m == 0 && (n < len(p) || !end) {
			return n
		}
		last := n+int(m) == len(p)
		_ = c.framer.WriteData(st.id, last && end, p[n:n+int(m)])
		st.window -= m
		c.window -= m
		n += int(m)
		c.useful()
		c.updates = max(0, c.updates-4-int(m/512)) // some give each read back
		if last {
			if end {
				st.endLocal()
			}
			return n
		}
	}
}

// send sends a piece of the body, as the target's windows allow.
func (st *h2stream) send(p []byte, end bool, lines []hpack.HeaderField, timeout time.Duration) *fault {
	c := st.c
	var timer *time.Timer
	for {
		c.mu.Lock()
		if st.dead != nil || st.stopped || st.localEnded {
			defer c.mu.Unlock()
			if st.dead == nil {
				return stopped()
			}
			return &fault{kind: faultBroken, err: st.dead, sent: true}
		}
		if len(p) == 0 && lines != nil {
			st.section(lines, true)
		} else {
			p = p[st.push(p, end):]
		}
		c.flush()
		done := len(p) == 0 && (!end || st.localEnded)
		st.blocked = !done
		room := !done && st.window > 0 && c.window > 0 && len(c.out.b) <= h2OutHigh
		c.mu.Unlock()
		if done {
			return nil
		}
		if room {
			continue
		}
		if timer == nil {
			timer = time.NewTimer(timeout)
			defer timer.Stop()
		} else {
			timer.Reset(timeout)
		}
		select {
		case <-st.opened:
		case <-timer.C:
			return &fault{kind: faultBroken, err: fmt.Errorf("writing to %s: %w after %v", c.address, errTimeout, timeout), sent: true, timeout: true}
		}
	}
}

// kill ends a stream with an error. The connection's mu is held.
func (st *h2stream) kill(err error, refused bool) {
	if st.dead == nil {
		st.dead, st.refused = err, refused
	}
	wake(st.came)
	wake(st.opened)
}

// endLocal notes that the request is sent. The connection's mu is held.
func (st *h2stream) endLocal() {
	st.localEnded = true
	if st.remoteEnded {
		delete(st.c.streams, st.id)
	}
}

// endRemote notes that the response is whole. The connection's mu is held.
func (st *h2stream) endRemote() {
	st.remoteEnded = true
	if st.localEnded {
		delete(st.c.streams, st.id)
	}
}

// read copies what came. Without anything to copy it answers 0, and more says whether
// something may still come.
func (st *h2stream) read(p []byte) (n int, more bool) {
	c := st.c
	c.mu.Lock()
	defer c.mu.Unlock()
	n = copy(p, st.in[st.at:])
	if st.at += n; st.at == len(st.in) {
		st.in, st.at = st.in[:0], 0
	}
	st.owed += int64(n)
	if st.owed >= h2StreamWindow/4 && !st.remoteEnded && st.dead == nil {
		_ = c.framer.WriteWindowUpdate(st.id, uint32(st.owed))
		st.recv += st.owed
		st.owed = 0
		c.flush()
	}
	return n, st.at < len(st.in) || !st.remoteEnded && st.dead == nil
}

// end gives the stream's place back, with RST_STREAM when it is not over yet.
func (st *h2stream) end() {
	c := st.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if st.id != 0 && c.streams[st.id] == st {
		delete(c.streams, st.id)
		_ = c.framer.WriteRSTStream(st.id, http2.ErrCodeCancel)
		c.flush()
	}
	st.kill(errBodyClosed, false)
	c.leave()
}
