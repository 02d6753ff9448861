package translate

import (
	"fmt"
	"slices"
	"strconv"
)

// backends are the services that a rule leads to.
type backends struct {
	shares   []share
	resolved outcome
}

// share is one backend of a rule.
type share struct {
	Unit    Ref // of the backend, zero for none: its share answers 500
	Weight  int
	Filters []RouteFilter
	at      string
}

// mostWeight is what a document's weights are at most.
const mostWeight = 1_000_000

// backendsOf resolves the references of a rule. transport is what their units are called
// for this kind of routes.
func (w *run) backendsOf(r *Route, refs []BackendRef, transport, at string) backends {
	var b backends
	for i := range refs {
		ref := &refs[i]
		s := share{Weight: or(ref.Weight, 1), Filters: ref.Filters, at: fmt.Sprintf("%s.backendRefs[%d]", at, i)}
		if s.Weight < 0 || s.Weight > mostWeight {
			w.refuse(s.at+".weight", "expected a whole number from 0 to "+strconv.Itoa(mostWeight))
			continue
		}
		s.Unit = w.backendRef(r, ref, transport, s.at, &b.resolved)
		if j := slices.IndexFunc(b.shares, func(o share) bool { return o.Unit == s.Unit }); j >= 0 {
			if s.Unit.Kind != "" && len(b.shares[j].Filters)+len(s.Filters) > 0 {
				w.refuse(s.at, "expected a backend once where it has filters; add the weights of the two")
				continue
			}
			b.shares[j].Weight = min(b.shares[j].Weight+s.Weight, mostWeight)
			continue
		}
		b.shares = append(b.shares, s)
	}
	return b
}

// backendRef resolves one reference: its unit, zero for one that is not right.
func (w *run) backendRef(r *Route, ref *BackendRef, transport, at string, resolved *outcome) Ref {
	bad := func(reason, message string) Ref {
		resolved.fail(reason, at+": "+message)
		w.find(at, message, Failed)
		return Ref{}
	}
	namespace := ref.in(r.Namespace)
	switch {
	case ref.group("") != "" || ref.kind("Service") != "Service":
		return bad("InvalidKind", "expected a Service, not a "+ref.kind("")+" of group '"+ref.group("")+"'")
	case !w.lends(RefOf(r), namespace, "", "Service", ref.Name):
		return bad("RefNotPermitted", "expected a Service of namespace "+r.Namespace+", or one that a ReferenceGrant in "+namespace+" lends to "+r.kind+"s of it"+w.outside(namespace))
	case ref.Port == nil:
		return bad("UnsupportedValue", "expected a port of the Service")
	}
	unit := Ref{unitBackend, namespace, portName(ref.Name, strconv.Itoa(*ref.Port)) + ":" + transport}
	state, _ := w.value(unit).(backendState)
	if state.Missing != "" {
		return bad("BackendNotFound", state.Missing)
	}
	if len(w.gateways) > 0 {
		w.give(Ref{collectUsed, namespace, ref.Name}, w.gateways)
	}
	if state.Closed != "" {
		w.find(at, "the Service is not right: "+state.Closed, Failed)
		return Ref{}
	}
	return unit
}

// lead has a route of a document lead to its backends. Without one it answers 500.
func (b *backends) lead(route map[string]any) {
	if len(b.shares) == 1 && b.shares[0].Unit.Kind != "" && b.shares[0].Weight > 0 {
		route["service"] = serviceID(b.shares[0].Unit)
		return
	}
	var list []any
	for _, s := range b.shares {
		v := map[string]any{"service": nil, "weight": s.Weight}
		if s.Unit.Kind != "" {
			v["service"] = serviceID(s.Unit)
		}
		list = append(list, v)
	}
	if len(list) == 0 {
		list = []any{map[string]any{"service": nil, "weight": 1}}
	}
	route["x_keyway_split"] = list
}
