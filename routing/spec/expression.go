package spec

import (
	"github.com/keyway-edge/keyway/routing/expr"
)

// Flavors of the router: which ways of saying when a route matches are understood.
const (
	FlavorCompatible  = "traditional_compatible"
	FlavorTraditional = "traditional"
	FlavorExpressions = "expressions"
)

func checkExpression(s string) string {
	if s == "" {
		return tooShort
	}
	if _, err := expr.Parse(s); err != nil {
		return "Router Expression failed validation: " + err.Error()
	}
	return ""
}

// CheckFlavor reports what a router of that flavor does not understand, and what may
// not stand beside an expression where they are understood.
func (d *Document) CheckFlavor(flavor string) Problems {
	var problems Problems
	for _, r := range d.Routes {
		bad := func(field string, reason Reason, message string) {
			problems = append(problems, &Problem{Pos: r.Pos, Entity: "routes", ID: r.ID, Name: r.Name, Field: field, Reason: reason, Message: message})
		}
		if flavor != FlavorExpressions {
			for _, f := range r.ofExpressions() {
				bad(f, ReasonUnknown, "unknown field: the router's flavor is "+flavor+"; set router_flavor to "+FlavorExpressions+" to use expressions")
			}
			continue
		}
		if r.Expression == "" {
			continue
		}
		switch r.Protocols[0] {
		case "http", "https", "grpc", "grpcs":
		default:
			bad("expression", ReasonConflict, "expressions are for routes whose 'protocols' are 'http', 'https', 'grpc' or 'grpcs'")
		}
		for _, f := range []struct {
			name   string
			values int
		}{
			{"methods", len(r.Methods)},
			{"hosts", len(r.Hosts)},
			{"paths", len(r.Paths)},
			{"headers", len(r.Headers)},
			{"snis", len(r.SNIs)},
			{"sources", len(r.Sources)},
			{"destinations", len(r.Destinations)},
		} {
			if f.values > 0 {
				bad(f.name, ReasonConflict, "cannot set '"+f.name+"' together with 'expression', which is to say it all")
			}
		}
	}
	return problems
}

// ofExpressions are the fields of expressions that the route has.
func (r *Route) ofExpressions() []string {
	var list []string
	if r.Expression != "" {
		list = append(list, "expression")
	}
	if r.Priority != nil {
		list = append(list, "priority")
	}
	return list
}
