package upstream

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/routing/spec"
)

// spreadOf makes a ring that balances by method, with traits edited by edit.
func spreadOf(m method, edit func(*traits), weights ...int) *balancer {
	b := ring(weights...)
	b.method, b.traits.slots = m, 10000
	if edit != nil {
		edit(&b.traits)
	}
	b.respin()
	return b
}

// chi2 is Pearson's statistic of counts against shares in the proportion of weights.
func chi2(counts, weights []int) float64 {
	n, total := 0, 0
	for i := range counts {
		n += counts[i]
		total += weights[i]
	}
	x := 0.0
	for i := range counts {
		want := float64(n) * float64(weights[i]) / float64(total)
		x += (float64(counts[i]) - want) * (float64(counts[i]) - want) / want
	}
	return x
}

// The keys of consistent hashing fall on targets by weight. The ring itself is
// uneven by about 1/sqrt(points), so that many keys would tell it from a fair draw:
// 2000 keys tell a wrong proportion and not the ring's grain. The bound is that of
// 1 in 1000 for two degrees of freedom.
func TestHashSpreadsByWeight(t *testing.T) {
	for _, weights := range [][]int{{100, 100, 100}, {10, 20, 70}, {1, 1, 2}, {65535, 65535, 65535}} {
		b := spreadOf(consistentHashing, nil, weights...)
		c := make([]int, 3)
		for i := range 2000 {
			h := newHash()
			h.text("key" + strconv.Itoa(i))
			c[b.pick(wish{key: h.sum(), keyed: true}).port-19901]++
		}
		if x := chi2(c, weights); x > 13.8 {
			t.Errorf("weights %v: %v, chi-square %.1f", weights, c, x)
		}
	}
}

// Two random choices among equals are even too.
func TestLatencySpreadsAmongEquals(t *testing.T) {
	b := spreadOf(fastest, nil, 100, 100, 100, 100)
	c := counts(b, 4000)
	if x := chi2(c, []int{1, 1, 1, 1}); x > 16.3 { // 1 in 1000 for three degrees of freedom
		t.Errorf("%v, chi-square %.1f", c, x)
	}
}

func TestOnlyTheKeysOfTheLostMove(t *testing.T) {
	b := spreadOf(consistentHashing, nil, 100, 100, 100, 100, 100)
	owner := func(i int, tried ...*target) uint16 {
		h := newHash()
		h.text(strconv.Itoa(i))
		return b.pick(wish{key: h.sum(), keyed: true, tried: tried}).port
	}
	before := map[int]uint16{}
	for i := range 3000 {
		before[i] = owner(i)
	}
	b.mark(b.targets[2], false)
	next := map[uint16]int{}
	for i := range 3000 {
		now := owner(i)
		if before[i] == 19903 {
			next[now]++
		} else if now != before[i] {
			t.Fatalf("key %d moved from %d to %d", i, before[i], now)
		}
	}
	if len(next) != 4 || next[19903] != 0 {
		t.Errorf("the keys of the lost target went to %v, want them spread over the other four", next)
	}
	b.mark(b.targets[2], true)
	for i := range 3000 {
		if owner(i) != before[i] {
			t.Fatalf("key %d did not come back", i)
		}
	}
	if owner(1, b.targets...) == 0 || owner(1, b.targets[before[1]-19901]) == before[1] {
		t.Error("a try after a failure must go elsewhere, and somewhere")
	}
}

// A removal by document keeps the other keys too.
func TestRemovalMovesOnlyItsKeys(t *testing.T) {
	three, two := spreadOf(consistentHashing, nil, 100, 100, 100), spreadOf(consistentHashing, nil, 100, 0, 100)
	for i := range 1000 {
		h := newHash()
		h.text(strconv.Itoa(i))
		w := wish{key: h.sum(), keyed: true}
		if was, now := three.pick(w).port, two.pick(w).port; was != 19902 && now != was {
			t.Fatalf("key %d moved from %d to %d", i, was, now)
		}
	}
}

func TestHashKeys(t *testing.T) {
	ask := func(u spec.Upstream, edit func(*exchange.Exchange, *Outgoing)) (uint64, bool, string) {
		h := hashingOf(&u)
		x, o := &exchange.Exchange{}, &Outgoing{}
		x.Request.Path = "/a"
		edit(x, o)
		return h.key(x, o)
	}
	none := func(*exchange.Exchange, *Outgoing) {}
	field := func(name, value string) func(*exchange.Exchange, *Outgoing) {
		return func(x *exchange.Exchange, _ *Outgoing) { x.Request.Fields.Add(name, value) }
	}
	query := func(q string) func(*exchange.Exchange, *Outgoing) {
		return func(x *exchange.Exchange, _ *Outgoing) { x.Request.Query = q }
	}
	client := func(a string) func(*exchange.Exchange, *Outgoing) {
		return func(_ *exchange.Exchange, o *Outgoing) { o.Client = netip.MustParseAddr(a) }
	}
	group := func(name, value string) func(*exchange.Exchange, *Outgoing) {
		return func(_ *exchange.Exchange, o *Outgoing) { o.Captures = []exchange.Capture{{Name: name, Value: value}} }
	}
	who := func(id string) func(*exchange.Exchange, *Outgoing) {
		return func(_ *exchange.Exchange, o *Outgoing) { o.Consumer = id }
	}
	for _, c := range []struct {
		u          spec.Upstream
		one, other func(*exchange.Exchange, *Outgoing)
	}{
		{spec.Upstream{HashOn: "header", HashOnHeader: "X-Key"}, field("x-key", "1"), field("X-Key", "2")},
		{spec.Upstream{HashOn: "cookie", HashOnCookie: "s"}, field("Cookie", "a=1; s=1"), field("Cookie", "s=2; a=1")},
		{spec.Upstream{HashOn: "query_arg", HashOnQueryArg: "q"}, query("p=1&q=1"), query("p=1&q=2")},
		{spec.Upstream{HashOn: "uri_capture", HashOnURICapture: "id"}, group("id", "1"), group("id", "2")},
		{spec.Upstream{HashOn: "ip"}, client("10.0.0.1"), client("10.0.0.2")},
		{spec.Upstream{HashOn: "consumer"}, who("a"), who("b")},
	} {
		a, ok, cookie := ask(c.u, c.one)
		again, _, _ := ask(c.u, c.one)
		b, _, _ := ask(c.u, c.other)
		if !ok || cookie != "" || a != again || a == b {
			t.Errorf("%s: %v %q %x %x %x", c.u.HashOn, ok, cookie, a, again, b)
		}
		_, ok, cookie = ask(c.u, none)
		if want := c.u.HashOn == "cookie"; ok != want || (cookie != "") != want {
			t.Errorf("%s absent: %v %q", c.u.HashOn, ok, cookie)
		}
		c.u.HashFallback = "path"
		if _, ok, _ := ask(c.u, none); !ok {
			t.Errorf("%s: the fallback was not used", c.u.HashOn)
		}
	}
	u := spec.Upstream{HashOn: "cookie", HashOnCookie: "s", HashOnCookiePath: "/c"}
	key, _, cookie := ask(u, none)
	value, rest, _ := strings.Cut(strings.TrimPrefix(cookie, "s="), ";")
	if sent, _, _ := ask(u, field("Cookie", "s="+value)); sent != key || rest != " Path=/c; SameSite=Lax; HttpOnly" {
		t.Errorf("the cookie %q does not lead back: %x, %x", cookie, sent, key)
	}
}

func TestLatencyPrefersTheQuick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := spreadOf(fastest, nil, 100, 100, 100)
		answer := func(i int, took time.Duration, failed bool) {
			began := time.Now()
			time.Sleep(took)
			b.timed(b.targets[i], began, failed)
		}
		answer(0, 200*time.Millisecond, false)
		answer(1, 10*time.Millisecond, false)
		answer(2, 10*time.Millisecond, false)
		if c := counts(b, 900); c[0] != 0 || c[1] < 200 || c[2] < 200 {
			t.Errorf("with a slow one: %v", c)
		}
		answer(1, time.Millisecond, true)
		if c := counts(b, 900); c[1] > 0 {
			t.Errorf("failing at once drew %v requests", c)
		}
		for range 60 { // the others go on; the bad news fades
			answer(0, 500*time.Millisecond, false)
			answer(2, 500*time.Millisecond, false)
		}
		if c := counts(b, 900); c[1] == 0 {
			t.Errorf("later: %v: a target that was slow must be tried again", c)
		}
		fresh := spreadOf(fastest, nil, 100, 100)
		fresh.timed(fresh.targets[0], time.Now().Add(-50*time.Millisecond), false)
		if d := delay(fresh.targets[1], fresh.mean, time.Now()); math.Abs(d-float64(50*time.Millisecond)) > 1e6 {
			t.Errorf("one that nobody asked is believed to take %v", time.Duration(d))
		}
	})
}

func TestSlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := spreadOf(roundRobin, func(tr *traits) { tr.SlowStart = 100 }, 100, 100)
		share := func() int { return counts(b, 1100)[0] }
		if n := share(); n != 550 {
			t.Fatalf("%d before", n)
		}
		both := spreadOf(roundRobin, func(tr *traits) { tr.SlowStart = 100 }, 100, 100)
		for _, x := range both.targets {
			time.Sleep(5 * time.Second)
			both.mark(x, false)
			both.mark(x, true)
		}
		if until := time.Until(both.current().until); until != 5*time.Second { // the first one's step is 10 s after it came
			t.Errorf("the next step is in %v, want 5s", until)
		}
		b.mark(b.targets[0], false)
		b.mark(b.targets[0], true)
		last := share() // a tenth of its weight: 1 of 11
		if last != 100 {
			t.Errorf("%d at once, want 100", last)
		}
		for range 9 {
			time.Sleep(10*time.Second + time.Millisecond)
			n := share()
			if n < last {
				t.Errorf("from %d to %d", last, n)
			}
			last = n
		}
		time.Sleep(11 * time.Second)
		if n := share(); n != 550 {
			t.Errorf("%d when warm, want 550", n)
		}
		if !b.view.Load().until.IsZero() {
			t.Error("the view is still made anew")
		}
	})
}

func TestZonePreference(t *testing.T) {
	b := ring(100, 100, 100, 100)
	b.targets[0].zone, b.targets[1].zone, b.targets[2].zone = "a", "a", "b"
	b.traits = traits{Balancing: spec.Balancing{ZonePreference: true}, zone: "a"}
	b.respin()
	want := func(when string, want ...int) {
		t.Helper()
		if c := counts(b, 120); !slices.Equal(c, want) {
			t.Errorf("%s: %v, want %v", when, c, want)
		}
	}
	want("all well", 60, 60, 0, 0)
	b.mark(b.targets[0], false)
	want("half of the zone", 0, 120, 0, 0)
	b.mark(b.targets[1], false)
	want("none of the zone", 0, 0, 60, 60)
	// One of three in the zone could not carry what the zone gets.
	few := ring(100, 100, 100, 100)
	for _, x := range few.targets[:3] {
		x.zone = "a"
	}
	few.traits = b.traits
	few.mark(few.targets[0], false)
	few.mark(few.targets[1], false)
	if c := counts(few, 120); !slices.Equal(c, []int{0, 0, 60, 60}) {
		t.Errorf("one of three in the zone: %v", c)
	}
	b.traits.zone = "c"
	b.respin()
	want("a zone without targets", 0, 0, 60, 60)
}

func TestSubset(t *testing.T) {
	weights := slices.Repeat([]int{100}, 20)
	used := func(node string) []int {
		b := spreadOf(roundRobin, func(tr *traits) { tr.Subset, tr.node = 5, node }, weights...)
		var list []int
		for i, n := range counts(b, 100) {
			if n > 0 {
				list = append(list, i)
			}
		}
		if len(list) != 5 {
			t.Fatalf("%s uses %v", node, list)
		}
		b.mark(b.targets[list[0]], false)
		replaced := 0
		for i, n := range counts(b, 100) {
			if n > 0 && !slices.Contains(list, i) {
				replaced++
			}
		}
		if replaced != 1 {
			t.Errorf("%s replaced %d of the dead one", node, replaced)
		}
		return list
	}
	total := make([]int, 20)
	for i := range 40 {
		for _, at := range used(fmt.Sprintf("node-%d", i)) {
			total[at]++
		}
	}
	if slices.Min(total) == 0 {
		t.Errorf("of 40 nodes, targets are used by %v: one by nobody", total)
	}
}

func TestPanicThreshold(t *testing.T) {
	b := spreadOf(roundRobin, func(tr *traits) { tr.PanicThreshold = 50 }, 100, 100, 100, 0)
	b.mark(b.targets[0], false)
	if c := counts(b, 100); c[0] != 0 {
		t.Errorf("two of three: %v", c)
	}
	b.mark(b.targets[1], false)
	if c := counts(b, 99); !slices.Equal(c, []int{33, 33, 33, 0}) {
		t.Errorf("one of three: %v, want all that have a weight", c)
	}
}

func TestPickAllocatesNothing(t *testing.T) {
	for _, m := range []method{roundRobin, leastConnections, consistentHashing, fastest} {
		b := spreadOf(m, nil, 100, 200, 300)
		tried := []*target{b.targets[0]}
		if n := testing.AllocsPerRun(100, func() { b.pick(wish{key: 42, keyed: true}); b.pick(wish{key: 42, keyed: true, tried: tried}) }); n > 0 && !raced {
			t.Errorf("method %d: %v allocations", m, n)
		}
	}
}

func BenchmarkPickBy(b *testing.B) {
	for name, m := range map[string]method{"least": leastConnections, "hash": consistentHashing, "latency": fastest} {
		b.Run(name, func(b *testing.B) {
			r := spreadOf(m, nil, slices.Repeat([]int{100}, 20)...)
			b.ReportAllocs()
			key := uint64(0)
			for b.Loop() {
				key += 0x9e3779b97f4a7c15
				r.pick(wish{key: key, keyed: true})
			}
		})
	}
}
