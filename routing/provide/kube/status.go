package kube

import (
	"context"
	"errors"
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

	refusedPause = time.Minute // until what was refused is tried again
)

// write is one thing to be written to the API server.
type write struct {
	method, path string
	body         map[string]any
	object       string
	tells        Notice // what an Event tells, zero for a status
}

// plans answers what is to be written now; it is asked of the loop, which owns the state.
type plans chan planned

// planned is one question for what is to be written: who asks knows how the ports stand,
// and waits for the answer.
type planned struct {
	ports   translate.Ports
	left    spec.Problems // what is left out for other documents
	told    map[Notice]bool
	refused map[string]time.Time
	answer  chan *plan
}

// plan is what is to be written: not what was told, nor what was refused a while ago, or
// those could leave no place for all else.
type plan struct {
	writes  []write
	notices map[Notice]bool // all that there is to tell
	refused bool            // there is such
}

// full says that the rest is for the next look.
func (p *plan) full() bool { return len(p.writes) >= mostWrites }

// add takes what is to be written, if it is.
func (p *plan) add(q *planned, w write) {
	if q.holds(&w) {
		p.refused = true
	} else if !p.full() {
		p.writes = append(p.writes, w)
	}
}

// tell takes what is to be told of an object.
func (p *plan) tell(q *planned, n Notice, identity string) {
	if p.notices[n] = true; !q.told[n] && !p.full() {
		p.add(q, n.event(identity))
	}
}

// holds says whether a write was refused a while ago.
func (q *planned) holds(w *write) bool {
	_, path := q.refused[w.path]
	_, one := q.refused[w.one()]
	return path || one
}

// one is what is refused with one write alone: others are made of the same path where it
// is that of Events.
func (w *write) one() string {
	m, _ := w.body["metadata"].(map[string]any)
	name, _ := m["name"].(string)
	return w.path + " " + name
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
	w := &writer{p: p, told: map[Notice]bool{}, refused: map[string]time.Time{}}
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
	p       *Provider
	told    map[Notice]bool
	refused map[string]time.Time // what may not be written, or not so, until it is tried again
	failing bool                 // at the last look
}

// look writes what differs now, until next at the most, when the lease comes first. What
// is refused keeps nothing else from it; after any other failure the next look tries again.
func (w *writer) look(ctx context.Context, next time.Time) {
	maps.DeleteFunc(w.refused, func(_ string, until time.Time) bool { return time.Now().After(until) })
	plan := w.differing(ctx)
	if plan == nil {
		return
	}
	failed := plan.refused
	for i := range plan.writes {
		x := &plan.writes[i]
		if _, not := w.refused[x.path]; not { // since this look began
			failed = true
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
		switch {
		case apierrors.IsForbidden(err):
			w.refused[x.path] = time.Now().Add(refusedPause)
		case unfit(err):
			w.refused[x.one()] = time.Now().Add(refusedPause)
		case err != nil:
			w.failing = true
			return
		case x.tells != Notice{}:
			w.told[x.tells] = true
		}
		failed = failed || err != nil
		if !sleep(ctx, writePause) || !time.Now().Before(next) {
			break
		}
	}
	w.failing = failed
	maps.DeleteFunc(w.told, func(n Notice, _ bool) bool { return !plan.notices[n] }) // it is over; another time it is told again
}

// unfit says that the server is there and does not take what was to be written: it would
// not the next time. An account that it does not know may not write anything.
func unfit(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return false
	}
	switch code := status.Status().Code; code {
	case http.StatusUnauthorized, http.StatusRequestTimeout, http.StatusTooManyRequests:
		return false
	default:
		return code >= http.StatusBadRequest && code < http.StatusInternalServerError
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

// differing asks the loop what is to be written, nil while that is not known.
func (w *writer) differing(ctx context.Context) *plan {
	q, cfg := planned{told: w.told, refused: w.refused, answer: make(chan *plan, 1)}, &w.p.cfg
	if cfg.Ports != nil {
		q.ports = cfg.Ports()
	}
	if cfg.LeftOut != nil {
		var known bool
		if q.left, known = cfg.LeftOut(); !known {
			return nil
		}
	}
	select {
	case w.p.plans <- q:
		return <-q.answer
	case <-ctx.Done():
		return nil
	}
}

// plan lists what differs from what objects should say of themselves, nil before there is
// a document. Of the loop.
func (p *Provider) plan(q *planned) *plan {
	if p.document == nil {
		return nil
	}
	out := &plan{notices: map[Notice]bool{}}
	wrong := map[translate.Ref]translate.Finding{}
	for _, f := range p.findings {
		if _, known := wrong[f.Object]; !known || f.Effect != translate.Ignored {
			wrong[f.Object] = f
		}
	}
	p.state.Displace(q.left)
	p.planStatus(q, out, wrong)
	for _, f := range slices.Concat(p.findings, p.state.Displacements()) {
		out.tell(q, noticeOf(f), p.cfg.Identity)
	}
	for _, n := range p.noticed() {
		out.tell(q, n, p.cfg.Identity)
	}
	return out
}

// planStatus lists the statuses that differ.
func (p *Provider) planStatus(q *planned, out *plan, wrong map[translate.Ref]translate.Finding) {
	addresses := p.addresses()
	for _, r := range resources() {
		for o := range p.state.Objects(r.kind) {
			if out.full() {
				return
			}
			m := o.Common()
			w := write{method: http.MethodPatch, path: r.path(m.Namespace) + "/" + m.Name + "/status", object: translate.RefOf(o).String()}
			body := p.state.Status(o, addresses, q.ports, time.Now())
			if body == nil {
				body = p.statusOf(o, addresses, wrong)
			}
			if body != nil { // others write into the same lists: what they wrote meanwhile is not to be lost
				w.body = map[string]any{"metadata": map[string]any{"resourceVersion": m.ResourceVersion}, "status": body}
				out.add(q, w)
			}
		}
	}
}

// statusOf is the part of an object's status that differs, nil for nothing.
func (p *Provider) statusOf(o translate.Object, addresses []translate.Address, wrong map[translate.Ref]translate.Finding) map[string]any {
	if !p.state.Ours(o) {
		return nil
	}
	balancer := func(now []translate.Address) map[string]any {
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
func conditions(now, wants []translate.Condition) map[string]any {
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

// noticeOf is what an Event tells of a finding, or of what is displaced.
func noticeOf(f translate.Finding) Notice {
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
	return n
}
