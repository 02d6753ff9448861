package http1

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/exchange/wire"
)

const (
	bufferSize  = 16 << 10               // of the read buffer, and least of the write buffer
	writeSize   = 32 << 10               // of the write buffer
	keepBuffer  = 250 * time.Millisecond // how long an idle connection keeps its read buffer
	drainLinger = time.Second            // how long a drain lets an idle connection send one more request
	maxDiscard  = 64 << 10               // bytes of an unread request body that are read away to keep the connection
	discardFor  = time.Second            // how long that may take
)

// Server serves HTTP/1.1 and HTTP/1.0 connections. Handler must be set; a zero
// field of the others takes the value in brackets. Immutable after first use.
type Server struct {
	Handler     exchange.Handler
	Limits      wire.Limits
	HeadTimeout time.Duration // longest time to send a head (10 s)
	BodyIdle    time.Duration // longest silence inside a request body (30 s)
	MinRate     int           // bytes a second a request body must average after 10 s (0: none)
	WriteStall  time.Duration // longest time without progress of a write (30 s)
	Idle        time.Duration // longest wait for the next request (75 s)
	TunnelIdle  time.Duration // longest silence of an upgraded connection (1 h)
	MaxRequests int           // requests on a connection before it is closed (1000)
	MaxBody     int64         // bytes of a request body, 413 above (0: no limit)

	once     sync.Once
	reads    sync.Pool // of *[]byte, bufferSize
	writes   sync.Pool // of *[]byte, writeSize
	draining atomic.Bool

	mu    sync.Mutex // guards conns
	conns map[*conn]struct{}
}

func orDuration(v *time.Duration, def time.Duration) {
	if *v == 0 {
		*v = def
	}
}

func (s *Server) fill() {
	orDuration(&s.HeadTimeout, 10*time.Second)
	orDuration(&s.BodyIdle, 30*time.Second)
	orDuration(&s.WriteStall, 30*time.Second)
	orDuration(&s.Idle, 75*time.Second)
	orDuration(&s.TunnelIdle, time.Hour)
	if s.MaxRequests == 0 {
		s.MaxRequests = 1000
	}
	if s.Limits.Head == 0 {
		s.Limits.Head = 32 << 10
	}
	s.reads.New = func() any { b := make([]byte, bufferSize); return &b }
	s.writes.New = func() any { b := make([]byte, 0, writeSize); return &b }
	s.conns = make(map[*conn]struct{})
}

// ServeConn serves nc until it closes; it is closed when ServeConn returns.
func (s *Server) ServeConn(ctx context.Context, nc net.Conn, info *exchange.Conn) {
	s.once.Do(s.fill)
	c := s.enter(ctx, nc, info)
	defer c.exit()
	for n := 1; c.await(); n++ {
		if !c.serve(n >= s.MaxRequests) {
			return
		}
	}
}

// enter begins a connection.
func (s *Server) enter(ctx context.Context, nc net.Conn, info *exchange.Conn) *conn {
	c := &conn{s: s, nc: nc}
	c.x.Conn = info
	c.x.Ctx, c.cancel = context.WithCancel(ctx)
	c.leave.Store(info.Last)
	// Made once a connection: a request allocates no closures.
	c.x.Interim, c.x.WatchClient = c.interim, c.watchClient
	c.stopBody = c.stopReading
	s.mu.Lock()
	s.conns[c] = struct{}{}
	s.mu.Unlock()
	return c
}

// exit ends it.
func (c *conn) exit() {
	c.cancel()
	c.s.mu.Lock()
	delete(c.s.conns, c)
	c.s.mu.Unlock()
	_ = c.nc.Close()
	c.endWatch() // before its buffer goes back
	c.release()
}

// Drain makes every response end its connection, and connections that idle close
// soon: a client that was about to send still gets its answer. It returns at once.
func (s *Server) Drain(context.Context) {
	s.once.Do(s.fill)
	s.draining.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.depart()
	}
}

// Leave is a Drain of the connections that match. It returns at once.
func (s *Server) Leave(_ context.Context, match func(*exchange.Conn) bool) {
	s.once.Do(s.fill)
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if !match(c.x.Conn) {
			continue
		}
		c.leave.Store(true)
		c.depart()
	}
}

// woken undoes what a Drain may have done to the deadline of c, which no longer
// idles: without it a request that comes in that moment would be cut off.
func (s *Server) woken(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.readBy = time.Time{}
	_ = c.nc.SetReadDeadline(c.readBy)
}
