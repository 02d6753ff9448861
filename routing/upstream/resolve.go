package upstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// How long an answer of the resolver is used: as long as its records say, within
// bounds, and resolveFresh where nothing is said, as by a hosts file.
const (
	resolveFresh   = 30 * time.Second // looked up again after this
	resolveLeast   = time.Second      // a shorter time to live is taken for this
	resolveMost    = time.Hour        // and a longer one for this
	resolveLate    = 30 * time.Second // an answer is used this long beyond its time, while it is refreshed
	resolveStale   = time.Hour        // served this long while the resolver fails
	resolveFailed  = time.Second      // a failure is remembered this long
	resolveTimeout = 5 * time.Second  // for one look-up
	resolveUnused  = 5 * time.Minute  // a name that nobody asked for is forgotten
)

// Resolver is the part of net.Resolver that is used here.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// serviceResolver is a Resolver that knows SRV records too.
type serviceResolver interface {
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
}

// question is a name, and whether SRV records say where it is.
type question struct {
	host string
	srv  bool
}

// place is one address that a name leads to. Port and weight are those of an SRV
// record, and host its target; zero without one.
type place struct {
	addr   netip.Addr
	port   uint16
	weight int
	host   string
}

// names is a cache of resolved names. A name is looked up by the first request
// that needs it; later refreshes are done by Pools.Run while requests go on
// with what is known.
type names struct {
	resolver Resolver
	changes  atomic.Uint64 // counts changes of what is known

	mu    sync.Mutex
	known map[question]*name // guarded by mu
}

// name is one resolved name; its fields but used are guarded by names.mu.
type name struct {
	used    atomic.Int64  // when it was last asked for, in Unix nanoseconds
	places  []place       // last good answer, sorted, replaced whole
	good    time.Time     // when it came
	fresh   time.Duration // how long it is to be used
	looked  time.Time     // when the last look-up ended
	err     error         // of the last look-up
	pending chan struct{}
}

// touch keeps the name from being forgotten.
func (e *name) touch(now time.Time) { e.used.Store(now.UnixNano()) }

func newNames(r Resolver) *names {
	if r == nil {
		r = NewResolver(nil)
	}
	return &names{resolver: r, known: make(map[question]*name)}
}

// lookup answers the places of a name, at least one, or why there are none.
// It waits only when nothing usable is known.
func (n *names) lookup(ctx context.Context, q question) ([]place, error) {
	for {
		n.mu.Lock()
		now := time.Now()
		e := n.known[q]
		if e == nil {
			e = &name{}
			n.known[q] = e
		}
		e.touch(now)
		// Beyond the fresh time: Run refreshes at that, so that only a node whose
		// Run is late makes a request wait.
		if e.places != nil && (now.Sub(e.looked) < e.fresh+resolveLate || e.pending != nil) {
			places := e.places
			n.mu.Unlock()
			return places, nil
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
			return n.ask(ctx, q, e)
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
func (n *names) peek(q question) (e *name, places []place, lost bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	e = n.known[q]
	if e == nil {
		return nil, nil, false
	}
	return e, e.places, e.places == nil && e.err != nil
}

// ask looks the name up and settles the entry; e.pending is the caller's.
func (n *names) ask(ctx context.Context, q question, e *name) ([]place, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	var ttl lifetime
	found, err := n.find(ttl.watch(ctx), q)
	if err == nil && len(found) == 0 {
		err = errors.New("the name has no address")
	}
	now := time.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	close(e.pending)
	e.pending = nil
	if err == nil {
		if !slices.Equal(found, e.places) {
			n.changes.Add(1)
		}
		e.places, e.good, e.looked, e.err = found, now, now, nil
		e.fresh = ttl.least()
		return found, nil
	}
	if errors.Is(err, context.Canceled) {
		return nil, fmt.Errorf("resolving %s: %w", q.host, err) // the client left; it says nothing of the name
	}
	e.looked, e.err, e.fresh = now, fmt.Errorf("resolving %s: %w", q.host, err), resolveLeast
	if e.places != nil && now.Sub(e.good) < resolveStale {
		return e.places, nil
	}
	if e.places != nil {
		n.changes.Add(1)
	}
	e.places = nil
	return nil, e.err
}

// find asks the resolver: for SRV records where the question allows it, and for
// addresses where there are none.
func (n *names) find(ctx context.Context, q question) ([]place, error) {
	if r, ok := n.resolver.(serviceResolver); ok && q.srv {
		if _, records, err := r.LookupSRV(ctx, "", "", q.host); err == nil && len(records) > 0 {
			return n.services(ctx, records)
		}
	}
	addrs, err := n.resolver.LookupNetIP(ctx, "ip", q.host)
	if err != nil {
		return nil, err
	}
	places := make([]place, len(addrs))
	for i, a := range addrs {
		places[i] = place{addr: a.Unmap()}
	}
	return tidy(places), nil
}

// services answers the addresses of the SRV records of the best priority. A record
// whose name has no address is left out, as long as another one has.
func (n *names) services(ctx context.Context, records []*net.SRV) ([]place, error) {
	best := records[0].Priority
	for _, r := range records {
		best = min(best, r.Priority)
	}
	var places []place
	var failed error
	for _, r := range records {
		if r.Priority != best {
			continue
		}
		addrs, err := n.resolver.LookupNetIP(ctx, "ip", r.Target)
		if err != nil {
			failed = err
			continue
		}
		for _, a := range addrs {
			places = append(places, place{a.Unmap(), r.Port, max(1, int(r.Weight)), strings.TrimSuffix(r.Target, ".")})
		}
	}
	if len(places) == 0 && failed != nil {
		return nil, failed
	}
	return tidy(places), nil
}

// tidy sorts, so that servers that turn their answers around change nothing, and keeps
// each address and port once.
func tidy(places []place) []place {
	slices.SortFunc(places, func(a, b place) int {
		return cmp.Or(a.addr.Compare(b.addr), cmp.Compare(a.port, b.port), cmp.Compare(a.weight, b.weight), cmp.Compare(a.host, b.host))
	})
	return slices.CompactFunc(places, func(a, b place) bool { return a.addr == b.addr && a.port == b.port })
}

// refresh looks up again what is used and old, a few names at a time, and
// forgets what is not used. Called by Pools.Run only.
func (n *names) refresh(ctx context.Context) {
	type due struct {
		q     question
		entry *name
	}
	var todo []due
	now := time.Now()
	n.mu.Lock()
	for q, e := range n.known {
		switch {
		case e.pending != nil:
		case now.Sub(time.Unix(0, e.used.Load())) >= resolveUnused:
			delete(n.known, q)
			n.changes.Add(1)
		case e.places != nil && now.Sub(e.looked) >= e.fresh:
			e.pending = make(chan struct{})
			todo = append(todo, due{q, e})
		}
	}
	n.mu.Unlock()
	slots := make(chan struct{}, 8)
	var wait sync.WaitGroup
	for _, d := range todo {
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			_, _ = n.ask(ctx, d.q, d.entry) // the error stays in the entry
		})
	}
	wait.Wait()
}
