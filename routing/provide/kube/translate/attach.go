package translate

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// parentState is how a route stands with one of its parents.
type parentState struct {
	Ref        ParentRef
	Controller string
	Gateway    Ref
	Accepted   outcome
	Resolved   outcome
}

// routeState is how a route stands with the parents that are ours.
type routeState struct{ Parents []parentState }

// attached are the listeners that a route is served on, and among which others.
type attached struct {
	on, all []*listenerState
	parents []parentState
}

// attach finds the listeners that a route's parents name and that let it in.
func (w *run) attach(r *Route) attached {
	var a attached
	for i := range r.Spec.ParentRefs {
		p := &r.Spec.ParentRefs[i]
		g, owner := w.parent(r, p)
		if g.Controller == "" {
			continue // there is nothing, or it is another's
		}
		state := parentState{Ref: *p, Controller: g.Controller, Gateway: owner.gateway}
		on := w.admitted(r, p, &g, owner.self, &state.Accepted)
		if state.Accepted.Reason != "" {
			w.find(fmt.Sprintf("spec.parentRefs[%d]", i), state.Accepted.Message, Ignored)
		}
		a.parents = append(a.parents, state)
		if len(on) > 0 && w.client.Kind == "" {
			w.client = g.Client
		}
		if by := (usedBy{owner.gateway, g.Controller}); len(on) > 0 && !slices.Contains(w.gateways, by) {
			w.gateways = append(w.gateways, by)
		}
		for _, l := range on {
			w.give(l.routes(), true)
			if l.Serves() && !slices.Contains(a.on, l) {
				a.on = append(a.on, l)
			}
		}
		if !slices.ContainsFunc(a.all, func(l *listenerState) bool { return l.Gateway == owner.gateway }) {
			a.all = append(a.all, g.Listeners...)
		}
	}
	return a
}

// owner is a parent, and the Gateway that it is or is of.
type owner struct{ self, gateway Ref }

// parent reads the Gateway that a parent is, or is of.
func (w *run) parent(r *Route, p *ParentRef) (gatewayState, owner) {
	if p.group(gatewayGroup) != gatewayGroup {
		return gatewayState{}, owner{}
	}
	self := Ref{p.kind(KindGateway), p.in(r.Namespace), p.Name}
	gateway := self
	switch self.Kind {
	case KindGateway:
	case KindListenerSet:
		set, ok := w.look(KindListenerSet, self.Namespace, self.Name).(*ListenerSet)
		if !ok {
			return gatewayState{}, owner{}
		}
		gateway = Ref{KindGateway, set.Spec.ParentRef.in(set.Namespace), set.Spec.ParentRef.Name}
	default:
		return gatewayState{}, owner{}
	}
	g, _ := w.value(Ref{unitGateway, gateway.Namespace, gateway.Name}).(gatewayState)
	if _, names := g.Sets[self]; self.Kind == KindListenerSet && !names {
		return gatewayState{}, owner{}
	}
	return g, owner{self, gateway}
}

// admitted are the listeners of a parent that let a route in, or the reason that there
// is none.
func (w *run) admitted(r *Route, p *ParentRef, g *gatewayState, of Ref, why *outcome) []*listenerState {
	var on []*listenerState
	for _, l := range g.Listeners {
		if l.Owner == of && (p.SectionName == nil || *p.SectionName == l.Name) && (p.Port == nil || *p.Port == l.Port) {
			on = append(on, l)
		}
	}
	keep := func(reason, message string, ok func(*listenerState) bool) {
		if on = slices.DeleteFunc(on, func(l *listenerState) bool { return !ok(l) }); len(on) == 0 {
			why.fail(reason, message)
		}
	}
	keep("NoMatchingParent", "expected the name and port of a listener of "+of.String()+", if any", func(*listenerState) bool { return true })
	keep("NotAllowedByListeners", "expected a listener of "+of.String()+" that lets in routes of kind "+r.kind, func(l *listenerState) bool { return slices.Contains(l.Kinds, r.kind) })
	keep("NotAllowedByListeners", "expected a listener of "+of.String()+" that lets in routes of namespace "+r.Namespace, func(l *listenerState) bool { return w.allows(&l.From, l.Owner.Namespace, r.Namespace) })
	keep("NotAllowedByListeners", "expected a listener of "+of.String()+" that is accepted itself", (*listenerState).Accepted)
	if r.kind != KindTCPRoute && r.kind != KindUDPRoute {
		keep("NoMatchingListenerHostname", "expected hostnames of which a listener of "+of.String()+" has some", func(l *listenerState) bool { return len(common(l.Hostname, r.Spec.Hostnames)) > 0 })
	}
	return on
}

// mostTies is how many routes that tie are told apart.
const mostTies = 1<<11 - 1

// rival is what a route says where it ties with others.
type rival struct {
	Object  Ref
	Created time.Time
}

// tie answers how a route stands among those that take the same requests and weigh the
// same: 0 for the last. It is told to those who decide, and read from them.
func (w *run) tie(r *Route, key string) int {
	unit := Ref{unitTie, "", key}
	w.give(unit, rival{RefOf(r), r.CreationTimestamp})
	order, _ := w.peeked(unit).([]Ref)
	i := slices.Index(order, RefOf(r))
	if i < 0 {
		return 0 // not known yet: this is made again
	}
	return min(len(order)-1-i, mostTies)
}

// ties orders routes that take the same requests: the older one first, then by name.
func (w *run) ties() {
	var list []rival
	for _, s := range w.collected(w.self) {
		if v, ok := s.v.(rival); ok {
			list = append(list, v)
		}
	}
	slices.SortFunc(list, func(a, b rival) int {
		return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.Object.Namespace+"/"+a.Object.Name, b.Object.Namespace+"/"+b.Object.Name), a.Object.compare(b.Object))
	})
	order := make([]Ref, len(list))
	for i, v := range list {
		order[i] = v.Object
	}
	w.say(order)
}

// report says how the route stands: resolved is why one of its references is not.
func (a *attached) report(w *run, accepted, resolved outcome) {
	for i := range a.parents {
		p := &a.parents[i]
		if p.Accepted.Reason == "" {
			p.Accepted = accepted
		}
		p.Resolved = resolved
	}
	w.unit.status = routeState{a.parents}
}

// spokenBy is what the units of backends are called for a kind of routes: for Gateways that
// show backends a certificate they are others.
func (w *run) spokenBy(transport string) string {
	if w.client.Kind == "" {
		return transport
	}
	return transport + "." + w.client.Namespace + "." + w.client.Name
}

// portsOf are ports as conditions of an expression.
func portsOf(ports []int) []string {
	var list []string
	for _, p := range ports {
		list = append(list, "net.dst.port == "+strconv.Itoa(p))
	}
	return list
}
