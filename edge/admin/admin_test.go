package admin

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/routing/spec"
)

func handler() http.Handler {
	doc := &spec.Document{Plugins: []*spec.Plugin{{Name: "cors", Enabled: true}, {Name: "acl"}}}
	facts := func() Facts {
		return Facts{Tagline: "Welcome to keyway", Version: "1.2.3", NodeID: "id", Plugins: map[string]bool{"cors": true, "acl": true}, Document: doc}
	}
	status := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "status of "+r.URL.Path) })
	return Handler(facts, status, nil)
}

func ask(h http.Handler, method, path string, lines ...string) *httptest.ResponseRecorder {
	w, q := httptest.NewRecorder(), httptest.NewRequest(method, path, nil)
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		q.Header.Set(name, value)
	}
	h.ServeHTTP(w, q)
	return w
}

func TestRootTellsTheFacts(t *testing.T) {
	w := ask(handler(), "GET", "/")
	var got struct {
		Tagline, Version, Edition string
		NodeID                    string `json:"node_id"`
		Plugins                   struct {
			Available map[string]bool `json:"available_on_server"`
			Enabled   map[string]bool `json:"enabled_in_cluster"`
		}
		Configuration map[string]string
	}
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 {
		t.Fatalf("%d %q: %v", w.Code, w.Body, err)
	}
	if got.Version != "1.2.3" || got.NodeID != "id" || got.Configuration["database"] != "off" || got.Configuration["router_flavor"] != "traditional_compatible" {
		t.Errorf("facts %+v", got)
	}
	if len(got.Plugins.Available) != 2 || len(got.Plugins.Enabled) != 1 || !got.Plugins.Enabled["cors"] {
		t.Errorf("plugins %+v: what is switched off is not in use", got.Plugins)
	}
	if w.Header().Get("Content-Type") != "application/json; charset=utf-8" || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("fields %v", w.Header())
	}
	empty := Handler(func() Facts { return Facts{} }, http.NotFoundHandler(), nil)
	if w := ask(empty, "GET", "/"); w.Code != 200 || !strings.Contains(w.Body.String(), `"enabled_in_cluster": {}`) {
		t.Errorf("before the first document: %d %s", w.Code, w.Body)
	}
}

func TestPathsAndMethods(t *testing.T) {
	h := handler()
	f := func(method, path string, status int, body string) {
		t.Helper()
		w := ask(h, method, path)
		if w.Code != status || !strings.Contains(w.Body.String(), body) {
			t.Errorf("%s %s answered %d %q, want %d %q", method, path, w.Code, w.Body, status, body)
		}
		if allow := w.Header().Get("Allow"); (status == http.StatusMethodNotAllowed) != (allow == "GET, HEAD") {
			t.Errorf("%s %s: Allow is %q", method, path, allow)
		}
	}
	f("GET", "/status", 200, "status of /status")
	f("GET", "/status/live", 200, "status of /status/live")
	f("GET", "/status/ready", 200, "status of /status/ready")
	f("GET", "/metrics", 200, "status of /metrics")
	f("GET", "/services", 404, "Not found")
	f("HEAD", "/", 200, "")
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
		f(method, "/services", 405, "change the file")
		f(method, "/", 405, `"code": 12`)
		f(method, "/status", 405, "operation unsupported")
	}
}

func TestOtherSitesCannotWrite(t *testing.T) {
	h := handler()
	for _, line := range []string{"Origin: https://evil.test", "Sec-Fetch-Site: cross-site"} {
		if w := ask(h, "POST", "/config", line); w.Code != 403 {
			t.Errorf("%s: answered %d, want 403", line, w.Code)
		}
	}
	if w := ask(h, "GET", "/", "Origin: https://evil.test"); w.Header().Get("Access-Control-Allow-Origin") != "" {
		t.Error("no other site may read the facts")
	}
}

func TestPageIsInert(t *testing.T) {
	page := Page(func() any { return map[string]string{"name": "<script>alert(1)</script>"} })
	w := ask(page, "GET", "/")
	if w.Code != 200 || strings.Contains(w.Body.String(), "<script>") || !strings.Contains(w.Body.String(), "alert(1)") {
		t.Errorf("what the status says must be shown as text: %q", w.Body)
	}
	if csp := w.Header().Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || !strings.Contains(csp, "frame-ancestors 'none'") {
		t.Errorf("Content-Security-Policy %q", csp)
	}
	if w := ask(page, "GET", "/other"); w.Code != 404 {
		t.Errorf("answered %d", w.Code)
	}
	if w := ask(Page(func() any { return func() {} }), "GET", "/"); w.Code != 500 {
		t.Errorf("a status that cannot be rendered: %d", w.Code)
	}
}
