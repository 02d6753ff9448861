package upstream

import (
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyway-edge/keyway/routing/spec"
)

// vitals is what is known of one target's health and load. It is found again
// by upstream and target name when a Set is rebuilt.
type vitals struct {
	down atomic.Bool  // judged unhealthy
	open atomic.Int64 // requests between pick and the end of the response
	next atomic.Uint32

	since atomic.Int64 // when it came up last, in Unix nanoseconds; 0 if it always was
	speed average      // of response times; only where the algorithm asks

	mu        sync.Mutex // guards the counters
	successes int
	http      int
	tcp       int
	timeouts  int
}

// rules is how passive checks judge: limits of counters, of which 0 is "never",
// and the statuses that count. Immutable.
type rules struct {
	source    spec.PassiveCheck
	threshold float64
	good, bad statusSet
}

// newRules answers nil when no counter is ever counted: the common case then
// pays nothing.
func newRules(h *spec.Healthchecks) *rules {
	p := &h.Passive
	judges := p.Unhealthy.TCPFailures > 0 || p.Unhealthy.Timeouts > 0 || p.Unhealthy.HTTPFailures > 0 || p.Healthy.Successes > 0
	if !judges && h.Threshold == 0 {
		return nil
	}
	r := &rules{source: *p, threshold: h.Threshold}
	r.good.add(p.Healthy.HTTPStatuses)
	r.bad.add(p.Unhealthy.HTTPStatuses)
	return r
}

func (r *rules) equal(o *rules) bool {
	if r == nil || o == nil {
		return r == o
	}
	return r.threshold == o.threshold && reflect.DeepEqual(r.source, o.source)
}

// statusSet is a set of status codes 0..1023.
type statusSet [16]uint64

func (s *statusSet) add(codes []int) {
	for _, c := range codes {
		if c >= 0 && c < 1024 {
			s[c>>6] |= 1 << (c & 63)
		}
	}
}

func (s *statusSet) has(code int) bool {
	return code >= 0 && code < 1024 && s[code>>6]&(1<<(code&63)) != 0
}

// timed takes in how long a target took to answer, or to fail: a failure is as bad as
// a slow answer, or failing fast would draw traffic.
func (b *balancer) timed(t *target, began time.Time, failed bool) {
	if b.method != fastest {
		return
	}
	now := time.Now()
	took := now.Sub(began)
	if failed {
		took = max(took, time.Second)
	} else {
		b.mean.observe(took, now)
	}
	t.vitals.speed.observe(took, now)
}

// answered counts a response's status.
func (b *balancer) answered(t *target, status int) {
	if b.rules == nil {
		return
	}
	switch {
	case b.rules.good.has(status):
		b.judge(t, func(v *vitals) { v.successes++; v.http, v.tcp, v.timeouts = 0, 0, 0 })
	case b.rules.bad.has(status):
		b.judge(t, func(v *vitals) { v.http++; v.successes = 0 })
	}
}

// failed counts a try that brought no response. Faults of the client never come here.
func (b *balancer) failed(t *target, f *fault) {
	if b.rules == nil || f.kind == faultClient || f.kind == faultHere {
		return
	}
	if f.timeout {
		b.judge(t, func(v *vitals) { v.timeouts++; v.successes = 0 })
		return
	}
	b.judge(t, func(v *vitals) { v.tcp++; v.successes = 0 })
}

// judge changes a counter and, when a limit is reached, the target's health.
// A target that was judged unhealthy by traffic gets none any more, so only
// answers still under way or Mark bring it back.
func (b *balancer) judge(t *target, count func(*vitals)) {
	u, v := &b.rules.source.Unhealthy, t.vitals
	reached := func(n, limit int) bool { return limit > 0 && n >= limit }
	v.mu.Lock()
	count(v)
	was := v.down.Load()
	now := was
	switch {
	case reached(v.http, u.HTTPFailures), reached(v.tcp, u.TCPFailures), reached(v.timeouts, u.Timeouts):
		now = true
	case was && reached(v.successes, b.rules.source.Healthy.Successes):
		now = false
	}
	b.settle(v, was, now)
	v.mu.Unlock()
}

// mark sets a target's health by order and forgets what was counted.
func (b *balancer) mark(t *target, healthy bool) {
	v := t.vitals
	v.mu.Lock()
	v.successes, v.http, v.tcp, v.timeouts = 0, 0, 0, 0
	b.settle(v, v.down.Load(), !healthy)
	v.mu.Unlock()
}

// settle changes a target's health, if it does change. v.mu is held.
func (b *balancer) settle(v *vitals, was, down bool) {
	if was == down {
		return
	}
	if !down {
		v.since.Store(time.Now().UnixNano())
		v.speed.forget()
	}
	v.down.Store(down)
	b.epoch.Add(1)
}

// State is the health of a target, by the names that users of the format know.
type State string

// The states.
const (
	Unchecked State = "healthchecks_off" // nothing judges it
	Healthy   State = "healthy"
	Unhealthy State = "unhealthy" // it gets no traffic
	DNSError  State = "dns_error" // its name has no address
)

// Health is one address of one target, for status pages and metrics.
type Health struct {
	Upstream string // name of the upstream entity
	Target   string // host:port
	Address  string // ip:port; "" for a name that was not needed or not found yet
	State    State
	Weight   int
	Open     int64 // requests under way, of the whole target
}

// Health lists the targets of every upstream entity, in order of name, with one
// entry for each known address.
func (s *Set) Health() []Health {
	var out []Health
	for _, b := range s.sorted {
		for _, t := range b.targets {
			h := Health{Upstream: b.name, Target: t.name, State: b.state(t), Weight: t.weight, Open: t.vitals.open.Load()}
			if t.addr.IsValid() {
				h.Address = t.addr.String()
				out = append(out, h)
				continue
			}
			addrs, lost := s.pools.names.peek(t.host)
			if lost {
				h.State = DNSError
			}
			if len(addrs) == 0 {
				out = append(out, h)
			}
			for _, a := range addrs {
				h.Address = netip.AddrPortFrom(a, t.port).String()
				out = append(out, h)
			}
		}
	}
	return out
}

func (b *balancer) state(t *target) State {
	switch {
	case t.vitals.down.Load():
		return Unhealthy
	case b.rules == nil:
		return Unchecked
	}
	return Healthy
}

// Mark sets the health of a target by order, as an operator does who knows
// better: upstream is an id or a name, target its host:port. It answers false
// when there is no such target. The order lasts until checks judge otherwise.
func (s *Set) Mark(upstream, target string, healthy bool) bool {
	i := slices.IndexFunc(s.sorted, func(b *balancer) bool { return b.id == upstream || b.name == upstream })
	if i < 0 {
		return false
	}
	for _, t := range s.sorted[i].targets {
		if t.name == target {
			s.sorted[i].mark(t, healthy)
			return true
		}
	}
	return false
}
