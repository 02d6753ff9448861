package upstream

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/keyway-edge/keyway/routing/spec"
)

// TestH2LooksAtAnOlderConnection: who has waited for a new connection and gets a place on an
// older one looks at that first, as if it had been free at once.
func TestH2LooksAtAnOlderConnection(t *testing.T) {
	came, greeted := make(chan struct{}, 1), make(chan struct{})
	addr := origin(t, func(c net.Conn, br *bufio.Reader, n int) {
		came <- struct{}{}
		<-greeted
		if r := greet(c, br, n); r != nil {
			r.answer(r.request(), true, ":status", "200")
		}
		_, _ = io.Copy(io.Discard, br)
	})
	g := through(t, as("h2c"), addr)
	c, far := ridden(t) // whose reader does not get to run
	c.settle()
	c.most = 1
	g.pool(c)
	busy := c.seat()
	x, done := ask(t.Context(), "POST", "once"), make(chan int)
	go func() {
		status, _ := g.do(x, nil)
		done <- status
	}()
	<-came // there was no place: another connection is being opened
	_ = far.Close()
	awaitEnd(t, c)
	busy.end()
	close(greeted)
	if status := <-done; status != 200 || len(x.Attempts) != 1 {
		t.Errorf("%d: %v", status, x.Attempts)
	}
	if c.served != 2 || c.dead == nil {
		t.Errorf("%d places were given on the ended connection, %v", c.served, c.dead)
	}
}

// awaitEnd waits until the end of the other side has come to the socket.
func awaitEnd(t *testing.T, c *h2conn) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-time.After(time.Millisecond) {
		if _, err := c.sock.peek(); err != nil {
			return
		}
	}
	t.Fatal("the end does not come")
}

// TestH2RefusedByAll: each connection on which a target answers GOAWAY to a request that it
// did not look at is followed by another, whatever the method, as often as retries say.
func TestH2RefusedByAll(t *testing.T) {
	for retries, want := range []int{502, 200} {
		var conns atomic.Int32
		addr := rawOrigin(t, func(r *raw) {
			id := r.request()
			if conns.Add(1) > 2 {
				r.answer(id, true, ":status", "200")
				return
			}
			_ = r.WriteGoAway(0, http2.ErrCodeNo, nil)
		})
		g := through(t, func(d *spec.Document) { as("h2c")(d); d.Services[0].Retries = retries }, addr)
		x := ask(t.Context(), "POST", "once")
		status, body := g.do(x, nil)
		if status != want {
			t.Errorf("%d retries: %d %s on %d connections: %v", retries, status, body, conns.Load(), x.Attempts)
		}
	}
}

// cut is a connection that takes a few bytes of what is written once it is armed, and then no more.
type cut struct {
	net.Conn
	armed atomic.Bool
	take  int
	err   error
}

func (c *cut) Write(p []byte) (int, error) {
	if !c.armed.Load() {
		return c.Conn.Write(p)
	}
	n := min(c.take, len(p))
	_, _ = c.Conn.Write(p[:n])
	return n, c.err
}

// cuttable is a shared connection with a reader that runs, and its settings known.
func cuttable(t *testing.T) (c *h2conn, w *cut, target net.Conn) {
	t.Helper()
	c, target = ridden(t)
	w = &cut{Conn: c.nc}
	c.nc = w
	done := make(chan struct{})
	go func() { c.run(); close(done) }()
	t.Cleanup(func() { c.abort(errH2Drained); <-done })
	_ = http2.NewFramer(target, nil).WriteSettings()
	if err := c.awaitSettings(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitState(t, c, func() bool { return !c.writing && len(c.out.b) == 0 })
	return c, w, target
}

// TestH2CutOffRequests: of a connection that cannot be written to, those requests are refused
// whose heads are not whole at the target.
func TestH2CutOffRequests(t *testing.T) {
	lines := []hpack.HeaderField{{Name: ":path", Value: "/a"}}
	for _, c := range []struct {
		name        string
		heads, more int // whole heads that leave, and bytes of the one after them
		err         error
		want        []bool // refused, of two requests one behind the other
	}{
		{"nothing", 0, 0, io.ErrClosedPipe, []bool{true, true}},
		{"a part of the first head", 0, 1, io.ErrClosedPipe, []bool{true, true}},
		{"the first head", 1, 0, io.ErrClosedPipe, []bool{false, true}},
		{"a part of the second head", 1, 10, io.ErrClosedPipe, []bool{false, true}},
		{"both heads", 2, 0, io.ErrClosedPipe, []bool{false, false}},
		{"a part in time", 1, 10, os.ErrDeadlineExceeded, []bool{false, true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, w, target := cuttable(t)
			first, second := h.seat(), h.seat()
			h.mu.Lock()
			first.begin(lines, true)
			w.take, w.err = c.heads*len(h.out.b)+c.more, c.err
			w.armed.Store(true)
			second.begin(lines, true)
			h.flush()
			h.mu.Unlock()
			awaitState(t, h, func() bool { return h.broken != nil || h.dead != nil })
			_ = target.Close() // its last words
			awaitState(t, h, func() bool { return h.dead != nil })
			if got := []bool{first.refused, second.refused}; !slices.Equal(got, c.want) {
				t.Errorf("refused %v, want %v", got, c.want)
			}
		})
	}
}

// TestH2UnsentGoesByAnother: a request that could not be written in time to a connection that
// is stuck was not sent: it goes by another one, whatever its method.
func TestH2UnsentGoesByAnother(t *testing.T) {
	addr, _ := h2c(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), nil)
	g := through(t, func(d *spec.Document) { as("h2c")(d); d.Services[0].Retries = 0 }, addr)
	c, w, _ := cuttable(t)
	g.pool(c)
	w.err = os.ErrDeadlineExceeded
	w.armed.Store(true)
	x := ask(t.Context(), "POST", "once")
	if status, body := g.do(x, nil); status != 200 || len(x.Attempts) != 1 || x.UpstreamReused {
		t.Errorf("%d %s, reused %v: %v", status, body, x.UpstreamReused, x.Attempts)
	}
	if c.served != 1 {
		t.Errorf("the connection that is stuck was asked %d times", c.served)
	}
}

// pool puts a connection among those that the one target's requests share.
func (g *gateway) pool(c *h2conn) {
	cl := g.set.Cluster("s")
	target := cl.balancer.targets[0]
	id, _ := (&call{cluster: cl, out: &Outgoing{HostDefault: true}}).identity(target, target.addr)
	s := target.stack(g.pools, id)
	c.mu.Lock()
	c.stack = s
	c.mu.Unlock()
	s.mu.Lock()
	s.shared = append(s.shared, c)
	s.mu.Unlock()
}
