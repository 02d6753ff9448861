package upstream

import (
	"cmp"
	"slices"
	"time"

	"github.com/keyway-edge/keyway/routing/spec"
)

// view is who gets traffic, as of one epoch of health. Immutable: a change makes
// another one.
type view struct {
	epoch   uint64
	until   time.Time // to be made anew after this; zero for never
	all     []*target // every target, names as their peers
	targets []*target // those that get traffic
	resting []*target // those that traffic took out, to be tried again
	weights []int     // theirs, by the same index; of one that warms up, a part
	wheel   []uint16  // indices of targets in the order of turns
	ring    []point   // with consistent hashing: sorted by hash
	// sessions are, with sticky sessions, targets by their names in the cookie.
	sessions map[string]*target
}

// traits are what an upstream's x_keyway_balancing says, beside the node's place.
type traits struct {
	spec.Balancing
	slots int
	zone  string // of this node, "" for unknown
	node  string // id of this node, by which subsets differ
}

// warmSteps is in how many steps a target gets its whole weight.
const warmSteps = 10

// maxWheel bounds the wheel: beyond it weights are scaled down, so that a share
// is off by at most one part in this many.
const maxWheel = 1 << 16

// look makes a view from weights and health: at Build and after each change of a
// target's health, both rare. The change may have come from a request that still
// uses an older generation of this balancer.
func (b *balancer) look() *view {
	v := &view{epoch: b.stamp()} // before health and names are read, so that no change is missed
	v.all = b.expand()
	total, alive, closed := 0, 0, false
	for _, t := range v.all {
		total += t.weight
		if t.weight > 0 && t.vitals.retryAt.Load() != 0 {
			v.resting = append(v.resting, t)
		}
		if t.weight > 0 && !t.vitals.down.Load() {
			v.targets = append(v.targets, t)
			alive += t.weight
		}
	}
	if total > 0 {
		share := float64(alive) * 100 / float64(total)
		switch {
		case share < b.traits.PanicThreshold:
			// So few are left that they would break down too: better some failures
			// at each than all of the load on the last.
			v.targets = weighted(v.all)
		case b.rules != nil && share < b.rules.threshold:
			v.targets, closed = nil, true
		}
	}
	if b.method == stickySessions && !closed {
		v.sessions = b.sessions(v.all, v.targets)
	}
	v.targets = b.traits.nearby(v.targets, v.all)
	v.targets = b.traits.some(v.targets)
	v.weigh(time.Duration(b.traits.SlowStart*float64(time.Second)), time.Now())
	v.wheel = spread(v.weights)
	if b.method == consistentHashing {
		v.ring = ringOf(v.targets, pointsFor(b.traits.slots, v.all))
	}
	return v
}

// weighted answers every target that has a weight.
func weighted(all []*target) []*target {
	var list []*target
	for _, t := range all {
		if t.weight > 0 {
			list = append(list, t)
		}
	}
	return list
}

// nearby keeps the targets of the node's own zone, as long as half of the weight
// that the zone has is alive: fewer could not carry what the zone gets.
func (tr *traits) nearby(alive, all []*target) []*target {
	if !tr.ZonePreference || tr.zone == "" {
		return alive
	}
	total, near := 0, 0
	for _, t := range all {
		if t.zone == tr.zone {
			total += t.weight
		}
	}
	var list []*target
	for _, t := range alive {
		if t.zone == tr.zone {
			list = append(list, t)
			near += t.weight
		}
	}
	if near == 0 || near*2 < total {
		return alive
	}
	return list
}

// some keeps the subset that this node is to use, so that a large fleet of nodes
// does not hold connections to every target each. Nodes differ in their choice,
// and a target that dies is replaced by the next in the node's own order.
func (tr *traits) some(alive []*target) []*target {
	n := tr.Subset
	if n <= 0 || len(alive) <= n {
		return alive
	}
	rank := func(t *target) uint64 {
		h := newHash()
		h.text(tr.node)
		h.text(t.label)
		return h.sum()
	}
	order := slices.Clone(alive)
	slices.SortFunc(order, func(a, b *target) int { return cmp.Compare(rank(a), rank(b)) })
	chosen := order[:n]
	// In the document's order, as without a subset.
	return slices.DeleteFunc(slices.Clone(alive), func(t *target) bool { return !slices.Contains(chosen, t) })
}

// weigh fills in the weights: those of targets that came back or joined less than
// window ago grow in steps, from one tenth.
func (v *view) weigh(window time.Duration, now time.Time) {
	v.weights = make([]int, len(v.targets))
	warming := false
	for i, t := range v.targets {
		v.weights[i] = t.weight * warmSteps
		since := t.vitals.since.Load()
		if window <= 0 || since == 0 {
			continue
		}
		age := now.Sub(time.Unix(0, since))
		if age >= window {
			continue
		}
		step := max(0, int(age*warmSteps/window))
		v.weights[i] = t.weight * max(1, step)
		next := time.Unix(0, since).Add(window * time.Duration(step+1) / warmSteps)
		if !warming || next.Before(v.until) {
			v.until, warming = next, true
		}
	}
}

// spread lays indices on a wheel, each as often as its weight, as evenly as
// possible: the k-th turn of a target of weight w belongs at (k+1/2)/w of the
// round. Equal targets come in their own order. No run is longer than need be.
func spread(weights []int) []uint16 {
	weights = reduce(weights)
	type slot struct {
		at, of int // at (2k+1) of 2w
		index  uint16
	}
	var slots []slot
	for i, w := range weights {
		for k := range w {
			slots = append(slots, slot{2*k + 1, w, uint16(i)})
		}
	}
	slices.SortStableFunc(slots, func(a, b slot) int { return cmp.Compare(a.at*b.of, b.at*a.of) })
	wheel := make([]uint16, len(slots))
	for i, s := range slots {
		wheel[i] = s.index
	}
	return wheel
}

// reduce divides weights by their greatest common divisor and scales them down
// to maxWheel in sum; what has a weight keeps at least one turn.
func reduce(weights []int) []int {
	divisor, sum := 0, 0
	for _, w := range weights {
		for a, b := divisor, w; ; a, b = b, a%b {
			if b == 0 {
				divisor = a
				break
			}
		}
		sum += w
	}
	if divisor == 0 {
		return nil
	}
	out := make([]int, len(weights))
	sum /= divisor
	for i, w := range weights {
		w /= divisor
		if sum > maxWheel && w > 0 {
			w = max(1, w*maxWheel/sum)
		}
		out[i] = w
	}
	return out
}
