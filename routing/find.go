package routing

// Find normalises the raw path of a request under the listener's policy p,
// matches q with it (q.Path is written) and applies the policy that the found
// route may have of its own: a route changes which spellings are refused and
// what is sent, never what is matched. It answers false without an error if
// there is no route, and an error if the path is refused; m is then empty.
func (t *Table) Find(p Policy, raw string, q *Query, m *Match) (bool, *PathError) {
	norm, refused := Normalize(p, raw)
	if refused != nil {
		if p == Compatible || !t.lenient {
			*m = Match{Captures: m.Captures[:0]}
			return false, refused
		}
		// A route that is Compatible may still take it.
		var err *PathError
		if norm, err = Normalize(Compatible, raw); err != nil {
			*m = Match{Captures: m.Captures[:0]}
			return false, refused
		}
	}
	q.Path = norm
	if !t.Match(q, m) {
		return false, refused
	}
	switch own := m.Route.Policy(p); {
	case own == Compatible:
		refused = nil
	case p == Compatible:
		_, refused = Normalize(own, raw)
	}
	if refused != nil {
		*m = Match{Captures: m.Captures[:0]}
	}
	return refused == nil, refused
}
