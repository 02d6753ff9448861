package http3

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// body reads a request body and turns its failures into the client's fault.
type body struct {
	st      *stream
	began   time.Time
	left    uint64 // of the DATA frame that is being read
	came    int64  // bytes of body
	stopped atomic.Bool
	err     error // sticky; io.EOF after the last byte
}

// stop makes reads fail, also one that waits.
func (b *body) stop() {
	b.stopped.Store(true)
	b.st.s.CancelRead(codeNo)
}

// Read reads from the body. The last bytes of a body of known length are given out
// only when the stream has ended with them, so no origin takes a request for complete
// that turns out to be malformed.
func (b *body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	st := b.st
	if b.began.IsZero() {
		b.began = time.Now()
		if st.x.Request.Expect100 && st.r.Buffered() == 0 {
			if err := st.interim(http.StatusContinue, nil); err != nil {
				return 0, b.fail(0, err)
			}
		}
	}
	n, err := b.await(p)
	if err != nil {
		return n, err
	}
	st.x.BytesIn += int64(n)
	switch set := &st.c.e.set; {
	case set.MaxBody > 0 && b.came > set.MaxBody:
		return 0, b.fail(http.StatusRequestEntityTooLarge, exchange.ErrBodyTooLarge)
	case st.declared >= 0 && b.came >= st.declared:
		if _, err := b.await(nil); !errors.Is(err, io.EOF) {
			return 0, err
		}
	case exchange.TooSlow(b.came, b.began, b.st.c.e.set.MinRate):
		return 0, b.fail(http.StatusRequestTimeout, exchange.ErrBodyTooSlow)
	}
	return n, nil
}

// await waits for bytes and reads them to p. With no p it waits for the end.
func (b *body) await(p []byte) (int, error) {
	st := b.st
	_ = st.s.SetReadDeadline(time.Now().Add(st.c.e.set.BodyIdle))
	for b.left == 0 {
		kind, length, err := st.frame()
		switch {
		case errors.Is(err, io.EOF):
			return 0, b.end()
		case err != nil:
			return 0, b.failed(err)
		case kind == frameHeaders:
			return 0, b.trailer(length)
		}
		b.left = length
	}
	if p == nil {
		return 0, b.fail(http.StatusBadRequest, exchange.ErrBodyLength)
	}
	n, err := st.r.Read(p[:min(uint64(len(p)), b.left)])
	b.left -= uint64(n)
	b.came += int64(n)
	if n == 0 && err != nil {
		return 0, b.failed(st.broken(err))
	}
	return n, nil
}

// trailer reads the trailer section, after which the stream must end.
func (b *body) trailer(length uint64) error {
	st := b.st
	if length > uint64(2*st.c.e.set.HeaderList) {
		return b.fail(http.StatusRequestHeaderFieldsTooLarge, errMalformed)
	}
	p := make([]byte, length)
	if _, err := io.ReadFull(st.r, p); err != nil {
		return b.failed(st.broken(err))
	}
	if err := st.trailer(p); err != nil {
		return b.fail(http.StatusBadRequest, err)
	}
	switch _, _, err := st.frame(); {
	case errors.Is(err, io.EOF):
		return b.end()
	case err != nil:
		return b.failed(err)
	}
	st.c.fail(codeUnexpected, errFrames.Error())
	return b.fail(0, errFrames)
}

// end is the end of a body, which must be as long as was announced.
func (b *body) end() error {
	if b.st.declared >= 0 && b.came != b.st.declared {
		return b.fail(http.StatusBadRequest, exchange.ErrBodyLength)
	}
	b.err = io.EOF
	return b.err
}

// failed sorts an error of reading.
func (b *body) failed(err error) error {
	switch {
	case b.stopped.Load():
		return b.fail(http.StatusBadRequest, exchange.ErrBodyStopped)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return b.fail(http.StatusRequestTimeout, exchange.ErrBodySilent)
	}
	return b.fail(0, err)
}

// fail is the error that the client answers for; status 0 is for one that is gone.
func (b *body) fail(status int, err error) error {
	b.err = &exchange.BodyError{Status: status, Err: err}
	return b.err
}
