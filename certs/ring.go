package certs

import (
	"context"
	crand "crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	ringUse  = 24 * time.Hour   // a secret is the one in use for a day
	ringKeep = 48 * time.Hour   // and known for one more
	ringLead = 2 * time.Minute  // replicas know a secret before any of them uses it
	ringPoll = 15 * time.Second // how soon a replica learns of the others' secrets
	ringSlow = time.Minute      // and how often it asks a state that is away, at least
	ringMost = 8                // secrets in one ring; more are nobody's that this program knows
)

// ring is a short list of secrets that turns daily: alone in this process, or
// through a SharedState with all replicas.
type ring struct {
	state SharedState // nil for a process alone
	key   string      // in it

	current atomic.Pointer[ringView]
	wake    chan struct{}

	mu      sync.Mutex // guards what follows and is never held over I/O
	keys    []ringKey  // newest first
	revoked bool       // the keys are new because the old ones are not trusted: the state has to learn it
	shared  time.Time  // when the keys were last those of the state
	why     string     // the state's last failure
	floor   time.Time  // keys from before it are not trusted, wherever they are found
}

// ringKey is one secret, as it is kept in the state.
type ringKey struct {
	From   time.Time `json:"from"` // in use from then on
	Secret []byte    `json:"secret"`
}

// ringView is what is to be used now: the secret in use first, then the others.
// Immutable.
type ringView struct {
	keys []ringKey
}

// RingStatus tells how a ring of keys does.
type RingStatus struct {
	Keys   int
	Since  time.Time // when the key in use became that
	Next   time.Time // when the next one takes its place
	Shared time.Time // when the replicas' state was last seen; zero for keys of this process alone
	Error  string    // why it is not seen now
}

func newRing(state SharedState, key string) *ring {
	r := &ring{state: state, key: key, wake: make(chan struct{}, 1)}
	now := time.Now()
	r.set([]ringKey{newRingKey(now)}, now)
	return r
}

func newRingKey(from time.Time) ringKey {
	k := ringKey{From: from.UTC().Round(0), Secret: make([]byte, 32)}
	_, _ = crand.Read(k.Secret) // never fails: crypto/rand ends the program instead
	return k
}

// turned answers keys as they should be at now, and whether that is a change: what
// is too old goes, and a new secret comes lead before it is to be used.
func turned(keys []ringKey, now time.Time, lead time.Duration) ([]ringKey, bool) {
	next := slices.DeleteFunc(slices.Clone(keys), func(k ringKey) bool { return now.Sub(k.From) >= ringKeep })
	changed := len(next) != len(keys)
	switch {
	case len(next) == 0:
		return []ringKey{newRingKey(now)}, true
	case now.Sub(next[0].From) >= ringUse:
		lead = max(0, min(lead, ringKeep-now.Sub(next[0].From)))
		return append([]ringKey{newRingKey(now.Add(lead))}, next...), true
	case now.Sub(next[0].From) >= ringUse-lead:
		return append([]ringKey{newRingKey(next[0].From.Add(ringUse))}, next...), true
	}
	return next, changed
}

// set makes keys the ring's, under mu or before anybody else knows the ring.
func (r *ring) set(keys []ringKey, now time.Time) {
	r.keys = keys
	view := slices.Clone(keys)
	// The one in use goes first; one whose time is to come is known already.
	for i := range view {
		if !view[i].From.After(now) {
			k := view[i]
			copy(view[1:], view[:i])
			view[0] = k
			break
		}
	}
	if old := r.current.Load(); old == nil || !slices.EqualFunc(old.keys, view, sameRingKey) {
		r.current.Store(&ringView{view})
	}
}

func sameRingKey(a, b ringKey) bool { return slices.Equal(a.Secret, b.Secret) }

// rotateNow forgets all secrets. The replicas learn of it from Run.
func (r *ring) rotateNow() {
	r.mu.Lock()
	now := time.Now()
	r.set([]ringKey{newRingKey(now)}, now)
	r.revoked = r.state != nil
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// distrust forgets the secrets from before a time, also those that the state still has.
func (r *ring) distrust(before time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !before.After(r.floor) {
		return
	}
	r.floor = before
	now := time.Now()
	keys := trusted(r.keys, before)
	if len(keys) == 0 {
		keys = []ringKey{newRingKey(now)}
	}
	r.set(keys, now)
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// trusted answers the keys from floor on.
func trusted(keys []ringKey, floor time.Time) []ringKey {
	return slices.DeleteFunc(slices.Clone(keys), func(k ringKey) bool { return k.From.Before(floor) })
}

// run keeps the ring until ctx ends.
func (r *ring) run(ctx context.Context) {
	failures := 0
	for {
		if err := r.sync(ctx); err != nil {
			failures++
		} else {
			failures = 0
		}
		timer := time.NewTimer(r.pause(failures))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-r.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// pause is how long nothing has to be done.
func (r *ring) pause(failures int) time.Duration {
	if r.state == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		return max(time.Second, time.Until(r.keys[0].From.Add(ringUse)))
	}
	d := ringPoll
	if failures > 0 {
		d = min(time.Second<<min(failures, 10), ringSlow)
	}
	return d - rand.N(d/5)
}

// sync makes the ring what the state has, and turns it there when that is due. When
// the state is away, the ring turns alone rather than grow old.
func (r *ring) sync(ctx context.Context) error {
	if r.state == nil {
		r.alone(0)
		return nil
	}
	var err error
	for range 3 { // others write too
		if err = r.exchange(ctx); !errors.Is(err, ErrConflict) {
			break
		}
	}
	r.mu.Lock()
	r.why = ""
	if err != nil {
		r.why = err.Error()
	}
	r.mu.Unlock()
	if err != nil {
		r.alone(time.Hour) // who is only late does it soon
	}
	return err
}

// alone turns the ring in this process, an hour later than all would.
func (r *ring) alone(late time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	keys, changed := turned(r.keys, now.Add(-late), 0)
	if changed && !sameRingKey(keys[0], r.keys[0]) {
		keys[0].From = now.UTC().Round(0)
	}
	keys = slices.DeleteFunc(keys, func(k ringKey) bool { return now.Sub(k.From) >= ringKeep })
	r.set(keys, now)
}

// exchange is one read of the state, and one write where there is something to say.
func (r *ring) exchange(ctx context.Context) error {
	value, version, err := r.state.Load(ctx, r.key)
	r.mu.Lock()
	mine, revoked, floor := r.keys, r.revoked, r.floor
	r.mu.Unlock()
	var there []ringKey
	if err == nil && !revoked {
		there, err = decodeRing(value)
	}
	if err != nil && !errors.Is(err, ErrNoState) {
		return fmt.Errorf("reading %s from the shared state: %w", r.key, err)
	}
	known := len(there)
	there = trusted(there, floor)
	distrusted := len(there) != known
	if revoked || len(there) == 0 {
		there = mine // what a first replica made for itself becomes everybody's
	}
	now := time.Now()
	next, changed := turned(there, now, ringLead)
	if changed || revoked || distrusted || version == "" {
		text, err := json.Marshal(next)
		if err != nil {
			return fmt.Errorf("encoding %s: %w", r.key, err)
		}
		if _, err = r.state.Swap(ctx, r.key, version, text); err != nil {
			return fmt.Errorf("writing %s to the shared state: %w", r.key, err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !floor.Equal(r.floor) || revoked != r.revoked || revoked && !sameRingKey(mine[0], r.keys[0]) {
		return nil // rotated in between: wake says so, and the state learns it next
	}
	r.revoked, r.shared = false, now
	r.set(next, now)
	return nil
}

var errRing = errors.New("it is no list of keys that this program wrote; remove it, or let the node that wrote it go on")

func decodeRing(text []byte) ([]ringKey, error) {
	var keys []ringKey
	// The decoder's own message may quote the text.
	if json.Unmarshal(text, &keys) != nil || len(keys) > ringMost {
		return nil, errRing
	}
	for _, k := range keys {
		if len(k.Secret) != 32 {
			return nil, errRing
		}
	}
	return keys, nil
}

func (r *ring) status() RingStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	used := r.current.Load().keys[0]
	s := RingStatus{Keys: len(r.keys), Since: used.From, Next: used.From.Add(ringUse), Shared: r.shared, Error: r.why}
	if r.keys[0].From.After(used.From) {
		s.Next = r.keys[0].From
	}
	return s
}
