package routing

import (
	"fmt"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/routing/spec"
)

func TestCompileTakesWhatItServes(t *testing.T) {
	on, off := &spec.Service{Meta: spec.Meta{ID: "on"}, Enabled: true}, &spec.Service{Meta: spec.Meta{ID: "off"}}
	all := func(r *spec.Route) { r.Paths = []string{"/"} }
	served, stopped, stream, grpc, tls := route(1, all), route(2, all), route(3, all), route(4, all), route(5, all)
	served.Service, stopped.Service = "on", "off"
	stream.Protocols, grpc.Protocols, tls.Protocols = []string{"tcp"}, []string{"grpc", "grpcs"}, []string{"https"}
	tls.HTTPSRedirectStatusCode = 308
	table, problems := Compile(nil, &spec.Document{
		Services: []*spec.Service{on, off}, Routes: []*spec.Route{served, stopped, stream, grpc, tls},
	})
	if len(problems) != 0 || table.Len() != 3 {
		t.Fatalf("%d routes, %v", table.Len(), problems)
	}
	var got []string
	for r := range table.Routes() {
		got = append(got, fmt.Sprintf("%s %d %v %v %v %d", r.Spec.Name, r.Index, r.AcceptsHTTP, r.AcceptsHTTPS, r.GRPC, r.RedirectStatus))
	}
	want := "r1 0 true true false 426|r4 1 true true true 426|r5 2 false true false 308"
	if s := strings.Join(got, "|"); s != want {
		t.Errorf("got %s", s)
	}
}

func TestCompileTakesOverWhatDidNotChange(t *testing.T) {
	regex := func(r *spec.Route) { r.Paths, r.Hosts = []string{"~/a\\d"}, []string{"a.test"} }
	old := compile(t, route(1, regex), route(2, regex))
	changed := route(2, regex)
	changed.Hosts = []string{"b.test"}
	renamed := route(1, regex)
	renamed.Name, renamed.StripPath = "new", false
	next, _ := Compile(old, &spec.Document{Routes: []*spec.Route{changed, renamed}})
	if byID(next, renamed.ID).shapes[0] != byID(old, renamed.ID).shapes[0] {
		t.Error("an unchanged route was compiled anew")
	}
	if byID(next, changed.ID).shapes[0] == byID(old, changed.ID).shapes[0] {
		t.Error("a changed route was taken over")
	}
	if got := found(next, &Query{Host: "a.test", Path: "/a1"}); got != "new" {
		t.Errorf("got %q", got)
	}
	if got := found(next, &Query{Host: "b.test", Path: "/a1"}); got != "r2" {
		t.Errorf("got %q", got)
	}
	if got := found(old, &Query{Host: "b.test", Path: "/a1"}); got != "" {
		t.Errorf("the old table changed: %q", got)
	}
}

func TestBrokenRouteFailsClosed(t *testing.T) {
	open := route(1, func(r *spec.Route) { r.Paths = []string{"/"} })
	path := route(2, func(r *spec.Route) { r.Paths = []string{"/x", "~/admin/[", "~/admin/ok"} })
	field := route(3, func(r *spec.Route) {
		r.Paths, r.Headers = []string{"/field"}, map[string][]string{"x-a": {"~*("}}
	})
	doc := &spec.Document{Routes: []*spec.Route{open, path, field}}
	table, problems := Compile(nil, doc)
	if len(problems) != 2 || problems[0].Field != "paths.2" || problems[1].Field != "headers.x-a" || problems[0].Name != "r2" || problems[0].Reason != spec.ReasonCompile {
		t.Fatal(problems)
	}
	for want, paths := range map[string][]string{"r1": {"/", "/adm", "/a"}, "r2": {"/admin/x", "/admin/ok", "/x"}, "r3": {"/field/1"}} {
		for _, p := range paths {
			var m Match
			if !table.Match(&Query{Path: p, Fields: &exchange.Fields{}}, &m) || m.Route.Spec.Name != want {
				t.Errorf("%s: got %v", p, m.Route)
			} else if (m.Route.Broken != nil) != (want != "r1") {
				t.Errorf("%s: broken is %v", p, m.Route.Broken)
			}
		}
	}
	again, problems := Compile(table, doc)
	if len(problems) != 2 || byID(again, path.ID).Broken == nil {
		t.Error("a broken route was forgotten when it was compiled again")
	}
}

func TestLiteralPrefix(t *testing.T) {
	for pattern, want := range map[string]string{
		"^/users/\\d+": "/users/", "^/a|/b": "", "^(?i)/a": "", "^/(a|b)": "/", "^/ab*": "/a", "^/a.b": "/a", "^/a\\.b": "/a.b",
		"^/a$": "/a", "^/abc|/abd": "", "^": "", "^/a(": "/", "^/ab|(": "", "^/é+x": "/",
	} {
		if got := literalPrefix(pattern); got != want && !strings.HasPrefix(want, got) || got == "" && want == "/" {
			t.Errorf("%s: got %q", pattern, got)
		}
	}
}

func TestFindAppliesTheRoutesOwnPolicy(t *testing.T) {
	own := func(p Policy, path string) func(*spec.Route) {
		return func(r *spec.Route) { r.PathPolicy, r.Paths = string(p), []string{path} }
	}
	table := compile(t, route(1, own("", "/l")), route(2, own(Strict, "/s")), route(3, own(Compatible, "/c")))
	var m Match
	for _, c := range []struct {
		listener  Policy
		path      string
		want      string
		forbidden bool
	}{
		{Strict, "/l/..;/x", "", true},
		{Strict, "/s/..;/x", "", true},
		{Strict, "/c/..;/x", "r3", false},
		{Strict, "/c/%00", "", true},
		{Compatible, "/l/..;/x", "r1", false},
		{Compatible, "/s/..;/x", "", true},
		{Compatible, "/s/x", "r2", false},
		{Compatible, "/none", "", false},
		{Strict, "/none/..;", "", true},
	} {
		ok, err := table.Find(c.listener, c.path, &Query{}, &m)
		got := ""
		if ok {
			got = m.Route.Spec.Name
		}
		if got != c.want || (err != nil) != c.forbidden || ok != (m.Route != nil) {
			t.Errorf("%s %s: got %q, %v", c.listener, c.path, got, err)
		}
	}
}

func TestExplain(t *testing.T) {
	host := []string{"a.test"}
	table := compile(t,
		route(1, func(r *spec.Route) { r.Paths = []string{"/"} }),
		route(2, func(r *spec.Route) { r.Hosts, r.Paths, r.Protocols = host, []string{"/a"}, []string{"https"} }),
		route(3, func(r *spec.Route) { r.Hosts, r.Paths, r.Methods = host, []string{"/a"}, []string{"PUT"} }),
		route(4, func(r *spec.Route) { r.Hosts = host }),
		route(5, func(r *spec.Route) { r.Hosts, r.Paths = host, []string{"/b"} }),
		route(6, func(r *spec.Route) { r.Paths, r.Headers = []string{"~/a"}, map[string][]string{"x-a": {"1"}} }),
		route(7, func(r *spec.Route) { r.Paths = []string{"/"} }),
		route(8, func(r *spec.Route) { r.Paths, r.SNIs = []string{"/"}, []string{"b.test"} }),
	)
	f := &exchange.Fields{}
	f.Add("X-A", "hidden value")
	var got []string
	for _, c := range table.Explain(&Query{Method: "GET", Scheme: "http", Host: "a.test", Path: "/a", Fields: f}) {
		got = append(got, c.Route.Spec.Name+" "+strings.TrimPrefix(c.Reason, "behind the one before: "))
	}
	want := []string{
		"r3 no match: the method is none of PUT",
		"r2 the answer, but it is for TLS only and answers 426 in clear",
		"r4 that one has 2 kinds of conditions, this one 1",
		"r6 no match: no field x-a has a value that the route names",
		"r8 that one has plain hosts only",
		"r7 that one has 2 kinds of conditions, this one 1",
		"r1 equal, and the higher id is first",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
}

// TestClosedRouteStillMatches: a route that its document closes takes what it would take.
func TestClosedRouteStillMatches(t *testing.T) {
	doc := &spec.Document{Routes: []*spec.Route{
		{Meta: spec.Meta{ID: "a"}, Protocols: []string{"http"}, Paths: []string{"/a"}, Closed: "for a reason"},
		{Meta: spec.Meta{ID: "b"}, Protocols: []string{"http"}, Paths: []string{"/"}},
	}}
	var table *Table
	for range 2 { // made of the one before, too
		var problems spec.Problems
		if table, problems = Compile(table, doc); len(problems) > 0 {
			t.Fatal(problems)
		}
		var m Match
		if !table.Match(&Query{Path: "/a/x", Method: "GET"}, &m) || m.Route.Spec.ID != "a" || m.Route.Broken == nil || m.Route.Broken.Message != "for a reason" {
			t.Fatalf("%+v", m.Route)
		}
		if !table.Match(&Query{Path: "/b", Method: "GET"}, &m) || m.Route.Spec.ID != "b" || m.Route.Broken != nil {
			t.Fatalf("%+v", m.Route)
		}
	}
}
