package routing

import (
	"maps"
	"slices"

	"github.com/keyway-edge/keyway/routing/spec"
)

// earlier is the table before, while routes are taken over from it.
type earlier struct {
	table *Table // nil for none
	next  int    // documents mostly keep their order: where the next route is looked for first
	byID  map[string]*Route
	kept  []bool   // by index: its rules are in the new table too
	fresh []*Route // of the new table, compiled anew
	moved []*Route // of the new table, with rules from here
}

// take answers a route of the new table.
func (e *earlier) take(s *spec.Route, index int) *Route {
	old := e.route(s.ID)
	if old == nil || old.Broken != nil || !sameConditions(old.Spec, s) {
		r := newRoute(s, index)
		r.shapes, r.Broken = shapesOf(s)
		e.fresh = append(e.fresh, r)
		return r
	}
	if e.kept == nil {
		e.kept = make([]bool, len(e.table.routes))
	}
	e.kept[old.Index] = true
	if old.Spec == s && old.Index == index {
		return old
	}
	r := newRoute(s, index)
	r.shapes, r.places = old.shapes, old.places
	e.moved = append(e.moved, r)
	return r
}

// route is the route with that id, nil if there was none.
func (e *earlier) route(id string) *Route {
	if e.table == nil {
		return nil
	}
	for i := range 2 { // the one expected, or the one behind it when that was removed
		if at := e.next + i; at < len(e.table.routes) && e.table.routes[at].Spec.ID == id {
			e.next = at + 1
			return e.table.routes[at]
		}
	}
	if e.byID == nil {
		e.byID = make(map[string]*Route, len(e.table.routes))
		for _, r := range e.table.routes {
			e.byID[r.Spec.ID] = r
		}
	}
	old := e.byID[id]
	if old != nil {
		e.next = old.Index + 1
	}
	return old
}

// gone are the places of rules that the new table does not have.
func (e *earlier) gone() []place {
	var gone []place
	for i, r := range e.table.routes {
		if e.kept == nil || !e.kept[i] {
			gone = append(gone, r.places...)
		}
	}
	return gone
}

// patch makes the order and the trees from those of the table before. It answers
// false, and t is to be ranked and indexed as a whole, when that is no more work or
// there is no room between two ranks.
func (t *Table) patch(prev *Table, was *earlier) bool {
	gone, added := was.gone(), 0
	for _, r := range was.fresh {
		added += len(r.shapes)
	}
	if len(gone)+added > 16+len(prev.ranked)/8 {
		t.renew(was)
		return false
	}
	if len(gone)+added+len(was.moved) == 0 {
		t.rules, t.ranked, t.free = prev.rules, prev.ranked, prev.free
		t.whole, t.endings, t.starts, t.anyHost = prev.whole, prev.endings, prev.starts, prev.anyHost
		return true
	}
	t.rules = slices.Clone(prev.rules)
	t.free = slices.Clone(prev.free)
	for _, p := range gone {
		t.rules[p.slot()] = rule{}
	}
	for _, r := range was.moved {
		for _, p := range r.places {
			t.rules[p.slot()].route = r
		}
	}
	if !t.merge(prev, was.fresh) {
		t.renew(was)
		return false
	}
	for _, p := range gone { // only now: until here a free slot tells merge that its rule is gone
		t.free = append(t.free, p.slot())
	}
	t.whole, t.endings, t.starts, t.anyHost = prev.whole, prev.endings, prev.starts, prev.anyHost
	own := map[nameKind]bool{} // kinds whose map is a copy already
	for _, p := range gone {
		t.refile(own, prev.rules[p.slot()].shape, func(n *tree, prefix string) *tree { return n.without(prefix, p) })
	}
	for _, r := range was.fresh {
		for i, s := range r.shapes {
			t.refile(own, s, func(n *tree, prefix string) *tree { return n.with(prefix, r.places[i]) })
		}
	}
	return true
}

// renew gives t routes that are its own, since those of prev have places there, and
// lets go of what was begun.
func (t *Table) renew(was *earlier) {
	t.rules, t.ranked, t.free = nil, nil, nil
	for i, r := range t.routes {
		if r.Index < len(was.table.routes) && was.table.routes[r.Index] == r {
			own := *r
			t.routes[i] = &own
		}
	}
}

// merge brings the rules of new routes into the order. It answers false if there is
// no room between two of them.
func (t *Table) merge(prev *Table, fresh []*Route) bool {
	var added []rule
	for _, r := range fresh {
		r.places = make([]place, len(r.shapes))
		for _, s := range r.shapes {
			added = append(added, rule{s, r})
		}
	}
	slices.SortFunc(added, func(a, b rule) int { return before(a.shape, b.shape) })
	t.ranked = make([]place, 0, len(prev.ranked)+len(added))
	last := uint32(0)
	for _, p := range append(prev.ranked[:len(prev.ranked):len(prev.ranked)], nowhere) {
		var s *shape
		if p != nowhere {
			if s = t.rules[p.slot()].shape; s == nil {
				continue // it is gone
			}
		}
		n := 0 // of added that come before p
		for n < len(added) && (s == nil || before(added[n].shape, s) < 0) {
			n++
		}
		gap := (p.rank() - last) / uint32(n+1) //nolint:gosec // a table has fewer rules than 2^31
		if gap == 0 {
			return false
		}
		if p == nowhere {
			gap = min(gap, 1<<16)
		}
		for _, r := range added[:n] {
			last += gap
			at := placeOf(last, t.slot(r))
			r.route.places[slices.Index(r.route.shapes, r.shape)] = at
			t.ranked = append(t.ranked, at)
		}
		added = added[n:]
		if p != nowhere {
			t.ranked, last = append(t.ranked, p), p.rank()
		}
	}
	return true
}

// slot puts a rule into a free slot, or a new one.
func (t *Table) slot(r rule) uint32 {
	if n := len(t.free); n > 0 {
		at := t.free[n-1]
		t.free = t.free[:n-1]
		t.rules[at] = r
		return at
	}
	t.rules = append(t.rules, r)
	return uint32(len(t.rules) - 1) //nolint:gosec // a table has fewer rules than 2^31
}

// refile puts what change answers in place of every tree that a rule is in. own
// says which kinds' maps are t's own by now.
func (t *Table) refile(own map[nameKind]bool, s *shape, change func(n *tree, prefix string) *tree) {
	apply := func(n *tree) *tree {
		for _, prefix := range prefixesOf(s) {
			if n == nil {
				n = newTree()
			}
			n = change(n, prefix)
		}
		if n == nil || n.best == nowhere {
			return nil
		}
		return n
	}
	if len(s.hosts) == 0 {
		if t.anyHost = apply(t.anyHost); t.anyHost == nil {
			t.anyHost = newTree()
		}
		return
	}
	for i := range s.hosts {
		h := &s.hosts[i]
		trees := t.trees(h.kind)
		if !own[h.kind] {
			*trees, own[h.kind] = maps.Clone(*trees), true
		}
		if n := apply((*trees)[h.folded]); n != nil {
			(*trees)[h.folded] = n
		} else {
			delete(*trees, h.folded)
		}
	}
}
