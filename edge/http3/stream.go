package http3

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/quicvarint"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// peekFor is how long a request without Content-Length may take to show whether it has
// a body: the end of a stream may come a packet later than what it ends.
const peekFor = 20 * time.Millisecond

var (
	errMalformed = errors.New("the request is malformed")
	errFrames    = errors.New("the frames of the request are not in an order that they may have")
)

// stream is one request and its response.
type stream struct {
	c        *conn
	s        *quic.Stream
	r        *bufio.Reader
	x        exchange.Exchange
	body     body
	declared int64 // bytes of body that are announced, -1 for none
	skipped  uint64
}

func newStream(c *conn, s *quic.Stream) *stream {
	st := &stream{c: c, s: s, r: bufio.NewReaderSize(s, 2<<10), declared: -1}
	st.body.st = st
	x := &st.x
	x.Conn, x.Ctx, x.Start, x.Interim = c.info, s.Context(), time.Now(), st.interim
	x.Request = exchange.Request{Scheme: "https", Version: exchange.HTTP3, Body: exchange.NoBody}
	return st
}

// serve reads the request, has it handled and sends the response.
func (st *stream) serve() {
	if err := st.head(); err != nil {
		st.c.glitch()
		st.reset(codeOf(err))
		return
	}
	err := st.answer()
	if err == nil {
		_ = st.s.Close()
	}
	x := &st.x
	x.Elapsed = time.Since(x.Start)
	st.c.e.handler.Done(x, err)
	if err != nil {
		st.c.glitch()
		st.reset(codeInternal)
		return
	}
	st.c.answered()
	st.s.CancelRead(codeNo) // of a body that nobody read to its end
}

func codeOf(err error) quic.StreamErrorCode {
	if errors.Is(err, errMalformed) {
		return codeMessage
	}
	return codeIncomplete
}

func (st *stream) reset(code quic.StreamErrorCode) {
	st.s.CancelRead(code)
	st.s.CancelWrite(code)
}

// answer has the request handled. A panic ends the stream and no other.
func (st *stream) answer() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("answering panicked: %v\n%s", p, debug.Stack())
		}
	}()
	st.c.e.handler.Handle(&st.x)
	return st.respond()
}

// head reads the header section, and as much as tells whether there is a body.
func (st *stream) head() error {
	_ = st.s.SetReadDeadline(st.x.Start.Add(st.c.e.set.Head))
	length, err := st.nextFrame(frameHeaders)
	if err != nil {
		return err
	}
	s := section{st: st}
	if length > uint64(2*st.c.e.set.HeaderList) {
		s.cut()
	} else {
		p := make([]byte, length)
		if _, err := io.ReadFull(st.r, p); err != nil {
			return err
		}
		if err := s.decode(p); err != nil {
			st.c.fail(codeDecompression, "a header section cannot be decoded")
			return err
		}
	}
	st.x.BytesIn = int64(length)
	st.x.HeadDone = time.Now()
	if !s.judge() {
		return errMalformed
	}
	return st.begin()
}

// begin finds out whether the request has a body.
func (st *stream) begin() error {
	q := &st.x.Request
	if st.x.Refused != 0 {
		return nil
	}
	if st.declared > 0 {
		q.Length, q.Body, q.StopBody = st.declared, &st.body, st.body.stop
		return nil
	}
	if st.declared < 0 {
		_ = st.s.SetReadDeadline(time.Now().Add(peekFor))
		_, err := st.r.Peek(1)
		if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			q.Length, q.Body, q.StopBody = -1, &st.body, st.body.stop
			return nil
		}
	}
	// Nothing more is to come, which must be known before an origin is told so.
	var be *exchange.BodyError
	if _, err := st.body.await(nil); errors.As(err, &be) {
		if be.Status == 0 {
			return be
		}
		st.x.Refused = be.Status
	}
	return nil
}

// nextFrame reads the head of the next frame that this side knows. It must be want.
func (st *stream) nextFrame(want uint64) (length uint64, err error) {
	kind, length, err := st.frame()
	switch {
	case err != nil:
		return 0, err
	case kind != want:
		st.c.fail(codeUnexpected, errFrames.Error())
		return 0, errFrames
	}
	return length, nil
}

// frame reads the head of the next frame that this side knows; io.EOF at the end of the stream.
func (st *stream) frame() (kind, length uint64, err error) {
	for {
		if _, err := st.r.Peek(1); err != nil {
			return 0, 0, err
		}
		if kind, err = quicvarint.Read(st.r); err == nil {
			length, err = quicvarint.Read(st.r)
		}
		if err != nil {
			return 0, 0, st.broken(err)
		}
		if kind != frameData || length == 0 {
			st.skipped += 2 // empty frames are what floods are made of
		}
		switch {
		case st.skipped > longestSkip:
			st.c.fail(codeLoad, "frames without an end and without a meaning")
			return 0, 0, errFrames
		case kind == frameData, kind == frameHeaders:
			return kind, length, nil
		case kind == framePushPromise, kind == frameCancelPush, kind == frameSettings, kind == frameGoAway, kind == frameMaxPushID, ofHTTP2(kind):
			st.c.fail(codeUnexpected, errFrames.Error())
			return 0, 0, errFrames
		}
		if st.skipped += length; length > longestSkip || st.skipped > longestSkip {
			st.c.fail(codeLoad, "more of frames that nobody knows than anyone needs")
			return 0, 0, errFrames
		}
		if _, err := io.CopyN(io.Discard, st.r, int64(length)); err != nil {
			return 0, 0, st.broken(err)
		}
	}
}

// broken is the error of a stream that ends inside a frame (RFC 9114, section 7.1).
func (st *stream) broken(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		st.c.fail(codeFrame, "a stream ends inside a frame")
		return errFrames
	}
	return err
}
