package upstream

import (
	"fmt"
	"math"
	"time"

	"golang.org/x/net/http2"
)

// handle acts upon one frame. An error ends the connection; one that is an
// http2.ConnectionError is told to the target.
func (c *h2conn) handle(f http2.Frame) error {
	switch f := f.(type) {
	case *http2.HeadersFrame:
		return c.section.add(c, f.StreamID, f.HeaderBlockFragment(), f.HeadersEnded(), f.StreamEnded(), true)
	case *http2.ContinuationFrame:
		return c.section.add(c, f.StreamID, f.HeaderBlockFragment(), f.HeadersEnded(), false, false)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.flush()
	c.heard = time.Now()
	if _, ok := f.(*http2.SettingsFrame); !ok && !c.known {
		return http2.ConnectionError(http2.ErrCodeProtocol) // RFC 9113, section 3.4
	}
	switch f := f.(type) {
	case *http2.DataFrame:
		return c.data(f)
	case *http2.WindowUpdateFrame:
		return c.opens(f)
	case *http2.SettingsFrame:
		return c.settings(f)
	case *http2.PingFrame:
		return c.ping(f)
	case *http2.RSTStreamFrame:
		return c.reset(f)
	case *http2.GoAwayFrame:
		return c.goAway(f)
	case *http2.PushPromiseFrame:
		return http2.ConnectionError(http2.ErrCodeProtocol) // none was allowed
	}
	return c.glitch()
}

// glitch counts a frame that serves nothing. mu is held.
func (c *h2conn) glitch() error {
	if c.junk++; c.junk > h2Junk || len(c.out.b) > h2ControlMost {
		return http2.ConnectionError(http2.ErrCodeEnhanceYourCalm)
	}
	return nil
}

// useful forgives glitches for a frame that serves something. mu is held.
func (c *h2conn) useful() { c.junk = max(0, c.junk-2) }

// idleStream says that no stream of this number was ever opened. mu is held.
func (c *h2conn) idleStream(id uint32) bool { return id >= c.next || id%2 == 0 }

func (c *h2conn) data(f *http2.DataFrame) error {
	n, p := int64(f.Length), f.Data()
	if c.recv -= n; c.recv < 0 {
		return http2.ConnectionError(http2.ErrCodeFlowControl)
	}
	if c.owed += n; c.owed >= h2ConnWindow/4 {
		_ = c.framer.WriteWindowUpdate(0, uint32(c.owed))
		c.recv += c.owed
		c.owed = 0
	}
	if len(p) > 0 {
		c.useful()
	} else if !f.StreamEnded() {
		if err := c.glitch(); err != nil {
			return err
		}
	}
	st := c.streams[f.StreamID]
	if st == nil {
		if c.idleStream(f.StreamID) {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		return nil // it was reset; the target did not know yet
	}
	st.recv -= n
	st.got += int64(len(p))
	switch {
	case st.remoteEnded:
		c.refuse(st.id, http2.ErrCodeStreamClosed, fmt.Errorf("%s sent data after its end", c.address))
	case !st.headed:
		c.refuse(st.id, http2.ErrCodeProtocol, fmt.Errorf("%s sent data before a response head", c.address))
	case st.recv < 0:
		c.refuse(st.id, http2.ErrCodeFlowControl, fmt.Errorf("%s sent more than the window allows", c.address))
	case st.bare && st.got > 0, st.length >= 0 && st.got > st.length, st.length >= 0 && !st.bare && f.StreamEnded() && st.got != st.length:
		c.refuse(st.id, http2.ErrCodeProtocol, fmt.Errorf("%s: %w", c.address, errBodyLength))
	default:
		st.in = append(st.in, p...)
		st.owed += n - int64(len(p)) // padding is nobody's to read
		if f.StreamEnded() {
			st.endRemote()
		}
		wake(st.came)
	}
	return nil
}

// opens takes in that the target lets us send more.
func (c *h2conn) opens(f *http2.WindowUpdateFrame) error {
	if c.updates++; c.updates > h2Junk {
		return http2.ConnectionError(http2.ErrCodeEnhanceYourCalm)
	}
	add := int64(f.Increment)
	if f.StreamID == 0 {
		if c.window += add; c.window > math.MaxInt32 {
			return http2.ConnectionError(http2.ErrCodeFlowControl)
		}
		c.unblock()
		return nil
	}
	st := c.streams[f.StreamID]
	if st == nil {
		if c.idleStream(f.StreamID) {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		return nil
	}
	if st.window += add; st.window > math.MaxInt32 {
		c.refuse(st.id, http2.ErrCodeFlowControl, fmt.Errorf("%s opened a window too far", c.address))
		return nil
	}
	wake(st.opened)
	return nil
}

func (c *h2conn) settings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return c.glitch()
	}
	if c.known {
		if err := c.glitch(); err != nil {
			return err
		}
	}
	err := f.ForeachSetting(func(s http2.Setting) error {
		if err := s.Valid(); err != nil {
			return err
		}
		switch s.ID {
		case http2.SettingMaxConcurrentStreams:
			c.most = int(min(s.Val, math.MaxInt32))
		case http2.SettingMaxFrameSize:
			c.frameMost = int(min(s.Val, h2OutHigh))
		case http2.SettingInitialWindowSize:
			delta := int64(s.Val) - c.first
			c.first = int64(s.Val)
			for _, st := range c.streams {
				if st.window += delta; st.window > math.MaxInt32 {
					return http2.ConnectionError(http2.ErrCodeFlowControl)
				}
			}
			c.unblock()
		}
		return nil
	})
	if err != nil {
		return err
	}
	c.settle()
	return c.framer.WriteSettingsAck()
}

func (c *h2conn) ping(f *http2.PingFrame) error {
	if f.IsAck() {
		c.pinged = time.Time{}
		return nil
	}
	if err := c.glitch(); err != nil {
		return err
	}
	return c.framer.WritePing(true, f.Data)
}

// reset takes in that the target ends a stream.
func (c *h2conn) reset(f *http2.RSTStreamFrame) error {
	st := c.streams[f.StreamID]
	if st == nil {
		if c.idleStream(f.StreamID) {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		return c.glitch()
	}
	delete(c.streams, f.StreamID)
	if st.remoteEnded { // the response is whole: it wants no more of the request
		st.localEnded, st.stopped = true, true
		wake(st.opened)
		return nil
	}
	st.cancelled = f.ErrCode == http2.ErrCodeCancel
	st.kill(fmt.Errorf("%s reset the stream: %s", c.address, f.ErrCode), f.ErrCode == http2.ErrCodeRefusedStream)
	return nil
}

// goAway lets the streams that the target has taken end; others were not looked at.
func (c *h2conn) goAway(f *http2.GoAwayFrame) error {
	c.draining, c.gone = true, true
	err := fmt.Errorf("%s ended the connection: %s", c.address, f.ErrCode)
	for id, st := range c.streams {
		if id > f.LastStreamID {
			delete(c.streams, id)
			st.kill(err, true)
		}
	}
	c.endIfUnused()
	return c.glitch()
}

// refuse ends a stream because of what the target sent on it. mu is held.
func (c *h2conn) refuse(id uint32, code http2.ErrCode, why error) {
	_ = c.framer.WriteRSTStream(id, code)
	if st := c.streams[id]; st != nil {
		delete(c.streams, id)
		st.invalid = true
		st.kill(why, false)
	}
}
