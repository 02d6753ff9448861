package upstream

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// next is the target whose turn it is.
func (v *view) next(turn uint64, tried []*target) *target {
	n := uint64(len(v.wheel))
	first := v.targets[v.wheel[turn%n]]
	if len(tried) == 0 || !slices.Contains(tried, first) {
		return first
	}
	for i := range n {
		t := v.targets[v.wheel[(turn+i)%n]]
		if !slices.Contains(tried, t) {
			return t
		}
	}
	return first
}

// leastBusy is the target with the smallest (open requests + 1) / weight. Where
// several are equal the turn decides, so that idle targets share.
func (v *view) leastBusy(turn uint64, tried []*target) *target {
	var best, again *target
	var bestLoad, againLoad float64
	n := uint64(len(v.targets))
	for i := range n {
		at := (turn + i) % n
		t := v.targets[at]
		load := float64(t.vitals.open.Load()+1) / float64(v.weights[at])
		if len(tried) > 0 && slices.Contains(tried, t) {
			if again == nil || load < againLoad {
				again, againLoad = t, load
			}
			continue
		}
		if best == nil || load < bestLoad {
			best, bestLoad = t, load
		}
	}
	return cmp.Or(best, again)
}

// quickest draws two targets by weight and takes the one that would answer sooner:
// two random choices are nearly as good as looking at all, and no target is the
// best of all nodes at once.
func (v *view) quickest(mean *average, tried []*target) *target {
	a := v.draw(tried, nil)
	if a == nil {
		return v.targets[v.wheel[rand.Uint64N(uint64(len(v.wheel)))]]
	}
	b := v.draw(tried, a)
	if b == nil {
		return a
	}
	now := time.Now()
	if delay(b, mean, now) < delay(a, mean, now) {
		return b
	}
	return a
}

// draw picks a random place on the wheel, and from there the first target that was
// neither tried nor is other.
func (v *view) draw(tried []*target, other *target) *target {
	n := uint64(len(v.wheel))
	if len(v.targets) == 1 && other != nil {
		return nil
	}
	at := rand.Uint64N(n)
	for i := range n {
		t := v.targets[v.wheel[(at+i)%n]]
		if t != other && (len(tried) == 0 || !slices.Contains(tried, t)) {
			return t
		}
	}
	return nil
}

// delay is what a request sent to t now would have to wait, as far as known. One
// that nobody has asked yet is believed to be like the others.
func delay(t *target, mean *average, now time.Time) float64 {
	d := t.vitals.speed.at(now)
	if d == 0 {
		d = mean.at(now)
	}
	return max(d, 1) * float64(t.vitals.open.Load()+1)
}

// average is a moving average of durations that believes bad news at once: a
// value above it replaces it, and it decays with time. Safe for concurrent use;
// the zero value knows nothing.
type average struct {
	mu   sync.Mutex
	mean float64 // nanoseconds; guarded by mu
	last time.Time
}

// decay is the time constant of averages: what is older has lost two thirds of its say.
const decay = 10 * time.Second

// observe takes a duration in.
func (a *average) observe(d time.Duration, now time.Time) {
	x := float64(d)
	a.mu.Lock()
	defer a.mu.Unlock()
	old := math.Exp(-float64(now.Sub(a.last)) / float64(decay))
	if a.last.IsZero() || x > a.mean {
		a.mean = x
	} else {
		a.mean = a.mean*old + x*(1-old)
	}
	a.last = now
}

// at is the average at a time, 0 for unknown. Without news it fades, so that a
// target that was slow once is tried again.
func (a *average) at(now time.Time) float64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.last.IsZero() {
		return 0
	}
	return a.mean * math.Exp(-float64(now.Sub(a.last))/float64(decay))
}

// forget makes the average know nothing.
func (a *average) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mean, a.last = 0, time.Time{}
}
