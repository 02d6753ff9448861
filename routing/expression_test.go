package routing

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/routing/spec"
)

// expression makes the i-th route of an expression.
func expression(i, priority int, text string, change ...func(*spec.Route)) *spec.Route {
	return route(i, func(r *spec.Route) {
		r.Expression, r.Priority = text, &priority
		for _, c := range change {
			c(r)
		}
	})
}

// TestExpressions: expressions are asked before fields, by priority, wherever the index files them.
func TestExpressions(t *testing.T) {
	for _, schemes := range [][]string{{"http", "https"}, {"https"}, {"http"}} {
		only := func(r *spec.Route) { r.Protocols = schemes }
		table := compile(
			t,
			route(1, func(r *spec.Route) {
				r.Hosts, r.Paths, r.Methods = []string{"a.test"}, []string{"/x/y"}, []string{"GET"}
			}),
			expression(2, 1, `http.host == "a.test" && http.path ^= "/x"`),
			expression(3, 7, `http.host =^ ".a.test" && (http.path == "/p" || http.path ~ "^/q/(?P<id>.+)$")`),
			expression(4, 9, `http.host =^ "a.test" && http.headers.x_v == "2"`),
			expression(5, 3, `net.src.ip in 192.0.2.0/24 && http.queries.k == "v"`),
			expression(6, 1<<46-1, `http.path == "/only"`, only),
		)
		for _, c := range []struct{ host, path, query, from, want string }{
			{"a.test", "/x/y", "", "", "2 /x []"},
			{"a.test", "/z", "", "", ""},
			{"b.a.test:8443", "/p", "", "", "3 /p []"},
			{"b.a.test", "/q/17", "", "", "3 /q/17 [{0 /q/17} {1 17} {id 17}]"},
			{"c.test", "/z", "k=v", "192.0.2.9:1", "5  []"},
			{"c.test", "/z", "k=v", "198.51.100.9:1", ""},
			{"c.test", "/only", "", "", "6 /only []"},
		} {
			for _, secure := range []bool{false, true} {
				q := &Query{Method: "GET", Host: c.host, Path: c.path, RawQuery: c.query, Secure: secure}
				if c.from != "" {
					q.Src = netip.MustParseAddrPort(c.from)
				}
				want := c.want
				if strings.HasPrefix(want, "6") && secure && len(schemes) == 1 && schemes[0] == "http" {
					want = "" // not asked: it is not for TLS
				}
				var m Match
				got := ""
				if table.Match(q, &m) {
					got = fmt.Sprint(m.Route.Spec.Name[1:], " ", m.MatchedPath, " ", m.Captures)
				}
				if got != want {
					t.Errorf("%v %s%s secure %v: %q, want %q", schemes, c.host, c.path, secure, got, want)
				}
			}
		}
	}
}

// TestExplainExpressions: what is not true is shown, and what decides.
func TestExplainExpressions(t *testing.T) {
	table := compile(
		t,
		expression(1, 5, `http.path ^= "/x" && http.method == "PUT"`),
		expression(2, 4, `http.path ^= "/x"`),
		expression(3, 3, `http.path ^= "/"`),
		expression(4, 3, `http.path ^= "/other"`),
		route(5, func(r *spec.Route) { r.Paths = []string{"/x"} }),
	)
	var got []string
	for _, c := range table.Explain(&Query{Method: "GET", Host: "a.test", Path: "/x"}) {
		got = append(got, fmt.Sprint(c.Expression, c.Paths, ": ", c.Reason))
	}
	want := `http.path ^= "/x" && http.method == "PUT"[]: no match: not true is http.method == "PUT"
http.path ^= "/x"[]: the answer
http.path ^= "/"[]: behind the one before: its priority is 4, this one's 3
[/x]: behind the one before: that one is an expression`
	if s := strings.Join(got, "\n"); s != want {
		t.Errorf("got\n%s\nwant\n%s", s, want)
	}
}

// TestShadowed: routes that nothing reaches are found, others are not.
func TestShadowed(t *testing.T) {
	fields := func(i int, hosts, paths, methods string) *spec.Route {
		return route(i, func(r *spec.Route) {
			r.Hosts, r.Paths, r.Methods = strings.Fields(hosts), strings.Fields(paths), strings.Fields(methods)
		})
	}
	for name, c := range map[string]struct {
		routes []*spec.Route
		want   string
	}{
		"the same twice":            {[]*spec.Route{fields(1, "a.test", "/x", ""), fields(2, "a.test", "/x", "")}, "1 by 2 same"},
		"in another order":          {[]*spec.Route{fields(1, "a.test b.test", "/xx /yy", ""), fields(2, "b.test a.test", "/yy /xx", "")}, "1 by 2 same"},
		"more specific comes first": {[]*spec.Route{fields(1, "a.test", "/x", ""), fields(2, "a.test", "/x/y", ""), fields(3, "", "/x", "")}, ""},
		"four kinds beat the longer prefix": {[]*spec.Route{
			route(1, func(r *spec.Route) {
				r.Hosts, r.Paths, r.Methods, r.Headers = []string{"a.test"}, []string{"/"}, []string{"GET"}, map[string][]string{"x-v": {"1"}}
			}),
			route(2, func(r *spec.Route) {
				r.Hosts, r.Paths, r.Methods, r.Headers = []string{"a.test"}, []string{"/longer"}, []string{"GET"}, map[string][]string{"x-v": {"1"}}
			}),
		}, ""},
		"a plain host beats what says more": {[]*spec.Route{fields(1, "*.test", "/x", "GET"), fields(2, "a.test", "", "")}, ""},
		"expressions over expressions": {[]*spec.Route{
			route(1, func(r *spec.Route) { r.Paths, r.RegexPriority = []string{"~/x/.*"}, 1 }),
			route(2, func(r *spec.Route) { r.Paths, r.RegexPriority = []string{"~/x/.*"}, 0 }),
		}, "2 by 1 same"},
		"a part is reached":       {[]*spec.Route{fields(1, "", "/x /long", ""), fields(2, "", "/x", "")}, "2 by 1"}, // of the other route a part is the same
		"equal expressions":       {[]*spec.Route{expression(1, 1, `http.path == "/x"`), expression(2, 5, `http.path == "/x"`)}, "1 by 2 same"},
		"an expression over all":  {[]*spec.Route{expression(1, 1, `http.path ^= "/"`), fields(2, "", "/x", "")}, ""}, // it takes more than comparing to tell
		"regex priority is in it": {[]*spec.Route{fields(1, "", "~/x/[a-z]+", ""), fields(2, "", "/x/", "")}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, s := range compile(t, c.routes...).Shadowed() {
				line := fmt.Sprintf("%d by %d", s.Route.Index+1, s.By.Index+1)
				if s.Same {
					line += " same"
				}
				got = append(got, line)
			}
			if s := strings.Join(got, ", "); s != c.want {
				t.Errorf("got %q, want %q", s, c.want)
			}
		})
	}
}

// TestExpressionsBindToListeners: where the document declares listeners a port is that of the
// socket. Elsewhere it is, as recorded, the one that the client names.
func TestExpressionsBindToListeners(t *testing.T) {
	bound := expression(1, 1, `net.dst.port == 9000`)
	f := func(host string, port uint16, listeners, want bool) {
		t.Helper()
		doc := &spec.Document{Routes: []*spec.Route{bound}}
		if listeners {
			doc.Listeners = []*spec.Listener{{Name: "l", Protocol: "http", Port: 9000}}
		}
		table, _ := Compile(nil, doc)
		q := &Query{Method: "GET", Host: host, Path: "/", Port: int(port), Dst: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), port)}
		var m Match
		if got := table.Match(q, &m); got != want {
			t.Errorf("Host %s on port %d, listeners declared %v: matches %v", host, port, listeners, got)
		}
		if c := table.Explain(q); len(c) > 0 && c[0].Matches != want {
			t.Errorf("Host %s on port %d, listeners declared %v: explained as %+v", host, port, listeners, c[0])
		}
	}
	f("a.test", 9000, true, true)
	f("a.test:80", 9000, true, true)
	f("a.test:9000", 80, true, false)
	f("a.test", 80, true, false)
	f("a.test", 9000, false, true)
	f("a.test:9000", 80, false, true)
}
