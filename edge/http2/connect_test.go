package http2

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// switched answers as an upstream that has switched, and gives out its end of the tunnel.
func switched(peers chan<- net.Conn) func(x *exchange.Exchange) {
	return func(x *exchange.Exchange) {
		q := &x.Request
		if q.Method != "GET" || q.Upgrade != "websocket" || q.Fields.Count("Sec-WebSocket-Key") != 1 {
			text(x, 500, q.Method+q.Upgrade)
			return
		}
		here, there := net.Pipe()
		r := &x.Response
		r.Status, r.Switch = 101, here
		r.Fields.Add("Upgrade", "websocket")
		r.Fields.Add("Connection", "Upgrade")
		r.Fields.Add("Sec-WebSocket-Accept", acceptKey(q.Fields.Get("Sec-WebSocket-Key")))
		r.Fields.Add("Sec-WebSocket-Protocol", "chat")
		peers <- there
	}
}

func extended(protocol, path string, fields ...string) []string {
	return head("CONNECT", path, append([]string{":protocol", protocol, "sec-websocket-version", "13"}, fields...)...)
}

// TestWebSocket: an extended CONNECT becomes an upgrade, and bytes go both ways.
func TestWebSocket(t *testing.T) {
	peers := make(chan net.Conn, 1)
	k, h, _ := dial(t, Settings{}, switched(peers))
	k.open(1, false, extended("websocket", "/chat", "sec-websocket-key", "of a client that should not")...)
	peer := <-peers
	for k.answer(1).status == "" {
		if !k.frame() {
			t.Fatal("the connection ended")
		}
	}
	if a := k.answer(1); a.status != "200" || strings.Join(a.fields, " ") != "sec-websocket-protocol=chat" {
		t.Fatalf("got %+v", a)
	}
	k.data(1, false, "hello")
	buf := make([]byte, 5)
	if _, err := io.ReadFull(peer, buf); err != nil || string(buf) != "hello" {
		t.Fatalf("the upstream got %q, %v", buf, err)
	}
	if _, err := io.WriteString(peer, "good day"); err != nil {
		t.Fatal(err)
	}
	for k.answer(1).body != "good day" {
		if !k.frame() {
			t.Fatal("the connection ended")
		}
	}
	k.open(3, true, head("POST", "/")...) // the connection serves others meanwhile
	if got := k.verdict(3); got != "500" {
		t.Errorf("another stream got %s", got)
	}
	_ = peer.Close()
	if a := k.wait(1); !a.ended {
		t.Errorf("the end was not passed on: %+v", a)
	}
	poll(t, "both done", func() bool { return len(h.ended()) == 2 })
	if err := errors.Join(h.ended()...); err != nil {
		t.Error(err)
	}
}

// TestWebSocketOfAClientThatGoes: its end, and its giving up, end the upstream's side.
func TestWebSocketOfAClientThatGoes(t *testing.T) {
	for _, reset := range []bool{false, true} {
		peers := make(chan net.Conn, 1)
		k, h, _ := dial(t, Settings{}, switched(peers))
		k.open(1, false, extended("websocket", "/")...)
		peer := <-peers
		if reset {
			k.must(k.fr.WriteRSTStream(1, 8))
		} else {
			k.data(1, true, "bye")
		}
		if b, err := io.ReadAll(peer); err != nil || string(b) != "bye" && !reset {
			t.Errorf("reset %v: the upstream got %q, %v", reset, b, err)
		}
		poll(t, "done", func() bool { return len(h.ended()) == 1 })
	}
}

// TestWebSocketRefused: what is no switch must not look like one.
func TestWebSocketRefused(t *testing.T) {
	for name, c := range map[string]struct {
		protocol string
		answer   func(x *exchange.Exchange)
		want     string
	}{
		"by the upstream":  {"websocket", func(x *exchange.Exchange) { text(x, 403, "no") }, "403"},
		"with a success":   {"websocket", func(x *exchange.Exchange) { text(x, 200, "hello") }, "502"},
		"another protocol": {"connect-udp", echo, "501"},
		"with a wrong hash": {"websocket", func(x *exchange.Exchange) {
			here, there := net.Pipe()
			go func() { _, _ = io.Copy(io.Discard, there) }()
			x.Response.Status, x.Response.Switch = 101, here
			x.Response.Fields.Add("Sec-WebSocket-Accept", "x")
		}, "502"},
	} {
		t.Run(name, func(t *testing.T) {
			k, _, _ := dial(t, Settings{}, c.answer)
			k.open(1, false, extended(c.protocol, "/")...)
			if got := k.verdict(1); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// TestWebSocketSilence: a tunnel that nobody uses ends; one side's silence is no reason.
func TestWebSocketSilence(t *testing.T) {
	fault := "none"
	for n := 0; n < 3 && fault != ""; n++ { // one that waits for a processor is as silent as who sleeps
		peers := make(chan net.Conn, 1)
		k, _, _ := dial(t, Settings{TunnelIdle: time.Second}, switched(peers))
		k.open(1, false, extended("websocket", "/")...)
		peer := <-peers
		began := time.Now()
		go func() {
			for range 10 {
				if _, err := io.WriteString(peer, "."); err != nil {
					return
				}
				<-time.After(150 * time.Millisecond)
			}
			_, _ = io.Copy(io.Discard, peer)
		}()
		a := k.wait(1)
		fault = ""
		if took := time.Since(began); took < 1500*time.Millisecond || a.body != ".........." {
			fault = fmt.Sprintf("it ended after %v with %q", took, a.body)
		}
	}
	if fault != "" {
		t.Error(fault)
	}
}

// TestWebSocketGoodbye: who has a WebSocket open is told when the node goes, and the end
// is as it should be when it answers, and soon when it does not.
func TestWebSocketGoodbye(t *testing.T) {
	fastest := time.Minute
	for _, polite := range []bool{true, true, true, false} {
		if polite && fastest < 4*time.Second {
			continue // one that waits for a processor says nothing of the others
		}
		peers := make(chan net.Conn, 1)
		k, h, e := dial(t, Settings{}, switched(peers))
		k.open(1, false, extended("websocket", "/")...)
		peer := <-peers
		long := "\x82\x7e\x10\x00" + strings.Repeat("x", 4096)
		if _, err := io.WriteString(peer, long); err != nil {
			t.Fatal(err)
		}
		for len(k.answer(1).body) < len(long) {
			if !k.frame() {
				t.Fatal("the connection ended")
			}
		}
		began := time.Now()
		drained := make(chan struct{})
		go func() {
			e.Drain(t.Context())
			close(drained)
		}()
		for k.answer(1).body != long+"\x88\x02\x03\xe9" {
			if !k.frame() {
				t.Fatalf("polite %v: got %d bytes", polite, len(k.answer(1).body))
			}
		}
		if polite {
			k.data(1, false, "\x88\x82....")
			buf := make([]byte, 6)
			if _, err := io.ReadFull(peer, buf); err != nil || string(buf) != "\x88\x82...." {
				t.Fatalf("the upstream got %q, %v", buf, err)
			}
			_, _ = io.WriteString(peer, "\x88\x02\x03\xe9") // is dropped
			_ = peer.Close()
		} else {
			go func() { _, _ = io.Copy(io.Discard, peer) }()
		}
		a := k.wait(1)
		took := time.Since(began)
		if a.body != long+"\x88\x02\x03\xe9" || polite && !a.ended || took > 30*time.Second {
			t.Errorf("polite %v: after %v %+v", polite, took, a)
		}
		if polite {
			fastest = min(fastest, took)
		}
		poll(t, "done", func() bool { return len(h.ended()) == 1 })
		<-drained
	}
	if fastest > 4*time.Second {
		t.Errorf("a client that answers the goodbye is let go after %v", fastest)
	}
}
