package upstream

import (
	"net"
	"slices"
	"strconv"
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

	retryAt atomic.Int64 // when a trial may be made, in Unix nanoseconds; 0 for never
	trying  atomic.Bool  // one is under way
	pending atomic.Int32 // length of queue

	mu     sync.Mutex // guards the group below
	counts [2]counters
	trials int             // that failed in a row
	queue  []chan struct{} // who waits for a place, longest first
}

// source is who says something about a target's health. Each counts for itself.
type source uint8

const (
	byTraffic source = iota
	byProbe
	byOrder
)

// counters are events in a row.
type counters struct{ successes, http, tcp, timeouts int }

// event is one observation of a target.
type event uint8

const (
	eventSuccess event = iota
	eventStatus        // a status of the unhealthy list
	eventTCP           // no connection, or a broken one
	eventTimeout
)

// count takes an event in: a success forgets failures, and a failure successes.
func (c *counters) count(e event) {
	if e == eventSuccess {
		*c = counters{successes: c.successes + 1}
		return
	}
	c.successes = 0
	switch e {
	case eventStatus:
		c.http++
	case eventTCP:
		c.tcp++
	default:
		c.timeouts++
	}
}

// rules is how an upstream's targets are judged. Immutable.
type rules struct {
	threshold float64
	sides     [2]side
	active    *active // nil when nothing is probed
}

// side is how one source judges: limits of counters, of which 0 is "never", and the
// statuses that count.
type side struct {
	limits    counters
	good, bad statusSet
}

func newSide(h *spec.Healthy, u *spec.Unhealthy) side {
	s := side{limits: counters{h.Successes, u.HTTPFailures, u.TCPFailures, u.Timeouts}}
	s.good.add(h.HTTPStatuses)
	s.bad.add(u.HTTPStatuses)
	return s
}

// newRules answers nil when no counter is ever counted: the common case then
// pays nothing.
func newRules(h *spec.Healthchecks) *rules {
	p, a := &h.Passive, &h.Active
	r := &rules{threshold: h.Threshold, sides: [2]side{newSide(&p.Healthy, &p.Unhealthy), newSide(&a.Healthy, &a.Unhealthy)}}
	if a.Healthy.Interval > 0 || a.Unhealthy.Interval > 0 {
		r.active = newActive(a)
	}
	if r.sides[byTraffic].limits == (counters{}) && h.Threshold == 0 && r.active == nil {
		return nil
	}
	return r
}

func (r *rules) equal(o *rules) bool {
	if r == nil || o == nil {
		return r == o
	}
	return r.threshold == o.threshold && r.sides == o.sides && r.active.equal(o.active)
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
	switch side := &b.rules.sides[byTraffic]; {
	case side.good.has(status):
		b.judge(t, byTraffic, eventSuccess)
	case side.bad.has(status):
		b.judge(t, byTraffic, eventStatus)
	}
}

// failed counts a try that brought no response. Faults of the client never come here.
func (b *balancer) failed(t *target, f *fault) {
	if b.rules == nil || f.kind == faultClient || f.kind == faultHere {
		return
	}
	if f.timeout {
		b.judge(t, byTraffic, eventTimeout)
		return
	}
	b.judge(t, byTraffic, eventTCP)
}

// judge takes an event in and, when a limit is reached, changes the target's health.
func (b *balancer) judge(t *target, who source, e event) {
	limits, v := &b.rules.sides[who].limits, t.vitals
	reached := func(n, limit int) bool { return limit > 0 && n >= limit }
	v.mu.Lock()
	defer v.mu.Unlock()
	c := &v.counts[who]
	c.count(e)
	was := v.down.Load()
	switch {
	case reached(c.http, limits.http), reached(c.tcp, limits.tcp), reached(c.timeouts, limits.timeouts):
		b.settle(v, was, true, who)
	case was && reached(c.successes, limits.successes):
		b.settle(v, was, false, who)
	}
}

// order marks a target and all of its peers.
func (b *balancer) order(t *target, healthy bool) {
	b.mark(t, healthy)
	for _, m := range b.current().members(t) {
		b.mark(m, healthy)
	}
}

// mark sets a target's health by order and forgets what was counted.
func (b *balancer) mark(t *target, healthy bool) {
	v := t.vitals
	v.mu.Lock()
	v.counts = [2]counters{}
	v.retryAt.Store(0) // an order holds
	b.settle(v, v.down.Load(), !healthy, byOrder)
	v.mu.Unlock()
}

// settle changes a target's health, if it does change. v.mu is held.
func (b *balancer) settle(v *vitals, was, down bool, who source) {
	if was == down {
		return
	}
	v.counts, v.trials = [2]counters{}, 0
	v.retryAt.Store(0)
	switch {
	case !down:
		v.since.Store(time.Now().UnixNano())
		v.speed.forget()
	case who == byTraffic:
		b.rest(v)
	}
	if down {
		b.tally.ejected[who].Add(1)
	}
	v.down.Store(down)
	b.epoch.Add(1) // last: a view made after it knows all
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
		out = b.health(s.pools, out)
	}
	return out
}

// Overview is the health of one upstream.
type Overview struct {
	Serving bool // requests find a target
	Checked bool // something judges its targets
	Targets []Health
}

// Overview answers the health of an upstream by its id.
func (s *Set) Overview(upstreamID string) (Overview, bool) {
	b := s.named[upstreamID]
	if b == nil {
		return Overview{}, false
	}
	return Overview{Serving: len(b.current().wheel) > 0, Checked: b.rules != nil, Targets: b.health(s.pools, nil)}, true
}

// health appends an entry for each known address of each target.
func (b *balancer) health(p *Pools, out []Health) []Health {
	v := b.current()
	for _, t := range b.targets {
		for _, m := range v.members(t) {
			h := Health{Upstream: b.name, Target: t.name, State: b.state(m), Weight: m.weight, Open: m.vitals.open.Load()}
			if m.addr.IsValid() {
				h.Address = m.addr.String()
			} else if _, _, lost := p.names.peek(question{t.host, t.srv}); lost {
				h.State = DNSError
			}
			out = append(out, h)
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
	b, t := s.find(upstream, target)
	if t == nil {
		return false
	}
	b.order(t, healthy)
	return true
}

// MarkAddress is Mark for one address, ip:port, of those that the target has now.
func (s *Set) MarkAddress(upstream, target, address string, healthy bool) bool {
	b, t := s.find(upstream, target)
	if t == nil {
		return false
	}
	for _, m := range b.current().members(t) {
		if m.addr.IsValid() && m.addr.String() == address {
			b.mark(m, healthy)
			return true
		}
	}
	return false
}

// find answers a target with its balancer, nil for an unknown one.
func (s *Set) find(upstream, name string) (*balancer, *target) {
	i := slices.IndexFunc(s.sorted, func(b *balancer) bool { return b.id == upstream || b.name == upstream })
	if i < 0 {
		return nil, nil
	}
	if host, port, err := splitTarget(name); err == nil {
		name = net.JoinHostPort(host, strconv.Itoa(int(port)))
	}
	for _, t := range s.sorted[i].targets {
		if t.name == name {
			return s.sorted[i], t
		}
	}
	return nil, nil
}
