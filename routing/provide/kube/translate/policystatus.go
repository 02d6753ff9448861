package translate

import (
	"cmp"
	"slices"
	"time"
)

// following says that a Service that is served names a KongUpstreamPolicy.
type following struct {
	Service  Ref
	Created  time.Time
	Conflict string // another policy counts, and why
	Wrong    string // what is wrong with the policy, which is not used then
}

// follow says that the Service of a unit names a policy.
func (w *run) follow(m *Meta, policy, conflict string) {
	w.give(Ref{collectPolicy, m.Namespace, policy}, following{Service: Ref{KindService, m.Namespace, m.Name}, Created: m.CreationTimestamp, Conflict: conflict})
}

// unfollow says what is wrong with the policy, the first thing alone.
func (w *run) unfollow(m *Meta, policy, why string) {
	of := Ref{collectPolicy, m.Namespace, policy}
	if f, ok := w.gives[of].(following); ok && f.Wrong == "" {
		f.Wrong = why
		w.give(of, f)
	}
}

// upstreamPolicyStatus says of each Service how the policy stands with it, of the oldest
// Services where there are more than a status can name.
func (s *State) upstreamPolicyStatus(p *UpstreamPolicy, m moment) map[string]any {
	if len(s.cfg.GatewayControllers) == 0 {
		return nil
	}
	w := &run{State: s, unit: unit{reads: map[Ref]struct{}{}}}
	var all []following
	for _, by := range w.collected(Ref{collectPolicy, p.Namespace, p.Name}) {
		f, _ := by.v.(following)
		i := slices.IndexFunc(all, func(o following) bool { return o.Service == f.Service })
		if i < 0 {
			all = append(all, f)
		} else if all[i].Wrong == "" { // of several ports of a Service
			all[i].Wrong = f.Wrong
		}
	}
	slices.SortFunc(all, func(a, b following) int { return cmp.Or(a.Created.Compare(b.Created), a.Service.compare(b.Service)) })
	var want []AncestorStatus
	for _, f := range all[:min(len(all), mostAncestors)] {
		group, kind, namespace := "core", KindService, f.Service.Namespace
		var accepted, programmed outcome
		switch {
		case f.Conflict != "":
			accepted.fail(reasonConflicted, f.Conflict)
			programmed.fail("Pending", f.Conflict)
		case f.Wrong != "":
			accepted.fail("Invalid", f.Wrong)
			programmed.fail("Invalid", f.Wrong)
		}
		if d := s.displaced[f.Service]; d != nil && d.Kinds["upstreams"] > 0 {
			programmed.fail(reasonConflicted, d.Why)
		}
		want = append(want, AncestorStatus{
			ParentRef{ObjectReference: ObjectReference{&group, &kind, &namespace, f.Service.Name}},
			s.cfg.GatewayControllers[0],
			[]Condition{condition("Accepted", "Accepted", accepted, p.Generation), condition("Programmed", "Programmed", programmed, p.Generation)},
		})
	}
	names := func(of ParentRef) bool { // a Service, which another node may serve
		o := s.objects[Ref{KindService, of.in(p.Namespace), of.Name}]
		if o == nil {
			return false
		}
		text, _ := annotated(o.Common(), "upstream-policy")
		return text == p.Name
	}
	ancestors, differs := beside(s, m, p.Status.Ancestors, want, names, func(a *AncestorStatus) (ParentRef, string, *[]Condition) {
		return a.AncestorRef, a.ControllerName, &a.Conditions
	})
	if !differs {
		return nil
	}
	return map[string]any{"ancestors": ancestors}
}
