package upstream

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/routing/spec"
)

// h2c serves HTTP/2 in clear; conns counts connections.
func h2c(t *testing.T, h http.Handler, edit func(*http.HTTP2Config)) (addr string, conns *atomic.Int32) {
	t.Helper()
	conns = &atomic.Int32{}
	s := httptest.NewUnstartedServer(h)
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	s.Config.Protocols, s.Config.HTTP2 = &p, &http.HTTP2Config{}
	if edit != nil {
		edit(s.Config.HTTP2)
	}
	s.Config.ConnState = func(_ net.Conn, st http.ConnState) {
		if st == http.StateNew {
			conns.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), conns
}

// as makes the service speak a protocol.
func as(protocol string) func(*spec.Document) {
	return func(d *spec.Document) {
		if protocol == "h2c" {
			d.Services[0].UpstreamProtocol = protocol
		} else {
			d.Services[0].Protocol = protocol
		}
		d.Services[0].Retries = 2
	}
}

func TestH2RequestAsItArrives(t *testing.T) {
	addr, _ := h2c(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Add("X-Two", "a")
		w.Header().Add("X-Two", "b")
		w.WriteHeader(207)
		fmt.Fprint(w, r.Proto, " ", r.Method, " ", r.Host, " ", r.RequestURI, " ", r.ContentLength, " ", string(body), " ", r.Header["X-Mixed"], r.Header["Connection"], r.Header["Te"])
	}), nil)
	g := through(t, as("h2c"), addr)
	var fields exchange.Fields
	fields.Add("X-Mixed", "One")
	fields.Add("Keep-Alive", "5")
	fields.Add("TE", "gzip")
	x := ask(t.Context(), "PUT", "hello")
	x.Request.LengthGiven = true
	status, body := g.do(x, &Outgoing{HostDefault: true, URI: "/a?b", Fields: &fields})
	if want := "HTTP/2.0 PUT " + addr + " /a?b 5 hello [One] [] []"; status != 207 || body != want {
		t.Errorf("got %d %q, want 207 %q", status, body, want)
	}
	if n := x.Response.Fields.Count("x-two"); n != 2 {
		t.Errorf("X-Two came %d times", n)
	}
	if status, body := g.do(ask(t.Context(), "HEAD", ""), nil); status != 207 || body != "" {
		t.Errorf("HEAD: %d %q", status, body)
	}
}

func TestH2OneConnectionForMany(t *testing.T) {
	var now, most atomic.Int32
	addr, conns := h2c(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		time.Sleep(30 * time.Millisecond)
		_, _ = io.Copy(w, r.Body)
	}), nil)
	g := through(t, as("h2c"), addr)
	text := strings.Repeat("0123456789", 20<<10)
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			if status, body := g.do(ask(t.Context(), "POST", text), nil); status != 200 || body != text {
				t.Errorf("%d and %d bytes: ...%s", status, len(body), body[max(0, len(body)-160):])
			}
		})
	}
	all.Wait()
	if conns.Load() > 1 || most.Load() < 2 {
		t.Errorf("%d connections, at most %d requests at once", conns.Load(), most.Load())
	}
}

func TestH2OpensAnotherConnectionWhenFull(t *testing.T) {
	release := make(chan struct{})
	addr, conns := h2c(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }), func(c *http.HTTP2Config) { c.MaxConcurrentStreams = 4 })
	g := through(t, as("h2c"), addr)
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			if status, body := g.do(ask(t.Context(), "GET", ""), nil); status != 200 {
				t.Error(status, body)
			}
		})
	}
	deadline := time.Now().Add(10 * time.Second)
	for conns.Load() < 3 && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	close(release)
	all.Wait()
	if n := conns.Load(); n < 3 || n > 10 {
		t.Errorf("%d connections for 10 requests of which 4 fit on one", n)
	}
}

func TestH2TrailersBothWays(t *testing.T) {
	addr, _ := h2c(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Trailer", "X-Sum")
		fmt.Fprint(w, "body")
		w.Header().Set("X-Sum", r.Trailer.Get("X-Ask")+"!")
	}), nil)
	g := through(t, as("grpc"), addr)
	x := ask(t.Context(), "POST", "")
	x.Request.Version = exchange.HTTP2
	x.Request.Body, x.Request.Length = io.MultiReader(strings.NewReader("ab"), strings.NewReader("cd")), -1
	x.Request.Trailer.Add("X-Ask", "seven")
	var fields exchange.Fields
	fields.Add("Trailer", "X-Ask")
	status, body := g.do(x, &Outgoing{HostDefault: true, Fields: &fields})
	if got := x.Response.Trailer.Get("x-sum"); status != 200 || body != "body" || got != "seven!" {
		t.Errorf("%d %q, trailer %q", status, body, got)
	}
}

func TestH2BothDirectionsAtOnce(t *testing.T) {
	addr, _ := h2c(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(200)
		_ = http.NewResponseController(w).Flush()
		buf := make([]byte, 64)
		for {
			n, err := r.Body.Read(buf)
			_, _ = w.Write(bytes.ToUpper(buf[:n]))
			_ = http.NewResponseController(w).Flush()
			if err != nil {
				return
			}
		}
	}), nil)
	g := through(t, as("grpc"), addr)
	r, w := io.Pipe()
	x := ask(t.Context(), "POST", "")
	x.Request.Version, x.Request.Body, x.Request.Length = exchange.HTTP2, r, -1
	if err := g.set.Cluster("s").Do(x, &Outgoing{HostDefault: true, URI: "/", Buffered: true}); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	for i := range 50 {
		text := "message " + strconv.Itoa(i)
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
		n, err := io.ReadAtLeast(x.Response.Body, buf, len(text))
		if err != nil || string(buf[:n]) != strings.ToUpper(text) {
			t.Fatalf("%d: %q, %v", i, buf[:n], err)
		}
	}
	_ = w.Close()
	if rest := drain(x); rest != "" {
		t.Errorf("then %q", rest)
	}
}

func TestH2SlowReaderHoldsBackItsTargetOnly(t *testing.T) {
	var wrote atomic.Int64
	addr, _ := h2c(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/quick" {
			fmt.Fprint(w, strings.Repeat("q", 1<<20))
			return
		}
		piece := make([]byte, 16<<10)
		for range 512 { // 8 MiB
			if _, err := w.Write(piece); err != nil {
				return
			}
			wrote.Add(int64(len(piece)))
		}
	}), nil)
	g := through(t, as("h2c"), addr)
	slow := ask(t.Context(), "GET", "")
	if err := g.set.Cluster("s").Do(slow, &Outgoing{HostDefault: true, URI: "/slow"}); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if status, body := g.do(ask(t.Context(), "GET", ""), &Outgoing{HostDefault: true, URI: "/quick"}); status != 200 || len(body) != 1<<20 {
			t.Fatalf("beside a slow reader: %d, %d bytes", status, len(body))
		}
	}
	if n := wrote.Load(); n > h2StreamWindow+64<<10 {
		t.Errorf("%d bytes were taken that nobody read", n)
	}
	if body := drain(slow); len(body) != 8<<20 {
		t.Errorf("%d bytes came", len(body))
	}
}

func TestH2ResponseGivenUpResetsItsStream(t *testing.T) {
	gone := make(chan struct{})
	addr, conns := h2c(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			return
		}
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(gone)
	}), nil)
	g := through(t, as("h2c"), addr)
	x := ask(t.Context(), "GET", "")
	if err := g.set.Cluster("s").Do(x, &Outgoing{HostDefault: true, URI: "/wait"}); err != nil {
		t.Fatal(err)
	}
	_ = x.Response.Body.(io.Closer).Close()
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Fatal("the target was not told")
	}
	if status, _ := g.do(ask(t.Context(), "GET", ""), nil); status != 200 || conns.Load() != 1 {
		t.Errorf("then %d on connection %d", status, conns.Load())
	}
}

func TestH2ClientGone(t *testing.T) {
	gone := make(chan struct{})
	addr, _ := h2c(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		close(gone)
	}), nil)
	g := through(t, as("h2c"), addr)
	ctx, leave := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, leave)
	if status, body := g.do(ask(ctx, "GET", ""), nil); status != StatusClientGone {
		t.Error(status, body)
	}
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Fatal("the target was not told")
	}
}

func TestH2ReadTimeout(t *testing.T) {
	addr, _ := h2c(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }), nil)
	g := through(t, func(d *spec.Document) {
		as("h2c")(d)
		d.Services[0].ReadTimeout, d.Services[0].Retries = 60, 0
	}, addr)
	if status, body := g.do(ask(t.Context(), "GET", ""), nil); status != 504 {
		t.Error(status, body)
	}
}

func TestH2OverTLS(t *testing.T) {
	root := newAuthority(t, nil)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Proto, " ", r.TLS.NegotiatedProtocol, " ", r.TLS.ServerName)
	}))
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{Certificates: []tls.Certificate{root.leaf(t, nil, "origin.test")}}
	s.StartTLS()
	t.Cleanup(s.Close)
	for _, protocol := range []string{"h2", "grpcs"} {
		g := over(t, poolsFor(t), root.pool, "r", nil, func(svc *spec.Service) {
			if protocol == "h2" {
				svc.UpstreamProtocol = "h2"
			} else {
				svc.Protocol = protocol
			}
		}, s.Listener.Addr().String())
		if status, body := g.do(ask(t.Context(), "GET", ""), &Outgoing{Host: "origin.test"}); status != 200 || body != "HTTP/2.0 h2 origin.test" {
			t.Errorf("%s: %d %q", protocol, status, body)
		}
	}
}

func TestH2IsNotSpokenByTheTarget(t *testing.T) {
	root := newAuthority(t, nil)
	tlsAddr, _ := secure(t, &tls.Config{Certificates: []tls.Certificate{root.leaf(t, nil, "origin.test")}})
	g := over(t, poolsFor(t), root.pool, "r", nil, func(svc *spec.Service) { svc.UpstreamProtocol = "h2" }, tlsAddr)
	x := ask(t.Context(), "GET", "")
	if status, _ := g.do(x, &Outgoing{Host: "origin.test"}); status != 502 || !strings.Contains(x.Attempts[0].Err.Error(), "application protocol") {
		t.Errorf("over TLS: %d %v", status, x.Attempts)
	}
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	g = through(t, as("h2c"), plain.Listener.Addr().String())
	if status, body := g.do(ask(t.Context(), "GET", ""), nil); status != 502 {
		t.Errorf("in clear: %d %s", status, body)
	}
}

func TestH2PoolsEnd(t *testing.T) {
	addr, _ := h2c(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}), nil)
	g := through(t, as("h2c"), addr)
	x := ask(t.Context(), "GET", "")
	if err := g.set.Cluster("s").Do(x, &Outgoing{HostDefault: true, URI: "/"}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.pools.Run(ctx); err != nil { // returns when nothing of the connection runs any more
		t.Fatal(err)
	}
	if _, err := x.Response.Body.Read(make([]byte, 1)); !errors.Is(err, errPoolsEnded) {
		t.Errorf("reading then answers %v", err)
	}
	if status, _ := g.do(ask(t.Context(), "GET", ""), nil); status != 502 {
		t.Errorf("a request after the end: %d", status)
	}
}

func poolsFor(t *testing.T) *Pools {
	p := NewPools(Settings{})
	t.Cleanup(p.Close)
	return p
}

func TestH2TriesAnotherTargetByStatus(t *testing.T) {
	var asked atomic.Int32
	handle := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if asked.Add(1) == 1 {
			w.WriteHeader(503)
			fmt.Fprint(w, strings.Repeat("unwanted", 10000))
			return
		}
		_, _ = w.Write(body)
	})
	a, _ := h2c(t, handle, nil)
	b, _ := h2c(t, handle, nil)
	g := through(t, func(d *spec.Document) {
		as("h2c")(d)
		d.Services[0].Retry = &spec.Retry{OnStatuses: []int{503}}
	}, a, b)
	text := strings.Repeat("again", 30000) // over the window and over what is spooled
	x := ask(t.Context(), "PUT", text)
	if status, body := g.do(x, nil); status != 200 || body != text || len(x.Attempts) != 2 {
		t.Errorf("%d, %d bytes, %d tries", status, len(body), len(x.Attempts))
	}
}

func TestH2Hedge(t *testing.T) {
	var asked atomic.Int32
	gone := make(chan struct{})
	handle := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) == 1 {
			<-r.Context().Done()
			close(gone)
			return
		}
		w.Header().Set("Trailer", "X-End")
		fmt.Fprint(w, "second")
		w.Header().Set("X-End", "yes")
	})
	a, _ := h2c(t, handle, nil)
	b, _ := h2c(t, handle, nil)
	g := through(t, func(d *spec.Document) {
		as("h2c")(d)
		d.Services[0].Retry = &spec.Retry{HedgeAfter: 20}
	}, a, b)
	x := ask(t.Context(), "GET", "")
	if status, body := g.do(x, nil); status != 200 || body != "second" || x.Response.Trailer.Get("x-end") != "yes" {
		t.Errorf("%d %q %v", status, body, x.Response.Trailer)
	}
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Error("the slow target was not told")
	}
}

// A client that leaves while a connection is opened is noticed, and the connection is
// opened for others all the same.
func TestH2ClientGoneWhileConnecting(t *testing.T) {
	release := make(chan struct{})
	addr := origin(t, func(c net.Conn, br *bufio.Reader, _ int) {
		<-release
		if r := greet(c, br, 1); r != nil {
			r.answer(r.request(), true, ":status", "200")
		}
		_, _ = io.Copy(io.Discard, br)
	})
	g := through(t, as("h2c"), addr)
	ctx, leave := context.WithCancel(t.Context())
	x := ask(ctx, "GET", "")
	x.WatchClient = leave // as an engine that finds the client gone when it looks
	if status, body := g.do(x, nil); status != StatusClientGone {
		t.Error(status, body)
	}
	close(release)
	if status, body := g.do(ask(t.Context(), "GET", ""), nil); status != 200 {
		t.Error(status, body)
	}
}

// New roots or another client certificate are used by the next request already: it never
// rides a connection that was made under the old ones.
func TestH2IdentityIsNotShared(t *testing.T) {
	root := newAuthority(t, nil)
	var conns atomic.Int32
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		serial := "-"
		if len(r.TLS.PeerCertificates) > 0 {
			serial = r.TLS.PeerCertificates[0].SerialNumber.String()
		}
		fmt.Fprint(w, r.Proto, " ", serial)
	}))
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{Certificates: []tls.Certificate{root.leaf(t, nil, "origin.test")}, ClientAuth: tls.RequestClientCert}
	s.Config.ConnState = func(_ net.Conn, st http.ConnState) {
		if st == http.StateNew {
			conns.Add(1)
		}
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	pools, h2 := poolsFor(t), func(svc *spec.Service) { svc.UpstreamProtocol, svc.TLSVerify = "h2", new(true) }
	first, second := root.leaf(t, nil, "one.test"), root.leaf(t, nil, "two.test")
	for n, c := range []struct {
		print string
		pair  *tls.Certificate
		conns int32
	}{{"1", nil, 1}, {"1", nil, 1}, {"2", nil, 2}, {"2", &first, 3}, {"2", &second, 4}, {"2", &first, 4}} {
		want := "HTTP/2.0 -"
		var shown *certs.Bundle
		if c.pair != nil {
			shown = bundle(t, *c.pair)
			leaf, err := x509.ParseCertificate(c.pair.Certificate[0])
			if err != nil {
				t.Fatal(err)
			}
			want = "HTTP/2.0 " + leaf.SerialNumber.String()
		}
		g := over(t, pools, root.pool, c.print, shown, h2, s.Listener.Addr().String())
		if status, body := g.do(ask(t.Context(), "GET", ""), &Outgoing{Host: "origin.test"}); status != 200 || body != want || conns.Load() != c.conns {
			t.Errorf("request %d: %d %q on %d connections, expected %q on %d", n, status, body, conns.Load(), want, c.conns)
		}
	}
}

func TestH2WriteTimeout(t *testing.T) {
	addr := rawOrigin(t, func(r *raw) { r.request() }) // it opens no window
	g := through(t, func(d *spec.Document) {
		as("h2c")(d)
		d.Services[0].WriteTimeout, d.Services[0].Retries = 60, 0
	}, addr)
	if status, body := g.do(ask(t.Context(), "POST", strings.Repeat("x", 100<<10)), nil); status != 504 {
		t.Error(status, body)
	}
}
