package translate

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// moment is what statuses are made with.
type moment struct {
	addresses []Address
	ports     Ports
	now       string
}

// Status is what the status of an object of Gateway API is to say, nil if it says that
// already or is nobody's business here. addresses are where clients reach the node, ports
// how its listeners stand. What other controllers said in it stays.
func (s *State) Status(o Object, addresses []Address, ports Ports, at time.Time) map[string]any {
	m := moment{addresses, ports, at.UTC().Format(time.RFC3339)}
	switch o := o.(type) {
	case *GatewayClass:
		return s.classStatus(o, m)
	case *Gateway:
		return s.gatewayStatus(o, m)
	case *ListenerSet:
		return s.setStatus(o, m)
	case *Route:
		return s.routeStatus(o, m)
	case *BackendTLS:
		return s.policyStatus(o, m)
	case *UpstreamPolicy:
		return s.upstreamPolicyStatus(o, m)
	}
	return nil
}

// condition is one, met unless the outcome says otherwise. met is the reason where it is.
func condition(kind, met string, o outcome, generation int64) Condition {
	c := Condition{Type: kind, Status: "True", Reason: met, Message: o.Message, ObservedGeneration: generation}
	if o.Reason != "" {
		c.Status, c.Reason = "False", o.Reason
	}
	if len(c.Message) > 32000 { // the server takes 32768
		c.Message = c.Message[:32000]
	}
	return c
}

// settled are the conditions that are wanted, with the time of the last change, and after
// them those of other kinds that are there.
func (m *moment) settled(have, want []Condition) []Condition {
	out := make([]Condition, 0, len(want))
	for _, c := range want {
		c.LastTransitionTime = m.now
		if i := slices.IndexFunc(have, func(h Condition) bool { return h.Type == c.Type }); i >= 0 && have[i].Status == c.Status {
			c.LastTransitionTime = have[i].LastTransitionTime
		}
		out = append(out, c)
	}
	for _, h := range have {
		if !slices.ContainsFunc(want, func(c Condition) bool { return c.Type == h.Type }) {
			out = append(out, h)
		}
	}
	return out
}

// same says whether conditions are equal but for their order.
func same(a, b []Condition) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(c Condition) bool { return !slices.Contains(b, c) })
}

func (s *State) classStatus(c *GatewayClass, m moment) map[string]any {
	if !slices.Contains(s.cfg.GatewayControllers, c.Spec.ControllerName) {
		return nil
	}
	var accepted outcome
	if len(c.Spec.ParametersRef) > 0 && string(c.Spec.ParametersRef) != "null" {
		accepted.fail("InvalidParameters", "spec.parametersRef: expected none")
	}
	conditions := m.settled(c.Status.Conditions, []Condition{condition("Accepted", "Accepted", accepted, c.Generation)})
	features := make([]Feature, len(supportedFeatures))
	for i, name := range supportedFeatures {
		features[i].Name = name
	}
	if same(conditions, c.Status.Conditions) && slices.Equal(features, c.Status.SupportedFeatures) {
		return nil
	}
	return map[string]any{"conditions": conditions, "supportedFeatures": features}
}

// stateOf is what was found of a Gateway.
func (s *State) stateOf(gateway Ref) gatewayState {
	u := s.units[Ref{unitGateway, gateway.Namespace, gateway.Name}]
	if u == nil {
		return gatewayState{}
	}
	g, _ := u.value.(gatewayState)
	return g
}

func (s *State) gatewayStatus(g *Gateway, m moment) map[string]any {
	self := RefOf(g)
	state := s.stateOf(self)
	if state.Controller == "" {
		return nil
	}
	listeners := s.listenerStatuses(&state, self, g.Status.Listeners, g.Generation, m)
	accepted, good := judged(listeners)
	if state.accepted.Reason != "" {
		accepted = state.accepted
	}
	if len(s.cfg.GatewayAddresses) > 0 {
		if m.addresses = nil; state.Address != "" {
			m.addresses = []Address{{IP: state.Address}}
		}
	}
	addresses, programmed := m.usable(g)
	met := "Accepted"
	switch {
	case accepted.Reason != "":
		programmed = outcome{"Invalid", accepted.Message}
	case good < len(listeners):
		met = "ListenersNotValid"
	}
	if accepted.Reason == "" {
		programmed.fail(s.shut(&state, listeners, Ref{}, &m))
	}
	want := []Condition{condition("Accepted", met, accepted, g.Generation), condition("Programmed", "Programmed", programmed, g.Generation)}
	const insecure = "InsecureFrontendValidationMode"
	have := slices.DeleteFunc(slices.Clone(g.Status.Conditions), func(c Condition) bool { return c.Type == insecure && !state.insecure })
	if state.insecure {
		want = append(want, condition(insecure, "ConfigurationChanged", outcome{Message: "clients without a certificate are let in"}, g.Generation))
	}
	if state.resolved != nil {
		want = append(want, condition("ResolvedRefs", "ResolvedRefs", *state.resolved, g.Generation))
	} else {
		have = slices.DeleteFunc(have, func(c Condition) bool { return c.Type == "ResolvedRefs" })
	}
	sets := 0
	for set, why := range state.Sets {
		if why.Reason == "" && slices.ContainsFunc(state.Listeners, func(l *listenerState) bool { return l.Owner == set && l.Accepted() }) {
			sets++
		}
	}
	conditions := m.settled(have, want)
	if same(conditions, g.Status.Conditions) && sameListeners(listeners, g.Status.Listeners) && slices.Equal(addresses, g.Status.Addresses) && or(g.Status.AttachedListenerSets, 0) == sets {
		return nil
	}
	return map[string]any{"conditions": conditions, "listeners": listeners, "addresses": addresses, "attachedListenerSets": sets}
}

// judged is how a list of listeners makes what they are of come out, and how many are accepted.
func judged(list []ListenerStatus) (accepted outcome, good int) {
	for _, l := range list {
		if slices.ContainsFunc(l.Conditions, func(c Condition) bool { return c.Type == "Accepted" && c.Status == "True" }) {
			good++
		}
	}
	if good == 0 {
		accepted.fail("ListenersNotValid", "expected a listener that can be served; see their conditions")
	}
	return accepted, good
}

// usable are the addresses that a Gateway is reached at: those that it asks for, if it
// asks, or all.
func (m *moment) usable(g *Gateway) ([]StatusAddress, outcome) {
	var all, list []StatusAddress
	var why outcome
	for _, a := range m.addresses {
		if a.IP != "" {
			all = append(all, StatusAddress{"IPAddress", a.IP})
		} else {
			all = append(all, StatusAddress{"Hostname", a.Hostname})
		}
	}
	asked := false
	for i, want := range g.Spec.Addresses {
		if want.Value == "" {
			continue
		}
		asked = true
		a := StatusAddress{want.Type, want.Value}
		if a.Type == "" {
			a.Type = "IPAddress"
		}
		if slices.Contains(all, a) {
			list = append(list, a)
		} else {
			why.fail("AddressNotUsable", fmt.Sprintf("spec.addresses[%d]: expected one of the node's addresses, not '%s'", i, want.Value))
		}
	}
	if !asked {
		list = all
	}
	if len(list) == 0 {
		why.fail("AddressNotAssigned", "no address is known: kube_publish_service or kube_publish_address is to say where clients reach the node")
	}
	return list, why
}

// listenerStatuses are those of the listeners of one object.
func (s *State) listenerStatuses(g *gatewayState, owner Ref, have []ListenerStatus, generation int64, m moment) []ListenerStatus {
	list := []ListenerStatus{}
	for _, l := range g.Listeners {
		if l.Owner != owner {
			continue
		}
		group := gatewayGroup
		st := ListenerStatus{Name: l.Name, SupportedKinds: []GroupKind{}, AttachedRoutes: len(s.collections[l.routes()])}
		for _, kind := range l.Kinds {
			st.SupportedKinds = append(st.SupportedKinds, GroupKind{&group, kind})
		}
		var old []Condition
		if i := slices.IndexFunc(have, func(h ListenerStatus) bool { return h.Name == l.Name }); i >= 0 {
			old = have[i].Conditions
		}
		programmed := l.conflicted
		if l.resolved.Reason != "InvalidRouteKinds" || len(l.Kinds) == 0 {
			programmed.fail(invalid(l.resolved))
		}
		programmed.fail(invalid(l.accepted))
		programmed.fail(invalid(g.accepted))
		if l.Serves() {
			programmed.fail(s.unopened(l, &m, old, generation))
		}
		conflicted := condition("Conflicted", "NoConflicts", outcome{}, generation)
		if conflicted.Status = "False"; l.conflicted.Reason != "" {
			conflicted.Status, conflicted.Reason, conflicted.Message = "True", l.conflicted.Reason, l.conflicted.Message
		}
		st.Conditions = m.settled(old, []Condition{
			condition("Accepted", "Accepted", l.accepted, generation), condition("Programmed", "Programmed", programmed, generation),
			condition("ResolvedRefs", "ResolvedRefs", l.resolved, generation), conflicted,
		})
		list = append(list, st)
	}
	return list
}

// invalid is what fails where something else did.
func invalid(o outcome) (reason, message string) {
	if o.Reason == "" {
		return "", ""
	}
	return "Invalid", o.Message
}

func sameListeners(a, b []ListenerStatus) bool {
	return slices.EqualFunc(a, b, func(a, b ListenerStatus) bool {
		kinds := slices.EqualFunc(a.SupportedKinds, b.SupportedKinds, func(a, b GroupKind) bool {
			return a.Kind == b.Kind && or(a.Group, gatewayGroup) == or(b.Group, gatewayGroup)
		})
		return kinds && a.Name == b.Name && a.AttachedRoutes == b.AttachedRoutes && same(a.Conditions, b.Conditions)
	})
}

func (s *State) setStatus(l *ListenerSet, m moment) map[string]any {
	self := RefOf(l)
	state := s.stateOf(Ref{KindGateway, l.Spec.ParentRef.in(l.Namespace), l.Spec.ParentRef.Name})
	accepted, names := state.Sets[self]
	if state.Controller == "" || !names {
		return nil
	}
	listeners := s.listenerStatuses(&state, self, l.Status.Listeners, l.Generation, m)
	if state.accepted.Reason != "" {
		accepted.fail("ParentNotAccepted", "the Gateway is not accepted: "+state.accepted.Message)
	}
	// Unlike a Gateway's, its listeners count only where something can be served on them.
	if !slices.ContainsFunc(state.Listeners, func(l *listenerState) bool { return l.Owner == self && l.Serves() }) {
		accepted.fail("ListenersNotValid", "expected a listener that can be served; see their conditions")
	}
	programmed := accepted
	if accepted.Reason == "" {
		programmed.fail(s.shut(&state, listeners, self, &m))
	}
	conditions := m.settled(l.Status.Conditions, []Condition{condition("Accepted", "Accepted", accepted, l.Generation), condition("Programmed", "Programmed", programmed, l.Generation)})
	if same(conditions, l.Status.Conditions) && sameListeners(listeners, l.Status.Listeners) {
		return nil
	}
	return map[string]any{"conditions": conditions, "listeners": listeners}
}

func (s *State) routeStatus(r *Route, m moment) map[string]any {
	var want []ParentStatus
	if u := s.units[RefOf(r).unit()]; u != nil {
		state, _ := u.status.(routeState)
		for _, p := range state.Parents {
			p.Accepted = s.unserved(r, p.Accepted)
			want = append(want, ParentStatus{p.Ref, p.Controller, []Condition{
				condition("Accepted", "Accepted", p.Accepted, r.Generation), condition("ResolvedRefs", "ResolvedRefs", p.Resolved, r.Generation),
			}})
		}
	}
	parents, differs := beside(s, m, r.Status.Parents, want, func(p ParentRef) bool {
		return s.absent(p, r.Namespace) && slices.ContainsFunc(r.Spec.ParentRefs, func(of ParentRef) bool { return reflect.DeepEqual(of, p) })
	}, func(p *ParentStatus) (ParentRef, string, *[]Condition) {
		return p.ParentRef, p.ControllerName, &p.Conditions
	})
	if !differs {
		return nil
	}
	return map[string]any{"parents": parents}
}

// absent says that what a status speaks of is not here: a Gateway or a ListenerSet.
func (s *State) absent(of ParentRef, namespace string) bool {
	return s.objects[Ref{of.kind(KindGateway), of.in(namespace), of.Name}] == nil
}

// beside puts our entries among those of other controllers, whose places stay. So do those
// of nodes of the same controllers that take other objects, as far as theirs says.
func beside[E any](s *State, m moment, have, want []E, theirs func(ParentRef) bool, parts func(*E) (ParentRef, string, *[]Condition)) (list []E, differs bool) {
	list = []E{}
	done := make([]bool, len(want))
	for i := range have {
		ref, controller, conditions := parts(&have[i])
		if !slices.Contains(s.cfg.GatewayControllers, controller) {
			list = append(list, have[i])
			continue
		}
		j := slices.IndexFunc(want, func(e E) bool {
			r, c, _ := parts(&e)
			return c == controller && reflect.DeepEqual(r, ref)
		})
		if j < 0 && s.cfg.Shared && theirs(ref) {
			list = append(list, have[i])
			continue
		}
		if j < 0 || done[j] {
			differs = true
			continue
		}
		done[j] = true
		_, _, fresh := parts(&want[j])
		*fresh = m.settled(*conditions, *fresh)
		differs = differs || !same(*fresh, *conditions)
		list = append(list, want[j])
	}
	for j := range want {
		if !done[j] {
			_, _, fresh := parts(&want[j])
			*fresh = m.settled(nil, *fresh)
			list, differs = append(list, want[j]), true
		}
	}
	return list, differs
}

// usedBy is a Gateway whose routes lead to a Service.
type usedBy struct {
	Gateway    Ref
	Controller string
}

// mostAncestors is how many Gateways the status of a policy can name.
const mostAncestors = 16

func (s *State) policyStatus(p *BackendTLS, m moment) map[string]any {
	var state policyState
	if u := s.units[RefOf(p).unit()]; u != nil {
		state, _ = u.value.(policyState)
	}
	w := &run{State: s, unit: unit{reads: map[Ref]struct{}{}}}
	var used []usedBy
	for _, t := range p.Spec.TargetRefs {
		for _, by := range w.collected(Ref{collectUsed, p.Namespace, t.Name}) {
			list, _ := by.v.([]usedBy)
			for _, u := range list {
				if !slices.Contains(used, u) {
					used = append(used, u)
				}
			}
		}
		if of := w.tlsOf(p.Namespace, t.Name, or(t.SectionName, "")); of != RefOf(p) && of.Kind != "" {
			state.Accepted.fail("Conflicted", of.String()+" is for the same target, and older")
		}
	}
	slices.SortFunc(used, func(a, b usedBy) int { return a.Gateway.compare(b.Gateway) })
	var want []AncestorStatus
	for _, u := range used[:min(len(used), mostAncestors)] {
		group, kind, namespace := gatewayGroup, KindGateway, u.Gateway.Namespace
		ref := ParentRef{ObjectReference: ObjectReference{&group, &kind, &namespace, u.Gateway.Name}}
		want = append(want, AncestorStatus{ref, u.Controller, []Condition{
			condition("Accepted", "Accepted", state.Accepted, p.Generation), condition("ResolvedRefs", "ResolvedRefs", state.Resolved, p.Generation),
		}})
	}
	ancestors, differs := beside(s, m, p.Status.Ancestors, want, func(of ParentRef) bool { return s.absent(of, p.Namespace) }, func(a *AncestorStatus) (ParentRef, string, *[]Condition) {
		return a.AncestorRef, a.ControllerName, &a.Conditions
	})
	if !differs {
		return nil
	}
	return map[string]any{"ancestors": ancestors}
}

// routes is the collection of the routes that are attached to a listener.
func (l *listenerState) routes() Ref {
	return Ref{collectAttached, l.Owner.Namespace, strings.Join([]string{l.Owner.Kind, l.Owner.Name, l.Name}, ":")}
}
