package routing

import (
	"slices"
	"strings"

	"github.com/keyway-edge/keyway/routing/expr"
	"github.com/keyway-edge/keyway/routing/spec"
)

// expressionShape compiles a route that is an expression. It has one rule, filed
// under what every request that it matches has in common.
func expressionShape(r *spec.Route) ([]*shape, *spec.Problem) {
	e, err := expr.Parse(r.Expression)
	if err != nil { // documents are checked when they are read
		return nil, &spec.Problem{
			Pos: r.Pos, Entity: "routes", ID: r.ID, Name: r.Name, Field: "expression", Reason: spec.ReasonCompile,
			Message: "expected an expression: " + err.Error(),
		}
	}
	s := &shape{id: r.ID, expr: e}
	if r.Priority != nil {
		s.priority = uint64(*r.Priority) //nolint:gosec // documents are checked when they are read
	}
	clear := slices.Contains(r.Protocols, "http") || slices.Contains(r.Protocols, "grpc")
	secure := slices.Contains(r.Protocols, "https") || slices.Contains(r.Protocols, "grpcs")
	switch {
	case !clear:
		s.schemes = secureOnly
	case !secure:
		s.schemes = clearOnly
	}
	s.hosts = hostsOf(e)
	s.prefixes = e.Paths()
	return []*shape{s}, nil
}

// hostsOf are the buckets in which a rule is looked for, none for all. The index
// knows endings and beginnings at dots only.
func hostsOf(e *expr.Expr) []hostTest {
	var list []hostTest
	for _, h := range e.Hosts() {
		t := hostTest{nameTest{h.Text, nameKind(h.Kind)}, h.Text, 0}
		if t.kind == endsWith && !strings.HasPrefix(h.Text, ".") || t.kind == startsWith && !strings.HasSuffix(h.Text, ".") {
			return nil
		}
		if !slices.Contains(list, t) {
			list = append(list, t)
		}
	}
	return list
}
