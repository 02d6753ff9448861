package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// Outgoing is a request as it is to be sent, apart from what the cluster
// decides itself: target, Host unless given, Connection and framing. On the
// wire stand, in this order: the request line, Before, Host, Upgrade if asked
// for, Connection, the first Lead lines of Fields, Content-Length or
// Transfer-Encoding, and the rest of Fields.
type Outgoing struct {
	// URI is the request target to send: path and query, or "*".
	URI string
	// Host is the Host field to send, and the name an https origin must prove;
	// with HostDefault it is not looked at, and the upstream's host_header or
	// else the target's own name and port stand for it.
	Host        string
	HostDefault bool
	// Before and Fields are the field lines to send; both may be nil. Neither
	// holds Host, Connection, Upgrade or framing fields.
	Before *exchange.Fields
	Fields *exchange.Fields
	Lead   int
	// Buffered reads the whole request body before anything is connected, so that
	// an origin never waits for a slow client and a retry can send it again.
	Buffered bool
	// Client, Consumer and Captures are what consistent hashing may look at besides
	// the request itself: the client's real address, the id of the authenticated
	// consumer or "", and the groups of the route's path.
	Client   netip.Addr
	Consumer string
	Captures []exchange.Capture
	// Secure says that the client is spoken to over TLS: cookies are for that alone then.
	Secure bool
	// Retrying is how targets are tried, nil for as the service says.
	Retrying *Retrying
	// Timed says that Ctx of the exchange ends at a time that was set, which must cut a
	// response even while it comes without a pause.
	Timed bool
}

// Do sends x.Request to one of the cluster's targets, and to others where that
// fails and may be tried again. On success x.Response is filled, its Body
// streams from the connection and must be read to io.EOF or closed. Errors are
// an *Error, or the *exchange.BodyError that reading x.Request.Body answered;
// x.Response is then untouched. Attempts and times are kept in x either way.
func (cl *Cluster) Do(x *exchange.Exchange, out *Outgoing) error {
	now := x.Now()
	x.UpstreamStart = now
	if cl.closed != nil {
		return &Error{503, messageClosed, cl.closed}
	}
	k := &call{cluster: cl, x: x, out: out}
	if !x.Request.HasBody() {
		k.now = now // reading a body may take its time
	}
	if err := k.body.load(cl.pools, &x.Request, out.Buffered && !cl.talks(&x.Request)); err != nil {
		return err
	}
	var err error
	if k.hedges() {
		err = k.hedged()
	} else {
		err = k.run()
	}
	if err != nil {
		k.body.free()
	}
	return err
}

// noSeat is the answer when the client waited in vain for a place at a target.
func (k *call) noSeat(err error) error {
	if k.x.Ctx.Err() != nil {
		return (&fault{kind: faultClient, err: err}).answer()
	}
	return &Error{503, messageClosed, fmt.Errorf("upstream %q: %w", k.cluster.balancer.name, err)}
}

func errNoTarget(b *balancer) error { return fmt.Errorf("upstream %q: %w", b.name, errNoPeer) }

// unresolved is the answer when the service's own host has no address.
func (k *call) unresolved(err error) error {
	if k.x.Ctx.Err() != nil {
		return (&fault{kind: faultClient, err: err}).answer()
	}
	return &Error{503, messageNoName, fmt.Errorf("service %q: %w", k.cluster.name, err)}
}

// address answers where to connect for a target. One that is a name still is looked up,
// and the addresses take turns: from the next request on they are targets by themselves.
func (k *call) address(t *target) (netip.AddrPort, error) {
	if n := t.source.Load(); n != nil {
		n.touch(k.x.UpstreamStart)
	}
	if t.addr.IsValid() {
		return t.addr, nil
	}
	k.now = time.Time{} // it may take its time
	places, err := k.cluster.pools.names.lookup(k.x.Ctx, question{t.host, t.srv})
	if err != nil {
		return netip.AddrPort{}, err
	}
	return t.oneOf(places), nil
}

// oneOf is the address of the place whose turn it is.
func (t *target) oneOf(places []place) netip.AddrPort {
	p := places[(t.vitals.next.Add(1)-1)%uint32(len(places))]
	if p.port == 0 {
		p.port = t.port
	}
	return netip.AddrPortFrom(p.addr, p.port)
}

// replayable says whether the request may be sent once more: nothing of it was
// sent, or sending it twice does no harm (RFC 9110, section 9.2.2) and its body
// is still there.
func (k *call) replayable(f *fault) bool {
	if !f.sent {
		return true
	}
	return k.body.replayable() && idempotent(k.x.Request.Method)
}

func idempotent(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE":
		return true
	}
	return false
}

// visit tries one target at one address: on a pooled connection first, and when
// that turns out to have died, on a new one, which counts as the same try.
func (k *call) visit(t *target, addr netip.AddrPort, again bool) *fault {
	if k.now.IsZero() {
		k.now = k.x.Now()
	}
	began := k.now
	k.tryBy, k.wholeBy = time.Time{}, time.Time{}
	rules := k.retrying()
	if rules.attempt > 0 {
		k.wholeBy = began.Add(rules.attempt)
		k.tryBy = k.wholeBy
	}
	if limit := rules.try; limit > 0 && again && (k.tryBy.IsZero() || limit < rules.attempt) {
		k.tryBy = began.Add(limit)
	}
	f := k.ride(t, addr, false)
	if f != nil && f.stale && k.replayable(f) {
		f = k.ride(t, addr, true)
	}
	status := 0
	var err error
	if f != nil {
		k.now = time.Now()
	}
	if f == nil {
		status = k.x.Response.Status
		k.cluster.balancer.timed(t, began, false)
	} else {
		k.cluster.balancer.leave(t)
		err = f.err
		if f.kind != faultClient && k.x.Ctx.Err() != nil {
			f.kind, f.err = faultClient, fmt.Errorf("awaiting %s: %w", addr, context.Cause(k.x.Ctx))
			err = f.err
		}
		switch {
		case f.kind != faultClient && f.kind != faultHere:
			k.cluster.balancer.timed(t, began, true)
		case k.leg != nil: // the other leg was sooner: this one takes at least so long
			k.cluster.balancer.timed(t, began, false)
		}
	}
	k.x.Attempts = append(k.x.Attempts, exchange.Attempt{
		Address: k.told, Status: status, Err: err, Began: began, Took: k.now.Sub(began),
	})
	return f
}

// ride sends the request on one connection and reads the response head.
func (k *call) ride(t *target, addr netip.AddrPort, fresh bool) *fault {
	id, host := k.identity(t, addr)
	s := t.stack(k.cluster.pools, id)
	if id.proto != "" {
		return k.share(s, t, host)
	}
	c, reused, err := k.board(s, fresh)
	if err != nil {
		k.told = addr.String()
		return unconnected(err)
	}
	c.served++
	k.told, k.conn, k.target = c.address, c, t
	k.heard, k.ended, k.broken, k.upload = false, nil, nil, nil
	if k.leg != nil || k.out.Timed {
		k.watch(true) // so that the other leg's answer, or the end of the time, ends this one at once
	}
	f := k.send(host)
	if f == nil {
		f = k.receive()
	}
	if f != nil {
		k.abandon()
		f.stale = reused && f.kind == faultBroken && !f.timeout && !k.heard
		return f
	}
	k.x.UpstreamReused = reused
	k.cluster.balancer.answered(t, k.x.Response.Status)
	return nil
}

// board takes an idle connection that is still quiet, or opens one.
func (k *call) board(s *stack, fresh bool) (c *conn, reused bool, err error) {
	k.probe = false
	for !fresh {
		c := s.take(k.now)
		if c == nil {
			break
		}
		if k.probe = k.swaps(c); k.probe || c.quiet(k.now) {
			return c, true, nil
		}
		c.close()
		c.rest(k.cluster.pools)
	}
	c, err = k.dial(s)
	k.now = time.Now()
	return c, false, err
}

// dial opens a connection. When that is slow the client is watched meanwhile,
// unless its body is still to be read and would tell.
func (k *call) dial(s *stack) (*conn, error) {
	x, within := k.x, k.cluster.connect
	if !k.tryBy.IsZero() {
		within = min(within, time.Until(k.tryBy))
	}
	if k.watched || x.WatchClient == nil || k.body.stream != nil {
		return k.cluster.dial(x.Ctx, s, within)
	}
	watching := make(chan struct{})
	slow := time.AfterFunc(patience, func() {
		defer close(watching)
		x.WatchClient()
	})
	c, err := k.cluster.dial(x.Ctx, s, within)
	if !slow.Stop() {
		<-watching
		k.watched = true
	}
	return c, err
}

// identity answers whom to connect to and the Host to send.
func (k *call) identity(t *target, addr netip.AddrPort) (identity, string) {
	cl := k.cluster
	id := identity{addr: addr, proto: cl.proto}
	host := k.out.Host
	name := t.host
	switch {
	case !k.out.HostDefault:
		name = ""
	case cl.balancer.hostField != "":
		host, name = cl.balancer.hostField, ""
	case cl.tls != nil:
		host = t.secure
	default:
		host = t.plain
	}
	if cl.tls == nil {
		return id, host
	}
	switch {
	case cl.tls.name != "":
		name = cl.tls.name
	case name == "":
		name = serverName(host)
	}
	id.secure, id.server, id.trust, id.client = true, name, cl.tls.trustPrint, cl.tls.clientPrint
	return id, host
}

// stack answers the pool for an identity at this target. The few identities in
// use are remembered here, so that the map and its lock are rarely asked.
func (t *target) stack(p *Pools, id identity) *stack {
	var list []*stack
	if known := t.pools.Load(); known != nil {
		list = *known
	}
	for _, s := range list {
		if s.id == id && !s.retired.Load() {
			return s
		}
	}
	s := p.stack(id)
	keep := append(make([]*stack, 0, 4), s)
	for _, old := range list {
		if len(keep) < 8 && !old.retired.Load() {
			keep = append(keep, old)
		}
	}
	t.pools.Store(&keep) // a concurrent writer may lose its entry, and finds it again
	return s
}

var errBodyLength = errors.New("the body's length is not the announced one")
