package http2

import (
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// body reads a request body and turns its failures into the client's fault.
type body struct {
	st    *stream
	began time.Time
	read  int64
	err   error // sticky; io.EOF after the last byte
	// tunnel says that this is one side of a WebSocket: it may be silent while the other talks.
	tunnel bool
}

func (b *body) reset() { *b = body{st: b.st} }

// begin waits for the end of a request that says it has no body and has not ended: it
// may yet say more than nothing, which must be known before an origin is told so.
func (st *stream) begin() {
	x := &st.x
	if x.Refused != 0 || st.declared != 0 || x.Request.Length != 0 {
		return
	}
	var be *exchange.BodyError
	if _, err := st.body.await(nil); errors.As(err, &be) {
		x.Refused = max(be.Status, http.StatusBadRequest)
	}
}

// stop makes reads fail, also one that waits.
func (b *body) stop() {
	c := b.st.c
	c.mu.Lock()
	defer c.mu.Unlock()
	b.stopLocked()
}

// stopLocked is stop with c.mu held.
func (b *body) stopLocked() {
	b.st.stopped = true
	b.st.c.giveBack(b.st)
	tell(b.st.came)
}

// Read reads from the body. The last bytes of a body of known length are given out
// only when the stream has ended with them, so no origin takes a request for
// complete that turns out to be malformed.
func (b *body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if b.began.IsZero() {
		b.began = time.Now()
		if err := b.ask(); err != nil {
			return 0, b.fail(0, err)
		}
	}
	n, err := b.await(p)
	if err != nil {
		return n, err
	}
	b.read += int64(n)
	b.st.x.BytesIn += int64(n)
	switch set := &b.st.c.e.set; {
	case set.MaxBody > 0 && b.read > set.MaxBody:
		return 0, b.fail(http.StatusRequestEntityTooLarge, exchange.ErrBodyTooLarge)
	case b.st.declared >= 0 && b.read >= b.st.declared:
		if _, err := b.await(nil); !errors.Is(err, io.EOF) {
			return 0, err
		}
	case exchange.TooSlow(b.read, b.began, b.st.c.e.set.MinRate):
		return 0, b.fail(http.StatusRequestTimeout, exchange.ErrBodyTooSlow)
	}
	return n, nil
}

// ask has the client send its body if it waits to be asked.
func (b *body) ask() error {
	st := b.st
	if !st.x.Request.Expect100 {
		return nil
	}
	st.c.mu.Lock()
	waits := len(st.in) == 0 && !st.remoteEnded
	st.c.mu.Unlock()
	if !waits {
		return nil
	}
	return st.interim(http.StatusContinue, nil)
}

// await waits for bytes and copies them to p. With no p it waits for the end.
func (b *body) await(p []byte) (int, error) {
	st := b.st
	c := st.c
	var timer *time.Timer
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case st.stopped:
			return 0, b.fail(http.StatusBadRequest, exchange.ErrBodyStopped)
		case st.inAt < len(st.in) && p != nil:
			return b.take(p), nil
		case st.remoteEnded && st.dead == nil:
			return 0, b.end()
		case st.dead != nil:
			return 0, b.fail(0, st.dead)
		}
		c.mu.Unlock()
		idle := c.e.set.BodyIdle
		if b.tunnel {
			idle = c.e.set.TunnelIdle
		}
		if timer == nil {
			timer = time.NewTimer(idle)
		} else {
			timer.Reset(idle)
		}
		late := false
		select {
		case <-st.came:
		case <-timer.C:
			late = true
		}
		timer.Stop()
		c.mu.Lock()
		if late && b.tunnel && !st.silent() {
			continue
		}
		if late && st.inAt == len(st.in) && !st.remoteEnded && st.dead == nil {
			return 0, b.fail(http.StatusRequestTimeout, exchange.ErrBodySilent)
		}
	}
}

// take copies what came and lets the peer send as much again. c.mu is held.
func (b *body) take(p []byte) int {
	st := b.st
	c := st.c
	n := copy(p, st.in[st.inAt:])
	if st.inAt += n; st.inAt == len(st.in) {
		st.in, st.inAt = st.in[:0], 0
	}
	c.consumed(int64(n))
	st.owed += int64(n)
	if !st.remoteEnded && st.owed >= int64(c.e.set.StreamWindow)/2 {
		c.queueWindow(st.id, st.owed)
		st.recv += st.owed
		st.owed = 0
	}
	if c.queued() > 0 {
		c.flush(false)
	}
	return n
}

// end is the end of a body, which must be as long as was announced.
func (b *body) end() error {
	if b.st.declared >= 0 && b.st.received != b.st.declared {
		return b.fail(http.StatusBadRequest, exchange.ErrBodyLength)
	}
	b.err = io.EOF
	return b.err
}

// fail is the error that the client answers for; status 0 is for one that is gone.
func (b *body) fail(status int, err error) error {
	b.err = &exchange.BodyError{Status: status, Err: err}
	return b.err
}
