package certmanager

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/keyway-edge/keyway/secrets/kube"
	"github.com/keyway-edge/keyway/secrets/kube/cluster"
)

// Config is the settings of a Watcher.
type Config struct {
	Connection kube.Config
	Namespaces []string // that are watched, none for all
	Log        *slog.Logger
}

// Watcher knows the Certificates of a cluster. Make one with New.
type Watcher struct {
	api     *cluster.API
	sources []*cluster.Source
	changed chan struct{} // capacity 1

	mu     sync.Mutex // guards the group below
	all    map[key]*Certificate
	owners map[key]map[key]*Certificate // by the Secret that they write
}

// key names an object.
type key struct{ namespace, name string }

// New makes a Watcher. It reads files and asks the API server nothing.
func New(cfg Config) (*Watcher, error) {
	base, client, _, err := cfg.Connection.Connect()
	if err != nil {
		return nil, fmt.Errorf("connecting to Kubernetes: %w", err)
	}
	w := &Watcher{
		api: &cluster.API{Base: base, Client: client}, changed: make(chan struct{}, 1),
		all: map[key]*Certificate{}, owners: map[key]map[key]*Certificate{},
	}
	namespaces := cfg.Namespaces
	if len(namespaces) == 0 {
		namespaces = []string{""}
	}
	for _, ns := range namespaces {
		w.sources = append(w.sources, &cluster.Source{
			API: w.api, Path: path(ns), Kind: "Certificate", Plural: "certificates", Namespace: ns, Custom: true, Keeper: keeper{w, ns}, Log: cfg.Log,
		})
	}
	return w, nil
}

// path is where the Certificates of a namespace are, "" for all.
func path(namespace string) string {
	const version = "apis/" + group + "/v1/"
	if namespace == "" {
		return version + "certificates"
	}
	return version + "namespaces/" + namespace + "/certificates"
}

// Run watches until ctx ends.
func (w *Watcher) Run(ctx context.Context) error {
	defer w.api.Client.CloseIdleConnections()
	var all sync.WaitGroup
	defer all.Wait()
	for _, s := range w.sources {
		all.Go(func() { _ = s.Run(ctx) })
	}
	return nil
}

// Changed hints that Owner may answer something new.
func (w *Watcher) Changed() <-chan struct{} { return w.changed }

// Remarks says what cannot be read now.
func (w *Watcher) Remarks() []string {
	var list []string
	for _, s := range w.sources {
		if text := s.Remark(); text != "" {
			list = append(list, text)
		}
	}
	return list
}

// Facts are how the Certificates are followed.
func (w *Watcher) Facts() []cluster.Facts {
	var list []cluster.Facts
	for _, s := range w.sources {
		list = append(list, s.Facts())
	}
	return list
}

// Owner answers the Certificate that writes a Secret. Of several, which cert-manager
// has fight each other, it is the oldest, and says so.
func (w *Watcher) Owner(namespace, secret string) (*Certificate, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	of := w.owners[key{namespace, secret}]
	if len(of) == 0 {
		return nil, false
	}
	list := make([]*Certificate, 0, len(of))
	for _, c := range of {
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b *Certificate) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Name, b.Name))
	})
	if len(list) == 1 {
		return list[0], true
	}
	first := *list[0]
	for _, c := range list[1:] {
		first.Rivals = append(first.Rivals, c.Name)
	}
	return &first, true
}

// keeper keeps the Certificates of one namespace, "" for all.
type keeper struct {
	*Watcher
	namespace string
}

// Read makes an item of JSON.
func (k keeper) Read(data []byte) (*cluster.Item, error) {
	var o object
	if json.Unmarshal(data, &o) != nil {
		return nil, fmt.Errorf("%w: Certificate", cluster.ErrShape)
	}
	return cluster.NewItem(o.certificate(), o.Metadata.Namespace, o.Metadata.Name, o.Metadata.ResourceVersion), nil
}

// Put takes a Certificate.
func (k keeper) Put(v any) { k.change([]any{v}, nil) }

// Drop takes a Certificate away.
func (k keeper) Drop(v any) { k.change(nil, []any{v}) }

// Replace takes all Certificates of the namespace.
func (k keeper) Replace(list []any) {
	now := make(map[key]bool, len(list))
	for _, v := range list {
		if c, ok := v.(*Certificate); ok {
			now[key{c.Namespace, c.Name}] = true
		}
	}
	var gone []any
	k.mu.Lock()
	for at, c := range k.all {
		if (k.namespace == "" || k.namespace == at.namespace) && !now[at] {
			gone = append(gone, c)
		}
	}
	k.mu.Unlock()
	k.change(list, gone)
}

func (k keeper) change(put, drop []any) {
	k.mu.Lock()
	for _, v := range drop {
		if c, ok := v.(*Certificate); ok {
			k.take(key{c.Namespace, c.Name}, nil)
		}
	}
	for _, v := range put {
		if c, ok := v.(*Certificate); ok {
			k.take(key{c.Namespace, c.Name}, c)
		}
	}
	k.mu.Unlock()
	select {
	case k.changed <- struct{}{}:
	default:
	}
}

// take notes what a Certificate is now, nil for gone. mu is held.
func (w *Watcher) take(at key, c *Certificate) {
	if old := w.all[at]; old != nil {
		secret := key{at.namespace, old.Secret}
		if delete(w.owners[secret], at); len(w.owners[secret]) == 0 {
			delete(w.owners, secret)
		}
		delete(w.all, at)
	}
	if c == nil {
		return
	}
	w.all[at] = c
	secret := key{at.namespace, c.Secret}
	if w.owners[secret] == nil {
		w.owners[secret] = map[key]*Certificate{}
	}
	w.owners[secret][at] = c
}
