package edge

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// TestOverloadOfRequests: beyond its limit the node answers 503 at once, and no request
// that is over counts.
func TestOverloadOfRequests(t *testing.T) {
	r := newRig(t, &Config{}, "routes: [{name: r, paths: [/]}]\n")
	o := &Overload{MaxRequests: 2, Log: silent()}
	r.handler.Guard(o)
	begin := func() *exchange.Exchange {
		x := ask(t, "GET", "a.test", "/")
		r.handler.Handle(x)
		return x
	}
	a, b, c := begin(), begin(), begin()
	if a.Response.Status == 503 && a.Response.Fields.Has("Retry-After") || b.Response.Fields.Has("Retry-After") {
		t.Error("a request within the limit was refused")
	}
	if c.Response.Status != 503 || c.Response.Fields.Get("Retry-After") != "1" {
		t.Errorf("the third got %d", c.Response.Status)
	}
	for _, x := range []*exchange.Exchange{a, b, c} {
		r.handler.Done(x, nil)
	}
	if n := o.inFlight.Load(); n != 0 {
		t.Errorf("%d requests are counted that are over", n)
	}
	if d := begin(); d.Response.Fields.Has("Retry-After") {
		t.Error("there is room again, and a request is refused")
	}
	if got := o.Shed(); len(got) != 1 || got[ShedRequests] != 1 {
		t.Errorf("counted %v", got)
	}
}

// TestOverloadByOneClient: a client beyond its limit is refused, and no other.
func TestOverloadByOneClient(t *testing.T) {
	r := newRig(t, &Config{}, "routes: [{name: r, paths: [/]}]\n")
	o := &Overload{PerClient: 2, Log: silent()}
	r.handler.Guard(o)
	begin := func(client string) *exchange.Exchange {
		x := ask(t, "GET", "a.test", "/")
		x.Conn.Peer = netip.MustParseAddrPort(client)
		r.handler.Handle(x)
		return x
	}
	refused := func(x *exchange.Exchange) bool { return x.Response.Fields.Get("Retry-After") == "1" }
	a, b := begin("192.0.2.1:1000"), begin("[::ffff:192.0.2.1]:2000")
	if refused(a) || refused(b) {
		t.Error("a request within the limit was refused")
	}
	if c := begin("192.0.2.1:3000"); !refused(c) || c.Response.Status != 503 {
		t.Errorf("the third got %d", c.Response.Status)
	}
	other := begin("192.0.2.2:1000")
	if refused(other) {
		t.Error("another client was refused for it")
	}
	r.handler.Done(a, nil)
	if d := begin("192.0.2.1:4000"); refused(d) {
		t.Error("there is room again, and a request is refused")
	} else {
		r.handler.Done(d, nil)
	}
	r.handler.Done(b, nil)
	r.handler.Done(other, nil)
	if len(o.clients) != 0 || o.inFlight.Load() != 0 {
		t.Errorf("left over: %v, %d requests", o.clients, o.inFlight.Load())
	}
	if got := o.Shed(); len(got) != 1 || got[ShedClient] != 1 {
		t.Errorf("counted %v", got)
	}
}

// TestOverloadOfARoute: a route's limit outlives snapshots and is its own.
func TestOverloadOfARoute(t *testing.T) {
	const doc = "routes: [{name: slow, paths: [/slow], x_keyway_max_requests: 1}, {name: r, paths: [/]}]\n"
	r := newRig(t, &Config{}, doc)
	o := &Overload{Log: silent()}
	r.handler.Guard(o)
	begin := func(path string) *exchange.Exchange {
		x := ask(t, "GET", "a.test", path)
		r.handler.Handle(x)
		return x
	}
	first := begin("/slow")
	r.use(strings.Replace(doc, "name: r,", "name: renamed,", 1), nil)
	if x := begin("/slow"); x.Response.Fields.Get("Retry-After") != "1" {
		t.Errorf("the second got %d", x.Response.Status)
	}
	if x := begin("/other"); x.Response.Fields.Has("Retry-After") {
		t.Error("another route was limited too")
	}
	r.handler.Done(first, nil)
	if x := begin("/slow"); x.Response.Fields.Has("Retry-After") {
		t.Error("there is room again, and a request is refused")
	}
	if got := o.Shed(); got[ShedRoute] != 1 {
		t.Errorf("counted %v", got)
	}
}

// TestOverloadOfMemory: it begins at nine tenths and ends below eight.
func TestOverloadOfMemory(t *testing.T) {
	used, frees := int64(0), 0
	o := &Overload{Memory: 1000, Log: silent(), used: func() int64 { return used }, free: func() { frees++ }}
	for _, c := range []struct {
		used  int64
		short bool
	}{{100, false}, {899, false}, {900, true}, {850, true}, {800, true}, {799, false}, {899, false}, {2000, true}} {
		used = c.used
		if o.look(); o.Short() != c.short {
			t.Errorf("with %d of 1000 it is short: %v", c.used, o.Short())
		}
	}
	if frees == 0 {
		t.Error("nothing was given back")
	}
	if why := o.enter(netip.Addr{}); why != ShedMemory {
		t.Errorf("a request was let in: %q", why)
	}
	if got := memoryInUse()(); got < 1<<20 || got > 64<<30 {
		t.Errorf("this process is said to take %d bytes", got)
	}
}
