package http1

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/exchange/wire"
)

// serve answers one request. It answers false when the connection is to be closed. A
// request may become a tunnel that waits for days on top of the frame of serve: what it
// takes to read the request is not in it.
func (c *conn) serve(last bool) bool {
	if !c.take(last) {
		return false
	}
	keep, err := c.answer()
	c.endWatch()
	if c.switched() && err == nil {
		err = c.tunnel()
	}
	c.finish(err)
	return keep
}

// take reads a request; it answers false when there is none.
func (c *conn) take(last bool) bool {
	c.reset()
	x := &c.x
	head, refused := c.readHead()
	if head == "" && refused == 0 {
		return false
	}
	if x.HeadDone.IsZero() {
		x.HeadDone = x.Now()
	}
	if refused == 0 {
		if e := wire.ParseRequest(head, c.s.Limits, &x.Request, &c.framing); e != nil {
			refused = e.Status
		}
	}
	if refused != 0 {
		c.refuse(refused)
	} else {
		c.begin()
	}
	x.Response.Close = x.Response.Close || last || refused != 0 || c.framing.Close || c.ending()
	return true
}

// finish ends the exchange.
func (c *conn) finish(err error) {
	x := &c.x
	x.Elapsed = time.Since(x.Start)
	c.s.Handler.Done(x, err)
	c.served, c.ended = true, x.Start.Add(x.Elapsed)
}

// answer has the request handled and the response written. A panic, of a body
// that is drained here too, ends this exchange and its connection and no other.
func (c *conn) answer() (keep bool, err error) {
	defer c.recovered(&keep, &err)
	c.s.Handler.Handle(&c.x)
	if c.switched() {
		return false, nil
	}
	return c.respond()
}

// switched says that the connection is to become a tunnel.
func (c *conn) switched() bool {
	return c.x.Response.Status == http.StatusSwitchingProtocols && c.x.Response.Switch != nil
}

func (c *conn) recovered(keep *bool, err *error) {
	if p := recover(); p != nil {
		*keep, *err = false, panicked(p)
	}
}

// panicked is the error of an exchange that panicked.
func panicked(p any) error { return fmt.Errorf("answering panicked: %v\n%s", p, debug.Stack()) }

// reset makes the exchange ready for the next request and keeps its memory.
func (c *conn) reset() {
	c.x.Reset(time.Now())
	c.framing = wire.Framing{}
	c.body.none()
	c.stopped.Store(false)
}

// refuse fills the exchange of a request that cannot be read.
func (c *conn) refuse(status int) {
	q := &c.x.Request
	q.Fields.Reset()
	*q = exchange.Request{Fields: q.Fields, Trailer: q.Trailer, Method: http.MethodGet, Scheme: q.Scheme, Target: "/", Path: "/", Version: exchange.HTTP11, Body: exchange.NoBody}
	c.x.Refused = status
	c.framing.Close = true
}

// begin gives a good request its body.
func (c *conn) begin() {
	q := &c.x.Request
	if c.framing.Length == 0 {
		return
	}
	if limit := c.s.MaxBody; limit > 0 && q.Length > limit {
		c.x.Refused = http.StatusRequestEntityTooLarge
		c.framing.Close = true
	}
	c.body.reset(c)
	q.Body, q.StopBody = &c.body, c.stopBody
}

// requestBody is the body of the request in hand: it asks the client to go on
// when the first read comes, and turns failures into the client's fault.
type requestBody struct {
	c      *conn
	wire   wire.Body
	active bool
	asked  bool // 100 Continue was sent, or is not awaited

	discarding bool // nobody wants it any more; one deadline holds for the rest
	began      time.Time
	read       int64
	err        error
}

func (b *requestBody) none() { b.active, b.err = false, nil }

func (b *requestBody) reset(c *conn) {
	b.c, b.active, b.read, b.err, b.began, b.discarding = c, true, 0, nil, time.Time{}, false
	b.asked = !c.x.Request.Expect100
	b.wire.Reset(bodySource{c}, &c.framing, &c.x.Request.Trailer)
}

// finished says that nothing of the body is left on the connection.
func (b *requestBody) finished() bool { return !b.active || b.wire.Done() }

// bodySource reads for a body: with the body's deadlines.
type bodySource struct{ c *conn }

func (s bodySource) Buffered() []byte { return s.c.Buffered() }
func (s bodySource) Discard(n int)    { s.c.Discard(n) }
func (s bodySource) More() error {
	if err := s.c.awaitBody(); err != nil {
		return err
	}
	return s.c.More()
}

// ReadDirect reads from the connection into p.
func (s bodySource) ReadDirect(p []byte) (int, error) {
	if err := s.c.awaitBody(); err != nil {
		return 0, err
	}
	n, err := s.c.nc.Read(p)
	s.c.x.BytesIn += int64(n)
	switch {
	case n > 0:
		return n, nil
	case err == nil:
		err = io.ErrNoProgress
	}
	return 0, err
}

// awaitBody sets the deadline of a read of the body.
func (c *conn) awaitBody() error {
	if !c.body.discarding {
		c.readWithin(time.Now(), c.s.BodyIdle)
	}
	if c.stopped.Load() {
		return exchange.ErrBodyStopped // looked at after the deadline was set, which stopReading may have done before
	}
	return nil
}

// Read reads from the body.
func (b *requestBody) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if !b.asked {
		b.asked = true
		if err := b.c.interim(http.StatusContinue, nil); err != nil {
			b.err = &exchange.BodyError{Err: err}
			return 0, b.err
		}
	}
	if b.began.IsZero() {
		b.began = time.Now()
	}
	n, err := b.wire.Read(p)
	b.read += int64(n)
	switch {
	case b.c.s.MaxBody > 0 && b.read > b.c.s.MaxBody:
		b.err = &exchange.BodyError{Status: http.StatusRequestEntityTooLarge, Err: exchange.ErrBodyTooLarge}
	case err == nil && exchange.TooSlow(b.read, b.began, b.c.s.MinRate):
		b.err = &exchange.BodyError{Status: http.StatusRequestTimeout, Err: exchange.ErrBodyTooSlow}
	case err == nil || errors.Is(err, io.EOF):
		return n, err
	default:
		b.err = bodyError(err)
	}
	b.c.framing.Close = true
	return n, b.err
}

func bodyError(err error) *exchange.BodyError {
	switch {
	case errors.Is(err, wire.ErrMalformed), errors.Is(err, errFull):
		return &exchange.BodyError{Status: http.StatusBadRequest, Err: err}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &exchange.BodyError{Status: http.StatusRequestTimeout, Err: err}
	}
	return &exchange.BodyError{Err: err} // the client is gone
}

// stopReading makes a read of the body that waits, and every later one, fail. It
// is called by another goroutine than the reader's.
func (c *conn) stopReading() {
	c.stopped.Store(true)
	_ = c.nc.SetReadDeadline(time.Unix(1, 0))
}
