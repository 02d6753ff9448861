package edge

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/routing"
	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/routing/upstream"
)

// StreamEngine carries the bytes of connections that no protocol of requests is spoken on.
type StreamEngine interface {
	// ServeStream carries a connection until it ends, and closes it.
	ServeStream(ctx context.Context, c *StreamConn)
}

// StreamConn is a connection of a stream listener.
type StreamConn struct {
	Conn net.Conn // the socket itself
	Info *exchange.Conn
	// Limit is the time for a ClientHello, and for a handshake.
	Limit time.Duration
	// Terminate shakes hands, as a snapshot says, with a client whose first bytes were
	// read already; nil where there is no TLS. It answers nil, and the connection is
	// closed, when that fails.
	Terminate func(ctx context.Context, snap *Snapshot, ahead []byte) *tls.Conn
	// Requests serves a connection that no route of streams is for as one of requests, and
	// answers when it is over; nil on listeners of streams alone.
	Requests func(ctx context.Context, ahead []byte)
}

// StreamObserver is told of streams; telemetry implements it.
type StreamObserver interface {
	StreamOpened(protocol string)
	// StreamCarried is called while bytes go: from clients, and to them.
	StreamCarried(protocol string, in, out int64)
	// StreamClosed is called once for each stream, opened or refused before.
	StreamClosed(ctx context.Context, end *StreamEnd)
}

// StreamEnd is a stream that is over.
type StreamEnd struct {
	Protocol      string // tcp, tls, tls_passthrough, udp
	Listener      string
	Client, Local netip.AddrPort
	ServerName    string // that the client asked for
	Certificate   string // version that it was shown, as name@n
	Route         *spec.Route
	Service       *spec.Service
	Upstream      string // ip:port, "" for none
	Tries         int
	In, Out       int64 // bytes from and to the client
	Began         time.Time
	Took          time.Duration
	Generation    uint64
	Opened        bool   // a target took it
	Result        string // closed, idle, stalled, broken, cut; or why it was refused
	Err           error
}

// streamKey is one protocol of one stream route.
type streamKey struct {
	index    int
	protocol string
}

// streams compiles the routes for streams.
func (w *build) streams() {
	doc := w.in.Document
	w.next.streams = routing.CompileStreams(doc)
	w.next.streamBindings = make(map[streamKey]Routed, w.next.streams.Len())
	for _, r := range w.next.streams.Routes() {
		for _, protocol := range r.Spec.Protocols {
			b, bad := w.bindStream(r.Spec, w.service(r.Spec.Service), protocol)
			if len(r.Spec.Split) > 0 {
				w.splitStreams(&b, protocol)
			} else if bad != nil {
				w.problem(bad)
			}
			w.next.streamBindings[streamKey{r.Index, protocol}] = b
		}
	}
	w.problem(w.next.compiler.Problems()...) // here, where the last chain is compiled
	if !slices.ContainsFunc(doc.Services, takesStreams) {
		return
	}
	for r := range w.next.Table.Routes() {
		for id := range r.Spec.Services {
			s := w.service(id)
			if s == nil || !takesStreams(s) {
				continue
			}
			w.problem(&spec.Problem{
				Pos: r.Spec.Pos, Entity: "routes", ID: r.Spec.ID, Name: r.Spec.Name, Field: "service", Reason: spec.ReasonConflict,
				Message: "its service has protocol " + s.Protocol + ", which takes streams; expected a service of protocol http, https, grpc or grpcs; the route answers 503 until then",
			})
		}
	}
}

func takesStreams(s *spec.Service) bool {
	return slices.Contains([]string{routing.TCP, routing.TLS, routing.Passthrough, routing.UDP}, s.Protocol)
}

// bindStream answers where streams of a route go that one service gets, nil for none,
// and what of that is a problem.
func (w *build) bindStream(r *spec.Route, service *spec.Service, protocol string) (Routed, *spec.Problem) {
	b := Routed{Route: r, Service: service, Chain: w.next.compiler.Stream(r, service, protocol)}
	if b.Closed = b.Chain.Closed(); service != nil {
		b.Cluster = w.next.Upstreams.Cluster(service.ID)
	}
	bad := streamProblem(&b, protocol)
	if bad != nil {
		b.Closed = bad
	}
	return b, bad
}

// streamProblem says why streams of a route cannot be carried, nil when they can.
func streamProblem(b *Routed, protocol string) *spec.Problem {
	p := &spec.Problem{
		Pos: b.Route.Pos, Entity: "routes", ID: b.Route.ID, Name: b.Route.Name, Field: "service", Reason: spec.ReasonConflict,
		Message: "expected a service: nothing but one can take a stream; connections are closed until then",
	}
	if b.Service == nil {
		return p
	}
	err := b.Cluster.Carries(protocol)
	if err == nil {
		return nil
	}
	p.Message = err.Error() + "; connections are closed until then"
	return p
}

// Stream answers where a stream goes, and false when no route matches it.
func (s *Snapshot) Stream(q *routing.StreamQuery) (Routed, bool) {
	r := s.streams.Find(q)
	if r == nil {
		return Routed{}, false
	}
	return s.streamBindings[streamKey{r.Index, q.Protocol}], true
}

// Admit has the plugins of a stream judge its client. A Reply is a refusal.
func (r *Routed) Admit(ctx context.Context, info *exchange.Conn, began time.Time) *policy.Reply {
	return r.Chain.Access(&policy.Context{
		X:     &exchange.Exchange{Conn: info, Ctx: ctx, Start: began},
		Route: r.Route, Service: r.Service, ClientIP: info.Peer.Addr().Unmap(), Ctx: ctx, Now: began,
	})
}

// Dial opens a connection for a stream.
func (r *Routed) Dial(ctx context.Context, d upstream.Dialing) (*upstream.Tunnel, error) {
	return r.Cluster.Dial(ctx, d)
}

// serveStream hands a connection of a stream listener to its engine.
func (s *Server) serveStream(ctx context.Context, c *trackedConn, e *gate, info *exchange.Conn, ci *connInfo) {
	sc := &StreamConn{Conn: c.Conn, Info: info, Limit: s.handshakeLimit()}
	if e.TLS {
		sc.Terminate = func(ctx context.Context, snap *Snapshot, ahead []byte) *tls.Conn {
			c.facts.snap = snap // route and certificate are of one generation
			return s.terminate(ctx, c, e, info, ci, ahead)
		}
	}
	if e.Requests {
		sc.Requests = func(ctx context.Context, ahead []byte) {
			if engine, over := s.readyTLS(ctx, c, &clearConn{trackedConn: c, ahead: ahead}, e, info, ci); engine != nil {
				engine.ServeConn(ctx, over, info)
			}
		}
	}
	s.Streams.ServeStream(ctx, sc)
}

// terminate makes the TLS connection of a stream.
func (s *Server) terminate(ctx context.Context, c *trackedConn, e *gate, info *exchange.Conn, ci *connInfo, ahead []byte) *tls.Conn {
	if !s.admission.shake() {
		s.Observer.Refused(e.Name, refusedHandshakes)
		reset(c.Conn)
		return nil
	}
	c.facts.stream = true
	tc := s.handshake(ctx, c, &clearConn{trackedConn: c, ahead: ahead}, info.Peer.Addr())
	s.admission.shaken()
	if tc == nil {
		return nil
	}
	c.shook.Store(true)
	state := tc.ConnectionState()
	if state.NegotiatedProtocol == challengeALPN || s.revoked.has(&c.facts) {
		_ = tc.Close()
		return nil
	}
	info.TLS, ci.tls = &state, &c.facts
	info.CertSerial = c.facts.certVersion()
	return tc
}
