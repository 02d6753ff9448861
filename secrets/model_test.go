package secrets_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/secrets"
)

// How the modelled source behaves.
const (
	answersWell = iota
	answersSlowly
	hangs
	isAway
	throttles
	denies
	hasNothing
	hasRemoved
	answersOddly  // an error of no kind
	answersBadly  // a value without the wanted field
	answersNought // an empty value
	behaviours
)

// dry marks the context of a Check, whose reads put nothing into use.
type dry struct{}

// read is the last answer that the broker must have in use.
type read struct {
	value     string // of field a, "" for none
	began, at time.Time
	end       time.Time // hard end, zero for none
	removed   bool      // the last answer of a kind that counts was a removal
}

// model is a source that does what a script says and takes note of what its user
// may know. Resources that begin with "lease" are leased: renewable for half an
// hour in all, or ("lease-fixed") not at all; "end" has a hard end; others are plain.
type model struct {
	t *testing.T

	mu       sync.Mutex // guards the group below
	epoch    int        // of the vault's configuration
	all      int        // behaviour of every resource but those in one
	one      map[string]int
	counter  map[string]int
	reads    map[string]read
	answered map[string]bool // every good value of field a ever answered
	failed   map[string]bool // values that were rolled back
	leases   map[string]*modelLease
	inFlight int
	calls    int
	begun    map[string][]time.Time
	current  func() *secrets.Set
}

type modelLease struct {
	resource, value string
	made, ends      time.Time
	revoked         bool
}

// view is the model as one configuration of the vault opened it.
type view struct {
	*model
	epoch int
}

func (m *model) open(config map[string]any) (secrets.Source, error) {
	n, _ := config["n"].(int)
	return view{m, n}, nil
}

func (v view) Fetch(ctx context.Context, r secrets.Request) (secrets.Lease, error) {
	began, how := v.begin(ctx, r.Resource)
	defer v.end()
	if err := v.behave(ctx, how); err != nil {
		v.note(ctx, r.Resource, read{removed: errors.Is(err, secrets.ErrRemoved), began: began})
		return secrets.Lease{}, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	switch how {
	case answersBadly:
		return secrets.Lease{Value: secrets.NewValue([]byte(`{"c":"canary"}`))}, nil
	case answersNought:
		return secrets.Lease{Value: secrets.NewValue(nil)}, nil
	}
	leased := strings.HasPrefix(r.Resource, "lease")
	if leased || v.counter[r.Resource] == 0 {
		v.counter[r.Resource]++
	}
	a := fmt.Sprintf("canary-%s-%d", r.Resource, v.counter[r.Resource])
	lease := secrets.Lease{Value: secrets.NewValue(fmt.Appendf(nil, `{"a":%q,"b":%q}`, a, "b"+a)), Origin: "read of " + r.Resource}
	now := time.Now()
	if leased {
		lease.ID, lease.TTL, lease.Renewable = a, 10*time.Minute, r.Resource != "lease-fixed"
		lease.NotAfter = now.Add(lease.TTL)
		v.leases[lease.ID] = &modelLease{resource: r.Resource, value: a, made: now, ends: lease.NotAfter}
	} else if r.Resource == "end" {
		lease.NotAfter = now.Add(2 * time.Hour)
	}
	v.answered[a] = true
	v.noteLocked(ctx, r.Resource, read{value: a, began: began, at: now, end: lease.NotAfter})
	return lease, nil
}

func (v view) Renew(ctx context.Context, l secrets.Lease) (secrets.Lease, error) {
	v.mu.Lock()
	m := v.leases[l.ID]
	v.mu.Unlock()
	began, how := v.begin(ctx, m.resource)
	defer v.end()
	if how == answersBadly || how == answersNought || how == hasRemoved {
		how = answersOddly
	}
	if err := v.behave(ctx, how); err != nil {
		return secrets.Lease{}, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now()
	left := min(10*time.Minute, m.made.Add(30*time.Minute).Sub(now))
	if m.revoked || left <= 0 {
		return secrets.Lease{}, errors.New("lease not found")
	}
	l.Value, l.TTL, l.NotAfter = secrets.Value{}, left, now.Add(left)
	m.ends = l.NotAfter
	v.noteLocked(ctx, m.resource, read{value: m.value, began: began, at: now, end: l.NotAfter})
	return l, nil
}

// Revoke checks that nothing uses the lease.
func (v view) Revoke(_ context.Context, l secrets.Lease) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	m := v.leases[l.ID]
	if m == nil || m.revoked {
		v.t.Errorf("revoking %s, which is not held", l.ID)
		return nil
	}
	m.revoked = true
	for c := range v.current().All() {
		if string(c.Value.Reveal()) == m.value && c.Pinned == 0 {
			v.t.Errorf("%s was revoked while %s uses it (%s: %s)", l.ID, c.Name, c.State, c.Reason)
		}
		for _, o := range c.Previous {
			if string(o.Value.Reveal()) == m.value && o.Until.After(time.Now().Add(2*time.Second)) {
				v.t.Errorf("%s was revoked in its overlap, which ends in %v", l.ID, time.Until(o.Until))
			}
		}
	}
	return nil
}

// begin counts a call and answers how it will go.
func (v view) begin(ctx context.Context, resource string) (time.Time, int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now()
	if ctx.Value(dry{}) == nil {
		v.calls++
		v.begun[resource] = append(v.begun[resource], now)
		v.inFlight++
		if v.inFlight > 8 { // a vault that is configured anew may have the looks of the old one ending
			v.t.Errorf("%d calls in flight", v.inFlight)
		}
	} else {
		v.inFlight++
	}
	if how, ok := v.one[resource]; ok && v.all == answersWell {
		return now, how
	}
	return now, v.all
}

func (v view) end() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.inFlight--
}

// behave waits and fails as a behaviour says.
func (v view) behave(ctx context.Context, how int) error {
	wait := func(d time.Duration) error {
		select {
		case <-ctx.Done():
			return fmt.Errorf("calling: %w", ctx.Err())
		case <-time.After(d):
			return nil
		}
	}
	switch how {
	case answersSlowly:
		return wait(2 * time.Second)
	case hangs:
		return wait(time.Hour)
	case isAway:
		return fmt.Errorf("sealed: %w", secrets.ErrUnavailable)
	case throttles:
		return &secrets.Throttled{Err: errors.New("429"), After: 7 * time.Second}
	case denies:
		return secrets.ErrDenied
	case hasNothing:
		return secrets.ErrNotFound
	case hasRemoved:
		return secrets.ErrRemoved
	case answersOddly:
		return errors.New("odd")
	}
	return wait(5 * time.Millisecond)
}

func (v view) note(ctx context.Context, resource string, r read) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.noteLocked(ctx, resource, r)
}

// noteLocked takes note of an answer that rules what must be in use.
func (v view) noteLocked(ctx context.Context, resource string, r read) {
	if ctx.Value(dry{}) != nil || v.epoch != v.model.epoch || ctx.Err() != nil {
		return
	}
	if r.removed {
		r.at = time.Now()
		v.reads[resource] = r
	} else if r.value != "" && !v.failed[r.value] {
		v.reads[resource] = r
	}
}
