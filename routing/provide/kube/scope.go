package kube

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/keyway-edge/keyway/routing/provide/kube/translate"
	"github.com/keyway-edge/keyway/secrets/kube/cluster"
)

// Selectors say by labels, in the syntax of Kubernetes, which objects are taken. The API
// server applies them, so that what they leave out never comes here. An empty one is for all.
type Selectors struct {
	// Labels is of objects that are served for their own sake: what brings requests and
	// connections in, and consumers. What these refer to comes along, whatever its labels; so
	// does what guards others without being named.
	Labels string
	// Namespaces is of namespaces, in place of a list of them.
	Namespaces string
	// Secrets and ConfigMaps are of those that are read: others count as absent, whoever
	// names them.
	Secrets, ConfigMaps string
}

// of is the selector for a kind of objects.
func (s *Selectors) of(r *resource) string {
	switch {
	case r.labelled:
		return both(r.selector, s.Labels)
	case r.plural == "secrets":
		return both(r.selector, s.Secrets)
	case r.plural == "configmaps":
		return both(r.selector, s.ConfigMaps)
	}
	return r.selector
}

// Labelled says whether the selector of labels is for objects of a kind.
func Labelled(kind string) bool {
	return slices.ContainsFunc(resources(), func(r *resource) bool { return r.kind == kind && r.labelled })
}

// both is a selector for what two of them select.
func both(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "," + b
}

// leaseName is the Lease of the replicas that take the same objects. Others of the class,
// which take other ones, write the status of those.
func (p *Provider) leaseName() string {
	name := "keyway-" + p.cfg.Class
	taken := []string{strings.Join(slices.Sorted(slices.Values(p.cfg.Namespaces)), ","), p.cfg.Selectors.Labels, p.cfg.Selectors.Namespaces}
	if all := strings.Join(taken, "\n"); all != "\n\n" {
		sum := sha256.Sum256([]byte(all))
		name += "-" + hex.EncodeToString(sum[:4])
	}
	return name
}

// place is a namespace whose labels the selector matches.
type place struct {
	sources []*source
	stop    func() // and wait
	whole   bool   // it was listed, as far as it may be, and is in the state
	held    map[translate.Ref]translate.Object
}

// move begins with the namespaces that the selector came to match, and takes away what is
// of those that it does not match any longer.
func (p *Provider) move(ctx context.Context) {
	now := map[string]bool{}
	for o := range p.state.Objects(translate.KindNamespace) {
		now[o.Common().Name] = true
	}
	var ended, all []*source
	for ns, at := range p.places {
		if !now[ns] {
			p.leave(ns, at)
			ended = append(ended, at.sources...)
		}
	}
	for ns := range now {
		if p.places[ns] == nil {
			p.places[ns] = p.enter(ctx, ns)
		}
	}
	for _, at := range p.places {
		all = append(all, at.sources...)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.placed = all
	for _, s := range ended {
		f, past := s.Facts(), p.past[s.Kind]
		past.Lists, past.Watches = past.Lists.Plus(f.Lists), past.Watches.Plus(f.Watches)
		p.past[s.Kind] = past
	}
}

// enter watches a namespace.
func (p *Provider) enter(ctx context.Context, namespace string) *place {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	at := &place{held: map[translate.Ref]translate.Object{}, stop: func() {
		cancel()
		running.Wait()
	}}
	for _, r := range resources() {
		if r.global {
			continue
		}
		s := p.source(r, namespace)
		at.sources = append(at.sources, s)
		running.Go(func() { _ = s.Run(ctx) })
	}
	return at
}

// leave takes away what is of a namespace, as if it were deleted.
func (p *Provider) leave(namespace string, at *place) {
	at.stop()
	delete(p.places, namespace)
	for _, s := range at.sources {
		for _, r := range p.inbox.drop(s) {
			p.state.Delete(r)
		}
		for r := range s.known {
			p.state.Delete(r)
		}
	}
}

// admit takes namespaces into the state of which everything was listed. One that came in
// part could be served without what guards it.
func (p *Provider) admit() {
	for _, at := range p.places {
		if at.whole || !p.inbox.have(slices.Values(at.sources)) {
			continue
		}
		for r, o := range at.held {
			p.apply(r, o)
		}
		at.whole, at.held = true, nil
	}
}

// drop lets go of a source that has ended, and answers of what it told that was not taken.
func (b *inbox) drop(s *source) (untaken []translate.Ref) {
	b.mu.Lock()
	for r := range b.changed {
		if r.Kind == s.Kind && r.Namespace == s.Namespace {
			delete(b.changed, r)
			untaken = append(untaken, r)
		}
	}
	b.mu.Unlock()
	b.forget(s)
	return untaken
}

// all are the sources that run in any case, and those of namespaces.
func (p *Provider) all() []*cluster.Source {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running()
}

// running is all with mu held.
func (p *Provider) running() []*cluster.Source {
	list := make([]*cluster.Source, 0, len(p.sources)+len(p.placed)+1)
	for _, s := range p.sources {
		list = append(list, s.Source)
	}
	for _, s := range p.placed {
		list = append(list, s.Source)
	}
	if p.publish != nil {
		list = append(list, p.publish.Source)
	}
	return list
}

// published is the Service whose addresses the status says, where its namespace may be one
// whose objects are not served.
type published struct {
	*cluster.Source
	service atomic.Pointer[translate.Service]
}

// publishing makes the source of that Service, nil where none is needed.
func (p *Provider) publishing() *published {
	namespace, name, ok := strings.Cut(p.cfg.PublishService, "/")
	if !ok || p.cfg.Selectors.Namespaces == "" || len(p.cfg.PublishAddresses) > 0 {
		return nil
	}
	x := &published{}
	x.Source = &cluster.Source{
		API: p.api, Path: "api/v1/namespaces/" + namespace + "/services", Kind: translate.KindService, Plural: "services", Namespace: namespace, Name: name,
		Keeper: x, Log: p.cfg.Log,
	}
	return x
}

// Read makes an item of JSON.
func (x *published) Read(data []byte) (*cluster.Item, error) {
	o := &translate.Service{}
	if json.Unmarshal(data, o) != nil {
		return nil, fmt.Errorf("%w: %s", cluster.ErrShape, translate.KindService)
	}
	return cluster.NewItem(o, o.Namespace, o.Name, o.ResourceVersion), nil
}

// Put takes the Service.
func (x *published) Put(v any) {
	if o, ok := v.(*translate.Service); ok {
		x.service.Store(o)
	}
}

// Drop takes it away.
func (x *published) Drop(any) { x.service.Store(nil) }

// Replace takes it from a list, which is empty where there is none.
func (x *published) Replace(list []any) {
	x.service.Store(nil)
	for _, v := range list {
		x.Put(v)
	}
}
