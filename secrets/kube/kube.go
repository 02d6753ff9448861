package kube

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/keyway-edge/keyway/secrets"
)

// Open is the secrets.Opener of this kind.
func Open(config map[string]any) (secrets.Source, error) {
	c, err := Parse(config)
	if err != nil {
		return nil, err
	}
	return New(c)
}

// Source reads Secrets, and hints at changes of those that it was asked for.
type Source struct {
	cfg     Config
	own     string // namespace of references without one
	api     *api
	changed chan struct{}
	added   chan struct{}
	turns   turns

	mu      sync.Mutex // guards the group below
	known   map[key]*followed
	watches map[key]*watch // by what they tell of
	touched map[key]bool   // what differs since Touched was asked last
	all     bool           // or anything may
}

// followed is a Secret that was asked for. Its source's mu guards it.
type followed struct {
	used    bool   // since the last sweep
	doomed  bool   // it was not, and is forgotten at the next one
	watch   *watch // tells of it
	changes int    // that a watch or a list told of
	told    string // the version that the last of them said, "" for gone
	fresh   bool   // held is what the server has, as far as was told
	held    secrets.Lease
}

// New makes a Source. It reads files but asks the API server nothing.
func New(c Config) (*Source, error) {
	rc, own, err := c.connection()
	if err != nil {
		return nil, err
	}
	a, err := connect(rc)
	if err != nil {
		return nil, err
	}
	a.selector = c.Selector
	return &Source{
		cfg: c, own: own, api: a, changed: make(chan struct{}, 1), added: make(chan struct{}, 1),
		turns: turns{one: make(chan struct{}, 1)}, known: make(map[key]*followed), watches: make(map[key]*watch), touched: make(map[key]bool),
	}, nil
}

// Changed hints that a Secret may have changed.
func (s *Source) Changed() <-chan struct{} { return s.changed }

// Touched answers which Secrets may have changed since it was asked last.
func (s *Source) Touched() func(resource string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	touched, all := s.touched, s.all
	s.touched, s.all = make(map[key]bool), false
	return func(resource string) bool {
		k, err := place(resource, s.own, s.cfg.Namespaces)
		return all || err != nil || touched[k]
	}
}

// hint tells of one Secret, or of all. mu is held.
func (s *Source) hint(of ...key) {
	s.all = s.all || len(of) == 0
	for _, k := range of {
		s.touched[k] = true
	}
	signal(s.changed)
}

// Close lets go of idle connections.
func (s *Source) Close() error {
	s.api.close()
	return nil
}

// Parallel is how many Secrets may be read at a time: thousands are when a node starts,
// and one by one they would take minutes.
func (s *Source) Parallel() int { return 50 }

// Fetch answers a Secret as a JSON object of its keys: what was read last, while its watch
// is up and told of no change since, else from the API server.
func (s *Source) Fetch(ctx context.Context, r secrets.Request) (secrets.Lease, error) {
	if err := ctx.Err(); err != nil {
		return secrets.Lease{}, err
	}
	k, err := place(r.Resource, s.own, s.cfg.Namespaces)
	if err != nil {
		return secrets.Lease{}, err
	}
	for name := range r.Options {
		return secrets.Lease{}, fmt.Errorf("reading Secret %s: unknown option %s; this source has none", k, name)
	}
	if r.Version > 1 {
		return secrets.Lease{}, fmt.Errorf("reading version %d of Secret %s: %w; a Secret has only its current version", r.Version, k, secrets.ErrNotFound)
	}
	s.await(ctx, k)
	lease, changes, answered := s.remembered(k)
	if !answered || r.Force {
		var err error
		if lease, err = s.read(ctx, k); err != nil {
			return secrets.Lease{}, fmt.Errorf("reading Secret %s: %w", k, err)
		}
		s.take(k, changes, lease)
	}
	if lease.Value.IsZero() && s.cfg.Selector != "" {
		return secrets.Lease{}, fmt.Errorf("reading Secret %s: %w; only those with labels by the selector %q are taken (label_selector of a vault, for the objects of a cluster the setting kube_secret_selector)", k, secrets.ErrNotFound, s.cfg.Selector)
	}
	if lease.Value.IsZero() {
		return secrets.Lease{}, fmt.Errorf("reading Secret %s: %w", k, secrets.ErrNotFound)
	}
	return lease, nil
}

// read asks the API server; zero is absent.
func (s *Source) read(ctx context.Context, k key) (secrets.Lease, error) {
	o, err := s.api.get(ctx, k)
	if errors.Is(err, secrets.ErrNotFound) {
		return secrets.Lease{}, nil
	}
	if err != nil {
		return secrets.Lease{}, err
	}
	return o.lease()
}

// remembered notes that a Secret is wanted, and answers what was read last, if that is
// what the server has, and how many changes were told of.
func (s *Source) remembered(k key) (l secrets.Lease, changes int, answered bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.want(k)
	if !f.fresh || !f.watch.live {
		return secrets.Lease{}, f.changes, false
	}
	return f.held, f.changes, true
}

// take notes what was read, zero for absent. What was told of since the reading began, and
// is something else, has to be read again.
func (s *Source) take(k key, changes int, l secrets.Lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.known[k]
	switch {
	case f == nil:
	case f.changes > 0 && !f.fresh && f.told == l.Version:
		f.fresh, f.held = true, l
	case newer(f.held.Version, l.Version): // another reading was faster
	case f.changes == changes, newer(l.Version, f.told):
		f.fresh, f.held = true, l
	default:
		s.hint(k)
	}
}

// tell notes what a list or a watch says of a Secret: its version, "" for gone. A watch may
// be behind what was read, a list is not.
func (s *Source) tell(k key, version string, listed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.known[k]
	if f == nil || f.fresh && (f.held.Version == version || !listed && newer(f.held.Version, version)) {
		return
	}
	f.changes++
	f.told, f.fresh = version, false
	s.hint(k)
}

// newer compares versions, which are numbers by the API's contract since 1.35.
// Where they are not, the watch has the last word.
func newer(a, b string) bool {
	x, errA := strconv.ParseUint(a, 10, 64)
	y, errB := strconv.ParseUint(b, 10, 64)
	return errA == nil && errB == nil && x > y
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
