package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/handover"
)

// PacketEngine speaks a protocol that brings its own transport and its own handshakes.
type PacketEngine interface {
	// Serve serves what comes to pc until stopping ends. Then every connection ends
	// after the requests in flight; Serve returns when all have, and closes pc.
	Serve(ctx, stopping context.Context, pc *handover.UDP, door *Door) error
	// Leave is as an Engine's, but returns at once.
	Leave(ctx context.Context, match func(*exchange.Conn) bool)
}

// altSvcAge is how long clients may remember that HTTP/3 is to be had.
const altSvcAge = time.Hour

// provenFrom is how many handshakes may be under way before clients have to show that
// they are at the address which they claim, which costs each a round trip.
const provenFrom = 32

// errTurnedAway is the answer to a client that is one too many.
var errTurnedAway = errors.New("as many connections or handshakes as may be are under way")

// Door is what a Server decides about the connections of one endpoint over UDP.
type Door struct {
	s *Server
	e *gate
}

// TLS is the configuration of handshakes.
func (d *Door) TLS() *tls.Config { return d.s.Terminator.quic }

// Limit is the longest time of a handshake.
func (d *Door) Limit() time.Duration { return d.s.handshakeLimit() }

// Crowded says that clients should prove their address before anything is kept of them.
func (d *Door) Crowded() bool {
	a := &d.s.admission
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.shaking >= provenFrom || a.handshakes > 0 && 2*a.shaking >= a.handshakes
}

// Enter counts in a connection whose handshake begins, or answers why it must not. ctx
// is to end with the connection; the context that is returned goes into the handshake.
func (d *Door) Enter(ctx context.Context, peer net.Addr) (context.Context, error) {
	g := &guest{d: d, peer: peer, began: time.Now()}
	g.tc.Conn = g
	if why := d.s.track(&g.tc, d.e); why != "" {
		d.s.Observer.Refused(d.e.Name, why)
		return nil, errTurnedAway
	}
	if !d.s.admission.shake() {
		d.s.untrack(&g.tc)
		d.s.Observer.Refused(d.e.Name, refusedHandshakes)
		return nil, errTurnedAway
	}
	d.s.Observer.Opened(d.e.Name)
	context.AfterFunc(ctx, func() { g.leave(context.Cause(ctx)) })
	return context.WithValue(ctx, guestKey{}, g), nil
}

// Shaken waits for done, the end of the handshake of a connection whose own context is
// conn. It answers false when the connection ends before that or the handshake takes
// longer than it may, and when ctx ends.
func (d *Door) Shaken(ctx, conn context.Context, done <-chan struct{}) bool {
	g, ok := conn.Value(guestKey{}).(*guest)
	if !ok {
		return false
	}
	late := time.NewTimer(time.Until(g.began.Add(d.Limit())))
	defer late.Stop()
	select {
	case <-done:
		return true
	case <-late.C:
		g.mu.Lock()
		g.late = true
		g.mu.Unlock()
	case <-conn.Done():
	case <-ctx.Done():
	}
	return false
}

// Welcome takes a connection whose handshake is done; ctx is its own. It answers nil for
// one that must not be served. end closes it, and may be called at any time.
func (d *Door) Welcome(ctx context.Context, state *tls.ConnectionState, local net.Addr, end func()) *exchange.Conn {
	g, ok := ctx.Value(guestKey{}).(*guest)
	if !ok {
		return nil
	}
	s, client := d.s, addrPort(g.peer)
	if !g.shake(state, end) {
		return nil
	}
	if !s.admission.enter(client.Addr()) {
		s.Observer.Refused(d.e.Name, refusedClient)
		return nil
	}
	context.AfterFunc(ctx, func() { s.admission.leave(client.Addr()) })
	policy := d.e.Policy
	if policy == "" {
		policy = s.Config.Policy
	}
	facts := &g.tc.facts
	info := &exchange.Conn{
		ID: s.next.Add(1), Listener: d.e.Name, Protocol: "HTTP/3.0", Opened: g.began, Peer: client, Local: addrPort(local),
		TLS: state, CertSerial: facts.certVersion(), Last: s.revoked.has(facts), // in this very moment
	}
	ci := s.Config.newConnInfo(info, policy)
	ci.at, ci.tls = d.e, facts
	info.Policy = ci
	return info
}

// Settle waits until no handshake is under way, for at least d and no longer than a
// handshake may take, or until ctx ends.
func (d *Door) Settle(ctx context.Context, least time.Duration) {
	until := time.Now().Add(d.Limit())
	for wait := least; ; wait = 100 * time.Millisecond {
		pause(ctx, wait)
		a := &d.s.admission
		a.mu.Lock()
		shaking := a.shaking
		a.mu.Unlock()
		if shaking == 0 || ctx.Err() != nil || time.Now().After(until) {
			return
		}
	}
}

// guest is a connection that has come through a Door.
type guest struct {
	net.Conn // nil: only what stands below is called
	d        *Door
	tc       trackedConn
	peer     net.Addr
	began    time.Time

	mu   sync.Mutex // guards the group below
	done bool       // the handshake is over, or the connection
	late bool       // the handshake took too long
	cut  bool
	end  func()
}

type guestKey struct{}

// shake ends the handshake. It answers false when the connection is already over.
func (g *guest) shake(state *tls.ConnectionState, end func()) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.done || g.cut {
		return false
	}
	g.done, g.end = true, end
	s, facts := g.d.s, &g.tc.facts
	s.admission.shaken()
	facts.tried(addrPort(g.peer).Addr(), state, nil)
	facts.snap, facts.resumed = nil, state.DidResume
	g.tc.shook.Store(true)
	s.Observer.Handshake(state.ServerName, state, time.Since(g.began), nil)
	return true
}

// leave counts the connection out when it has ended.
func (g *guest) leave(cause error) {
	g.mu.Lock()
	shook := g.done
	g.done = true
	if g.late {
		cause = os.ErrDeadlineExceeded
	}
	g.mu.Unlock()
	s := g.d.s
	if !shook {
		s.admission.shaken()
		s.Observer.Handshake("", nil, time.Since(g.began), cause)
	}
	s.Observer.Closed(g.d.e.Name)
	s.untrack(&g.tc)
}

// Close ends the connection at once.
func (g *guest) Close() error {
	g.mu.Lock()
	g.cut = true
	end := g.end
	g.mu.Unlock()
	if end != nil {
		end()
	}
	return nil
}

func (g *guest) RemoteAddr() net.Addr { return g.peer }

// listenPackets opens the UDP side of an endpoint, at the address of its TCP side.
func (s *Server) listenPackets(ctx context.Context, e Endpoint, beside net.Addr) (*handover.UDP, error) {
	if !e.HTTP3 {
		return nil, nil //nolint:nilnil // an endpoint without
	}
	host, _, err := net.SplitHostPort(e.Address)
	if err != nil {
		return nil, err
	}
	return s.Sockets.ListenPacket(ctx, handover.PurposeHTTP3, net.JoinHostPort(host, strconv.Itoa(int(addrPort(beside).Port()))))
}

// servePackets has an engine serve the UDP side of an endpoint until the drain is over.
func (s *Server) servePackets(ctx, stopping context.Context, p *port) {
	if p.packets == nil {
		return
	}
	s.wg.Go(func() {
		g := p.gate.Load()
		if err := s.HTTP3.Serve(ctx, stopping, p.packets, &Door{s, g}); err != nil {
			s.Log.Error("HTTP/3 ended", slog.String("endpoint", g.Name), slog.Any("error", err))
		}
	})
}

// altSvc is what responses over TCP say of HTTP/3 at the same port (RFC 7838), "" for nothing.
func (e *Endpoint) altSvc(port string) string {
	switch {
	case e.HTTP3:
		return `h3=":` + port + `"; ma=` + strconv.Itoa(int(altSvcAge/time.Second))
	case e.NoHTTP3:
		return "clear"
	}
	return ""
}
