package kube

import (
	"encoding/json"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"sync"
	"time"

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
	labelled bool   // the operator's selector of labels is for it
	name     string // of the one object, "" for all
	custom   bool   // the server may not know it
	guards   bool   // it may guard what does not name it: nothing is served before it was read
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
		API: p.api, Path: r.path(namespace), Kind: r.kind, Plural: r.plural, Namespace: namespace, Selector: p.cfg.Selectors.of(r), Name: r.name, Custom: r.custom,
		Keeper: keeper{s}, Log: p.cfg.Log,
	}
	s.Failed = func() {
		if r.name != "" {
			s.inbox.put(nil, s) // nobody waits for what may not be read
		} else if !r.guards && s.inbox.giveUp(s) {
			s.Log.Error("objects of the cluster may not be read: what they give is absent, all else is served", slog.String("kind", s.Kind), slog.String("namespace", s.Namespace), slog.Any("error", s.Failure()))
		}
	}
	return s
}

// keeper is what a source's objects go through.
type keeper struct{ *source }

// Read makes an item of JSON. Definitions of kinds may let anything into a status, which is
// not what an object asks for: one that cannot be read is none.
func (k keeper) Read(data []byte) (*cluster.Item, error) {
	o := translate.New(k.resource.kind)
	if o != nil && json.Unmarshal(data, o) != nil {
		o = k.withoutStatus(data)
	}
	if o == nil {
		return nil, fmt.Errorf("%w: %s", cluster.ErrShape, k.resource.kind)
	}
	m := o.Common()
	return cluster.NewItem(o, m.Namespace, m.Name, m.ResourceVersion), nil
}

// withoutStatus reads an object but for its status, nil where that cannot be either.
func (k keeper) withoutStatus(data []byte) translate.Object {
	var fields map[string]json.RawMessage
	if json.Unmarshal(data, &fields) != nil {
		return nil
	}
	delete(fields, "status")
	rest, err := json.Marshal(fields)
	o := translate.New(k.resource.kind)
	if err != nil || json.Unmarshal(rest, o) != nil {
		return nil
	}
	return o
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
	came    map[*source]struct{}               // whose whole list is in changed
	listed  map[*source]struct{}               // whose whole list was taken
	missing map[*source]struct{}               // that may not be read, and never were
	first   time.Time                          // when the first list came
}

func newInbox() *inbox {
	return &inbox{ready: make(chan struct{}, 1), changed: map[translate.Ref]translate.Object{}, came: map[*source]struct{}{}, listed: map[*source]struct{}{}, missing: map[*source]struct{}{}}
}

// put adds changes, and says whose whole list they are, nil for nobody's.
func (b *inbox) put(changed map[translate.Ref]translate.Object, listed *source) {
	b.mu.Lock()
	maps.Copy(b.changed, changed)
	if listed != nil {
		b.came[listed] = struct{}{}
		if b.first.IsZero() {
			b.first = time.Now()
		}
	}
	b.mu.Unlock()
	hint(b.ready)
}

// rulesKnown is how long after the first list a refusal is believed. An API server that
// starts refuses everything until it knows its rules, and then not all at once.
const rulesKnown = 5 * time.Second

// giveUp has nobody wait any longer for a source that the account may not read, and
// says whether that is new. What was read once stays as it is.
func (b *inbox) giveUp(s *source) bool {
	if !cluster.Denied(s.Failure()) {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	_, came := b.came[s]
	_, listed := b.listed[s]
	_, already := b.missing[s]
	if came || listed || already || b.first.IsZero() || time.Since(b.first) < rulesKnown {
		return false
	}
	b.missing[s] = struct{}{}
	hint(b.ready)
	return true
}

// unread are the kinds, by namespace, that may not be read and never were.
func (b *inbox) unread() map[translate.Kinds]bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make(map[translate.Kinds]bool, len(b.missing))
	for s := range b.missing {
		all[translate.Kinds{Kind: s.Kind, Namespace: s.Namespace}] = true
	}
	return all
}

// take empties the inbox. Lists count from then on: what was made of their objects before
// is not of all that there is.
func (b *inbox) take() (changed map[translate.Ref]translate.Object) {
	b.mu.Lock()
	defer b.mu.Unlock()
	changed = b.changed
	b.changed = map[translate.Ref]translate.Object{}
	for s := range b.came {
		b.listed[s] = struct{}{}
		delete(b.missing, s)
	}
	clear(b.came)
	return changed
}

// have says whether the whole list of each of these was taken, or may not be had.
func (b *inbox) have(sources iter.Seq[*source]) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range sources {
		_, listed := b.listed[s]
		if _, missing := b.missing[s]; !listed && !missing {
			return false
		}
	}
	return true
}

// forget lets go of a source.
func (b *inbox) forget(s *source) {
	b.mu.Lock()
	delete(b.came, s)
	delete(b.listed, s)
	delete(b.missing, s)
	b.mu.Unlock()
}

func hint(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
