package integration

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const mebi = 1 << 20

// behind starts a node with one route for everything to one origin; service and
// route are more fields of theirs.
func behind(t testing.TB, origin, service, route string, env map[string]string) *gateway {
	t.Helper()
	host, port, err := net.SplitHostPort(origin)
	if err != nil {
		t.Fatal(err)
	}
	cert, key := pair(t, "edge.test", "edge.test")
	return start(t, options{env: env, document: fmt.Sprintf(`
_format_version: "3.0"
certificates: [{cert: %q, key: %q, snis: [edge.test]}]
services: [{name: all, host: %s, port: %s, %s routes: [{name: all, paths: [/], strip_path: false, %s}]}]
`, cert, key, host, port, service, route)})
}

// speaker is a client over TLS that speaks the version asked for.
func speaker(t testing.TB, h2 bool) *http.Client {
	tr := &http.Transport{ForceAttemptHTTP2: h2, TLSClientConfig: &tls.Config{ServerName: "edge.test", InsecureSkipVerify: true}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 90 * time.Second}
}

// both runs a test over HTTP/1.1 and HTTP/2.
func both(t *testing.T, f func(t *testing.T, c *http.Client)) {
	t.Helper()
	for _, v := range []struct {
		name string
		h2   bool
	}{{"HTTP1", false}, {"HTTP2", true}} {
		t.Run(v.name, func(t *testing.T) { f(t, speaker(t, v.h2)) })
	}
}

// call sends a request and reads the whole answer.
func call(t testing.TB, c *http.Client, method, url string, body io.Reader) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: reading the body: %v", method, url, err)
	}
	return resp, string(text)
}

// raw opens a connection to the node, in clear or over TLS as HTTP/1.1.
func raw(t testing.TB, g *gateway, secure bool) net.Conn {
	t.Helper()
	var c net.Conn
	var err error
	if secure {
		c, err = tls.Dial("tcp", g.tls, &tls.Config{ServerName: "edge.test", InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	} else {
		c, err = net.Dial("tcp", g.proxy)
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// send writes text to a connection.
func send(t testing.TB, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatalf("writing to the node: %v", err)
	}
}

// peak is the most memory that the node had resident, in bytes.
func (g *gateway) peak() int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.cmd.Process.Pid))
	if err != nil {
		g.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.Atoi(strings.Fields(v)[0])
			if err != nil {
				g.t.Fatal(err)
			}
			return n << 10
		}
	}
	g.t.Fatal("no VmHWM in /proc")
	return 0
}

// TestProxyWebSocket upgrades by hand. Both sides speak at once after the 101, the
// client's first bytes come in one piece with its request, and the origin's last
// ones arrive before the end.
func TestProxyWebSocket(t *testing.T) {
	o := origin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" || !strings.Contains(r.Header.Get("Connection"), "Upgrade") || r.Header.Get("Sec-WebSocket-Key") == "" {
			http.Error(w, fmt.Sprintf("no upgrade: %v", r.Header), http.StatusBadRequest)
			return
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nhello,")
		_, _ = io.CopyN(c, rw, int64(len("first,"))+2*mebi)
		_, _ = io.WriteString(c, "bye")
	})
	g := behind(t, o, "", "", nil)
	for _, secure := range []bool{false, true} {
		c := raw(t, g, secure)
		send(t, c, "GET /chat HTTP/1.1\r\nHost: edge.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\nfirst,")
		r := bufio.NewReader(c)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Sec-WebSocket-Accept") == "" {
			t.Fatalf("secure %v: %s %v", secure, resp.Status, resp.Header)
		}
		payload := bytes.Repeat([]byte("0123456789abcdef"), 2*mebi/16)
		go func() {
			_, _ = c.Write(payload)
		}()
		got, err := io.ReadAll(r)
		if err != nil {
			t.Fatalf("secure %v: after %d bytes: %v", secure, len(got), err)
		}
		if want := "hello,first," + string(payload) + "bye"; string(got) != want {
			t.Errorf("secure %v: %d bytes came back, want %d that are the same", secure, len(got), len(want))
		}
	}
	// An origin that refuses the upgrade answers as always, and the connection is good for more.
	c := raw(t, g, false)
	r := bufio.NewReader(c)
	for range 2 {
		send(t, c, "GET /chat HTTP/1.1\r\nHost: edge.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusBadRequest {
			t.Errorf("a refused upgrade: %s %v", resp.Status, err)
		}
	}
}

// TestProxyContinue waits for 100 before it sends a body, as curl does with large
// ones. An origin that refuses by the head is heard though the body stops coming.
func TestProxyContinue(t *testing.T) {
	l := accepting(t, "127.0.0.1:0", func(c net.Conn) { // net/http would wait for the body before it refuses
		r, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		if r.URL.Path == "/no" {
			_, _ = io.WriteString(c, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			_, _ = io.Copy(io.Discard, r.Body)
			return
		}
		body, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n%d", len(body))
	})
	for _, buffered := range []string{"true", "false"} {
		g := behind(t, l.Addr().String(), "", "request_buffering: "+buffered, nil)
		for _, secure := range []bool{false, true} {
			c := raw(t, g, secure)
			r := bufio.NewReader(c)
			send(t, c, "POST /yes HTTP/1.1\r\nHost: edge.test\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n")
			line, err := r.ReadString('\n')
			if err != nil || !strings.HasPrefix(line, "HTTP/1.1 100") {
				t.Fatalf("want 100 before the body, got %q %v", line, err)
			}
			if _, err := r.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
			send(t, c, "0123456789")
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			if text, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 200 || string(text) != "10" {
				t.Errorf("after 100: %s %q %v", resp.Status, text, err)
			}
			if buffered == "true" {
				continue // a buffering route asks for the body before anybody can refuse it
			}
			began := time.Now()
			send(t, c, "POST /no HTTP/1.1\r\nHost: edge.test\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n")
			resp, err = http.ReadResponse(r, nil)
			if err == nil && resp.StatusCode == http.StatusContinue {
				send(t, c, "01234")
				resp, err = http.ReadResponse(r, nil) // the other five never come
			}
			if err != nil || resp.StatusCode != http.StatusForbidden || time.Since(began) > 5*time.Second {
				t.Errorf("refused by the head: %v %v after %s", resp, err, time.Since(began))
			}
		}
	}
}

// TestProxyTrailers sends trailers both ways.
func TestProxyTrailers(t *testing.T) {
	o := origin(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		body, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%s %s", body, r.Trailer.Get("X-Check"))
		_ = http.NewResponseController(w).Flush()
		w.Header().Set("X-Sum", "42")
	})
	for _, buffered := range []string{"true", "false"} {
		g := behind(t, o, "", "request_buffering: "+buffered, nil)
		both(t, func(t *testing.T, c *http.Client) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+g.tls+"/t", io.MultiReader(strings.NewReader("body")))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("TE", "trailers")
			req.Trailer = http.Header{"X-Check": {"7"}}
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			text, err := io.ReadAll(resp.Body)
			if err != nil || string(text) != "body 7" {
				t.Errorf("buffered %s: the origin had %q, want \"body 7\"; %v", buffered, text, err)
			}
			if resp.Trailer.Get("X-Sum") != "42" {
				t.Errorf("buffered %s: trailers %v, want X-Sum: 42", buffered, resp.Trailer)
			}
		})
	}
}

// TestProxyHeadAndPipelining sends 40 requests at once, HEAD and bodies among them,
// and reads 40 answers in their order.
func TestProxyHeadAndPipelining(t *testing.T) {
	o := origin(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Length", strconv.Itoa(len(r.URL.Path)+len(body)))
		_, _ = io.WriteString(w, r.URL.Path+string(body))
	})
	g := behind(t, o, "", "", nil)
	c := raw(t, g, true)
	var all strings.Builder
	methods := []string{"GET", "HEAD", "POST", "GET"}
	for i := range 40 {
		m := methods[i%4]
		fmt.Fprintf(&all, "%s /n%d HTTP/1.1\r\nHost: edge.test\r\n", m, i)
		if m == "POST" {
			all.WriteString("Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n")
		} else {
			all.WriteString("\r\n")
		}
	}
	go func() { _, _ = io.WriteString(c, all.String()) }()
	r := bufio.NewReader(c)
	for i := range 40 {
		m, want := methods[i%4], fmt.Sprintf("/n%d", i)
		resp, err := http.ReadResponse(r, &http.Request{Method: m})
		if err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		text, err := io.ReadAll(resp.Body)
		if m == "POST" {
			want += "body"
		}
		length := int64(len(want))
		if m == "HEAD" {
			want = ""
		}
		if err != nil || resp.StatusCode != 200 || string(text) != want || resp.ContentLength != length {
			t.Fatalf("answer %d: %s %q of length %d, want %q; %v", i, resp.Status, text, resp.ContentLength, want, err)
		}
	}
}

// zeros is a body of a length that nobody holds in memory.
func zeros(n int64) io.Reader { return io.LimitReader(zero{}, n) }

type zero struct{}

func (zero) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestProxyStreams sends 100 MiB each way; the node may hold only a little of it.
func TestProxyStreams(t *testing.T) {
	const size = 100 * mebi
	o := origin(t, func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if r.Method == http.MethodPost {
			_, _ = fmt.Fprintf(w, "%d %v", n, err)
			return
		}
		_, _ = io.Copy(w, zeros(size))
	})
	for _, buffered := range []string{"false", "true"} {
		g := behind(t, o, "", "request_buffering: "+buffered, nil)
		both(t, func(t *testing.T, c *http.Client) {
			call(t, c, http.MethodPost, "https://"+g.tls+"/up", zeros(mebi)) // what is made once is not counted
			before := g.peak()
			if _, text := call(t, c, http.MethodPost, "https://"+g.tls+"/up", zeros(size)); text != fmt.Sprintf("%d <nil>", size) {
				t.Errorf("the origin had %q", text)
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+g.tls+"/down", nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != size {
				t.Errorf("%d bytes came, want %d: %v", n, size, err)
			}
			grown := g.peak() - before
			t.Logf("request_buffering %s: 100 MiB up and down took %d KiB more memory", buffered, grown>>10)
			if grown > 40*mebi {
				t.Errorf("the node's memory grew by %d MiB, at most 40 expected", grown/mebi)
			}
		})
		if left, err := os.ReadDir(g.dir + "/spool"); err != nil || len(left) > 0 {
			t.Errorf("%d files are left in the spool: %v", len(left), err)
		}
	}
}

// TestProxyBackPressure has a reader that stops, on each side: the writer on the
// other side must be held, not the bytes.
func TestProxyBackPressure(t *testing.T) {
	const size = 200 * mebi
	release := make(chan struct{})
	var moved atomic.Int64
	o := origin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			<-release
			n, _ := io.Copy(io.Discard, r.Body)
			_, _ = fmt.Fprint(w, n)
			return
		}
		buf := make([]byte, 64<<10)
		for n := 0; n < size; n += len(buf) {
			if _, err := w.Write(buf); err != nil {
				return
			}
			moved.Add(int64(len(buf)))
		}
	})
	g := behind(t, o, "", "request_buffering: false", nil)
	// stalls waits until the count stands still and says where.
	stalls := func(t *testing.T) int64 {
		last, since := int64(-1), time.Now()
		poll(t, "the writer is held", 20*time.Second, func() bool {
			if n := moved.Load(); n != last {
				last, since = n, time.Now()
			}
			return last > 0 && time.Since(since) > 700*time.Millisecond
		})
		return last
	}
	both(t, func(t *testing.T, c *http.Client) {
		moved.Store(0)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+g.tls+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if n := stalls(t); n > 40*mebi {
			t.Errorf("a client that does not read was sent %d MiB", n/mebi)
		}
		if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != size {
			t.Errorf("after the pause %d bytes, %v", n, err)
		}
		_ = resp.Body.Close()

		release = make(chan struct{})
		moved.Store(0)
		answer := make(chan string, 1)
		go func() {
			resp, err := c.Post("https://"+g.tls+"/", "text/plain", io.TeeReader(zeros(size), count{&moved}))
			if err != nil {
				answer <- err.Error()
				return
			}
			defer func() { _ = resp.Body.Close() }()
			text, err := io.ReadAll(resp.Body)
			answer <- fmt.Sprint(string(text), err)
		}()
		if n := stalls(t); n > 40*mebi {
			t.Errorf("an origin that does not read was sent %d MiB", n/mebi)
		}
		close(release)
		if got, want := <-answer, fmt.Sprint(size, nil); got != fmt.Sprint(strconv.Itoa(size), nil) {
			t.Errorf("after the pause: %s, want %s", got, want)
		}
	})
}

type count struct{ n *atomic.Int64 }

func (c count) Write(p []byte) (int, error) { c.n.Add(int64(len(p))); return len(p), nil }

// TestProxyEarlyResponse answers before the upload has ended: the client reads the
// answer, not a reset.
func TestProxyEarlyResponse(t *testing.T) {
	o := origin(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadFull(r.Body, make([]byte, 1000))
		w.Header().Set("Connection", "close")
		http.Error(w, "too much", http.StatusForbidden)
	})
	for _, buffered := range []string{"false", "true"} {
		g := behind(t, o, "", "request_buffering: "+buffered, nil)
		both(t, func(t *testing.T, c *http.Client) {
			for range 5 {
				resp, text := call(t, c, http.MethodPost, "https://"+g.tls+"/", zeros(8*mebi))
				if resp.StatusCode != http.StatusForbidden || text != "too much\n" {
					t.Errorf("buffered %s: %s %q", buffered, resp.Status, text)
				}
			}
		})
	}
}

// TestProxyClientAbort goes away before the answer; the origin is told.
func TestProxyClientAbort(t *testing.T) {
	began, gone := make(chan struct{}, 1), make(chan struct{}, 1)
	o := origin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/part" {
			_, _ = io.WriteString(w, "a first part")
			_ = http.NewResponseController(w).Flush()
		}
		began <- struct{}{}
		<-r.Context().Done()
		gone <- struct{}{}
	})
	g := behind(t, o, "read_timeout: 60000,", "", nil)
	both(t, func(t *testing.T, c *http.Client) {
		for _, path := range []string{"/wait", "/part"} {
			ctx, cancel := context.WithCancel(t.Context())
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+g.tls+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				if resp, err := c.Do(req); err == nil {
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
			}()
			<-began
			cancel()
			<-done
			select {
			case <-gone:
			case <-time.After(20 * time.Second):
				t.Errorf("%s: the origin still works for a client that has gone", path)
				g.t.FailNow()
			}
		}
	})
}

// TestProxyDeadTargets spreads over two targets of which one is dead, or hangs up.
func TestProxyDeadTargets(t *testing.T) {
	var live atomic.Int64
	good := origin(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		live.Add(1)
		_, _ = fmt.Fprintf(w, "%d", len(body))
	})
	// A target that reads a request and hangs up.
	var hungUp atomic.Int64
	rude := accepting(t, "127.0.0.1:0", func(c net.Conn) {
		_, _ = http.ReadRequest(bufio.NewReader(c))
		hungUp.Add(1)
	})
	g := start(t, options{document: fmt.Sprintf(`
_format_version: "3.0"
upstreams:
- {name: half, targets: [{target: "127.0.0.1:%d"}, {target: "%s"}]}
- {name: rude, targets: [{target: "%s"}, {target: "%s"}]}
services:
- {name: half, host: half, retries: 3, routes: [{paths: [/half]}]}
- {name: rude, host: rude, retries: 3, routes: [{paths: [/rude]}]}
- {name: dead, host: 127.0.0.1, port: %d, retries: 2, routes: [{paths: [/dead]}]}
`, freePort(t), good, rude.Addr(), good, freePort(t))})
	for i := range 60 {
		method := []string{http.MethodGet, http.MethodPost}[i%2]
		resp, text := call(t, http.DefaultClient, method, "http://"+g.proxy+"/half", strings.NewReader("12345"))
		if resp.StatusCode != 200 || text != "5" {
			t.Fatalf("request %d: %s %q", i, resp.Status, text)
		}
	}
	// What is safe to repeat is repeated at the other target; what is not is answered 502, and had one try.
	var bad int64
	for i := range 40 {
		resp, _ := call(t, http.DefaultClient, http.MethodGet, "http://"+g.proxy+"/rude", nil)
		if resp.StatusCode != 200 {
			t.Fatalf("request %d: %s", i, resp.Status)
		}
	}
	hungUp.Store(0)
	live.Store(0)
	for range 40 {
		resp, _ := call(t, http.DefaultClient, http.MethodPost, "http://"+g.proxy+"/rude", strings.NewReader("once"))
		switch resp.StatusCode {
		case 200:
		case http.StatusBadGateway:
			bad++
		default:
			t.Errorf("%s", resp.Status)
		}
	}
	if bad == 0 || hungUp.Load() != bad || live.Load() != 40-bad {
		t.Errorf("of 40 POSTs %d were answered 502; one target had %d, the other %d: none may be sent twice", bad, hungUp.Load(), live.Load())
	}
	resp, text := call(t, http.DefaultClient, http.MethodGet, "http://"+g.proxy+"/dead", nil)
	if resp.StatusCode != http.StatusBadGateway || !strings.Contains(text, "invalid response") {
		t.Errorf("no target lives: %s %q", resp.Status, text)
	}
}

// TestProxyTimeouts has an origin that says nothing, and one that stops in mid-body.
func TestProxyTimeouts(t *testing.T) {
	hold := make(chan struct{})
	o := origin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/half" {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
		}
		select {
		case <-hold:
		case <-r.Context().Done():
		}
	})
	defer close(hold)
	g := behind(t, o, "read_timeout: 400, retries: 0,", "", nil)
	both(t, func(t *testing.T, c *http.Client) {
		began := time.Now()
		resp, text := call(t, c, http.MethodGet, "https://"+g.tls+"/", nil)
		if took := time.Since(began); resp.StatusCode != http.StatusGatewayTimeout || took < 350*time.Millisecond || took > 5*time.Second {
			t.Errorf("%s %q after %s, want 504 after 0.4 s", resp.Status, text, took)
		}
		// A body that breaks off must not look whole.
		resp, err := c.Get("https://" + g.tls + "/half")
		if err != nil {
			return // so it can be told as well
		}
		defer func() { _ = resp.Body.Close() }()
		if body, err := io.ReadAll(resp.Body); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("half a body was passed on as %q, %v", body, err)
		}
	})
}
