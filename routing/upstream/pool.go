package upstream

import (
	"context"
	"crypto/tls"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Settings of Pools. The zero value of a field means its default.
type Settings struct {
	PoolSize      int           // idle connections kept per identity; 512
	IdleTotal     int           // idle connections kept in all; 16384
	MaxRequests   int           // requests on one connection; 10000
	IdleTimeout   time.Duration // an idle connection is closed after this; 60 s
	SpoolDir      string        // where request bodies beyond SpoolAfter wait; the system's folder
	SpoolAfter    int           // bytes of a buffered request body held in memory; 1 MiB
	Resolver      Resolver      // nil for the system's
	VerifyDefault bool          // verify origins where a service's tls_verify is null; false
	Zone          string        // where this node runs, for zone preference; "" for unknown
	Node          string        // id of this node, by which nodes choose different subsets
}

func (s *Settings) fill() {
	or := func(v *int, def int) {
		if *v == 0 {
			*v = def
		}
	}
	or(&s.PoolSize, 512)
	or(&s.IdleTotal, 16384)
	or(&s.MaxRequests, 10000)
	or(&s.SpoolAfter, 1<<20)
	if s.IdleTimeout == 0 {
		s.IdleTimeout = 60 * time.Second
	}
}

// identity is everything that two connections must share to be
// interchangeable. A name a connection was verified for is part of it.
type identity struct {
	addr   netip.AddrPort
	proto  string // "h2" for connections that requests share, "" for HTTP/1.1
	secure bool
	server string // name in the handshake and on the certificate
	trust  string // fingerprint of the roots and how they are used
	client string // fingerprint of the client certificate, "" for none
}

// Pools holds what outlives a Set: idle connections by identity, TLS sessions
// and resolved names. Safe for concurrent use.
type Pools struct {
	set      Settings
	names    *names
	sessions tls.ClientSessionCache // keys begin with the identity
	idle     atomic.Int64
	buffers  sync.Pool // of *[bufferSize]byte

	mu     sync.Mutex
	stacks map[identity]*stack // guarded by mu
	closed bool                // guarded by mu

	flows  sync.WaitGroup       // goroutines of shared connections
	shared map[*h2conn]struct{} // guarded by mu
	ended  bool                 // guarded by mu: no flow begins
}

// NewPools makes empty pools; it starts nothing.
func NewPools(s Settings) *Pools {
	s.fill()
	return &Pools{
		set:      s,
		names:    newNames(s.Resolver),
		sessions: tls.NewLRUClientSessionCache(4096),
		stacks:   make(map[identity]*stack),
		shared:   make(map[*h2conn]struct{}),
	}
}

// sweepEvery is how often Run looks.
const sweepEvery = 5 * time.Second

// Run closes connections whose idle time is up, forgets identities that nobody
// uses and refreshes resolved names, until ctx ends. Then it closes the pools and
// ends the connections that requests share.
func (p *Pools) Run(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	look := time.NewTicker(resolveLeast)
	defer look.Stop()
	defer p.end()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			p.sweep(now)
		case <-look.C:
			p.names.refresh(ctx)
		}
	}
}

// Close closes every idle connection. Connections in use are closed when their
// exchanges end.
func (p *Pools) Close() {
	p.mu.Lock()
	p.closed = true
	stacks := p.stacks
	p.stacks = make(map[identity]*stack)
	p.mu.Unlock()
	for _, s := range stacks {
		s.retire()
	}
}

// Stats are counts for metrics.
type Stats struct {
	Identities int // distinct identities with a pool
	Idle       int // idle connections
}

// Stats answers the present counts.
func (p *Pools) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Stats{len(p.stacks), int(p.idle.Load())}
}

// maxIdentities bounds what clients can make this node remember: with a preserved
// Host, the name in an origin's handshake is the client's to choose.
const maxIdentities = 16 << 10

// stack answers the pool of an identity, a new one if need be.
func (p *Pools) stack(id identity) *stack {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stacks[id]
	if s == nil {
		s = &stack{pools: p, id: id, used: time.Now()}
		if p.closed || len(p.stacks) >= maxIdentities {
			s.retired.Store(true) // its connections serve one request each
		} else {
			p.stacks[id] = s
		}
	}
	return s
}

func (p *Pools) sweep(now time.Time) {
	p.mu.Lock()
	stacks := make([]*stack, 0, len(p.stacks))
	for _, s := range p.stacks {
		stacks = append(stacks, s)
	}
	p.mu.Unlock()
	p.sweepStray(now)
	for _, s := range stacks {
		if unshared := s.sweepShared(now); !s.expire(now) || !unshared {
			continue
		}
		p.mu.Lock()
		delete(p.stacks, s.id)
		p.mu.Unlock()
		s.retire()
	}
}

// stack is the idle connections of one identity, last in first out: those on
// top are warm, those at the bottom grow old and are closed.
type stack struct {
	pools   *Pools
	id      identity
	retired atomic.Bool // gone from Pools: look it up anew

	config sync.Once // makes tls
	tls    *tls.Config

	mu   sync.Mutex
	idle []*conn   // guarded by mu
	used time.Time // guarded by mu: last take or put, or when it was made

	shared  []*h2conn // guarded by mu
	dialing *h2dial   // guarded by mu: the connection that is being opened, nil for none
	room    int       // guarded by mu: streams that the last connection took
}

// stackUnused is how long an empty stack is remembered.
const stackUnused = 5 * time.Minute

// take answers the warmest connection, nil if there is none. It may have died meanwhile.
func (s *stack) take(now time.Time) *conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.idle)
	if n == 0 {
		return nil
	}
	c := s.idle[n-1]
	if now.Sub(c.idleSince) >= s.pools.set.IdleTimeout {
		return nil // all below are older still; the sweep closes them
	}
	s.idle[n-1] = nil
	s.idle = s.idle[:n-1]
	s.pools.idle.Add(-1)
	return c
}

// put keeps a connection for later use, or closes it when there are enough.
func (s *stack) put(c *conn, now time.Time) {
	c.idleSince = now
	s.mu.Lock()
	full := len(s.idle) >= s.pools.set.PoolSize || s.pools.idle.Load() >= int64(s.pools.set.IdleTotal)
	if full || s.retired.Load() {
		s.mu.Unlock()
		c.close()
		return
	}
	s.idle = append(s.idle, c)
	s.used = now
	s.pools.idle.Add(1)
	s.mu.Unlock()
}

// restAfter is how long an idle connection keeps its buffer at the least.
const restAfter = time.Second

// expire closes what has been idle too long and says whether the stack itself
// has been empty for long enough to be forgotten.
func (s *stack) expire(now time.Time) bool {
	s.mu.Lock()
	old := 0
	for old < len(s.idle) && now.Sub(s.idle[old].idleSince) >= s.pools.set.IdleTimeout {
		old++
	}
	gone := append([]*conn(nil), s.idle[:old]...)
	s.idle = append(s.idle[:0], s.idle[old:]...)
	for _, c := range s.idle {
		if now.Sub(c.idleSince) >= restAfter {
			c.rest(s.pools)
		}
	}
	clear(s.idle[len(s.idle):cap(s.idle)])
	s.pools.idle.Add(int64(-old))
	unused := len(s.idle) == 0 && now.Sub(s.used) >= stackUnused
	s.mu.Unlock()
	for _, c := range gone {
		c.close()
	}
	return unused
}

// retire closes everything and lets nothing in again.
func (s *stack) retire() {
	s.mu.Lock()
	s.retired.Store(true)
	gone := s.idle
	s.idle = nil
	s.pools.idle.Add(int64(-len(gone)))
	shared := slices.Clone(s.shared)
	s.mu.Unlock()
	for _, c := range shared {
		c.drain()
	}
	for _, c := range gone {
		c.close()
	}
}
