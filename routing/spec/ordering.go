package spec

import (
	"slices"
	"strings"
)

// Ordering (ordering) moves a plugin in the access phase, past others that run for the same
// request. Every other phase has one order.
type Ordering struct {
	Before []string // names of plugins that run after it
	After  []string // names of plugins that run before it
}

// otherPhase is the message for what is beside access in a plugin's ordering.
const otherPhase = "unknown field; expected access: the order of every other phase is fixed"

var orderingNames = &rule{set: true, check: checkNotEmpty}

func (r *Ordering) fields(visit func(field)) {
	visit(field{"before", access(&r.Before), noRule})
	visit(field{"after", access(&r.After), noRule})
}

// access is the record of phases around one list of names.
func access(names *[]string) optional {
	phases := group(func(visit func(field)) { visit(field{"access", names, orderingNames}) })
	return optional{given: len(*names) > 0, begin: func() group { return phases }, group: phases}
}

// judgeOrdering holds the names in a plugin's ordering to plugins that can run beside it.
func (o *object) judgeOrdering(p *Plugin) {
	r := p.Ordering
	if r == nil {
		return
	}
	if len(r.Before)+len(r.After) == 0 {
		p.Ordering = nil // it says nothing
		return
	}
	if p.Consumer != "" || p.ConsumerGroup != "" {
		o.conflict("ordering", "expected nothing for a plugin of a consumer or a consumer group: who the client is shows only while plugins run, and their order is fixed before")
		return
	}
	plugins := o.l.schemas.Plugins()
	for _, list := range []struct {
		field string
		names []string
	}{{"ordering.before.access", r.Before}, {"ordering.after.access", r.After}} {
		for i, name := range list.names {
			field, at := list.field+"."+itoa(i+1), o.at("ordering")
			switch {
			case name == p.Name:
				o.bad(at, field, ReasonConflict, "expected names of other plugins, not '"+name+"' itself")
			case !slices.Contains(plugins, name):
				o.bad(at, field, ReasonUnknown, "plugin '"+name+"' is not in this build; expected names among: "+strings.Join(plugins, ", "))
			case list.field == "ordering.after.access" && slices.Contains(r.Before, name):
				o.bad(at, field, ReasonConflict, "expected '"+name+"' in one of 'before' and 'after', not in both")
			}
		}
	}
}
