package http2

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// TestFloods: each way to make work without wanting an answer is cut off, with a reason.
func TestFloods(t *testing.T) {
	for name, attack := range map[string]func(k *client) error{
		"rapid reset": func(k *client) error {
			for i := range uint32(2000) {
				b := block(head("GET", "/")...)
				if err := k.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: b, EndStream: true, EndHeaders: true}); err != nil {
					return err
				}
				if err := k.fr.WriteRSTStream(2*i+1, http2.ErrCodeCancel); err != nil {
					return err
				}
			}
			return nil
		},
		"made to reset": func(k *client) error {
			for i := range uint32(2000) {
				b := block(head("GET", "/")...)
				if err := k.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: b, EndStream: true, EndHeaders: true}); err != nil {
					return err
				}
				if err := k.fr.WriteWindowUpdate(2*i+1, 0); err != nil {
					return err
				}
			}
			return nil
		},
		"empty data": func(k *client) error {
			k.open(1, false, head("POST", "/")...)
			for range 2000 {
				if err := k.fr.WriteData(1, false, nil); err != nil {
					return err
				}
			}
			return nil
		},
		"empty continuations": func(k *client) error {
			if err := k.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block(head("GET", "/")...)}); err != nil {
				return err
			}
			for range 2000 {
				if err := k.fr.WriteContinuation(1, false, nil); err != nil {
					return err
				}
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			k, h, _ := dial(t, Settings{}, func(x *exchange.Exchange) {
				<-x.Ctx.Done() // no answer comes in time
				text(x, 499, "")
			})
			sent := make(chan error, 1)
			go func() { sent <- attack(k) }()
			for k.frame() {
			}
			<-sent // an error is what is wanted: the connection is gone
			if k.goAway != nil && k.code != http2.ErrCodeEnhanceYourCalm {
				t.Errorf("GOAWAY said %v", k.code)
			}
			poll(t, "every exchange done", func() bool {
				h.mu.Lock()
				defer h.mu.Unlock()
				return len(h.done) == len(h.seen)
			})
			if n := len(h.ended()); n > 301 {
				t.Errorf("%d requests were handled", n)
			}
		})
	}
}

// TestAnsweredStreamsForgive: a client that gives up one stream for each answer it takes goes on for ever.
func TestAnsweredStreamsForgive(t *testing.T) {
	k, _, _ := dial(t, Settings{Glitches: 5}, func(x *exchange.Exchange) {
		if x.Request.Path == "/slow" {
			<-x.Ctx.Done()
		}
		text(x, 200, "")
	})
	for i := range uint32(50) {
		k.open(4*i+1, true, head("GET", "/slow")...)
		k.must(k.fr.WriteRSTStream(4*i+1, http2.ErrCodeCancel))
		k.open(4*i+3, true, head("GET", "/")...)
		if got := k.verdict(4*i + 3); got != "200" {
			t.Fatalf("request %d got %s", i, got)
		}
	}
}

// TestTimeForgives: the count sinks by one a second.
func TestTimeForgives(t *testing.T) {
	g := newGuard(nil, 3)
	g.level, g.since = 3, time.Now().Add(-2500*time.Millisecond)
	if g.received(frame{kind: http2.FrameRSTStream}) || g.level != 2 {
		t.Errorf("level is %d, want 2", g.level)
	}
}

// TestFramesInPieces: frames are found wherever reads cut them.
func TestFramesInPieces(t *testing.T) {
	var b bytes.Buffer
	fr := http2.NewFramer(&b, nil)
	write := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	write(fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 9}))
	write(fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 7, BlockFragment: []byte("block"), EndHeaders: true}))
	write(fr.WriteData(7, false, nil))
	write(fr.WriteData(7, true, bytes.Repeat([]byte("x"), 1000)))
	write(fr.WriteRSTStream(7, http2.ErrCodeProtocol))
	write(fr.WriteRSTStream(9, http2.ErrCodeCancel))
	write(fr.WritePing(false, [8]byte{}))
	want := []frame{
		{true, http2.FrameSettings, 0, 6, 0, 0},
		{true, http2.FrameHeaders, http2.FlagHeadersEndHeaders, 5, 7, 0},
		{true, http2.FrameData, 0, 0, 7, 0},
		{true, http2.FrameData, http2.FlagDataEndStream, 1000, 7, 0},
		{true, http2.FrameRSTStream, 0, 4, 7, http2.ErrCodeProtocol},
		{true, http2.FrameRSTStream, 0, 4, 9, http2.ErrCodeCancel},
		{true, http2.FramePing, 0, 8, 0, 0},
	}
	for range 200 {
		s := frames{skip: prefaceLen}
		rest := append([]byte(http2.ClientPreface), b.Bytes()...)
		var got []frame
		for len(rest) > 0 {
			piece := rest[:1+rand.IntN(min(len(rest), 40))]
			rest = rest[len(piece):]
			for len(piece) > 0 {
				var f frame
				if f, piece = s.next(piece); f.complete {
					got = append(got, f)
				}
			}
		}
		if len(got) != len(want) || !s.between() {
			t.Fatalf("found %d frames, want %d; between frames: %v", len(got), len(want), s.between())
		}
		for i := range want {
			if got[i] != want[i] {
				t.Fatalf("frame %d is %+v, want %+v", i, got[i], want[i])
			}
		}
	}
}
