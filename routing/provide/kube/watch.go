package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/keyway-edge/keyway/routing/provide/kube/translate"
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

// item is an object as reflectors see it. It is not changed, so that a copy is itself.
type item struct {
	metav1.TypeMeta
	metav1.ObjectMeta
	object translate.Object
}

// DeepCopyObject answers the item.
func (i *item) DeepCopyObject() runtime.Object { return i }

// items is a list of them.
type items struct {
	metav1.TypeMeta
	metav1.ListMeta
	Items []*item
}

// DeepCopyObject answers the list.
func (l *items) DeepCopyObject() runtime.Object { return l }

// read makes an item of JSON.
func (r *resource) read(data []byte) (*item, error) {
	o := translate.New(r.kind)
	if o == nil || json.Unmarshal(data, o) != nil {
		return nil, fmt.Errorf("%w: %s", errShape, r.kind)
	}
	m := o.Common()
	i := &item{object: o}
	i.Name, i.Namespace, i.ResourceVersion = m.Name, m.Namespace, m.ResourceVersion
	return i, nil
}

// source lists and watches one resource in one namespace.
type source struct {
	*resource
	namespace string
	api       *api
	inbox     *inbox
	log       *slog.Logger

	mu     sync.Mutex // guards the group below
	known  map[translate.Ref]struct{}
	failed error // since it worked last
}

// tries is how a reflector waits between tries.
func tries() *wait.Backoff {
	return &wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 8, Cap: 5 * time.Second}
}

// run keeps the inbox up to date until ctx ends.
func (s *source) run(ctx context.Context) error {
	quiet := logr.Discard() // what fails is told by outcome, once
	r := cache.NewReflectorWithOptions(s, &item{}, s, cache.ReflectorOptions{Logger: &quiet, Name: s.plural, TypeDescription: s.kind, Backoff: tries()})
	r.RunWithContext(logr.NewContext(ctx, quiet))
	return nil
}

// outcome notes and tells how a call went: the first failure, and the end of failures.
func (s *source) outcome(err error) {
	s.mu.Lock()
	before := s.failed
	s.failed = err
	s.mu.Unlock()
	if err != nil && s.name != "" {
		s.inbox.put(nil, s) // nobody waits for what may not be read
	}
	at := []any{slog.String("kind", s.kind), slog.String("namespace", s.namespace)}
	switch {
	case err != nil && before == nil:
		s.log.Error("objects of the cluster cannot be read; what was read last stays", append(at, slog.Any("error", err))...)
	case err == nil && before != nil:
		s.log.Info("objects of the cluster can be read again", at...)
	}
}

// failure is why nothing can be read, nil while it can.
func (s *source) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

func (s *source) query(o *metav1.ListOptions) url.Values {
	q := url.Values{}
	for name, v := range map[string]string{"resourceVersion": o.ResourceVersion, "resourceVersionMatch": string(o.ResourceVersionMatch), "continue": o.Continue, "labelSelector": s.selector} {
		if v != "" {
			q.Set(name, v)
		}
	}
	if s.name != "" {
		q.Set("fieldSelector", "metadata.name="+s.name)
	}
	if o.Limit > 0 {
		q.Set("limit", strconv.FormatInt(o.Limit, 10))
	}
	return q
}

// List is what reflectors called before there were contexts.
func (s *source) List(metav1.ListOptions) (runtime.Object, error) { return nil, errNoContext }

// Watch is likewise.
func (s *source) Watch(metav1.ListOptions) (watch.Interface, error) { return nil, errNoContext }

var errNoContext = errors.New("expected a call with a context")

// IsWatchListSemanticsUnSupported has reflectors list, then watch.
func (s *source) IsWatchListSemanticsUnSupported() bool { return true }

const patient = time.Minute

// ListWithContext lists. A kind that the server does not know has no objects.
func (s *source) ListWithContext(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	ctx, cancel := context.WithTimeout(ctx, patient)
	defer cancel()
	list, err := s.list(ctx, &o)
	if s.custom && absent(err) {
		list, err = &items{ListMeta: metav1.ListMeta{ResourceVersion: unknownKind}}, nil
	}
	if ctx.Err() == nil || err == nil {
		s.outcome(err)
	}
	if err != nil {
		return nil, err
	}
	return list, nil
}

func (s *source) list(ctx context.Context, o *metav1.ListOptions) (*items, error) {
	answer, err := s.api.open(ctx, http.MethodGet, s.path(s.namespace), s.query(o), "", nil)
	if err != nil {
		return nil, err
	}
	defer answer.Close()
	var read struct {
		Metadata metav1.ListMeta   `json:"metadata"`
		Items    []json.RawMessage `json:"items"`
	}
	if err := json.NewDecoder(io.LimitReader(answer, most)).Decode(&read); err != nil {
		return nil, fmt.Errorf("reading the list of %s: %w", s.plural, err)
	}
	list := &items{ListMeta: read.Metadata, Items: make([]*item, 0, len(read.Items))}
	for _, data := range read.Items {
		i, err := s.read(data)
		if err != nil {
			return nil, err
		}
		list.Items = append(list.Items, i)
	}
	return list, nil
}

const (
	// unknownKind is the version of an empty list in place of one that cannot be had.
	unknownKind = "no-such-kind"
	// lookAgain is how long a kind that the server does not know is taken as empty.
	lookAgain = 10 * time.Second
)

// WatchWithContext watches on from a list.
func (s *source) WatchWithContext(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	if o.ResourceVersion == unknownKind {
		return watch.NewStreamWatcher(&pause{ctx: ctx, end: time.After(lookAgain), done: make(chan struct{})}, reporter{}), nil
	}
	q := s.query(&o)
	q.Set("watch", "true")
	q.Set("allowWatchBookmarks", "true")
	if o.TimeoutSeconds != nil {
		q.Set("timeoutSeconds", strconv.FormatInt(*o.TimeoutSeconds, 10))
	}
	answer, err := s.api.open(ctx, http.MethodGet, s.path(s.namespace), q, "", nil)
	if ctx.Err() == nil {
		s.outcome(err)
	}
	if err != nil {
		return nil, err
	}
	return watch.NewStreamWatcher(&stream{resource: s.resource, body: answer, lines: json.NewDecoder(answer)}, reporter{}), nil
}

// stream decodes the events of a watch.
type stream struct {
	*resource
	body  io.ReadCloser
	lines *json.Decoder
}

// Decode reads one event.
func (d *stream) Decode() (watch.EventType, runtime.Object, error) {
	var e struct {
		Type   string          `json:"type"`
		Object json.RawMessage `json:"object"`
	}
	if err := d.lines.Decode(&e); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = io.EOF // cut off: the reflector watches on from where it was
		}
		return "", nil, err
	}
	if watch.EventType(e.Type) == watch.Error {
		status := &metav1.Status{}
		if err := json.Unmarshal(e.Object, status); err != nil {
			return "", nil, errShape
		}
		return watch.Error, status, nil
	}
	i, err := d.read(e.Object)
	if err != nil {
		return "", nil, err
	}
	return watch.EventType(e.Type), i, nil
}

// Close ends the watch.
func (d *stream) Close() { _ = d.body.Close() }

// pause is a watch of nothing, after which there is a new list.
type pause struct {
	ctx  context.Context //nolint:containedctx // of the watch, which it is
	end  <-chan time.Time
	done chan struct{}
	once sync.Once
}

// Decode waits, then says that the list is too old.
func (p *pause) Decode() (watch.EventType, runtime.Object, error) {
	select {
	case <-p.end:
		status := apierrors.NewResourceExpired("the kind was unknown a while ago").Status()
		return watch.Error, &status, nil
	case <-p.ctx.Done():
	case <-p.done:
	}
	return "", nil, io.EOF
}

// Close ends the wait.
func (p *pause) Close() { p.once.Do(func() { close(p.done) }) }

// reporter makes an event of an error of a decoder.
type reporter struct{}

// AsObject makes a status of an error.
func (reporter) AsObject(err error) runtime.Object {
	status := apierrors.NewInternalError(err).Status()
	return &status
}

// Add takes an object.
func (s *source) Add(v any) error { return s.Update(v) }

// Update takes an object.
func (s *source) Update(v any) error {
	i, ok := v.(*item)
	if !ok {
		return errShape
	}
	r := translate.RefOf(i.object)
	s.mu.Lock()
	s.known[r] = struct{}{}
	s.mu.Unlock()
	s.inbox.put(map[translate.Ref]translate.Object{r: i.object}, nil)
	return nil
}

// Delete takes an object away.
func (s *source) Delete(v any) error {
	i, ok := v.(*item)
	if !ok {
		return errShape
	}
	r := translate.RefOf(i.object)
	s.mu.Lock()
	delete(s.known, r)
	s.mu.Unlock()
	s.inbox.put(map[translate.Ref]translate.Object{r: nil}, nil)
	return nil
}

// Replace takes a whole list.
func (s *source) Replace(list []any, _ string) error {
	all := make(map[translate.Ref]translate.Object, len(list))
	for _, v := range list {
		i, ok := v.(*item)
		if !ok {
			return errShape
		}
		all[translate.RefOf(i.object)] = i.object
	}
	s.mu.Lock()
	known := s.known
	s.known = make(map[translate.Ref]struct{}, len(all))
	for r := range all {
		s.known[r] = struct{}{}
	}
	s.mu.Unlock()
	for r := range known {
		if _, still := all[r]; !still {
			all[r] = nil
		}
	}
	s.inbox.put(all, s)
	return nil
}

// Resync does nothing: nothing is lost between.
func (s *source) Resync() error { return nil }

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
