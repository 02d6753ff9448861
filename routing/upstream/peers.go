package upstream

import (
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

// A target whose host is a name stands for the places that the name leads to. Each is
// a target of its own, a peer, with its own health, load and connections. Until the
// name is resolved the target stands for itself, and the request that is sent to it
// looks the name up.

// family is what is known of the peers of one target, by address. It is found again
// by the target's name when a Set is rebuilt, so that two generations may use it at once.
type family struct {
	mu    sync.Mutex
	known map[netip.AddrPort]*vitals // guarded by mu
	begun bool                       // it had peers before; guarded by mu
}

func newFamily() *family { return &family{known: make(map[netip.AddrPort]*vitals)} }

// absolve takes back ejections by rules that are gone.
func (f *family) absolve() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, v := range f.known {
		v.absolve()
	}
}

// absolve takes back an ejection.
func (v *vitals) absolve() {
	v.down.Store(false)
	v.retryAt.Store(0)
}

// resolve gives the balancer the names, if it has targets with one.
func (b *balancer) resolve(n *names) {
	for _, t := range b.targets {
		if !t.addr.IsValid() {
			b.names = n
		}
	}
}

// stamp is what a view depends on: health, and the names where there are any.
func (b *balancer) stamp() uint64 {
	n := b.epoch.Load()
	if b.names != nil {
		n += b.names.changes.Load()
	}
	return n
}

// expand answers every target and peer. b.turns is held.
func (b *balancer) expand() []*target {
	if b.names == nil {
		return b.targets
	}
	var all []*target
	now := time.Now()
	for _, t := range b.targets {
		if t.addr.IsValid() {
			all = append(all, t)
			continue
		}
		source, places, _ := b.names.peek(question{t.host, t.srv})
		if len(places) == 0 {
			all = append(all, t)
			continue
		}
		all = append(all, b.peersOf(t, source, places, now)...)
	}
	return all[:min(len(all), maxTargets)]
}

// peersOf answers the peers of a target, those that were there before as they are:
// a request knows by them whom it has tried.
func (b *balancer) peersOf(t *target, source *name, places []place, now time.Time) []*target {
	t.family.mu.Lock()
	defer t.family.mu.Unlock()
	peers := make(map[place]*target, len(places))
	list := make([]*target, 0, len(places))
	for _, at := range places {
		p := t.peers[at]
		if p == nil {
			p = b.newPeer(t, at, now)
		}
		p.source.Store(source)
		peers[at] = p
		list = append(list, p)
	}
	t.peers = peers
	t.family.begun = true
	for addr := range t.family.known { // forget those that are gone
		if !containsAddr(list, addr) {
			delete(t.family.known, addr)
		}
	}
	return list
}

func containsAddr(list []*target, addr netip.AddrPort) bool {
	for _, p := range list {
		if p.addr == addr {
			return true
		}
	}
	return false
}

// newPeer makes a peer. t.family.mu is held.
func (b *balancer) newPeer(t *target, at place, now time.Time) *target {
	host, port, weight := t.host, t.port, t.weight
	if at.port != 0 {
		port = at.port
		if weight > 0 { // 0 says that this target is to get nothing, wherever it is
			weight = at.weight
		}
		if b.srvName {
			host = at.host
		}
	}
	p := newTarget(net.JoinHostPort(host, strconv.Itoa(int(port))), host, port, weight)
	p.name = t.name
	p.addr, p.zone = netip.AddrPortFrom(at.addr, port), t.zone
	p.label = peerLabel(t.name, p.addr)
	p.token = b.sticky.token(p.label)
	if p.vitals = t.family.known[p.addr]; p.vitals == nil {
		p.vitals = &vitals{}
		if t.family.begun {
			p.vitals.since.Store(now.UnixNano())
		}
		// An order about the target holds for addresses that come later.
		p.vitals.down.Store(t.vitals.down.Load())
		t.family.known[p.addr] = p.vitals
	}
	return p
}

// members answers the target as it is in a view: itself, or its peers.
func (v *view) members(t *target) []*target {
	if t.addr.IsValid() {
		return []*target{t}
	}
	var list []*target
	for _, p := range v.all {
		if p == t || p.name == t.name {
			list = append(list, p)
		}
	}
	return list
}
