package http1

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// onPipe runs an engine on an in-memory connection, for tests in a bubble of time.
func onPipe(t *testing.T, s *Server, f func(*exchange.Exchange)) net.Conn {
	t.Helper()
	s.Handler = &handler{f: f}
	near, far := net.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() { s.ServeConn(t.Context(), far, &exchange.Conn{}) })
	t.Cleanup(func() {
		_ = near.Close()
		wg.Wait()
	})
	return near
}

// trickle sends text byte by byte, one each step, until it is refused. The test
// must close c.
func trickle(t *testing.T, c net.Conn, text string, step time.Duration) {
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range len(text) {
			time.Sleep(step)
			if _, err := c.Write([]byte(text[i : i+1])); err != nil {
				return
			}
		}
	})
	t.Cleanup(wg.Wait)
}

func TestSlowClientsAreCutOff(t *testing.T) {
	f := func(name string, s *Server, begin, rest string, step, least, most time.Duration) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := onPipe(t, s, echo)
				if _, err := io.WriteString(c, begin); err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				trickle(t, c, rest, step)
				r, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began); r.StatusCode != 408 || !r.Close || took < least || took > most {
					t.Errorf("answered %d after %v, want 408 and a close between %v and %v", r.StatusCode, took, least, most)
				}
				_ = c.Close()
			})
		})
	}
	f("head", &Server{}, "GET / HTTP/1.1\r\n", "Host: a\r\n"+strings.Repeat("X: yes\r\n", 100), time.Second, 10*time.Second, 10*time.Second)
	f("silent body", &Server{}, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc", "", time.Second, 30*time.Second, 30*time.Second)
	f("trickled body", &Server{MinRate: 240}, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000\r\n\r\nabc", strings.Repeat("b", 900), 100*time.Millisecond, 10*time.Second, 11*time.Second)
}

func TestIdleConnectionIsClosedAndHoldsNoBuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{}
		c := onPipe(t, s, echo)
		ask(t, c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1)
		began := time.Now()
		time.Sleep(time.Second)
		synctest.Wait()
		s.mu.Lock()
		for x := range s.conns {
			if !x.idle.Load() || x.box != nil || x.buf != nil || x.out != nil {
				t.Error("an idle connection keeps its buffers")
			}
		}
		s.mu.Unlock()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) || time.Since(began) < 74*time.Second || time.Since(began) > 76*time.Second {
			t.Errorf("closed after %v: %v", time.Since(began), err)
		}
	})
}

func TestIdleConnectionServesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := onPipe(t, &Server{}, echo)
		for range 3 {
			time.Sleep(5 * time.Second)
			if b := bodyOf(ask(t, c, "POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", 1)[0]); !strings.Contains(b, `body="hi"`) {
				t.Error(b)
			}
		}
		_ = c.Close()
	})
}

// drained has a Drain come between the arrival of a request and its being seen.
type drained struct {
	net.Conn
	s *Server
}

func (d drained) Read(p []byte) (int, error) {
	n, err := d.Conn.Read(p)
	if strings.HasPrefix(string(p[:n]), "POST") {
		d.s.Drain(context.Background())
	}
	return n, err
}

func TestRequestInTheMomentOfADrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// With this limit a body's read would go by the deadline of the idle wait.
		s := &Server{BodyIdle: keepBuffer, Handler: &handler{f: echo}}
		c, far := net.Pipe()
		var wg sync.WaitGroup
		wg.Go(func() { s.ServeConn(t.Context(), drained{far, s}, &exchange.Conn{}) })
		ask(t, c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1)
		_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe")
		if got := ask(t, c, "llo", 1)[0]; got.StatusCode != 200 || !got.Close || !strings.Contains(bodyOf(got), `"hello"`) {
			t.Errorf("answered %d, close %v", got.StatusCode, got.Close)
		}
		_ = c.Close()
		wg.Wait()
	})
}

// forOne is a connection that is to end after its first response.
func forOne(t *testing.T, s *Server, wg *sync.WaitGroup) net.Conn {
	c, far := net.Pipe()
	wg.Go(func() { s.ServeConn(t.Context(), far, &exchange.Conn{Last: true}) })
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{Handler: &handler{f: echo}}
		mine, other := &exchange.Conn{ID: 1}, &exchange.Conn{ID: 2}
		var wg sync.WaitGroup
		open := func(info *exchange.Conn) net.Conn {
			c, far := net.Pipe()
			wg.Go(func() { s.ServeConn(t.Context(), far, info) })
			ask(t, c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1)
			return c
		}
		idle, busy, spared := open(mine), open(mine), open(other)
		_, _ = io.WriteString(busy, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe")
		synctest.Wait()
		s.Leave(t.Context(), func(c *exchange.Conn) bool { return c == mine })
		if got := ask(t, busy, "llo", 1)[0]; got.StatusCode != 200 || !got.Close {
			t.Errorf("in flight: %d, close %v", got.StatusCode, got.Close)
		}
		time.Sleep(2 * drainLinger)
		if n, err := idle.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Error("an idle connection that has to leave stays")
		}
		if got := ask(t, spared, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1)[0]; got.StatusCode != 200 || got.Close {
			t.Errorf("another connection: %d, close %v", got.StatusCode, got.Close)
		}
		if got := ask(t, forOne(t, s, &wg), "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1)[0]; got.StatusCode != 200 || !got.Close {
			t.Errorf("a connection for one request: %d, close %v", got.StatusCode, got.Close)
		}
		for _, c := range []net.Conn{idle, busy, spared} {
			_ = c.Close()
		}
		wg.Wait()
	})
}

// upgraded answers 101 with one end of a pipe and gives the test the other.
func upgraded(far chan<- net.Conn) func(*exchange.Exchange) {
	return func(x *exchange.Exchange) {
		a, b := net.Pipe()
		x.Response.Status, x.Response.Switch = 101, a
		far <- b
	}
}

func TestTunnelLivesWhileOneSideTalks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		far := make(chan net.Conn, 1)
		c := onPipe(t, &Server{TunnelIdle: time.Minute}, upgraded(far))
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		r := bufio.NewReader(c)
		for l := ""; l != "\r\n"; {
			var err error
			if l, err = r.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
		origin := <-far
		for range 10 { // the client says nothing for ten minutes
			time.Sleep(50 * time.Second)
			go func() { _, _ = io.WriteString(origin, "!") }()
			if b, err := r.ReadByte(); err != nil || b != '!' {
				t.Fatalf("%q %v", b, err)
			}
		}
		began := time.Now()
		if _, err := r.ReadByte(); err == nil || time.Since(began) != time.Minute {
			t.Errorf("a silent tunnel ended after %v: %v", time.Since(began), err)
		}
	})
}

// tunneled is a tunnel that was just opened, and its two ends.
func tunneled(t *testing.T, s *Server) (client net.Conn, r *bufio.Reader, origin net.Conn) {
	t.Helper()
	far := make(chan net.Conn, 1)
	c := onPipe(t, s, upgraded(far))
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	r = bufio.NewReader(c)
	for l := ""; l != "\r\n"; {
		var err error
		if l, err = r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	return c, r, <-far
}

// TestTunnelCarriesWhatComesInBursts: between bursts a tunnel holds no buffer, and loses nothing.
func TestTunnelCarriesWhatComesInBursts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r, origin := tunneled(t, &Server{})
		or := bufio.NewReader(origin)
		for _, n := range []int{1, waitSize - 1, waitSize, waitSize + 1, 5000, waitSize, 100_000, 3} {
			for _, way := range []struct {
				w io.Writer
				r io.Reader
			}{{c, or}, {origin, r}} {
				want := strings.Repeat("b", n)
				go func() { _, _ = io.WriteString(way.w, want) }()
				got := make([]byte, n)
				if _, err := io.ReadFull(way.r, got); err != nil || string(got) != want {
					t.Fatalf("%d bytes: %v", n, err)
				}
			}
			time.Sleep(time.Minute)
		}
	})
}

// TestTunnelGoodbye: who has a WebSocket open is told when the node goes, in a whole
// frame; the end comes when the upstream hears of it, or some seconds later.
func TestTunnelGoodbye(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, polite := range []bool{true, false} {
			s := &Server{}
			c, r, origin := tunneled(t, s)
			_, _ = io.WriteString(origin, "\x82\x04ab") // half a frame
			got := make([]byte, 10)
			if _, err := io.ReadFull(r, got[:4]); err != nil {
				t.Fatal(err)
			}
			s.Drain(t.Context())
			time.Sleep(time.Second)
			go func() { _, _ = io.WriteString(origin, "cd\x81\x01x") }() // the other half, and one that is too late
			if _, err := io.ReadFull(r, got[4:]); err != nil || string(got) != "\x82\x04abcd\x88\x02\x03\xe9" {
				t.Fatalf("%q, %v", got, err)
			}
			began := time.Now()
			want := tunnelFarewell - time.Second
			if polite {
				want = 0
				_, _ = io.WriteString(c, "\x88\x80....")
				if _, err := io.ReadFull(origin, got[:6]); err != nil || string(got[:6]) != "\x88\x80...." {
					t.Fatalf("the origin got %q, %v", got[:6], err)
				}
				_ = origin.Close()
			}
			if b, err := r.ReadByte(); err == nil || time.Since(began) != want {
				t.Errorf("polite %v: %q, %v after %v, want the end after %v", polite, b, err, time.Since(began), want)
			}
			_ = c.Close()
			_ = origin.Close()
		}
	})
}

func TestSlowLeftoverIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := onPipe(t, &Server{}, func(x *exchange.Exchange) { text(x, 403, "no") })
		ask(t, c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc", 1)
		began := time.Now()
		trickle(t, c, strings.Repeat("b", 97), 100*time.Millisecond)
		if _, err := c.Read(make([]byte, 1)); err == nil || time.Since(began) > discardFor+lingerFor+lingerIdle {
			t.Errorf("the connection ended after %v: %v", time.Since(began), err)
		}
		_ = c.Close()
	})
}

type panicking struct{}

func (panicking) Read([]byte) (int, error) { panic("a plugin's body") }

func TestPanicOfABodyEndsItsConnectionOnly(t *testing.T) {
	c, h := serve(t, &Server{}, func(x *exchange.Exchange) {
		x.Response.Status, x.Response.Length, x.Response.Body = 200, -1, panicking{}
	})
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if b, err := io.ReadAll(c); err != nil || len(b) != 0 {
		t.Errorf("%q %v", b, err)
	}
	h.mu.Lock() // the connection closes after Done
	defer h.mu.Unlock()
	if len(h.done) != 1 || h.done[0] == nil || !strings.Contains(h.done[0].Error(), "a plugin's body") {
		t.Errorf("Done was told %v", h.done)
	}
}

// TestOverTLS has one connection idle, be watched, and serve on: deadlines that
// pass must not spoil a TLS connection.
func TestOverTLS(t *testing.T) {
	certs := httptest.NewUnstartedServer(nil)
	certs.StartTLS()
	defer certs.Close()
	s := &Server{Handler: &handler{f: func(x *exchange.Exchange) {
		if x.Request.Scheme != "https" {
			t.Error("the scheme is not https")
		}
		x.WatchClient()
		echo(x)
	}}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		tc := tls.Server(nc, certs.TLS)
		if tc.HandshakeContext(t.Context()) == nil {
			state := tc.ConnectionState()
			s.ServeConn(t.Context(), tc, &exchange.Conn{TLS: &state})
		}
	})
	c, err := tls.Dial("tcp", l.Addr().String(), certs.Client().Transport.(*http.Transport).TLSClientConfig)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	for range 3 {
		if b := bodyOf(ask(t, c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40000\r\n\r\n"+strings.Repeat("x", 40000), 1)[0]); len(b) < 40000 {
			t.Errorf("%d bytes", len(b))
		}
		_ = c.SetReadDeadline(time.Now().Add(keepBuffer + 50*time.Millisecond)) // until it is parked
		if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("an idle connection does not stay open: %v", err)
		}
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	}
}
