package kube

import (
	"context"
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
	touched map[key]bool // what differs since Touched was asked last
	all     bool         // or anything may
}

// followed is a Secret that was asked for. Its source's mu guards it.
type followed struct {
	key     key
	used    bool // since the last sweep
	doomed  bool // it was not, and is forgotten at the next one
	stop    context.CancelFunc
	live    bool          // its watch is up: held is what the server has
	from    string        // version to watch on from, "" to list first
	present bool          // the Secret is there
	held    secrets.Lease // when present
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
	return &Source{
		cfg: c, own: own, api: a, changed: make(chan struct{}, 1), added: make(chan struct{}, 1),
		turns: turns{one: make(chan struct{}, 1)}, known: make(map[key]*followed), touched: make(map[key]bool),
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

// Fetch answers a Secret as a JSON object of its keys: from its watch where that
// is up, else from the API server.
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
	if lease, answered, err := s.remembered(k); answered && !r.Force {
		return lease, err
	}
	o, err := s.api.get(ctx, k)
	if err != nil {
		return secrets.Lease{}, fmt.Errorf("reading Secret %s: %w", k, err)
	}
	lease, err := o.lease()
	if err != nil {
		return secrets.Lease{}, fmt.Errorf("reading Secret %s: %w", k, err)
	}
	s.catchUp(k, lease)
	return lease, nil
}

// remembered notes that a Secret is wanted, and answers what its watch brought.
func (s *Source) remembered(k key) (l secrets.Lease, answered bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.known[k]
	if f == nil {
		f = &followed{key: k}
		s.known[k] = f
		signal(s.added)
	}
	f.used, f.doomed = true, false
	if !f.live {
		return secrets.Lease{}, false, nil
	}
	if !f.present {
		return secrets.Lease{}, true, fmt.Errorf("reading Secret %s: %w", k, secrets.ErrNotFound)
	}
	return f.held, true, nil
}

// catchUp takes what was read beside a watch that has not brought it yet.
func (s *Source) catchUp(k key, l secrets.Lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.known[k]; f != nil && f.live && f.present && newer(l.Version, f.held.Version) {
		f.held = l
	}
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
