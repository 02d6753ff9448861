package upstream

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keyway-edge/keyway/routing/spec"
)

// ring makes a balancer of targets 127.0.0.1:19901, 19902, ... with these weights.
func ring(weights ...int) *balancer {
	b := &balancer{name: "u", named: true, epoch: new(atomic.Uint64), mean: &average{}, budget: newBudget(20), tally: &tally{}}
	for i, w := range weights {
		name := fmt.Sprintf("127.0.0.1:%d", 19901+i)
		t := newTarget(name, "127.0.0.1", uint16(19901+i), w)
		t.vitals, t.family = &vitals{}, newFamily()
		b.targets = append(b.targets, t)
	}
	b.respin()
	return b
}

func picks(b *balancer, n int) []int {
	out := make([]int, n)
	for i := range out {
		if t := b.pick(wish{}); t != nil {
			out[i] = int(t.port)
		}
	}
	return out
}

func counts(b *balancer, n int) []int {
	c := make([]int, len(b.targets))
	for _, p := range picks(b, n) {
		if p != 0 {
			c[p-19901]++
		}
	}
	return c
}

// The counts are those that were recorded for these weights.
func TestRoundRobinCounts(t *testing.T) {
	f := func(n int, want []int, weights ...int) {
		t.Helper()
		if got := counts(ring(weights...), n); !slices.Equal(got, want) {
			t.Errorf("weights %v, %d requests: got %v, want %v", weights, n, got, want)
		}
	}
	f(1000, []int{334, 333, 333}, 100, 100, 100)
	f(1000, []int{100, 200, 700}, 10, 20, 70)
	f(300, []int{0, 150, 150}, 0, 50, 50)
	f(10, []int{0}, 0)
	f(10, []int{})
	f(65536*2, []int{65535 * 2, 2}, 65535, 1)
	f(7, []int{7}, 65535)
}

func TestRoundRobinIsSmooth(t *testing.T) {
	if got := picks(ring(100, 100, 100), 6); !slices.Equal(got, []int{19901, 19902, 19903, 19901, 19902, 19903}) {
		t.Errorf("equal weights: %v", got)
	}
	// Of 1:2:7, no target of 10 % may come twice in a row, and 70 % not 5 times.
	run, longest := 1, map[int]int{}
	seq := picks(ring(10, 20, 70), 100)
	for i := 1; i < len(seq); i++ {
		if run++; seq[i] != seq[i-1] {
			run = 1
		}
		longest[seq[i]] = max(longest[seq[i]], run)
	}
	if longest[19901] > 1 || longest[19902] > 1 || longest[19903] > 4 {
		t.Errorf("bursts %v in %v", longest, seq[:20])
	}
}

func TestPickAvoidsTheTried(t *testing.T) {
	b := ring(1, 98, 1)
	first := b.targets[1]
	tried := []*target{first}
	for range 3 {
		next := b.pick(wish{tried: tried})
		if len(tried) < 3 && slices.Contains(tried, next) {
			t.Fatalf("target %s came again before the others", next.name)
		}
		tried = append(tried, next)
	}
	if b.pick(wish{tried: tried}) == nil {
		t.Fatal("when all were tried, one of them must come again")
	}
}

func TestLeastConnectionsPrefersTheIdle(t *testing.T) {
	b := ring(100, 100, 200)
	b.method = leastConnections
	b.targets[0].vitals.open.Store(3)
	for range 6 {
		b.pick(wish{}).vitals.open.Add(1)
	}
	var open []int64
	for _, x := range b.targets {
		open = append(open, x.vitals.open.Load())
	}
	if !slices.Equal(open, []int64{3, 2, 4}) {
		t.Errorf("open requests %v", open)
	}
	b.targets[1].vitals.down.Store(true)
	b.epoch.Add(1)
	for range 5 {
		if b.pick(wish{tried: []*target{b.targets[2]}}) != b.targets[0] {
			t.Fatal("a target that is down or tried was picked")
		}
	}
}

func TestPickIsExactUnderConcurrency(t *testing.T) {
	b := ring(1, 2, 7)
	var n [3]atomic.Int64
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			for range 1000 {
				n[b.pick(wish{}).port-19901].Add(1)
			}
		})
	}
	wait.Wait()
	if n[0].Load() != 800 || n[1].Load() != 1600 || n[2].Load() != 5600 {
		t.Errorf("got %d %d %d of 8000", n[0].Load(), n[1].Load(), n[2].Load())
	}
}

// passive is the rule of the recordings: three bad statuses, two failures to
// connect or two timeouts take a target out; two good answers bring it back.
func passive(b *balancer) *balancer {
	h := spec.Healthchecks{Passive: spec.PassiveCheck{
		Healthy:   spec.Healthy{HTTPStatuses: []int{200, 201}, Successes: 2},
		Unhealthy: spec.Unhealthy{HTTPStatuses: []int{429, 500, 503}, HTTPFailures: 3, TCPFailures: 2, Timeouts: 2},
	}}
	b.rules = newRules(&h)
	return b
}

func TestPassiveChecksEjectAndReturn(t *testing.T) {
	b := passive(ring(100, 100))
	bad, good := b.targets[0], b.targets[1]
	b.answered(bad, 500)
	b.answered(bad, 500)
	b.answered(bad, 200) // forgets the failures
	b.answered(bad, 404) // in neither list
	b.answered(bad, 500)
	b.answered(bad, 503)
	if bad.vitals.down.Load() {
		t.Fatal("ejected before the third failure in a row")
	}
	b.answered(bad, 500)
	if !bad.vitals.down.Load() || counts(b, 10)[1] != 10 {
		t.Fatal("not ejected after three bad answers")
	}
	b.failed(good, &fault{kind: faultConnect, timeout: true})
	b.failed(good, &fault{kind: faultClient})
	b.failed(good, &fault{kind: faultConnect})
	if good.vitals.down.Load() {
		t.Fatal("a timeout and a refusal were counted together, or the client's fault was counted")
	}
	b.failed(good, &fault{kind: faultBroken})
	if !good.vitals.down.Load() || b.pick(wish{}) != nil {
		t.Fatal("with every target down there must be no pick")
	}
	b.answered(bad, 200)
	b.answered(bad, 200)
	if counts(b, 10)[0] != 10 {
		t.Fatal("two good answers must bring a target back")
	}
}

func TestThresholdClosesTheUpstream(t *testing.T) {
	b := ring(100, 100, 100)
	h := spec.Healthchecks{Threshold: 50}
	b.rules = newRules(&h)
	b.mark(b.targets[0], false)
	if counts(b, 10)[0] != 0 || b.pick(wish{}) == nil {
		t.Fatal("two of three are above half")
	}
	b.mark(b.targets[1], false)
	if b.pick(wish{}) != nil {
		t.Fatal("one of three is below half: the upstream must be closed")
	}
	b.mark(b.targets[1], true)
	if b.pick(wish{}) == nil {
		t.Fatal("not open again")
	}
}

// A request that still holds the previous generation judges a target that the
// next one shares.
func TestHealthReachesTheNextGeneration(t *testing.T) {
	old := passive(ring(100, 100))
	next := passive(ring(100, 100))
	next.epoch = old.epoch
	for i := range next.targets {
		next.targets[i].vitals = old.targets[i].vitals
	}
	for range 3 {
		old.answered(old.targets[0], 500)
	}
	if got := counts(next, 10); got[0] != 0 {
		t.Errorf("the next generation still sends %v", got)
	}
}

func BenchmarkPick(b *testing.B) {
	r := ring(100, 100, 100, 100)
	b.ReportAllocs()
	for b.Loop() {
		r.pick(wish{})
	}
}
