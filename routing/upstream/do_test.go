package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/routing/spec"
)

// gateway is a service "s" over an upstream of targets, and its pools.
type gateway struct {
	pools *Pools
	set   *Set
	svc   *spec.Service
	doc   *spec.Document
}

// through makes a gateway to the addresses given; edit may change the document.
func through(t *testing.T, edit func(*spec.Document), addrs ...string) *gateway {
	t.Helper()
	var targets []*spec.Target
	for _, a := range addrs {
		targets = append(targets, at(a, 100))
	}
	d := document(targets...)
	d.Services[0].Retries = 0
	if edit != nil {
		edit(d)
	}
	g := &gateway{pools: NewPools(Settings{SpoolDir: t.TempDir(), SpoolAfter: 100 << 10, Resolver: loopback{}}), svc: d.Services[0], doc: d}
	t.Cleanup(g.pools.Close)
	var problems spec.Problems
	if g.set, problems = Build(nil, Inputs{Doc: d, Pools: g.pools}); len(problems) > 0 {
		t.Fatal(problems)
	}
	return g
}

// loopback knows every name under .test, on this machine.
type loopback struct{}

func (loopback) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if strings.HasSuffix(host, ".test") {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	}
	return nil, errors.New("no such host")
}

// ask makes an exchange with a body of known length, "" for none.
func ask(ctx context.Context, method, body string) *exchange.Exchange {
	x := &exchange.Exchange{Ctx: ctx}
	x.Request.Method, x.Request.Body = method, exchange.NoBody
	if body != "" {
		x.Request.Body, x.Request.Length = strings.NewReader(body), int64(len(body))
	}
	return x
}

// do sends x and answers status and body; an error is told as its status and message.
func (g *gateway) do(x *exchange.Exchange, out *Outgoing) (int, string) {
	if out == nil {
		out = &Outgoing{HostDefault: true, Buffered: true}
	}
	if out.URI == "" {
		out.URI = "/"
	}
	if err := g.set.Cluster("s").Do(x, out); err != nil {
		if e, ok := errors.AsType[*Error](err); ok {
			return e.Status, e.Message
		}
		return -1, err.Error()
	}
	return x.Response.Status, drain(x)
}

func drain(x *exchange.Exchange) string {
	if x.Response.Body == nil {
		return ""
	}
	b, err := io.ReadAll(x.Response.Body)
	x.Response.Body.(io.Closer).Close()
	if err != nil {
		return string(b) + " then " + err.Error()
	}
	return string(b)
}

// origin serves each connection with handle, on loopback; n counts connections from 1.
func origin(t testing.TB, handle func(c net.Conn, r *bufio.Reader, n int)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	all.Go(func() {
		for n := 1; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			all.Go(func() {
				defer c.Close()
				handle(c, bufio.NewReader(c), n)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return l.Addr().String()
}

// readHead reads a request head as it stands on the wire, "" at the end.
func readHead(r *bufio.Reader) string {
	var b strings.Builder
	for {
		line, err := r.ReadString('\n')
		b.WriteString(line)
		if err != nil {
			return ""
		}
		if line == "\r\n" {
			return b.String()
		}
	}
}

const hello = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"

func TestHeadOnTheWire(t *testing.T) {
	got := make(chan string, 1)
	addr := origin(t, func(c net.Conn, r *bufio.Reader, _ int) {
		for head := readHead(r); head != ""; head = readHead(r) {
			body := make([]byte, 3)
			if strings.Contains(head, "Content-Length: 3") {
				io.ReadFull(r, body)
				head += string(body)
			}
			got <- head
			io.WriteString(c, hello)
		}
	})
	g := through(t, nil, addr)
	var before, fields exchange.Fields
	before.Add("Via", "1.1 keyway")
	fields.Add("X-Forwarded-For", "127.0.0.1")
	fields.Add("X-A", "1")
	fields.Add("x-a", "2")
	x := ask(t.Context(), "POST", "abc")
	if status, body := g.do(x, &Outgoing{URI: "/p?q", HostDefault: true, Before: &before, Fields: &fields, Lead: 1, Buffered: true}); status != 200 || body != "hello" {
		t.Fatal(status, body)
	}
	want := "POST /p?q HTTP/1.1\r\nVia: 1.1 keyway\r\nHost: " + addr + "\r\nConnection: keep-alive\r\n" +
		"X-Forwarded-For: 127.0.0.1\r\nContent-Length: 3\r\nX-A: 1\r\nx-a: 2\r\n\r\nabc"
	if head := <-got; head != want {
		t.Errorf("got\n%s\nwant\n%s", head, want)
	}
	g.do(ask(t.Context(), "GET", ""), &Outgoing{Host: "a.test:99"})
	if head := <-got; head != "GET / HTTP/1.1\r\nHost: a.test:99\r\nConnection: keep-alive\r\n\r\n" {
		t.Errorf("got\n%s", head)
	}
	fields.Add("X-Evil", "a\r\nX-Smuggled: 1")
	if status, _ := g.do(ask(t.Context(), "GET", ""), &Outgoing{HostDefault: true, Fields: &fields}); status != 500 {
		t.Errorf("a field that splits the request: got %d", status)
	}
	if !x.Response.FromUpstream || len(x.Attempts) != 1 || x.Attempts[0].Address != addr || x.Attempts[0].Status != 200 || x.UpstreamHead.Before(x.UpstreamStart) {
		t.Errorf("records: %+v", x.Attempts)
	}
}

func TestHostThatIsSent(t *testing.T) {
	hosts := make(chan string, 1)
	addr := origin(t, func(c net.Conn, r *bufio.Reader, _ int) {
		for head := readHead(r); head != ""; head = readHead(r) {
			_, host, _ := strings.Cut(head, "Host: ")
			host, _, _ = strings.Cut(host, "\r\n")
			hosts <- host
			io.WriteString(c, hello)
		}
	})
	_, port, _ := net.SplitHostPort(addr)
	f := func(want string, out Outgoing, edit func(*spec.Document)) {
		t.Helper()
		g := through(t, edit, "Target.test:"+port)
		if status, body := g.do(ask(t.Context(), "GET", ""), &out); status != 200 {
			t.Fatal(status, body)
		}
		if got := <-hosts; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	f("Target.test:"+port, Outgoing{HostDefault: true}, nil)
	f("set.test", Outgoing{HostDefault: true}, func(d *spec.Document) { d.Upstreams[0].HostHeader = "set.test" })
	f("Client.test:1", Outgoing{Host: "Client.test:1"}, func(d *spec.Document) { d.Upstreams[0].HostHeader = "set.test" })
	f("service.test:"+port, Outgoing{HostDefault: true}, func(d *spec.Document) {
		d.Services[0].Host = "service.test"
		d.Services[0].Port, _ = strconv.Atoi(port)
	})
}

func TestConnectionsAreReused(t *testing.T) {
	var conns atomic.Int32
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if r.URL.Path == "/chunked" {
			w.(http.Flusher).Flush()
		}
		fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.Path, b)
	}))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}
	srv.Start()
	defer srv.Close()
	g := through(t, nil, srv.Listener.Addr().String())
	for i := range 10 {
		x := ask(t.Context(), "PUT", "body")
		path := []string{"/", "/chunked"}[i%2]
		if status, body := g.do(x, &Outgoing{URI: path, HostDefault: true, Buffered: i%3 == 0}); status != 200 || body != "PUT "+path+" body" {
			t.Fatal(status, body)
		}
		if x.Response.Close {
			t.Fatalf("request %d was sent whole and its client's connection is to be closed", i)
		}
		if x.UpstreamReused != (i > 0) {
			t.Fatalf("request %d: reused is %v", i, x.UpstreamReused)
		}
	}
	if x := ask(t.Context(), "HEAD", ""); true {
		if status, body := g.do(x, nil); status != 200 || body != "" || x.Response.Length < 0 {
			t.Fatal(status, body, x.Response.Length)
		}
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections for 11 requests", n)
	}
	if s := g.pools.Stats(); s != (Stats{Identities: 1, Idle: 1}) {
		t.Errorf("stats %+v", s)
	}
	g.pools.set.MaxRequests = 12
	g.do(ask(t.Context(), "GET", ""), nil)
	if s := g.pools.Stats(); s.Idle != 0 {
		t.Errorf("a connection at its last request was kept: %+v", s)
	}
}

func TestBodiesOfAllSizes(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		w.Header().Set("X-Framing", fmt.Sprint(r.ContentLength, r.TransferEncoding))
		w.Write(b)
	}))
	defer srv.Close()
	g := through(t, nil, srv.Listener.Addr().String())
	for _, size := range []int{1, bufferSize - 1, bufferSize, bufferSize + 1, 64 << 10, 100 << 10, 100<<10 + 1, 3 << 20} {
		for _, buffered := range []bool{true, false} {
			for _, known := range []bool{true, false} {
				body := strings.Repeat("0123456789abcdef", size/16+1)[:size]
				x := ask(t.Context(), "POST", body)
				framing := fmt.Sprint(size, "[]")
				if !known {
					x.Request.Length = -1
					if !buffered {
						framing = "-1[chunked]"
					}
				}
				status, got := g.do(x, &Outgoing{HostDefault: true, Buffered: buffered})
				if status != 200 || got != body {
					t.Fatalf("size %d buffered %v known %v: %d, %d bytes: %.80s", size, buffered, known, status, len(got), got)
				}
				if f := x.Response.Fields.Get("X-Framing"); strings.ReplaceAll(f, " ", "") != strings.ReplaceAll(framing, " ", "") {
					t.Errorf("size %d buffered %v known %v: framed %q, want %q", size, buffered, known, f, framing)
				}
			}
		}
	}
	if files, _ := os.ReadDir(g.pools.set.SpoolDir); len(files) > 0 {
		t.Errorf("files left: %v", files)
	}
}

func TestRetriesAsRecorded(t *testing.T) {
	live := origin(t, func(c net.Conn, r *bufio.Reader, _ int) {
		for readHead(r) != "" {
			io.WriteString(c, hello)
		}
	})
	for _, row := range []struct {
		retries, dead int
		want          []int // statuses of the first requests, repeated; the phase may differ from a recording
	}{
		{0, 1, []int{502, 200}},
		{0, 2, []int{502, 502, 200}},
		{1, 1, []int{200}},
		{1, 2, []int{502, 200}},
		{2, 1, []int{200}},
		{2, 2, []int{200}},
		{5, 2, []int{200}},
	} {
		addrs := []string{}
		for range row.dead {
			addrs = append(addrs, refusing(t))
		}
		g := through(t, func(d *spec.Document) {
			d.Services[0].Retries = row.retries
			d.Upstreams[0].Healthchecks = spec.Healthchecks{}
		}, append(addrs, live)...)
		for i := range 12 {
			method := []string{"GET", "POST"}[i%2]
			if status, _ := g.do(ask(t.Context(), method, ""), nil); status != row.want[i%len(row.want)] {
				t.Errorf("retries %d dead %d request %d: got %d", row.retries, row.dead, i, status)
			}
		}
	}
}

func TestErrorsAsRecorded(t *testing.T) {
	var hits atomic.Int32
	silent := origin(t, func(_ net.Conn, r *bufio.Reader, _ int) {
		for readHead(r) != "" {
			hits.Add(1)
		}
	})
	garbage := origin(t, func(c net.Conn, r *bufio.Reader, _ int) {
		readHead(r)
		hits.Add(1)
		io.WriteString(c, "garbage\r\n\r\n")
	})
	drops := origin(t, func(_ net.Conn, r *bufio.Reader, _ int) {
		readHead(r)
		hits.Add(1)
	})
	f := func(name, method string, status int, message string, attempts int32, edit func(*spec.Document), addrs ...string) {
		t.Helper()
		g := through(t, func(d *spec.Document) {
			d.Services[0].Retries = 1
			if edit != nil {
				edit(d)
			}
		}, addrs...)
		hits.Store(0)
		x := ask(t.Context(), method, "")
		s, m := g.do(x, nil)
		for end := time.Now().Add(5 * time.Second); hits.Load() < attempts && time.Now().Before(end); { // an origin that is slow to run
			<-time.After(time.Millisecond)
		}
		if s != status || m != message || hits.Load() != attempts {
			t.Errorf("%s: got %d %q after %d attempts, want %d %q after %d", name, s, m, hits.Load(), status, message, attempts)
		}
	}
	soon := func(d *spec.Document) { d.Services[0].ReadTimeout = 120 }
	f("empty", "GET", 503, messageNoPeer, 0, nil)
	f("weight zero", "GET", 503, messageNoPeer, 0, func(d *spec.Document) { d.Targets[0].Weight = 0 }, silent)
	f("refused", "GET", 502, messageInvalid, 0, nil, refusing(t))
	f("slow", "GET", 504, messageTimeout, 2, soon, silent)
	f("slow POST", "POST", 504, messageTimeout, 1, soon, silent)
	f("dropped", "GET", 502, messageInvalid, 2, nil, drops)
	f("dropped POST", "POST", 502, messageInvalid, 1, nil, drops)
	f("not HTTP", "GET", 502, messageInvalid, 1, nil, garbage)
	f("target without address", "GET", 503, messageNoPeer, 0, nil, "nosuch.invalid:80")
	f("service without address", "GET", 503, messageNoName, 0, func(d *spec.Document) { d.Services[0].Host = "nosuch.invalid" })
}

func TestAnUnhealthyUpstreamAnswersAtOnce(t *testing.T) {
	bad := origin(t, func(c net.Conn, r *bufio.Reader, _ int) {
		for readHead(r) != "" {
			io.WriteString(c, "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")
		}
	})
	g := through(t, nil, bad)
	if status, _ := g.do(ask(t.Context(), "GET", ""), nil); status != 500 {
		t.Fatal(status)
	}
	if status, message := g.do(ask(t.Context(), "GET", ""), nil); status != 503 || message != messageNoPeer {
		t.Fatal(status, message)
	}
}

func TestStaleConnections(t *testing.T) {
	t.Run("closed while idle", func(t *testing.T) {
		var served atomic.Int32
		addr := origin(t, func(c net.Conn, r *bufio.Reader, _ int) { // one request a connection
			readHead(r)
			served.Add(1)
			io.WriteString(c, hello)
		})
		g := through(t, nil, addr)
		for range 5 {
			if status, body := g.do(ask(t.Context(), "POST", "x"), nil); status != 200 || body != "hello" {
				t.Fatal(status, body)
			}
			waitFor(t, func() bool { return g.idleIsDead() })
		}
		if served.Load() != 5 {
			t.Fatalf("served %d", served.Load())
		}
	})
	t.Run("dies under the request", func(t *testing.T) {
		var seen atomic.Int32
		addr := origin(t, func(c net.Conn, r *bufio.Reader, n int) { // closes on the second request of the first connection
			for i := 1; readHead(r) != ""; i++ {
				seen.Add(1)
				if n%2 == 1 && i == 2 {
					return
				}
				io.WriteString(c, hello)
			}
		})
		g := through(t, nil, addr)
		g.do(ask(t.Context(), "GET", ""), nil)
		x := ask(t.Context(), "GET", "")
		if status, _ := g.do(x, nil); status != 200 || x.UpstreamReused || len(x.Attempts) != 1 {
			t.Fatalf("a GET on a dying connection: %d, attempts %v", status, x.Attempts)
		}
		g.pools.Close()
		g = through(t, nil, addr)
		g.do(ask(t.Context(), "GET", ""), nil)
		seen.Store(0)
		if status, _ := g.do(ask(t.Context(), "POST", ""), nil); status != 502 || seen.Load() != 1 {
			t.Fatalf("a POST that was sent must not be sent twice: %d, seen %d", status, seen.Load())
		}
	})
}

// idleIsDead says that the only idle connection has been closed by its target.
func (g *gateway) idleIsDead() bool {
	for _, s := range g.pools.stacks {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, c := range s.idle {
			return !c.quiet(time.Now())
		}
	}
	return true
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	tick, end := time.NewTicker(time.Millisecond), time.After(30*time.Second)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatal("waited too long")
		}
	}
}

// Bytes after a response, at once or late, must never be the next answer.
func TestExtraBytesReachNobody(t *testing.T) {
	const poison = "HTTP/1.1 200 OK\r\nX-Smuggled: 1\r\nContent-Length: 8\r\n\r\npoisoned"
	for name, late := range map[string]bool{"at once": false, "late": true} {
		read := make(chan bool)
		addr := origin(t, func(c net.Conn, r *bufio.Reader, _ int) {
			for readHead(r) != "" {
				if late {
					io.WriteString(c, hello)
					<-read
					io.WriteString(c, poison)
				} else {
					io.WriteString(c, hello+poison)
					<-read
				}
			}
		})
		g := through(t, nil, addr)
		for range 5 {
			x := ask(t.Context(), "GET", "")
			if status, body := g.do(x, nil); status != 200 || body != "hello" || x.Response.Fields.Has("X-Smuggled") {
				t.Fatalf("%s: %d %q", name, status, body)
			}
			if kept := g.pools.Stats().Idle == 1; kept != late {
				t.Fatalf("%s: the connection was kept: %v", name, kept)
			}
			read <- true
			waitFor(t, g.idleIsDead)
		}
	}
}

func TestHostileAnswers(t *testing.T) {
	f := func(answer string, statuses ...int) {
		t.Helper()
		addr := origin(t, func(c net.Conn, r *bufio.Reader, _ int) {
			if readHead(r) != "" {
				io.WriteString(c, answer)
			}
		})
		g := through(t, nil, addr)
		status, body := g.do(ask(t.Context(), "GET", ""), nil)
		if !slices.Contains(statuses, status) || strings.Contains(body, "poisoned") {
			t.Errorf("%q: got %d %q, want %v", answer, status, body, statuses)
		}
		if g.pools.Stats().Idle != 0 {
			t.Errorf("%q: its connection was kept", answer)
		}
	}
	f("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 502, 200)
	f("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 40\r\n\r\nabcHTTP/1.1 200 OK\r\nX-Smuggled: 1\r\n\r\n", 502)
	f("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nabc", 502)
	f("HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc", 502)
	f("HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 502)
	f("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-A: a\x00b\r\n\r\nabc", 502)
	f("HTTP/1.1 200 OK\r\nContent-Length : 3\r\nX-B: 1\r\n\r\nabc", 502)
	f("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nHTTP/", 502, 204)
	f("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"+hello, 502)
	f("\x16\x03\x01\x00\x00garbage\r\n\r\n", 502)
	f("HTTP/2 200 OK\r\nContent-Length: 3\r\n\r\nabc", 502)
	f("HTTP/1.1 99999 OK\r\nContent-Length: 3\r\n\r\nabc", 502)
	f("HTTP/1.1 200 OK\r\nContent-Len", 502)
	f("HTTP/1.1 200 OK\r\nX: "+strings.Repeat("a", 1<<20), 502)
	f(strings.Repeat("HTTP/1.1 103 Hint\r\n\r\n", 100)+hello, 502)
}

// A body that breaks off is an error to its reader: the engine cuts the client
// off instead of ending the response well.
func TestBrokenBodies(t *testing.T) {
	f := func(answer string) {
		t.Helper()
		addr := origin(t, func(c net.Conn, r *bufio.Reader, _ int) {
			if readHead(r) != "" {
				io.WriteString(c, answer)
			}
		})
		g := through(t, nil, addr)
		if status, body := g.do(ask(t.Context(), "GET", ""), nil); status != 200 || !strings.Contains(body, " then ") {
			t.Errorf("%q: got %d %q", answer, status, body)
		}
		if g.pools.Stats().Idle != 0 || g.set.Health()[0].Open != 0 {
			t.Errorf("%q: its connection was kept", answer)
		}
	}
	f("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
	f("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nabc")
	f("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\nabc\r\n0\r\n\r\n")
}

func TestCloseDelimitedBody(t *testing.T) {
	addr := origin(t, func(c net.Conn, r *bufio.Reader, _ int) {
		if readHead(r) != "" {
			io.WriteString(c, "HTTP/1.0 200 OK\r\n\r\nall that comes")
		}
	})
	g := through(t, nil, addr)
	for range 3 {
		x := ask(t.Context(), "GET", "")
		if status, body := g.do(x, nil); status != 200 || body != "all that comes" || x.Response.Length != -1 {
			t.Fatal(status, body, x.Response.Length)
		}
	}
}

// A try that broke leaves nothing behind in the next one.
func TestAnotherTryStartsClean(t *testing.T) {
	half := origin(t, func(c net.Conn, r *bufio.Reader, _ int) {
		readHead(r)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nX-Half: 1\r\n")
	})
	whole := origin(t, func(c net.Conn, r *bufio.Reader, _ int) {
		for head := readHead(r); head != ""; head = readHead(r) {
			io.CopyN(io.Discard, r, 200<<10)
			io.WriteString(c, hello)
		}
	})
	g := through(t, func(d *spec.Document) {
		d.Services[0].Retries = 1
		d.Upstreams[0].Healthchecks = spec.Healthchecks{}
	}, half, whole)
	for range 6 {
		x := ask(t.Context(), "PUT", strings.Repeat("b", 200<<10))
		status, body := g.do(x, nil)
		if status != 200 || body != "hello" || x.Response.Fields.Has("X-Half") {
			t.Fatal(status, body, x.Attempts)
		}
	}
	if s := g.pools.Stats(); s.Idle != 1 {
		t.Errorf("the good target's connection was not kept: %+v", s)
	}
}
