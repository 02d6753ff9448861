package integration

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const orderingDocument = `
_format_version: "3.0"
services:
- name: s
  url: http://%s
  routes:
  - {name: fixed, paths: [/fixed], plugins: [{name: key-auth}, {name: rate-limiting, config: {year: 2}}]}
  - name: moved
    paths: [/moved]
    plugins:
    - {name: key-auth}
    - {name: rate-limiting, config: {year: 2}, ordering: {before: {access: [key-auth]}}}
consumers: [{username: ann, keyauth_credentials: [{key: ann-key}]}]
`

// TestOrdering has requests without a key counted where an ordering puts rate-limiting before
// key-auth, and nowhere else; and never served.
func TestOrdering(t *testing.T) {
	var served atomic.Int64
	o := origin(t, func(http.ResponseWriter, *http.Request) { served.Add(1) })
	document := fmt.Sprintf(orderingDocument, o)
	g := start(t, options{document: document})
	statuses := func(key, path string, n int) (all []int) {
		for range n {
			status, _, _ := asConsumer(t, g, key, path)
			all = append(all, status)
		}
		return all
	}
	f := func(key, path string, want ...int) {
		t.Helper()
		if got := statuses(key, path, len(want)); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s as %q: %v, want %v", path, key, got, want)
		}
	}
	f("wrong", "/fixed", 401, 401, 401, 401)
	f("ann-key", "/fixed", 200, 200, 429)
	f("wrong", "/moved", 401, 401, 429, 429)
	f("ann-key", "/moved", 429) // who it is is not known yet
	if n := served.Load(); n != 2 {
		t.Errorf("%d requests were served, want 2", n)
	}
	explained := func(path string) string {
		t.Helper()
		out, err := g.run("explain", "http://a.test"+path, "--data-dir", g.dir)
		if err != nil {
			t.Fatalf("explain: %v: %s", err, out)
		}
		return out
	}
	before := func(text, first, second string) bool {
		i, j := strings.Index(text, first), strings.Index(text, second)
		return i >= 0 && i < j
	}
	if fixed, moved := explained("/fixed"), explained("/moved"); !before(fixed, "key-auth (", "rate-limiting (") || !before(moved, "rate-limiting (", "key-auth (") {
		t.Errorf("explain tells other orders:\n%s\n%s", fixed, moved)
	}
	// A circle with what authenticates in it closes its route, and no other.
	g.load(strings.Replace(document, "    - {name: key-auth}\n", "    - {name: key-auth, ordering: {before: {access: [rate-limiting]}}}\n", 1))
	f("ann-key", "/moved", 503)
	f("wrong", "/fixed", 401)
	if _, text := g.read("/status"); !strings.Contains(text, "they say key-auth after rate-limiting after key-auth; what they serve answers 503") {
		t.Errorf("/status does not tell of the circle: %s", text)
	}
	// A limit for one consumer cannot be kept before the consumer is known: it is kept after.
	g.load(document + "plugins: [{name: rate-limiting, consumer: ann, route: moved, config: {year: 4}}]\n")
	f("wrong", "/moved", 401, 401, 401)
	f("ann-key", "/moved", 200, 200, 200, 200, 429)
	if _, text := g.read("/status"); !strings.Contains(text, "expected rate-limiting to stay after key-auth") {
		t.Errorf("/status does not tell of the consumer's plugin: %s", text)
	}
	g.load(document)
	poll(t, "no problem is left", 20*time.Second, func() bool { _, text := g.read("/status"); return strings.Contains(text, `"problems": []`) })
	f("wrong", "/moved", 429) // counters outlive reloads
}
