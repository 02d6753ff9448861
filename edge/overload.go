package edge

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/routing/spec"
)

// Reasons of answering a request with 503 without looking at it, as metrics have them.
const (
	ShedRequests = "max_requests"
	ShedClient   = "max_requests_per_client"
	ShedRoute    = "x_keyway_max_requests"
	ShedMemory   = "memory_limit"
)

// Overload refuses work that the node has no room for, before it is begun: a client
// that is told at once to come again is better off than one that waits, and a process
// that refuses some requests than one that is killed. The zero value limits nothing.
type Overload struct {
	// MaxRequests is how many requests may be in flight, 0 for no limit.
	MaxRequests int
	// PerClient is how many of them one client address may have, or one /64 of IPv6, 0
	// for no limit.
	PerClient int
	// Memory is how many bytes the process may take, 0 for no guard. From nine tenths
	// on new requests and connections are refused, until it is below eight tenths.
	Memory int64
	Log    *slog.Logger

	inFlight atomic.Int64
	short    atomic.Bool // of memory
	used     func() int64
	free     func() // gives back to the system what is not used
	freed    time.Time
	shed     [4]atomic.Uint64

	mu      sync.Mutex // guards clients
	clients map[netip.Addr]int
}

// Shed is how many requests were answered with 503, by reason; reasons without any are left out.
func (o *Overload) Shed() map[string]uint64 {
	counts := make(map[string]uint64)
	for i, reason := range shedReasons {
		if n := o.shed[i].Load(); n > 0 {
			counts[reason] = n
		}
	}
	return counts
}

var shedReasons = [...]string{ShedRequests, ShedClient, ShedRoute, ShedMemory}

func (o *Overload) refused(reason string) {
	for i, r := range shedReasons {
		if r == reason {
			o.shed[i].Add(1)
		}
	}
}

// enter counts a request of a client in; if there is no room it answers why.
func (o *Overload) enter(client netip.Addr) (why string) {
	switch n := o.inFlight.Add(1); {
	case o.short.Load():
		why = ShedMemory
	case o.MaxRequests > 0 && n > int64(o.MaxRequests):
		why = ShedRequests
	case o.PerClient > 0 && !o.enterClient(client):
		why = ShedClient
	default:
		return ""
	}
	o.inFlight.Add(-1)
	o.refused(why)
	return why
}

// leave counts it out.
func (o *Overload) leave(client netip.Addr) {
	o.inFlight.Add(-1)
	if o.PerClient <= 0 {
		return
	}
	client = network(client)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.clients[client]--; o.clients[client] <= 0 {
		delete(o.clients, client)
	}
}

// enterClient counts a request in, unless its client has as many as it may.
func (o *Overload) enterClient(client netip.Addr) bool {
	client = network(client)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.clients[client] >= o.PerClient {
		return false
	}
	if o.clients == nil {
		o.clients = make(map[netip.Addr]int)
	}
	o.clients[client]++
	return true
}

// Short says that memory is short: nothing new may begin.
func (o *Overload) Short() bool { return o != nil && o.short.Load() }

// memoryLook is how often memory is looked at. A look takes microseconds.
const memoryLook = 50 * time.Millisecond

// Run watches the memory of the process until ctx ends.
func (o *Overload) Run(ctx context.Context) error {
	if o.Memory <= 0 {
		<-ctx.Done()
		return nil
	}
	if o.used == nil {
		o.used, o.free = memoryInUse(), debug.FreeOSMemory
	}
	tick := time.NewTicker(memoryLook)
	defer tick.Stop()
	for {
		o.look()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// look decides anew whether memory is short.
func (o *Overload) look() {
	used := o.used()
	if now := time.Now(); o.short.Load() && now.Sub(o.freed) >= time.Second {
		// Without traffic nothing collects what the last requests left behind.
		o.free()
		o.freed, used = now, o.used()
	}
	switch was := o.short.Load(); {
	case !was && used >= o.Memory/10*9:
		o.short.Store(true)
		o.Log.Warn("memory is short: new requests are answered 503 and new connections closed", slog.Int64("bytes", used), slog.Int64("memory_limit", o.Memory))
	case was && used < o.Memory/10*8:
		o.short.Store(false)
		o.Log.Info("memory suffices again", slog.Int64("bytes", used), slog.Int64("memory_limit", o.Memory))
	}
}

// memoryInUse answers a function that says what the process takes: everything that
// the runtime has mapped but for what it gave back to the system.
func memoryInUse() func() int64 {
	samples := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	return func() int64 {
		metrics.Read(samples)
		return int64(samples[0].Value.Uint64() - samples[1].Value.Uint64()) //nolint:gosec // far below 2^63
	}
}

// retryAfter tells a client when to come again: whatever there is no room for may go a second later.
var retryAfter = exchange.Field{Name: "Retry-After", Value: "1"}

// busy answers a request that there is no room for.
func busy(why string) *policy.Reply {
	reply := policy.ErrorReply(http.StatusServiceUnavailable, "The node takes no more requests at the moment")
	switch why {
	case ShedRoute:
		reply = policy.ErrorReply(http.StatusServiceUnavailable, "The route takes no more requests at the moment")
	case ShedClient:
		reply = policy.ErrorReply(http.StatusServiceUnavailable, "The node takes no more requests of this client at the moment")
	}
	reply.Fields = append(reply.Fields, retryAfter)
	return reply
}

// routeLimit counts the requests of a route that are in flight, from one snapshot to the next.
type routeLimit struct {
	inFlight atomic.Int64
}

// routeLimits are those of the routes that have one, by id.
func (w *build) routeLimits() map[string]*routeLimit {
	limits := make(map[string]*routeLimit)
	for _, r := range w.in.Document.Routes {
		if r.MaxRequests == nil {
			continue
		}
		if w.prev != nil && w.prev.limits[r.ID] != nil {
			limits[r.ID] = w.prev.limits[r.ID]
			continue
		}
		limits[r.ID] = new(routeLimit)
	}
	return limits
}

// enter counts a request in, unless the route has as many as it may.
func (l *routeLimit) enter(r *spec.Route) bool {
	if l.inFlight.Add(1) <= int64(*r.MaxRequests) {
		return true
	}
	l.inFlight.Add(-1)
	return false
}
