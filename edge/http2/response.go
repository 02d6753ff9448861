package http2

import (
	"errors"
	"io"
	"net/http"

	"golang.org/x/net/http2"

	"github.com/keyway-edge/keyway/edge/exchange"
)

const (
	// A read of a body fills two frames, each of which fills a TLS record.
	readSize = 2 * (recordSize - frameHead)
	bodySize = headRoom + frameHead + readSize
	headRoom = 4 << 10
)

// respond sends the response.
func (st *stream) respond() error {
	resp := &st.x.Response
	switch {
	case st.key != "" && resp.Switch != nil:
		return st.tunnel()
	case st.key != "" && resp.Status/100 == 2:
		if c, ok := resp.Body.(io.Closer); ok {
			_ = c.Close()
		}
		refuseSwitch(resp)
		return errors.Join(errNotSwitched, st.respondAll())
	}
	return st.respondAll()
}

// respondAll sends head and body.
func (st *stream) respondAll() error {
	resp := &st.x.Response
	if c, ok := resp.Body.(io.Closer); ok {
		defer func() { _ = c.Close() }()
	}
	box := st.c.e.bodies.Get().(*[]byte)
	defer st.c.e.bodies.Put(box)
	buf := *box
	none := st.x.Request.Method == http.MethodHead || resp.Status == http.StatusNoContent || resp.Status == http.StatusNotModified ||
		resp.Body == nil && resp.Trailer.Len() == 0
	head, err := st.appendHead(buf[:0], none)
	if err != nil {
		return err
	}
	if none {
		st.x.BytesOut += int64(len(head))
		return st.sendHead(head, true)
	}
	if len(head) > headRoom || resp.Length < 0 && exchange.Waiting(resp.Body) {
		// A stream is never held back for its first bytes.
		if err := st.sendHead(head, false); err != nil {
			return err
		}
		st.x.BytesOut += int64(len(head))
		head = buf[:0]
	}
	return st.sendBody(buf, len(head))
}

// appendHead appends the header section of the response, as frames.
func (st *stream) appendHead(b []byte, end bool) ([]byte, error) {
	resp := &st.x.Response
	b = st.beginHead(b)
	b = appendStatus(b, resp.Status)
	b, err := appendFields(b, &resp.Fields)
	if err != nil {
		return b, err
	}
	if resp.Length >= 0 && resp.Status != http.StatusNoContent && (resp.Length > 0 || resp.Status != http.StatusNotModified) {
		b = appendLength(b, resp.Length)
	}
	return st.endHead(b, 0, end), nil
}

// beginHead appends room for the head of a frame, and what the first header section of
// a connection begins with: nothing is kept in the table that the peer offers.
func (st *stream) beginHead(b []byte) []byte {
	b = appendFrame(b, 0, http2.FrameHeaders, 0, st.id)
	if st.announce { // several sections may say so, the first one has to
		b = append(b, tableSizeZero)
	}
	return b
}

// endHead completes the frames of the header section that begins at b[at:].
func (st *stream) endHead(b []byte, at int, end bool) []byte {
	var flags http2.Flags
	if end {
		flags = http2.FlagHeadersEndStream
	}
	const longest = maxFrameLen // no peer takes less
	n := len(b) - at - frameHead
	if n <= longest {
		putFrame(b[at:], n, http2.FrameHeaders, flags|http2.FlagHeadersEndHeaders, st.id)
		return b
	}
	block := append([]byte(nil), b[at+frameHead:]...)
	b = appendFrame(b[:at], longest, http2.FrameHeaders, flags, st.id)
	b = append(b, block[:longest]...)
	for block = block[longest:]; len(block) > 0; {
		piece := block[:min(len(block), longest)]
		block = block[len(piece):]
		flags = 0
		if len(block) == 0 {
			flags = http2.FlagContinuationEndHeaders
		}
		b = appendFrame(b, len(piece), http2.FrameContinuation, flags, st.id)
		b = append(b, piece...)
	}
	return b
}

// sendBody sends the body behind the head that is in buf. What one read gives is sent
// at once; the last frame of a body ends the stream if that is known with it.
func (st *stream) sendBody(buf []byte, head int) error {
	resp := &st.x.Response
	var total int64
	if resp.Body == nil {
		resp.Body = exchange.NoBody
	}
	for {
		space := buf[head+frameHead:][:readSize]
		n, err := resp.Body.Read(space)
		total += int64(n)
		if err == nil && resp.Length >= 0 && total >= resp.Length && n < len(space) {
			// The end is due: it is sent along.
			var more int
			more, err = resp.Body.Read(space[n:])
			n += more
			total += int64(more)
		}
		if broken := brokenOff(resp, total, err); broken != nil {
			// The client hears what there is: a reset alone would say less than is known.
			if over := total - resp.Length; resp.Length >= 0 && over > 0 {
				n -= int(over)
			}
			if head+n > 0 {
				if err := st.send(buf, head, n, false); err != nil {
					return err
				}
				st.x.BytesOut += int64(head + n)
			}
			return broken
		}
		ended := err != nil
		trailer := ended && resp.Trailer.Len() > 0
		if n > 0 || head > 0 || ended {
			if err := st.send(buf, head, n, ended && !trailer); err != nil {
				return err
			}
			st.x.BytesOut += int64(head + n)
		}
		head = 0
		if trailer {
			return st.sendTrailer(buf)
		}
		if ended {
			return nil
		}
	}
}

// brokenOff says what is wrong with a body of which so many bytes came and whose last read
// ended with err, nil for nothing.
func brokenOff(resp *exchange.Response, total int64, err error) error {
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return err
	case resp.Length >= 0 && (total > resp.Length || err != nil && total != resp.Length):
		return io.ErrUnexpectedEOF
	}
	return nil
}

// sendTrailer ends the response with its trailer section.
func (st *stream) sendTrailer(buf []byte) error {
	b := st.beginHead(buf[:0])
	b, err := appendFields(b, &st.x.Response.Trailer)
	if err != nil {
		return err
	}
	return st.sendHead(st.endHead(b, 0, true), true)
}

// interim sends a 1xx response at once.
func (st *stream) interim(status int, fields *exchange.Fields) error {
	b := st.beginHead(make([]byte, 0, 128))
	b = appendStatus(b, status)
	if fields != nil {
		var err error
		if b, err = appendFields(b, fields); err != nil {
			return err
		}
	}
	return st.sendHead(st.endHead(b, 0, false), false)
}
