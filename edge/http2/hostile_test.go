package http2

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// settle waits until the engine has taken everything that was sent so far.
func (k *client) settle() bool {
	before := k.pongs
	if k.fr.WritePing(false, [8]byte{1}) != nil {
		return false
	}
	for k.pongs == before {
		if !k.frame() {
			return false
		}
	}
	return true
}

// TestWindows: a body arrives however little of it the peer takes at a time, and never
// more than that.
func TestWindows(t *testing.T) {
	body := strings.Repeat("0123456789", 20_000)
	k, _, _ := dial(t, Settings{}, func(x *exchange.Exchange) { text(x, 200, body) })
	k.must(k.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10}))
	k.open(1, true, head("GET", "/")...)
	poll(t, "the first ten bytes", func() bool { return k.settle() && k.answer(1).body == body[:10] })
	k.must(k.fr.WriteWindowUpdate(1, 1000))
	for len(k.answer(1).body) < 1010 {
		if !k.frame() {
			t.Fatal("the connection ended")
		}
	}
	if k.settle(); len(k.answer(1).body) != 1010 {
		t.Fatalf("%d bytes came, 1010 were let through", len(k.answer(1).body))
	}
	// A smaller initial window makes the stream's negative; the connection's is the limit next.
	k.must(k.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}))
	k.must(k.fr.WriteWindowUpdate(1, 1<<20))
	for len(k.answer(1).body) < 65535 {
		if !k.frame() {
			t.Fatal("the connection ended")
		}
	}
	if k.settle(); len(k.answer(1).body) != 65535 {
		t.Fatalf("%d bytes came, the connection's window lets 65535 through", len(k.answer(1).body))
	}
	k.must(k.fr.WriteWindowUpdate(0, 1<<20))
	if a := k.wait(1); a.body != body {
		t.Errorf("%d bytes came of %d", len(a.body), len(body))
	}
}

// TestShutWindow: a client that opens no window loses its stream, and no other.
func TestShutWindow(t *testing.T) {
	k, h, _ := dial(t, Settings{WriteStall: 50 * time.Millisecond}, func(x *exchange.Exchange) {
		if x.Request.Path == "/long" {
			text(x, 200, strings.Repeat("x", 100_000))
			return
		}
		text(x, 204, "")
		x.Response.Length = 0
	})
	k.open(1, true, head("GET", "/long")...)
	if a := k.wait(1); !a.reset || len(a.body) != 65535 {
		t.Errorf("got %d bytes, reset %v; want the window's 65535 and a reset", len(a.body), a.reset)
	}
	k.open(3, true, head("GET", "/")...)
	if got := k.verdict(3); got != "204" {
		t.Errorf("another stream got %s", got)
	}
	poll(t, "both done", func() bool { return len(h.ended()) == 2 })
	if err := errors.Join(h.ended()...); !errors.Is(err, errStalled) { // in whatever order they are told
		t.Errorf("done with %v", err)
	}
}

// TestWindowViolation: more than a stream's window lets through breaks the stream, more
// than the connection's breaks the connection.
func TestWindowViolation(t *testing.T) {
	for name, c := range map[string]struct {
		set     Settings
		streams uint32
		want    http2.ErrCode
	}{
		"stream":     {Settings{StreamWindow: 30_000}, 1, http2.ErrCodeFlowControl},
		"connection": {Settings{ConnWindow: 65535, StreamWindow: 60_000}, 2, http2.ErrCodeFlowControl},
	} {
		t.Run(name, func(t *testing.T) {
			k, _, _ := dial(t, c.set, func(x *exchange.Exchange) {
				<-x.Ctx.Done() // nothing is read
				text(x, 499, "")
			})
			for i := range c.streams {
				k.open(2*i+1, false, head("POST", "/")...)
			}
			go func() {
				for i := range 8 {
					if k.fr.WriteData(2*uint32(i%int(c.streams))+1, false, make([]byte, 10_000)) != nil {
						return
					}
				}
			}()
			if c.streams == 1 {
				if a := k.wait(1); !a.reset || a.code != c.want {
					t.Errorf("got %+v", a)
				}
				return
			}
			for k.frame() {
			}
			if k.code != c.want {
				t.Errorf("GOAWAY said %v", k.code)
			}
		})
	}
}

// TestBackPressure: what nobody reads stays with the client; when it is read, and when it is
// given up, the windows open again.
func TestBackPressure(t *testing.T) {
	read := make(chan struct{})
	k, _, _ := dial(t, Settings{}, func(x *exchange.Exchange) {
		if x.Request.Path == "/refused" {
			text(x, 403, "")
			return
		}
		<-read
		n, err := io.Copy(io.Discard, x.Request.Body)
		if err != nil || n != 3<<20 {
			text(x, 500, "")
			return
		}
		text(x, 200, "")
	})
	windows := map[uint32]int{0: 1 << 20, 1: 64 << 10}
	k.open(1, false, head("POST", "/")...)
	send := func(id uint32, total int) (sent int) {
		for sent < total {
			n := min(16<<10, total-sent, windows[0], windows[id])
			if n == 0 {
				f, err := k.fr.ReadFrame()
				if err != nil {
					t.Fatal(err)
				}
				if w, ok := f.(*http2.WindowUpdateFrame); ok {
					windows[w.StreamID] += int(w.Increment)
				}
				if _, ok := f.(*http2.PingFrame); ok {
					return sent
				}
				continue
			}
			windows[0] -= n
			windows[id] -= n
			k.must(k.fr.WriteData(id, false, make([]byte, n)))
			if windows[id] == 0 {
				k.must(k.fr.WritePing(false, [8]byte{}))
			}
			sent += n
		}
		return sent
	}
	// The engine's first frames are still unread: its WINDOW_UPDATE of the connection is in windows[0].
	windows[0] -= 1<<20 - 65535
	if n := send(1, 3<<20); n != 64<<10 {
		t.Fatalf("%d bytes could be sent to a stream that nobody reads", n)
	}
	close(read)
	for sent := 64 << 10; sent < 3<<20; {
		sent += send(1, 3<<20-sent)
	}
	k.data(1, true, "")
	if got := k.verdict(1); got != "200" {
		t.Errorf("got %s", got)
	}
	// The connection's window does not shrink by what is thrown away.
	for i := range uint32(40) {
		id := 2*i + 3
		windows[id] = 64 << 10
		k.open(id, false, head("POST", "/refused")...)
		if n := send(id, 60_000); n != 60_000 {
			t.Fatalf("refused upload %d: %d bytes could be sent", i, n)
		}
	}
}

// TestFloodsOfControl: questions that nobody needs an answer to are answered for a
// while. A peer that asks and never reads is not served for ever.
func TestFloodsOfControl(t *testing.T) {
	for name, attack := range map[string]func(k *client) error{
		"ping":     func(k *client) error { return k.fr.WritePing(false, [8]byte{}) },
		"settings": func(k *client) error { return k.fr.WriteSettings() },
		"priority": func(k *client) error { return k.fr.WritePriority(1, http2.PriorityParam{StreamDep: 3}) },
		"unknown":  func(k *client) error { return k.fr.WriteRawFrame(0xbe, 0, 0, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			k, _, _ := dial(t, Settings{}, echo)
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				for range 10_000 {
					if attack(k) != nil {
						return
					}
				}
			}()
			for k.frame() {
			}
			<-sent
			if k.goAway != nil && k.code != http2.ErrCodeEnhanceYourCalm {
				t.Errorf("GOAWAY said %v", k.code)
			}
		})
	}
}

// TestMeasuredWay: a client that sends a PING for each piece of a long body, as gRPC does to
// measure the way, is no flood.
func TestMeasuredWay(t *testing.T) {
	k, _, _ := dial(t, Settings{Glitches: 10}, echo)
	k.open(1, false, head("POST", "/")...)
	for range 2000 {
		k.data(1, false, "x")
		k.must(k.fr.WritePing(false, [8]byte{}))
		for k.pongs == 0 {
			if !k.frame() {
				t.Fatal("the connection ended")
			}
		}
		k.pongs = 0
	}
	k.data(1, true, "")
	if got := k.verdict(1); got != "200" {
		t.Errorf("got %s", got)
	}
}

// TestBombs: a header section that grows when it is decoded, or never ends, costs little and ends.
func TestBombs(t *testing.T) {
	t.Run("indexed", func(t *testing.T) {
		k, _, _ := dial(t, Settings{}, echo)
		first := append(head("GET", "/"), "x-bomb", strings.Repeat("b", 3900))
		k.open(1, true, first...)
		if got := k.verdict(1); got != "200" {
			t.Fatal(got)
		}
		b := bytes.Repeat([]byte{0x80 | 62}, 16<<10) // each byte is 4 KB of the table
		k.must(k.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: b, EndStream: true, EndHeaders: true}))
		if got := k.verdict(3); got == "200" {
			t.Errorf("64 MB of fields got %s", got)
		}
	})
	t.Run("continuations", func(t *testing.T) {
		k, _, _ := dial(t, Settings{}, echo)
		k.must(k.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block(head("GET", "/")...)}))
		piece := block("x", strings.Repeat("c", 1000))
		sent := 0
		for ; sent < 1000 && k.fr.WriteContinuation(1, false, piece) == nil; sent++ {
		}
		for k.frame() {
		}
		if k.goAway != nil && k.code != http2.ErrCodeEnhanceYourCalm {
			t.Errorf("GOAWAY said %v", k.code)
		}
	})
}

// TestSlowBeginnings: the preface, the first SETTINGS and a header section have their time.
func TestSlowBeginnings(t *testing.T) {
	k, _, _ := dial(t, Settings{Head: 300 * time.Millisecond}, echo)
	k.must(k.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block(head("GET", "/")...)}))
	for k.frame() {
	}
	if k.goAway == nil || k.code != http2.ErrCodeProtocol {
		t.Errorf("half a header section: GOAWAY %v", k.goAway)
	}
	k, _, _ = dial(t, Settings{Head: 300 * time.Millisecond}, echo)
	if _, err := k.c.Write([]byte{0, 0}); err != nil {
		t.Fatal(err)
	}
	for k.frame() {
	}
	if k.goAway == nil {
		t.Error("half a frame head: no GOAWAY")
	}
}

// TestIdle: a connection without streams is closed after its time, PINGs or not.
func TestIdle(t *testing.T) {
	k, _, _ := dial(t, Settings{Idle: time.Second}, echo)
	k.open(1, true, head("GET", "/")...)
	if got := k.verdict(1); got != "200" {
		t.Fatal(got)
	}
	began := time.Now()
	for k.settle() {
		if time.Since(began) > 30*time.Second {
			t.Fatal("PINGs keep the connection open")
		}
		<-time.After(20 * time.Millisecond)
	}
	if k.goAway == nil || k.code != http2.ErrCodeNo {
		t.Errorf("GOAWAY %v", k.goAway)
	}
}

// TestQuietConnection: a connection that was silent for long still answers.
func TestQuietConnection(t *testing.T) {
	k, _, _ := dial(t, Settings{}, echo)
	for i := range uint32(3) {
		k.open(2*i+1, true, head("GET", "/")...)
		if got := k.verdict(2*i + 1); got != "200" {
			t.Fatal(got)
		}
		<-time.After(3 * keepBuffers) // buffers and goroutines go
	}
}

// TestTooManyStreams: streams over the limit are refused, which a client may try again.
func TestTooManyStreams(t *testing.T) {
	release := make(chan struct{})
	k, _, _ := dial(t, Settings{MaxStreams: 3}, func(x *exchange.Exchange) {
		<-release
		text(x, 200, "")
	})
	for i := range uint32(4) {
		k.open(2*i+1, true, head("GET", "/")...)
	}
	if a := k.wait(7); !a.reset || a.code != http2.ErrCodeRefusedStream {
		t.Errorf("the fourth got %+v", a)
	}
	close(release)
	for i := range uint32(3) {
		if got := k.verdict(2*i + 1); got != "200" {
			t.Errorf("stream %d got %s", 2*i+1, got)
		}
	}
}

// TestLongHead: a header section longer than a frame goes out in several.
func TestLongHead(t *testing.T) {
	long := strings.Repeat("v", 20_000)
	k, _, _ := dial(t, Settings{}, func(x *exchange.Exchange) {
		for _, n := range []string{"x-a", "x-b"} {
			x.Response.Fields.Add(n, long)
		}
		text(x, 200, "body")
	})
	k.fr.SetMaxReadFrameSize(16 << 10)
	k.open(1, true, head("GET", "/")...)
	if a := k.wait(1); a.body != "body" || len(a.fields) != 3 || a.fields[1] != "x-b="+long {
		t.Errorf("got %d fields, body %q", len(a.fields), a.body)
	}
}
