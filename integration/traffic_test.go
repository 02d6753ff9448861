package integration

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// notingOrigin answers with what it was asked, and notes it. Its query says otherwise:
// "slow" never answers, "fail=n" says 503 to the first n requests of a path, "trickle" sends without an end.
type notingOrigin struct {
	*httptest.Server
	name string
	mu   sync.Mutex
	seen []string
}

func newNotingOrigin(t testing.TB, name string) *notingOrigin {
	t.Helper()
	o := &notingOrigin{name: name}
	failed := map[string]int{}
	o.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		told := fmt.Sprintf("%s %s %s host=%s a=%s debug=%s body=%d", name, q.Method, q.RequestURI, q.Host, strings.Join(q.Header["X-A"], "|"), q.Header.Get("X-Debug"), len(body))
		o.mu.Lock()
		o.seen = append(o.seen, told)
		failed[q.RequestURI]++
		n := failed[q.RequestURI]
		o.mu.Unlock()
		w.Header().Set("X-Powered-By", name)
		query := q.URL.Query()
		var most int
		_, _ = fmt.Sscan(query.Get("fail"), &most)
		switch {
		case query.Has("slow"):
			<-q.Context().Done()
		case n <= most:
			w.WriteHeader(http.StatusServiceUnavailable)
		case query.Has("trickle"):
			for q.Context().Err() == nil {
				_, _ = io.WriteString(w, ".")
				_ = http.NewResponseController(w).Flush()
				select {
				case <-q.Context().Done():
				case <-time.After(10 * time.Millisecond):
				}
			}
		}
		_, _ = io.WriteString(w, told)
	}))
	t.Cleanup(o.Close)
	return o
}

func (o *notingOrigin) list() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]string(nil), o.seen...)
}

// TestRouteTraffic has a node do what routes of Gateway API ask for: requests shared by
// weight, each share with filters of its own, copies, rewrites, redirects, times and retries.
func TestRouteTraffic(t *testing.T) {
	a, b, copies := newNotingOrigin(t, "a"), newNotingOrigin(t, "b"), newNotingOrigin(t, "copies")
	document := func(weight int) string {
		return fmt.Sprintf(`_format_version: "3.0"
services:
- {name: a, url: %q}
- {name: b, url: %q}
- {name: copies, url: %q}
- {name: gone, host: nobody.empty}
upstreams:
- {name: nobody.empty}
routes:
- {name: split, paths: [/split], strip_path: false, x_keyway_split: [{service: a, weight: %d}, {service: b, weight: 1}]}
- {name: partly, paths: [/partly], x_keyway_split: [{service: a, weight: 2}, {service: null}, {service: gone}]}
- {name: copied, service: a, paths: [/copied], strip_path: false, x_keyway_mirrors: [{service: copies}, {service: b, numerator: 1, denominator: 4}]}
- {name: rewritten, service: a, paths: [/old], strip_path: false}
- {name: moved, paths: [/moved]}
- {name: timed, service: a, paths: [/timed], x_keyway_timeouts: {request: 1000}}
- {name: tried, service: a, paths: [/tried], x_keyway_timeouts: {attempt: 500}, x_keyway_retry: {on_statuses: [503], attempts: 2, backoff: 20}}
- {name: shared, service: a, paths: [/shared]}
plugins:
- {name: route-filters, route: split, config: {request_headers: {set: [{name: X-A, value: route}]}}}
- {name: route-filters, route: split, service: b, config: {request_headers: {add: [{name: X-A, value: share}]}}}
- {name: route-filters, route: copied, config: {request_headers: {set: [{name: X-A, value: copy}]}}}
- name: route-filters
  route: rewritten
  config:
    request_headers: {add: [{name: X-A, value: two}], remove: [X-Debug]}
    response_headers: {set: [{name: X-Served, value: "yes"}], remove: [X-Powered-By]}
    rewrite: {hostname: inside.test, path: {prefix: {match: /old, replace: /new}}}
- {name: route-filters, route: moved, config: {redirect: {scheme: https, hostname: www.test, path: {prefix: {match: /moved, replace: /to}}, status_code: 308}}}
- {name: cors, route: shared, config: {gateway_api: {allow_origins: ["https://*.app.test"], allow_methods: ["*"], allow_credentials: true}}}
`, a.URL, b.URL, copies.URL, weight)
	}
	g := start(t, options{document: document(3)})
	client := &http.Client{Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	t.Cleanup(client.CloseIdleConnections)
	ask := func(method, target, body string, header ...string) (*http.Response, string, error) {
		t.Helper()
		q, err := http.NewRequestWithContext(t.Context(), method, "http://"+g.proxy+target, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		q.Host = "shop.test"
		for i := 0; i < len(header); i += 2 {
			q.Header.Add(header[i], header[i+1])
		}
		resp, err := client.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		text, err := io.ReadAll(resp.Body)
		return resp, string(text), err
	}
	want := func(target string, status int, text string, header ...string) *http.Response {
		t.Helper()
		resp, body, err := ask("GET", target, "", header...)
		if err != nil || resp.StatusCode != status || !strings.Contains(body, text) {
			t.Errorf("%s: %d %q, %v; want %d with %q", target, resp.StatusCode, body, err, status, text)
		}
		return resp
	}
	share := func(target string, n int) map[string]int {
		t.Helper()
		got := map[string]int{}
		for range n {
			resp, body, _ := ask("GET", target, "")
			if resp.StatusCode != 200 {
				body = "-"
			}
			got[fmt.Sprintf("%d %.1s", resp.StatusCode, body)]++
		}
		return got
	}
	near := func(what string, got map[string]int, want map[string]int) {
		t.Helper()
		for k, n := range want {
			if d := got[k] - n; d < -3 || d > 3 || len(got) != len(want) {
				t.Errorf("%s: %v, want %v", what, got, want)
				return
			}
		}
	}

	near("three to one", share("/split", 80), map[string]int{"200 a": 60, "200 b": 20})
	near("with shares of nobody", share("/partly", 80), map[string]int{"200 a": 40, "500 -": 20, "503 -": 20})
	for _, line := range append(a.list(), b.list()...) {
		if strings.HasPrefix(line, "a GET /split") && !strings.Contains(line, " a=route ") || strings.HasPrefix(line, "b GET /split") && !strings.Contains(line, " a=share ") {
			t.Fatalf("a share has the filters of another: %s", line)
		}
	}
	g.write(document(0))
	poll(t, "the new weights", 20*time.Second, func() bool { return share("/split", 4)["200 b"] == 4 })

	before := len(b.list())
	for i := range 40 {
		if resp, body, err := ask("POST", fmt.Sprintf("/copied/%d?q=1", i), strings.Repeat("x", 100_000)); err != nil || resp.StatusCode != 200 || !strings.HasPrefix(body, "a POST /copied/") {
			t.Fatalf("%d %q, %v", resp.StatusCode, body, err)
		}
	}
	poll(t, "the copies", 20*time.Second, func() bool { return len(copies.list()) == 40 })
	for _, line := range copies.list() {
		if !strings.HasPrefix(line, "copies POST /copied/") || !strings.HasSuffix(line, "?q=1 host="+strings.TrimPrefix(copies.URL, "http://")+" a=copy debug= body=100000") {
			t.Errorf("the copy was %s", line)
		}
	}
	if n := len(b.list()) - before; n < 7 || n > 13 {
		t.Errorf("%d of 40 requests were copied to the second mirror, want 10", n)
	}
	poll(t, "the metric", 20*time.Second, func() bool { return g.counter(t, `keyway_requests_mirrored_total{result="answered"}`) >= 47 })

	resp := want("/old/x%2Fy?p=1", 200, "a GET /new/x%2Fy?p=1 host=inside.test a=one|two debug= ", "X-A", "one", "X-Debug", "1")
	if resp.Header.Get("X-Served") != "yes" || resp.Header.Get("X-Powered-By") != "" {
		t.Errorf("fields of the response: %v", resp.Header)
	}
	if resp := want("/moved/on?p=1", 308, ""); resp.Header.Get("Location") != "https://www.test/to/on?p=1" {
		t.Errorf("redirected to %q", resp.Header.Get("Location"))
	}

	want("/timed/fast", 200, "a GET /fast")
	began := time.Now()
	want("/timed/?slow", 504, "timing out")
	if _, _, err := ask("GET", "/timed/?trickle", ""); err == nil {
		t.Error("a response without an end ended well")
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("times of a second took %v", took)
	}
	want("/tried/one?fail=2", 200, "a GET /one")
	want("/tried/two?fail=3", 503, "")
	want("/tried/three?slow", 504, "timing out")
	tries := 0
	for _, line := range a.list() {
		if strings.HasPrefix(line, "a GET /three?slow") {
			tries++
		}
	}
	if tries != 3 {
		t.Errorf("%d tries, want 3", tries)
	}

	resp, _, err := ask("OPTIONS", "/shared", "", "Origin", "https://x.y.app.test", "Access-Control-Request-Method", "PUT")
	if err != nil || resp.StatusCode != 200 || resp.Header.Get("Access-Control-Allow-Origin") != "https://x.y.app.test" || resp.Header.Get("Access-Control-Allow-Methods") != "PUT" {
		t.Errorf("preflight: %d %v, %v", resp.StatusCode, resp.Header, err)
	}

	text, err := g.run("explain", "http://shop.test/split/x")
	if err != nil || !strings.Contains(text, "a (0 of 1 requests)") || !strings.Contains(text, "b (1 of 1 requests)") || !strings.Contains(text, "route-filters (route+service)") {
		t.Errorf("explained as\n%s%v", text, err)
	}
	if text, err := g.run("explain", "http://shop.test/copied"); err != nil || !strings.Contains(text, "copies (1 of 1), b (1 of 4)") {
		t.Errorf("explained as\n%s%v", text, err)
	}
}
