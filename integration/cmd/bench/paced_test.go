//go:build linux

package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// answering is a server of the three kinds, and what a run of n requests against it says.
func answering(t *testing.T, kind string, rate float64, n int, h http.HandlerFunc) (run, error) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	if kind == "plain" {
		s.Start()
	} else {
		s.EnableHTTP2 = kind == "h2"
		s.StartTLS()
	}
	t.Cleanup(s.Close)
	g, ok := pacedKind(kind, s.Listener.Addr().String(), rate, n)
	if !ok {
		t.Fatalf("there is no kind %q", kind)
	}
	g.unwatched = true // what these tests ask for holds for every request
	return g.load()
}

// TestTheGeneratorAnswersItself asks a proxy whose origin is the generator, and the
// generator alone.
func TestTheGeneratorAnswersItself(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.9:0") // whose port is free, as nobody else has that address
	if err != nil {
		t.Fatal(err)
	}
	origin := l.Addr().String()
	_ = l.Close()
	proxy := httptest.NewServer(httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: origin}))
	t.Cleanup(proxy.Close)
	for _, at := range []string{proxy.Listener.Addr().String(), origin} {
		g, _ := pacedKind("plain", at, 0, 300)
		g.unwatched, g.answers = true, origin
		r, err := g.load()
		if err != nil || r.Failed != 0 || r.Requests != 300 {
			t.Errorf("asking %s with the origin at %s: %+v, %v; want 300 and none failed", at, origin, r, err)
		}
	}
}

func kilobyte(w http.ResponseWriter, _ *http.Request) {
	_, _ = io.WriteString(w, strings.Repeat("a", 1024))
}

func TestPacedLoadKeepsItsRate(t *testing.T) {
	for _, kind := range []string{"h1", "h2", "plain"} {
		var protocols sync.Map
		var asked atomic.Int64
		r, err := answering(t, kind, 1000, 300, func(w http.ResponseWriter, q *http.Request) {
			protocols.Store(q.Proto, true)
			asked.Add(1)
			kilobyte(w, q)
		})
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		if r.Failed != 0 || r.Requests != 300 || asked.Load() != 300 {
			t.Errorf("%s: %+v, and %d were asked for, want 300 and none failed", kind, r, asked.Load())
		}
		if r.Rate > 1010 { // it may be less on a busy machine
			t.Errorf("%s: %.0f requests a second, want 1000 at most", kind, r.Rate)
		}
		if r.P50 <= 0 || r.P99 < r.P50 || r.P999 < r.P99 {
			t.Errorf("%s: the percentiles are not in order: %+v", kind, r)
		}
		want := map[bool]string{true: "HTTP/2.0", false: "HTTP/1.1"}[kind == "h2"]
		if _, ok := protocols.Load(want); !ok {
			t.Errorf("%s: the server did not see %s", kind, want)
		}
	}
}

// TestWaitingCounts has every request due at once, of which a server on 64 connections
// answers some at a time: what waited for a connection has waited since it was due, and
// the last one for as long as the run took. Of 200, p99.9 is the last.
func TestWaitingCounts(t *testing.T) {
	r, err := answering(t, "h1", 1e9, 200, kilobyte)
	if err != nil {
		t.Fatal(err)
	}
	if wall := float64(r.Requests) / r.Rate * 1e6; r.P999 < 0.9*wall {
		t.Errorf("the slowest of requests that were all due at the start took %.0f us, in a run of %.0f us", r.P999, wall)
	}
}

func TestPacedLoadCountsFailures(t *testing.T) {
	for _, kind := range []string{"h1", "h2", "plain"} {
		var n atomic.Int64
		r, err := answering(t, kind, 0, 300, func(w http.ResponseWriter, q *http.Request) {
			switch n.Add(1) % 3 {
			case 0:
				w.WriteHeader(http.StatusServiceUnavailable)
				kilobyte(w, q)
			case 1:
				_, _ = io.WriteString(w, "short")
			default:
				kilobyte(w, q)
			}
		})
		if err != nil || r.Failed != 200 {
			t.Errorf("%s: %d of 300 failed (%v), want 200", kind, r.Failed, err)
		}
	}
}

func TestPacedLoadEndsWithTheServer(t *testing.T) {
	for _, kind := range []string{"h1", "h2", "plain"} {
		_, err := answering(t, kind, 0, 300, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
		if err == nil {
			t.Errorf("%s: a server that breaks off every answer went unnoticed", kind)
		}
	}
}

func TestAnswersInPieces(t *testing.T) {
	answer := "HTTP/1.1 200 OK\r\ncontent-LENGTH: 1024\r\n\r\n" + strings.Repeat("a", 1024)
	c := newWire1("/1k")
	for request := range 2 {
		if err := c.send(io.Discard, request); err != nil {
			t.Fatal(err)
		}
		var got []int
		for i := range answer {
			if err := c.read(nil, []byte{answer[i]}, func(n int, good bool) {
				if good {
					got = append(got, n)
				}
			}); err != nil {
				t.Fatal(err)
			}
		}
		if !slices.Equal(got, []int{request}) {
			t.Errorf("the answers are to %v, want to %d alone", got, request)
		}
	}
	if err := c.send(io.Discard, 2); err != nil {
		t.Fatal(err)
	}
	if err := c.read(nil, []byte(answer+"more"), func(int, bool) {}); err == nil {
		t.Error("bytes after an answer went unnoticed")
	}
}

func TestPercentilesAreByNearestRank(t *testing.T) {
	var list []time.Duration
	for i := range 1000 {
		list = append(list, time.Duration(i+1)*time.Microsecond)
	}
	for p, want := range map[float64]float64{50: 500, 99: 990, 99.9: 999, 100: 1000} {
		if got := percentile(list, p); got != want {
			t.Errorf("of 1 to 1000 the percentile %v is %v, want %v", p, got, want)
		}
	}
	if got := percentile(nil, 99); got != 0 {
		t.Errorf("of nothing it is %v, want 0", got)
	}
}
