package http2

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/exchange/wire"
)

// rateGrace is how long a body may be slow before its average counts.
const rateGrace = 10 * time.Second

var (
	errTooLarge = errors.New("it is longer than the node's limit of request bodies")
	errTooSlow  = errors.New("it comes more slowly than the node's least rate")
	errLength   = errors.New("it is not as long as its Content-Length says")
	errStopped  = errors.New("nobody wants the rest of it")
)

// body gives the exchange its body; it answers as request does.
func (e *Engine) body(x *exchange.Exchange, w http.ResponseWriter, r *http.Request) int {
	q := &x.Request
	declared, ok := contentLength(r.Header["Content-Length"])
	// The library says -1 for a stream that is open and has no length, and 0 for one
	// that ended with its header section: then a length other than 0 is a lie.
	if !ok || declared >= 0 && declared != r.ContentLength {
		return http.StatusBadRequest
	}
	q.Length, q.LengthGiven = r.ContentLength, declared >= 0
	if e.set.MaxBody > 0 && q.Length > e.set.MaxBody {
		return http.StatusRequestEntityTooLarge
	}
	if q.Length == 0 && !q.LengthGiven {
		return 0
	}
	b := &body{x: x, r: r, rc: http.NewResponseController(w), set: &e.set, declared: q.Length, began: x.Start}
	if q.Length == 0 {
		// A stream that is still open may yet say more than nothing, which must
		// be known before an origin is told that there is nothing.
		var be *exchange.BodyError
		if err := b.end(); errors.As(err, &be) {
			return max(be.Status, http.StatusBadRequest)
		}
		return 0
	}
	q.Body, q.StopBody = b, b.stop
	return 0
}

// body reads a request body and turns its failures into the client's fault.
type body struct {
	x        *exchange.Exchange
	r        *http.Request
	rc       *http.ResponseController
	set      *Settings
	declared int64 // -1 for none
	began    time.Time
	awaited  time.Time // when the deadline was set last
	read     int64
	stopped  atomic.Bool
	err      error // sticky; io.EOF after the last byte
}

// stop makes reads fail, also one that waits.
func (b *body) stop() {
	b.stopped.Store(true)
	_ = b.rc.SetReadDeadline(time.Unix(1, 0))
}

// await sets the deadline of the next read, unless one was set a moment ago: it
// costs a message to the connection's goroutine.
func (b *body) await() error {
	if now := time.Now(); now.Sub(b.awaited) > b.set.BodyIdle/8 {
		b.awaited = now
		_ = b.rc.SetReadDeadline(now.Add(b.set.BodyIdle))
	}
	if b.stopped.Load() {
		// Looked at after the deadline was set: stop may have set its own before.
		return errStopped
	}
	return nil
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
	if err := b.await(); err != nil {
		return 0, b.fail(err)
	}
	n, err := b.r.Body.Read(p)
	b.read += int64(n)
	b.x.BytesIn += int64(n)
	switch {
	case b.set.MaxBody > 0 && b.read > b.set.MaxBody:
		return 0, b.fail(errTooLarge)
	case errors.Is(err, io.EOF):
		return n, b.finish()
	case err != nil:
		return 0, b.fail(err)
	case b.declared >= 0 && b.read >= b.declared:
		if err := b.end(); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		return n, b.err
	case b.tooSlow():
		return 0, b.fail(errTooSlow)
	}
	return n, nil
}

// end waits for the end of a stream whose last byte was read.
func (b *body) end() error {
	if err := b.await(); err != nil {
		return b.fail(err)
	}
	var one [1]byte
	n, err := b.r.Body.Read(one[:])
	switch {
	case n > 0:
		return b.fail(errLength)
	case errors.Is(err, io.EOF):
		return b.finish()
	case err == nil:
		err = io.ErrNoProgress
	}
	return b.fail(err)
}

// finish takes over the trailer section. Fields that frame, route or identify a
// message may stand in a header section only (RFC 9110, section 6.5.1).
func (b *body) finish() error {
	for name, values := range b.r.Trailer {
		for _, v := range values {
			if !wire.ForbiddenTrailer(name) {
				b.x.Request.Trailer.Add(name, v)
			}
		}
	}
	b.err = io.EOF
	return b.err
}

// fail is the error that the client answers for.
func (b *body) fail(err error) error {
	be := &exchange.BodyError{Status: http.StatusBadRequest, Err: err}
	switch {
	case b.r.Context().Err() != nil:
		be.Status = 0 // the client is gone
	case errors.Is(err, errTooLarge):
		be.Status = http.StatusRequestEntityTooLarge
	case errors.Is(err, errTooSlow), errors.Is(err, os.ErrDeadlineExceeded):
		be.Status = http.StatusRequestTimeout
	}
	b.err = be
	return be
}

func (b *body) tooSlow() bool {
	if b.set.MinRate <= 0 {
		return false
	}
	took := time.Since(b.began)
	return took > rateGrace && float64(b.read) < took.Seconds()*float64(b.set.MinRate)
}
