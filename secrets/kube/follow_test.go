package kube

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyway-edge/keyway/secrets"
)

// scripted is an API server without a network: status 503, or empty lists and
// watches that last until their request ends.
type scripted struct {
	down  atomic.Bool
	asked atomic.Int64
}

func (s *scripted) RoundTrip(r *http.Request) (*http.Response, error) {
	s.asked.Add(1)
	answer := func(status int, body io.Reader) (*http.Response, error) {
		return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(body), Request: r}, nil
	}
	switch {
	case s.down.Load():
		return answer(http.StatusServiceUnavailable, strings.NewReader("{}"))
	case r.URL.Query().Get("watch") != "":
		return answer(http.StatusOK, until{r.Context()})
	case strings.HasSuffix(r.URL.Path, "/secrets"):
		return answer(http.StatusOK, strings.NewReader(`{"metadata":{"resourceVersion":"7"},"items":[]}`))
	}
	return answer(http.StatusNotFound, strings.NewReader("{}"))
}

// until is a body without a byte that ends with its request.
type until struct {
	ended interface{ Done() <-chan struct{} }
}

func (u until) Read([]byte) (int, error) {
	<-u.ended.Done()
	return 0, io.ErrUnexpectedEOF
}

// TestADeadServerIsTriedByOneWatchAtATime has many watches and a server that is away.
func TestADeadServerIsTriedByOneWatchAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const count = 200
		var all []string
		for i := range count {
			all = append(all, fmt.Sprint("n", i))
		}
		s := new(scripted)
		s.down.Store(true)
		src := &Source{
			cfg: Config{Namespaces: all}, api: &api{base: &url.URL{Scheme: "http", Host: "kube"}, client: &http.Client{Transport: s}},
			changed: make(chan struct{}, 1), added: make(chan struct{}, 1),
			turns: turns{one: make(chan struct{}, 1)}, known: make(map[key]*followed), watches: make(map[key]*watch), touched: make(map[key]bool),
		}
		for _, namespace := range all {
			_, _ = src.Fetch(t.Context(), secrets.Request{Resource: namespace + "/s"})
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- src.Run(ctx) }()
		time.Sleep(count * stagger) // each tries once
		synctest.Wait()
		before := s.asked.Load()
		time.Sleep(10 * time.Minute)
		// All together 2 to 4 s apart.
		if n := s.asked.Load() - before; n < 140 || n > 310 {
			t.Errorf("%d tries in 10 minutes with %d watches; expected 150 to 300", n, count)
		}
		s.down.Store(false)
		time.Sleep(9 * time.Second) // the first in 4 s, the last of them 4 s after that
		src.mu.Lock()
		up := 0
		for _, f := range src.known {
			if f.watch.live {
				up++
			}
		}
		src.mu.Unlock()
		if up != count {
			t.Errorf("%d watches up a minute after the server was; expected %d", up, count)
		}
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run: %v; expected nil at the end of its context", err)
		}
	})
}
