package upstream

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
)

// balancer spreads requests over the targets of one upstream. Everything but
// the wheel, the position and the targets' vitals is immutable after Build.
type balancer struct {
	name      string // of the Upstream, or host:port of a service without one
	id        string // of the Upstream, "" for a service without one
	named     bool   // an Upstream entity stands behind it
	least     bool   // fewest open requests first, instead of the wheel
	hostField string // Host to send instead of the target's own, "" for none
	targets   []*target
	rules     *rules // passive health, nil when nothing is judged

	wheel atomic.Pointer[[]uint16] // indices of targets in the order of use; empty when nobody is healthy
	turn  atomic.Uint64            // position on the wheel
	turns sync.Mutex               // held while the wheel is made anew
	made  atomic.Uint64            // the epoch that the wheel was made in
	epoch *atomic.Uint64           // counts changes of health; one for all generations of an upstream
}

// target is one entry of an upstream: an address, or a name that resolves to some.
type target struct {
	name   string // host:port, unique in its balancer
	host   string
	port   uint16
	addr   netip.AddrPort // of a literal address; not valid for a name
	weight int
	plain  string  // Host to send over http: without port 80
	secure string  // Host to send over https: without port 443
	vitals *vitals // outlives reloads
	pools  atomic.Pointer[[]*stack]
}

// maxTargets is what an index on the wheel can name.
const maxTargets = 1 << 16

// maxWheel bounds the wheel: beyond it weights are scaled down, so that a share
// is off by at most one part in this many.
const maxWheel = 1 << 16

// respin makes the wheel anew from weights and health: at Build and after each
// change of a target's health, both rare. The change may have come from a
// request that still uses an older generation of this balancer.
func (b *balancer) respin() {
	b.turns.Lock()
	defer b.turns.Unlock()
	epoch := b.epoch.Load() // before health is read, so that no change is missed
	weights := make([]int, len(b.targets))
	total, alive := 0, 0
	for i, t := range b.targets {
		total += t.weight
		if !t.vitals.down.Load() {
			weights[i] = t.weight
			alive += t.weight
		}
	}
	if b.rules != nil && total > 0 && float64(alive)*100/float64(total) < b.rules.threshold {
		clear(weights)
	}
	w := spread(weights)
	b.wheel.Store(&w)
	b.made.Store(epoch)
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

// pick chooses the next target. Those already tried for this request come
// again only when nobody else is left. It answers nil when nobody is healthy.
func (b *balancer) pick(tried []*target) *target {
	if b.made.Load() != b.epoch.Load() {
		b.respin()
	}
	wheel := *b.wheel.Load()
	if len(wheel) == 0 {
		return nil
	}
	turn := b.turn.Add(1) - 1
	if b.least {
		return b.pickLeast(wheel, turn, tried)
	}
	first := b.targets[wheel[turn%uint64(len(wheel))]]
	if len(tried) == 0 || !slices.Contains(tried, first) {
		return first
	}
	for i := range wheel {
		t := b.targets[wheel[(turn+uint64(i))%uint64(len(wheel))]]
		if !slices.Contains(tried, t) {
			return t
		}
	}
	return first
}

// pickLeast chooses the smallest (open requests + 1) / weight. Where several
// are equal the turn decides, so that idle targets share.
func (b *balancer) pickLeast(wheel []uint16, turn uint64, tried []*target) *target {
	var best, again *target
	bestOpen, againOpen := int64(0), int64(0)
	n := uint64(len(b.targets))
	for i := range n {
		t := b.targets[(turn+i)%n]
		if t.weight == 0 || t.vitals.down.Load() {
			continue
		}
		open := t.vitals.open.Load() + 1
		if slices.Contains(tried, t) {
			if again == nil || open*int64(again.weight) < againOpen*int64(t.weight) {
				again, againOpen = t, open
			}
			continue
		}
		if best == nil || open*int64(best.weight) < bestOpen*int64(t.weight) {
			best, bestOpen = t, open
		}
	}
	if best == nil {
		best = again
	}
	if best == nil { // health changed since the wheel was read
		best = b.targets[wheel[turn%uint64(len(wheel))]]
	}
	return best
}
