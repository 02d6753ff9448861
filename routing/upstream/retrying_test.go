package upstream

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/routing/spec"
)

// The tries of a request are those of the service's retry, or of the one that it brings.
func TestAttempts(t *testing.T) {
	var hits atomic.Int32
	busy := origin(t, func(c net.Conn, r *bufio.Reader, _ int) {
		for readHead(r) != "" {
			hits.Add(1)
			_, _ = io.WriteString(c, "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy")
		}
	})
	two := 2
	g := through(t, func(d *spec.Document) {
		d.Services[0].Retries = 4
		d.Services[0].Retry = &spec.Retry{OnStatuses: []int{503}, Attempts: &two, Backoff: 40}
	}, busy)
	cluster := g.set.Cluster("s")
	for name, row := range map[string]struct {
		own   *Retrying
		hits  int32
		least time.Duration
	}{
		"the service's":     {nil, 3, 80 * time.Millisecond},
		"with a time":       {cluster.Retrying(nil, time.Minute), 3, 80 * time.Millisecond},
		"a route's":         {cluster.Retrying(&spec.Retry{OnStatuses: []int{503}}, 0), 5, 0},
		"other statuses":    {cluster.Retrying(&spec.Retry{OnStatuses: []int{500}}, 0), 1, 0},
		"a number of tries": {cluster.Retrying(&spec.Retry{OnStatuses: []int{503}, Attempts: new(int)}, 0), 1, 0},
		"once":              {Once(), 1, 0},
	} {
		hits.Store(0)
		began := time.Now()
		s, body := g.do(ask(t.Context(), "GET", ""), &Outgoing{HostDefault: true, Buffered: true, Retrying: row.own})
		if took := time.Since(began); s != 503 || body != "busy" || hits.Load() != row.hits || took < row.least {
			t.Errorf("%s: %d %q, %d tries in %v; expected %d in no less than %v", name, s, body, hits.Load(), took, row.hits, row.least)
		}
	}
	// A client that leaves does not wait for the next try.
	g = through(t, func(d *spec.Document) { d.Services[0].Retries = 1 }, busy)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	out := &Outgoing{HostDefault: true, Retrying: g.set.Cluster("s").Retrying(&spec.Retry{OnStatuses: []int{503}, Backoff: 60_000}, 0)}
	if s, _ := g.do(ask(ctx, "GET", ""), out); s != StatusClientGone {
		t.Errorf("a client that left: %d", s)
	}
}

// An attempt's time is for the head, for a request that nobody reads and for a response
// without an end.
func TestAttemptTime(t *testing.T) {
	mute := origin(t, func(_ net.Conn, r *bufio.Reader, _ int) { _, _ = io.Copy(io.Discard, r) })
	deaf := origin(t, func(_ net.Conn, _ *bufio.Reader, _ int) { <-t.Context().Done() })
	trickle := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			_, _ = io.WriteString(w, ".")
			_ = http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
	shared, _ := h2c(t, trickle, nil)
	alone := origin(t, func(c net.Conn, r *bufio.Reader, _ int) {
		_ = readHead(r)
		_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		for ; err == nil; _, err = io.WriteString(c, ".") {
			select {
			case <-t.Context().Done():
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
	patient := func(d *spec.Document) { d.Services[0].ReadTimeout, d.Services[0].WriteTimeout = 60_000, 60_000 }
	for name, row := range map[string]struct {
		addr   string
		edit   func(*spec.Document)
		body   string
		status int
		limit  time.Duration // which the head of an endless answer has to be within
	}{
		"no head":                  {mute, patient, "", 504, 150 * time.Millisecond},
		"a body that nobody reads": {deaf, patient, strings.Repeat("x", 16<<20), 504, 150 * time.Millisecond},
		"a head that nobody reads": {deaf, patient, "short", 504, 150 * time.Millisecond},
		"no end":                   {alone, patient, "", 200, 500 * time.Millisecond},
		"no end, HTTP/2":           {shared, func(d *spec.Document) { patient(d); as("h2c")(d) }, "", 200, 500 * time.Millisecond},
		"no end within, HTTP/2":    {shared, func(d *spec.Document) { patient(d); as("h2c")(d); d.Services[0].Retries = 0 }, "", 200, 500 * time.Millisecond},
	} {
		g := through(t, row.edit, row.addr)
		fault := "none"
		for n := 0; n < 3 && fault != ""; n++ { // one may wait for a processor for all of its time
			began := time.Now()
			x := ask(t.Context(), "GET", row.body)
			s, body := g.do(x, &Outgoing{HostDefault: true, Retrying: g.set.Cluster("s").Retrying(&spec.Retry{Attempts: new(int)}, row.limit)})
			took := time.Since(began)
			if fault = ""; s != row.status || took > 20*time.Second || s == 200 && !strings.Contains(body, " then ") {
				fault = fmt.Sprintf("%d after %v, %d bytes", s, took, len(body))
			}
		}
		if fault != "" {
			t.Errorf("%s: %s", name, fault)
		}
	}
}

// The end of a context that is said to be timed cuts a response that comes without a pause.
func TestTimedContext(t *testing.T) {
	endless := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := make([]byte, 4<<10)
		for r.Context().Err() == nil {
			if _, err := w.Write(p); err != nil {
				return
			}
		}
	})
	shared, _ := h2c(t, endless, nil)
	alone := origin(t, func(c net.Conn, r *bufio.Reader, _ int) {
		_ = readHead(r)
		_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		// Never so long without a byte that the client would be looked after.
		for end := time.Now().Add(10 * time.Second); err == nil && time.Now().Before(end); _, err = io.WriteString(c, ".") {
			<-time.After(5 * time.Millisecond)
		}
	})
	for name, g := range map[string]*gateway{"HTTP/1.1": through(t, nil, alone), "HTTP/2": through(t, as("h2c"), shared)} {
		var cancel context.CancelFunc
		var x *exchange.Exchange
		waitFor(t, func() bool { // one may wait for a processor for all of its time
			var ctx context.Context
			ctx, cancel = context.WithTimeout(t.Context(), 500*time.Millisecond)
			x = ask(ctx, "GET", "")
			err := g.set.Cluster("s").Do(x, &Outgoing{URI: "/", HostDefault: true, Timed: true})
			if err != nil {
				cancel()
			}
			return err == nil
		})
		began := time.Now()
		_, err := io.Copy(io.Discard, x.Response.Body)
		_ = x.Response.Body.(io.Closer).Close()
		if cancel(); err == nil || time.Since(began) > 8*time.Second {
			t.Errorf("%s: it ended after %v with %v", name, time.Since(began), err)
		}
	}
}
