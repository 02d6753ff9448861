package upstream

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
	rawsock "github.com/keyway-edge/keyway/edge/exchange/sock"
)

// slowBody is a client's body that is fed by the test; StopBody interrupts it.
type slowBody struct {
	pieces chan string
	stop   chan struct{}
	once   sync.Once
}

func newSlowBody() *slowBody {
	return &slowBody{pieces: make(chan string, 100), stop: make(chan struct{})}
}

func (b *slowBody) Read(p []byte) (int, error) {
	select {
	case s, ok := <-b.pieces:
		if !ok {
			return 0, io.EOF
		}
		return copy(p, s), nil
	case <-b.stop:
		return 0, &exchange.BodyError{Err: errors.New("stopped")}
	}
}

func (b *slowBody) interrupt() { b.once.Do(func() { close(b.stop) }) }

// streaming makes an exchange whose body comes from b in chunks.
func streaming(ctx context.Context, b *slowBody) *exchange.Exchange {
	x := ask(ctx, "POST", "")
	x.Request.Body, x.Request.Length, x.Request.StopBody = b, -1, b.interrupt
	return x
}

// An origin that answers before it has the whole body is heard at once, and
// its connection is not used again.
func TestEarlyResponse(t *testing.T) {
	addr := origin(t, func(c net.Conn, r *bufio.Reader, _ int) {
		if readHead(r) != "" {
			io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
			io.Copy(io.Discard, r)
		}
	})
	g := through(t, nil, addr)
	b := newSlowBody()
	b.pieces <- "first"
	x := streaming(t.Context(), b)
	if status, body := g.do(x, &Outgoing{HostDefault: true}); status != 413 || body != "big" {
		t.Fatal(status, body)
	}
	if !x.Response.Close {
		t.Error("the engine was not told that the body is left over")
	}
	select {
	case <-b.stop:
	default:
		t.Error("the client's body was not stopped")
	}
	if s := g.pools.Stats(); s.Idle != 0 {
		t.Error("the connection was kept with half a request on it")
	}
}

// Request and response stream at the same time.
func TestBothDirectionsAtOnce(t *testing.T) {
	addr := origin(t, func(c net.Conn, r *bufio.Reader, _ int) {
		readHead(r)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		for {
			size, err := r.ReadString('\n')
			if err != nil {
				return
			}
			data, _ := r.ReadString('\n')
			io.WriteString(c, size+data) // echoes chunk by chunk, the last one too
			if size == "0\r\n" {
				return
			}
		}
	})
	g := through(t, nil, addr)
	b := newSlowBody()
	x := streaming(t.Context(), b)
	if err := g.set.Cluster("s").Do(x, &Outgoing{URI: "/", HostDefault: true}); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 100)
	for _, piece := range []string{"one", "two", "three"} {
		b.pieces <- piece
		if n, err := x.Response.Body.Read(p); err != nil || string(p[:n]) != piece {
			t.Fatalf("got %q %v, want %q", p[:n], err, piece)
		}
	}
	close(b.pieces)
	if rest := drain(x); rest != "" {
		t.Fatal(rest)
	}
	if s := g.pools.Stats(); s.Idle != 1 {
		t.Error("a connection whose exchange ended well was not kept")
	}
}

func TestClientsBodyErrorIsReturnedAsItIs(t *testing.T) {
	addr := origin(t, func(_ net.Conn, r *bufio.Reader, _ int) { io.Copy(io.Discard, r) })
	for _, buffered := range []bool{true, false} {
		g := through(t, nil, addr)
		x := ask(t.Context(), "POST", "")
		want := &exchange.BodyError{Status: 400, Err: errors.New("bad chunk")}
		x.Request.Length = -1
		x.Request.Body = io.MultiReader(strings.NewReader("abc"), failing{want})
		err := g.set.Cluster("s").Do(x, &Outgoing{URI: "/", HostDefault: true, Buffered: buffered})
		if got, ok := errors.AsType[*exchange.BodyError](err); !ok || got != want {
			t.Errorf("buffered %v: got %v", buffered, err)
		}
		short := ask(t.Context(), "POST", "abc")
		short.Request.Length = 5
		err = g.set.Cluster("s").Do(short, &Outgoing{URI: "/", HostDefault: true, Buffered: buffered})
		if got, ok := errors.AsType[*exchange.BodyError](err); !ok || got.Status != 400 {
			t.Errorf("buffered %v: a body shorter than announced: got %v", buffered, err)
		}
		if h := g.set.Health()[0]; h.State != Healthy || h.Open != 0 {
			t.Errorf("the target suffered for its client: %+v", h)
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// A client that waits for 100 Continue gets it from the goroutine that owns the
// exchange, which alone may write to the client.
func TestExpectedBodyIsReadByTheOwner(t *testing.T) {
	addr := origin(t, func(c net.Conn, r *bufio.Reader, _ int) {
		for readHead(r) != "" {
			for line := ""; line != "0\r\n"; line, _ = r.ReadString('\n') {
			}
			r.ReadString('\n')
			io.WriteString(c, hello)
		}
	})
	g := through(t, nil, addr)
	for _, more := range []string{"", "second"} {
		b := newSlowBody()
		b.pieces <- "first"
		if more != "" {
			b.pieces <- more
		}
		close(b.pieces)
		x := streaming(t.Context(), b)
		x.Request.Expect100 = true
		x.Request.Body = &owned{b, goroutine()}
		if err := g.set.Cluster("s").Do(x, &Outgoing{URI: "/", HostDefault: true}); err != nil || drain(x) != "hello" {
			t.Fatal(err)
		}
	}
}

// owned fails unless its first read comes from the goroutine that made it.
type owned struct {
	io.Reader
	owner string
}

func (o *owned) Read(p []byte) (int, error) {
	if o.owner != "" && o.owner != goroutine() {
		return 0, errors.New("read by another goroutine first")
	}
	o.owner = ""
	return o.Reader.Read(p)
}

func goroutine() string {
	b := make([]byte, 32)
	name, _, _ := strings.Cut(string(b[:runtime.Stack(b, false)]), "[")
	return name
}

// A client that leaves ends the wait for a slow target, which sees its connection close.
func TestClientGone(t *testing.T) {
	gone := make(chan struct{})
	addr := origin(t, func(_ net.Conn, r *bufio.Reader, _ int) {
		readHead(r)
		r.ReadByte()
		close(gone)
	})
	g := through(t, nil, addr)
	ctx, cancel := context.WithCancel(t.Context())
	x := ask(ctx, "GET", "")
	x.WatchClient = func() { time.AfterFunc(10*time.Millisecond, cancel) }
	began := time.Now()
	if status, _ := g.do(x, nil); status != StatusClientGone {
		t.Fatal(status)
	}
	if took := time.Since(began); took < patience || took > 20*time.Second {
		t.Errorf("took %v", took)
	}
	<-gone
	if h := g.set.Health()[0]; h.State != Healthy || h.Open != 0 {
		t.Errorf("the target suffered for its client: %+v", h)
	}
}

func TestClientGoneInTheMiddle(t *testing.T) {
	gone := make(chan struct{})
	addr := origin(t, func(c net.Conn, r *bufio.Reader, _ int) {
		readHead(r)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
		r.ReadByte()
		close(gone)
	})
	g := through(t, nil, addr)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	x := ask(ctx, "GET", "")
	x.WatchClient = cancel // the watch finds the client gone at once
	if status, body := g.do(x, nil); status != 200 || !strings.HasPrefix(body, "abc then ") {
		t.Fatal(status, body)
	}
	<-gone
}

func TestBodyClosedEarlyClosesTheConnection(t *testing.T) {
	gone := make(chan struct{})
	addr := origin(t, func(c net.Conn, r *bufio.Reader, _ int) {
		readHead(r)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
		r.ReadByte()
		close(gone)
	})
	g := through(t, nil, addr)
	x := ask(t.Context(), "GET", "")
	if err := g.set.Cluster("s").Do(x, &Outgoing{URI: "/", HostDefault: true}); err != nil {
		t.Fatal(err)
	}
	body := x.Response.Body.(io.ReadCloser)
	body.Close()
	<-gone
	if n, err := body.Read(make([]byte, 10)); n != 0 || err == nil {
		t.Fatal("read from a closed body")
	}
	body.Close()
	if g.pools.Stats().Idle != 0 || g.set.Health()[0].Open != 0 {
		t.Error("not released once")
	}
}

// Closing a body again after its connection serves somebody else touches nobody.
func TestLateCloseOfAnOldBody(t *testing.T) {
	addr := origin(t, func(c net.Conn, r *bufio.Reader, _ int) {
		for readHead(r) != "" {
			io.WriteString(c, hello)
		}
	})
	g := through(t, nil, addr)
	first := ask(t.Context(), "GET", "")
	g.do(first, nil)
	old := first.Response.Body.(io.Closer)
	second := ask(t.Context(), "GET", "")
	if err := g.set.Cluster("s").Do(second, &Outgoing{URI: "/", HostDefault: true}); err != nil {
		t.Fatal(err)
	}
	old.Close()
	if body := drain(second); body != "hello" || !second.UpstreamReused {
		t.Fatal(body, second.UpstreamReused)
	}
}

func TestTrailersBothWays(t *testing.T) {
	addr := origin(t, func(c net.Conn, r *bufio.Reader, _ int) {
		readHead(r)
		var got []string
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			got = append(got, strings.TrimSpace(line))
			if line == "\r\n" {
				break
			}
		}
		if strings.Join(got, "|") != "3|abc|0|X-Sum: 7|" {
			io.WriteString(c, "HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n")
			return
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Back\r\n\r\n2\r\nok\r\n0\r\nX-Back: 8\r\n\r\n")
	})
	for _, buffered := range []bool{true, false} {
		g := through(t, nil, addr)
		x := ask(t.Context(), "POST", "abc")
		x.Request.Length = -1
		x.Request.Trailer.Add("X-Sum", "7")
		if status, body := g.do(x, &Outgoing{HostDefault: true, Buffered: buffered}); status != 200 || body != "ok" {
			t.Fatal(status, body)
		}
		if x.Response.Trailer.Get("X-Back") != "8" {
			t.Error("the response's trailer was lost")
		}
	}
}

func TestInterimResponses(t *testing.T) {
	addr := origin(t, func(c net.Conn, r *bufio.Reader, _ int) {
		readHead(r)
		io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"+hello)
	})
	g := through(t, nil, addr)
	x := ask(t.Context(), "GET", "")
	var seen []string
	x.Interim = func(status int, f *exchange.Fields) error {
		seen = append(seen, f.Get("Link"))
		if status != 103 {
			t.Errorf("status %d was passed on", status)
		}
		return nil
	}
	if status, body := g.do(x, nil); status != 200 || body != "hello" || x.Response.Fields.Has("Link") {
		t.Fatal(status, body)
	}
	if len(seen) != 1 || seen[0] != "</a>" {
		t.Errorf("hints %q", seen)
	}
}

func TestUpgrade(t *testing.T) {
	heads := make(chan string, 2)
	addr := origin(t, func(c net.Conn, r *bufio.Reader, n int) {
		heads <- readHead(r)
		if n == 2 {
			io.WriteString(c, hello)
			readHead(r)
			return
		}
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-A: 1\r\n\r\nfirst")
		line, _ := r.ReadString('\n')
		<-time.After(3 * patience) // no deadline of the head's wait may be left
		io.WriteString(c, "echo "+line)
	})
	g := through(t, nil, addr)
	x := ask(t.Context(), "GET", "")
	x.Request.Upgrade = "websocket"
	if err := g.set.Cluster("s").Do(x, &Outgoing{URI: "/", HostDefault: true}); err != nil {
		t.Fatal(err)
	}
	if h := <-heads; !strings.Contains(h, "\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n") {
		t.Errorf("head %q", h)
	}
	if x.Response.Status != 101 || x.Response.Switch == nil || x.Response.Fields.Get("X-A") != "1" {
		t.Fatalf("%+v", x.Response)
	}
	ahead := x.Response.Switch.(interface{ Ahead() bool })
	if rawsock.Plain(x.Response.Switch) == nil || !ahead.Ahead() {
		t.Error("its socket is not plain, or nothing came ahead")
	}
	p := make([]byte, 5)
	if _, err := io.ReadFull(x.Response.Switch, p); err != nil || string(p) != "first" {
		t.Fatalf("%q %v", p, err)
	}
	if ahead.Ahead() {
		t.Error("what came ahead is read, and is still there")
	}
	io.WriteString(x.Response.Switch, "hello\n")
	if b, _ := io.ReadAll(x.Response.Switch); string(b) != "echo hello\n" {
		t.Fatalf("%q", b)
	}
	x.Response.Switch.Close()
	x.Response.Switch.Close()
	if g.set.Health()[0].Open != 0 {
		t.Error("not released once")
	}
	refusedUpgrade := ask(t.Context(), "GET", "")
	refusedUpgrade.Request.Upgrade = "websocket"
	if status, body := g.do(refusedUpgrade, nil); status != 200 || body != "hello" {
		t.Fatal(status, body)
	}
	if g.pools.Stats().Idle != 0 {
		t.Error("a connection after a refused upgrade was kept")
	}
}
