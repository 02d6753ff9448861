package upstream

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/exchange/wire"
)

// Bounds of a header section. One that is over limits.Head is decoded to its end, since
// the table must follow, and then refused; one over these ends the connection.
const (
	h2SectionBytes  = 128 << 10 // as compressed
	h2SectionFrames = 64
)

// h2head is a decoded header section.
type h2head struct {
	status int // 0 for a trailer section
	fields []exchange.Field
	ended  bool
	err    error // why it is not good HTTP
}

// h2section assembles and decodes the header sections of one connection.
type h2section struct {
	decoder *hpack.Decoder
	head    *h2head
	size    int // of the list, by the rule of RFC 9113
	bytes   int
	frames  int
	ended   bool
}

func (s *h2section) begin() {
	s.decoder = hpack.NewDecoder(4096, s.emit)
	s.decoder.SetMaxStringLength(limits.Head)
}

// add takes in a part of a section; first is for the part in the HEADERS frame.
func (s *h2section) add(c *h2conn, id uint32, p []byte, last, ended, first bool) error {
	if first {
		s.head, s.size, s.bytes, s.frames, s.ended = &h2head{}, 0, 0, 0, ended
	}
	s.bytes += len(p)
	s.frames++
	if s.bytes > h2SectionBytes || s.frames > h2SectionFrames {
		return http2.ConnectionError(http2.ErrCodeEnhanceYourCalm)
	}
	if _, err := s.decoder.Write(p); err != nil {
		return http2.ConnectionError(http2.ErrCodeCompression)
	}
	if !last {
		return nil
	}
	if err := s.decoder.Close(); err != nil {
		return http2.ConnectionError(http2.ErrCodeCompression)
	}
	s.head.ended = s.ended
	return c.headers(id, s.head)
}

// emit takes in one field line.
func (s *h2section) emit(f hpack.HeaderField) {
	h := s.head
	s.size += int(f.Size())
	bad := func(format string, args ...any) {
		if h.err == nil {
			h.err = fmt.Errorf(format, args...)
		}
	}
	switch {
	case s.size > limits.Head || len(h.fields) >= limits.Fields:
		bad("the header section is longer than %d bytes or %d lines", limits.Head, limits.Fields)
	case len(f.Name) > 0 && f.Name[0] == ':':
		n, err := strconv.Atoi(f.Value)
		if f.Name != ":status" || h.status != 0 || len(h.fields) > 0 || err != nil || len(f.Value) != 3 || n < 100 {
			bad("pseudo field %q is not as it must be", f.Name)
			return
		}
		h.status = n
	case !goodName(f.Name):
		bad("the name of field %q is not one of HTTP/2", f.Name)
	case !wire.Plain(f.Value):
		bad("the value of field %s has a control character", f.Name)
	default:
		h.fields = append(h.fields, exchange.Field{Name: f.Name, Value: f.Value})
	}
}

// goodName says whether a name is a token in lower case that does not speak of the
// connection (RFC 9113, section 8.2).
func goodName(name string) bool {
	switch name {
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade":
		return false
	}
	return wire.IsLowerToken(name)
}

// headers hands a section to its stream.
func (c *h2conn) headers(id uint32, h *h2head) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.flush()
	c.heard = time.Now()
	if !c.known || c.idleStream(id) {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	st := c.streams[id]
	if st == nil {
		return c.glitch()
	}
	c.useful()
	if err := st.take(h); err != nil {
		c.refuse(id, http2.ErrCodeProtocol, fmt.Errorf("reading the response of %s: %w", c.address, err))
	}
	return nil
}

// take takes in a section. The connection's mu is held.
func (st *h2stream) take(h *h2head) error {
	switch {
	case h.err != nil:
		return h.err
	case st.remoteEnded:
		return errors.New("a header section came after the end")
	case st.headed:
		if h.status != 0 || !h.ended {
			return errors.New("a trailer section is not as it must be")
		}
		if st.length >= 0 && !st.bare && st.got != st.length {
			return errBodyLength
		}
		st.trailer = h.fields
	case h.status == 0:
		return errors.New("the response head has no :status")
	case h.status < 200:
		if st.interims++; h.ended || h.status == 101 || st.interims > maxInterim {
			return fmt.Errorf("interim response %d: expected at most %d of them, none 101, none that ends the stream", h.status, maxInterim)
		}
		st.heads = append(st.heads, h)
	default:
		st.headed = true
		if err := st.measure(h); err != nil {
			return err
		}
		st.heads = append(st.heads, h)
	}
	if h.ended {
		st.endRemote()
	}
	wake(st.came)
	return nil
}

// measure takes Content-Length out of a final head.
func (st *h2stream) measure(h *h2head) error {
	kept := h.fields[:0]
	for _, f := range h.fields {
		if f.Name != "content-length" {
			kept = append(kept, f)
			continue
		}
		n, err := strconv.ParseUint(f.Value, 10, 62)
		if err != nil || f.Value[0] == '+' || st.length >= 0 && st.length != int64(n) {
			return fmt.Errorf("content-length: expected one number, got %q", f.Value)
		}
		st.length = int64(n)
	}
	h.fields = kept
	st.bare = st.bare || h.status == 204 || h.status == 304
	if h.ended && !st.bare && st.length > 0 {
		return errBodyLength
	}
	return nil
}
