package routing

import (
	"cmp"
	"iter"
	"maps"
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
	// it does not compile, or the document closes it. It still matches, so that
	// what is meant for it answers 503 and no other route gets it.
	Broken *spec.Problem
	// AcceptsHTTP and AcceptsHTTPS say which schemes the route speaks (grpc and
	// grpcs count); matching does not look at it.
	AcceptsHTTP, AcceptsHTTPS bool
	// GRPC says the route is for gRPC only.
	GRPC bool
	// RedirectStatus answers a request in clear when only TLS is accepted: 426 or a redirect.
	RedirectStatus int

	shapes []*shape
	places []place // of the shapes
}

// Policy is the path policy of requests to the route that came to a listener
// with the given one.
func (r *Route) Policy(listener Policy) Policy {
	if r.Spec.PathPolicy != "" {
		return Policy(r.Spec.PathPolicy)
	}
	return listener
}

// Table is the compiled routes of one document. Immutable, safe for concurrent
// use. Tables share what did not change from one to the next.
type Table struct {
	routes []*Route
	rules  []rule  // by slot; one without a shape is free
	ranked []place // of every rule, best first
	free   []uint32

	whole       map[string]*tree // rules for a host
	endings     map[string]*tree // for hosts that end in a text, which starts with a dot
	starts      map[string]*tree // for hosts that start with a text, which ends in a dot
	anyHost     *tree
	expressions bool // there are some
	lenient     bool // a route has a policy of its own that is Compatible
	listens     bool // the document declares listeners: ports are those of sockets
}

// rule is a shape in a table.
type rule struct {
	*shape
	route *Route
}

// Len is the number of routes.
func (t *Table) Len() int { return len(t.routes) }

// Routes yields every route in order of Index.
func (t *Table) Routes() iter.Seq[*Route] { return slices.Values(t.routes) }

// OwnListeners says whether the document declares listeners.
func (t *Table) OwnListeners() bool { return t.listens }

// Compile makes the table of a document: its routes for http, https, grpc and
// grpcs, but for those of disabled services. What prev (nil for none) has just so
// is taken from it: after the change of a few routes the rest is neither compiled
// nor sorted nor filed again. A route that does not compile is a problem and is
// in the table as Broken. The answer is never nil.
func Compile(prev *Table, doc *spec.Document) (*Table, spec.Problems) {
	t := &Table{routes: make([]*Route, 0, len(doc.Routes)), listens: len(doc.Listeners) > 0}
	disabled := map[string]bool{}
	for _, s := range doc.Services {
		if !s.Enabled {
			disabled[s.ID] = true
		}
	}
	var problems spec.Problems
	was := earlier{table: prev}
	for _, s := range doc.Routes {
		if !forHTTP(s) || s.Service != "" && disabled[s.Service] {
			continue
		}
		r := was.take(s, len(t.routes))
		if r.Broken != nil {
			problems = append(problems, r.Broken)
		} else if s.Closed != "" { // as the document wants it: no problem
			r.Broken = &spec.Problem{Pos: s.Pos, Entity: "routes", ID: s.ID, Name: s.Name, Field: "x_keyway_closed", Reason: spec.ReasonConflict, Message: s.Closed}
		}
		t.expressions = t.expressions || s.Expression != ""
		t.lenient = t.lenient || Policy(s.PathPolicy) == Compatible
		t.routes = append(t.routes, r)
	}
	if prev == nil || !t.patch(prev, &was) {
		t.rank()
		t.index()
	}
	return t, problems
}

// newRoute makes a route without its rules.
func newRoute(s *spec.Route, index int) *Route {
	return &Route{
		Spec: s, Index: index, RedirectStatus: s.HTTPSRedirectStatusCode,
		AcceptsHTTP:  slices.Contains(s.Protocols, "http") || slices.Contains(s.Protocols, "grpc"),
		AcceptsHTTPS: slices.Contains(s.Protocols, "https") || slices.Contains(s.Protocols, "grpcs"),
		GRPC:         strings.HasPrefix(s.Protocols[0], "grpc"),
	}
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

// sameConditions says whether two routes compile to the same rules.
func sameConditions(a, b *spec.Route) bool {
	return a == b || a.RegexPriority == b.RegexPriority && a.Expression == b.Expression && samePriority(a.Priority, b.Priority) &&
		(a.Expression == "" || slices.Equal(a.Protocols, b.Protocols)) &&
		slices.Equal(a.Methods, b.Methods) && slices.Equal(a.Hosts, b.Hosts) &&
		slices.Equal(a.Paths, b.Paths) && slices.Equal(a.SNIs, b.SNIs) &&
		maps.EqualFunc(a.Headers, b.Headers, slices.Equal[[]string])
}

func samePriority(a, b *int) bool { return a == b || a != nil && b != nil && *a == *b }

// before is the one order of rules.
func before(a, b *shape) int {
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
}

// rank gives every rule a slot and a place in the order.
func (t *Table) rank() {
	for _, r := range t.routes {
		for _, s := range r.shapes {
			t.rules = append(t.rules, rule{s, r})
		}
	}
	slices.SortFunc(t.rules, func(a, b rule) int { return before(a.shape, b.shape) })
	for _, r := range t.routes {
		r.places = make([]place, len(r.shapes))
	}
	t.ranked = make([]place, len(t.rules))
	gap := widestGap(len(t.rules))
	for i := range t.rules {
		r := &t.rules[i]
		t.ranked[i] = placeOf(uint32(i+1)*gap, uint32(i)) //nolint:gosec // a table has fewer rules than 2^31
		r.route.places[slices.Index(r.route.shapes, r.shape)] = t.ranked[i]
	}
}

// index files the rules under their hosts and prefixes.
func (t *Table) index() {
	t.whole, t.endings, t.starts = map[string]*tree{}, map[string]*tree{}, map[string]*tree{}
	t.anyHost = newTree()
	for _, p := range t.ranked {
		s := t.rules[p.slot()].shape
		if len(s.hosts) == 0 {
			t.anyHost.file(s, p)
		}
		for i := range s.hosts {
			trees := *t.trees(s.hosts[i].kind)
			n := trees[s.hosts[i].folded]
			if n == nil {
				n = newTree()
				trees[s.hosts[i].folded] = n
			}
			n.file(s, p)
		}
	}
}

// trees are those of one kind of host.
func (t *Table) trees(kind nameKind) *map[string]*tree {
	switch kind {
	case endsWith:
		return &t.endings
	case startsWith:
		return &t.starts
	}
	return &t.whole
}
