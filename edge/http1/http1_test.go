package http1

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// handler answers by a function and notes what Done was told.
type handler struct {
	mu   sync.Mutex
	f    func(x *exchange.Exchange)
	done []error
}

func (h *handler) Handle(x *exchange.Exchange) { h.f(x) }
func (h *handler) Done(_ *exchange.Exchange, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.done = append(h.done, err)
}

func text(x *exchange.Exchange, status int, s string) {
	x.Response.Status, x.Response.Length, x.Response.Body = status, int64(len(s)), strings.NewReader(s)
}

// echo answers with what it read, or with the status that the engine asks for.
func echo(x *exchange.Exchange) {
	if x.Refused != 0 {
		text(x, x.Refused, "refused")
		return
	}
	body, err := io.ReadAll(x.Request.Body)
	var be *exchange.BodyError
	if errors.As(err, &be) {
		text(x, max(be.Status, 400), "bad body")
		x.Response.Close = true
		return
	}
	text(x, 200, fmt.Sprintf("%s %s host=%s body=%q trailer=%d", x.Request.Method, x.Request.Target, x.Request.Host, body, x.Request.Trailer.Len()))
}

// serve runs an engine on loopback and answers a connection to it.
func serve(t *testing.T, s *Server, f func(*exchange.Exchange)) (net.Conn, *handler) {
	t.Helper()
	h := &handler{f: f}
	s.Handler = h
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { s.ServeConn(ctx, c, &exchange.Conn{}) })
		}
	})
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(60 * time.Second))
	t.Cleanup(func() {
		_ = c.Close()
		_ = l.Close()
		cancel()
		wg.Wait()
	})
	return c, h
}

// ask writes raw bytes and reads n responses.
func ask(t *testing.T, c net.Conn, raw string, n int) []*http.Response {
	t.Helper()
	if _, err := io.WriteString(c, raw); err != nil {
		t.Fatal(err)
	}
	return read(t, bufio.NewReader(c), n, "GET")
}

func read(t *testing.T, r *bufio.Reader, n int, method string) []*http.Response {
	t.Helper()
	var all []*http.Response
	for range n {
		resp, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body = io.NopCloser(strings.NewReader(string(b)))
		all = append(all, resp)
	}
	return all
}

func bodyOf(r *http.Response) string {
	b, _ := io.ReadAll(r.Body)
	return string(b)
}

func TestPipelinedAndChunked(t *testing.T) {
	c, _ := serve(t, &Server{}, echo)
	got := ask(t, c, "\r\nPOST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloPOST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\n\r\n", 3)
	for i, want := range []string{`POST /1 host=a body="hello" trailer=0`, `POST /2 host=a body="abc" trailer=1`, `GET /3 host=a body="" trailer=0`} {
		if b := bodyOf(got[i]); b != want || got[i].Close {
			t.Errorf("answer %d: %s (close %v)", i, b, got[i].Close)
		}
	}
}

func TestMalformedIsTheClientsFaultAndCloses(t *testing.T) {
	for raw, status := range map[string]int{
		"GET / HTTP/1.1\r\n\r\n":                                                               400,
		"GET / HTTP/1.1\nHost: a\n\n":                                                          400,
		"GET /" + strings.Repeat("a", 40000):                                                   414,
		"GET / HTTP/1.1\r\nX: " + strings.Repeat("a", 40000):                                   431,
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n":               400,
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n" + strings.Repeat("b", 100): 413,
	} {
		s := &Server{}
		if status == 413 {
			s.MaxBody = 10
		}
		c, _ := serve(t, s, echo)
		r := ask(t, c, raw, 1)[0]
		if r.StatusCode != status || !r.Close {
			t.Errorf("%.40q: %d, close %v, want %d and close", raw, r.StatusCode, r.Close, status)
		}
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Errorf("%.40q: the connection goes on", raw)
		}
	}
}

func TestExpectContinue(t *testing.T) {
	c, _ := serve(t, &Server{}, echo)
	if _, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	line, err := r.ReadString('\n')
	if err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("%q %v", line, err)
	}
	_, _ = r.ReadString('\n')
	_, _ = io.WriteString(c, "ok")
	if b := bodyOf(read(t, r, 1, "POST")[0]); !strings.Contains(b, `body="ok"`) {
		t.Error(b)
	}
}

func TestEarlyAnswerKeepsOrCloses(t *testing.T) {
	early := func(x *exchange.Exchange) { text(x, 403, "no") }
	c, _ := serve(t, &Server{}, early)
	got := ask(t, c, "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET /2 HTTP/1.1\r\nHost: a\r\n\r\n", 2)
	if got[0].Close || got[1].StatusCode != 403 {
		t.Error("a small unread body must be read away and the connection go on")
	}
	c, _ = serve(t, &Server{}, early)
	if r := ask(t, c, "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n"+strings.Repeat("x", 100), 1)[0]; !r.Close || r.StatusCode != 403 {
		t.Error("a large unread body must end the connection, after the answer")
	}
}

func TestResponseForms(t *testing.T) {
	parts := func(x *exchange.Exchange) {
		x.Response.Status, x.Response.Length = 200, -1
		x.Response.Body = io.MultiReader(strings.NewReader("one "), strings.NewReader(strings.Repeat("2", 70000)))
		x.Response.Trailer.Add("X-End", "yes")
	}
	c, _ := serve(t, &Server{}, parts)
	r := ask(t, c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1)[0]
	if b := bodyOf(r); len(b) != 70004 || r.Trailer.Get("X-End") != "yes" || r.Close {
		t.Errorf("chunked: %d bytes, trailer %v", len(b), r.Trailer)
	}
	c, _ = serve(t, &Server{}, parts)
	if r := ask(t, c, "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", 1)[0]; !r.Close || len(bodyOf(r)) != 70004 {
		t.Error("HTTP/1.0 gets a body that the close ends")
	}
	c, _ = serve(t, &Server{}, func(x *exchange.Exchange) { text(x, 200, "hello") })
	if _, err := io.WriteString(c, "HEAD / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(c)
	if h := read(t, br, 1, "HEAD")[0]; h.ContentLength != 5 {
		t.Errorf("HEAD announces %d", h.ContentLength)
	}
	if b := bodyOf(read(t, br, 1, "GET")[0]); b != "hello" {
		t.Error(b)
	}
}

func TestBrokenBodyIsNeverComplete(t *testing.T) {
	c, h := serve(t, &Server{}, func(x *exchange.Exchange) {
		x.Response.Status, x.Response.Length, x.Response.Body = 200, 10, strings.NewReader("short")
	})
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the client reads %v", err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for {
		h.mu.Lock()
		n := len(h.done)
		h.mu.Unlock()
		if n == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("Done was not called")
		}
	}
	if !errors.Is(h.done[0], errShort) {
		t.Errorf("Done was told %v", h.done[0])
	}
}

func TestAHeaderThatSplitsIsRefused(t *testing.T) {
	c, _ := serve(t, &Server{}, func(x *exchange.Exchange) {
		text(x, 200, "x")
		x.Response.Fields.Add("X-A", "b\r\nX-Evil: 1")
	})
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if b, _ := io.ReadAll(c); len(b) != 0 {
		t.Errorf("the client got %q", b)
	}
}

func TestClientGoneCancels(t *testing.T) {
	gone := make(chan error, 1)
	c, _ := serve(t, &Server{}, func(x *exchange.Exchange) {
		x.WatchClient()
		select {
		case <-x.Ctx.Done():
			gone <- nil
		case <-time.After(30 * time.Second):
			gone <- errors.New("not noticed")
		}
		text(x, 200, "late")
	})
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	_ = c.Close()
	if err := <-gone; err != nil {
		t.Error(err)
	}
}

func TestWatchKeepsThePipelinedRequest(t *testing.T) {
	release := make(chan struct{})
	var n atomic.Int32
	c, _ := serve(t, &Server{}, func(x *exchange.Exchange) {
		if n.Add(1) == 1 {
			x.WatchClient()
			<-release
		}
		text(x, 200, x.Request.Target)
	})
	_, _ = io.WriteString(c, "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n")
	_, _ = io.WriteString(c, "GET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
	close(release)
	got := read(t, bufio.NewReader(c), 2, "GET")
	if bodyOf(got[0]) != "/1" || bodyOf(got[1]) != "/2" {
		t.Error("the request that came while the client was watched is lost")
	}
}

func TestUpgrade(t *testing.T) {
	c, _ := serve(t, &Server{}, func(x *exchange.Exchange) {
		if x.Request.Upgrade != "websocket" {
			t.Error("no upgrade was asked for")
		}
		near, far := net.Pipe()
		go func() {
			b := make([]byte, 5)
			_, _ = io.ReadFull(far, b)
			_, _ = far.Write([]byte(strings.ToUpper(string(b))))
			_ = far.Close()
		}()
		x.Response.Status, x.Response.Switch = 101, near
		x.Response.Fields.Add("Upgrade", "websocket")
	})
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello")
	all, err := io.ReadAll(c)
	if err != nil || string(all) != "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nHELLO" {
		t.Errorf("%q %v", all, err)
	}
}

func TestMaxRequestsAndDrain(t *testing.T) {
	c, _ := serve(t, &Server{MaxRequests: 2}, echo)
	got := ask(t, c, strings.Repeat("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 2), 2)
	if got[0].Close || !got[1].Close {
		t.Error("the second of two requests must end the connection")
	}
	s := &Server{}
	c, _ = serve(t, s, echo)
	ask(t, c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1)
	s.Drain(t.Context())
	if r := ask(t, c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1)[0]; !r.Close {
		t.Error("a request that comes while draining is answered, with Connection: close")
	}
	s = &Server{}
	c, _ = serve(t, s, echo)
	ask(t, c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1)
	s.Drain(t.Context())
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("an idle connection is closed by a drain: %v", err)
	}
}

func TestSlowHeadIsCutOff(t *testing.T) {
	c, _ := serve(t, &Server{HeadTimeout: 500 * time.Millisecond}, echo)
	_, _ = io.WriteString(c, "GET / HT")
	if r := read(t, bufio.NewReader(c), 1, "GET")[0]; r.StatusCode != 408 || !r.Close {
		t.Errorf("%d", r.StatusCode)
	}
}

// memory is a connection that answers reads from a script and swallows writes.
type memory struct {
	net.Conn
	in    []byte
	times int
}

func (m *memory) Read(p []byte) (int, error) {
	if m.times == 0 {
		return 0, io.EOF
	}
	m.times--
	return copy(p, m.in), nil
}
func (m *memory) Write(p []byte) (int, error)      { return len(p), nil }
func (m *memory) Close() error                     { return nil }
func (m *memory) SetReadDeadline(time.Time) error  { return nil }
func (m *memory) SetWriteDeadline(time.Time) error { return nil }

type fixed struct{ r *strings.Reader }

func (f fixed) Handle(x *exchange.Exchange) {
	f.r.Reset("hello")
	x.Response.Status, x.Response.Length, x.Response.Body = 200, 5, f.r
}
func (f fixed) Done(*exchange.Exchange, error) {}

const small = "GET /echo/1k HTTP/1.1\r\nHost: bench.example.com\r\nUser-Agent: h2load\r\nAccept: */*\r\n\r\n"

func TestAllocationsPerRequest(t *testing.T) {
	s := &Server{Handler: fixed{strings.NewReader("")}, MaxRequests: 1 << 30}
	const n = 2000
	per := testing.AllocsPerRun(5, func() {
		s.ServeConn(t.Context(), &memory{in: []byte(small), times: n}, &exchange.Conn{})
	}) / n
	if per > 0.5 {
		t.Errorf("%.2f allocations a request, where heads share theirs and a connection costs a few", per)
	}
}

// looping is a connection on which requests come as long as the benchmark asks.
type looping struct {
	memory
	b *testing.B
}

func (l *looping) Read(p []byte) (int, error) {
	if !l.b.Loop() {
		return 0, io.EOF
	}
	return copy(p, l.in), nil
}

func BenchmarkKeepAlive(b *testing.B) {
	s := &Server{Handler: fixed{strings.NewReader("")}, MaxRequests: 1 << 60}
	b.ReportAllocs()
	s.ServeConn(b.Context(), &looping{memory{in: []byte(small)}, b}, &exchange.Conn{})
}

func TestClientGoneWhileTheBodyWaits(t *testing.T) {
	gone := make(chan struct{})
	c, _ := serve(t, &Server{}, func(x *exchange.Exchange) {
		x.Response.Status, x.Response.Length, x.Response.Body = 200, -1, waiting{x, gone}
	})
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	_ = c.Close()
	select {
	case <-gone:
	case <-time.After(30 * time.Second):
		t.Error("a body that waits keeps a client that left")
	}
}

// waiting is a body that says nothing until the client is gone.
type waiting struct {
	x    *exchange.Exchange
	gone chan struct{}
}

func (w waiting) Read([]byte) (int, error) {
	w.x.WatchClient()
	<-w.x.Ctx.Done()
	close(w.gone)
	return 0, w.x.Ctx.Err()
}

// late is a body whose first bytes are not there yet.
type late struct{ io.Reader }

func (late) Waiting() bool { return true }

// TestLateBody: the head does not wait for the first bytes of an endless body.
func TestLateBody(t *testing.T) {
	r, w := io.Pipe()
	c, _ := serve(t, &Server{}, func(x *exchange.Exchange) {
		x.Response = exchange.Response{Status: 200, Length: -1, Body: late{r}}
	})
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: edge.test\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = io.WriteString(w, "event")
		_ = w.Close()
	}()
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "event" {
		t.Errorf("got %q, %v", b, err)
	}
}
