package integration

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// wrk asks for path, as fast as the node answers, and answers how many requests it made
// and how many were not answered with a success. args are more of its flags.
func (a *attacked) wrk(path string, conns int, d time.Duration, args ...string) (n, bad int) {
	t := a.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d+60*time.Second)
	defer cancel()
	args = append([]string{"-t1", "-c" + strconv.Itoa(conns), "-d" + strconv.Itoa(int(d.Seconds())) + "s", "--timeout", "60s", "--latency"}, args...)
	out := unleash(ctx, t, installed(t, "wrk"), append(args, "http://"+a.proxy+path)...)
	number := func(pattern string) int {
		m := regexp.MustCompile(pattern).FindStringSubmatch(out)
		if m == nil {
			return 0
		}
		v, _ := strconv.Atoi(m[1])
		return v
	}
	if n = number(`(\d+) requests in`); n == 0 {
		t.Fatalf("wrk said\n%s", out)
	}
	p99 := regexp.MustCompile(`99%\s+(\S+)`).FindStringSubmatch(out)
	rate := regexp.MustCompile(`Requests/sec:\s+(\S+)`).FindStringSubmatch(out)
	if p99 != nil && rate != nil {
		t.Logf("wrk on %d connections: %d requests, %s a second, p99 %s", conns, n, rate[1], p99[1])
	}
	return n, number(`Non-2xx or 3xx responses: (\d+)`)
}

// TestOverloadDeadUpstream (O-08) asks for a target that nobody listens at: the breaker
// answers, and others do not notice.
func TestOverloadDeadUpstream(t *testing.T) {
	a := attackable(t, "["+service("good", fast(t), "/good", "", "")+", "+service("dead", "dead.up:80", "/dead", "", "")+"]", fmt.Sprintf(`
upstreams:
- name: dead.up
  healthchecks: {passive: {unhealthy: {tcp_failures: 3}}}
  targets: [{target: "127.0.0.1:%d"}]
`, freePort(t)), nil)
	a.beside("/good", false, func() {
		n, bad := a.wrk("/dead", 16, sized(2*time.Second, 20*time.Second))
		if bad != n {
			t.Errorf("of %d requests %d were answered with an error", n, bad)
		}
		resp, body := call(t, http.DefaultClient, http.MethodGet, "http://"+a.proxy+"/dead", nil)
		if resp.StatusCode != 503 || !strings.Contains(body, "failure to get a peer") {
			t.Errorf("the breaker answered %d %s", resp.StatusCode, body)
		}
		var slowest time.Duration
		for range 100 {
			began := time.Now()
			call(t, http.DefaultClient, http.MethodGet, "http://"+a.proxy+"/dead", nil)
			slowest = max(slowest, time.Since(began))
		}
		t.Logf("the slowest of 100 answers of the breaker took %v", round(slowest))
	})
	if n := a.counter(t, `keyway_upstream_ejections_total{by="traffic",upstream="dead.up"}`); n != 1 {
		t.Errorf("the target was taken out %v times", n)
	}
}

// heardOf is an origin that takes requests and breaks off: it counts how often it has
// seen each number.
type heardOf struct {
	mu         sync.Mutex // guards the group below
	gets       int
	posts      map[string]int
	mostOfPost int
}

func (h *heardOf) breakOff(t *testing.T) string {
	return accepting(t, "127.0.0.1:0", func(c net.Conn) {
		req, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if req.Method == http.MethodGet {
			h.gets++
			return
		}
		h.posts[req.Header.Get("X-Number")]++
		h.mostOfPost = max(h.mostOfPost, h.posts[req.Header.Get("X-Number")])
	}).Addr().String()
}

// TestOverloadRetryBudget (O-08) has targets that take requests and break off: repetitions
// stay within a fifth of the requests, and what may not be repeated is not.
func TestOverloadRetryBudget(t *testing.T) {
	h := &heardOf{posts: map[string]int{}}
	a := attackable(t, "["+service("good", fast(t), "/good", "", "")+", "+service("broken", "broken.up:80", "/broken", "retries: 5,", "")+"]", fmt.Sprintf(`
upstreams: [{name: broken.up, targets: [{target: %q}, {target: %q}]}]
`, h.breakOff(t), h.breakOff(t)), nil)
	script := file(t, t.TempDir(), "both.lua", `
local n = 0
request = function()
  n = n + 1
  local method = "GET"
  if n % 2 == 0 then method = "POST" end
  return wrk.format(method, "/broken", {["X-Number"] = tostring(n), ["Host"] = "edge.test"})
end
`)
	a.beside("/good", false, func() {
		const conns, burst = 16, 100
		n, bad := a.wrk("/broken", conns, sized(2*time.Second, 20*time.Second), "-s", script)
		if bad != n {
			t.Errorf("of %d requests %d were answered with an error", n, bad)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		seen := h.gets + len(h.posts)
		t.Logf("%d requests: the origin saw %d GET and %d POST, one POST at most %d times", n, h.gets, len(h.posts), h.mostOfPost)
		if most := (n+conns)*6/5 + burst; seen > most || h.gets <= n/2+burst/2 {
			t.Errorf("the origin saw %d requests, %d are the most, and more GETs than %d were sent with repetitions", seen, most, n/2)
		}
		if h.mostOfPost != 1 {
			t.Errorf("a POST was sent %d times", h.mostOfPost)
		}
	})
	if n := a.counter(t, `keyway_upstream_refused_total{reason="retry_budget",upstream="broken.up"}`); n == 0 {
		t.Error("no repetition was refused")
	}
}

// TestOverloadSlowUpstream (O-09) asks for a target that takes half a minute: it gets as
// many requests as it may, some wait a second, and the rest is told to come again.
func TestOverloadSlowUpstream(t *testing.T) {
	const most = 20
	var now, top atomic.Int64
	slow := origin(t, func(_ http.ResponseWriter, r *http.Request) {
		n := now.Add(1)
		defer now.Add(-1)
		for m := top.Load(); n > m && !top.CompareAndSwap(m, n); m = top.Load() {
		}
		pause(r.Context().Done(), 30*time.Second)
	})
	a := attackable(t, "["+service("good", fast(t), "/good", "", "")+", "+service("slow", "slow.up:80", "/slow", "", "")+"]", fmt.Sprintf(`
upstreams: [{name: slow.up, x_keyway_balancing: {max_connections: %d, max_pending: 20}, targets: [{target: %q}]}]
`, most, slow), nil)
	a.beside("/good", false, func() {
		done := make(chan struct{})
		go func() {
			defer close(done)
			n, bad := a.wrk("/slow", 200, sized(3*time.Second, 20*time.Second))
			if bad != n {
				t.Errorf("of %d answers %d were errors", n, bad)
			}
		}()
		poll(t, "the target is full", 30*time.Second, func() bool { return now.Load() == most })
		var slowest atomic.Int64
		var wg sync.WaitGroup
		for range 40 {
			wg.Go(func() {
				began := time.Now()
				resp, err := http.Get("http://" + a.proxy + "/slow")
				if err != nil {
					t.Error(err)
					return
				}
				_ = resp.Body.Close()
				if resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "1" {
					t.Errorf("answered %d, Retry-After %q", resp.StatusCode, resp.Header.Get("Retry-After"))
				}
				took := int64(time.Since(began))
				for m := slowest.Load(); took > m && !slowest.CompareAndSwap(m, took); m = slowest.Load() {
				}
			})
		}
		wg.Wait()
		full, bound := top.Load(), int64(most)
		select {
		case <-done: // those that wrk left, and those that came in their place, may be seen together
			bound *= 2
		default:
			<-done
		}
		t.Logf("at most %d at the target; the slowest of 40 refusals took %v", top.Load(), time.Duration(slowest.Load()).Round(time.Millisecond))
		if full < most || full > bound || time.Duration(slowest.Load()) > 10*time.Second {
			t.Errorf("%d requests were at the target, %d may be; a refusal took %v", full, bound, time.Duration(slowest.Load()))
		}
	})
	for _, reason := range []string{"max_pending", "pending_timeout"} {
		if n := a.counter(t, fmt.Sprintf(`keyway_upstream_refused_total{reason=%q,upstream="slow.up"}`, reason)); n == 0 {
			t.Errorf("none was refused for %s", reason)
		}
	}
}
