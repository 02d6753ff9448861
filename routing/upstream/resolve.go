package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// How long an answer of the resolver is used. The standard resolver tells no
// time to live, so the refresh time is a fixed one that is short enough for
// names whose addresses move.
const (
	resolveFresh   = 30 * time.Second // looked up again after this
	resolveStale   = time.Hour        // served this long while the resolver fails
	resolveFailed  = time.Second      // a failure is remembered this long
	resolveTimeout = 5 * time.Second  // for one look-up
	resolveUnused  = 5 * time.Minute  // a name that nobody asked for is forgotten
)

// Resolver is the part of net.Resolver that is used here.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// names is a cache of resolved names. A name is looked up by the first request
// that needs it; later refreshes are done by Pools.Run while requests go on
// with what is known.
type names struct {
	resolver Resolver

	mu    sync.Mutex
	known map[string]*name // guarded by mu
}

// name is one resolved name; its fields are guarded by names.mu.
type name struct {
	addrs   []netip.Addr // last good answer, replaced whole
	good    time.Time    // when it came
	looked  time.Time    // when the last look-up ended
	used    time.Time    // when it was last asked for
	err     error        // of the last look-up
	pending chan struct{}
}

func newNames(r Resolver) *names {
	if r == nil {
		r = net.DefaultResolver
	}
	return &names{resolver: r, known: make(map[string]*name)}
}

// lookup answers the addresses of host, at least one, or why there are none.
// It waits only when nothing usable is known.
func (n *names) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	for {
		n.mu.Lock()
		now := time.Now()
		e := n.known[host]
		if e == nil {
			e = &name{}
			n.known[host] = e
		}
		e.used = now
		// Twice the fresh time: Run refreshes at the simple one, so that only a
		// node whose Run is late makes a request wait.
		if e.addrs != nil && (now.Sub(e.looked) < 2*resolveFresh || e.pending != nil) {
			addrs := e.addrs
			n.mu.Unlock()
			return addrs, nil
		}
		if e.err != nil && e.pending == nil && now.Sub(e.looked) < resolveFailed {
			err := e.err
			n.mu.Unlock()
			return nil, err
		}
		wait := e.pending
		if wait == nil {
			e.pending = make(chan struct{})
			n.mu.Unlock()
			return n.ask(ctx, host, e)
		}
		n.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// peek answers what is known of a name without asking, and whether the last
// look-up left nothing usable.
func (n *names) peek(host string) (addrs []netip.Addr, lost bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	e := n.known[host]
	if e == nil {
		return nil, false
	}
	return e.addrs, e.addrs == nil && e.err != nil
}

// ask looks the name up and settles the entry; e.pending is the caller's.
func (n *names) ask(ctx context.Context, host string, e *name) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	found, err := n.resolver.LookupNetIP(ctx, "ip", host)
	if err == nil && len(found) == 0 {
		err = errors.New("the name has no address")
	}
	for i := range found {
		found[i] = found[i].Unmap()
	}
	now := time.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	close(e.pending)
	e.pending = nil
	if err == nil {
		e.addrs, e.good, e.looked, e.err = found, now, now, nil
		return found, nil
	}
	if errors.Is(err, context.Canceled) {
		return nil, fmt.Errorf("resolving %s: %w", host, err) // the client left; it says nothing of the name
	}
	e.looked, e.err = now, fmt.Errorf("resolving %s: %w", host, err)
	if e.addrs != nil && now.Sub(e.good) < resolveStale {
		return e.addrs, nil
	}
	e.addrs = nil
	return nil, e.err
}

// refresh looks up again what is used and old, a few names at a time, and
// forgets what is not used. Called by Pools.Run only.
func (n *names) refresh(ctx context.Context) {
	type due struct {
		host  string
		entry *name
	}
	var todo []due
	now := time.Now()
	n.mu.Lock()
	for host, e := range n.known {
		switch {
		case e.pending != nil:
		case now.Sub(e.used) >= resolveUnused:
			delete(n.known, host)
		case e.addrs != nil && now.Sub(e.looked) >= resolveFresh:
			e.pending = make(chan struct{})
			todo = append(todo, due{host, e})
		}
	}
	n.mu.Unlock()
	slots := make(chan struct{}, 8)
	var wait sync.WaitGroup
	for _, d := range todo {
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			_, _ = n.ask(ctx, d.host, d.entry) // the error stays in the entry
		})
	}
	wait.Wait()
}
