package integration

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// TestHTTP3LongLists sends field lists that take few bytes each time and become
// long, as headers and as trailers, 100 at a time: each is refused, and the heap does not
// grow by what they would become.
func TestHTTP3LongLists(t *testing.T) {
	const streams, lines = 100, 10_000
	var asked atomic.Int64
	o := origin(t, func(w http.ResponseWriter, r *http.Request) { asked.Add(1); w.WriteHeader(http.StatusNoContent) })
	env := overHTTP3()
	env["GOGC"] = "20" // what is held, and not what waits to be collected
	g := behind(t, o, "", "", env)
	// Field 85 of the static table, which is "content-security-policy" and a value of 52 bytes.
	var last bytes.Buffer
	if err := qpack.NewEncoder(&last).WriteField(qpack.HeaderField{Name: "content-security-policy", Value: "script-src 'none'; object-src 'none'; base-uri 'none'"}); err != nil {
		t.Fatal(err)
	}
	line := last.Bytes()[2:]
	if len(line) != 2 {
		t.Fatalf("a line takes %d bytes, 2 are expected", len(line))
	}
	request := section3(":method", "POST", ":scheme", "https", ":authority", "edge.test", ":path", "/")
	long := frame3(1, append(bytes.Clone(request), bytes.Repeat(line, lines)...))
	trailer := append(frame3(1, request), frame3(0, []byte("body"))...)
	trailer = append(trailer, frame3(1, append([]byte{0, 0}, bytes.Repeat(line, lines)...))...)
	for name, c := range map[string]struct {
		msg    []byte
		status string
	}{"headers": {long, "431"}, "trailers": {trailer, "400"}} {
		conn := dial3(t, g)
		warm, err := conn.OpenStreamSync(t.Context()) // what the first stream makes is everybody's
		if err != nil {
			t.Fatal(err)
		}
		_, _ = warm.Write(frame3(1, request))
		_ = warm.Close()
		if status, err := answer3(warm); status != "204" {
			t.Fatalf("a good request: %q %v", status, err)
		}
		asked.Store(0)
		before := g.counter(t, "keyway_heap_bytes")
		stop := make(chan struct{})
		peak := highest(stop, func() float64 { return g.counter(t, "keyway_heap_bytes") })
		var wg sync.WaitGroup
		for range streams {
			wg.Go(func() {
				s, err := conn.OpenStreamSync(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				_ = s.SetDeadline(time.Now().Add(30 * time.Second))
				_, _ = s.Write(c.msg)
				_ = s.Close()
				if status, err := answer3(s); status != c.status {
					t.Errorf("%s: %q %v, want %s", name, status, err, c.status)
				}
			})
		}
		wg.Wait()
		close(stop)
		grown := peak() - before
		t.Logf("%s: %d lists of %d bytes that become %d each: the heap grew by %.1f MiB at most", name, streams, len(c.msg), lines*(75+32), grown/mebi)
		if grown > 24*mebi { // what came is 2, what it would become 100
			t.Errorf("%s: the heap grew by %.1f MiB, at most 24 are allowed", name, grown/mebi)
		}
		if n := asked.Load(); n > 0 {
			t.Errorf("%s: %d of them reached the origin", name, n)
		}
		_ = conn.CloseWithError(0x100, "")
	}
}

// rapid opens streams on a connection and cancels each when 90 more are open, at most n
// of them, until the connection ends. It answers how many there were.
func rapid(t *testing.T, conn *quic.Conn, n int, running func() int64) (sent int) {
	t.Helper()
	msg := frame3(1, section3(":method", "GET", ":scheme", "https", ":authority", "edge.test", ":path", "/"))
	var streams []*quic.Stream
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for ; sent < n; sent++ {
		s, err := conn.OpenStreamSync(ctx)
		if err != nil {
			return sent
		}
		_, _ = s.Write(msg)
		_ = s.Close()
		if streams = append(streams, s); len(streams) == 90 {
			poll(t, "many run", 30*time.Second, func() bool { return running() >= 50 })
		}
		if len(streams) > 90 {
			streams[len(streams)-91].CancelRead(0x10c)
		}
	}
	return sent
}

// TestHTTP3Cancelled opens streams and cancels each when 90 more are open, on one
// connection after the other: never more requests run at the origin than a connection may
// have, each connection ends, and another client does not notice.
func TestHTTP3Cancelled(t *testing.T) {
	var now, peak atomic.Int64
	o := origin(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/quick" {
			return
		}
		n := now.Add(1)
		defer now.Add(-1)
		for p := peak.Load(); n > p && !peak.CompareAndSwap(p, n); p = peak.Load() {
		}
		<-r.Context().Done()
	})
	g := behind(t, o, "", "", overHTTP3())
	m := &timings{}
	c := speaker3(t, "edge.test")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			began := time.Now()
			if resp, _ := call(t, c, http.MethodGet, "https://"+g.tls+"/quick", nil); resp.StatusCode != 200 {
				t.Errorf("another client is answered %d", resp.StatusCode)
			}
			m.add(false, time.Since(began))
		}
	})
	time.Sleep(time.Second)
	n, _, quiet := m.reset(0)
	sent, conns := 0, 0
	for whole := sized(2000, 10_000); sent < whole; conns++ {
		conn := dial3(t, g)
		k := rapid(t, conn, whole, now.Load)
		sent += k
		select {
		case <-conn.Context().Done():
		case <-time.After(10 * time.Second):
		}
		var closed *quic.ApplicationError
		if !errors.As(context.Cause(conn.Context()), &closed) || closed.ErrorCode != 0x107 {
			t.Fatalf("after %d cancelled requests: %v, want H3_EXCESSIVE_LOAD", k, context.Cause(conn.Context()))
		}
		poll(t, "the origin has none of them any more", 20*time.Second, func() bool { return now.Load() == 0 })
	}
	during, p50, p99 := m.reset(0)
	close(stop)
	wg.Wait()
	// The origin sees an end somewhat later than the node that made it.
	if n := peak.Load(); n < 50 || n > 300 {
		t.Errorf("%d requests at the origin at a time", peak.Load())
	}
	t.Logf("%d streams on %d connections, at most %d at the origin; another client: %d requests with p99 %v before, %d with p50 %v and p99 %v meanwhile", sent, conns, peak.Load(), n, round(quiet), during, round(p50), round(p99))
	if n == 0 || during == 0 || p99 > max(2*quiet, noise) {
		t.Errorf("p99 of another client went from %v to %v", quiet, p99)
	}
}

// TestHTTP3Swap replaces the certificate under clients over HTTP/3. Half of them
// keep their connection, half open one for each request. Where they are many they pause
// between two requests: what is looked for is what goes wrong with a swap, and not what a
// machine does that has more handshakes to make than it can.
func TestHTTP3Swap(t *testing.T) {
	swaps, clients, gap := sized(20, 200), sized(8, 200), sized(0, 500*time.Millisecond)
	s := newShop(t, overHTTP3())
	var sent, lost atomic.Int64
	var first atomic.Value
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			kept := speaker3(t, "shop.test")
			for {
				select {
				case <-stop:
					return
				default:
				}
				c := kept
				if i%2 == 0 {
					c = &http.Client{Timeout: 20 * time.Second, Transport: &http3.Transport{QUICConfig: patient(), TLSClientConfig: &tls.Config{ServerName: "shop.test", InsecureSkipVerify: true}}}
				}
				sent.Add(1)
				if status, err := s.ask(c, "/open", ""); err != nil || status != http.StatusOK {
					lost.Add(1)
					first.CompareAndSwap(nil, fmt.Sprintf("%d %v", status, err))
				}
				if c != kept {
					_ = c.Transport.(*http3.Transport).Close()
				}
				pause(stop, gap)
			}
		})
	}
	for range swaps {
		cert, key := pair(t, "shop.test", "shop.test")
		want := serialOf(t, cert)
		s.replace(t, cert, key)
		poll(t, "the new certificate is served over QUIC", 30*time.Second, func() bool {
			conn := dial3(t, s.gateway, "shop.test")
			defer func() { _ = conn.CloseWithError(0x100, "") }()
			return conn.ConnectionState().TLS.PeerCertificates[0].SerialNumber.String() == want
		})
	}
	close(stop)
	wg.Wait()
	if lost.Load() > 0 {
		t.Errorf("%d of %d requests lost, the first: %v", lost.Load(), sent.Load(), first.Load())
	}
	t.Logf("%d swaps under %d requests of %d clients", swaps, sent.Load(), clients)
}
