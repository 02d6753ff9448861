package integration

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

// TestHTTP3Unfinished has the last flight of a handshake get lost: the client is told
// when the node has given it up, and need not wait for what does not come.
func TestHTTP3Unfinished(t *testing.T) {
	env := overHTTP3()
	env["KEYWAY_HANDSHAKE_TIMEOUT"] = "2s"
	g := behind(t, origin(t, func(http.ResponseWriter, *http.Request) {}), "", "", env)
	to, err := net.ResolveUDPAddr("udp", g.tls)
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pc.Close() }()
	sock := &firstOnly{PacketConn: pc}
	tr := &quic.Transport{Conn: sock}
	defer func() { _ = tr.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	// With this curve the first word is one packet: it has been said when the answer comes.
	hello := &tls.Config{ServerName: "edge.test", InsecureSkipVerify: true, NextProtos: []string{"h3"}, CurvePreferences: []tls.CurveID{tls.X25519}}
	conn, err := tr.Dial(ctx, to, hello, &quic.Config{HandshakeIdleTimeout: time.Minute, MaxIdleTimeout: time.Minute})
	if err == nil { // as the client sees it, its own last flight is the end
		select {
		case <-conn.Context().Done():
		case <-ctx.Done():
		}
		err = context.Cause(conn.Context())
	}
	var told *quic.TransportError
	if !errors.As(err, &told) || !told.Remote || told.ErrorCode != quic.ApplicationErrorErrorCode {
		t.Errorf("the client ends with %v, want the node's word", err)
	}
	if in, out := sock.in.Load(), sock.out.Load(); in > 3*out+packet3 {
		t.Errorf("the client sent %d bytes and was sent %d", out, in)
	}
	poll(t, "it is counted", 20*time.Second, func() bool {
		return g.counter(t, `keyway_tls_handshakes_total{cipher="",group="",result="timeout",version=""}`) == 1
	})
	if resp, _ := call(t, speaker3(t, "edge.test"), http.MethodGet, "https://"+g.tls+"/", nil); resp.StatusCode != 200 {
		t.Errorf("another client: %d", resp.StatusCode)
	}
}

// first is the first datagram of a client that comes over QUIC, and the socket that it comes from.
func first(t *testing.T, to net.Addr) (net.PacketConn, []byte) {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.Close() })
	kept := &hoarder{PacketConn: pc, first: make(chan []byte, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		tr := &quic.Transport{Conn: kept}
		_, _ = tr.Dial(ctx, to, &tls.Config{ServerName: "edge.test", InsecureSkipVerify: true, NextProtos: []string{"h3"}}, patient())
		_ = tr.Close()
	})
	p := <-kept.first
	cancel()
	wg.Wait()
	return pc, p
}

// hoarder is a socket that keeps its first datagram and sends none.
type hoarder struct {
	net.PacketConn
	first chan []byte
}

func (c *hoarder) WriteTo(p []byte, _ net.Addr) (int, error) {
	select {
	case c.first <- bytes.Clone(p):
	default:
	}
	return len(p), nil
}

// overflown is how many datagrams the kernel threw away at a port, whose sockets had no room.
func overflown(t *testing.T, address string) (n int) {
	t.Helper()
	text, err := os.ReadFile("/proc/net/udp")
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(portOf(address))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) > 2 && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
			drops, err := strconv.Atoi(f[len(f)-1])
			if err != nil {
				t.Fatal(err)
			}
			n += drops
		}
	}
	return n
}

// TestHTTP3Crowd has many clients say their first word at the same time, each once:
// every one that reaches the node is answered, let in, asked to prove its address or refused.
func TestHTTP3Crowd(t *testing.T) {
	const many = 300
	for _, c := range []struct{ what, most string }{{"asked", "0"}, {"refused", "20"}} {
		env := overHTTP3()
		env["KEYWAY_MAX_CONNECTIONS"] = c.most
		g := behind(t, origin(t, func(http.ResponseWriter, *http.Request) {}), "", "", env)
		to, err := net.ResolveUDPAddr("udp", g.tls)
		if err != nil {
			t.Fatal(err)
		}
		socks, words := make([]net.PacketConn, many), make([][]byte, many)
		for i := range many {
			socks[i], words[i] = first(t, to)
		}
		for i, pc := range socks {
			if _, err := pc.WriteTo(words[i], to); err != nil {
				t.Fatal(err)
			}
		}
		kinds, buf := map[byte]int{}, make([]byte, 2000)
		deadline := time.Now().Add(20 * time.Second)
		for _, pc := range socks {
			_ = pc.SetReadDeadline(deadline)
			if n, _, err := pc.ReadFrom(buf); err == nil && n > 0 {
				kinds[buf[0]&0xf0]++
			}
		}
		// RFC 9000, section 17.2: Initial, and Retry.
		t.Logf("%s: of %d clients %d were let in or refused, %d were asked to prove their address", c.what, many, kinds[0xc0], kinds[0xf0])
		thrown := overflown(t, g.tls)
		if answered := kinds[0xc0] + kinds[0xf0]; answered+thrown != many || answered < many/4 {
			t.Errorf("%s: %d of %d clients were not answered, %d did not reach the node", c.what, many-answered, many, thrown)
		}
	}
}
