package http3

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/keyway-edge/keyway/edge"
	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/handover"
)

// Settings are the limits of an Engine. Zero fields take the value in brackets.
type Settings struct {
	MaxStreams   int           // concurrent requests of a connection (100)
	HeaderList   int           // bytes of a decoded header section (32 KiB)
	Line         int           // bytes of one field line (8 KiB)
	Target       int           // bytes of :path (8 KiB)
	Fields       int           // field lines of a request (100)
	Glitches     int           // requests given up for each one answered (200)
	ConnWindow   int           // bytes in flight towards us on a connection (1 MiB)
	StreamWindow int           // and on a stream (256 KiB)
	Head         time.Duration // longest time for a header section (10 s)
	Idle         time.Duration // a connection without requests is closed after this (75 s)
	BodyIdle     time.Duration // longest silence inside a request body (30 s)
	MinRate      int           // bytes a second a request body must average after 10 s (0: none)
	WriteStall   time.Duration // longest time without progress of a write (30 s)
	MaxBody      int64         // bytes of a request body; 0 for no limit
}

func (s *Settings) fill() {
	s.MaxStreams = cmp.Or(s.MaxStreams, 100)
	s.HeaderList = cmp.Or(s.HeaderList, 32<<10)
	s.Line = cmp.Or(s.Line, 8<<10)
	s.Target = cmp.Or(s.Target, 8<<10)
	s.Fields = cmp.Or(s.Fields, 100)
	s.Glitches = cmp.Or(s.Glitches, 200)
	s.ConnWindow = cmp.Or(s.ConnWindow, 1<<20)
	s.StreamWindow = cmp.Or(s.StreamWindow, 256<<10)
	s.Head = cmp.Or(s.Head, 10*time.Second)
	s.Idle = cmp.Or(s.Idle, 75*time.Second)
	s.BodyIdle = cmp.Or(s.BodyIdle, 30*time.Second)
	s.WriteStall = cmp.Or(s.WriteStall, 30*time.Second)
}

const (
	// farewell is how long peers have to read that connections end before streams that
	// they open are refused.
	farewell = time.Second
	// settle is how long handshakes that this process has begun may still come to it when
	// another has taken its place: a client that was asked to prove its address comes back
	// after a round trip.
	settle = 2 * time.Second
	// afterwards is how much later than a handshake's limit the transport gives it up by
	// itself, in silence: one that did not come as far as to be accepted.
	afterwards = time.Second
	// lingerFor is how long a connection that is done with waits for its peer to close
	// it: closing it here would take back what the peer has not received yet.
	lingerFor = 2 * time.Second
	// A peer that is gone is noticed after lost; one that is there answers in between.
	lost, alive = 30 * time.Second, 12 * time.Second
	// uniStreams is how many streams of one direction a peer may have open: it needs
	// three, and may try one that nobody knows.
	uniStreams = 8
	bodySize   = 32 << 10
	headRoom   = 4 << 10 // of a head that goes out along with the begin of its body
)

// Engine serves connections that speak HTTP/3. Make one with New.
type Engine struct {
	handler  exchange.Handler
	set      Settings
	draining atomic.Bool
	bodies   sync.Pool // of *[]byte: a head, and a piece of a body

	mu   sync.Mutex // guards open
	open map[*conn]struct{}
}

// New makes an Engine that answers with handler. Nothing is started.
func New(handler exchange.Handler, set Settings) *Engine {
	set.fill()
	e := &Engine{handler: handler, set: set, open: make(map[*conn]struct{})}
	e.bodies.New = func() any { b := make([]byte, headRoom+frameRoom+bodySize); return &b }
	return e
}

// Serve accepts connections on pc until stopping ends, and returns when all have ended:
// after their requests in flight, or at once when the door's server cuts them. ctx is
// what requests live in.
func (e *Engine) Serve(ctx, stopping context.Context, pc *handover.UDP, door *edge.Door) error {
	defer func() { _ = pc.Close() }()
	// A client that slept while its connection ended here is told so when it goes on, and
	// does not wait for an answer in vain. The key is this process's own: clients take no
	// notice of the word of another.
	var reset quic.StatelessResetKey
	_, _ = rand.Read(reset[:]) // never fails
	told := newAnswers()
	tr := &quic.Transport{
		Conn: pc, ConnectionIDGenerator: ids{pc.Tag()}, StatelessResetKey: &reset, Tracer: told,
		VerifySourceAddress: func(net.Addr) bool {
			crowded := door.Crowded()
			if crowded {
				await(told.retry)
			}
			return crowded
		},
		ConnContext: func(ctx context.Context, from *quic.ClientInfo) (context.Context, error) {
			inside, err := door.Enter(ctx, from.RemoteAddr)
			if err != nil {
				await(told.refusal)
			}
			return inside, err
		},
	}
	// Connections come before the client has finished the handshake, so that one which
	// does not can be told; the transport would forget it in silence.
	l, err := tr.ListenEarly(door.TLS(), e.config(door))
	if err != nil {
		return fmt.Errorf("listening for QUIC on %s: %w", pc.LocalAddr(), err)
	}
	shaking, enough := context.WithCancel(ctx)
	defer enough()
	var wg sync.WaitGroup
	wg.Go(func() { e.accept(ctx, shaking, l, door, &wg) })
	<-stopping.Done()
	e.drain(ctx)
	if handover.GivenBy(stopping) != nil {
		door.Settle(ctx, settle) // others' handshakes come here no more
	}
	_ = l.Close() // its connections go on
	// So do those that are shaking hands for a moment: they are told then, in words that a
	// client knows, that nothing of theirs was taken.
	last := time.AfterFunc(settle, enough)
	defer last.Stop()
	wg.Wait()
	return tr.Close()
}

// The transport reads in batches and has the kernel cut what it sends only from what is of this kind.
var _ quic.OOBCapablePacketConn = (*handover.UDP)(nil)

// ids makes connection ids that say which process they are of.
type ids struct{ tag []byte }

// ConnectionIDLen is quic.ConnectionIDGenerator's.
func (ids) ConnectionIDLen() int { return handover.ConnectionIDLength }

// GenerateConnectionID is quic.ConnectionIDGenerator's.
func (g ids) GenerateConnectionID() (quic.ConnectionID, error) {
	var id [handover.ConnectionIDLength]byte
	copy(id[:], g.tag)
	_, _ = rand.Read(id[len(g.tag):]) // never fails: crypto/rand ends the program instead
	return quic.ConnectionIDFromBytes(id[:]), nil
}

func (e *Engine) config(door *edge.Door) *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout: door.Limit() + afterwards,
		MaxIdleTimeout:       lost, KeepAlivePeriod: alive,
		InitialStreamReceiveWindow: uint64(min(e.set.StreamWindow, 64<<10)), MaxStreamReceiveWindow: uint64(e.set.StreamWindow),
		InitialConnectionReceiveWindow: uint64(min(e.set.ConnWindow, 256<<10)), MaxConnectionReceiveWindow: uint64(e.set.ConnWindow),
		MaxIncomingStreams: int64(e.set.MaxStreams), MaxIncomingUniStreams: uniStreams, RequireStreamCreditRelease: true,
		Allow0RTT: false, // it can be replayed (RFC 8446, section 8)
	}
}

// accept serves every connection on a goroutine of its own.
func (e *Engine) accept(ctx, shaking context.Context, l *quic.EarlyListener, door *edge.Door, wg *sync.WaitGroup) {
	for {
		qc, err := l.Accept(ctx)
		if err != nil {
			if !errors.Is(err, quic.ErrServerClosed) && ctx.Err() == nil {
				continue
			}
			return
		}
		wg.Go(func() { e.serve(ctx, shaking, qc, door) })
	}
}

// serve serves a connection, unless shaking ends before its handshake does.
func (e *Engine) serve(ctx, shaking context.Context, qc *quic.Conn, door *edge.Door) {
	if !door.Shaken(shaking, qc.Context(), qc.HandshakeComplete()) {
		_ = qc.CloseWithError(codeLoad, "the handshake is given up")
		return
	}
	state := qc.ConnectionState().TLS
	info := door.Welcome(qc.Context(), &state, qc.LocalAddr(), func() { _ = qc.CloseWithError(codeNo, "") })
	if info == nil {
		_ = qc.CloseWithError(codeLoad, "")
		return
	}
	c := &conn{e: e, qc: qc, info: info, idle: time.Now(), gone: make(chan struct{}), wake: make(chan struct{}, 1)}
	e.mu.Lock()
	e.open[c] = struct{}{}
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		delete(e.open, c)
		e.mu.Unlock()
		close(c.gone)
	}()
	c.serve(ctx)
}

// chosen are the connections that match.
func (e *Engine) chosen(match func(*exchange.Conn) bool) []*conn {
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []*conn
	for c := range e.open {
		if match(c.info) {
			list = append(list, c)
		}
	}
	return list
}

// drain announces the end to every peer, and after a moment names the last request.
func (e *Engine) drain(ctx context.Context) {
	all := func(*exchange.Conn) bool { return true }
	chosen := e.chosen(all)
	for _, c := range chosen {
		c.leave()
	}
	timer := time.NewTimer(farewell)
	defer timer.Stop()
	settled := false
	for i := 0; i < len(chosen) && !settled; i++ {
		select {
		case <-chosen[i].gone:
		case <-timer.C:
			settled = true
		case <-ctx.Done():
			settled = true
		}
	}
	e.draining.Store(true)
	for _, c := range e.chosen(all) {
		c.finish()
	}
}

// Leave ends the connections that match, each after the requests in flight. It returns
// at once.
func (e *Engine) Leave(_ context.Context, match func(*exchange.Conn) bool) {
	for _, c := range e.chosen(match) {
		c.leave()
	}
}
