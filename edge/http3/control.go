package http3

import (
	"bufio"
	"context"
	"errors"
	"io"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/quicvarint"
)

// Types of streams of one direction (RFC 9114, section 6.2; RFC 9204, section 4.2).
const (
	streamControl = 0
	streamPush    = 1
	streamEncoder = 2
	streamDecoder = 3
)

// Types of frames (RFC 9114, section 7.2), and a setting.
const (
	frameData        = 0x0
	frameHeaders     = 0x1
	frameCancelPush  = 0x3
	frameSettings    = 0x4
	framePushPromise = 0x5
	frameGoAway      = 0x7
	frameMaxPushID   = 0xd

	settingFieldSection = 0x6
)

const (
	longestControl = 4 << 10  // of a control frame
	longestSkip    = 64 << 10 // of frames that nobody knows, on one stream
)

// ofHTTP2 says that a number means something in HTTP/2 only, and is an error here.
func ofHTTP2(frame uint64) bool {
	return frame == 0x2 || frame == 0x6 || frame == 0x8 || frame == 0x9
}

// acceptUni takes the streams on which the peer only speaks.
func (c *conn) acceptUni(ctx context.Context) {
	for {
		s, err := c.qc.AcceptUniStream(ctx)
		if err != nil {
			return
		}
		c.wg.Go(func() {
			defer s.ReleaseStreamCredit()
			c.uni(s)
		})
	}
}

// uni serves one of them to its end.
func (c *conn) uni(s *quic.ReceiveStream) {
	_ = s.SetReadDeadline(time.Now().Add(c.e.set.Head))
	r := bufio.NewReaderSize(s, 64)
	kind, err := quicvarint.Read(r)
	if err != nil {
		s.CancelRead(codeCreation)
		return
	}
	_ = s.SetReadDeadline(time.Time{})
	switch kind {
	case streamControl, streamEncoder, streamDecoder:
	case streamPush:
		c.fail(codeCreation, "a client cannot push")
		return
	default:
		s.CancelRead(codeCreation)
		c.glitch()
		return
	}
	which := 0
	if kind != streamControl {
		which = int(kind) - 1
	}
	c.mu.Lock()
	twice := c.seen[which]
	c.seen[which] = true
	c.mu.Unlock()
	switch {
	case twice:
		c.fail(codeCreation, "a second stream of its kind")
		return
	case kind == streamControl:
		err = c.peerControl(s, r)
	default:
		err = c.compression(r, kind)
	}
	var reset *quic.StreamError
	if errors.Is(err, io.EOF) || errors.As(err, &reset) {
		c.fail(codeClosed, "a stream that has to stay open was closed")
	}
}

// compression reads what the peer says of tables. There is none to add to.
func (c *conn) compression(r *bufio.Reader, kind uint64) error {
	for {
		b, err := r.ReadByte()
		if err != nil {
			return err
		}
		if kind == streamEncoder && b != 0x20 { // a table of size zero
			c.fail(codeEncoderStream, "no dynamic table was offered")
			return nil
		}
	}
}

// peerControl reads the peer's control stream.
func (c *conn) peerControl(s *quic.ReceiveStream, r *bufio.Reader) error {
	_ = s.SetReadDeadline(time.Now().Add(c.e.set.Head))
	for first := true; ; first = false {
		kind, err := quicvarint.Read(r)
		if err != nil {
			return err
		}
		length, err := quicvarint.Read(r)
		if err != nil {
			return err
		}
		switch {
		case first && kind != frameSettings:
			c.fail(codeNoSettings, "the control stream does not begin with SETTINGS")
			return nil
		case !first && kind == frameSettings, kind == frameData, kind == frameHeaders, kind == framePushPromise, ofHTTP2(kind):
			c.fail(codeUnexpected, "a frame that has no place on a control stream")
			return nil
		case length > longestControl:
			c.fail(codeLoad, "a control frame is far too long")
			return nil
		}
		p := make([]byte, length)
		if _, err := io.ReadFull(r, p); err != nil {
			return err
		}
		if code := judgeControl(kind, p); code != 0 {
			c.fail(code, "a control frame is malformed")
			return nil
		}
		if kind != frameSettings && kind != frameGoAway {
			c.glitch() // frames that mean nothing here
		}
		_ = s.SetReadDeadline(time.Time{})
	}
}

// judgeControl says what is wrong with a control frame, 0 for nothing.
func judgeControl(kind uint64, p []byte) quic.ApplicationErrorCode {
	switch kind {
	case frameSettings:
		return judgeSettings(p)
	case frameGoAway, frameCancelPush, frameMaxPushID:
		if _, n, err := quicvarint.Parse(p); err != nil || n != len(p) {
			return codeFrame
		}
		if kind == frameCancelPush {
			return codeID // nothing was pushed
		}
	}
	return 0
}

func judgeSettings(p []byte) quic.ApplicationErrorCode {
	seen := map[uint64]bool{}
	for len(p) > 0 {
		id, n, err := quicvarint.Parse(p)
		if err != nil {
			return codeFrame
		}
		_, m, err := quicvarint.Parse(p[n:])
		if err != nil {
			return codeFrame
		}
		if seen[id] || id >= 0x2 && id <= 0x5 {
			return codeSettings // twice, or one of HTTP/2's
		}
		seen[id] = true
		p = p[n+m:]
	}
	return 0
}
