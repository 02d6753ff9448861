package kube

import (
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"sync"

	"github.com/keyway-edge/keyway/routing/provide/kube/translate"
	"github.com/keyway-edge/keyway/secrets/kube/cluster"
)

// resource is a kind of objects that is watched.
type resource struct {
	kind     string
	group    string // "apis/networking.k8s.io/v1", "api/v1"
	plural   string
	global   bool   // it has no namespaces
	selector string // of labels, "" for all objects
	name     string // of the one object, "" for all
	custom   bool   // the server may not know it
}

// path is where the objects of a namespace are, "" for all.
func (r *resource) path(namespace string) string {
	if namespace == "" || r.global {
		return r.group + "/" + r.plural
	}
	return r.group + "/namespaces/" + namespace + "/" + r.plural
}

// source lists and watches one resource in one namespace, into the inbox.
type source struct {
	*cluster.Source
	resource *resource
	inbox    *inbox
	known    map[translate.Ref]struct{} // of the reflector
}

func (p *Provider) source(r *resource, namespace string) *source {
	s := &source{resource: r, inbox: p.inbox, known: map[translate.Ref]struct{}{}}
	s.Source = &cluster.Source{
		API: p.api, Path: r.path(namespace), Kind: r.kind, Plural: r.plural, Namespace: namespace, Selector: r.selector, Name: r.name, Custom: r.custom,
		Keeper: keeper{s}, Log: p.cfg.Log,
	}
	if r.name != "" {
		s.Failed = func() { s.inbox.put(nil, s) } // nobody waits for what may not be read
	}
	return s
}

// keeper is what a source's objects go through.
type keeper struct{ *source }

// Read makes an item of JSON.
func (k keeper) Read(data []byte) (*cluster.Item, error) {
	o := translate.New(k.resource.kind)
	if o == nil || json.Unmarshal(data, o) != nil {
		return nil, fmt.Errorf("%w: %s", cluster.ErrShape, k.resource.kind)
	}
	m := o.Common()
	return cluster.NewItem(o, m.Namespace, m.Name, m.ResourceVersion), nil
}

// Put takes an object.
func (k keeper) Put(v any) {
	if o, ok := v.(translate.Object); ok {
		r := translate.RefOf(o)
		k.known[r] = struct{}{}
		k.inbox.put(map[translate.Ref]translate.Object{r: o}, nil)
	}
}

// Drop takes an object away.
func (k keeper) Drop(v any) {
	if o, ok := v.(translate.Object); ok {
		r := translate.RefOf(o)
		delete(k.known, r)
		k.inbox.put(map[translate.Ref]translate.Object{r: nil}, nil)
	}
}

// Replace takes a whole list.
func (k keeper) Replace(list []any) {
	all := make(map[translate.Ref]translate.Object, len(list))
	known := make(map[translate.Ref]struct{}, len(list))
	for _, v := range list {
		if o, ok := v.(translate.Object); ok {
			r := translate.RefOf(o)
			all[r], known[r] = o, struct{}{}
		}
	}
	for r := range k.known {
		if _, still := known[r]; !still {
			all[r] = nil
		}
	}
	k.source.known = known
	k.inbox.put(all, k.source)
}

// inbox holds the latest of each object that changed.
type inbox struct {
	ready chan struct{} // capacity 1

	mu      sync.Mutex                         // guards the group below
	changed map[translate.Ref]translate.Object // nil for gone
	listed  map[*source]struct{}               // whose whole list came
}

func newInbox() *inbox {
	return &inbox{ready: make(chan struct{}, 1), changed: map[translate.Ref]translate.Object{}, listed: map[*source]struct{}{}}
}

// put adds changes, and says whose whole list they are, nil for nobody's.
func (b *inbox) put(changed map[translate.Ref]translate.Object, listed *source) {
	b.mu.Lock()
	maps.Copy(b.changed, changed)
	if listed != nil {
		b.listed[listed] = struct{}{}
	}
	b.mu.Unlock()
	hint(b.ready)
}

// take empties the inbox.
func (b *inbox) take() (changed map[translate.Ref]translate.Object) {
	b.mu.Lock()
	defer b.mu.Unlock()
	changed = b.changed
	b.changed = map[translate.Ref]translate.Object{}
	return changed
}

// have says whether the whole list of each of these came.
func (b *inbox) have(sources iter.Seq[*source]) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range sources {
		if _, ok := b.listed[s]; !ok {
			return false
		}
	}
	return true
}

// forget lets go of a source.
func (b *inbox) forget(s *source) {
	b.mu.Lock()
	delete(b.listed, s)
	b.mu.Unlock()
}

func hint(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
