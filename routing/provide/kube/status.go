package kube

import (
	"context"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/keyway-edge/keyway/routing/provide/kube/translate"
	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/secrets/kube/cluster"
)

const (
	look       = time.Second            // how often there is a look at what differs
	writePause = 100 * time.Millisecond // between two writes
	mostWrites = 200                    // of one look

	forbiddenPause = time.Minute // until what may not be written is tried again
)

// write is one thing to be written to the API server.
type write struct {
	method, path string
	body         any
	object       string
	event        string // key of an event, "" for a status
}

// plans answers what is to be written now; it is asked of the loop, which owns the state.
type plans chan planned

// planned is one question for what is to be written: who asks knows how the ports stand.
type planned struct {
	ports  translate.Ports
	left   spec.Problems // what is left out for other documents
	answer chan []write
}

// write writes what differs, while this replica holds the lease.
func (p *Provider) write(ctx context.Context) error {
	e := &elector{
		api: p.api, path: "apis/coordination.k8s.io/v1/namespaces/" + p.own + "/leases", name: p.leaseName(),
		own: p.cfg.Identity, log: p.cfg.Log,
	}
	defer func() {
		if err := e.leave(ctx); err != nil {
			p.cfg.Log.Warn("the lease was not given back; another replica takes it in a while", slog.Any("error", err))
		}
	}()
	tick := time.NewTicker(look)
	defer tick.Stop()
	w := &writer{p: p, told: map[string]bool{}, forbidden: map[string]time.Time{}}
	var next time.Time // of the lease
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if now := time.Now(); !now.Before(next) {
			if !e.try(ctx, now) {
				clear(w.told)
			}
			next = now.Add(leaseRenew)
		}
		p.counts.leads.Store(e.leads)
		if e.leads {
			w.look(ctx, next)
		}
	}
}

// writer writes what differs. Owned by Provider.write.
type writer struct {
	p         *Provider
	told      map[string]bool      // events
	forbidden map[string]time.Time // paths that may not be written, until they are tried again
	failing   bool                 // at the last look
}

// look writes what differs now, until next at the most, when the lease comes first. What
// may not be written keeps nothing else from it; after any other failure the next look
// tries again.
func (w *writer) look(ctx context.Context, next time.Time) {
	list, failed := w.p.differing(ctx), false
	keep := make(map[string]bool, len(w.told))
	maps.DeleteFunc(w.forbidden, func(_ string, until time.Time) bool { return time.Now().After(until) })
	for i := range list {
		x := &list[i]
		if x.event != "" {
			keep[x.event] = true
		}
		if _, not := w.forbidden[x.path]; not || w.told[x.event] {
			failed = failed || not
			continue
		}
		err := w.p.send(ctx, x)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			w.p.counts.writeFailures.Add(1)
		} else {
			w.p.counts.written.Add(1)
		}
		if err != nil && !w.failing && !failed {
			w.p.cfg.Log.Warn("writing to the API server failed; traffic does not need it", slog.String("object", x.object), slog.Any("error", err))
		}
		if apierrors.IsForbidden(err) {
			w.forbidden[x.path] = time.Now().Add(forbiddenPause)
		} else if err != nil {
			w.failing = true
			return
		} else if x.event != "" {
			w.told[x.event] = true
		}
		failed = failed || err != nil
		if !sleep(ctx, writePause) || !time.Now().Before(next) {
			break
		}
	}
	w.failing = failed
	for event := range w.told {
		if !keep[event] && len(list) < mostWrites {
			delete(w.told, event) // it is over; another time it is told again
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// send writes. What is gone or was written by another meanwhile is no failure: the
// next look sees it as it is.
func (p *Provider) send(ctx context.Context, w *write) error {
	ctx, cancel := context.WithTimeout(ctx, leaseRenew)
	defer cancel()
	err := p.api.Do(ctx, w.method, w.path, w.body, nil)
	if cluster.Absent(err) || apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// differing asks the loop what is to be written.
func (p *Provider) differing(ctx context.Context) []write {
	q := planned{answer: make(chan []write, 1)}
	if p.cfg.Ports != nil {
		q.ports = p.cfg.Ports()
	}
	if p.cfg.LeftOut != nil {
		var known bool
		if q.left, known = p.cfg.LeftOut(); !known {
			return nil
		}
	}
	select {
	case p.plans <- q:
		return <-q.answer
	case <-ctx.Done():
		return nil
	}
}

// plan lists what differs from what objects should say of themselves. Of the loop.
func (p *Provider) plan(q planned) []write {
	if p.document == nil {
		return nil
	}
	var list []write
	full := func() bool { return len(list) >= mostWrites }
	wrong := map[translate.Ref]translate.Finding{}
	for _, f := range p.findings {
		if _, known := wrong[f.Object]; !known || f.Effect != translate.Ignored {
			wrong[f.Object] = f
		}
	}
	p.state.Displace(q.left)
	addresses := p.addresses()
	for _, r := range resources() {
		for o := range p.state.Objects(r.kind) {
			if full() {
				return list
			}
			m := o.Common()
			w := write{method: http.MethodPatch, path: r.path(m.Namespace) + "/" + m.Name + "/status", object: translate.RefOf(o).String()}
			if body := p.state.Status(o, addresses, q.ports, time.Now()); body != nil {
				// Others write into the same lists: what they wrote meanwhile is not to be lost.
				w.body = map[string]any{"metadata": map[string]any{"resourceVersion": m.ResourceVersion}, "status": body}
				list = append(list, w)
			} else if body := p.statusOf(o, addresses, wrong); body != nil {
				w.body = map[string]any{"status": body}
				list = append(list, w)
			}
		}
	}
	for _, f := range slices.Concat(p.findings, p.state.Displacements()) {
		if full() {
			break
		}
		list = append(list, eventOf(f, p.cfg.Identity))
	}
	for _, n := range p.noticed() {
		if full() {
			break
		}
		list = append(list, n.event(p.cfg.Identity))
	}
	return list
}

// statusOf is the part of an object's status that differs, nil for nothing.
func (p *Provider) statusOf(o translate.Object, addresses []translate.Address, wrong map[translate.Ref]translate.Finding) any {
	if !p.state.Ours(o) {
		return nil
	}
	balancer := func(now []translate.Address) any {
		if addresses == nil || slices.Equal(now, addresses) {
			return nil
		}
		return map[string]any{"loadBalancer": map[string]any{"ingress": addresses}}
	}
	switch o := o.(type) {
	case *translate.Ingress:
		return balancer(o.Status.LoadBalancer.Ingress)
	case *translate.StreamIngress:
		return balancer(o.Status.LoadBalancer.Ingress)
	}
	c, ok := o.(interface{ Conditions() []translate.Condition })
	if !ok {
		return nil
	}
	want := translate.Condition{Type: "Programmed", Status: "True", Reason: "Programmed", Message: "it is served", ObservedGeneration: o.Common().Generation}
	if f, bad := wrong[translate.RefOf(o)]; bad && f.Effect != translate.Ignored {
		want.Status, want.Reason, want.Message = "False", "Invalid", f.Field+": "+f.Message
	} else if why := p.state.Displaced(translate.RefOf(o)); why != "" {
		want.Status, want.Reason, want.Message = "False", "Conflicted", why
	}
	wants := []translate.Condition{want}
	if _, consumer := o.(*translate.Consumer); consumer {
		refs := translate.Condition{Type: "CredentialSecretRefsValid", Status: "True", Reason: "Valid", Message: "every credential can be used", ObservedGeneration: want.ObservedGeneration}
		for _, f := range p.findings {
			if f.Object == translate.RefOf(o) && strings.HasPrefix(f.Field, "credentials") {
				refs.Status, refs.Reason, refs.Message = "False", "Invalid", f.Field+": "+f.Message
				break
			}
		}
		wants = append(wants, refs)
	}
	return conditions(c.Conditions(), wants)
}

// conditions is the list of an object's conditions with those that are wanted in it, nil
// if they are there just so.
func conditions(now, wants []translate.Condition) any {
	next, differs := slices.Clone(now), false
	for _, want := range wants {
		i := slices.IndexFunc(next, func(c translate.Condition) bool { return c.Type == want.Type })
		want.LastTransitionTime = time.Now().UTC().Format(time.RFC3339)
		if i >= 0 && next[i].Status == want.Status {
			want.LastTransitionTime = next[i].LastTransitionTime
		}
		switch {
		case i < 0:
			next, differs = append(next, want), true
		case next[i] != want:
			next[i], differs = want, true
		}
	}
	if !differs {
		return nil
	}
	return map[string]any{"conditions": next}
}

// addresses are where clients reach the gateway, nil if nobody says so.
func (p *Provider) addresses() []translate.Address {
	if len(p.cfg.PublishAddresses) > 0 {
		return p.cfg.PublishAddresses
	}
	ns, name, ok := strings.Cut(p.cfg.PublishService, "/")
	if !ok {
		return nil
	}
	s, _ := p.state.Object(translate.Ref{Kind: translate.KindService, Namespace: ns, Name: name}).(*translate.Service)
	if p.publish != nil {
		s = p.publish.service.Load()
	}
	if s == nil {
		return nil
	}
	list := s.Status.LoadBalancer.Ingress
	if len(list) == 0 && s.Spec.ClusterIP != "" && s.Spec.ClusterIP != "None" && s.Spec.Type != "LoadBalancer" {
		list = []translate.Address{{IP: s.Spec.ClusterIP}}
	}
	return list
}

// eventOf is the event that tells of a finding, or of what is displaced.
func eventOf(f translate.Finding, identity string) write {
	group, version := translate.GroupOf(f.Object.Kind)
	if group != "" {
		version = group + "/" + version
	}
	n := Notice{
		APIVersion: version, Kind: translate.Shown(f.Object.Kind), Namespace: f.Object.Namespace, Name: f.Object.Name, UID: f.UID, Field: f.Field,
		Reason: "KongConfigurationTranslationFailed", Message: f.Field + ": " + f.Message, Effect: string(f.Effect),
	}
	if f.Effect == translate.Displaced { // it is right by itself
		n.Reason, n.Message = "KongConfigurationApplyFailed", f.Message
	}
	return n.event(identity)
}
