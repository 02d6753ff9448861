package upstream

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// ridden is a shared connection to a socket of the test's, its reader not started.
func ridden(t *testing.T) (c *h2conn, target net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	d, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	target, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = d.Close(), target.Close() })
	go func() { _, _ = io.Copy(io.Discard, target) }()
	k := &sock{Conn: d}
	if k.raw, err = d.(*net.TCPConn).SyscallConn(); err != nil {
		t.Fatal(err)
	}
	k.arm()
	k.listen()
	c = newH2conn(&stack{pools: poolsFor(t)}, k, "test", time.Minute, time.Now())
	c.sock = k
	return c, target
}

// TestH2Look: a request that can be sent once only waits until what a target has said is
// heard, and does not use a connection that is over.
func TestH2Look(t *testing.T) {
	var settings, goAway bytes.Buffer
	_ = http2.NewFramer(&settings, nil).WriteSettings()
	_ = http2.NewFramer(&goAway, nil).WriteGoAway(0, http2.ErrCodeNo, nil)
	for name, says := range map[string]func(c net.Conn){
		"GOAWAY":         func(c net.Conn) { _, _ = c.Write(goAway.Bytes()) },
		"an end":         func(c net.Conn) { _ = c.Close() },
		"GOAWAY and end": func(c net.Conn) { _, _ = c.Write(goAway.Bytes()); _ = c.Close() },
		"a reset":        func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0); _ = c.Close() },
	} {
		c, target := ridden(t)
		_, _ = target.Write(settings.Bytes())
		says(target)
		awaitInput(t, c)
		heard := make(chan bool)
		go func() { heard <- c.look(t.Context()) }()
		done := make(chan struct{})
		go func() { c.run(); close(done) }()
		if <-heard {
			t.Errorf("%s was there and not heard: the connection would have been used", name)
		}
		c.abort(errH2Drained)
		<-done
	}
	c, target := ridden(t)
	done := make(chan struct{})
	go func() { c.run(); close(done) }()
	_, _ = target.Write(settings.Bytes())
	if err := c.awaitSettings(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if !c.look(t.Context()) {
			t.Error("a quiet connection is not used")
		}
	}
	c.abort(errH2Drained)
	<-done
	c, target = ridden(t)
	_, _ = target.Write(settings.Bytes())
	awaitInput(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if !c.look(ctx) { // nobody reads: who has no time does not wait
		t.Error("a connection that is not known to be over is not used")
	}
	c.abort(errH2Drained)
}

// awaitInput waits until something has come to the socket.
func awaitInput(t *testing.T, c *h2conn) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-time.After(time.Millisecond) {
		if some, _ := c.sock.peek(); some {
			return
		}
	}
	t.Fatal("nothing has come")
}

// awaitState waits until something is so on the connection.
func awaitState(t *testing.T, c *h2conn, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-time.After(time.Millisecond) {
		c.mu.Lock()
		ok := so()
		c.mu.Unlock()
		if ok {
			return
		}
	}
	t.Fatal("it does not come to it")
}

// TestH2PostsWhileConnectionsEnd sends requests that must not be sent twice while the target
// ends its connections at random moments, with GOAWAY and at once. Each is served exactly once.
func TestH2PostsWhileConnectionsEnd(t *testing.T) {
	const clients, each = 6, 500
	var served, ended atomic.Int64
	addr := rawOrigin(t, func(r *raw) {
		left := 2*clients + rand.IntN(12) // a request that is sent again is not late a second time
		var last uint32
		for {
			f, err := r.ReadFrame()
			if err != nil {
				return
			}
			if !isEnd(f) {
				continue
			}
			last = f.Header().StreamID
			served.Add(1)
			var b bytes.Buffer
			_ = http2.NewFramer(&b, nil).WriteHeaders(http2.HeadersFrameParam{StreamID: last, BlockFragment: block(":status", "200"), EndHeaders: true, EndStream: true})
			if left--; left > 0 {
				_, _ = r.c.Write(b.Bytes())
				continue
			}
			_ = http2.NewFramer(&b, nil).WriteGoAway(last, http2.ErrCodeNo, nil)
			ended.Add(1)
			if rand.IntN(2) == 0 { // both at once, or the end some time later
				_, _ = r.c.Write(b.Bytes())
			} else {
				_, _ = r.c.Write(b.Bytes()[:b.Len()-17])
				<-time.After(time.Duration(rand.IntN(300)) * time.Microsecond)
				_, _ = r.c.Write(b.Bytes()[b.Len()-17:])
			}
			_ = r.c.Close() // what has come since is not looked at
			return
		}
	})
	g := through(t, as("h2c"), addr)
	var wg sync.WaitGroup
	var bad atomic.Int64
	var first atomic.Value
	for range clients {
		wg.Go(func() {
			for range each {
				x := ask(t.Context(), "POST", "once")
				if status, body := g.do(x, nil); status != 200 {
					bad.Add(1)
					first.CompareAndSwap(nil, fmt.Sprint(status, " ", body, " ", x.Attempts))
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d requests, %d served, %d connections ended", clients*each, served.Load(), ended.Load())
	if bad.Load() > 0 || served.Load() != clients*each {
		t.Errorf("%d of %d requests failed, %d were served; first: %v", bad.Load(), clients*each, served.Load(), first.Load())
	}
}

// isEnd says whether a frame is the end of a request.
func isEnd(f http2.Frame) bool {
	switch f := f.(type) {
	case *http2.HeadersFrame:
		return f.StreamEnded()
	case *http2.DataFrame:
		return f.StreamEnded()
	}
	return false
}

// TestH2PostGoesByAnother: the end of a connection that has come and was not heard, since its
// reader did not get to run, keeps a request that can be sent once only away from it.
func TestH2PostGoesByAnother(t *testing.T) {
	addr, _ := h2c(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), nil)
	g := through(t, as("h2c"), addr)
	c, far := ridden(t)
	c.settle()
	g.pool(c)
	_ = far.Close()
	awaitEnd(t, c)
	x := ask(t.Context(), "POST", "once")
	if status, body := g.do(x, nil); status != 200 || len(x.Attempts) != 1 || x.UpstreamReused {
		t.Errorf("%d %s, reused %v: %v", status, body, x.UpstreamReused, x.Attempts)
	}
	if c.served != 1 || len(c.streams) != 0 || c.dead == nil {
		t.Errorf("the ended connection has %d streams, %v", len(c.streams), c.dead)
	}
}

// TestH2PromisedPlaceIsGone: a place that was promised before GOAWAY came is not used after it.
func TestH2PromisedPlaceIsGone(t *testing.T) {
	c, target := ridden(t)
	done := make(chan struct{})
	go func() { c.run(); close(done) }()
	f := http2.NewFramer(target, nil)
	_ = f.WriteSettings()
	if err := c.awaitSettings(t.Context()); err != nil {
		t.Fatal(err)
	}
	st := c.seat()
	_ = f.WriteGoAway(0, http2.ErrCodeNo, nil)
	awaitState(t, c, func() bool { return c.draining })
	k := &call{cluster: through(t, as("h2c"), "127.0.0.1:1").set.Cluster("s"), x: ask(t.Context(), "POST", ""), out: &Outgoing{URI: "/"}, stream: st}
	if f := k.sendShared("a.test"); f == nil || f.kind != faultBroken || f.sent || st.id != 0 {
		t.Errorf("the fault is %+v, the stream %d", f, st.id)
	}
	st.end()
	<-done
}

// TestH2UnsentIsRefused: of a connection that breaks, requests that never left may be sent
// again, whatever their method; what the target has said before is heard all the same.
func TestH2UnsentIsRefused(t *testing.T) {
	c, target := ridden(t)
	var b bytes.Buffer
	f := http2.NewFramer(&b, nil)
	_ = f.WriteSettings()
	_, _ = target.Write(b.Bytes())
	done := make(chan struct{})
	go func() { c.run(); close(done) }()
	if err := c.awaitSettings(t.Context()); err != nil {
		t.Fatal(err)
	}
	sent, unsent := c.seat(), c.seat()
	awaitState(t, c, func() bool { return !c.writing }) // the preface
	c.mu.Lock()
	sent.begin(nil, true)
	c.writing = true
	for len(c.out.b) > 0 {
		c.writeOut()
	}
	unsent.begin(nil, true)
	c.fail(io.ErrUnexpectedEOF)
	c.writing = false
	c.mu.Unlock()
	<-done
	if sent.refused || !unsent.refused {
		t.Errorf("sent: refused %v, unsent: refused %v", sent.refused, unsent.refused)
	}
}
