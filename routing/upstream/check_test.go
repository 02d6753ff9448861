package upstream

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyway-edge/keyway/routing/spec"
)

// checks makes the healthchecks of an upstream that is probed each interval seconds
// and judged by one probe.
func checks(kind string, interval float64) spec.Healthchecks {
	return spec.Healthchecks{Active: spec.ActiveCheck{
		Type: kind, Timeout: 1, Concurrency: 10, HTTPPath: "/hc",
		Healthy:   spec.Healthy{Interval: interval, HTTPStatuses: []int{200, 302}, Successes: 1},
		Unhealthy: spec.Unhealthy{Interval: interval, HTTPStatuses: []int{404, 500}, TCPFailures: 1, Timeouts: 1, HTTPFailures: 1},
	}}
}

// health answers gRPC's health protocol.
func health(serving bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/grpc.health.v1.Health/Check" || r.Header.Get("Content-Type") != "application/grpc" || r.ProtoMajor != 2 {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		status := byte(2)
		if serving {
			status = 1
		}
		_, _ = w.Write([]byte{0, 0, 0, 0, 2, 8, status})
		w.Header().Set("Grpc-Status", "0")
	})
}

// serverOf serves h in clear, with HTTP/2 too, or over TLS.
func serverOf(t *testing.T, h http.Handler, secure bool) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	if secure {
		s.EnableHTTP2 = true
		s.StartTLS()
	} else {
		var p http.Protocols
		p.SetHTTP1(true)
		p.SetUnencryptedHTTP2(true)
		s.Config.Protocols = &p
		s.Start()
	}
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// refusing is an address that refuses connections until the test ends. Its socket is
// bound and does not listen, so nobody else can get the port in the meantime.
func refusing(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(name.(*syscall.SockaddrInet4).Port))
}

func TestProbes(t *testing.T) {
	says := func(status int) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/hc" || r.Proto != "HTTP/1.0" || r.Host != "127.0.0.1" || strings.Join(r.Header["X-H"], ",") != "1,2" {
				status = 599
			}
			w.WriteHeader(status)
		})
	}
	refused := refusing(t)
	mute := origin(t, func(_ net.Conn, r *bufio.Reader, _ int) { _, _ = r.ReadByte(); _, _ = io.Copy(io.Discard, r) })
	for _, c := range []struct {
		name, kind, addr string
		event            event
		judged           bool
	}{
		{"200", "http", serverOf(t, says(200), false), eventSuccess, true},
		{"500", "http", serverOf(t, says(500), false), eventStatus, true},
		{"a status that says nothing", "http", serverOf(t, says(204), false), eventSuccess, false},
		{"refused", "http", refused, eventTCP, true},
		{"mute", "http", mute, eventTimeout, true},
		{"TLS", "https", serverOf(t, says(200), true), eventSuccess, true},
		{"TLS of a server without", "https", serverOf(t, says(200), false), eventTCP, true},
		{"connected", "tcp", mute, eventSuccess, true},
		{"not connected", "tcp", refused, eventTCP, true},
		{"gRPC serves", "grpc", serverOf(t, health(true), false), eventSuccess, true},
		{"gRPC does not", "grpc", serverOf(t, health(false), false), eventStatus, true},
		{"gRPC without health", "grpc", serverOf(t, http.NotFoundHandler(), false), eventStatus, true},
		{"gRPC over TLS", "grpcs", serverOf(t, health(true), true), eventSuccess, true},
		{"gRPC over TLS does not", "grpcs", serverOf(t, health(false), true), eventStatus, true},
	} {
		d := document(at(c.addr, 100))
		h := checks(c.kind, 1)
		h.Active.Timeout, h.Active.Headers = 5, map[string][]string{"X-H": {"1", "2"}}
		if c.event == eventTimeout {
			h.Active.Timeout = 0.1
		}
		h.Active.Unhealthy.HTTPStatuses = append(h.Active.Unhealthy.HTTPStatuses, 503)
		d.Upstreams[0].Healthchecks = h
		s := build(t, nil, d)
		b := s.sorted[0]
		e, judged, err := probe(t.Context(), b, b.targets[0], s.pools.names)
		if e != c.event || judged != c.judged || (err == nil) != (c.event == eventSuccess) {
			t.Errorf("%s: event %d, judged %v: %v", c.name, e, judged, err)
		}
	}
	// A certificate that nobody vouches for is no good where it is looked at.
	d := document(at(serverOf(t, says(200), true), 100))
	d.Upstreams[0].Healthchecks = checks("https", 1)
	d.Upstreams[0].Healthchecks.Active.HTTPSVerifyCertificate = true
	b := build(t, nil, d).sorted[0]
	if _, _, err := probe(t.Context(), b, b.targets[0], nil); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an unknown authority: %v", err)
	}
}

// checking runs a Checker over the Set that current holds, in virtual time.
func checking(t *testing.T, current *atomic.Pointer[Set]) {
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	c := NewChecker(current.Load, slog.New(slog.DiscardHandler))
	wait.Go(func() {
		if err := c.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wait.Wait() })
}

func TestCheckerTakesOutAndBringsBack(t *testing.T) {
	var status atomic.Int32
	var probes atomic.Int32
	status.Store(200)
	addr := serverOf(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		probes.Add(1)
		w.WriteHeader(int(status.Load()))
	}), false)
	synctest.Test(t, func(t *testing.T) {
		d := document(at(addr, 100))
		d.Upstreams[0].Healthchecks = checks("http", 2)
		d.Upstreams[0].Healthchecks.Active.Unhealthy.Interval = 1
		var current atomic.Pointer[Set]
		current.Store(build(t, nil, d))
		checking(t, &current)
		state := func(want State) {
			t.Helper()
			if got := current.Load().Health()[0].State; got != want {
				t.Fatalf("%s, want %s", got, want)
			}
		}
		time.Sleep(20 * time.Second)
		state(Healthy)
		if n := probes.Load(); n < 8 || n > 12 {
			t.Errorf("%d probes in 20 s of one each 2 s", n)
		}
		status.Store(500)
		time.Sleep(3 * time.Second)
		state(Unhealthy)
		// A new document with the same target goes on from there.
		d.Services[0].Retries++
		current.Store(build(t, current.Load(), d))
		probes.Store(0)
		time.Sleep(10 * time.Second)
		state(Unhealthy)
		if n := probes.Load(); n < 8 || n > 12 {
			t.Errorf("%d probes in 10 s of one each second", n)
		}
		status.Store(204) // says nothing
		time.Sleep(3 * time.Second)
		state(Unhealthy)
		status.Store(302)
		time.Sleep(3 * time.Second)
		state(Healthy)
		// Without checks nothing is probed.
		bare := *d.Upstreams[0] // which is not changed, but replaced
		bare.Healthchecks = spec.Healthchecks{}
		d.Upstreams[0] = &bare
		current.Store(build(t, current.Load(), d))
		time.Sleep(2 * time.Second)
		probes.Store(0)
		time.Sleep(10 * time.Second)
		if n := probes.Load(); n != 0 {
			t.Errorf("%d probes of an upstream without checks", n)
		}
		state(Unchecked)
	})
}

// TestCheckerOfThousands probes 3000 targets with a bounded number of goroutines,
// each about as often as it should be, and an upstream never beyond its concurrency.
func TestCheckerOfThousands(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	var n atomic.Int32
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n.Add(1)
			_ = c.Close()
		}
	}()
	port := l.Addr().(*net.TCPAddr).Port
	synctest.Test(t, func(t *testing.T) {
		var targets []*spec.Target
		for i := range 3000 {
			targets = append(targets, at(fmt.Sprintf("127.0.%d.%d:%d", i/250, 1+i%250, port), 100))
		}
		d := document(targets...)
		d.Upstreams[0].Healthchecks = checks("tcp", 30)
		d.Upstreams[0].Healthchecks.Active.Unhealthy.TCPFailures = 0 // only 127.0.0.1 listens
		var current atomic.Pointer[Set]
		current.Store(build(t, nil, d))
		before := runtime.NumGoroutine()
		checking(t, &current)
		most := 0
		for range 300 {
			time.Sleep(100 * time.Millisecond)
			most = max(most, runtime.NumGoroutine()-before)
		}
		if most > 2*maxProbes {
			t.Errorf("%d goroutines", most)
		}
		probed := 0
		for _, x := range current.Load().sorted[0].targets {
			x.vitals.mu.Lock()
			if c := x.vitals.counts[byProbe]; c.successes+c.tcp > 0 {
				probed++
			}
			x.vitals.mu.Unlock()
		}
		if probed < 2990 {
			t.Errorf("%d of 3000 targets were probed within their interval", probed)
		}
	})
}

// TestCheckerHoldsItsBounds probes 300 targets that never answer.
func TestCheckerHoldsItsBounds(t *testing.T) {
	var now, most atomic.Int32
	addr := origin(t, func(c net.Conn, r *bufio.Reader, _ int) {
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		_, _ = io.Copy(io.Discard, r)
	})
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	var targets []*spec.Target
	for i := range 300 {
		targets = append(targets, at(fmt.Sprintf("h%d.test:%s", i, port), 100))
	}
	for concurrency, bound := range map[int]int32{10: 10, 1000: maxProbes} {
		most.Store(0)
		d := document(targets...)
		d.Upstreams[0].Healthchecks = checks("http", 0.2)
		d.Upstreams[0].Healthchecks.Active.Timeout, d.Upstreams[0].Healthchecks.Active.Concurrency = 60, concurrency // no probe ends by itself
		s, problems := Build(nil, Inputs{Doc: d, Pools: NewPools(Settings{Resolver: loopback{}})})
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		var current atomic.Pointer[Set]
		current.Store(s)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- NewChecker(current.Load, slog.New(slog.DiscardHandler)).Run(ctx) }()
		waitFor(t, func() bool { return most.Load() >= bound })
		time.Sleep(500 * time.Millisecond) // in which more could come
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if n := most.Load(); n != bound {
			t.Errorf("concurrency %d: %d probes at once, want %d", concurrency, n, bound)
		}
		for now.Load() > 0 {
			time.Sleep(time.Millisecond)
		}
	}
}

// TestCheckerProbesEveryAddressOfAName finds that one of two addresses does not answer.
func TestCheckerProbesEveryAddressOfAName(t *testing.T) {
	addr := serverOf(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), false)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		d := document(at("two.test:"+port, 100))
		d.Upstreams[0].Healthchecks = checks("http", 1)
		dns := &book{pages: map[string][]string{"two.test": {"127.0.0.1", "127.0.0.2"}}}
		s, problems := Build(nil, Inputs{Doc: d, Pools: NewPools(Settings{Resolver: dns})})
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		var current atomic.Pointer[Set]
		current.Store(s)
		checking(t, &current)
		time.Sleep(10 * time.Second)
		states := map[string]State{}
		for _, h := range s.Health() {
			states[h.Address] = h.State
		}
		if len(states) != 2 || states["127.0.0.1:"+port] != Healthy || states["127.0.0.2:"+port] != Unhealthy {
			t.Errorf("states %v", states)
		}
		for range 10 {
			if got := s.sorted[0].pick(wish{}); got == nil || got.addr.Addr().String() != "127.0.0.1" {
				t.Fatalf("picked %v", got)
			}
		}
	})
}
