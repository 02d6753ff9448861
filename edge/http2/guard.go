package http2

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

// errFlood ends a connection whose peer does little but make work.
var errFlood = errors.New("the peer gave up or broke too many streams")

// guard watches the frames of a connection and counts what is cheap for a peer and
// dear for this side: streams that are given up or broken before they are answered,
// and frames that say nothing. The library bounds how much of that runs at a time, not
// how long it may go on. Every answered stream, and every second, takes one back.
type guard struct {
	net.Conn
	limit int

	in  frames // only read by Read
	out frames // guarded by writing

	writing sync.Mutex // one Write at a time
	begun   bool       // this side's first frame is out; guarded by writing
	told    bool       // the farewell is out; guarded by writing
	leaving atomic.Bool
	over    atomic.Bool  // the peer had time to read the farewell
	streams atomic.Int32 // requests being answered

	mu     sync.Mutex // guards level, since, last, closed
	level  int
	since  time.Time
	last   uint32 // highest stream id that the peer opened
	closed uint32 // highest stream id that was reset because it was closed
	broken bool   // only read by Read
}

// prefaceLen is how many bytes a client sends before its first frame.
const prefaceLen = len(http2.ClientPreface)

func newGuard(c net.Conn, limit int) *guard {
	g := &guard{Conn: c, limit: limit, since: time.Now()}
	g.in.skip = prefaceLen
	return g
}

// secureGuard is a guard over TLS, whose state the library wants to judge.
type secureGuard struct {
	*guard
	tls *tls.Conn
}

// ConnectionState is that of the TLS connection.
func (g secureGuard) ConnectionState() tls.ConnectionState { return g.tls.ConnectionState() }

// Read reads and counts. Over the limit the peer is told to calm down and hung up on.
func (g *guard) Read(p []byte) (int, error) {
	if g.broken {
		return 0, errFlood
	}
	n, err := g.Conn.Read(p)
	for rest := p[:n]; len(rest) > 0; {
		var f frame
		if f, rest = g.in.next(rest); f.complete && g.received(f) {
			g.broken = true
			g.goAway()
			return 0, errFlood
		}
	}
	return n, err
}

// Write writes and counts.
func (g *guard) Write(p []byte) (int, error) {
	n, err := g.write(p)
	g.farewell()
	return n, err
}

func (g *guard) write(p []byte) (int, error) {
	g.writing.Lock()
	defer g.writing.Unlock()
	n, err := g.Conn.Write(p)
	for rest := p[:n]; len(rest) > 0; {
		var f frame
		if f, rest = g.out.next(rest); f.complete {
			g.begun = true
			g.sent(f)
		}
	}
	return n, err
}

// leave announces the end of the connection without an end to its streams: a GOAWAY
// with the highest stream id there is (RFC 9113, section 6.8). What the peer sends
// before it has read this is still answered; the library's own GOAWAY, which names
// the last stream, follows when the peer has had time to.
func (g *guard) leave() {
	g.leaving.Store(true)
	g.farewell()
}

// farewell sends the announcement as soon as that is possible between two frames.
// Whoever holds the lock meanwhile calls this again.
func (g *guard) farewell() {
	if !g.leaving.Load() || !g.writing.TryLock() {
		return
	}
	defer g.writing.Unlock()
	if g.told || !g.begun || !g.out.between() {
		return
	}
	g.told = true
	const highest = 1<<31 - 1
	b := []byte{0, 0, 8, byte(http2.FrameGoAway), 0, 0, 0, 0, 0}
	b = binary.BigEndian.AppendUint32(b, highest)
	b = binary.BigEndian.AppendUint32(b, uint32(http2.ErrCodeNo))
	_, _ = g.Conn.Write(b) // a peer that is gone needs no farewell
}

// received counts a frame of the peer's; true is one too many.
func (g *guard) received(f frame) bool {
	glitch := false
	switch f.kind {
	case http2.FrameHeaders:
		g.mu.Lock()
		g.last = max(g.last, f.stream)
		g.mu.Unlock()
	case http2.FrameRSTStream:
		glitch = true
	case http2.FrameData:
		glitch = f.length == 0 && !f.flags.Has(http2.FlagDataEndStream)
	case http2.FrameContinuation:
		glitch = f.length == 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if glitch {
		g.add()
	}
	return g.level > g.limit
}

// sent counts a frame of this side's. A stream that had to be reset for what the
// peer did counts as one that the peer reset: the work is the same.
func (g *guard) sent(f frame) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch f.kind {
	case http2.FrameRSTStream:
		switch f.code {
		case http2.ErrCodeProtocol, http2.ErrCodeFlowControl, http2.ErrCodeFrameSize:
			g.add()
		case http2.ErrCodeStreamClosed:
			// Each frame of an upload that was answered early meets a closed stream;
			// a client that has not read the answer yet sends them in good faith.
			if f.stream > g.closed {
				g.closed = f.stream
				g.add()
			}
		}
	case http2.FrameHeaders, http2.FrameData:
		if f.flags.Has(http2.FlagHeadersEndStream) && g.level > 0 {
			g.level--
		}
	}
}

// add counts a glitch, with g.mu held.
func (g *guard) add() {
	now := time.Now()
	if s := int(now.Sub(g.since) / time.Second); s > 0 {
		g.level = max(0, g.level-s)
		g.since = now
	}
	g.level++
}

// goAway sends GOAWAY if that is possible at once: not inside a frame, and not behind
// a write that the peer does not read.
func (g *guard) goAway() {
	if !g.writing.TryLock() {
		return
	}
	defer g.writing.Unlock()
	if !g.out.between() {
		return
	}
	reason := errFlood.Error()
	b := make([]byte, 0, 64+len(reason))
	b = append(b, 0, 0, byte(8+len(reason)), byte(http2.FrameGoAway), 0, 0, 0, 0, 0)
	g.mu.Lock()
	b = binary.BigEndian.AppendUint32(b, g.last)
	g.mu.Unlock()
	b = binary.BigEndian.AppendUint32(b, uint32(http2.ErrCodeEnhanceYourCalm))
	b = append(b, reason...)
	_ = g.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = g.Conn.Write(b)
}

// frame is what a guard looks at of a frame. code is that of RST_STREAM.
type frame struct {
	complete bool
	kind     http2.FrameType
	flags    http2.Flags
	length   int
	stream   uint32
	code     http2.ErrCode
}

// frames finds the frames in a stream of bytes that comes in any pieces.
type frames struct {
	skip int // bytes that do not matter
	have int
	head [headLen + codeLen]byte
}

const (
	headLen = 9 // of a frame (RFC 9113, section 4.1)
	codeLen = 4 // error code of RST_STREAM
)

// between says that a frame ended with the last byte.
func (s *frames) between() bool { return s.skip == 0 && s.have == 0 }

// next takes bytes from p up to the next thing to know. A frame counts as complete
// when what is looked at has come.
func (s *frames) next(p []byte) (f frame, rest []byte) {
	if s.skip > 0 {
		n := min(s.skip, len(p))
		s.skip -= n
		return f, p[n:]
	}
	want := headLen
	if s.have >= headLen {
		want += codeLen
	}
	n := copy(s.head[s.have:want], p)
	s.have += n
	p = p[n:]
	if s.have < want {
		return f, p
	}
	h := s.head[:]
	length := int(h[0])<<16 | int(h[1])<<8 | int(h[2])
	kind := http2.FrameType(h[3])
	if kind == http2.FrameRSTStream && length == codeLen && s.have == headLen {
		return f, p // its code comes next
	}
	f = frame{complete: true, kind: kind, flags: http2.Flags(h[4]), length: length, stream: binary.BigEndian.Uint32(h[5:]) & (1<<31 - 1)}
	if s.have > headLen {
		f.code = http2.ErrCode(binary.BigEndian.Uint32(h[headLen:]))
	}
	s.skip = length - (s.have - headLen)
	s.have = 0
	return f, p
}
