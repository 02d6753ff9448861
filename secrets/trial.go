package secrets

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// TrialRule says when a new version has failed.
type TrialRule struct {
	Window   time.Duration // after its activation; 0 means 1 minute
	Failures int           // least number of failures; 0 turns trials off
	Share    float64       // of failures among all uses; 0 means one half
}

// Trial counts how the uses of a new version end in its first minute. Its methods
// may be called by any goroutine, take no lock but for failures that peers tell of, and
// do nothing on nil.
type Trial struct {
	until     time.Time
	rule      TrialRule
	good, bad atomic.Int64
	tripped   atomic.Bool
	notify    func()

	mu    sync.Mutex // guards peers
	peers map[netip.Addr]struct{}
}

// mostPeers is how many peers may speak against a version: many more than it takes
// where uses are few, and a bound on what is remembered of strangers.
const mostPeers = 4096

// NewTrial begins a trial. notify is called once, when it fails, and must not block.
func NewTrial(began time.Time, rule TrialRule, notify func()) *Trial {
	if rule.Failures <= 0 {
		return nil
	}
	if rule.Window <= 0 {
		rule.Window = time.Minute
	}
	if rule.Share == 0 {
		rule.Share = 0.5
	}
	return &Trial{until: began.Add(rule.Window), rule: rule, notify: notify}
}

// Good counts a use that ended well.
func (t *Trial) Good() {
	if t != nil {
		t.good.Add(1)
	}
}

// Bad counts a use that the version is to blame for.
func (t *Trial) Bad() {
	if t == nil || t.tripped.Load() {
		return
	}
	bad := t.bad.Add(1)
	if bad < int64(t.rule.Failures) || float64(bad) < t.rule.Share*float64(bad+t.good.Load()) || time.Now().After(t.until) {
		return
	}
	if t.tripped.CompareAndSwap(false, true) && t.notify != nil {
		t.notify()
	}
}

// BadFrom counts a use that failed by a peer's word, which costs the peer nothing:
// each address speaks once, and a network of IPv6 (/64), which one host may have to
// itself, like one address.
func (t *Trial) BadFrom(peer netip.Addr) {
	if t == nil || t.tripped.Load() || time.Now().After(t.until) {
		return
	}
	if peer = peer.Unmap().WithZone(""); peer.Is6() {
		net, _ := peer.Prefix(64) // 64 is a length that it has
		peer = net.Addr()
	}
	t.mu.Lock()
	_, again := t.peers[peer]
	if !again && len(t.peers) < mostPeers {
		if t.peers == nil {
			t.peers = map[netip.Addr]struct{}{}
		}
		t.peers[peer] = struct{}{}
	} else {
		again = true
	}
	t.mu.Unlock()
	if !again {
		t.Bad()
	}
}

// On says that uses are watched at now.
func (t *Trial) On(now time.Time) bool { return t != nil && now.Before(t.until) && !t.tripped.Load() }

// Tripped says that the version failed.
func (t *Trial) Tripped() bool { return t != nil && t.tripped.Load() }

// Counts are the uses so far.
func (t *Trial) Counts() (good, bad int64) {
	if t == nil {
		return 0, 0
	}
	return t.good.Load(), t.bad.Load()
}
