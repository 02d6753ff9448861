package http1

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/exchange/wire"
)

// errShort says that a body did not have the length that was announced.
var errShort = errors.New("the response body is shorter than its announced length")

// respond writes the response and says whether the connection goes on, and why
// the exchange broke off if it did.
func (c *conn) respond() (keep bool, err error) {
	resp := &c.x.Response
	if cl, ok := resp.Body.(io.Closer); ok {
		defer func() { _ = cl.Close() }()
	}
	w := writer{c: c}
	w.mode(&c.x)
	closing := resp.Close || c.framing.Close || w.toEnd || c.ending() || c.stopped.Load() || !c.drainable()
	if err := w.head(&c.x, closing); err != nil {
		return false, fmt.Errorf("writing the response head: %w", err)
	}
	if err := w.body(resp); err != nil {
		return false, err
	}
	c.endWatch()
	if closing {
		c.linger()
		return false, nil
	}
	if !c.discardBody() {
		c.linger()
		return false, nil
	}
	return true, nil
}

// drainable says whether what is left of the request body is small enough to be
// read away, so that the connection can go on.
func (c *conn) drainable() bool {
	if c.body.finished() {
		return true
	}
	if whole := c.framing.Length - c.body.read; !c.framing.Chunked && c.body.err == nil && int64(c.w-c.r) >= whole {
		c.body.asked = true // the client did not wait for 100 Continue: all of it is here
		return true
	}
	return c.body.asked && c.body.err == nil && (c.framing.Chunked || c.framing.Length-c.body.read <= maxDiscard)
}

// discardBody reads what is left of the request body.
func (c *conn) discardBody() bool {
	if c.body.finished() {
		return true
	}
	c.body.discarding = true
	c.readDeadline(time.Now(), discardFor)
	_, err := io.CopyN(io.Discard, &c.body, maxDiscard+1)
	return errors.Is(err, io.EOF)
}

// writer writes one response.
type writer struct {
	c       *conn
	buf     []byte
	none    bool // no body is written
	chunked bool
	toEnd   bool // the end of the connection ends the body
	left    int64
}

// mode decides how the body ends.
func (w *writer) mode(x *exchange.Exchange) {
	resp := &x.Response
	w.left = resp.Length
	switch {
	case x.Request.Method == http.MethodHead, resp.Status == http.StatusNoContent, resp.Status == http.StatusNotModified, resp.Body == nil && resp.Length == 0:
		w.none = true
	case resp.Length >= 0:
	case x.Request.Version >= exchange.HTTP11:
		w.chunked = true
	default:
		w.toEnd = true
	}
}

// head appends the response head to the write buffer; it leaves with the body.
func (w *writer) head(x *exchange.Exchange, closing bool) error {
	c, resp := w.c, &x.Response
	if c.out == nil {
		c.out = c.s.writes.Get().(*[]byte)
	}
	reason := resp.Reason
	if reason == "" {
		reason = http.StatusText(resp.Status)
	}
	b := wire.AppendStatusLine((*c.out)[:0], resp.Status, reason)
	var err error
	for i := range resp.Fields.Len() {
		f := resp.Fields.At(i)
		if b, err = wire.AppendField(b, f.Name, f.Value); err != nil {
			return err
		}
	}
	switch {
	case w.chunked:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	case resp.Length >= 0 && resp.Status != http.StatusNoContent && (resp.Length > 0 || resp.Status != http.StatusNotModified):
		b = append(b, "Content-Length: "...)
		b = appendInt(b, resp.Length)
		b = append(b, "\r\n"...)
	}
	if closing {
		b = append(b, "Connection: close\r\n\r\n"...)
	} else {
		b = append(b, "Connection: keep-alive\r\n\r\n"...)
	}
	w.buf = b
	return nil
}

func appendInt(b []byte, n int64) []byte {
	if n == 0 {
		return append(b, '0')
	}
	var d [20]byte
	i := len(d)
	for ; n > 0; n /= 10 {
		i--
		d[i] = byte('0' + n%10)
	}
	return append(b, d[i:]...)
}

// flush writes the buffer out.
func (w *writer) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	w.c.writeWithin(w.c.x.Now(), w.c.s.WriteStall)
	n, err := w.c.nc.Write(w.buf)
	w.c.x.BytesOut += int64(n)
	if cap(w.buf) > cap(*w.c.out) {
		*w.c.out = w.buf // it grew for a long head; the pool may as well keep it
	}
	w.buf = w.buf[:0]
	if err != nil {
		return fmt.Errorf("writing to the client: %w", err)
	}
	return nil
}

// body drains the response's body. What one read gives is written at once,
// together with the head if that still waits: a stream is never held back.
func (w *writer) body(resp *exchange.Response) error {
	if w.none {
		return w.flush()
	}
	if resp.Body == nil {
		resp.Body = exchange.NoBody
	}
	if resp.Length < 0 && exchange.Waiting(resp.Body) {
		if err := w.flush(); err != nil {
			return err
		}
	}
	for {
		done, err := w.step(resp)
		if err != nil {
			if ferr := w.flush(); ferr != nil {
				return ferr
			}
			return fmt.Errorf("reading the response body: %w", err)
		}
		if err := w.flush(); err != nil || done {
			return err
		}
	}
}

const chunkHead = 6 // "ffff\r\n": a size of four digits keeps its place whatever it is

// step reads once into the write buffer.
func (w *writer) step(resp *exchange.Response) (done bool, err error) {
	at := len(w.buf)
	if w.chunked {
		at += chunkHead
	}
	if cap(w.buf)-at < 4<<10 { // a long head leaves no room: it goes first
		if err := w.flush(); err != nil {
			return false, err
		}
		at = 0
		if w.chunked {
			at = chunkHead
		}
	}
	space := w.buf[at:min(cap(w.buf)-2, at+writeSize)]
	if !w.chunked && !w.toEnd && int64(len(space)) > w.left {
		space = space[:w.left]
	}
	n, err := resp.Body.Read(space)
	if w.chunked {
		return w.chunk(resp, at, n, err)
	}
	w.buf = w.buf[:at+n]
	if w.toEnd {
		return errors.Is(err, io.EOF), notEOF(err)
	}
	w.left -= int64(n)
	if w.left == 0 {
		return true, nil
	}
	if errors.Is(err, io.EOF) {
		return false, errShort
	}
	return false, err
}

func notEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// chunk frames the n bytes at w.buf[at:], and ends the body after the last ones.
func (w *writer) chunk(resp *exchange.Response, at, n int, err error) (bool, error) {
	if n > 0 {
		w.buf = w.buf[:at+n]
		const digits = "0123456789abcdef"
		h := w.buf[at-chunkHead : at]
		h[0], h[1], h[2], h[3], h[4], h[5] = digits[n>>12&15], digits[n>>8&15], digits[n>>4&15], digits[n&15], '\r', '\n'
		w.buf = append(w.buf, '\r', '\n')
	}
	if !errors.Is(err, io.EOF) {
		return false, err
	}
	b, terr := wire.AppendLastChunk(w.buf, &resp.Trailer)
	w.buf = b
	return true, terr
}

// interim sends a 1xx response at once.
func (c *conn) interim(status int, fields *exchange.Fields) error {
	if c.x.Request.Version < exchange.HTTP11 {
		return nil // HTTP/1.0 knows none (RFC 9110, section 15.2)
	}
	b := wire.AppendStatusLine(nil, status, http.StatusText(status))
	if fields != nil {
		var err error
		for f := range fields.All() {
			if b, err = wire.AppendField(b, f.Name, f.Value); err != nil {
				return err
			}
		}
	}
	b = append(b, "\r\n"...)
	c.sending.Lock() // whoever uploads the body may ask for it while hints come from the origin
	defer c.sending.Unlock()
	c.writeWithin(time.Now(), c.s.WriteStall)
	n, err := c.nc.Write(b)
	c.x.BytesOut += int64(n)
	return err
}
