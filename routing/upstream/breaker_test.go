package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/routing/spec"
)

// breaking makes a ring whose targets traffic takes out by one failure.
func breaking(weights ...int) *balancer {
	b := ring(weights...)
	b.rules = newRules(&spec.Healthchecks{Passive: spec.PassiveCheck{
		Healthy:   spec.Healthy{HTTPStatuses: []int{200}},
		Unhealthy: spec.Unhealthy{HTTPStatuses: []int{500}, HTTPFailures: 1, TCPFailures: 1},
	}})
	b.traits.RecoverAfter = 30
	return b
}

func TestBreakerRecoversByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaking(100, 100)
		bad := b.targets[0]
		b.answered(bad, 500)
		due := func(spare bool) bool { return b.trial(&wish{}, spare) != nil }
		time.Sleep(26 * time.Second)
		if due(true) || counts(b, 10)[0] != 0 {
			t.Fatal("tried again too soon")
		}
		time.Sleep(8 * time.Second)
		if due(false) {
			t.Fatal("a request that cannot be repeated was risked while another target is healthy")
		}
		if b.trial(&wish{tried: []*target{bad}}, true) != nil {
			t.Fatal("a request met the same target again")
		}
		if !due(true) || due(true) {
			t.Fatal("want one trial, and no second beside it")
		}
		b.concluded(bad, trialVoid) // its client left: nothing is known
		if !due(true) {
			t.Fatal("a trial that told nothing used up the chance")
		}
		b.concluded(bad, trialBad)
		time.Sleep(52 * time.Second) // twice the time now
		if due(true) {
			t.Fatal("after a failed trial it must wait longer")
		}
		time.Sleep(16 * time.Second)
		if !due(true) {
			t.Fatal("not tried again after a failed trial")
		}
		b.concluded(bad, b.outcomeOf(nil, 200))
		if counts(b, 10)[0] != 5 || bad.vitals.trials != 0 {
			t.Fatal("a good trial did not bring it back")
		}
		// Where all are out, any request may try.
		b.answered(bad, 500)
		b.failed(b.targets[1], &fault{kind: faultConnect})
		time.Sleep(34 * time.Second)
		if !due(false) {
			t.Fatal("with nobody left, any request may try")
		}
	})
}

func TestBreakerLeavesOrdersAndProbesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaking(100, 100)
		b.answered(b.targets[0], 500)
		b.mark(b.targets[0], false) // by an operator, who knows why
		time.Sleep(time.Hour)
		if b.trial(&wish{}, true) != nil {
			t.Error("an order was overruled")
		}
		probed := breaking(100, 100)
		h := checks("http", 1)
		h.Passive.Unhealthy = spec.Unhealthy{HTTPStatuses: []int{500}, HTTPFailures: 1}
		probed.rules = newRules(&h)
		probed.answered(probed.targets[0], 500)
		time.Sleep(time.Hour)
		if probed.trial(&wish{}, true) != nil {
			t.Error("a request was risked though probes bring targets back")
		}
		never := breaking(100, 100)
		never.traits.RecoverAfter = 0
		never.answered(never.targets[0], 500)
		time.Sleep(time.Hour)
		if never.trial(&wish{}, true) != nil {
			t.Error("recover_after 0 is for never")
		}
	})
}

// The longest wait is bounded.
func TestBreakerWaitIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaking(100)
		bad := b.targets[0]
		b.answered(bad, 500)
		for range 30 {
			time.Sleep(longestWait * 33 * time.Second)
			if b.trial(&wish{}, true) == nil {
				t.Fatal("not tried within the longest wait")
			}
			b.concluded(bad, trialBad)
		}
	})
}

func TestRetryBudget(t *testing.T) {
	b := newBudget(20)
	n := 0
	for b.spend() {
		n++
	}
	if n != 100 {
		t.Errorf("a burst of %d, want 100", n)
	}
	for range 1000 {
		b.earn(20)
	}
	for n = 0; b.spend(); {
		n++
	}
	if n != 100 { // the bound of what is saved
		t.Errorf("%d saved, want 100", n)
	}
	for range 100 {
		b.earn(20)
	}
	for n = 0; b.spend(); {
		n++
	}
	if n != 20 {
		t.Errorf("100 requests earn %d retries, want 20", n)
	}
	if newBudget(0).spend() {
		t.Error("0 % is no retry")
	}
}

// TestTrialIsARealRequest lets a request that could be repeated find a target well again.
func TestTrialIsARealRequest(t *testing.T) {
	var broken atomic.Bool
	var met atomic.Int32
	broken.Store(true)
	sick := origin(t, func(c net.Conn, r *bufio.Reader, _ int) {
		for readHead(r) != "" {
			met.Add(1)
			if broken.Load() {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nsick")
		}
	})
	well := answering(t, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell")
	g := through(t, func(d *spec.Document) {
		d.Services[0].Retries = 1
		d.Upstreams[0].Healthchecks.Passive.Unhealthy.TCPFailures = 1
		d.Upstreams[0].Balancing = &spec.Balancing{RecoverAfter: 1, RetryBudget: 20}
	}, sick, well)
	says := func(method string) string {
		_, body := g.do(ask(t.Context(), method, ""), nil)
		return body
	}
	for range 2 {
		if body := says("GET"); body != "well" {
			t.Fatalf("got %q", body)
		}
	}
	if met.Load() != 1 {
		t.Fatalf("the broken target met %d requests, want 1", met.Load())
	}
	time.Sleep(1200 * time.Millisecond)
	if body := says("POST"); body != "well" || met.Load() != 1 {
		t.Fatalf("a POST was risked: %q", body)
	}
	if body := says("GET"); body != "well" || met.Load() != 2 {
		t.Fatalf("a trial at a target that is still broken cost an answer: %q", body)
	}
	broken.Store(false)
	deadline := time.Now().Add(10 * time.Second)
	for says("GET") != "sick" {
		if time.Now().After(deadline) {
			t.Fatal("the target did not come back")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestConnectionLimit holds four requests before one target with room for two and a
// queue of one.
func TestConnectionLimit(t *testing.T) {
	release := make(chan struct{})
	var now, most atomic.Int32
	slow := origin(t, func(c net.Conn, r *bufio.Reader, _ int) {
		for readHead(r) != "" {
			n := now.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			<-release
			now.Add(-1)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	g := through(t, func(d *spec.Document) {
		d.Services[0].ReadTimeout, d.Services[0].ConnectTimeout = 20000, 20000
		d.Upstreams[0].Balancing = &spec.Balancing{MaxConnections: 2, MaxPending: 1, PendingTimeout: 20}
	}, slow)
	v := g.set.sorted[0].targets[0].vitals
	status := make(chan int, 4)
	var wait sync.WaitGroup
	begin := func(ctx context.Context) {
		wait.Go(func() { s, _ := g.do(ask(ctx, "GET", ""), nil); status <- s })
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal(what)
			}
		}
	}
	begin(t.Context())
	begin(t.Context())
	until("two are under way", func() bool { return now.Load() == 2 })
	leaves, cancel := context.WithCancel(t.Context())
	begin(leaves)
	until("one waits", func() bool { return v.pending.Load() == 1 })
	if s, m := g.do(ask(t.Context(), "GET", ""), nil); s != 503 || m != messageClosed {
		t.Errorf("with the queue full: %d %s", s, m)
	}
	cancel()
	if s := <-status; s != StatusClientGone {
		t.Errorf("one that left its place in the queue: %d", s)
	}
	begin(t.Context())
	until("another waits", func() bool { return v.pending.Load() == 1 })
	close(release)
	handed := time.Now()
	wait.Wait()
	if took := time.Since(handed); took > 10*time.Second {
		t.Errorf("a place that was free was taken after %v", took)
	}
	for range 3 {
		if s := <-status; s != 200 {
			t.Errorf("status %d", s)
		}
	}
	if y := g.set.Tallies(); len(y) != 1 || y[0].Upstream != "u" || y[0].Refused["max_pending"] != 1 || y[0].Refused["pending_timeout"] != 0 {
		t.Errorf("tallies %+v", y)
	}
	if most.Load() != 2 || v.open.Load() != 0 || v.pending.Load() != 0 {
		t.Errorf("%d at once; left over: %d open, %d waiting", most.Load(), v.open.Load(), v.pending.Load())
	}
}

// A wait for a place ends with pending_timeout, whatever time there is to connect; the
// place of a WebSocket is free for who waits as soon as it ends.
func TestPendingTimeout(t *testing.T) {
	switching := origin(t, func(c net.Conn, r *bufio.Reader, _ int) {
		for readHead(r) != "" {
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
		}
	})
	g := through(t, func(d *spec.Document) {
		d.Upstreams[0].Balancing = &spec.Balancing{MaxConnections: 1, MaxPending: 5, PendingTimeout: 0.03}
	}, switching)
	upgrade := func() *exchange.Exchange {
		x := ask(t.Context(), "GET", "")
		x.Request.Upgrade = "websocket"
		return x
	}
	first := upgrade()
	if s, m := g.do(first, nil); s != 101 || first.Response.Switch == nil {
		t.Fatalf("%d %s", s, m)
	}
	began := time.Now()
	s, m := g.do(upgrade(), nil)
	if took := time.Since(began); s != 503 || m != messageClosed || took < 30*time.Millisecond || took > 5*time.Second {
		t.Errorf("%d %s after %v", s, m, took)
	}
	if y := g.set.Tallies(); y[0].Refused["pending_timeout"] != 1 || y[0].Refused["max_pending"] != 0 {
		t.Errorf("tallies %+v", y)
	}
	g.set.sorted[0].traits.PendingTimeout = 20
	status := make(chan int, 1)
	go func() {
		s, _ := g.do(upgrade(), nil)
		status <- s
	}()
	v := g.set.sorted[0].targets[0].vitals
	for deadline := time.Now().Add(10 * time.Second); v.pending.Load() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nobody waits")
		}
	}
	_ = first.Response.Switch.Close()
	select {
	case s := <-status:
		if s != 101 {
			t.Errorf("who waited got %d", s)
		}
	case <-time.After(10 * time.Second):
		t.Error("the place of a WebSocket that is over is given to nobody")
	}
}

// TestShortage: that this node is short of descriptors says nothing of a target.
func TestShortage(t *testing.T) {
	short := fmt.Errorf("connecting: %w", &net.OpError{Op: "dial", Err: os.NewSyscallError("socket", syscall.EMFILE)})
	f := unconnected(short)
	e, ok := errors.AsType[*Error](f.answer())
	if f.kind != faultHere || !ok || e.Status != 503 || !errors.Is(e, ErrShort) || !errors.Is(e, syscall.EMFILE) {
		t.Errorf("%+v, answered %v", f, f.answer())
	}
	if f := unconnected(fmt.Errorf("connecting: %w", syscall.ECONNREFUSED)); f.kind != faultConnect {
		t.Errorf("%+v", f)
	}
	b := breaking(100)
	b.failed(b.targets[0], f)
	if b.targets[0].vitals.down.Load() {
		t.Error("the target was taken out for it")
	}
}

// Requests go to a target that has room before they wait.
func TestConnectionLimitPrefersRoom(t *testing.T) {
	b := ring(100, 100)
	b.traits.MaxConnections, b.traits.MaxPending = 1, 1
	k := &call{cluster: &Cluster{balancer: b, connect: time.Second}, x: ask(t.Context(), "GET", "")}
	seen := map[*target]bool{}
	for range 2 {
		x, _, err := k.seat(wish{}, false)
		if err != nil {
			t.Fatal(err)
		}
		seen[x] = true
	}
	if len(seen) != 2 {
		t.Error("a full target was chosen while another had room")
	}
}

func TestRetryOnStatus(t *testing.T) {
	var hits atomic.Int32
	busy := origin(t, func(c net.Conn, r *bufio.Reader, _ int) {
		for readHead(r) != "" {
			hits.Add(1)
			_, _ = io.WriteString(c, "HTTP/1.1 503 Busy\r\nX-From: busy\r\nContent-Length: 4\r\n\r\nbusy")
		}
	})
	empty := origin(t, func(c net.Conn, r *bufio.Reader, _ int) {
		for readHead(r) != "" {
			hits.Add(1)
			_, _ = io.WriteString(c, "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
		}
	})
	well := answering(t, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell")
	conditions := func(statuses ...int) func(*spec.Document) {
		return func(d *spec.Document) {
			d.Services[0].Retries = 2
			d.Services[0].Retry = &spec.Retry{OnStatuses: statuses}
		}
	}
	f := func(name, method, body string, edit func(*spec.Document), status int, text string, addrs ...string) {
		t.Helper()
		g := through(t, edit, addrs...)
		x := ask(t.Context(), method, body)
		s, got := g.do(x, nil)
		if s != status || got != text {
			t.Errorf("%s: %d %q after %d tries, want %d %q", name, s, got, len(x.Attempts), status, text)
		}
		if status == 200 && x.Response.Fields.Has("X-From") {
			t.Errorf("%s: a field of the dropped response is left", name)
		}
		for _, x := range g.set.sorted[0].targets {
			if n := x.vitals.open.Load(); n != 0 {
				t.Errorf("%s: %d requests are still counted at %s", name, n, x.name)
			}
		}
	}
	f("another answers", "GET", "", conditions(503), 200, "well", busy, well)
	f("an answer without a body", "PUT", "data", conditions(503), 200, "well", empty, well)
	f("not in the list", "GET", "", conditions(502), 503, "busy", busy, well)
	f("POST", "POST", "data", conditions(503), 503, "busy", busy, well)
	hits.Store(0)
	f("all alike", "GET", "", conditions(503), 503, "busy", busy)
	if n := hits.Load(); n != 3 {
		t.Errorf("%d tries, want 3", n)
	}
	f("budget 0", "GET", "", func(d *spec.Document) {
		conditions(503)(d)
		d.Upstreams[0].Balancing = &spec.Balancing{}
	}, 503, "busy", busy, well)
}

func TestTryTimeout(t *testing.T) {
	mute := origin(t, func(_ net.Conn, r *bufio.Reader, _ int) { _, _ = io.Copy(io.Discard, r) })
	well := answering(t, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell")
	g := through(t, func(d *spec.Document) {
		d.Services[0].Retries, d.Services[0].ReadTimeout = 1, 60000
		d.Services[0].Retry = &spec.Retry{TryTimeout: 500} // which the target that is well has, too
	}, mute, well)
	began := time.Now()
	s, body := g.do(ask(t.Context(), "GET", ""), nil)
	if took := time.Since(began); s != 200 || body != "well" || took > 30*time.Second {
		t.Errorf("%d %q after %v", s, body, took)
	}
}

// answering is an origin with one answer.
func answering(t *testing.T, answer string) string {
	t.Helper()
	return origin(t, func(c net.Conn, r *bufio.Reader, _ int) {
		for readHead(r) != "" {
			_, _ = io.WriteString(c, answer)
		}
	})
}
