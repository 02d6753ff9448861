package integration

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// TestOverloadIdleConnections (O-01) opens more connections than the node may have, and
// says nothing on them: those that are too many are refused, and who was there before
// does not notice.
func TestOverloadIdleConnections(t *testing.T) {
	limit, n := sized(200, 1000), sized(1000, 5000)
	o := fast(t)
	a := attackable(t, "["+service("all", o, "/", "", "")+"]", "", map[string]string{
		"KEYWAY_MAX_CONNECTIONS": strconv.Itoa(limit), "KEYWAY_HEADER_TIMEOUT": sized("4s", "10s"),
	})
	a.beside("/", true, func() {
		stop := make(chan struct{})
		most := highest(stop, func() float64 { return a.counter(t, `keyway_connections_open{listener="proxy"}`) })
		var held, refused atomic.Int64
		var wg sync.WaitGroup
		slots := make(chan struct{}, 64)
		for range n {
			slots <- struct{}{}
			c, err := net.DialTimeout("tcp", a.proxy, 5*time.Second)
			<-slots
			if err != nil {
				refused.Add(1)
				continue
			}
			wg.Go(func() {
				defer func() { _ = c.Close() }()
				_ = c.SetReadDeadline(time.Now().Add(3 * time.Second)) // a busy node takes its time to refuse
				if _, err := c.Read(make([]byte, 1)); err != nil && isTimeout(err) {
					held.Add(1)
					_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
					_, _ = io.Copy(io.Discard, c) // until the node has had enough of it
					return
				}
				refused.Add(1)
			})
		}
		wg.Wait()
		close(stop)
		t.Logf("%d idle connections: %d were held, %d refused, at most %.0f open at a time", n, held.Load(), refused.Load(), most())
		if h := int(held.Load()); h == 0 || h > limit || refused.Load() == 0 {
			t.Errorf("%d connections were held, the limit is %d", h, limit)
		}
		if got := a.counter(t, `keyway_connections_refused_total{listener="proxy",reason="max_connections"}`); int(got) < n-limit-int(held.Load()) {
			t.Errorf("%v refusals are counted", got)
		}
	})
}

func isTimeout(err error) bool {
	ne, ok := err.(net.Error)
	return ok && ne.Timeout()
}

// slowly runs slowhttptest until the node has closed all of its n connections, and
// answers how many were open at most, and how long it took to be rid of them after the
// last one had come.
func (a *attacked) slowly(listener string, n int, limit time.Duration, args ...string) (most int, took time.Duration) {
	t := a.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	path := installed(t, "slowhttptest")
	args = append(args, "-c", strconv.Itoa(n), "-r", "200", "-l", "240", "-p", "60")
	ended := make(chan string, 1)
	go func() { ended <- unleash(ctx, t, path, args...) }()
	const others = 12 // good clients, on the same listener perhaps
	var full time.Time
	for {
		open := int(a.counter(t, fmt.Sprintf("keyway_connections_open{listener=%q}", listener)))
		if open > most {
			most, full = open, time.Now()
		}
		if most > n/2 && open <= others {
			return most, time.Since(full)
		}
		select {
		case out := <-ended:
			if ctx.Err() != nil {
				t.Fatalf("%d connections are open still after %s, of %d", open, limit, most)
			}
			if most <= n/2 {
				t.Fatalf("slowhttptest has opened %d connections at most, of %d:\n%s", most, n, out)
			}
			return most, time.Since(full)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// TestOverloadSlowHeads (O-02) sends heads that never end.
func TestOverloadSlowHeads(t *testing.T) {
	n := sized(200, 2000)
	o := fast(t)
	for _, scheme := range []string{"http", "https"} {
		t.Run(scheme, func(t *testing.T) {
			a := attackable(t, "["+service("all", o, "/", "", "")+"]", "", map[string]string{"KEYWAY_HEADER_TIMEOUT": sized("3s", "10s")})
			a.beside("/", false, func() {
				most, took := a.slowly(map[string]string{"http": "proxy", "https": "proxy-tls"}[scheme], n, time.Minute, "-H", "-i", sized("1", "10"), "-u", a.url(scheme)+"/")
				t.Logf("%d slow heads, at most %d at a time, all refused %v after the most", n, most, took.Round(time.Millisecond))
			})
			if got := a.counter(t, `keyway_http_requests_total{code="4xx",source="keyway"}`); int(got) < n*9/10 {
				t.Errorf("%v requests were answered 408, want %d", got, n)
			}
		})
	}
}

// url is the address of the node in clear or over TLS.
func (g *gateway) url(scheme string) string {
	if scheme == "https" {
		return "https://" + g.tls
	}
	return "http://" + g.proxy
}

// TestOverloadSlowBodies (O-03) sends bodies by the byte. None of them reaches the
// origin, which the node asks only for requests that are complete.
func TestOverloadSlowBodies(t *testing.T) {
	n := sized(200, 2000)
	var posts atomic.Int64
	o := origin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && r.URL.Path == "/slow" {
			posts.Add(1)
		}
		_, _ = io.Copy(io.Discard, r.Body)
	})
	env := map[string]string{}
	if !whole() { // else the floor of 240 bytes a second after 10 s ends them
		env["KEYWAY_BODY_IDLE_TIMEOUT"] = "2s"
	}
	a := attackable(t, "["+service("all", o, "/", "", "")+"]", "", env)
	a.beside("/", false, func() {
		most, took := a.slowly("proxy", n, time.Minute, "-B", "-i", "5", "-x", "1", "-s", "8192", "-u", a.url("http")+"/slow")
		t.Logf("%d slow bodies, at most %d at a time, all refused %v after the most", n, most, took.Round(time.Millisecond))
		if posts.Load() > 0 {
			t.Errorf("the origin saw %d of the requests", posts.Load())
		}
	})
	if got := a.counter(t, `keyway_http_requests_total{code="4xx",source="keyway"}`); int(got) < n*9/10 {
		t.Errorf("%v requests were answered 408, want %d", got, n)
	}
}

// largeAnswers is a node before an origin whose /large is 64 MiB.
func largeAnswers(t *testing.T, env map[string]string) *attacked {
	t.Helper()
	o := origin(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/large" {
			w.Header().Set("Content-Length", strconv.Itoa(64*mebi))
			_, _ = io.Copy(w, zeros(64*mebi))
		}
	})
	env["GOGC"] = "25" // so that the heap is what is in use, and little else
	env["KEYWAY_MEMORY_LIMIT"] = "256MiB"
	return attackable(t, "["+service("all", o, "/", "", "")+"]", "", env)
}

// TestOverloadSlowReaders (O-04) asks for long answers and reads them by the byte.
func TestOverloadSlowReaders(t *testing.T) {
	n := sized(200, 2000)
	a := largeAnswers(t, map[string]string{"KEYWAY_WRITE_STALL_TIMEOUT": sized("2s", "30s")})
	a.beside("/", false, func() {
		stop := make(chan struct{})
		heap := highest(stop, func() float64 { return a.counter(t, "keyway_heap_bytes") })
		most, took := a.slowly("proxy", n, 2*time.Minute, "-X", "-w", "1", "-y", "10", "-n", "1", "-z", "1", "-k", "1", "-u", a.url("http")+"/large")
		close(stop)
		each := (int(heap()) - a.before.heap) / most
		t.Logf("%d slow readers, at most %d at a time, all given up %v after the most; %d bytes of heap each at most", n, most, took.Round(time.Millisecond), each)
		if each > slowReader {
			t.Errorf("a slow reader takes %d bytes of heap, at most %d are allowed", each, slowReader)
		}
	})
	a.within(256 * mebi)
}

// within says that the node never took more than limit.
func (a *attacked) within(limit int) {
	a.t.Helper()
	a.t.Logf("at most %d MiB were resident", a.peak()/mebi)
	if a.peak() > limit {
		a.t.Errorf("%d MiB were resident, the limit is %d", a.peak()/mebi, limit/mebi)
	}
}

// slowReader is what the heap may hold for one response that is not read: 64 KiB of
// buffers, 16 KiB of what a connection and an exchange are besides, and as much as
// the collector leaves lying: a quarter, and what comes while it is at work, which may be
// as much again.
const slowReader = (64 + 16) << 10 * 2

// TestOverloadClosedWindows (O-04) asks for long answers over HTTP/2 and opens no window
// for them.
func TestOverloadClosedWindows(t *testing.T) {
	conns, streams := sized(4, 20), 100
	a := largeAnswers(t, map[string]string{"KEYWAY_WRITE_STALL_TIMEOUT": sized("2s", "30s")})
	a.beside("/", false, func() {
		stop := make(chan struct{})
		heap := highest(stop, func() float64 { return a.counter(t, "keyway_heap_bytes") })
		began := time.Now()
		var resets atomic.Int64
		var wg sync.WaitGroup
		for i := range conns {
			wg.Go(func() {
				n, err := a.closedWindows(streams, i%2 == 1)
				resets.Add(int64(n))
				if err != nil {
					t.Errorf("after %d resets: %v", n, err)
				}
			})
		}
		wg.Wait()
		close(stop)
		each := (int(heap()) - a.before.heap) / (conns * streams)
		t.Logf("%d streams with a closed window: %d reset within %v; %d bytes of heap each at most", conns*streams, resets.Load(), time.Since(began).Round(time.Millisecond), each)
		if n := int(resets.Load()); n != conns*streams {
			t.Errorf("%d of %d streams were reset", n, conns*streams)
		}
		if each > slowReader {
			t.Errorf("a stream takes %d bytes of heap, at most %d are allowed", each, slowReader)
		}
	})
	a.within(256 * mebi)
}

// closedWindows opens streams whose windows are 0 and answers how many the node reset. One
// that creeps opens them again and again, by a byte.
func (a *attacked) closedWindows(streams int, creep bool) (resets int, err error) {
	c, err := tls.Dial("tcp", a.tls, &tls.Config{ServerName: "edge.test", InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(60 * time.Second))
	var b bytes.Buffer
	b.WriteString(http2.ClientPreface)
	fr := http2.NewFramer(&b, c)
	_ = fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	enc.SetMaxDynamicTableSize(0)
	for i := range streams {
		block.Reset()
		for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":path", "/large"}, {":authority", "edge.test"}} {
			_ = enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}) // into memory
		}
		_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
	}
	if _, err := c.Write(b.Bytes()); err != nil {
		return 0, err
	}
	if creep {
		stop := make(chan struct{})
		defer close(stop)
		go a.creep(c, streams, stop)
	}
	for resets < streams {
		f, err := fr.ReadFrame()
		if err != nil {
			return resets, err
		}
		switch f := f.(type) {
		case *http2.RSTStreamFrame:
			resets++
		case *http2.DataFrame:
			if f.Length > 0 && !creep {
				return resets, fmt.Errorf("%d bytes came through a closed window", f.Length)
			}
		}
	}
	return resets, nil
}

// creep opens the window of each stream by a byte, four times in the node's time for a stall.
func (a *attacked) creep(c net.Conn, streams int, stop <-chan struct{}) {
	var b bytes.Buffer
	fr := http2.NewFramer(&b, nil)
	for i := range streams {
		_ = fr.WriteWindowUpdate(uint32(2*i+1), 1) // into memory
	}
	for {
		select {
		case <-stop:
			return
		case <-time.After(sized(500*time.Millisecond, 7500*time.Millisecond)):
		}
		if _, err := c.Write(b.Bytes()); err != nil {
			return
		}
	}
}
