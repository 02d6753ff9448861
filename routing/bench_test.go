package routing

import (
	"fmt"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/routing/spec"
)

// manyRoutes makes n plain routes, two for each of n/2 hosts, some wildcards and
// a catch-all among them, and requests for some of them.
func manyRoutes(n int) ([]*spec.Route, []Query) {
	routes := []*spec.Route{route(0, func(r *spec.Route) { r.Paths = []string{"/"} })}
	var queries []Query
	for i := 1; i < n; i++ {
		host, path := fmt.Sprintf("h%d.example.test", i/2), fmt.Sprintf("/api/v%d", i%2)
		if i%10 == 0 {
			host = "*." + host
		}
		routes = append(routes, route(i, func(r *spec.Route) { r.Hosts, r.Paths = []string{host}, []string{path} }))
		if i%(n/10) == 1 {
			queries = append(queries, Query{Method: "GET", Host: fmt.Sprintf("h%d.example.test:8443", i/2), Path: path + "/orders/17"})
		}
	}
	return routes, append(queries, Query{Method: "GET", Host: "other.test", Path: "/"})
}

func BenchmarkMatch(b *testing.B) {
	for _, n := range []int{10, 1000, 10000, 100000} {
		b.Run(fmt.Sprintf("hosts/%d", n), func(b *testing.B) {
			routes, queries := manyRoutes(n)
			benchmarkMatch(b, compile(b, routes...), queries)
		})
		b.Run(fmt.Sprintf("prefixes/%d", n), func(b *testing.B) {
			var routes []*spec.Route
			var queries []Query
			for i := range n {
				path := fmt.Sprintf("/tenants/t%d/api", i)
				routes = append(routes, route(i, func(r *spec.Route) { r.Paths = []string{path} }))
				if i%(n/10) == 0 {
					queries = append(queries, Query{Method: "GET", Host: "one.test", Path: path + "/orders/17"})
				}
			}
			benchmarkMatch(b, compile(b, routes...), queries)
		})
		b.Run(fmt.Sprintf("language/%d", n), func(b *testing.B) {
			var routes []*spec.Route
			var queries []Query
			for i := range n {
				host := fmt.Sprintf("h%d.example.test", i/2)
				routes = append(routes, expression(i, i%7, fmt.Sprintf(`http.host == %q && (http.path ^= "/api/v%d" || http.path == "/healthz") && http.method == "GET"`, host, i%2)))
				if i%(n/10) == 1 {
					queries = append(queries, Query{Method: "GET", Host: host + ":8443", Path: fmt.Sprintf("/api/v%d/orders/17", i%2)})
				}
			}
			benchmarkMatch(b, compile(b, routes...), append(queries, Query{Method: "GET", Host: "h0.example.test", Path: "/healthz"}))
		})
		b.Run(fmt.Sprintf("expressions/%d", n), func(b *testing.B) {
			var routes []*spec.Route
			var queries []Query
			for i := range n {
				path := fmt.Sprintf("/tenants/t%d/", i)
				routes = append(routes, route(i, func(r *spec.Route) { r.Paths = []string{"~" + path + "(?<id>[0-9]+)$"} }))
				if i%(n/10) == 0 {
					queries = append(queries, Query{Method: "GET", Host: "one.test", Path: path + "17"})
				}
			}
			benchmarkMatch(b, compile(b, routes...), queries)
		})
	}
}

func benchmarkMatch(b *testing.B, table *Table, queries []Query) {
	b.ReportAllocs()
	var m Match
	for i := 0; b.Loop(); i++ {
		if !table.Match(&queries[i%len(queries)], &m) {
			b.Fatal("no match")
		}
	}
}

// BenchmarkMatchHostile matches an expression with nested repetition against a
// long path that it does not match, and a long path against many shared prefixes.
func BenchmarkMatchHostile(b *testing.B) {
	path := "/" + strings.Repeat("a", 64<<10)
	nested := compile(b, route(1, func(r *spec.Route) { r.Paths = []string{"~/(a+)+$"} }))
	b.Run("expression", func(b *testing.B) {
		q := Query{Path: path + "!"}
		var m Match
		for b.Loop() {
			if nested.Match(&q, &m) {
				b.Fatal("a match")
			}
		}
	})
	var routes []*spec.Route
	for i := range 10000 {
		routes = append(routes, route(i, func(r *spec.Route) { r.Paths = []string{path[:1+i]} }))
	}
	prefixes := compile(b, routes...)
	b.Run("prefixes", func(b *testing.B) { benchmarkMatch(b, prefixes, []Query{{Path: path}}) })
}

// mixedRoutes makes n routes of which every fifth has an expression.
func mixedRoutes(n int) []*spec.Route {
	routes, _ := manyRoutes(n)
	for i, r := range routes {
		if i%5 == 0 {
			r.Paths = append(r.Paths, fmt.Sprintf("~/re%d/(?<id>[^/]+)$", i))
		}
	}
	return routes
}

func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			doc := &spec.Document{Routes: mixedRoutes(n)}
			for b.Loop() {
				Compile(nil, doc)
			}
		})
	}
}

func BenchmarkCompileOneChange(b *testing.B) {
	b.Run("10000", func(b *testing.B) {
		// A new document has new routes, equal to the old ones but for one.
		first, second := &spec.Document{Routes: mixedRoutes(10000)}, &spec.Document{Routes: mixedRoutes(10000)}
		second.Routes[5000].Paths = []string{"/changed"}
		prev, _ := Compile(nil, first)
		for b.Loop() {
			Compile(prev, second)
		}
	})
}

func BenchmarkNormalize(b *testing.B) {
	for _, path := range []string{"/abc/def-1", "/api/v1/../v2/%7Eme//x"} {
		b.Run(path[1:4], func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Normalize(Strict, path); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
