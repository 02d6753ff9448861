package upstream

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
)

// A target that traffic took out is tried again by itself: after recover_after one
// request is let through, and no second one while it is under way. What it meets
// decides: the target is back, or it waits again, each time longer. Such a trial is
// a request that could be sent once more elsewhere, so that no client suffers for it.

// longestWait bounds the growing time between trials, in recover_after's.
const longestWait = 16

// recovers is the time after which a target is tried again, 0 for never: where probes
// can bring it back that is their business.
func (b *balancer) recovers() time.Duration {
	if r := b.rules; r != nil && r.active != nil && r.active.onUnhealthy > 0 && r.sides[byProbe].limits.successes > 0 {
		return 0
	}
	return time.Duration(b.traits.RecoverAfter * float64(time.Second))
}

// rest sets the time of a target's next trial. v.mu is held.
func (b *balancer) rest(v *vitals) {
	after := b.recovers()
	if after == 0 {
		v.retryAt.Store(0)
		return
	}
	wait := after * time.Duration(min(1<<min(v.trials, 8), longestWait))
	v.retryAt.Store(time.Now().Add(jitter(wait)).UnixNano())
}

// trial answers a target that is due for one, nil for none. The caller owes it a
// call of concluded. spare says that the request could be sent once more.
func (b *balancer) trial(w *wish, spare bool) *target {
	v := b.current()
	if len(v.resting) == 0 || !spare && len(v.wheel) > 0 {
		return nil
	}
	now := time.Now().UnixNano()
	for _, t := range v.resting {
		at := t.vitals.retryAt.Load()
		if at != 0 && at <= now && !slices.Contains(w.tried, t) && t.vitals.trying.CompareAndSwap(false, true) {
			return t
		}
	}
	return nil
}

// outcome is what a trial met.
type outcome uint8

const (
	trialVoid outcome = iota // the client's doing, or nothing known
	trialGood
	trialBad
)

// concluded ends a trial.
func (b *balancer) concluded(t *target, o outcome) {
	v := t.vitals
	v.mu.Lock()
	defer v.mu.Unlock()
	defer v.trying.Store(false)
	if !v.down.Load() || v.retryAt.Load() == 0 {
		return // somebody else has decided meanwhile
	}
	switch o {
	case trialGood:
		if limit := b.rules.sides[byTraffic].limits.successes; v.counts[byTraffic].successes >= limit {
			b.settle(v, true, false, byTraffic)
		}
	case trialBad:
		v.trials++
		b.rest(v)
	}
}

// outcomeOf judges a try by its fault, nil for none, and else by its status.
func (b *balancer) outcomeOf(f *fault, status int) outcome {
	switch {
	case f != nil && (f.kind == faultClient || f.kind == faultHere):
		return trialVoid
	case f != nil, b.rules != nil && b.rules.sides[byTraffic].bad.has(status):
		return trialBad
	}
	return trialGood
}

// budget holds how many retries an upstream may have: each request earns a part of
// one, and what is saved bounds a burst. Retries at which nothing had been sent cost
// nothing, since they add no load.
type budget struct{ saved atomic.Int64 }

// Amounts of a budget: a request earns as many as the percentage, a retry costs 100.
const (
	retryCost   = 100
	budgetBurst = 100 * retryCost
)

func newBudget(percent float64) *budget {
	b := &budget{}
	if percent > 0 {
		b.saved.Store(budgetBurst)
	}
	return b
}

// earn takes a request in.
func (b *budget) earn(percent float64) {
	if n := b.saved.Load(); n < budgetBurst { // may be passed by some: it is no exact bound
		b.saved.Add(int64(percent))
	}
}

// spend pays for a retry, if it can.
func (b *budget) spend() bool {
	for {
		n := b.saved.Load()
		if n < retryCost {
			return false
		}
		if b.saved.CompareAndSwap(n, n-retryCost) {
			return true
		}
	}
}

// tally counts what became of an upstream's targets and requests; one for all its generations.
type tally struct {
	ejected [3]atomic.Uint64 // by source
	denied  atomic.Uint64    // repetitions beyond the budget
	busy    atomic.Uint64    // requests beyond max_pending
	late    atomic.Uint64    // requests that have waited for pending_timeout
}

// Tally is what happened to the targets and requests of one upstream.
type Tally struct {
	Upstream  string
	Ejections map[string]uint64 // by traffic, probe, order
	Refused   map[string]uint64 // by retry_budget, max_pending, pending_timeout
}

// Tallies answers those of every upstream entity, in order of name.
func (s *Set) Tallies() []Tally {
	list := make([]Tally, 0, len(s.sorted))
	for _, b := range s.sorted {
		y := b.tally
		list = append(list, Tally{
			Upstream:  b.name,
			Ejections: map[string]uint64{"traffic": y.ejected[byTraffic].Load(), "probe": y.ejected[byProbe].Load(), "order": y.ejected[byOrder].Load()},
			Refused:   map[string]uint64{"retry_budget": y.denied.Load(), "max_pending": y.busy.Load(), "pending_timeout": y.late.Load()},
		})
	}
	return list
}

// pay spends of the budget for a retry, if it can.
func (b *balancer) pay() bool {
	if b.budget.spend() {
		return true
	}
	b.tally.denied.Add(1)
	return false
}

// ErrBusy says that a request found no place at any target: it may, in a moment.
var ErrBusy = errors.New("every target has max_connections requests under way and max_pending waiting; raise them or add targets")

// enter takes a place at a target that has less than most requests under way; 0 is no limit.
func (v *vitals) enter(most int64) bool {
	if most == 0 {
		v.open.Add(1)
		return true
	}
	for {
		n := v.open.Load()
		if n >= most {
			return false
		}
		if v.open.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// leave gives a place back, to the one who waits longest if anybody does.
func (b *balancer) leave(t *target) {
	v := t.vitals
	v.open.Add(-1)
	if v.pending.Load() == 0 { // looked at after open, as await does the other way round
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.queue) > 0 && v.enter(int64(b.traits.MaxConnections)) {
		close(v.queue[0])
		v.queue = slices.Delete(v.queue, 0, 1)
		v.pending.Add(-1)
	}
}

// await waits for a place at a target that is full.
func (k *call) await(t *target) error {
	b, v := k.cluster.balancer, t.vitals
	k.now = time.Time{} // it may take its time
	most := int64(b.traits.MaxConnections)
	turn := make(chan struct{})
	v.mu.Lock()
	if len(v.queue) >= b.traits.MaxPending {
		v.mu.Unlock()
		b.tally.busy.Add(1)
		return ErrBusy
	}
	v.pending.Add(1)
	if v.enter(most) {
		v.pending.Add(-1)
		v.mu.Unlock()
		return nil
	}
	v.queue = append(v.queue, turn)
	v.mu.Unlock()
	if !k.watched && k.x.WatchClient != nil && k.body.stream == nil {
		k.watched = true
		k.x.WatchClient()
	}
	within := time.Duration(b.traits.PendingTimeout * float64(time.Second))
	limit := time.NewTimer(within)
	defer limit.Stop()
	err := error(nil)
	select {
	case <-turn:
		return nil
	case <-limit.C:
		b.tally.late.Add(1)
		err = fmt.Errorf("waiting for a place at %s: %w after %v", t.name, ErrBusy, within)
	case <-k.x.Ctx.Done():
		err = fmt.Errorf("waiting for a place at %s: %w", t.name, k.x.Ctx.Err())
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if i := slices.Index(v.queue, turn); i >= 0 {
		v.queue = slices.Delete(v.queue, i, i+1)
		v.pending.Add(-1)
		return err
	}
	return nil // the place came at the last moment
}

// seat chooses a target and takes a place at it: its session's, else one due for a trial, else the
// balancer's choice, else another that has room, else it waits at the first. It
// answers nil where there is no target.
func (k *call) seat(w wish, spare bool) (t *target, trial bool, err error) {
	b := k.cluster.balancer
	if held := k.held; held != nil && !slices.Contains(w.tried, held) {
		// A session does not move because its target is busy for a moment.
		if !held.vitals.enter(int64(b.traits.MaxConnections)) {
			return held, false, k.await(held)
		}
		return held, false, nil
	}
	if t := b.trial(&w, spare); t != nil {
		t.vitals.open.Add(1)
		return t, true, nil
	}
	t = b.pick(w)
	most := int64(b.traits.MaxConnections)
	if t == nil || t.vitals.enter(most) {
		return t, false, nil
	}
	w.tried = slices.Clone(w.tried)
	for next := t; !slices.Contains(w.tried, next); {
		w.tried = append(w.tried, next)
		if next = b.pick(w); next == nil {
			break
		}
		if !slices.Contains(w.tried, next) && next.vitals.enter(most) {
			return next, false, nil
		}
	}
	return t, false, k.await(t)
}
