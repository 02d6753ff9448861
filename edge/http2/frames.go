package http2

import (
	"encoding/binary"

	"golang.org/x/net/http2"
)

const (
	frameHead   = 9       // of a frame (RFC 9113, section 4.1)
	maxFrameLen = 1 << 14 // longest payload we take: SETTINGS_MAX_FRAME_SIZE stays at its default
	maxWindow   = 1<<31 - 1
)

// frame is the head of a frame.
type frame struct {
	length int
	kind   http2.FrameType
	flags  http2.Flags
	id     uint32
}

func parseFrame(b []byte) frame {
	return frame{
		length: int(b[0])<<16 | int(b[1])<<8 | int(b[2]), kind: http2.FrameType(b[3]), flags: http2.Flags(b[4]),
		id: binary.BigEndian.Uint32(b[5:]) &^ (1 << 31),
	}
}

// frame takes one frame whose head was read. An error ends the connection.
func (c *conn) frame(f frame) error {
	switch {
	case f.length > maxFrameLen:
		return frameSizeError("a frame is longer than 16384 bytes")
	case c.section.open && (f.kind != http2.FrameContinuation || f.id != c.section.id):
		return protocolError("another frame came inside a header section")
	case !c.settled && (f.kind != http2.FrameSettings || f.flags.Has(http2.FlagSettingsAck)):
		return protocolError("the first frame is not SETTINGS")
	case f.kind == http2.FrameData:
		return c.data(f)
	}
	if err := c.need(f.length); err != nil {
		return err
	}
	p := c.buf[c.r : c.r+f.length]
	c.r += f.length
	switch f.kind {
	case http2.FrameHeaders:
		return c.headers(f, p)
	case http2.FrameContinuation:
		return c.continuation(f, p)
	case http2.FramePriority:
		return c.priority(f, p)
	case http2.FrameRSTStream:
		return c.peerReset(f, p)
	case http2.FrameSettings:
		return c.settings(f, p)
	case http2.FramePing:
		return c.ping(f, p)
	case http2.FrameGoAway:
		return c.peerGoAway(f)
	case http2.FrameWindowUpdate:
		return c.windowUpdate(f, p)
	case http2.FramePushPromise:
		return protocolError("a client pushed")
	}
	return c.glitch(small) // what is unknown is ignored (RFC 9113, section 5.5)
}

// glitch counts; over the limit it is the end.
func (c *conn) glitch(weight int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.glitchLocked(weight)
}

func (c *conn) glitchLocked(weight int) error {
	if c.glitches.add(weight, c.now) || c.queued() > floodLimit {
		return &connError{http2.ErrCodeEnhanceYourCalm, "the peer gave up or broke too many streams, or made work for nothing"}
	}
	return nil
}

// data takes a DATA frame, in whatever pieces it comes.
func (c *conn) data(f frame) error {
	if f.id == 0 {
		return protocolError("DATA on stream 0")
	}
	left, pad := f.length, 0
	if f.flags.Has(http2.FlagDataPadded) {
		if left == 0 {
			return frameSizeError("a padded DATA frame without the length of its padding")
		}
		if err := c.need(1); err != nil {
			return err
		}
		pad = int(c.buf[c.r])
		c.r++
		left--
		if pad > left {
			return protocolError("the padding of a DATA frame is longer than the frame")
		}
	}
	left -= pad
	ended := f.flags.Has(http2.FlagDataEndStream)
	c.mu.Lock()
	st, err := c.dataBegins(f, left, ended)
	if err == nil && st == nil {
		c.consumed(int64(f.length))
	} else if st != nil {
		c.consumed(int64(f.length - left)) // the padding
	}
	c.mu.Unlock()
	if err != nil {
		return err
	}
	if st != nil && ended && left == 0 {
		st.feed(nil, true)
	}
	for left > 0 {
		if c.r == c.w {
			if err := c.fill(); err != nil {
				return err
			}
		}
		n := min(left, c.w-c.r)
		left -= n
		if st != nil {
			st.feed(c.buf[c.r:c.r+n], ended && left == 0)
		}
		c.r += n
	}
	return c.skip(pad)
}

func (c *conn) skip(n int) error {
	for n > 0 {
		if c.r == c.w {
			if err := c.fill(); err != nil {
				return err
			}
		}
		k := min(n, c.w-c.r)
		c.r += k
		n -= k
	}
	return nil
}

// dataBegins judges a DATA frame that holds n bytes of body. It answers the stream
// that takes them, nil for none. c.mu is held.
func (c *conn) dataBegins(f frame, n int, ended bool) (*stream, error) {
	if c.recv -= int64(f.length); c.recv < 0 {
		return nil, &connError{http2.ErrCodeFlowControl, "more came than the connection's window lets through"}
	}
	if n == 0 && !ended {
		if err := c.glitchLocked(large); err != nil {
			return nil, err
		}
	} else {
		c.glitches.forgive(small)
	}
	st := c.streams[f.id]
	switch {
	case st == nil:
		return nil, c.dataAstray(f.id)
	case st.remoteEnded:
		return nil, c.streamError(st, http2.ErrCodeStreamClosed)
	}
	if st.recv -= int64(f.length); st.recv < 0 {
		return nil, c.streamError(st, http2.ErrCodeFlowControl)
	}
	st.received += int64(n)
	if st.declared >= 0 && st.received > st.declared {
		// No origin ever takes this for a complete request.
		return nil, c.streamError(st, http2.ErrCodeProtocol)
	}
	st.owed += int64(f.length - n) // padding; the peer is told along with the body
	return st, nil
}

// dataAstray judges DATA for a stream that is not open. c.mu is held.
func (c *conn) dataAstray(id uint32) error {
	switch {
	case id > c.seenID || id%2 == 0:
		return protocolError("DATA on a stream that was never opened")
	case c.early.has(id):
		return nil // the peer did not know yet
	}
	c.early.add(id) // once is enough
	c.queueReset(id, http2.ErrCodeStreamClosed)
	return c.glitchLocked(large)
}

// streamError resets a stream for what the peer did on it: the work is the same as if
// the peer had. c.mu is held.
func (c *conn) streamError(st *stream, code http2.ErrCode) error {
	c.resetStream(st, code, errCancelled)
	st.cancel()
	return c.glitchLocked(large)
}

// feed gives the stream bytes of its body.
func (st *stream) feed(p []byte, ended bool) {
	c := st.c
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case st.dead != nil || st.stopped:
		c.consumed(int64(len(p)))
	default:
		if st.inAt > 0 && len(st.in)+len(p) > cap(st.in) {
			st.in = st.in[:copy(st.in, st.in[st.inAt:])]
			st.inAt = 0
		}
		st.in = append(st.in, p...)
	}
	if ended {
		st.endRemote()
	}
	tell(st.came)
}

// endRemote notes that the request is complete. c.mu is held.
func (st *stream) endRemote() {
	st.remoteEnded = true
	if st.localEnded {
		delete(st.c.streams, st.id)
	}
	tell(st.came)
}

func (c *conn) priority(f frame, p []byte) error {
	if f.id == 0 {
		return protocolError("PRIORITY on stream 0")
	}
	if len(p) != 5 {
		return c.brokenStream(f.id, http2.ErrCodeFrameSize)
	}
	if binary.BigEndian.Uint32(p)&^(1<<31) == f.id {
		return c.brokenStream(f.id, http2.ErrCodeProtocol)
	}
	return c.glitch(small)
}

// brokenStream resets a stream that may or may not be open.
func (c *conn) brokenStream(id uint32, code http2.ErrCode) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if st := c.streams[id]; st != nil {
		return c.streamError(st, code)
	}
	c.queueReset(id, code)
	return c.glitchLocked(large)
}

// peerReset ends a stream that the peer gave up.
func (c *conn) peerReset(f frame, p []byte) error {
	if f.id == 0 {
		return protocolError("RST_STREAM on stream 0")
	}
	if len(p) != 4 {
		return frameSizeError("RST_STREAM is not 4 bytes long")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.id > c.seenID || f.id%2 == 0 {
		return protocolError("RST_STREAM on a stream that was never opened")
	}
	if st := c.streams[f.id]; st != nil {
		delete(c.streams, f.id)
		st.remoteEnded = true
		st.kill(errCancelled)
		st.cancel()
	}
	return c.glitchLocked(large)
}

// settings takes the peer's settings, each at once and in order (RFC 9113, section 6.5.3).
func (c *conn) settings(f frame, p []byte) error {
	if f.id != 0 {
		return protocolError("SETTINGS on a stream")
	}
	if f.flags.Has(http2.FlagSettingsAck) {
		if len(p) > 0 {
			return frameSizeError("an acknowledgement of SETTINGS with a payload")
		}
		return nil
	}
	if len(p)%6 != 0 {
		return frameSizeError("SETTINGS is not a multiple of 6 bytes long")
	}
	c.settled = true
	c.mu.Lock()
	defer c.mu.Unlock()
	for ; len(p) > 0; p = p[6:] {
		s := http2.Setting{ID: http2.SettingID(binary.BigEndian.Uint16(p)), Val: binary.BigEndian.Uint32(p[2:])}
		if err := c.setting(s); err != nil {
			return err
		}
	}
	c.queueFrame(http2.FrameSettings, http2.FlagSettingsAck, 0)
	return c.glitchLocked(small)
}

func (c *conn) setting(s http2.Setting) error {
	switch s.ID {
	case http2.SettingEnablePush:
		if s.Val > 1 {
			return protocolError("SETTINGS_ENABLE_PUSH is neither 0 nor 1")
		}
	case http2.SettingMaxFrameSize:
		if s.Val < 1<<14 || s.Val > 1<<24-1 {
			return protocolError("SETTINGS_MAX_FRAME_SIZE is not between 16384 and 16777215")
		}
		c.maxFrame = int(s.Val)
	case http2.SettingInitialWindowSize:
		if s.Val > maxWindow {
			return &connError{http2.ErrCodeFlowControl, "SETTINGS_INITIAL_WINDOW_SIZE is over 2147483647"}
		}
		more := int64(s.Val) - c.firstSend
		c.firstSend = int64(s.Val)
		for _, st := range c.streams {
			if st.window += more; st.window > maxWindow {
				return &connError{http2.ErrCodeFlowControl, "SETTINGS_INITIAL_WINDOW_SIZE makes a stream's window too large"}
			}
			st.unblock()
		}
	}
	return nil
}

func (c *conn) ping(f frame, p []byte) error {
	switch {
	case f.id != 0:
		return protocolError("PING on a stream")
	case len(p) != 8:
		return frameSizeError("PING is not 8 bytes long")
	case f.flags.Has(http2.FlagPingAck):
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queueFrame(http2.FramePing, http2.FlagPingAck, 0, p...)
	return c.glitchLocked(small)
}

// peerGoAway: the peer opens no more streams; those that are open are answered.
func (c *conn) peerGoAway(f frame) error {
	if f.id != 0 {
		return protocolError("GOAWAY on a stream")
	}
	if f.length < 8 {
		return frameSizeError("GOAWAY is shorter than 8 bytes")
	}
	c.finish()
	return nil
}

func (c *conn) windowUpdate(f frame, p []byte) error {
	if len(p) != 4 {
		return frameSizeError("WINDOW_UPDATE is not 4 bytes long")
	}
	n := int64(binary.BigEndian.Uint32(p) &^ (1 << 31))
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.id == 0 {
		if n == 0 {
			return protocolError("WINDOW_UPDATE of nothing")
		}
		if c.window += n; c.window > maxWindow {
			return &connError{http2.ErrCodeFlowControl, "WINDOW_UPDATE makes the connection's window too large"}
		}
		if c.blocked > 0 {
			for _, st := range c.streams {
				st.unblock()
			}
		}
		return nil
	}
	if f.id > c.seenID || f.id%2 == 0 {
		return protocolError("WINDOW_UPDATE on a stream that was never opened")
	}
	st := c.streams[f.id]
	switch {
	case st == nil:
		return nil
	case n == 0:
		return c.streamError(st, http2.ErrCodeProtocol)
	}
	if st.window += n; st.window > maxWindow {
		return c.streamError(st, http2.ErrCodeFlowControl)
	}
	st.unblock()
	return nil
}
