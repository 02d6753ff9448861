package upstream

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyway-edge/keyway/routing/spec"
)

// balancer spreads requests over the targets of one upstream. Everything but
// the view, the position and the targets' vitals is immutable after Build.
type balancer struct {
	name      string // of the Upstream, or host:port of a service without one
	id        string // of the Upstream, "" for a service without one
	named     bool   // an Upstream entity stands behind it
	method    method
	hash      hashing
	sticky    sticky
	hostField string // Host to send instead of the target's own, "" for none
	targets   []*target
	rules     *rules // passive health, nil when nothing is judged
	traits    traits

	// of is what it was made of, nil where more than that decides what it is. Builds alone use it.
	of   *spec.Upstream
	from []*spec.Target

	view    atomic.Pointer[view]
	turn    atomic.Uint64  // position on the wheel
	turns   sync.Mutex     // held while the view is made anew
	epoch   *atomic.Uint64 // counts changes of health; one for all generations of an upstream
	mean    *average       // response time of all targets together; likewise
	names   *names         // where targets have names; nil otherwise
	srvName bool           // the target of an SRV record is the host to ask for
	budget  *budget        // of retries; likewise
	tally   *tally         // likewise
}

// method is how a target is chosen.
type method uint8

const (
	roundRobin method = iota
	leastConnections
	consistentHashing
	fastest
	stickySessions
)

func methodOf(algorithm string) method {
	switch algorithm {
	case "least-connections":
		return leastConnections
	case "consistent-hashing":
		return consistentHashing
	case "latency":
		return fastest
	case "sticky-sessions":
		return stickySessions
	}
	return roundRobin
}

// target is one entry of an upstream: an address, or a name that resolves to some.
type target struct {
	name   string // host:port, unique in its balancer
	host   string
	port   uint16
	addr   netip.AddrPort // of a literal address; not valid for a name
	weight int
	zone   string               // where it runs, "" for unknown
	plain  string               // Host to send over http: without port 80
	secure string               // Host to send over https: without port 443
	label  string               // unique among all peers
	token  string               // what a cookie of sticky sessions calls it
	srv    bool                 // SRV records say where it is
	vitals *vitals              // outlives reloads
	source atomic.Pointer[name] // of a peer: what keeps it known

	family *family           // of a name; outlives reloads
	peers  map[place]*target // of a name; guarded by balancer.turns
	pools  atomic.Pointer[[]*stack]
}

// maxTargets is what an index on the wheel can name.
const maxTargets = 1 << 16

// wish is what a request brings to the choice of its target.
type wish struct {
	key   uint64 // hash of what consistent hashing looks at
	keyed bool   // there is a key
	tried []*target
}

// pick chooses the next target. Those already tried for this request come
// again only when nobody else is left. It answers nil when nobody is healthy.
func (b *balancer) pick(w wish) *target {
	v := b.current()
	if len(v.wheel) == 0 {
		return nil
	}
	switch {
	case b.method == consistentHashing && w.keyed:
		return v.onRing(w.key, w.tried)
	case b.method == leastConnections:
		return v.leastBusy(b.turn.Add(1)-1, w.tried)
	case b.method == fastest:
		return v.quickest(b.mean, w.tried)
	}
	return v.next(b.turn.Add(1)-1, w.tried)
}

// current answers the view, made anew if a target's health has changed since or a
// target that warms up is due for more. Whoever comes while another makes it uses
// the old one: nobody waits.
func (b *balancer) current() *view {
	v := b.view.Load()
	if v.epoch == b.stamp() && (v.until.IsZero() || time.Now().Before(v.until)) {
		return v
	}
	if !b.turns.TryLock() {
		return v
	}
	defer b.turns.Unlock()
	v = b.look()
	b.view.Store(v)
	return v
}

// respin makes the first view of a balancer.
func (b *balancer) respin() {
	b.turns.Lock()
	defer b.turns.Unlock()
	b.view.Store(b.look())
}
