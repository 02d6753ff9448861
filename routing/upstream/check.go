package upstream

import (
	"container/heap"
	"context"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/keyway-edge/keyway/routing/spec"
)

// active is how an upstream's targets are probed. Immutable.
type active struct {
	source      spec.ActiveCheck
	onHealthy   time.Duration // between probes of a healthy target, 0 for none
	onUnhealthy time.Duration
	timeout     time.Duration
	tls         *transport // of https and grpcs
}

func newActive(a *spec.ActiveCheck) *active {
	seconds := func(f float64) time.Duration { return time.Duration(f * float64(time.Second)) }
	c := &active{source: *a, onHealthy: seconds(a.Healthy.Interval), onUnhealthy: seconds(a.Unhealthy.Interval), timeout: seconds(a.Timeout)}
	if c.timeout <= 0 {
		c.timeout = time.Second
	}
	c.source.Headers = maps.Clone(a.Headers)
	return c
}

func (a *active) equal(o *active) bool {
	if a == nil || o == nil {
		return a == o
	}
	return reflect.DeepEqual(a.source, o.source) && a.tls.sameAs(o.tls)
}

// every is the time between two probes of a target in a state, 0 for none.
func (a *active) every(down bool) time.Duration {
	if down {
		return a.onUnhealthy
	}
	return a.onHealthy
}

// Checker probes the targets of upstreams that ask for it: one prober for each
// target of this node, all on one wheel with a bounded number of probes under way.
type Checker struct {
	current func() *Set
	log     *slog.Logger

	// Owned by Run.
	set     *Set
	changes uint64 // of names, when the jobs were made
	jobs    map[jobKey]*job
	wheel   jobs
	running int            // probes under way
	busy    map[string]int // likewise, by id of the upstream
	done    chan *job
}

type jobKey struct{ upstream, target string }

// job is one target's next probe.
type job struct {
	key jobKey
	b   *balancer
	t   *target
	due time.Time
	at  int  // in the heap, -1 while its probe is under way
	off bool // gone from the document: its end is its last

	event  event // of the last probe
	judged bool  // whether that says anything
	err    error // why it failed, nil if it did not
	seen   bool  // whether it was down after the probe before
}

const (
	maxProbes  = 256                    // under way at once
	checkEvery = 250 * time.Millisecond // how soon another Set, or a state without probes, is looked at
	checkAgain = 20 * time.Millisecond  // when an upstream's own concurrency is used up
)

// NewChecker makes a Checker for the Set that current answers, nil for none yet.
// It starts nothing.
func NewChecker(current func() *Set, log *slog.Logger) *Checker {
	return &Checker{
		current: current, log: log, jobs: make(map[jobKey]*job), busy: make(map[string]int),
		done: make(chan *job, maxProbes),
	}
}

// Run probes until ctx ends, and waits for the probes that are under way.
func (c *Checker) Run(ctx context.Context) error {
	var wait sync.WaitGroup
	defer wait.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case j := <-c.done:
			c.finish(j)
		case <-timer.C:
		}
		c.adopt()
		now := time.Now()
		for c.running < maxProbes && len(c.wheel) > 0 && !c.wheel[0].due.After(now) {
			c.begin(ctx, &wait, now)
		}
		next := checkEvery
		if len(c.wheel) > 0 && c.running < maxProbes {
			next = min(next, c.wheel[0].due.Sub(now))
		}
		timer.Reset(next)
	}
}

// adopt makes the jobs those of the Set in force and of the names as they are. Targets that stay keep their time.
func (c *Checker) adopt() {
	set := c.current()
	if set == nil {
		return
	}
	changes := set.pools.names.changes.Load()
	if set == c.set && changes == c.changes {
		return
	}
	c.set, c.changes = set, changes
	gone := maps.Clone(c.jobs)
	now := time.Now()
	for _, b := range set.sorted {
		if b.rules == nil || b.rules.active == nil {
			continue
		}
		for _, t := range b.current().all {
			key := jobKey{b.id, t.label}
			delete(gone, key)
			if j := c.jobs[key]; j != nil {
				j.b, j.t = b, t
				continue
			}
			// The first probes are spread over an interval, or a reload would ask all at once.
			j := &job{key: key, b: b, t: t, seen: t.vitals.down.Load()}
			j.due = now.Add(spreadOver(b.rules.active.every(j.seen)))
			c.jobs[key] = j
			heap.Push(&c.wheel, j)
		}
	}
	for key, j := range gone {
		delete(c.jobs, key)
		j.off = true
		if j.at >= 0 {
			heap.Remove(&c.wheel, j.at)
		}
	}
}

// spreadOver is a random part of an interval.
func spreadOver(every time.Duration) time.Duration {
	if every <= 0 {
		return 0
	}
	return rand.N(every)
}

// jitter is an interval give or take a tenth, so that nodes do not probe in step.
func jitter(every time.Duration) time.Duration {
	return every - every/10 + rand.N(every/5+1)
}

// begin starts the probe that is due first, or puts it off.
func (c *Checker) begin(ctx context.Context, wait *sync.WaitGroup, now time.Time) {
	j := c.wheel[0]
	a := j.b.rules.active
	putOff := func(d time.Duration) {
		j.due = now.Add(d)
		heap.Fix(&c.wheel, 0)
	}
	if a.every(j.t.vitals.down.Load()) == 0 {
		putOff(checkEvery)
		return
	}
	if c.busy[j.key.upstream] >= max(1, a.source.Concurrency) {
		putOff(checkAgain)
		return
	}
	heap.Pop(&c.wheel)
	c.running++
	c.busy[j.key.upstream]++
	b, t, names := j.b, j.t, c.set.pools.names
	wait.Go(func() {
		j.event, j.judged, j.err = probe(ctx, b, t, names)
		c.done <- j // has room for every probe that may be under way
	})
}

// finish judges a target by its probe and sets the time of the next.
func (c *Checker) finish(j *job) {
	c.running--
	if c.busy[j.key.upstream]--; c.busy[j.key.upstream] == 0 {
		delete(c.busy, j.key.upstream)
	}
	if j.off {
		return
	}
	if j.judged && j.b.rules != nil {
		j.b.judge(j.t, byProbe, j.event)
	}
	down := j.t.vitals.down.Load()
	if down != j.seen {
		c.tell(j, down)
	}
	j.seen = down
	every := checkEvery
	if a := j.b.rules.active; a != nil && a.every(down) > 0 {
		every = jitter(a.every(down))
	}
	j.due = time.Now().Add(every)
	heap.Push(&c.wheel, j)
}

// tell logs what a probe changed.
func (c *Checker) tell(j *job, down bool) {
	attrs := []any{slog.String("upstream", j.b.name), slog.String("target", j.t.label)}
	if !down {
		c.log.Info("target is healthy again", attrs...)
		return
	}
	if j.err != nil {
		attrs = append(attrs, slog.String("cause", j.err.Error()))
	}
	c.log.Warn("target is unhealthy", attrs...)
}

// jobs is a heap by time.
type jobs []*job

// Len is the number of jobs that wait.
func (h jobs) Len() int { return len(h) }

// Less orders by time.
func (h jobs) Less(i, k int) bool { return h[i].due.Before(h[k].due) }

// Swap swaps two.
func (h jobs) Swap(i, k int) {
	h[i], h[k] = h[k], h[i]
	h[i].at, h[k].at = i, k
}

// Push takes a job in.
func (h *jobs) Push(x any) {
	j := x.(*job)
	j.at = len(*h)
	*h = append(*h, j)
}

// Pop takes the last one out.
func (h *jobs) Pop() any {
	old := *h
	j := old[len(old)-1]
	*h = slices.Delete(old, len(old)-1, len(old))
	j.at = -1
	return j
}

// probeAddress is where a target is probed.
func probeAddress(ctx context.Context, t *target, n *names) (netip.AddrPort, error) {
	if known := t.source.Load(); known != nil {
		known.touch(time.Now())
	}
	if t.addr.IsValid() {
		return t.addr, nil
	}
	places, err := n.lookup(ctx, question{t.host, t.srv})
	if err != nil {
		return netip.AddrPort{}, err
	}
	return t.oneOf(places), nil
}
