package routing

import (
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/keyway-edge/keyway/routing/spec"
)

// FuzzRouter holds tables, fresh and patched ones, against the linear router.
func FuzzRouter(f *testing.F) {
	f.Add(uint64(1), "a.test:81", "/a/b", "GET", byte(0))
	f.Add(uint64(7), "X.A.test", "/a/../ab/%61", "POST", byte(3))
	f.Add(uint64(90), "b.test", "/ééa", "PUT", byte(1))
	f.Fuzz(func(t *testing.T, seed uint64, host, raw, method string, how byte) {
		r := rand.New(rand.NewPCG(seed, 4))
		var routes []*spec.Route
		for n := range 1 + r.IntN(40) {
			routes = append(routes, randomRoute(r, n))
		}
		table, _ := Compile(nil, &spec.Document{Routes: routes})
		if how&1 != 0 {
			routes = edit(r, routes, 1000)
			table, _ = Compile(table, &spec.Document{Routes: routes})
		}
		norm, refused := Normalize(Strict, raw)
		if refused != nil || len(host) > longestHost || strings.Count(host, ":") > 1 || strings.ContainsAny(host, "[]") {
			return
		}
		for _, s := range routes {
			for _, p := range s.Paths {
				if p == "~/a(" {
					return // the linear router knows no broken routes
				}
			}
		}
		if _, port, ok := strings.Cut(host, ":"); ok && (port == "" || strings.Trim(port, "0123456789") != "" || len(port) > 5 || port[0] == '0') {
			return // no engine lets it through, or it is spelled as no route is
		}
		q := randomQuery(r)
		q.Host, q.Path, q.Method, q.Secure = host, norm, method, how&2 != 0
		if strings.ToLower(host) != host && strings.IndexFunc(host, func(r rune) bool { return r >= 0x80 }) >= 0 {
			return
		}
		name, matched := linear(routes, q)
		if !utf8.ValidString(norm) {
			name, matched = "", "" // as recorded: such a path has no route
		}
		var m Match
		got := ""
		if table.Match(q, &m) {
			got = m.Route.Spec.Name
		}
		if got != name || m.MatchedPath != matched {
			t.Fatalf("%+v: got %q %q, the linear router finds %q %q", *q, got, m.MatchedPath, name, matched)
		}
	})
}
