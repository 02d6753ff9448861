package routing

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/keyway-edge/keyway/routing/spec"
)

// byID is a route of a table.
func byID(t *Table, id string) *Route {
	for r := range t.Routes() {
		if r.Spec.ID == id {
			return r
		}
	}
	return nil
}

// order writes the rules of a table in their order, with the route that each leads to.
func order(t *Table) []string {
	var list []string
	last := place(0)
	for _, p := range t.ranked {
		r := t.rules[p.slot()]
		list = append(list, fmt.Sprint(r.id, r.paths, r.route.Spec.Name, r.route.Index, t.routes[r.route.Index] == r.route, slices.Contains(r.route.places, p), p > last))
		last = p
	}
	return list
}

// edit changes a document: a route comes, goes, changes or moves. What does not
// change is the same pointer, or a copy, as from a document that was read anew.
func edit(r *rand.Rand, routes []*spec.Route, n int) []*spec.Route {
	routes = slices.Clone(routes)
	for range 1 + r.IntN(3) {
		at := r.IntN(len(routes))
		switch r.IntN(6) {
		case 0:
			routes = slices.Insert(routes, at, randomRoute(r, n))
			n += 1 << 20
		case 1:
			if len(routes) > 1 {
				routes = slices.Delete(routes, at, at+1)
			}
		case 2:
			changed := randomRoute(r, 0)
			changed.ID, changed.Name = routes[at].ID, routes[at].Name+"'"
			routes[at] = changed
		case 3:
			other := r.IntN(len(routes))
			routes[at], routes[other] = routes[other], routes[at]
		case 4:
			copied := *routes[at]
			routes[at] = &copied
		case 5:
			bad := *routes[at]
			bad.Paths = []string{"~/a("}
			routes[at] = &bad
		}
	}
	return routes
}

// TestPatchedTablesAreFreshOnes edits documents over and over: the table that was made
// from the one before is the one that is made from nothing, and the one before stays as it was.
func TestPatchedTablesAreFreshOnes(t *testing.T) {
	patched := 0
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 2))
		var routes []*spec.Route
		for n := range 20 + r.IntN(200) {
			routes = append(routes, randomRoute(r, n))
		}
		table, _ := Compile(nil, &spec.Document{Routes: routes})
		for step := range 40 {
			before := order(table)
			next := edit(r, routes, 1000+step)
			doc := &spec.Document{Routes: next}
			got, gotProblems := Compile(table, doc)
			want, wantProblems := Compile(nil, doc)
			if gotProblems.Error() != wantProblems.Error() {
				t.Fatalf("seed %d step %d: problems %v, want %v", seed, step, gotProblems, wantProblems)
			}
			if !slices.Equal(order(got), order(want)) {
				t.Fatalf("seed %d step %d: order\n%q\nwant\n%q", seed, step, order(got), order(want))
			}
			if !slices.Equal(order(table), before) {
				t.Fatalf("seed %d step %d: the table before changed", seed, step)
			}
			for _, kind := range []nameKind{whole, endsWith, startsWith} {
				if a, b := hosts(*got.trees(kind)), hosts(*want.trees(kind)); !slices.Equal(a, b) {
					t.Fatalf("seed %d step %d: hosts %q, want %q", seed, step, a, b)
				}
			}
			var a, b Match
			for range 60 {
				q := randomQuery(r)
				if x, y := got.Match(q, &a), want.Match(q, &b); x != y || x && (a.Route.Spec != b.Route.Spec || a.MatchedPath != b.MatchedPath) {
					t.Fatalf("seed %d step %d: %+v: %v %+v, want %v %+v", seed, step, *q, x, a, y, b)
				}
			}
			if len(got.rules) > len(got.ranked) || len(got.free) > 0 || got.ranked[0].rank() != want.ranked[0].rank() {
				patched++
			}
			routes, table = next, got
		}
	}
	if patched < 150 {
		t.Errorf("only %d of 480 tables were patched: the test shows little", patched)
	}
}

func hosts(trees map[string]*tree) []string { return slices.Sorted(maps.Keys(trees)) }

// TestPatchWithoutRoom puts routes between the same two until no rank is left between them.
func TestPatchWithoutRoom(t *testing.T) {
	named := func(id string) *spec.Route {
		return route(0, func(r *spec.Route) { r.ID, r.Name, r.Paths = id, id, []string{"/x"} })
	}
	routes := []*spec.Route{named("a"), named("z")}
	table := compile(t, routes...)
	id, renewed := "", 0
	for range 60 {
		id += "y" // the higher id is first: it comes behind z and before all others
		routes = append(routes, named(id))
		was := order(table)
		next, _ := Compile(table, &spec.Document{Routes: routes})
		want := compile(t, routes...)
		if !slices.Equal(order(next), order(want)) {
			t.Fatalf("order\n%q\nwant\n%q", order(next), order(want))
		}
		if !slices.Equal(order(table), was) {
			t.Fatalf("the table before changed\n%q\nwas\n%q", order(table), was)
		}
		if slices.Equal(next.ranked, want.ranked) {
			renewed++
		}
		table = next
	}
	if renewed < 2 || renewed > 6 {
		t.Errorf("%d of 60 tables were ranked anew, expected one in about sixteen", renewed)
	}
}

// TestOneChangeCompilesOneRoute counts what a change costs.
func TestOneChangeCompilesOneRoute(t *testing.T) {
	routes := mixedRoutes(5000)
	table := compile(t, routes...)
	changed := *routes[2500]
	changed.Paths = []string{"/changed"}
	next := slices.Clone(routes)
	next[2500] = &changed
	allocs := testing.AllocsPerRun(5, func() { Compile(table, &spec.Document{Routes: next}) })
	if allocs > 200 {
		t.Errorf("%v allocations after the change of one of 5000 routes, expected at most 200", allocs)
	}
	got, _ := Compile(table, &spec.Document{Routes: next})
	if got.routes[2499] != table.routes[2499] || got.routes[2500] == table.routes[2500] {
		t.Error("a route that did not change is to be the same one, and no other")
	}
}
