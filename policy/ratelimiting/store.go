package ratelimiting

import (
	"hash/maphash"
	"net/netip"
	"strings"
	"sync"
)

const (
	shards = 64
	// maxIdentities bounds the memory of a store, to some 200 bytes each: past it the
	// identity that would be forgotten soonest is forgotten now.
	maxIdentities = 1 << 20
	// sweepEvery is how often, in seconds, a shard that grows is cleared of what has ended.
	sweepEvery = 10
)

// store counts requests by plugin and identity. It outlives snapshots.
type store struct {
	seed   maphash.Seed
	most   int // identities per shard
	shards [shards]shard
}

type shard struct {
	mu sync.Mutex
	// guarded by mu
	counters map[key]*counter
	swept    int64 // when, in Unix seconds
}

// key is one identity of one plugin.
type key struct {
	plugin string
	id     string
	given  bool       // id is what limit_by asked for, possibly empty; else ip counts
	ip     netip.Addr // valid only then
}

// counter is the windows of one identity, in the order of the plugin's limits.
type counter struct {
	ends    int64 // when the last of its windows is over
	windows []window
}

// window is from start to before end, in Unix seconds.
type window struct {
	period     period
	start, end int64
	count      int64
}

// usage is what take tells of one limit.
type usage struct {
	count int64 // requests let through in the window, this one included
	end   int64 // of the window, in Unix seconds
}

func newStore(most int) *store {
	s := &store{seed: maphash.MakeSeed(), most: max(1, most/shards)}
	for i := range s.shards {
		s.shards[i].counters = make(map[key]*counter)
	}
	return s
}

func (s *store) shard(k *key) *shard {
	h := maphash.String(s.seed, k.id)
	if !k.given {
		b := k.ip.As16()
		h = maphash.Bytes(s.seed, b[:])
	}
	return &s.shards[h%shards]
}

// take counts one request in every window if none of them is full, in one step:
// however many requests come at once, no more than the limit get through. What is
// counted after that goes into used, which is as long as limits.
func (s *store) take(k key, limits []limit, now int64, used []usage) bool {
	sh := s.shard(&k)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	c := sh.counters[k]
	if c == nil {
		c = sh.add(k, s.most, now)
	}
	c.fit(limits)
	allowed := true
	for i := range limits {
		w := &c.windows[i]
		w.turn(now)
		c.ends = max(c.ends, w.end)
		used[i] = usage{w.count, w.end}
		allowed = allowed && w.count < limits[i].max
	}
	if !allowed {
		return false
	}
	for i := range limits {
		c.windows[i].count++
		used[i].count++
	}
	return true
}

// fit makes the windows those of limits; when the config has changed, what was
// counted in the periods that are still there stays counted.
func (c *counter) fit(limits []limit) {
	if len(c.windows) == len(limits) {
		same := true
		for i := range limits {
			same = same && c.windows[i].period == limits[i].period
		}
		if same {
			return
		}
	}
	old := c.windows
	c.windows = make([]window, len(limits))
	for i := range limits {
		c.windows[i].period = limits[i].period
		for _, w := range old {
			if w.period == limits[i].period {
				c.windows[i] = w
			}
		}
	}
}

// turn begins a new window when the old one is over. A request that began before
// the turn and comes to be counted after it is counted in the new window: to go
// back would forget what the new one has. A clock that was set back is told from
// that by how far it goes.
func (w *window) turn(now int64) {
	if now >= w.start && now < w.end || now < w.start && w.start-now <= 2*(w.end-w.start) {
		return
	}
	w.start, w.end, w.count = w.period.start(now), w.period.end(now), 0
}

// add makes room and a counter. The caller holds mu.
func (sh *shard) add(k key, most int, now int64) *counter {
	if now-sh.swept >= sweepEvery || now < sh.swept {
		sh.swept = now
		for k, c := range sh.counters {
			if c.ends <= now {
				delete(sh.counters, k)
			}
		}
	}
	if len(sh.counters) >= most {
		sh.evict()
	}
	// Why: the id is a part of a request's head or of a document, and would keep
	// the whole of it in memory.
	k.id = strings.Clone(k.id)
	c := &counter{}
	sh.counters[k] = c
	return c
}

// evict forgets the one of a few, which the map picks at random, that ends soonest.
func (sh *shard) evict() {
	const sample = 8
	var victim key
	var soonest *counter
	n := 0
	for k, c := range sh.counters {
		if soonest == nil || c.ends < soonest.ends {
			victim, soonest = k, c
		}
		if n++; n == sample {
			break
		}
	}
	delete(sh.counters, victim)
}
