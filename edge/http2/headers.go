package http2

import (
	"encoding/binary"
	"errors"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/exchange/wire"
)

// section is a header section in the making. Fields go where they belong as they are
// decoded; what is wrong with them is noted and judged at the end, since the
// decoder has to see all of them.
type section struct {
	id      uint32
	open    bool // CONTINUATION has to follow
	ended   bool // the request ends with it
	trailer bool
	begun   bool    // st's goroutine runs already
	st      *stream // what is decoded belongs to; nil if nobody wants it
	refused bool    // the stream is over the limit of streams

	encoded   int  // bytes so far
	size      int  // of the list, as RFC 9113, section 6.5.2, counts
	lines     int  // cookie crumbs count as one
	plain     bool // a field that is no pseudo field came
	malformed bool // a stream error (RFC 9113, section 8.1.1)
	status    int  // what the request is refused with, 0 for nothing

	scheme, authority, host, protocol string
	has                               pseudo
	hosts, lengths                    int
	length                            string
	crumbs                            []byte // of cookie, when there is more than one
	cookies                           int
	fields                            exchange.Fields // of a trailer section
}

// pseudo says which pseudo fields came.
type pseudo uint8

const (
	hasMethod pseudo = 1 << iota
	hasScheme
	hasAuthority
	hasPath
	hasProtocol
)

// headers takes a HEADERS frame: a request, or the trailer section of one.
func (c *conn) headers(f frame, p []byte) error {
	if f.id%2 == 0 {
		return protocolError("HEADERS on a stream that is not a client's")
	}
	self := false
	p, err := unpad(f, p)
	if err != nil {
		return err
	}
	if f.flags.Has(http2.FlagHeadersPriority) {
		if len(p) < 5 {
			return frameSizeError("HEADERS without the priority it announces")
		}
		self = binary.BigEndian.Uint32(p)&^(1<<31) == f.id
		p = p[5:]
	}
	if err := c.beginSection(f); err != nil {
		return err
	}
	c.section.malformed = self
	return c.block(f, p)
}

// unpad takes the padding away.
func unpad(f frame, p []byte) ([]byte, error) {
	if !f.flags.Has(http2.FlagHeadersPadded) {
		return p, nil
	}
	if len(p) == 0 {
		return nil, frameSizeError("a padded HEADERS frame without the length of its padding")
	}
	pad := int(p[0])
	if p = p[1:]; pad > len(p) {
		return nil, protocolError("the padding of a HEADERS frame is longer than the frame")
	}
	return p[:len(p)-pad], nil
}

// beginSection decides what a header section on this stream is.
func (c *conn) beginSection(f frame) error {
	s := &c.section
	s.reset(f)
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.id > c.seenID {
		c.seenID = f.id
		c.open(f.id)
		return nil
	}
	s.trailer = true
	st := c.streams[f.id]
	switch {
	case st == nil && c.early.has(f.id):
		return nil
	case st == nil:
		return &connError{http2.ErrCodeStreamClosed, "HEADERS on a stream that is closed"}
	case st.remoteEnded:
		return c.streamError(st, http2.ErrCodeStreamClosed)
	}
	s.st = st
	return nil
}

// reset makes s ready for a section and keeps its memory.
func (s *section) reset(f frame) {
	fields := &s.fields
	fields.Reset()
	*s = section{id: f.id, ended: f.flags.Has(http2.FlagHeadersEndStream), crumbs: s.crumbs[:0], fields: *fields}
}

// open judges whether a stream may be opened. c.mu is held.
func (c *conn) open(id uint32) {
	s := &c.section
	if c.over {
		c.early.add(id)
		return // GOAWAY has named the last stream: this one is ignored
	}
	c.maxID = id
	if len(c.streams) >= int(c.e.set.MaxStreams) || c.running >= 2*int(c.e.set.MaxStreams) {
		s.refused = true
		return
	}
	if n := len(c.free); n > 0 {
		s.st, s.begun = c.free[n-1], true
		c.free = c.free[:n-1]
	} else {
		s.st = c.newStream()
	}
	s.st.reset(id, c.now)
}

func (c *conn) continuation(f frame, p []byte) error {
	if !c.section.open {
		return protocolError("CONTINUATION without a header section")
	}
	if len(p) == 0 {
		if err := c.glitch(large); err != nil {
			return err
		}
	}
	return c.block(f, p)
}

// block decodes a piece of a header section.
func (c *conn) block(f frame, p []byte) error {
	s := &c.section
	if s.encoded == 0 {
		c.decoder.SetEmitEnabled(s.st != nil)
	}
	if s.encoded += len(p); s.encoded > 2*c.e.set.HeaderList {
		return c.dropSection(&connError{http2.ErrCodeEnhanceYourCalm, "a header section is far too long"})
	}
	if err := c.decode(p); err != nil {
		return c.dropSection(compressionError(err))
	}
	s.open = !f.flags.Has(http2.FlagHeadersEndHeaders)
	if s.open {
		if c.headBy.IsZero() || s.encoded == len(p) {
			c.headBy = c.now.Add(c.e.set.Head)
		}
		return nil
	}
	if err := c.decoder.Close(); err != nil {
		return c.dropSection(compressionError(err))
	}
	return c.endSection()
}

// decode hands the decoder a piece of a header section. The decoder keeps hold of what
// it was given last, which must not be the read buffer of a connection that idles.
func (c *conn) decode(p []byte) error {
	if n := len(p); n > cap(c.piece) {
		if _, err := c.decoder.Write(p[:n-1]); err != nil {
			return err
		}
		p = p[n-1:]
	}
	c.piece = append(c.piece[:0], p...)
	_, err := c.decoder.Write(c.piece)
	return err
}

func compressionError(err error) error {
	if errors.Is(err, hpack.ErrStringLength) {
		return &connError{http2.ErrCodeEnhanceYourCalm, "a field is far too long"}
	}
	return &connError{http2.ErrCodeCompression, "a header section cannot be decoded"}
}

// dropSection lets go of a stream that is not dispatched.
func (c *conn) dropSection(err error) error {
	s := &c.section
	if s.st != nil && !s.trailer {
		st := s.st
		if s.begun {
			close(st.start)
		}
		st.cancel()
	}
	s.st, s.open = nil, false
	return err
}

// endSection acts upon a header section that is complete.
func (c *conn) endSection() error {
	s := &c.section
	switch {
	case s.refused:
		c.mu.Lock()
		defer c.mu.Unlock()
		c.queueReset(s.id, http2.ErrCodeRefusedStream)
		c.early.add(s.id)
		return c.glitchLocked(small)
	case s.st == nil:
		return nil
	case s.trailer:
		return c.endTrailer()
	}
	s.st.x.BytesIn = int64(s.encoded + frameHead)
	c.judgeRequest()
	if s.malformed {
		return c.refuseStream()
	}
	c.dispatch(s.st, s.begun, s.ended)
	s.st = nil
	return nil
}

// refuseStream resets a stream whose request never existed.
func (c *conn) refuseStream() error {
	s := &c.section
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queueReset(s.id, http2.ErrCodeProtocol)
	if !s.ended {
		c.early.add(s.id)
	}
	if s.begun {
		c.free = append(c.free, s.st)
	} else {
		s.st.cancel()
	}
	s.st = nil
	return c.glitchLocked(large)
}

// endTrailer ends a request with its trailer section.
func (c *conn) endTrailer() error {
	s := &c.section
	c.mu.Lock()
	defer c.mu.Unlock()
	st := s.st
	s.st = nil
	switch {
	case st.dead != nil:
		return nil
	case s.malformed || !s.ended || s.size > c.e.set.HeaderList:
		return c.streamError(st, http2.ErrCodeProtocol)
	}
	st.x.Request.Trailer.CopyFrom(&s.fields)
	st.endRemote()
	return nil
}

// field takes one decoded field.
func (c *conn) field(f hpack.HeaderField) {
	s := &c.section
	if s.size += len(f.Name) + len(f.Value) + 32; s.size > c.e.set.HeaderList {
		s.status = 431
		c.decoder.SetEmitEnabled(false)
		return
	}
	switch {
	case !wire.Plain(f.Value):
		s.malformed = true
	case f.IsPseudo() && s.trailer:
		s.malformed = true
	case f.IsPseudo():
		s.pseudo(f)
	case !wire.IsLowerToken(f.Name):
		s.malformed = true
	case s.trailer:
		if !wire.ForbiddenTrailer(f.Name) {
			s.fields.Add(f.Name, f.Value)
		}
	default:
		s.plain = true
		c.plainField(f)
	}
}

// pseudo takes a pseudo field (RFC 9113, section 8.3).
func (s *section) pseudo(f hpack.HeaderField) {
	var which pseudo
	q := &s.st.x.Request
	switch f.Name {
	case ":method":
		which, q.Method = hasMethod, f.Value
	case ":scheme":
		which, s.scheme = hasScheme, f.Value
	case ":authority":
		which, s.authority = hasAuthority, f.Value
	case ":path":
		which, q.Target = hasPath, f.Value
	case ":protocol":
		which, s.protocol = hasProtocol, f.Value
	}
	if which == 0 || s.plain || s.has&which != 0 {
		s.malformed = true
	}
	s.has |= which
}

// plainField takes a field of a request, and keeps those that frame it.
func (c *conn) plainField(f hpack.HeaderField) {
	s := &c.section
	q := &s.st.x.Request
	if len(f.Name)+len(f.Value)+2 > c.e.set.Line && f.Name != "cookie" {
		s.refuse(431)
	}
	if v := f.Value; v != "" && (space(v[0]) || space(v[len(v)-1])) {
		s.refuse(400) // RFC 9113, section 8.2.1
	}
	s.lines++
	switch f.Name {
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade":
		s.malformed = true // RFC 9113, section 8.2.2
		return
	case "te":
		s.malformed = s.malformed || !exchange.EqualFold(f.Value, "trailers")
	case "host":
		s.host = f.Value
		s.hosts++
		return
	case "content-length":
		s.length = f.Value
		s.lengths++
		return
	case "expect":
		if !exchange.EqualFold(f.Value, "100-continue") {
			s.refuse(417)
		}
		q.Expect100 = true
		return
	case "cookie":
		if s.cookie(f.Value) {
			return
		}
	}
	q.Fields.Add(f.Name, f.Value)
}

func (s *section) refuse(status int) {
	if s.status == 0 {
		s.status = status
	}
}

// cookie collects crumbs (RFC 9113, section 8.2.3). It answers true for all but the first.
func (s *section) cookie(v string) bool {
	if s.cookies++; s.cookies == 1 {
		return false
	}
	s.lines--
	if s.cookies == 2 {
		s.crumbs = append(s.crumbs, s.st.x.Request.Fields.Get("cookie")...)
	}
	s.crumbs = append(s.crumbs, "; "...)
	s.crumbs = append(s.crumbs, v...)
	return true
}

func space(c byte) bool { return c == ' ' || c == '\t' }
