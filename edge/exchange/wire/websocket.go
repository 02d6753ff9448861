package wire

import (
	"encoding/binary"
	"io"
	"math"
	"sync"
)

// WebSocket is the client's side of a WebSocket that frames of the upstream are written
// to (RFC 6455, section 5.2). It follows them, so that it can say goodbye between two.
type WebSocket struct {
	W io.Writer // the client

	mu      sync.Mutex // held while something is written; guards the group below
	head    [14]byte
	n       int    // bytes of head that have come
	left    uint64 // bytes of the payload in hand that have not
	closed  bool   // the upstream has said goodbye itself
	leaving bool   // we do, as soon as no frame is in hand
	gone    bool   // we have: nothing may follow
}

// goingAway is a Close frame with the status of a server that goes down.
var goingAway = [...]byte{0x88, 2, 1001 >> 8, 1001 & 0xff}

// Write writes what the upstream says; after our goodbye it is dropped.
func (s *WebSocket) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	whole := len(p)
	if s.leaving {
		p = p[:s.pass(p, true)]
	} else {
		s.pass(p, false)
	}
	if s.gone {
		return whole, nil
	}
	if n, err := s.W.Write(p); err != nil {
		return n, err
	}
	return whole, s.leave()
}

// Ahead is how much of the payload of the frame in hand has not come yet. Who writes may
// send so much to the client by another way, and tells of it by Passed: no goodbye comes
// between.
func (s *WebSocket) Ahead() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int64(min(s.left, math.MaxInt64)) //nolint:gosec // it fits
}

// Passed takes in that n bytes of what is ahead went to the client by another way.
func (s *WebSocket) Passed(n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left -= uint64(n) //nolint:gosec // no more than there was
	return s.leave()
}

// GoAway says goodbye to the client: now, or when the frame in hand is complete. It
// waits for a Write that is under way, and may be called twice.
func (s *WebSocket) GoAway() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaving = true
	return s.leave()
}

// Over says that the client must not be written to any more. It waits for a Write.
func (s *WebSocket) Over() {
	s.mu.Lock()
	s.gone = true
	s.mu.Unlock()
}

// leave says goodbye if it is time to. mu is held.
func (s *WebSocket) leave() error {
	if !s.leaving || s.gone || s.closed || s.n > 0 || s.left > 0 {
		return nil
	}
	s.gone = true
	_, err := s.W.Write(goingAway[:])
	return err
}

// pass follows the frames in p, or only the one in hand, and answers how far it came.
func (s *WebSocket) pass(p []byte, one bool) int {
	at := 0
	for at < len(p) && (!one || s.n > 0 || s.left > 0) {
		if s.left > 0 {
			k := min(s.left, uint64(len(p)-at))
			s.left -= k
			at += int(k) //nolint:gosec // at most len(p)
			continue
		}
		s.head[s.n] = p[at]
		s.n++
		at++
		if s.n >= 2 && s.n == s.headSize() {
			s.begin()
		}
	}
	return at
}

// headSize is the length of the head whose first two bytes have come.
func (s *WebSocket) headSize() int {
	size := 2
	switch s.head[1] & 0x7f {
	case 126:
		size += 2
	case 127:
		size += 8
	}
	if s.head[1]&0x80 != 0 {
		size += 4 // a mask, which a server has no business to send
	}
	return size
}

// begin takes the complete head.
func (s *WebSocket) begin() {
	switch n := s.head[1] & 0x7f; n {
	case 126:
		s.left = uint64(binary.BigEndian.Uint16(s.head[2:]))
	case 127:
		s.left = binary.BigEndian.Uint64(s.head[2:])
	default:
		s.left = uint64(n)
	}
	s.closed = s.closed || s.head[0]&0xf == 8
	s.n = 0
}
