package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyway-edge/keyway/edge"
	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/handover"
	"github.com/keyway-edge/keyway/routing"
	"github.com/keyway-edge/keyway/routing/upstream"
)

// Packets listens for datagrams. A client, which is an address and a port, has one
// session with one target, and a socket of its own towards it, until both are silent.
type Packets struct {
	Addresses    []string          // host:port
	Sockets      *handover.Sockets // opens the listeners; nil for one of its own
	Current      func() *edge.Snapshot
	Observer     edge.StreamObserver
	Log          *slog.Logger
	MaxSessions  int           // at a time; zero for no limit
	MaxPerClient int           // of them of one client address, or /64 of IPv6; zero for no limit
	Grace        time.Duration // how long sessions may go on at the end

	inlets   []*inlet  // of Addresses, in their order
	buffers  sync.Pool // of *datagram
	draining atomic.Bool
	given    atomic.Bool // draining, and another process has the listeners: sessions last as ever

	mu       sync.Mutex // guards the group below
	sessions map[sessionKey]*session
	clients  map[netip.Addr]int
	declared map[string]*inlet // listeners of documents, by address
	serving  context.Context   //nolint:containedctx // what sessions live in; nil before Run
	wg       sync.WaitGroup    // of sessions
	reading  sync.WaitGroup    // of listeners
}

// datagram has room for the longest one there is.
type datagram [65535]byte

// listenerName is what logs and metrics call the listeners.
const listenerName = "stream-udp"

// sessionKey is a client of a listener.
type sessionKey struct {
	in     *inlet
	client netip.AddrPort
}

// quiet is how long a session must be silent to end while the node stops.
const quiet = time.Second

// Listen opens every address, or none.
func (p *Packets) Listen(ctx context.Context) error {
	p.sessions, p.clients, p.declared = map[sessionKey]*session{}, map[netip.Addr]int{}, map[string]*inlet{}
	p.buffers.New = func() any { return new(datagram) }
	if p.Sockets == nil {
		p.Sockets = &handover.Sockets{}
	}
	for _, a := range p.Addresses {
		in, err := p.open(ctx, listenerName, listenerName, a)
		if err != nil {
			for _, open := range p.inlets {
				_ = open.Close()
			}
			return fmt.Errorf("listening on %s for %s: %w", a, listenerName, err)
		}
		p.inlets = append(p.inlets, in)
	}
	return nil
}

// of lists the clients of a listener.
func (p *Packets) of(in *inlet) []netip.AddrPort {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []netip.AddrPort
	for key := range p.sessions {
		if key.in == in {
			list = append(list, key.client)
		}
	}
	return list
}

// Run carries datagrams until ctx ends. Then sessions begin no more, and those that are
// under way end when they have been silent for a moment, when the grace period is
// over, or when force is closed. Where another process takes this one's place, they stay
// here for as long as they would have: it passes on what their clients send.
func (p *Packets) Run(ctx context.Context, force <-chan struct{}) error {
	serving, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	p.begin(serving)
	<-ctx.Done()
	p.mu.Lock()
	p.given.Store(handover.GivenBy(ctx) != nil)
	p.draining.Store(true) // under the lock: what is counted in later would not be waited for
	p.mu.Unlock()
	p.each((*session).nudge)
	idle := make(chan struct{})
	go func() {
		p.wg.Wait()
		close(idle)
	}()
	timer := time.NewTimer(p.Grace)
	defer timer.Stop()
	select {
	case <-idle:
	case <-timer.C:
	case <-force:
	}
	cut()
	p.each((*session).close)
	for _, in := range p.all() {
		_ = in.Close()
	}
	p.reading.Wait()
	<-idle
	return nil
}

func (p *Packets) each(f func(*session)) {
	p.mu.Lock()
	list := make([]*session, 0, len(p.sessions))
	for _, s := range p.sessions {
		list = append(list, s)
	}
	p.mu.Unlock()
	for _, s := range list {
		f(s)
	}
}

// read is the loop of one listener.
func (p *Packets) read(ctx context.Context, in *inlet) {
	buf := new(datagram)
	for {
		n, from, err := in.ReadFromUDPAddrPort(buf[:])
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// What a client's host refused comes back here: it concerns nobody else.
			continue
		}
		key := sessionKey{in, netip.AddrPortFrom(from.Addr().Unmap(), from.Port())}
		p.mu.Lock()
		s := p.sessions[key]
		p.mu.Unlock()
		if s == nil {
			if s = p.enter(ctx, key); s == nil {
				continue
			}
		}
		s.send(buf[:n])
	}
}

// enter makes the session of a client, or answers nil.
func (p *Packets) enter(ctx context.Context, key sessionKey) *session {
	in := key.in
	name := *in.name.Load()
	local, _ := in.LocalAddr().(*net.UDPAddr)
	now := time.Now()
	info := &exchange.Conn{Listener: name, Peer: key.client, Local: local.AddrPort(), Protocol: routing.UDP, Opened: now}
	s := &session{packets: p, key: key, back: in.UDP, info: info, waiting: make(chan []byte, 16)}
	s.end = &edge.StreamEnd{Protocol: routing.UDP, Listener: name, Client: key.client, Local: info.Local, Began: now}
	if p.draining.Load() || in.closing.Load() {
		in.Forget(key.client)
		return nil
	}
	bad := s.find(ctx)
	if bad == nil && !p.admit(key, s) {
		bad = &refusal{resultFull, errors.New("there are as many sessions as there may be")}
	}
	if bad != nil {
		s.finish(ctx, bad)
		return nil
	}
	go s.run(ctx)
	return s
}

// admit counts a session in, unless there are too many.
func (p *Packets) admit(key sessionKey, s *session) bool {
	client := network(key.client.Addr())
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.MaxSessions > 0 && len(p.sessions) >= p.MaxSessions || p.MaxPerClient > 0 && p.clients[client] >= p.MaxPerClient || p.draining.Load() || key.in.closing.Load() {
		return false
	}
	p.sessions[key] = s
	p.clients[client]++
	key.in.held++
	p.wg.Add(1)
	return true
}

func (p *Packets) forget(key sessionKey) {
	client := network(key.client.Addr())
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.sessions, key)
	key.in.held--
	if p.clients[client]--; p.clients[client] <= 0 {
		delete(p.clients, client)
	}
}

// network is what counts as one client: an address, or of IPv6 the /64 that one host
// may have to itself.
func network(a netip.Addr) netip.Addr {
	if a = a.Unmap().WithZone(""); a.Is6() {
		p, _ := a.Prefix(64) // 64 is a length that it has
		return p.Addr()
	}
	return a
}

// session is one client's way to one target.
type session struct {
	packets *Packets
	key     sessionKey
	info    *exchange.Conn
	back    *handover.UDP // the listener: answers come from where the client asked
	routed  edge.Routed
	end     *edge.StreamEnd
	waiting chan []byte // datagrams that came before there was a target
	tunnel  atomic.Pointer[upstream.Tunnel]
	last    atomic.Int64 // when a datagram went last, Unix nanoseconds
	in, out atomic.Int64

	mu     sync.Mutex // held while the deadline is chosen and set
	socket *net.UDPConn
	closed bool
}

// find finds the route of the session.
func (s *session) find(ctx context.Context) *refusal {
	snap := s.packets.Current()
	if snap == nil {
		return &refusal{resultUnavailable, errors.New("no configuration is loaded yet")}
	}
	s.end.Generation = snap.Generation
	var ok bool
	if s.routed, ok = snap.Stream(&routing.StreamQuery{Protocol: routing.UDP, Source: s.info.Peer, Destination: s.info.Local}); !ok {
		return &refusal{resultNoRoute, errors.New("no udp route matches; expected one whose sources or destinations do")}
	}
	s.routed = s.routed.Chosen()
	s.end.Route, s.end.Service = s.routed.Route, s.routed.Service
	if s.routed.Closed != nil {
		return &refusal{resultUnavailable, s.routed.Closed}
	}
	if reply := s.routed.Admit(ctx, s.info, s.end.Began); reply != nil {
		return &refusal{resultDenied, fmt.Errorf("a plugin refused the client: %s", reply.Message)}
	}
	return nil
}

// send sends a datagram of the client on. Whatever there is no room for is lost, as
// datagrams are.
func (s *session) send(b []byte) {
	t := s.tunnel.Load()
	if t == nil {
		select {
		case s.waiting <- append(make([]byte, 0, len(b)), b...):
		default:
		}
		return
	}
	s.forward(t, b)
}

func (s *session) forward(t *upstream.Tunnel, b []byte) {
	if n, err := t.Conn.Write(b); err == nil { // a refusal shows at the reader too
		s.last.Store(time.Now().UnixNano())
		s.in.Add(int64(n))
		s.packets.Observer.StreamCarried(routing.UDP, int64(n), 0)
	}
}

// run is the life of a session.
func (s *session) run(ctx context.Context) {
	defer s.packets.wg.Done()
	defer s.back.Forget(s.key.client) // after it is gone here: what comes then is for who reads
	defer s.packets.forget(s.key)
	defer func() {
		if p := recover(); p != nil {
			s.packets.Log.Error("session panicked", slog.String("endpoint", s.info.Listener), slog.Any("panic", p))
		}
	}()
	t, err := s.routed.Dial(ctx, upstream.Dialing{Network: "udp", Client: s.key.client.Addr()})
	if err != nil {
		s.finish(ctx, &refusal{resultNoTarget, err})
		return
	}
	defer t.Close()
	s.end.Upstream, s.end.Tries, s.end.Opened = t.Address, t.Tries, true
	s.packets.Observer.StreamOpened(routing.UDP)
	s.last.Store(time.Now().UnixNano())
	s.mu.Lock()
	s.socket = t.Conn.(*net.UDPConn) // "udp" makes no other kind
	if s.closed {
		_ = s.socket.Close()
	}
	s.mu.Unlock()
	s.flush(t)
	s.tunnel.Store(t)
	s.flush(t) // what came in between
	s.finish(ctx, s.answers(t))
}

func (s *session) flush(t *upstream.Tunnel) {
	for {
		select {
		case b := <-s.waiting:
			s.forward(t, b)
		default:
			return
		}
	}
}

// answers sends what the target says back until the session is over.
func (s *session) answers(t *upstream.Tunnel) *refusal {
	idle, _ := s.routed.Cluster.Silence()
	raw, err := s.socket.SyscallConn()
	if err != nil {
		return &refusal{resultBroken, fmt.Errorf("awaiting answers: %w", err)}
	}
	for {
		if !s.await(idle) {
			return &refusal{resultIdle, nil}
		}
		buf, n, err := readDatagram(s.socket, raw, &s.packets.buffers)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			continue
		case errors.Is(err, net.ErrClosed):
			return &refusal{resultCut, err}
		case err != nil:
			// Nobody listens there: the next datagram of the client begins a session
			// with another target.
			t.Failed(err)
			return &refusal{resultBroken, fmt.Errorf("awaiting answers of %s: %w", t.Address, err)}
		}
		t.Answered()
		s.last.Store(time.Now().UnixNano())
		_, err = s.back.WriteToUDPAddrPort(buf[:n], s.key.client)
		s.packets.buffers.Put(buf)
		if err == nil {
			s.out.Add(int64(n))
			s.packets.Observer.StreamCarried(routing.UDP, 0, int64(n))
		}
	}
}

// await sets the time until when an answer is awaited, and says whether there is any left.
func (s *session) await(idle time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.packets.draining.Load() && !s.packets.given.Load() || s.key.in.closing.Load() {
		idle = min(idle, quiet)
	}
	until := time.Unix(0, s.last.Load()).Add(idle)
	if !time.Now().Before(until) {
		return false
	}
	_ = s.socket.SetReadDeadline(until) // a closed one says so when it is read
	return true
}

// nudge makes the session choose its deadline anew.
func (s *session) nudge() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.socket != nil {
		_ = s.socket.SetReadDeadline(time.Unix(1, 0))
	}
}

// close ends the session at once.
func (s *session) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.socket != nil {
		_ = s.socket.Close()
	}
}

func (s *session) finish(ctx context.Context, r *refusal) {
	s.end.Result, s.end.Err = r.result, r.err
	s.end.In, s.end.Out = s.in.Load(), s.out.Load()
	s.end.Took = time.Since(s.end.Began)
	s.packets.Observer.StreamClosed(ctx, s.end)
}
