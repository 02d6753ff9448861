package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/handover"
	"github.com/keyway-edge/keyway/routing"
)

// Engine speaks one protocol on connections that are ready for it.
type Engine interface {
	// ServeConn serves c until it closes; c is closed when it returns.
	ServeConn(ctx context.Context, c net.Conn, info *exchange.Conn)
	// Drain makes every connection end after the requests in flight, at once where
	// there are none.
	Drain(ctx context.Context)
	// Leave is a Drain of the connections that match, which may take until ctx ends.
	Leave(ctx context.Context, match func(*exchange.Conn) bool)
}

// Endpoint is one address to listen on.
type Endpoint struct {
	Name    string // for logs: "proxy", "proxy-tls"
	Address string // host:port
	TLS     bool
	Policy  routing.Policy // "" for the node's
	// Proxied makes the trusted peers say in a PROXY header, first of all, who their
	// client is. Others are clients themselves.
	Proxied bool
	// Stream makes the listener one of streams: no requests are spoken on it.
	Stream bool
	// Requests makes one of streams over TLS serve requests too: over connections for a
	// name that no route of streams has.
	Requests bool
	// H2C makes a listener in clear understand HTTP/2 too, from clients that begin with it.
	H2C bool
	// HTTP3 serves HTTP/3 over UDP at the port of a TLS listener, and says so there.
	HTTP3 bool
	// NoHTTP3 has clients forget that there was HTTP/3.
	NoHTTP3 bool
	// MaxConns is how many connections it may have at a time, more are refused; zero
	// for no limit of its own.
	MaxConns int
}

// ConnObserver is told of connections and handshakes; telemetry implements it.
type ConnObserver interface {
	Opened(endpoint string)
	Closed(endpoint string)
	// Handshake is called once for each TLS connection: state is nil when err is not.
	Handshake(serverName string, state *tls.ConnectionState, took time.Duration, err error)
	// Refused is called for a connection that is closed before its first request.
	Refused(endpoint, reason string)
}

// Server accepts connections and hands them to the engines.
type Server struct {
	Endpoints        []Endpoint
	Sockets          *handover.Sockets // opens the listeners; nil for one of its own
	Config           *Config
	Terminator       *Terminator
	HTTP1, HTTP2     Engine
	HTTP3            PacketEngine // may be nil where no endpoint has HTTP3
	Streams          StreamEngine // nil where no endpoint is one of streams
	Observer         ConnObserver
	Log              *slog.Logger
	HandshakeTimeout time.Duration // of the TLS handshake; zero for 10 s
	Grace            time.Duration // how long a drain may take; zero for 30 s
	MaxConns         int           // connections at a time, more are refused; zero for no limit
	MaxPerClient     int           // of them of one client address, or of one /64 of IPv6; zero for no limit
	Overload         *Overload     // nil for none
	MaxHandshakes    int           // TLS handshakes at a time; zero for no limit
	// Pattern is what listeners of documents have of the settings: Policy, H2C, NoHTTP3 and MaxConns.
	Pattern Endpoint

	ports     []*port // of Endpoints, in their order
	next      atomic.Uint64
	revoked   revokedSet
	admission admission
	reserve   int // descriptors from this number on are not for clients, 0 for no limit

	mu        sync.Mutex // guards the group below, and how many connections each gate has
	conns     map[*trackedConn]struct{}
	side      map[*trackedConn]struct{} // of side services
	declared  map[string]*port          // listeners of documents, by address
	begun     chan struct{}             // closed when Run accepts
	serving   context.Context           //nolint:containedctx // what connections live in; nil before Run
	stopping  context.Context           //nolint:containedctx // that of Run
	stopped   bool                      // nothing is opened any more
	draining  bool
	wg        sync.WaitGroup // of connections, and what ends them
	accepting sync.WaitGroup
}

// port is a listener that is open.
type port struct {
	name    handover.Socket
	l       net.Listener
	packets *handover.UDP // HTTP/3 beside it, nil for none
	gate    atomic.Pointer[gate]
	closing atomic.Bool
}

// gate is what is served on a port. The gate of a listener of documents gives way to another
// when they change what is spoken there, and its connections end as in a drain.
type gate struct {
	Endpoint
	*tenure
}

// tenure is what gates share that differ in their names alone.
type tenure struct {
	shut   atomic.Bool                  // its connections are to end
	policy atomic.Pointer[certs.Policy] // of a listener of documents, as it was last
	held   int                          // connections; of Server.mu
}

// Listen opens every endpoint, or none: on an error the opened ones are closed.
func (s *Server) Listen(ctx context.Context) error {
	s.conns, s.declared, s.begun = make(map[*trackedConn]struct{}), map[string]*port{}, make(chan struct{})
	if s.reserve == 0 {
		s.reserve = maxDescriptors() / 10 * 9
	}
	s.admission.perClient, s.admission.handshakes = s.MaxPerClient, s.MaxHandshakes
	if s.Sockets == nil {
		s.Sockets = &handover.Sockets{}
	}
	for _, e := range s.Endpoints {
		p, err := s.listen(ctx, e.Name, &gate{e, &tenure{}})
		if err != nil {
			s.unlisten()
			return fmt.Errorf("listening on %s for %s: %w", e.Address, e.Name, err)
		}
		s.ports = append(s.ports, p)
		if p.packets, err = s.listenPackets(ctx, e, p.l.Addr()); err != nil {
			s.unlisten()
			return fmt.Errorf("listening on UDP %s for HTTP/3 of %s: %w", p.l.Addr(), e.Name, err)
		}
	}
	return nil
}

// listen opens a port.
func (s *Server) listen(ctx context.Context, purpose string, g *gate) (*port, error) {
	l, err := s.Sockets.Listen(ctx, purpose, "tcp", g.Address)
	if err != nil {
		return nil, err
	}
	p := &port{name: handover.Socket{Network: "tcp", Address: g.Address, Purpose: purpose}, l: l}
	p.gate.Store(g)
	return p, nil
}

// unlisten closes what was opened.
func (s *Server) unlisten() {
	for _, p := range s.ports {
		_ = p.l.Close()
		if p.packets != nil {
			_ = p.packets.Close()
		}
	}
}

// Addresses are the addresses in use, in the order of Endpoints.
func (s *Server) Addresses() []net.Addr {
	list := make([]net.Addr, len(s.ports))
	for i, p := range s.ports {
		list[i] = p.l.Addr()
	}
	return list
}

// Run accepts until ctx ends, then drains: listeners close, engines finish what
// is in flight, and what is left after the grace period is cut. force, when it is
// closed, cuts at once. A listener that another process has goes on there: this one only
// stops to accept from it.
func (s *Server) Run(ctx context.Context, force <-chan struct{}) error {
	// Requests outlive ctx by the grace period; connections have their own end.
	serving, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	s.begin(serving, ctx)
	<-ctx.Done()
	given := handover.GivenBy(ctx)
	var closing sync.WaitGroup
	for _, p := range s.stop() {
		closing.Go(func() { s.close(p, given) }) // each may wait for clients that are on the way
	}
	closing.Wait()
	s.accepting.Wait()
	return s.drain(ctx, force)
}

// begin accepts from the listeners that are open, and from those that are opened later.
func (s *Server) begin(serving, stopping context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serving, s.stopping = serving, stopping
	for _, p := range s.ports {
		s.start(p)
		s.servePackets(serving, stopping, p)
	}
	for _, p := range s.declared {
		s.start(p)
	}
	close(s.begun)
}

// start accepts from a listener. s.mu is held.
func (s *Server) start(p *port) {
	serving, stopping := s.serving, s.stopping
	s.accepting.Go(func() { s.accept(serving, stopping, p) })
}

// stop has no listener be opened any more, and answers those that are open.
func (s *Server) stop() []*port {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	list := slices.Clone(s.ports)
	for _, p := range s.declared {
		list = append(list, p)
	}
	return list
}

// close closes a listener. Whoever waits in its queue is served, here or by the process
// that has it too.
func (s *Server) close(p *port, given *handover.Given) {
	p.closing.Store(true)
	if !given.Has(p.name) {
		handover.Quiesce(p.l, func(c net.Conn) { s.admit(s.serving, c, p.gate.Load()) })
	}
	_ = p.l.Close()
}

// ErrCut says that connections were still busy when the grace period ended.
var ErrCut = errors.New("connections were cut: requests were still in flight at the end of the grace period")

func (s *Server) drain(ctx context.Context, force <-chan struct{}) error {
	s.mu.Lock()
	s.draining = true
	s.mu.Unlock()
	s.HTTP1.Drain(ctx)
	s.wg.Go(func() { s.HTTP2.Drain(ctx) }) // takes a moment, in which connections may be cut
	idle := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(idle)
	}()
	timer := time.NewTimer(s.grace())
	defer timer.Stop()
	select {
	case <-idle:
		return nil
	case <-timer.C:
	case <-force:
	}
	s.mu.Lock()
	left := len(s.conns)
	for c := range s.conns {
		_ = c.Close()
	}
	s.mu.Unlock()
	<-idle
	return fmt.Errorf("%w (%d of them)", ErrCut, left)
}

// grace is how long a drain may take.
func (s *Server) grace() time.Duration {
	if s.Grace == 0 {
		return 30 * time.Second
	}
	return s.Grace
}

// accept is the loop of one listener. Errors such as too many open files are
// waited out: a listener that is still open must never stop listening.
func (s *Server) accept(ctx, stopping context.Context, p *port) {
	wait := 5 * time.Millisecond
	for {
		c, err := p.l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || stopping.Err() != nil || p.closing.Load() {
				return
			}
			s.Log.Warn("accepting failed, trying again", slog.String("endpoint", p.gate.Load().Name), slog.Any("error", err), slog.Duration("wait", wait))
			pause(ctx, wait)
			wait = min(2*wait, time.Second)
			continue
		}
		wait = 5 * time.Millisecond
		s.admit(ctx, c, p.gate.Load())
	}
}
