package upstream

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/routing/spec"
)

// raw is the target's side of one connection, frame by frame.
type raw struct {
	*http2.Framer
	c net.Conn
	n int // of the connection, from 1
}

// rawOrigin serves connections whose preface is read and whose settings are sent.
func rawOrigin(t testing.TB, handle func(r *raw)) string {
	return origin(t, func(c net.Conn, br *bufio.Reader, n int) {
		r := greet(c, br, n)
		if r != nil {
			handle(r)
		}
		_, _ = io.Copy(io.Discard, br) // until the other side has enough
	})
}

func greet(c net.Conn, br io.Reader, n int) *raw {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(br, preface); err != nil {
		return nil
	}
	r := &raw{http2.NewFramer(c, br), c, n}
	_ = r.WriteSettings()
	return r
}

// request reads until a HEADERS frame and answers its stream.
func (r *raw) request() uint32 {
	for {
		f, err := r.ReadFrame()
		if err != nil {
			return 0
		}
		if h, ok := f.(*http2.HeadersFrame); ok {
			return h.StreamID
		}
	}
}

// answer sends a header section.
func (r *raw) answer(id uint32, end bool, pairs ...string) {
	_ = r.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block(pairs...), EndHeaders: true, EndStream: end})
}

func block(pairs ...string) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	e.SetMaxDynamicTableSize(0)
	for i := 0; i < len(pairs); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	return b.Bytes()
}

func TestH2GoAwayInFlight(t *testing.T) {
	var asked atomic.Int32
	addr := rawOrigin(t, func(r *raw) {
		first := r.request()
		asked.Add(1)
		if r.n > 1 {
			r.answer(first, true, ":status", "200", "x-conn", "second")
			return
		}
		second := r.request()
		_ = r.WriteGoAway(first, http2.ErrCodeNo, nil)
		r.answer(first, false, ":status", "200", "x-conn", "first")
		_ = r.WriteData(first, true, []byte("whole"))
		_ = second
	})
	g := through(t, as("h2c"), addr)
	got := make(chan string, 2)
	for range 2 {
		go func() {
			x := ask(t.Context(), "POST", "not idempotent") // what was not looked at may be sent again all the same
			status, body := g.do(x, nil)
			got <- x.Response.Fields.Get("x-conn") + " " + body
			if status != 200 {
				t.Error(status, body)
			}
		}()
	}
	seen := <-got + "," + <-got
	if seen != "first whole,second " && seen != "second ,first whole" {
		t.Errorf("answers: %s", seen)
	}
}

func TestH2Resets(t *testing.T) {
	for _, c := range []struct {
		name, method string
		code         http2.ErrCode
		status       int
		tries        int32
	}{
		{"refused, not idempotent", "POST", http2.ErrCodeRefusedStream, 200, 2},
		{"cancelled, not idempotent", "POST", http2.ErrCodeCancel, 502, 1},
		{"cancelled on a new connection, idempotent", "GET", http2.ErrCodeCancel, 200, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			var asked atomic.Int32
			handle := func(r *raw) {
				for {
					id := r.request()
					if id == 0 {
						return
					}
					if asked.Add(1) == 1 {
						_ = r.WriteRSTStream(id, c.code)
						continue
					}
					r.answer(id, true, ":status", "200")
				}
			}
			g := through(t, as("h2c"), rawOrigin(t, handle), rawOrigin(t, handle))
			body := ""
			if c.method == "POST" {
				body = "x"
			}
			if status, text := g.do(ask(t.Context(), c.method, body), nil); status != c.status || asked.Load() != c.tries {
				t.Errorf("%d %s after %d tries", status, text, asked.Load())
			}
		})
	}
}

func TestH2ResetInTheMiddle(t *testing.T) {
	addr := rawOrigin(t, func(r *raw) {
		id := r.request()
		r.answer(id, false, ":status", "200")
		_ = r.WriteData(id, false, []byte("half"))
		_ = r.WriteRSTStream(id, http2.ErrCodeInternal)
	})
	g := through(t, as("h2c"), addr)
	if _, body := g.do(ask(t.Context(), "GET", ""), nil); !strings.HasPrefix(body, "half then") || !strings.Contains(body, "INTERNAL_ERROR") {
		t.Errorf("got %q", body)
	}
}

// A target that dies closes its connections between two frames. What it has not said to its
// end must not pass for whole.
func TestH2ClosedInTheMiddle(t *testing.T) {
	addr := rawOrigin(t, func(r *raw) {
		id := r.request()
		r.answer(id, false, ":status", "200")
		_ = r.WriteData(id, false, []byte("half"))
		_ = r.c.Close()
	})
	g := through(t, as("h2c"), addr)
	x := ask(t.Context(), "GET", "")
	if status, body := g.do(x, nil); status != 200 {
		t.Fatal(status, body)
	}
	if _, err := x.Response.Body.Read(make([]byte, 8)); errors.Is(err, io.EOF) || !errors.Is(err, errH2Closed) {
		t.Errorf("the end is %v; expected %v", err, errH2Closed)
	}
	x = ask(t.Context(), "GET", "")
	if _, body := g.do(x, nil); !strings.HasPrefix(body, "half then") {
		t.Errorf("got %q", body)
	}
}

func TestH2InterimAndEarlyResponse(t *testing.T) {
	reset := make(chan http2.ErrCode, 1)
	addr := rawOrigin(t, func(r *raw) {
		id := r.request()
		r.answer(id, false, ":status", "103", "link", "</a>")
		r.answer(id, true, ":status", "403")
		for {
			f, err := r.ReadFrame()
			if err != nil {
				return
			}
			if f, ok := f.(*http2.RSTStreamFrame); ok {
				reset <- f.ErrCode
				return
			}
		}
	})
	g := through(t, as("grpc"), addr)
	b := newSlowBody()
	x := streaming(t.Context(), b)
	x.Request.Version = exchange.HTTP2
	var hints string
	x.Interim = func(status int, f *exchange.Fields) error {
		hints = f.Get("Link")
		return nil
	}
	if status, body := g.do(x, nil); status != 403 || body != "" || hints != "</a>" {
		t.Errorf("%d %q, hints %q", status, body, hints)
	}
	select {
	case code := <-reset:
		if code != http2.ErrCodeCancel {
			t.Error(code)
		}
	case <-time.After(10 * time.Second):
		t.Error("the target was not told that the rest does not come")
	}
}

// Each of these ends the request with 502, and where it is an attack upon the
// connection, the connection too.
func TestH2HostileTarget(t *testing.T) {
	long := strings.Repeat("v", 8<<10)
	for name, attack := range map[string]func(r *raw, id uint32){
		"header list": func(r *raw, id uint32) {
			pairs := []string{":status", "200"}
			for range 12 {
				pairs = append(pairs, "x-long", long)
			}
			b := block(pairs...)
			_ = r.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: b[:16<<10]})
			for b = b[16<<10:]; len(b) > 0; b = b[min(len(b), 16<<10):] {
				_ = r.WriteContinuation(id, len(b) <= 16<<10, b[:min(len(b), 16<<10)])
			}
		},
		"continuation": func(r *raw, id uint32) {
			_ = r.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block(":status", "200")})
			for r.WriteContinuation(id, false, nil) == nil {
			}
		},
		"settings": func(r *raw, _ uint32) {
			for r.WriteSettings() == nil {
			}
		},
		"ping": func(r *raw, _ uint32) {
			for r.WritePing(false, [8]byte{}) == nil {
			}
		},
		"window updates": func(r *raw, id uint32) {
			for r.WriteWindowUpdate(id, 1) == nil {
			}
		},
		"empty data": func(r *raw, id uint32) {
			r.answer(id, false, ":status", "200")
			for r.WriteData(id, false, nil) == nil {
			}
		},
		"interim responses": func(r *raw, id uint32) {
			for range 20 {
				r.answer(id, false, ":status", "103")
			}
		},
		"beyond the window": func(r *raw, id uint32) {
			r.answer(id, false, ":status", "200")
			for range 20 {
				_ = r.WriteData(id, false, make([]byte, 16<<10))
			}
		},
		"window overflow":  func(r *raw, id uint32) { _ = r.WriteWindowUpdate(id, 1<<31-1); _ = r.WriteWindowUpdate(id, 1<<31-1) },
		"data before head": func(r *raw, id uint32) { _ = r.WriteData(id, false, []byte("x")) },
		"idle stream":      func(r *raw, _ uint32) { r.answer(99, true, ":status", "200") },
		"push": func(r *raw, id uint32) {
			_ = r.WritePushPromise(http2.PushPromiseParam{StreamID: id, PromiseID: 2, BlockFragment: block(":method", "GET"), EndHeaders: true})
		},
		"switch":            func(r *raw, id uint32) { r.answer(id, false, ":status", "101") },
		"connection fields": func(r *raw, id uint32) { r.answer(id, true, ":status", "200", "connection", "close") },
		"upper case":        func(r *raw, id uint32) { r.answer(id, true, ":status", "200", "X-Upper", "a") },
		"line break":        func(r *raw, id uint32) { r.answer(id, true, ":status", "200", "x", "a\r\nb: c") },
		"no status":         func(r *raw, id uint32) { r.answer(id, true, "x", "a") },
		"two lengths": func(r *raw, id uint32) {
			r.answer(id, false, ":status", "200", "content-length", "1", "content-length", "2")
		},
		"short body": func(r *raw, id uint32) {
			r.answer(id, false, ":status", "200", "content-length", "5")
			_ = r.WriteData(id, true, []byte("four"))
		},
		"table": func(r *raw, id uint32) {
			_ = r.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: []byte{0xff, 0xff, 0xff, 0x7f}, EndHeaders: true})
		},
	} {
		t.Run(name, func(t *testing.T) {
			addr := rawOrigin(t, func(r *raw) {
				if id := r.request(); id != 0 {
					attack(r, id)
				}
			})
			g := through(t, func(d *spec.Document) {
				as("h2c")(d)
				d.Services[0].Retries = 0
			}, addr)
			x := ask(t.Context(), "POST", "x")
			err := g.set.Cluster("s").Do(x, &Outgoing{HostDefault: true, URI: "/", Buffered: true})
			if err == nil {
				// The head was well. Nobody reads until the attack is noticed: who reads opens windows.
				st := x.Response.Body.(*call).stream
				awaitState(t, st.c, func() bool { return st.dead != nil })
				_, err := io.ReadAll(x.Response.Body)
				if err == nil || errors.Is(err, errTimeout) {
					t.Errorf("reading the body ended with %v", err)
				}
			} else if e, ok := errors.AsType[*Error](err); !ok || e.Status != 502 {
				t.Errorf("got %v", err)
			}
		})
	}
}

// A connection on which nothing is heard is asked whether it lives, and not more often
// than gRPC's servers allow.
func TestH2Ping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		p := NewPools(Settings{})
		s := p.stack(identity{proto: "h2"})
		c := newH2conn(s, ours, "pipe", time.Minute, time.Now())
		p.flows.Go(c.run)
		pings := make(chan time.Duration, 4)
		began := time.Now()
		done := make(chan struct{})
		go func() {
			defer close(done)
			r := greet(theirs, theirs, 1)
			for {
				f, err := r.ReadFrame()
				if err != nil {
					return
				}
				if _, ok := f.(*http2.PingFrame); ok {
					pings <- time.Since(began)
				}
			}
		}()
		if err := c.awaitSettings(t.Context()); err != nil {
			t.Fatal(err)
		}
		st := c.seat()
		c.mu.Lock()
		st.begin([]hpack.HeaderField{{Name: ":method", Value: "GET"}}, true)
		c.flush()
		c.mu.Unlock()
		for range 70 {
			time.Sleep(sweepEvery)
			c.sweep(time.Now(), time.Minute)
		}
		synctest.Wait()
		if first := <-pings; first < 5*time.Minute || len(pings) > 0 {
			t.Errorf("the first ping came after %v, then %d more", first, len(pings))
		}
		if !errors.Is(st.dead, errTimeout) {
			t.Errorf("nobody answered the ping, and the stream says %v", st.dead)
		}
		_ = theirs.Close()
		p.end()
		<-done
	})
}

func TestGRPCTimeoutForm(t *testing.T) {
	for v, want := range map[string]time.Duration{"1m": time.Millisecond, "99999999H": 1 << 62, "5S": 5 * time.Second, "20u": 20 * time.Microsecond, "": -1, "5": -1, "S": -1, "5x": -1, "-1S": -1, "123456789S": -1} {
		if got, ok := grpcTimeout(v); ok != (want >= 0) || ok && got != want {
			t.Errorf("%q is %v, %v", v, got, ok)
		}
	}
}

// The target gives a call up at its deadline: gRPC's status says so, in the head and in
// the trailers. Without a deadline it is a broken target.
func TestGRPCDeadline(t *testing.T) {
	addr := rawOrigin(t, func(r *raw) {
		for {
			id := r.request()
			if id == 0 {
				return
			}
			if id == 3 {
				r.answer(id, false, ":status", "200")
				_ = r.WriteData(id, false, []byte("part"))
			}
			time.Sleep(5 * time.Millisecond)
			_ = r.WriteRSTStream(id, http2.ErrCodeCancel)
		}
	})
	g := through(t, as("grpc"), addr)
	call := func(timeout string) (*exchange.Exchange, int, string) {
		x := ask(t.Context(), "POST", "x")
		x.Request.Version = exchange.HTTP2
		if timeout != "" {
			x.Request.Fields.Add("Grpc-Timeout", timeout)
		}
		status, body := g.do(x, nil)
		return x, status, body
	}
	if x, status, _ := call("2m"); status != 200 || x.Response.Fields.Get("grpc-status") != "4" {
		t.Errorf("before the head: %d, grpc-status %q", status, x.Response.Fields.Get("grpc-status"))
	}
	if x, _, body := call("2m"); body != "part" || x.Response.Trailer.Get("grpc-status") != "4" {
		t.Errorf("in the body: %q, grpc-status %q", body, x.Response.Trailer.Get("grpc-status"))
	}
	if _, status, _ := call("1H"); status != 502 {
		t.Errorf("long before the deadline: %d", status)
	}
	if _, status, _ := call(""); status != 502 {
		t.Errorf("without a deadline: %d", status)
	}
}
