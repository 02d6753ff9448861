package telemetry

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/secrets"
)

// Events counts what sources, issuers and operators do beside the rotations that a
// build reports: logins, orders, pins, rollbacks, sources that go and come back. The
// zero value is ready, so that it counts from before there is a Telemetry. Safe for
// concurrent use; a nil one counts nothing.
type Events struct {
	mu     sync.Mutex
	counts map[eventKey]uint64
	lost   uint64
}

type eventKey struct{ kind, result string }

// Add counts an event, and with lost that the ledger could not take it.
func (e *Events) Add(event secrets.Event, lost bool) {
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.counts == nil {
		e.counts = map[eventKey]uint64{}
	}
	e.counts[eventKey{event.Kind, event.Result}]++
	if lost {
		e.lost++
	}
}

func (e *Events) ledgerFailures() uint64 {
	if e == nil {
		return 0
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.lost
}

func (c *collector) events(out chan<- prometheus.Metric) {
	e := c.t.opts.Events
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for k, n := range e.counts {
		emit(out, "keyway_events_total", "Events of sources, issuers and operators, which the ledger has too", prometheus.CounterValue, float64(n), labels{"kind", k.kind, "result", k.result})
	}
}

// Issuer is how an issuer that orders certificates does.
type Issuer struct {
	Name           string
	Issued, Failed uint64    // orders of this node
	Failing        int       // sets of names whose last order failed
	Next           time.Time // of the next order, zero for none
}

// issuers samples the issuers that order certificates.
func (c *collector) issuers(out chan<- prometheus.Metric, now time.Time) {
	if c.t.opts.Issuers == nil {
		return
	}
	for _, x := range c.t.opts.Issuers() {
		const orders = "Orders for certificates that ended, at this node"
		emit(out, "keyway_issuer_orders_total", orders, prometheus.CounterValue, float64(x.Issued), labels{"issuer", x.Name, "result", "issued"})
		emit(out, "keyway_issuer_orders_total", orders, prometheus.CounterValue, float64(x.Failed), labels{"issuer", x.Name, "result", "failed"})
		l := labels{"issuer", x.Name}
		emit(out, "keyway_issuer_failing", "Sets of names whose last order failed", prometheus.GaugeValue, float64(x.Failing), l)
		if !x.Next.IsZero() {
			emit(out, "keyway_issuer_next_order_seconds", "Time until the next order, a renewal or another try; negative while it waits", prometheus.GaugeValue, x.Next.Sub(now).Seconds(), l)
		}
	}
}

// KeyRing is how the keys of one use stand.
type KeyRing struct {
	Use string // tickets or ech
	certs.RingStatus
}

// keys samples the keys that sessions and Encrypted Client Hello are sealed with.
func (c *collector) keys(out chan<- prometheus.Metric, now time.Time) {
	if c.t.opts.Keys == nil {
		return
	}
	for _, k := range c.t.opts.Keys() {
		l := labels{"use", k.Use}
		emit(out, "keyway_tls_keys", "Keys that are accepted", prometheus.GaugeValue, float64(k.Keys), l)
		emit(out, "keyway_tls_key_age_seconds", "Time since the key in use became that", prometheus.GaugeValue, now.Sub(k.Since).Seconds(), l)
		emit(out, "keyway_tls_key_next_seconds", "Time until the next key takes its place", prometheus.GaugeValue, k.Next.Sub(now).Seconds(), l)
		emit(out, "keyway_tls_keys_unshared", "1 while the keys of replicas cannot be read", prometheus.GaugeValue, one(k.Error != ""), l)
	}
}

// Upgrades is how it stands with hot upgrades. Results count over all processes that had
// the node's place one after the other.
type Upgrades struct {
	Results         map[string]uint64 // handed_over, failed, refused
	Running         bool              // one is under way
	Draining        int               // older processes that have not finished yet
	Forwarded, Lost uint64            // datagrams for them
}

// upgrades samples hot upgrades.
func (c *collector) upgrades(out chan<- prometheus.Metric) {
	if c.t.opts.Upgrades == nil {
		return
	}
	u := c.t.opts.Upgrades()
	for result, n := range u.Results {
		emit(out, "keyway_upgrades_total", "Hot upgrades by how they ended", prometheus.CounterValue, float64(n), labels{"result", result})
	}
	emit(out, "keyway_upgrade_running", "1 while a new process prepares to take over", prometheus.GaugeValue, one(u.Running), nil)
	emit(out, "keyway_upgrade_draining_processes", "Older processes that still finish what they had", prometheus.GaugeValue, float64(u.Draining), nil)
	const forwarded = "Datagrams that came for older processes"
	emit(out, "keyway_upgrade_datagrams_total", forwarded, prometheus.CounterValue, float64(u.Forwarded), labels{"result", "forwarded"})
	emit(out, "keyway_upgrade_datagrams_total", forwarded, prometheus.CounterValue, float64(u.Lost), labels{"result", "lost"})
}
