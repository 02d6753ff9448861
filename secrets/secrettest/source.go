// Package secrettest holds a fake source that fails the test when the contract
// of package secrets is broken, and a suite that every real source passes.
package secrettest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/secrets"
)

// Source is a scriptable source. It polices its user: two fetches of one request
// at a time, more than Parallel in all, a call after the test, each fail the test.
type Source struct {
	t       testing.TB
	changed chan struct{}

	// Parallel is how many fetches may be in flight. Set before use; 0 means 4.
	Parallel int

	mu       sync.Mutex // guards the group below
	closed   bool
	answers  map[string]answer
	err      error
	delay    time.Duration
	shape    func(*secrets.Lease)
	flying   map[string]int
	inFlight int
	most     int
	fetches  map[string]int
	renewals int
	leases   map[string]bool // by id: true while held
	made     int
}

type answer struct {
	value    string
	version  int
	modified time.Time
}

// New makes a Source without secrets.
func New(t testing.TB) *Source {
	s := &Source{
		t: t, changed: make(chan struct{}, 1),
		answers: make(map[string]answer), flying: make(map[string]int),
		fetches: make(map[string]int), leases: make(map[string]bool),
	}
	t.Cleanup(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.closed = true
	})
	return s
}

// Put makes value the current version of a resource. It hints nothing; see Hint.
func (s *Source) Put(resource, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[resource] = answer{value, s.answers[resource].version + 1, time.Now()}
}

// Remove makes a resource absent.
func (s *Source) Remove(resource string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.answers, resource)
}

// Fail makes every fetch and renewal fail with err until Fail(nil).
func (s *Source) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// Delay makes every fetch take d, or until its context ends.
func (s *Source) Delay(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delay = d
}

// Shape lets f change each lease before it is answered.
func (s *Source) Shape(f func(*secrets.Lease)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shape = f
}

// Hint tells the broker to look again.
func (s *Source) Hint() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Fetches is how often a resource was fetched.
func (s *Source) Fetches(resource string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fetches[resource]
}

// MostInFlight is the most fetches that ran at one time.
func (s *Source) MostInFlight() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.most
}

// Fetch answers what the script says.
func (s *Source) Fetch(ctx context.Context, r secrets.Request) (secrets.Lease, error) {
	delay, done := s.begin(r)
	defer done()
	if delay > 0 {
		select {
		case <-ctx.Done():
			return secrets.Lease{}, ctx.Err()
		case <-time.After(delay):
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return secrets.Lease{}, s.err
	}
	a, ok := s.answers[r.Resource]
	if !ok {
		return secrets.Lease{}, fmt.Errorf("fetching %s: %w", r.Resource, secrets.ErrNotFound)
	}
	lease := secrets.Lease{Value: secrets.NewValue([]byte(a.value)), Version: fmt.Sprint(a.version), Modified: a.modified}
	if s.shape != nil {
		s.shape(&lease)
	}
	return lease, nil
}

func (s *Source) begin(r secrets.Request) (delay time.Duration, done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		panic("secrettest: fetch after the end of the test")
	}
	key := fmt.Sprintf("%s#%d %v", r.Resource, r.Version, r.Options)
	s.fetches[r.Resource]++
	s.flying[key]++
	s.inFlight++
	s.most = max(s.most, s.inFlight)
	if s.flying[key] > 1 {
		s.t.Errorf("two fetches of %s at one time", key)
	}
	if limit := max(s.Parallel, 4); s.inFlight > limit {
		s.t.Errorf("%d fetches in flight; at most %d are allowed", s.inFlight, limit)
	}
	return s.delay, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.flying[key]--
		s.inFlight--
	}
}

// Run works until ctx ends.
func (s *Source) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Changed hints that a fetch may answer something new.
func (s *Source) Changed() <-chan struct{} { return s.changed }

// Leasing is a Source whose every fetch makes a new lease that can be renewed and
// must be revoked. A renewal or a revocation of a lease that is not held, and a
// lease that is still held at the end of the test, fail the test.
type Leasing struct{ *Source }

// NewLeasing makes a Leasing source with leases of the given ttl.
func NewLeasing(t testing.TB, ttl time.Duration) Leasing {
	s := Leasing{New(t)}
	s.Shape(func(l *secrets.Lease) { // called with mu held
		s.made++
		l.ID, l.TTL, l.Renewable = fmt.Sprintf("lease-%d", s.made), ttl, true
		s.leases[l.ID] = true
	})
	t.Cleanup(func() {
		for _, id := range s.Held() {
			t.Errorf("%s was never revoked", id)
		}
	})
	return s
}

// Held lists the leases made and not revoked.
func (s Leasing) Held() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var held []string
	for id, on := range s.leases {
		if on {
			held = append(held, id)
		}
	}
	return held
}

// Renewals is how often a lease was renewed.
func (s Leasing) Renewals() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.renewals
}

// Renew extends a lease by its ttl.
func (s Leasing) Renew(_ context.Context, l secrets.Lease) (secrets.Lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.leases[l.ID] {
		s.t.Errorf("renewing %s, which is not held", l.ID)
	}
	if s.err != nil {
		return secrets.Lease{}, s.err
	}
	s.renewals++
	l.Value = secrets.Value{}
	return l, nil
}

// Revoke ends a lease.
func (s Leasing) Revoke(_ context.Context, l secrets.Lease) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.leases[l.ID] {
		s.t.Errorf("revoking %s, which is not held", l.ID)
	}
	s.leases[l.ID] = false
	return nil
}
