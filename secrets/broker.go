package secrets

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Config is what a Broker is made of.
type Config struct {
	Openers map[string]Opener // kinds of source; a vault of another kind is a reason for Missing
	Vaults  []Vault           // vaults that are there without a document, named by their kind; a plan's vault of the same name wins
	Log     *slog.Logger      // nil for none

	FetchTimeout time.Duration // of one fetch or renewal; 0 means 5 s
	Parallel     int           // fetches in flight per vault; 0 means 4. A Wide source has more

	Trial  TrialRule   // of new versions; zero Failures for none
	Events func(Event) // told of what happens to sources and versions beside activations; nil for nobody; called from several goroutines, must not block
	Kept   []Kept      // last known good values, in use until their sources answer

	// RevokeAtStop gives leases back when Run ends. Off, they are left to the
	// replicas that may share them and to their own end.
	RevokeAtStop bool

	// Versions are the last version numbers by reference from before this process
	// (Ledger.Versions); counting goes on from them.
	Versions map[string]int
}

// Broker fetches what a Plan wants, keeps it fresh and publishes it as a Set.
//
// The Set it publishes is not a second world beside the edge's snapshot: only the
// publisher of snapshots reads it, as input of the next build, and a request sees
// nothing but the set its snapshot was built with. No reader ever waits for a source.
type Broker struct {
	cfg     Config        // immutable after NewBroker
	changed chan struct{} // capacity 1
	poke    chan struct{} // capacity 1: there is mail
	results chan result
	hints   chan *mount

	current atomic.Pointer[Set] // written by Run

	mu      sync.Mutex // guards the group below
	plan    *Plan      // mail: the latest plan not yet taken up
	refresh bool       // mail: look at everything now
	asked   []func(*loop)
	waiters []chan *Set
	sources map[string]SourceStats
}

// result is what one look brought.
type result struct {
	entry *entry
	mount *mount
	outcome
}

// NewBroker makes a Broker; Run works.
func NewBroker(cfg Config) *Broker {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.FetchTimeout = cmp.Or(cfg.FetchTimeout, 5*time.Second)
	cfg.Parallel = cmp.Or(cfg.Parallel, 4)
	if cfg.Events == nil {
		cfg.Events = func(Event) {}
	}
	return &Broker{
		cfg:     cfg,
		changed: make(chan struct{}, 1),
		poke:    make(chan struct{}, 1),
		results: make(chan result),
		hints:   make(chan *mount),
		sources: make(map[string]SourceStats),
	}
}

// Want replaces what is wanted. It does not wait; Changed tells when something came of it.
func (b *Broker) Want(plan Plan) {
	b.mu.Lock()
	b.plan = &plan
	b.mu.Unlock()
	signal(b.poke)
}

// Resolve is Want, and waits until each reference has a value or a reason for
// having none, until no source gave a good value for five seconds, or ctx ends; then
// the set as it stands is answered, in which what is still on its way is Pending. A
// source that is away thus delays a start or a reload by little, and one that has
// much to give is waited for, for as long as the caller allows.
func (b *Broker) Resolve(ctx context.Context, plan Plan) *Set {
	answer := make(chan *Set, 1)
	b.mu.Lock()
	b.plan = &plan
	b.waiters = append(b.waiters, answer)
	b.mu.Unlock()
	signal(b.poke)
	select {
	case set := <-answer:
		return set
	case <-ctx.Done():
		return b.Current()
	}
}

// Refresh looks at everything now, as after a SIGHUP. It does not wait.
func (b *Broker) Refresh() {
	b.mu.Lock()
	b.refresh = true
	b.mu.Unlock()
	signal(b.poke)
}

// Current is the latest set, nil before the first. It never blocks.
func (b *Broker) Current() *Set { return b.current.Load() }

// Changed hints that Current differs in a version or a state.
func (b *Broker) Changed() <-chan struct{} { return b.changed }

// List answers every credential by name in order. Its values are redacted by
// their type; looks that found nothing new show within a second.
func (b *Broker) List() []Credential {
	set := b.Current()
	list := make([]Credential, 0, set.Len())
	for c := range set.All() {
		list = append(list, *c)
	}
	return list
}

// Stats samples the broker.
func (b *Broker) Stats() Stats {
	set := b.Current()
	s := Stats{States: make(map[State]int)}
	if set == nil {
		return s
	}
	s.Generation = set.Generation
	for _, c := range set.byRef {
		s.States[c.State]++
		if c.alarming(time.Now()) {
			s.Alarmed++
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(b.sources)) {
		s.Sources = append(s.Sources, b.sources[name])
	}
	return s
}

// alarming says that an operator should look.
func (c *Credential) alarming(now time.Time) bool {
	switch c.State {
	case Missing, Expired:
		return true
	case Stale, Refused:
		at := alarmAt(c.Fetched, c.NotAfter)
		return now.Sub(c.Fetched) >= AlarmAfter || !at.IsZero() && !now.Before(at)
	}
	return false
}

// signal sends a hint that is never lost and never waits.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
