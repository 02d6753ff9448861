package routing

import (
	"cmp"
	"iter"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/keyway-edge/keyway/routing/spec"
)

// Route is one route of a table. Immutable.
type Route struct {
	// Spec is the route as the document has it.
	Spec *spec.Route
	// Index is its place in the table, from 0 to Len()-1, for tables beside it.
	Index int
	// Broken says why the route cannot be served, nil if it can: an expression of
	// it does not compile. It still matches, so that what is meant for it answers
	// 503 and no other route gets it.
	Broken *spec.Problem
	// AcceptsHTTP and AcceptsHTTPS say which schemes the route speaks (grpc and
	// grpcs count); matching does not look at it.
	AcceptsHTTP, AcceptsHTTPS bool
	// GRPC says the route is for gRPC only.
	GRPC bool
	// RedirectStatus answers a request in clear when only TLS is accepted: 426 or a redirect.
	RedirectStatus int

	shapes []*shape
}

// Policy is the path policy of requests to the route that came to a listener
// with the given one.
func (r *Route) Policy(listener Policy) Policy {
	if r.Spec.PathPolicy != "" {
		return Policy(r.Spec.PathPolicy)
	}
	return listener
}

// Table is the compiled routes of one document. Immutable, safe for concurrent use.
type Table struct {
	routes []*Route
	byID   map[string]*Route
	rules  []rule // by rank

	whole       map[string]*tree // rules for a host
	endings     map[string]*tree // for hosts that end in a text, which starts with a dot
	starts      map[string]*tree // for hosts that start with a text, which ends in a dot
	anyHost     *tree
	expressions bool // there are some
	lenient     bool // a route has a policy of its own that is Compatible
}

// rule is a shape in a table; its index there is its rank.
type rule struct {
	*shape
	route *Route
}

// Len is the number of routes.
func (t *Table) Len() int { return len(t.routes) }

// Routes yields every route in order of Index.
func (t *Table) Routes() iter.Seq[*Route] { return slices.Values(t.routes) }

// Compile makes the table of a document: its routes for http, https, grpc and
// grpcs, but for those of disabled services. Routes that prev (nil for none) has
// just so are taken from it. A route that does not compile is a problem and is
// in the table as Broken. The answer is never nil.
func Compile(prev *Table, doc *spec.Document) (*Table, spec.Problems) {
	t := &Table{byID: make(map[string]*Route, len(doc.Routes))}
	disabled := map[string]bool{}
	for _, s := range doc.Services {
		if !s.Enabled {
			disabled[s.ID] = true
		}
	}
	var problems spec.Problems
	parts := 0
	for _, s := range doc.Routes {
		if !forHTTP(s) || s.Service != "" && disabled[s.Service] {
			continue
		}
		r := &Route{
			Spec: s, Index: len(t.routes), RedirectStatus: s.HTTPSRedirectStatusCode,
			AcceptsHTTP:  slices.Contains(s.Protocols, "http") || slices.Contains(s.Protocols, "grpc"),
			AcceptsHTTPS: slices.Contains(s.Protocols, "https") || slices.Contains(s.Protocols, "grpcs"),
			GRPC:         strings.HasPrefix(s.Protocols[0], "grpc"),
		}
		if old := prev.route(s.ID); old != nil && sameConditions(old.Spec, s) {
			r.shapes = old.shapes
		} else {
			r.shapes, r.Broken = shapesOf(s)
		}
		if r.Broken != nil {
			problems = append(problems, r.Broken)
		}
		t.expressions = t.expressions || s.Expression != ""
		t.lenient = t.lenient || Policy(s.PathPolicy) == Compatible
		t.routes = append(t.routes, r)
		t.byID[s.ID] = r
		parts += len(r.shapes)
	}
	t.rank(parts)
	t.index()
	return t, problems
}

func forHTTP(r *spec.Route) bool {
	if len(r.Protocols) == 0 {
		return false
	}
	switch r.Protocols[0] {
	case "http", "https", "grpc", "grpcs":
		return true
	}
	return false
}

// route is a sound route by id; nil if there is none. t may be nil.
func (t *Table) route(id string) *Route {
	if t == nil {
		return nil
	}
	if r := t.byID[id]; r != nil && r.Broken == nil {
		return r
	}
	return nil
}

// sameConditions says whether two routes compile to the same rules.
func sameConditions(a, b *spec.Route) bool {
	return a == b || a.RegexPriority == b.RegexPriority && a.Expression == b.Expression && samePriority(a.Priority, b.Priority) &&
		(a.Expression == "" || slices.Equal(a.Protocols, b.Protocols)) &&
		slices.Equal(a.Methods, b.Methods) && slices.Equal(a.Hosts, b.Hosts) &&
		slices.Equal(a.Paths, b.Paths) && slices.Equal(a.SNIs, b.SNIs) &&
		maps.EqualFunc(a.Headers, b.Headers, slices.Equal[[]string])
}

func samePriority(a, b *int) bool { return a == b || a != nil && b != nil && *a == *b }

// rank brings the rules into their one order.
func (t *Table) rank(parts int) {
	t.rules = make([]rule, 0, parts)
	for _, r := range t.routes {
		for _, s := range r.shapes {
			t.rules = append(t.rules, rule{s, r})
		}
	}
	slices.SortFunc(t.rules, func(a, b rule) int {
		if x := a.expr != nil; x != (b.expr != nil) { // expressions come before everything else
			if x {
				return -1
			}
			return 1
		}
		if a.priority != b.priority {
			return cmp.Compare(b.priority, a.priority)
		}
		return strings.Compare(b.id, a.id)
	})
}

// index files the rules under their hosts and prefixes.
func (t *Table) index() {
	t.whole, t.endings, t.starts = map[string]*tree{}, map[string]*tree{}, map[string]*tree{}
	t.anyHost = newTree()
	for i := range t.rules {
		s, rank := t.rules[i].shape, int32(i) //nolint:gosec // a table has fewer rules than 2^31
		if len(s.hosts) == 0 {
			t.anyHost.file(s, rank)
		}
		for j := range s.hosts {
			h := &s.hosts[j]
			trees := t.whole
			switch h.kind {
			case endsWith:
				trees = t.endings
			case startsWith:
				trees = t.starts
			}
			n := trees[h.folded]
			if n == nil {
				n = newTree()
				trees[h.folded] = n
			}
			n.file(s, rank)
		}
	}
}

func newTree() *tree { return &tree{best: math.MaxInt32} }

// file adds a rule behind each of its prefixes.
func (n *tree) file(s *shape, rank int32) {
	if len(s.prefixes) == 0 {
		n.add(s.literal, rank)
	}
	for _, p := range s.prefixes {
		n.add(p, rank)
	}
}
