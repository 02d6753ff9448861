package upstream

import (
	"bufio"
	"context"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/routing/spec"
)

func TestHedging(t *testing.T) {
	var hits atomic.Int32
	mute := origin(t, func(_ net.Conn, r *bufio.Reader, _ int) {
		if readHead(r) != "" {
			hits.Add(1)
		}
		_, _ = io.Copy(io.Discard, r)
	})
	well := origin(t, func(c net.Conn, r *bufio.Reader, _ int) {
		for readHead(r) != "" {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nX-From: well\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwell\r\n0\r\nX-Sum: 7\r\n\r\n")
		}
	})
	hedge := func(d *spec.Document) {
		d.Services[0].ReadTimeout = 60000
		d.Services[0].Retry = &spec.Retry{HedgeAfter: 60}
	}
	g := through(t, hedge, mute, well)
	began := time.Now()
	x := ask(t.Context(), "GET", "")
	s, body := g.do(x, nil)
	if took := time.Since(began); s != 200 || body != "well" || took > 20*time.Second {
		t.Errorf("%d %q after %v", s, body, took)
	}
	if x.Response.Fields.Get("X-From") != "well" || x.Response.Trailer.Get("X-Sum") != "7" || len(x.Attempts) != 2 || !x.Response.FromUpstream {
		t.Errorf("the winner's response is not whole: %+v after %d tries", x.Response, len(x.Attempts))
	}
	for _, target := range g.set.sorted[0].targets {
		if n := target.vitals.open.Load(); n != 0 || target.vitals.down.Load() {
			t.Errorf("%s: %d requests are still counted, down %v", target.name, n, target.vitals.down.Load())
		}
	}
	// One that is quick is asked alone.
	waitFor(t, func() bool { return hits.Load() == 1 })
	hits.Store(0)
	g = through(t, func(d *spec.Document) {
		hedge(d)
		d.Services[0].Retry.HedgeAfter = 5000
	}, well, mute)
	if s, body := g.do(ask(t.Context(), "GET", ""), nil); s != 200 || body != "well" || hits.Load() != 0 {
		t.Errorf("quick: %d %q, the other was asked %d times", s, body, hits.Load())
	}
	// Neither answers, and the client leaves.
	g = through(t, hedge, mute, mute2(t))
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(300*time.Millisecond, cancel)
	if s, _ := g.do(ask(ctx, "GET", ""), nil); s != StatusClientGone {
		t.Errorf("gone: %d", s)
	}
	// A POST, and a service that did not ask for it, are never sent twice.
	for method, edit := range map[string]func(*spec.Document){"POST": hedge, "GET": func(*spec.Document) {}} {
		g = through(t, func(d *spec.Document) {
			edit(d)
			d.Services[0].ReadTimeout = 250
		}, mute, well)
		if s, _ := g.do(ask(t.Context(), method, ""), nil); s != 504 {
			t.Errorf("%s was sent twice: %d", method, s)
		}
	}
}

// mute2 is another target that never answers.
func mute2(t *testing.T) string {
	t.Helper()
	return origin(t, func(_ net.Conn, r *bufio.Reader, _ int) { _, _ = io.Copy(io.Discard, r) })
}

// TestHedgeThatPanics holds that a fault of a leg is one of the request.
func TestHedgeThatPanics(t *testing.T) {
	well := answering(t, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell")
	g := through(t, func(d *spec.Document) { d.Services[0].Retry = &spec.Retry{HedgeAfter: 60} }, well, mute2(t))
	g.set.sorted[0].budget = nil // what no Build makes
	defer func() {
		if recover() == nil {
			t.Error("the panic did not reach the request's own goroutine")
		}
	}()
	g.do(ask(t.Context(), "GET", ""), nil)
}
