package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/exchange/sock"
	"github.com/keyway-edge/keyway/edge/handover"
	"github.com/keyway-edge/keyway/edge/proxyproto"
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
	// H2C makes a listener in clear understand HTTP/2 too, from clients that begin with it.
	H2C bool
	// HTTP3 serves HTTP/3 over UDP at the port of a TLS listener, and says so there.
	HTTP3 bool
	// NoHTTP3 has clients forget that there was HTTP/3.
	NoHTTP3 bool
	// MaxConns is how many connections it may have at a time, more are refused; zero
	// for no limit of its own.
	MaxConns int

	index int // in Server.Endpoints
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

	listeners []net.Listener
	packets   []*handover.UDP // of each listener, nil for none
	next      atomic.Uint64
	revoked   revokedSet
	admission admission
	reserve   int // descriptors from this number on are not for clients, 0 for no limit

	mu       sync.Mutex // guards conns, held, side and draining
	conns    map[*trackedConn]struct{}
	held     []int                     // connections of each endpoint
	side     map[*trackedConn]struct{} // of side services
	draining bool
	wg       sync.WaitGroup
}

// trackedConn is an accepted connection with what the edge keeps of it.
type trackedConn struct {
	net.Conn
	fast  *sock.Conn // the same socket, nil where there is none
	at    int        // index of its endpoint
	facts tlsFacts
	shook atomic.Bool // facts are complete, for others than the connection's goroutine
	idle  atomic.Bool // of a side service: between two requests
}

// Read reads from the socket.
func (c *trackedConn) Read(p []byte) (int, error) {
	if c.fast != nil {
		return c.fast.Read(p)
	}
	return c.Conn.Read(p)
}

// Write writes to the socket.
func (c *trackedConn) Write(p []byte) (int, error) {
	if c.fast != nil {
		return c.fast.Write(p)
	}
	return c.Conn.Write(p)
}

// CloseWrite sends the end of our side and leaves the other open, so that a client
// that still writes reads the answer before the connection goes.
func (c *trackedConn) CloseWrite() error {
	if h, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return nil
}

// Listen opens every endpoint, or none: on an error the opened ones are closed.
func (s *Server) Listen(ctx context.Context) error {
	s.conns, s.held = make(map[*trackedConn]struct{}), make([]int, len(s.Endpoints))
	if s.reserve == 0 {
		s.reserve = maxDescriptors() / 10 * 9
	}
	s.admission.perClient, s.admission.handshakes = s.MaxPerClient, s.MaxHandshakes
	if s.Sockets == nil {
		s.Sockets = &handover.Sockets{}
	}
	for i := range s.Endpoints {
		s.Endpoints[i].index = i
	}
	for _, e := range s.Endpoints {
		l, err := s.Sockets.Listen(ctx, e.Name, "tcp", e.Address)
		if err != nil {
			s.unlisten()
			return fmt.Errorf("listening on %s for %s: %w", e.Address, e.Name, err)
		}
		s.listeners = append(s.listeners, l)
		pc, err := s.listenPackets(ctx, e, l.Addr())
		if err != nil {
			s.unlisten()
			return fmt.Errorf("listening on UDP %s for HTTP/3 of %s: %w", l.Addr(), e.Name, err)
		}
		s.packets = append(s.packets, pc)
	}
	return nil
}

// unlisten closes what was opened.
func (s *Server) unlisten() {
	for _, l := range s.listeners {
		_ = l.Close()
	}
	for _, pc := range s.packets {
		if pc != nil {
			_ = pc.Close()
		}
	}
}

// Addresses are the addresses in use, in the order of Endpoints.
func (s *Server) Addresses() []net.Addr {
	list := make([]net.Addr, len(s.listeners))
	for i, l := range s.listeners {
		list[i] = l.Addr()
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
	var accepting sync.WaitGroup
	for i, l := range s.listeners {
		accepting.Go(func() { s.accept(serving, ctx, l, s.Endpoints[i]) })
		s.servePackets(serving, ctx, i)
	}
	<-ctx.Done()
	given := handover.GivenBy(ctx)
	for i, l := range s.listeners {
		e := s.Endpoints[i]
		if !given.Has(handover.Socket{Network: "tcp", Address: e.Address, Purpose: e.Name}) {
			quiesce(l, func(c net.Conn) { s.admit(serving, c, e) })
		}
		_ = l.Close()
	}
	accepting.Wait()
	return s.drain(ctx, force)
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
	grace := s.Grace
	if grace == 0 {
		grace = 30 * time.Second
	}
	timer := time.NewTimer(grace)
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

// accept is the loop of one listener. Errors such as too many open files are
// waited out: a listener that is still open must never stop listening.
func (s *Server) accept(ctx, stopping context.Context, l net.Listener, e Endpoint) {
	wait := 5 * time.Millisecond
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || stopping.Err() != nil {
				return
			}
			s.Log.Warn("accepting failed, trying again", slog.String("endpoint", e.Name), slog.Any("error", err), slog.Duration("wait", wait))
			pause(ctx, wait)
			wait = min(2*wait, time.Second)
			continue
		}
		wait = 5 * time.Millisecond
		s.admit(ctx, c, e)
	}
}

// admit serves an accepted connection on a goroutine of its own, or refuses it.
func (s *Server) admit(ctx context.Context, c net.Conn, e Endpoint) {
	tc := &trackedConn{Conn: c, fast: sock.New(c)}
	if s.Overload.Short() {
		s.Observer.Refused(e.Name, ShedMemory)
		reset(c)
		return
	}
	// What is left is for upstreams, files and lookups, without which nobody is served.
	if s.reserve > 0 && descriptorOf(c) >= s.reserve {
		s.Observer.Refused(e.Name, refusedDescriptors)
		reset(c)
		return
	}
	if why := s.track(tc, &e); why != "" {
		s.Observer.Refused(e.Name, why)
		reset(c)
		return
	}
	go s.serve(ctx, tc, e)
}

// track counts a connection in, or answers why there are too many.
func (s *Server) track(c *trackedConn, e *Endpoint) (why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.MaxConns > 0 && len(s.conns) >= s.MaxConns:
		return refusedFull
	case e.MaxConns > 0 && s.held[e.index] >= e.MaxConns:
		return refusedListener
	}
	c.at = e.index
	s.conns[c] = struct{}{}
	s.held[e.index]++
	s.wg.Add(1)
	return ""
}

func (s *Server) untrack(c *trackedConn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.held[c.at]--
	s.mu.Unlock()
	s.wg.Done()
}

// serve is the life of one connection.
func (s *Server) serve(ctx context.Context, c *trackedConn, e Endpoint) {
	defer s.untrack(c)
	s.Observer.Opened(e.Name)
	defer s.Observer.Closed(e.Name)
	defer func() {
		if p := recover(); p != nil {
			s.Log.Error("connection panicked", slog.String("endpoint", e.Name), slog.Any("panic", p))
			_ = c.Close()
		}
	}()
	info := &exchange.Conn{
		ID: s.next.Add(1), Listener: e.Name, Protocol: "HTTP/1.1", Opened: time.Now(),
		Peer: addrPort(c.RemoteAddr()), Local: addrPort(c.LocalAddr()),
	}
	if e.Proxied && s.Config.trusts(info.Peer.Addr().Unmap()) && !s.introduce(c, info) {
		s.Observer.Refused(e.Name, refusedHeader)
		return
	}
	client := info.Peer.Addr()
	if !s.admission.enter(client) {
		s.Observer.Refused(e.Name, refusedClient)
		reset(c.Conn)
		return
	}
	defer s.admission.leave(client)
	policy := e.Policy
	if policy == "" {
		policy = s.Config.Policy
	}
	ci := s.Config.newConnInfo(info, policy)
	ci.altSvc = e.altSvc(ci.port)
	info.Policy = ci
	if e.Stream {
		s.serveStream(ctx, c, e, info, ci)
		return
	}
	if !e.TLS {
		s.serveClear(ctx, c, e, info)
		return
	}
	if !s.admission.shake() {
		s.Observer.Refused(e.Name, refusedHandshakes)
		reset(c.Conn)
		return
	}
	tc := s.handshake(ctx, c, c, client)
	s.admission.shaken()
	if tc == nil {
		return
	}
	c.shook.Store(true)
	info.Last = s.revoked.has(&c.facts) // in this very moment
	state := tc.ConnectionState()
	if state.NegotiatedProtocol == challengeALPN {
		_ = tc.Close() // the handshake was all that it was for
		return
	}
	info.TLS, ci.tls = &state, &c.facts
	info.CertSerial = c.facts.certVersion()
	if state.NegotiatedProtocol == "h2" {
		info.Protocol = "HTTP/2.0"
		s.HTTP2.ServeConn(ctx, tc, info)
		return
	}
	s.HTTP1.ServeConn(ctx, tc, info)
}

// serveClear serves a connection without TLS.
func (s *Server) serveClear(ctx context.Context, c *trackedConn, e Endpoint, info *exchange.Conn) {
	if !e.H2C {
		s.HTTP1.ServeConn(ctx, c, info)
		return
	}
	cc := &clearConn{trackedConn: c}
	if cc.speaksHTTP2(s.handshakeLimit()) {
		info.Protocol = "HTTP/2.0"
		s.HTTP2.ServeConn(ctx, cc, info)
		return
	}
	s.HTTP1.ServeConn(ctx, cc, info)
}

// introduce takes the client from the PROXY header of a trusted peer. It answers
// false, and c is closed, when there is no good one: a connection without is one
// that somebody made past the load balancer, or a mistake of its configuration.
func (s *Server) introduce(c *trackedConn, info *exchange.Conn) bool {
	_ = c.SetReadDeadline(time.Now().Add(s.handshakeLimit()))
	h, err := proxyproto.Read(c.Conn)
	if err != nil {
		if !errors.Is(err, io.EOF) { // a look at whether the port is open
			s.Log.Warn("connection closed: a peer of trusted_ips has to begin with a PROXY header on this listener (proxy_protocol)", slog.String("endpoint", info.Listener), slog.String("peer", info.Peer.String()), slog.Any("error", err))
		}
		_ = c.Close()
		return false
	}
	_ = c.SetReadDeadline(time.Time{})
	if h.Known() {
		info.Peer = h.Source
	}
	return true
}

func (s *Server) handshakeLimit() time.Duration {
	if s.HandshakeTimeout == 0 {
		return 10 * time.Second
	}
	return s.HandshakeTimeout
}

// handshake makes the TLS connection over c, which over leads to; nil when there is
// none and c is closed.
func (s *Server) handshake(ctx context.Context, c *trackedConn, over net.Conn, peer netip.Addr) *tls.Conn {
	began := time.Now()
	_ = c.SetDeadline(began.Add(s.handshakeLimit()))
	tc := tls.Server(over, s.Terminator.Config())
	err := tc.HandshakeContext(ctx)
	if err == nil {
		_ = c.SetDeadline(time.Time{})
		state := tc.ConnectionState()
		c.facts.tried(peer, &state, nil)
		// Whoever stays for days must not keep what was in force when it came.
		c.facts.snap, c.facts.resumed = nil, state.DidResume
		s.Observer.Handshake(state.ServerName, &state, time.Since(began), nil)
		return tc
	}
	c.facts.tried(peer, nil, err)
	s.Observer.Handshake("", nil, time.Since(began), err)
	var record tls.RecordHeaderError
	if errors.As(err, &record) && record.Conn != nil && looksLikeHTTP(record.RecordHeader) {
		_, _ = io.WriteString(record.Conn, "HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\nThe plain HTTP request was sent to HTTPS port\n")
	}
	_ = c.Close()
	return nil
}

// looksLikeHTTP says whether what came instead of a TLS record is the begin of
// an HTTP request: a client that forgot the s of https deserves a readable answer.
func looksLikeHTTP(head [5]byte) bool {
	switch string(head[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "PATCH", "DELET", "OPTIO":
		return true
	}
	return false
}

func addrPort(a net.Addr) netip.AddrPort {
	switch t := a.(type) {
	case *net.TCPAddr:
		return t.AddrPort()
	case *net.UDPAddr:
		return t.AddrPort()
	}
	return netip.AddrPort{}
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
