package routing

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/routing/spec"
)

// route makes a route with an id that orders by n.
func route(n int, change func(*spec.Route)) *spec.Route {
	r := &spec.Route{
		Meta: spec.Meta{ID: fmt.Sprintf("%08x-0000-4000-8000-000000000000", n)}, Name: fmt.Sprintf("r%d", n),
		Protocols: []string{"http", "https"}, HTTPSRedirectStatusCode: 426, StripPath: true,
	}
	change(r)
	return r
}

func compile(t testing.TB, routes ...*spec.Route) *Table {
	t.Helper()
	table, problems := Compile(nil, &spec.Document{Routes: routes})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return table
}

func found(table *Table, q *Query) string {
	var m Match
	if q.Fields == nil {
		q.Fields = &exchange.Fields{}
	}
	if !table.Match(q, &m) {
		return ""
	}
	return m.Route.Spec.Name
}

// linear is the router in its plainest form: judge every group of every route by
// the words of its fields, and take the highest. It shares no code with the
// table but the arithmetic of priority, which the recordings hold.
func linear(routes []*spec.Route, q *Query) (name, matched string) {
	var best uint64
	bestID := ""
	host, port, hasPort := strings.Cut(q.Host, ":")
	if !hasPort {
		port = fmt.Sprint(q.Port)
	}
	fold := func(s string) string {
		if q.Policy == Compatible {
			return s
		}
		return strings.ToLower(s)
	}
	fits := func(pattern, text string) bool {
		if strings.HasPrefix(pattern, "*") {
			return strings.HasSuffix(text, pattern[1:])
		}
		if strings.HasSuffix(pattern, "*") {
			return strings.HasPrefix(text, pattern[:len(pattern)-1])
		}
		return pattern == text
	}
	some := func(list []string, ok func(string) bool) bool { return len(list) == 0 || slices.ContainsFunc(list, ok) }
	for _, r := range routes {
		ok := some(r.Methods, func(m string) bool { return m == q.Method }) &&
			some(r.Hosts, func(h string) bool {
				name, p, has := strings.Cut(h, ":")
				return fits(fold(name), fold(host)) && (!has || p == port)
			}) &&
			(!q.Secure || some(r.SNIs, func(s string) bool { return q.SNI != "" && fits(s, q.SNI) }))
		for name, values := range r.Headers {
			ok = ok && slices.ContainsFunc(values, func(v string) bool {
				for got := range q.Fields.Values(name) {
					if p, re := strings.CutPrefix(v, "~*"); re && regexp.MustCompile("(?i)"+p).MatchString(got) || strings.EqualFold(v, got) {
						return true
					}
				}
				return false
			})
		}
		if !ok {
			continue
		}
		groups := grouped(r.Paths)
		for i, g := range groups {
			text, pathOK := "", len(g) == 0
			for _, p := range g {
				if pathOK {
					break
				}
				if p[0] == '~' {
					at := regexp.MustCompile("^(?:" + p[1:] + ")").FindStringIndex(q.Path)
					if at != nil {
						text, pathOK = q.Path[at[0]:at[1]], true
					}
				} else if strings.HasPrefix(q.Path, p) {
					text, pathOK = p, true
				}
			}
			id := r.ID
			if len(groups) > 1 {
				id = partID(r.ID, i+1)
			}
			priority := weigh(r, g).priority()
			if pathOK && (bestID == "" || priority > best || priority == best && id > bestID) {
				best, bestID, name, matched = priority, id, r.Name, text
			}
		}
	}
	return name, matched
}

// pick chooses up to n of list, often none.
func pick(r *rand.Rand, n int, list ...string) []string {
	var out []string
	for range r.IntN(n + 1) {
		if x := list[r.IntN(len(list))]; !slices.Contains(out, x) {
			out = append(out, x)
		}
	}
	return out
}

func randomRoute(r *rand.Rand, n int) *spec.Route {
	return route(n, func(s *spec.Route) {
		s.Methods = pick(r, 1, "GET", "POST")
		s.Hosts = pick(r, 2, "a.test", "b.test", "A.test", "*.test", "*.a.test", "a.*", "a.test:81", "*.test:82", "x.a.test")
		s.Paths = pick(r, 3, "/", "/a", "/ab", "/abc", "/a/b", "/a/", "/b", "~/a", "~/a/(?<id>[a-z]+)$", "~/(?i)AB", "~/[ab]+/b", "~/a.c", "~/é+", "/é")
		s.SNIs = pick(r, 1, "a.test", "*.test", "b.*")
		for _, h := range pick(r, 2, "x-a", "x-b") {
			if s.Headers == nil {
				s.Headers = map[string][]string{}
			}
			s.Headers[h] = append(pick(r, 1, "1", "~*^v\\d"), "Two")
		}
		s.RegexPriority = []int{0, 0, 1, 2, 3, -1, 4096, 1024}[r.IntN(8)]
	})
}

func randomQuery(r *rand.Rand) *Query {
	one := func(list ...string) string { return list[r.IntN(len(list))] }
	q := &Query{
		Method: one("GET", "POST", "PUT"), Host: one("a.test", "A.Test", "b.test", "x.a.test", "a.b", "q", "a.test:81", "y.test:82", ""),
		Path: one("/", "/a", "/ab", "/abc", "/abcd", "/a/b", "/a/b/c", "/b", "/AB", "/aXc", "/é", "/ééa"), SNI: one("", "a.test", "b.x"),
		Secure: r.IntN(2) == 0, Port: []int{80, 81}[r.IntN(2)], Fields: &exchange.Fields{}, Policy: Policy(one("", "compatible")),
	}
	for _, h := range pick(r, 3, "x-a", "X-A", "x-b") {
		q.Fields.Add(h, one("1", "two", "V7", "zz"))
	}
	return q
}

func TestMatchIsTheLinearRouter(t *testing.T) {
	hits := 0
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 1))
		var routes []*spec.Route
		for n := range 1 + r.IntN(25) {
			routes = append(routes, randomRoute(r, n))
		}
		r.Shuffle(len(routes), func(i, j int) { routes[i], routes[j] = routes[j], routes[i] })
		table := compile(t, routes...)
		var m Match
		for range 50 {
			q := randomQuery(r)
			name, matched := linear(routes, q)
			got := ""
			if table.Match(q, &m) {
				got = m.Route.Spec.Name
				hits++
			}
			if got != name || m.MatchedPath != matched {
				t.Fatalf("seed %d: %+v: got %q %q, the linear router finds %q %q", seed, *q, got, m.MatchedPath, name, matched)
			}
			agreeing := ""
			for _, c := range table.Explain(q) {
				if c.Matches && agreeing == "" {
					agreeing = c.Route.Spec.Name
				}
			}
			if agreeing != got {
				t.Fatalf("seed %d: %+v: Explain names %q, Match %q", seed, *q, agreeing, got)
			}
		}
	}
	if hits < 5000 {
		t.Errorf("only %d of 20000 requests had a route: the test shows little", hits)
	}
}

func TestCaptures(t *testing.T) {
	table := compile(t, route(1, func(r *spec.Route) { r.Paths = []string{`~/(?<v>v\d)/(x)?(?P<rest>.*)`} }))
	var m Match
	for range 2 { // the second time in the same memory
		if !table.Match(&Query{Path: "/v2/abc"}, &m) {
			t.Fatal("no match")
		}
		want := []exchange.Capture{{Name: "0", Value: "/v2/abc"}, {Name: "1", Value: "v2"}, {Name: "v", Value: "v2"}, {Name: "3", Value: "abc"}, {Name: "rest", Value: "abc"}}
		if !slices.Equal(m.Captures, want) || m.MatchedPath != "/v2/abc" {
			t.Errorf("got %v, matched %q", m.Captures, m.MatchedPath)
		}
	}
	if table.Match(&Query{Path: "/none"}, &m) || m.Route != nil || len(m.Captures) != 0 || m.MatchedPath != "" {
		t.Errorf("no match leaves %+v", m)
	}
}

func TestPathThatIsNotUTF8HasNoRoute(t *testing.T) {
	table := compile(t, route(1, func(r *spec.Route) { r.Hosts = []string{"a.test"} }))
	if got := found(table, &Query{Host: "a.test", Path: "/\xff"}); got != "" {
		t.Errorf("got %s", got)
	}
}

func TestHostLongerThanNamesHasNoRoute(t *testing.T) {
	table := compile(t, route(1, func(r *spec.Route) { r.Hosts = []string{"*.test"} }))
	for host, want := range map[string]string{
		strings.Repeat("a.", 125) + "test:8443": "r1", strings.Repeat("a.", 20000) + "test": "",
	} {
		if got := found(table, &Query{Host: host, Path: "/"}); got != want {
			t.Errorf("%d bytes: got %q", len(host), got)
		}
	}
}

func TestServerName(t *testing.T) {
	table := compile(t, route(1, func(r *spec.Route) { r.SNIs = []string{"A.test", "*.b.test", "c.*"} }))
	for _, c := range []struct {
		sni    string
		secure bool
		want   string
	}{
		{"a.TEST", true, "r1"}, {"x.b.test", true, "r1"}, {"c.test", true, "r1"}, {"d.test", true, ""}, {"", true, ""}, {"d.test", false, "r1"},
	} {
		if got := found(table, &Query{SNI: c.sni, Secure: c.secure, Path: "/"}); got != c.want {
			t.Errorf("%q %v: got %q", c.sni, c.secure, got)
		}
	}
}

func TestCaseOfHosts(t *testing.T) {
	table := compile(t, route(1, func(r *spec.Route) { r.Hosts = []string{"Admin.test"} }), route(2, func(r *spec.Route) { r.Paths = []string{"/"} }))
	for _, c := range []struct {
		policy     Policy
		host, want string
	}{
		{Strict, "aDMIN.test", "r1"},
		{"", "admin.test", "r1"},
		{Compatible, "admin.test", "r2"},
		{Compatible, "Admin.test:80", "r1"},
		{Strict, "[::1]:80", "r2"},
		{Strict, "", "r2"},
	} {
		if got := found(table, &Query{Host: c.host, Path: "/", Policy: c.policy}); got != c.want {
			t.Errorf("%s %s: got %s", c.policy, c.host, got)
		}
	}
}

func TestMatchIsFree(t *testing.T) {
	routes, queries := manyRoutes(1000)
	table := compile(t, routes...)
	var m Match
	for i := range queries {
		q := &queries[i]
		if n := testing.AllocsPerRun(10, func() {
			if !table.Match(q, &m) {
				t.Fatal("no match")
			}
		}); n != 0 {
			t.Errorf("%s%s: %v allocations", q.Host, q.Path, n)
		}
	}
}
