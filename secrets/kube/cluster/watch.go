package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// Item is an object as reflectors see it. It is not changed, so that a copy is itself.
type Item struct {
	metav1.TypeMeta
	metav1.ObjectMeta
	Object any // as its keeper read it
}

// NewItem makes one of an object with this name in this version.
func NewItem(object any, namespace, name, version string) *Item {
	i := &Item{Object: object}
	i.Name, i.Namespace, i.ResourceVersion = name, namespace, version
	return i
}

// DeepCopyObject answers the item.
func (i *Item) DeepCopyObject() runtime.Object { return i }

// items is a list of them.
type items struct {
	metav1.TypeMeta
	metav1.ListMeta
	Items []*Item
}

// DeepCopyObject answers the list.
func (l *items) DeepCopyObject() runtime.Object { return l }

// Keeper reads and keeps the objects of one source. A reflector calls it, one call at a
// time.
type Keeper interface {
	Read(data []byte) (*Item, error) // makes an item of JSON
	Put(o any)                       // it is new, or differs
	Drop(o any)                      // it is gone
	Replace(all []any)               // there are these and no others
}

// Source lists and watches objects of one kind, of one namespace or of all.
type Source struct {
	API       *API
	Path      string // of the objects: "api/v1/namespaces/shop/services"
	Kind      string // "Service"
	Plural    string // "services"
	Namespace string // "" for all, or where there are none
	Selector  string // of labels, "" for all objects
	Name      string // of the one object, "" for all
	Custom    bool   // the server may not know the kind
	Keeper    Keeper
	Failed    func() // is called when objects cannot be read, nil for none
	Log       *slog.Logger

	denied int       // times in a row that the account was refused; of the reflector
	listed time.Time // when a whole list was read last; likewise

	refused atomic.Bool // the server answered a watch with an error since the last list

	mu       sync.Mutex // guards what follows
	failed   error      // since it worked last
	watching bool       // that is why watches fail; lists may do
	facts    Facts
}

// tries is how tries of one source are spaced, beside the waits that it has in common
// with others.
func tries() wait.Backoff {
	return wait.Backoff{Duration: 50 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 8, Cap: time.Second}
}

// lists is how lists of one source are spaced where the server answers, and what was read
// cannot be followed or not be used: each is of all objects.
func lists() wait.Backoff {
	return wait.Backoff{Duration: 200 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 10, Cap: 30 * time.Second}
}

// page is how many objects one answer to a list has.
const page = 500

// Run keeps the keeper up to date until ctx ends.
func (s *Source) Run(ctx context.Context) error {
	quiet := logr.Discard() // what fails is told by outcome, once
	within := tries()
	r := cache.NewReflectorWithOptions(s, &Item{}, s, cache.ReflectorOptions{Logger: &quiet, Name: s.Plural, TypeDescription: s.Kind, Backoff: &within})
	r.WatchListPageSize = page
	ctx = logr.NewContext(ctx, quiet)
	try, list := tries(), lists()
	for ctx.Err() == nil {
		began := time.Now()
		_ = r.ListAndWatchWithContext(ctx) // a reflector's own loop has a lock and a clock that all of a process share
		next := &try
		switch came := !s.listed.Before(began); {
		case came && time.Since(s.listed) >= healthy:
			try, list = tries(), lists()
		case came && s.refused.Load(), errors.Is(s.Failure(), ErrShape):
			next = &list // a connection that broke off is no such thing: what was missed is to be known soon
		}
		if sleep(ctx, next.Step()) != nil {
			break
		}
	}
	return nil
}

// healthy is how long a watch goes on that has not failed. How long the list before it took
// says nothing of that.
const healthy = 10 * time.Second

func (s *Source) query(o *metav1.ListOptions) url.Values {
	q := url.Values{}
	for name, v := range map[string]string{"resourceVersion": o.ResourceVersion, "resourceVersionMatch": string(o.ResourceVersionMatch), "continue": o.Continue, "labelSelector": s.Selector} {
		if v != "" {
			q.Set(name, v)
		}
	}
	if s.Name != "" {
		q.Set("fieldSelector", "metadata.name="+s.Name)
	}
	if o.Limit > 0 {
		q.Set("limit", strconv.FormatInt(o.Limit, 10))
	}
	return q
}

// List is what reflectors called before there were contexts.
func (s *Source) List(metav1.ListOptions) (runtime.Object, error) { return nil, errNoContext }

// Watch is likewise.
func (s *Source) Watch(metav1.ListOptions) (watch.Interface, error) { return nil, errNoContext }

var errNoContext = errors.New("expected a call with a context")

// IsWatchListSemanticsUnSupported has reflectors list, then watch.
func (s *Source) IsWatchListSemanticsUnSupported() bool { return true }

const patient = time.Minute

// ListWithContext lists. A kind that the server does not know has no objects.
func (s *Source) ListWithContext(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	if o.ResourceVersion == unknownKind {
		o.ResourceVersion = "" // reflectors list from where they were
	}
	if o.Limit > 0 && o.ResourceVersion != "" && o.ResourceVersion != "0" && o.Continue == "" {
		o.ResourceVersionMatch = metav1.ResourceVersionMatchNotOlderThan // or a page would be of just that version
	}
	nothing := &items{ListMeta: metav1.ListMeta{ResourceVersion: unknownKind}}
	if s.Custom && s.Namespace != "" && s.API.lacks(s.definition()) {
		return nothing, nil
	}
	leave, err := s.patience(ctx, false)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, patient)
	defer cancel()
	list, err := s.list(ctx, &o)
	if s.Custom && (Absent(err) || Denied(err) && s.undefined(ctx)) {
		list, err = nothing, nil
		s.denied = 0
		s.API.lack(s.definition(), true)
	} else if s.Custom && err == nil {
		s.API.lack(s.definition(), false)
	}
	leave(err)
	if ctx.Err() == nil || err == nil {
		s.outcome(err, false)
	}
	s.note(func(f *Facts) { f.Lists.count(err) })
	if err != nil {
		return nil, err
	}
	return list, nil
}

func (s *Source) list(ctx context.Context, o *metav1.ListOptions) (*items, error) {
	answer, err := s.API.open(ctx, http.MethodGet, s.Path, s.query(o), "", nil)
	if err != nil {
		return nil, err
	}
	defer answer.Close()
	var read struct {
		Metadata metav1.ListMeta   `json:"metadata"`
		Items    []json.RawMessage `json:"items"`
	}
	if err := json.NewDecoder(io.LimitReader(answer, most)).Decode(&read); err != nil {
		return nil, fmt.Errorf("reading the list of %s: %w", s.Plural, err)
	}
	list := &items{ListMeta: read.Metadata, Items: make([]*Item, 0, len(read.Items))}
	for _, data := range read.Items {
		i, err := s.Keeper.Read(data)
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

// lookAgain is when to look for a kind again: not at once for all namespaces, so that
// one answer does for many.
func (s *Source) lookAgain() time.Duration {
	if s.Namespace == "" {
		return lookAgain
	}
	return lookAgain + rand.N(lookAgain/2) //nolint:gosec // jitter is no secret
}

// definition names the kind, whatever the namespace.
func (s *Source) definition() string {
	version, _, _ := strings.Cut(s.Path, "/namespaces/")
	return strings.TrimSuffix(version, "/"+s.Plural) + "/" + s.Plural
}

// WatchWithContext watches on from a list.
func (s *Source) WatchWithContext(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	if o.ResourceVersion == unknownKind {
		s.outcome(nil, true) // that there are none is no trouble, nor that a watch ended for it
		return watch.NewStreamWatcher(&pause{ctx: ctx, end: time.After(s.lookAgain()), done: make(chan struct{})}, reporter{}), nil
	}
	q := s.query(&o)
	q.Set("watch", "true")
	q.Set("allowWatchBookmarks", "true")
	if o.TimeoutSeconds != nil {
		q.Set("timeoutSeconds", strconv.FormatInt(*o.TimeoutSeconds, 10))
	}
	leave, err := s.patience(ctx, true)
	if err != nil {
		return nil, err
	}
	answer, err := s.API.open(ctx, http.MethodGet, s.Path, q, "", nil)
	leave(err)
	if ctx.Err() == nil {
		s.outcome(err, true)
	}
	s.note(func(f *Facts) { f.Watches.count(err) })
	if err != nil {
		s.refused.Store(!away(err))
		return nil, err
	}
	s.heard(0)
	return watch.NewStreamWatcher(newStream(ctx, s, answer), reporter{}), nil
}

// stream decodes the events of a watch.
type stream struct {
	ctx    context.Context //nolint:containedctx // of the watch, which it is
	source *Source
	body   io.ReadCloser
	lines  *json.Decoder
	closed atomic.Bool // by who reads
}

func newStream(ctx context.Context, s *Source, body io.ReadCloser) *stream {
	return &stream{ctx: ctx, source: s, body: body, lines: json.NewDecoder(body)}
}

// Decode reads one event.
func (d *stream) Decode() (watch.EventType, runtime.Object, error) {
	var e struct {
		Type   string          `json:"type"`
		Object json.RawMessage `json:"object"`
	}
	if err := d.lines.Decode(&e); err != nil {
		if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
			return "", nil, fmt.Errorf("reading a watch of %s: %w", d.source.Plural, err) // which the reflector lists anew for
		}
		if !errors.Is(err, io.EOF) && d.ctx.Err() == nil && !d.closed.Load() {
			d.source.API.gate.doubt()
		}
		return "", nil, io.EOF // ended or cut off: the reflector watches on from where it was
	}
	d.source.heard(0)
	if watch.EventType(e.Type) == watch.Error {
		d.source.refused.Store(true)
		status := &metav1.Status{}
		if err := json.Unmarshal(e.Object, status); err != nil {
			return "", nil, ErrShape
		}
		return watch.Error, status, nil
	}
	i, err := d.source.Keeper.Read(e.Object)
	if err != nil {
		return "", nil, err
	}
	return watch.EventType(e.Type), i, nil
}

// Close ends the watch.
func (d *stream) Close() {
	d.closed.Store(true)
	_ = d.body.Close()
}

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
func (s *Source) Add(v any) error {
	s.heard(1)
	return s.Update(v)
}

// Update takes an object.
func (s *Source) Update(v any) error {
	i, ok := v.(*Item)
	if !ok {
		return ErrShape
	}
	s.Keeper.Put(i.Object)
	return nil
}

// Delete takes an object away.
func (s *Source) Delete(v any) error {
	i, ok := v.(*Item)
	if !ok {
		return ErrShape
	}
	s.heard(-1)
	s.Keeper.Drop(i.Object)
	return nil
}

// Replace takes a whole list.
func (s *Source) Replace(list []any, _ string) error {
	all := make([]any, 0, len(list))
	for _, v := range list {
		i, ok := v.(*Item)
		if !ok {
			return ErrShape
		}
		all = append(all, i.Object)
	}
	s.note(func(f *Facts) { f.Synced, f.Objects = time.Now(), len(all) })
	s.Keeper.Replace(all)
	s.listed = time.Now()
	s.refused.Store(false)
	return nil
}

// Resync does nothing: nothing is lost between.
func (s *Source) Resync() error { return nil }
