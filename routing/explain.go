package routing

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"
)

// Candidate is one rule (a route, or the part of it that has paths of one
// length) that fits the host and the path of a request.
type Candidate struct {
	// Route is the route of the rule.
	Route *Route
	// Paths are the rule's paths as the document has them, nil for a route without.
	Paths []string
	// Expression is the rule if it is one, "" if not.
	Expression string
	// Matches says that the whole rule fits. The first candidate that matches is the answer.
	Matches bool
	// Reason says why the rule does not match or, if it does, what put it behind
	// the matching candidate before it, or that it is the answer.
	Reason string
}

// Explain lists the rules that fit the host and the path of a request, in the
// order in which they are considered. It is for people: its cost grows with the
// table, and no value of a request's field is shown.
func (t *Table) Explain(q *Query) []Candidate {
	if !routable(q) {
		return nil
	}
	var tg target
	tg.prepare(q)
	tg.ask(t.listens)
	var list []Candidate
	var before *shape
	for _, p := range t.ranked {
		r := &t.rules[p.slot()]
		if r.expr != nil && !r.expressionFits(&tg) || r.expr == nil && (!r.hostMatches(&tg) || !r.pathMatches(tg.path)) {
			continue
		}
		c := Candidate{Route: r.route, Paths: r.paths}
		if r.expr != nil {
			c.Expression = r.expr.String()
		}
		switch miss := r.miss(&tg); {
		case miss != "":
			c.Reason = miss
		case before == nil:
			c.Matches, c.Reason = true, "the answer"+r.answer(q)
			before = r.shape
		default:
			c.Matches, c.Reason = true, decided(before, r.shape)
			before = r.shape
		}
		list = append(list, c)
	}
	return list
}

// expressionFits is what being in the trees says of an expression, without them.
func (s *shape) expressionFits(q *target) bool {
	fits := func(h hostTest) bool { return nameTest{h.folded, h.kind}.matches(q.folded) }
	return (len(s.hosts) == 0 || slices.ContainsFunc(s.hosts, fits)) && s.pathMatches(q.path)
}

// pathMatches is what being in the trees says, without them.
func (s *shape) pathMatches(path string) bool {
	if s.weight.regex {
		return strings.HasPrefix(path, s.literal) && s.regexMatches(path)
	}
	return len(s.prefixes) == 0 || slices.ContainsFunc(s.prefixes, func(p string) bool { return strings.HasPrefix(path, p) })
}

// miss says which other condition is not met, "" if all are.
func (s *shape) miss(q *target) string {
	switch {
	case s.expr == nil:
	case !s.accepts(q):
		return "no match: the route is not for TLS, and its expression is not asked"
	case !s.expr.Match(&q.asked, nil):
		return "no match: not true is " + s.expr.Why(&q.asked)
	default:
		return ""
	}
	if len(s.methods) > 0 && !slices.Contains(s.methods, q.Method) {
		return "no match: the method is none of " + strings.Join(s.methods, ", ")
	}
	if !s.sniMatches(q) {
		return "no match: the server name of the connection is none of the route's snis"
	}
	for i := range s.headers {
		if h := &s.headers[i]; !h.matches(q.Fields) {
			return "no match: no field " + h.name + " has a value that the route names"
		}
	}
	return ""
}

// answer is a remark on the route that answers.
func (r *rule) answer(q *Query) string {
	switch {
	case r.route.Broken != nil:
		return ", but it is broken and answers 503: " + r.route.Broken.Message
	case q.Scheme == "http" && !r.route.AcceptsHTTP:
		return fmt.Sprintf(", but it is for TLS only and answers %d in clear", r.route.RedirectStatus)
	}
	return ""
}

// decided says what puts the rule b behind a.
func decided(a, b *shape) string {
	const behind = "behind the one before: "
	switch {
	case a.expr != nil && b.expr == nil:
		return behind + "that one is an expression"
	case a.expr != nil && a.priority != b.priority:
		return fmt.Sprintf(behind+"its priority is %d, this one's %d", a.priority, b.priority)
	}
	x, y := a.weight, b.weight
	if a.priority == b.priority {
		return behind + "equal, and the higher id is first"
	}
	switch bit := bits.Len64(a.priority^b.priority) - 1; {
	case bit == 60:
		return behind + "that one has plain hosts only"
	case bit == 51:
		return behind + "that one has expressions as paths"
	case bit > 30 && (x.kinds > 3) != (y.kinds > 3):
		return behind + "that one has four kinds of conditions or more"
	case bit > 28 && x.kinds != y.kinds:
		return fmt.Sprintf(behind+"that one has %d kinds of conditions, this one %d", x.kinds, y.kinds)
	case bit < 19:
		return fmt.Sprintf(behind+"its prefix is of %d bytes, this one's of %d", x.length, y.length)
	case x.regexPriority == y.regexPriority:
		return fmt.Sprintf(behind+"that one names %d headers, this one %d", x.headers, y.headers)
	case x.headers == y.headers && x.headers == 0:
		return fmt.Sprintf(behind+"its regex_priority is %d, this one's %d", x.regexPriority, y.regexPriority)
	}
	return fmt.Sprintf(behind+"%d headers and regex_priority %d, which share bits, against %d and %d",
		x.headers, x.regexPriority, y.headers, y.regexPriority)
}
