package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/exchange/sock"
	"github.com/keyway-edge/keyway/edge/proxyproto"
)

// trackedConn is an accepted connection with what the edge keeps of it.
type trackedConn struct {
	net.Conn
	fast   *sock.Conn // the same socket, nil where there is none
	client netip.Addr // who was let in, invalid before
	facts  tlsFacts
	shook  atomic.Bool // facts are complete, for others than the connection's goroutine
	idle   atomic.Bool // of a side service: between two requests
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

// Plain is the socket itself, for bytes that need not come here.
func (c *trackedConn) Plain() *net.TCPConn { return sock.Plain(c.Conn) }

// CloseWrite sends the end of our side and leaves the other open, so that a client
// that still writes reads the answer before the connection goes.
func (c *trackedConn) CloseWrite() error {
	if h, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return nil
}

// admit serves an accepted connection on a goroutine of its own, or refuses it.
func (s *Server) admit(ctx context.Context, c net.Conn, e *gate) {
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
	if why := s.track(tc, e); why != "" {
		s.Observer.Refused(e.Name, why)
		reset(c)
		return
	}
	go s.serve(ctx, tc, e)
}

// track counts a connection in, or answers why there are too many.
func (s *Server) track(c *trackedConn, e *gate) (why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.MaxConns > 0 && len(s.conns) >= s.MaxConns:
		return refusedFull
	case e.MaxConns > 0 && e.held >= e.MaxConns:
		return refusedListener
	}
	c.facts.at = e
	s.conns[c] = struct{}{}
	e.held++
	s.wg.Add(1)
	return ""
}

func (s *Server) untrack(c *trackedConn) {
	s.mu.Lock()
	delete(s.conns, c)
	c.facts.at.held--
	s.mu.Unlock()
	s.wg.Done()
}

// serve is the life of one connection. Its frame stays as long as the connection does, which
// may wait for days: what only the begin or the end needs is in the functions that it calls.
func (s *Server) serve(ctx context.Context, c *trackedConn, e *gate) {
	defer s.over(c, e)
	s.Observer.Opened(e.Name)
	if info := s.receive(c, e); info != nil {
		if engine, over := s.ready(ctx, c, e, info); engine != nil {
			engine.ServeConn(ctx, over, info)
		}
	}
}

// over is deferred to the end of a connection. One that panics ends alone.
func (s *Server) over(c *trackedConn, e *gate) {
	if p := recover(); p != nil {
		s.Log.Error("connection panicked", slog.String("endpoint", e.Name), slog.Any("panic", p))
		_ = c.Close()
	}
	if c.client.IsValid() {
		s.admission.leave(c.client)
	}
	s.Observer.Closed(e.Name)
	s.untrack(c)
}

// receive learns who the client is and lets it in; nil when it is refused and c is closed.
func (s *Server) receive(c *trackedConn, e *gate) *exchange.Conn {
	info := &exchange.Conn{
		ID: s.next.Add(1), Listener: e.Name, Protocol: "HTTP/1.1", Opened: time.Now(),
		Peer: addrPort(c.RemoteAddr()), Local: addrPort(c.LocalAddr()),
	}
	if e.Proxied && s.Config.trusts(info.Peer.Addr().Unmap()) && !s.introduce(c, info) {
		s.Observer.Refused(e.Name, refusedHeader)
		return nil
	}
	client := info.Peer.Addr()
	if !s.admission.enter(client) {
		s.Observer.Refused(e.Name, refusedClient)
		reset(c.Conn)
		return nil
	}
	c.client = client
	return info
}

// ready answers the engine of the protocol that the client speaks, and the connection that
// it is spoken on; no engine when c was served already, or is closed.
func (s *Server) ready(ctx context.Context, c *trackedConn, e *gate, info *exchange.Conn) (Engine, net.Conn) {
	policy := e.Policy
	if policy == "" {
		policy = s.Config.Policy
	}
	ci := s.Config.newConnInfo(info, policy)
	ci.at, ci.altSvc = e, e.altSvc(ci.port)
	info.Policy = ci
	switch {
	case e.Stream:
		s.serveStream(ctx, c, e, info, ci)
		return nil, nil
	case !e.TLS:
		info.Last = e.shut.Load()
		return s.readyClear(c, e, info)
	}
	return s.readyTLS(ctx, c, c, e, info, ci)
}

// readyTLS is ready for requests over TLS, on a connection that over leads to.
func (s *Server) readyTLS(ctx context.Context, c *trackedConn, over net.Conn, e *gate, info *exchange.Conn, ci *connInfo) (Engine, net.Conn) {
	if !s.admission.shake() {
		s.Observer.Refused(e.Name, refusedHandshakes)
		reset(c.Conn)
		return nil, nil
	}
	tc := s.handshake(ctx, c, over, c.client)
	s.admission.shaken()
	if tc == nil {
		return nil, nil
	}
	c.shook.Store(true)
	info.Last = e.shut.Load() || s.revoked.has(&c.facts) // in this very moment
	state := tc.ConnectionState()
	if state.NegotiatedProtocol == challengeALPN {
		_ = tc.Close() // the handshake was all that it was for
		return nil, nil
	}
	info.TLS, ci.tls = &state, &c.facts
	info.CertSerial = c.facts.certVersion()
	if state.NegotiatedProtocol == "h2" {
		info.Protocol = "HTTP/2.0"
		return s.HTTP2, tc
	}
	return s.HTTP1, tc
}

// readyClear is ready for a connection without TLS.
func (s *Server) readyClear(c *trackedConn, e *gate, info *exchange.Conn) (Engine, net.Conn) {
	if !e.H2C {
		return s.HTTP1, c
	}
	cc := &clearConn{trackedConn: c}
	if cc.speaksHTTP2(s.handshakeLimit()) {
		info.Protocol = "HTTP/2.0"
		return s.HTTP2, cc
	}
	return s.HTTP1, cc
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
