package edge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"
	"sync"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/routing"
	"github.com/keyway-edge/keyway/routing/upstream"
	"github.com/keyway-edge/keyway/secrets"
)

// Handler answers exchanges. One serves all listeners and protocols.
type Handler struct {
	config    *Config
	publisher *Publisher
	observer  Observer
	log       *slog.Logger
	via11     string // Via of a request that came by HTTP/1.1, and of every response
	requests  sync.Pool

	// Of upstream credentials: nil where there is no broker.
	force  func(ctx context.Context, r secrets.Ref) error
	latest func() *secrets.Set
	doubt  doubt

	challenges Challenges // nil for none
	overload   *Overload  // limits nothing unless Guard was called
	mirrors    *Mirrors
}

// Refresher looks at a credential again at once, past what its source remembers; the
// broker does.
type Refresher interface {
	Force(ctx context.Context, r secrets.Ref) error
	Current() *secrets.Set
}

// Refresh makes the handler ask for a credential anew when an upstream refuses it.
// Call it before the first exchange.
func (h *Handler) Refresh(b Refresher) { h.force, h.latest = b.Force, b.Current }

// Guard makes the handler refuse what o has no room for. Call it before the first exchange.
func (h *Handler) Guard(o *Overload) { h.overload = o }

// Mirror makes the handler count copies of requests in m. Call it before the first exchange.
func (h *Handler) Mirror(m *Mirrors) { h.mirrors = m }

// Observer is told of each finished exchange; telemetry implements it. It must
// not keep the Finished or anything in it.
type Observer interface {
	Finished(f *Finished)
}

// Finished is one exchange after its last byte.
type Finished struct {
	X        *exchange.Exchange
	Context  *policy.Context
	Snapshot *Snapshot
	Err      error  // why the exchange broke off, nil if it did not
	Source   string // who made the response: "service" or "keyway"
	Reply    *policy.Reply
	Sent     []*secrets.Credential // what the upstream's credential was made of
}

// NewHandler makes a Handler over what publisher publishes.
func NewHandler(config *Config, publisher *Publisher, observer Observer, log *slog.Logger) *Handler {
	h := &Handler{config: config, publisher: publisher, observer: observer, log: log, via11: "1.1 " + config.Token(), overload: &Overload{}, mirrors: &Mirrors{}}
	h.requests.New = func() any { return new(request) }
	return h
}

// request is the handler's state of one exchange, reused.
type request struct {
	x        *exchange.Exchange
	snap     *Snapshot
	info     *connInfo
	policy   routing.Policy
	origin   origin
	host     string // lower case, without port
	path     string // as received, without query
	context  policy.Context
	query    routing.Query
	match    routing.Match
	chain    *policy.Chain
	bind     *binding
	auth     *upstreamAuth   // the credential that was sent, nil for none
	before   exchange.Fields // upstream fields before Host
	fields   exchange.Fields // upstream fields after Connection
	lead     int             // how many of fields are this node's own
	out      upstream.Outgoing
	reply    *policy.Reply
	sent     []*secrets.Credential
	ids      requestIDs  // stays from request to request
	passages []*passage  // of bodies that are copied
	counted  bool        // by the overload guard
	limit    *routeLimit // by the route's, nil for none
	clock    *clock      // nil where the route has no limit of time
	end      Finished    // what the observer is told, here so that it is not made anew
}

// Handle is the life of a request: judge it, match it, run its chain, ask the
// upstream, finish the response head. The engine sends the body and calls Done.
func (h *Handler) Handle(x *exchange.Exchange) {
	r := h.begin(x)
	defer h.recovered(r)
	reply := h.admit(r)
	if reply == nil {
		reply = h.judge(r)
	}
	if reply == nil {
		reply = h.route(r)
	}
	if reply == nil {
		reply = h.chained(r)
	}
	if reply != nil {
		h.answer(r, reply)
	}
	h.finishHead(r)
}

// begin pins the snapshot that this request will be served with from first to last.
func (h *Handler) begin(x *exchange.Exchange) *request {
	r := h.requests.Get().(*request)
	r.x, r.snap = x, h.publisher.Current()
	r.info, _ = x.Conn.Policy.(*connInfo)
	if r.info == nil {
		r.info = h.config.newConnInfo(x.Conn, h.config.Policy)
	}
	r.policy = r.info.policy
	r.path = x.Request.Path
	r.host = hostOnly(x.Request.Host)
	r.origin = h.config.originOf(x)
	if x.RequestID == "" {
		n := fewIDs
		if x.Request.Upgrade != "" {
			n = 1 // who keeps one for days keeps what shares its allocation
		}
		x.RequestID = r.ids.next(n)
	}
	x.State = r
	c := &r.context
	c.X, c.Ctx, c.Now = x, x.Ctx, x.Start
	c.ClientIP = r.origin.client
	c.ForwardedProto, c.ForwardedHost = r.origin.proto, r.host
	c.ForwardedPort = int(x.Conn.Local.Port())
	return r
}

// admit refuses a request that the node has no room for.
func (h *Handler) admit(r *request) *policy.Reply {
	why := h.overload.enter(r.origin.client)
	r.counted = why == ""
	if r.counted {
		return nil
	}
	if why == ShedMemory {
		r.x.Response.Close = true // what the connection holds goes too
	}
	return busy(why)
}

// judge refuses what no route may see: a connection whose name's policy is not
// the Host's, a path that two readers could read differently.
func (h *Handler) judge(r *request) *policy.Reply {
	x := r.x
	if x.Refused != 0 {
		return refusal(x.Refused)
	}
	if r.snap == nil {
		return policy.ErrorReply(http.StatusServiceUnavailable, "no configuration is loaded yet")
	}
	if reply := h.challenge(r); reply != nil {
		return reply
	}
	r.chain = r.snap.global
	if r.policy == routing.Strict {
		tidyStrict(&x.Request.Fields, r.origin.trusted)
		if reply := strictTarget(x.Request.Target); reply != nil {
			return reply
		}
	} else if x.Request.Absolute && x.Request.HostField != "" {
		// As recorded: the Host field decides, not the authority of the target.
		x.Request.Host = x.Request.HostField
	}
	if reply := h.misdirected(r); reply != nil {
		return reply
	}
	return nil
}

// strictTarget refuses a target that has a fragment, which no client sends, or raw
// bytes that no URI may have: origins disagree about what they mean.
func strictTarget(target string) *policy.Reply {
	for i := 0; i < len(target); i++ {
		if target[i] == '#' || target[i] >= 0x80 {
			reply := policy.ErrorReply(http.StatusBadRequest, "")
			reply.Err = errTarget
			return reply
		}
	}
	return nil
}

var errTarget = errors.New("the request target has a fragment or bytes that are not ASCII")

// refusal answers a request that the engine could not take.
func refusal(status int) *policy.Reply {
	if status == http.StatusNotImplemented || status == http.StatusHTTPVersionNotSupported {
		return &policy.Reply{Status: status, ContentType: "text/html", Body: statusPage(status)}
	}
	return policy.ErrorReply(status, "")
}

// route finds the route and checks that the protocol is one that it speaks.
func (h *Handler) route(r *request) *policy.Reply {
	x := r.x
	r.snap.global.Rewrite(&r.context)
	q := &r.query
	*q = routing.Query{
		Method: x.Request.Method, Scheme: x.Request.Scheme, Host: x.Request.Host, Port: int(x.Conn.Local.Port()),
		Fields: &x.Request.Fields, Secure: x.Conn.Secure(), Policy: r.policy,
		RawQuery: x.Request.Query, Src: netip.AddrPortFrom(r.origin.client, x.Conn.Peer.Port()), Dst: x.Conn.Local,
	}
	if x.Conn.TLS != nil {
		q.SNI = x.Conn.TLS.ServerName
	}
	found, refused := r.snap.Table.Find(r.policy, x.Request.Path, q, &r.match)
	if refused != nil {
		reply := policy.ErrorReply(http.StatusBadRequest, "")
		reply.Err = refused
		return reply
	}
	if !found {
		return r.noRoute()
	}
	r.bind = &r.snap.bindings[r.match.Route.Index]
	if s := r.bind.split; s != nil {
		r.bind = s.choose()
	}
	r.chain = r.bind.chain
	r.policy = r.match.Route.Policy(r.policy)
	if reply := r.otherReading(); reply != nil {
		return reply
	}
	c := &r.context
	c.Route, c.Service, c.Captures = r.match.Route.Spec, r.bind.service, r.match.Captures
	if reply := r.protocolCheck(); reply != nil {
		return reply
	}
	if r.bind.closed != nil {
		reply := policy.ErrorReply(http.StatusServiceUnavailable, "")
		reply.Err = r.bind.closed
		return reply
	}
	if l := r.bind.limit; l != nil {
		if !l.enter(r.bind.route.Spec) {
			h.overload.refused(ShedRoute)
			return busy(ShedRoute)
		}
		r.limit = l
	}
	return nil
}

// chained runs the access phase and asks the upstream.
func (h *Handler) chained(r *request) *policy.Reply {
	c, x := &r.context, r.x
	if t := r.bind.terms; t != nil && t.within > 0 {
		r.limitTime(t.within)
	}
	servicePath := ""
	if r.bind.service != nil {
		servicePath = r.bind.service.Path
	}
	c.UpstreamURI = r.match.UpstreamPath(servicePath, r.policy, x.Request.Path)
	if r.bind.service.GRPC() && r.bind.route.Spec.StripPath {
		c.StrippedURI, c.UpstreamURI = c.UpstreamURI, r.match.WholePath(r.policy, x.Request.Path)
	}
	if reply := r.chain.Access(c); reply != nil {
		c.LocalReply = reply
		return reply
	}
	if r.bind.service == nil || r.bind.cluster == nil {
		return r.bind.nowhere()
	}
	err := h.proxy(r)
	if err == nil {
		return nil
	}
	return h.upstreamReply(r, err)
}

// proxy sends the request to the service's cluster and waits for the response head.
func (h *Handler) proxy(r *request) error {
	c, x := &r.context, r.x
	prefix := ""
	if r.bind.route.Spec.StripPath && r.match.MatchedPath != "/" {
		prefix = r.match.MatchedPath
	}
	h.forward(r, &r.fields, prefix)
	uri := c.UpstreamURI
	if x.Request.HasQuery && strings.IndexByte(x.Request.Path, '#') < 0 {
		query, _, _ := strings.Cut(x.Request.Query, "#")
		uri = withQuery(x.Request.Target, uri, query)
	}
	o := &r.out
	o.URI = uri
	o.Host = x.Request.Host
	o.HostDefault = !r.bind.route.Spec.PreserveHost
	if c.UpstreamHost != "" {
		o.Host, o.HostDefault = c.UpstreamHost, false
	}
	o.Before, o.Fields, o.Lead = &r.before, &r.fields, r.lead
	o.Buffered = r.bind.route.Spec.RequestBuffering
	o.Client, o.Captures, o.Consumer, o.Secure = r.origin.client, c.Captures, "", r.origin.proto == "https"
	if c.Consumer != nil {
		o.Consumer = c.Consumer.ID
	}
	if t := r.bind.terms; t != nil {
		o.Retrying, o.Timed = t.retrying, t.within > 0
		h.mirror(r, t.mirrors)
	}
	if err := h.send(r); err != nil {
		return err
	}
	if x.Response.Switch != nil { // for days, perhaps
		r.unlimit()
		r.before, r.fields = exchange.Fields{}, exchange.Fields{}
	}
	// Orders for the proxy itself are not passed on.
	x.Response.Fields.DeleteFunc(func(f exchange.Field) bool {
		return len(f.Name) > 8 && exchange.EqualFold(f.Name[:8], "X-Accel-")
	})
	return nil
}

// send sends the request with its service's credential, which no plugin sees; once
// more when the upstream refuses a credential that has a successor.
func (h *Handler) send(r *request) error {
	a := r.bind.auth
	if a == nil {
		return r.bind.cluster.Do(r.x, &r.out)
	}
	uri := r.out.URI
	if err := h.authorize(r, a); err != nil {
		return err
	}
	r.auth = a
	if err := r.bind.cluster.Do(r.x, &r.out); err != nil {
		return err
	}
	a.judgeUse(r.x.Response.Status)
	next := h.refused(r, a)
	if next == nil {
		return nil
	}
	discard(&r.x.Response)
	fields := r.x.Response.Fields
	fields.Reset()
	r.x.Response = exchange.Response{Fields: fields}
	r.out.URI = uri
	if err := h.authorize(r, next); err != nil {
		return err
	}
	r.auth = next
	if err := r.bind.cluster.Do(r.x, &r.out); err != nil {
		return err
	}
	next.judgeUse(r.x.Response.Status)
	return nil
}

// upstreamReply turns a failed round trip into an answer. A body that the client
// broke is the client's fault: no 502, no harm to a target.
func (h *Handler) upstreamReply(r *request, err error) *policy.Reply {
	if r.late() {
		r.x.Response.Close = r.x.Response.Close || r.x.Request.HasBody() // of which not all may have been read
		return &policy.Reply{Status: http.StatusGatewayTimeout, Message: "The upstream server is timing out", Err: fmt.Errorf("%w: %w", errRequestTime, err)}
	}
	var body *exchange.BodyError
	if errors.As(err, &body) {
		status := body.Status
		if status == 0 {
			status = 499 // the client is gone; nobody reads this but the log
		}
		r.x.Response.Close = true
		reply := policy.ErrorReply(status, "")
		reply.Err = err
		return reply
	}
	var up *upstream.Error
	if errors.As(err, &up) {
		reply := &policy.Reply{Status: up.Status, Message: up.Message, Err: err}
		if errors.Is(err, upstream.ErrBusy) || errors.Is(err, upstream.ErrShort) {
			reply.Fields = []exchange.Field{retryAfter}
		}
		return reply
	}
	reply := policy.ErrorReply(http.StatusBadGateway, "")
	reply.Err = err
	return reply
}

// recovered keeps the process and the other requests alive when a plugin or this
// code panics; the request gets 500 and is never passed on.
func (h *Handler) recovered(r *request) {
	p := recover()
	if p == nil {
		return
	}
	h.log.Error("request panicked", slog.String("request_id", r.x.RequestID), slog.String("panic", fmt.Sprint(p)), slog.String("stack", string(debug.Stack())))
	discard(&r.x.Response)
	r.x.Response.Close = true
	reply := policy.ErrorReply(http.StatusInternalServerError, "")
	reply.Err = fmt.Errorf("panic: %v", p)
	h.answer(r, reply)
	h.localFields(r)
	h.sharedFields(r)
}

// discard lets go of a response that will not be sent: its connection to the
// upstream would stay open for nobody.
func discard(r *exchange.Response) {
	if c, ok := r.Body.(io.Closer); ok {
		_ = c.Close()
	}
	if r.Switch != nil {
		_ = r.Switch.Close()
	}
}

// Done ends an exchange: log phase, observers, and the request's state goes back.
func (h *Handler) Done(x *exchange.Exchange, err error) {
	r, _ := x.State.(*request)
	if r == nil {
		return
	}
	x.State = nil
	if r.counted {
		h.overload.leave(r.origin.client)
	}
	if r.limit != nil {
		r.limit.inFlight.Add(-1)
	}
	r.settle()
	defer h.release(r)
	h.logPhase(r)
	source := "keyway"
	if x.Response.FromUpstream {
		source = "service"
	}
	if r.auth != nil {
		r.sent = r.auth.versions(r.sent[:0])
	}
	r.end = Finished{Sent: r.sent, X: x, Context: &r.context, Snapshot: r.snap, Err: err, Source: source, Reply: r.reply}
	h.observer.Finished(&r.end)
}

// logPhase runs the log phase. A plugin that panics in it has nothing left to
// spoil: the response is out, and the exchange is counted and logged all the same.
func (h *Handler) logPhase(r *request) {
	defer func() {
		if p := recover(); p != nil {
			h.log.Error("log phase panicked", slog.String("request_id", r.x.RequestID), slog.String("panic", fmt.Sprint(p)), slog.String("stack", string(debug.Stack())))
		}
	}()
	if r.chain != nil {
		r.chain.Log(&r.context)
	}
}

func (h *Handler) release(r *request) {
	r.before.Reset()
	r.fields.Reset()
	r.context.Reset()
	clear(r.sent)
	r.sent = r.sent[:0]
	// One by one: a copy of the whole costs more than the router.
	r.x, r.snap, r.info, r.policy, r.origin, r.host, r.path = nil, nil, nil, "", origin{}, "", ""
	r.query, r.match = routing.Query{}, routing.Match{Captures: r.match.Captures[:0]}
	r.chain, r.bind, r.auth, r.lead, r.out = nil, nil, nil, 0, upstream.Outgoing{}
	r.reply, r.counted, r.limit, r.clock, r.end = nil, false, nil, nil, Finished{}
	h.requests.Put(r)
}
