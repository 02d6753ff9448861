package http2

import (
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
	now := time.Now()
	g := glitches{limit: 3 * large, level: 3 * large, since: now.Add(-2500 * time.Millisecond)}
	if g.add(large, now) || g.level != 2*large {
		t.Errorf("level is %d, want %d", g.level, 2*large)
	}
	if !g.add(2*large, now) {
		t.Error("the limit is not one")
	}
}
