package integration

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// mortal is an origin that can die, with what it holds, and return.
type mortal struct {
	t      *testing.T
	addr   string
	srv    *http.Server
	served atomic.Int64
	posts  atomic.Int64 // under way now
}

func (m *mortal) live() {
	m.t.Helper()
	l, err := net.Listen("tcp", m.addr)
	if err != nil {
		m.t.Fatal(err)
	}
	m.posts.Store(0)
	m.srv = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			m.posts.Add(1)
			defer m.posts.Add(-1)
		}
		time.Sleep(5 * time.Millisecond)
		m.served.Add(1)
		_, _ = io.WriteString(w, "ok")
	})}
	go func() { _ = m.srv.Serve(l) }()
}

// TestBalanceEjectionUnderLoad kills one of three targets under load and lets it
// return, three times. Of GETs none may fail; of POSTs no more than were under way at
// the target when it died. The target comes back by itself.
func TestBalanceEjectionUnderLoad(t *testing.T) {
	var list []*mortal
	var targets strings.Builder
	for range 3 {
		m := &mortal{t: t, addr: fmt.Sprintf("127.0.0.1:%d", freePort(t))}
		m.live()
		t.Cleanup(func() { _ = m.srv.Close() })
		list = append(list, m)
		fmt.Fprintf(&targets, "  - {target: %q}\n", m.addr)
	}
	g := start(t, options{document: `_format_version: "3.0"
services:
- {name: s, host: u, routes: [{name: r, paths: [/]}]}
upstreams:
- name: u
  x_keyway_balancing: {recover_after: 0.5}
  healthchecks: {passive: {healthy: {successes: 1}, unhealthy: {tcp_failures: 2, timeouts: 2, http_failures: 5}}}
  targets:
` + targets.String()})
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 32}, Timeout: 30 * time.Second}
	var gets, posts, getFails, postFails atomic.Int64
	stop := make(chan struct{})
	var wait sync.WaitGroup
	for i := range 16 {
		wait.Go(func() {
			method, n, fails := http.MethodGet, &gets, &getFails
			if i%4 == 0 {
				method, n, fails = http.MethodPost, &posts, &postFails
			}
			for {
				select {
				case <-stop:
					return
				default:
				}
				req, err := http.NewRequest(method, "http://"+g.proxy+"/", nil)
				if err != nil {
					t.Error(err)
					return
				}
				resp, err := client.Do(req)
				if err != nil {
					fails.Add(1)
					continue
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				n.Add(1)
				if resp.StatusCode != http.StatusOK {
					fails.Add(1)
				}
			}
		})
	}
	m, inFlight := list[0], int64(0)
	for range 3 {
		time.Sleep(500 * time.Millisecond)
		_ = m.srv.Close()
		// Those that had just arrived and those that had just been sent count too.
		inFlight += m.posts.Load() + 4
		time.Sleep(700 * time.Millisecond)
		before := m.served.Load()
		m.live()
		poll(t, "the target gets traffic again", 20*time.Second, func() bool { return m.served.Load() > before+20 })
	}
	close(stop)
	wait.Wait()
	if getFails.Load() > 0 || postFails.Load() > inFlight || gets.Load() < 1000 {
		t.Errorf("%d of %d GETs failed, want none; %d of %d POSTs, want at most the %d that were under way",
			getFails.Load(), gets.Load(), postFails.Load(), posts.Load(), inFlight)
	}
	t.Logf("%d of %d GETs and %d of %d POSTs failed in three deaths", getFails.Load(), gets.Load(), postFails.Load(), posts.Load())
}
