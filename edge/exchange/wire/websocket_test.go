package wire

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// wsFrame is a frame as a server sends it.
func wsFrame(opcode byte, n int) []byte {
	b := []byte{0x80 | opcode}
	switch {
	case n < 126:
		b = append(b, byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
	return append(b, bytes.Repeat([]byte{0x88}, n)...)
}

// TestWebSocketGoAway says goodbye after each byte of three frames, that come in pieces
// of every size: the goodbye stands behind a whole frame, and nothing behind it.
func TestWebSocketGoAway(t *testing.T) {
	for _, lengths := range [][]int{{0, 3, 125}, {126, 1, 300}, {70000, 2, 0}} {
		var all []byte
		ends := []int{0}
		for _, n := range lengths {
			all = append(all, wsFrame(2, n)...)
			ends = append(ends, len(all))
		}
		for _, piece := range []int{1, 2, 7, 1000, len(all)} {
			if len(all) > 1000 && piece < 1000 {
				continue
			}
			for at := 0; at <= len(all); at += max(1, piece) {
				var out bytes.Buffer
				s := &WebSocket{W: &out}
				sent := 0
				for sent < len(all) {
					if sent >= at {
						if err := s.GoAway(); err != nil {
							t.Fatal(err)
						}
					}
					n := min(piece, len(all)-sent)
					if k, err := s.Write(all[sent : sent+n]); err != nil || k != n {
						t.Fatal(k, err)
					}
					sent += n
				}
				_ = s.GoAway()
				want := len(all)
				for i := len(ends) - 1; i >= 0 && at < len(all); i-- {
					if ends[i] >= at {
						want = ends[i]
					}
				}
				if at == len(all) {
					want = len(all)
				}
				got := out.Bytes()
				if len(got) != want+len(goingAway) || !bytes.Equal(got[:want], all[:want]) || !bytes.Equal(got[want:], goingAway[:]) {
					t.Fatalf("lengths %v, pieces of %d, goodbye after %d: %d bytes, want %d and the goodbye", lengths, piece, at, len(got), want)
				}
			}
		}
	}
}

// A WebSocket that its server has closed is not closed twice.
func TestWebSocketClosedByTheUpstream(t *testing.T) {
	var out bytes.Buffer
	s := &WebSocket{W: &out}
	frame := wsFrame(8, 2)
	if _, err := s.Write(frame); err != nil {
		t.Fatal(err)
	}
	if err := s.GoAway(); err != nil || !bytes.Equal(out.Bytes(), frame) {
		t.Errorf("%x, %v", out.Bytes(), err)
	}
}
