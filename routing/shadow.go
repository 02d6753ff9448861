package routing

import (
	"slices"
	"strings"
)

// Shadow is a route that no request reaches: whatever it matches, another one that is
// considered before it matches too.
type Shadow struct {
	Route, By *Route
	// Same says that the two say the same.
	Same bool
}

// Shadowed lists the routes that no request reaches, as far as that can be told by
// comparing one rule with one other: a route that several others cover together is
// not found, nor what only knowledge of languages would tell of two different
// expressions.
func (t *Table) Shadowed() []Shadow {
	by := make(map[*Route]*Route)
	open := make(map[*Route]bool) // a rule of it is not covered
	same := make(map[*Route]bool)
	for _, p := range t.ranked {
		b := &t.rules[p.slot()]
		a := t.cover(p)
		if a == nil || b.route.Broken != nil {
			open[b.route] = true
			continue
		}
		by[b.route] = a.route
		same[b.route] = len(a.route.shapes) == 1 && len(b.route.shapes) == 1 && b.covers(a.shape)
	}
	var list []Shadow
	for _, r := range t.routes {
		if by[r] != nil && !open[r] {
			list = append(list, Shadow{r, by[r], same[r]})
		}
	}
	return list
}

// cover is the best rule before the one at that place that covers it.
func (t *Table) cover(at place) *rule {
	b := &t.rules[at.slot()]
	host, path := "", b.literal
	if len(b.hosts) > 0 {
		host = b.hosts[0].folded
	}
	if len(b.prefixes) > 0 {
		path = b.prefixes[0]
	}
	best := at
	look := func(n *tree) {
		for _, p := range n.along(path) {
			if p >= best {
				break
			}
			if a := &t.rules[p.slot()]; a.route != b.route && a.covers(b.shape) {
				best = p
				break
			}
		}
	}
	if len(b.hosts) > 0 {
		if n := t.whole[host]; n != nil {
			look(n)
		}
		for i := range len(host) {
			if host[i] != '.' {
				continue
			}
			if n := t.endings[host[i:]]; n != nil {
				look(n)
			}
			if n := t.starts[host[:i+1]]; n != nil {
				look(n)
			}
		}
	}
	look(t.anyHost)
	if best == at {
		return nil
	}
	return &t.rules[best.slot()]
}

// along are the places of all rules for prefixes of path, best first.
func (n *tree) along(path string) []place {
	var places []place
	for {
		places = append(places, n.places...)
		if path == "" {
			break
		}
		i, ok := n.kid(path[0])
		if !ok || !strings.HasPrefix(path, n.kids[i].label) {
			break
		}
		n = n.kids[i]
		path = path[len(n.label):]
	}
	slices.Sort(places)
	return places
}

// covers says that every request that b matches is one that s matches.
func (s *shape) covers(b *shape) bool {
	if s.expr != nil || b.expr != nil {
		return s.expr != nil && b.expr != nil && s.schemes == b.schemes && s.expr.String() == b.expr.String()
	}
	return !s.broken && s.coversMethods(b) && s.coversHosts(b) && s.coversPaths(b) && s.coversHeaders(b) && coversNames(s.snis, b.snis)
}

func (s *shape) coversMethods(b *shape) bool {
	return len(s.methods) == 0 || len(b.methods) > 0 && !slices.ContainsFunc(b.methods, func(m string) bool { return !slices.Contains(s.methods, m) })
}

func (s *shape) coversHosts(b *shape) bool {
	if len(s.hosts) == 0 {
		return true
	}
	for _, h := range b.hosts {
		if !slices.ContainsFunc(s.hosts, func(a hostTest) bool {
			return (a.port == 0 || a.port == h.port) && a.nameTest.covers(h.nameTest)
		}) {
			return false
		}
	}
	return len(b.hosts) > 0
}

// covers says that every name that b matches is one that t matches.
func (t nameTest) covers(b nameTest) bool {
	switch t.kind {
	case endsWith:
		return b.kind != startsWith && strings.HasSuffix(b.text, t.text)
	case startsWith:
		return b.kind != endsWith && strings.HasPrefix(b.text, t.text)
	}
	return b.kind == whole && b.text == t.text
}

func coversNames(a, b []nameTest) bool {
	if len(a) == 0 {
		return true
	}
	for _, n := range b {
		if !slices.ContainsFunc(a, func(x nameTest) bool { return x.covers(n) }) {
			return false
		}
	}
	return len(b) > 0
}

func (s *shape) coversPaths(b *shape) bool {
	if len(s.paths) == 0 {
		return true
	}
	if s.weight.regex {
		return b.weight.regex && slices.Equal(s.paths, b.paths)
	}
	begins := func(path string) bool {
		return slices.ContainsFunc(s.prefixes, func(p string) bool { return strings.HasPrefix(path, p) })
	}
	if b.weight.regex {
		return begins(b.literal)
	}
	return len(b.prefixes) > 0 && !slices.ContainsFunc(b.prefixes, func(p string) bool { return !begins(p) })
}

// coversHeaders compares values as they are written: what a pattern finds is not judged.
func (s *shape) coversHeaders(b *shape) bool {
	for i := range s.headers {
		h := &s.headers[i]
		if !slices.ContainsFunc(b.headers, func(x headerTest) bool { return h.covers(&x) }) {
			return false
		}
	}
	return true
}

func (t *headerTest) covers(b *headerTest) bool {
	if !strings.EqualFold(t.name, b.name) || len(b.regexes) > len(t.regexes) {
		return false
	}
	for i, re := range b.regexes {
		if t.regexes[i].String() != re.String() {
			return false
		}
	}
	return !slices.ContainsFunc(b.values, func(v string) bool {
		return !slices.ContainsFunc(t.values, func(x string) bool { return strings.EqualFold(x, v) })
	})
}
