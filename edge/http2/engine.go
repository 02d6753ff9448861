package http2

import (
	"cmp"
	"context"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// Settings are the limits of an Engine. Zero fields take the value in brackets.
type Settings struct {
	MaxStreams   uint32        // concurrent streams of a connection (100)
	HeaderList   int           // bytes of a decoded header list (32 KiB)
	Line         int           // bytes of one field line (8 KiB)
	Target       int           // bytes of :path (8 KiB)
	Fields       int           // field lines of a request (100)
	Glitches     int           // streams given up for each one answered, and what else only floods do (200)
	ConnWindow   int32         // bytes in flight towards us on a connection (1 MiB)
	StreamWindow int32         // and on a stream (64 KiB)
	Head         time.Duration // longest time for the connection preface, or for a header section (10 s)
	Idle         time.Duration // a connection without streams is closed after this (75 s)
	BodyIdle     time.Duration // longest silence inside a request body (30 s)
	MinRate      int           // bytes a second a request body must average after 10 s (0: none)
	TunnelIdle   time.Duration // longest silence of a WebSocket, both ways (1 h)
	WriteStall   time.Duration // longest time without progress of a write, or for a piece of a body whose peer opens its windows too little (30 s)
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
	s.StreamWindow = cmp.Or(s.StreamWindow, 64<<10)
	s.Head = cmp.Or(s.Head, 10*time.Second)
	s.Idle = cmp.Or(s.Idle, 75*time.Second)
	s.BodyIdle = cmp.Or(s.BodyIdle, 30*time.Second)
	s.TunnelIdle = cmp.Or(s.TunnelIdle, time.Hour)
	s.WriteStall = cmp.Or(s.WriteStall, 30*time.Second)
}

// Engine serves connections that speak HTTP/2. Make one with New.
type Engine struct {
	handler  exchange.Handler
	set      Settings
	draining atomic.Bool
	reads    sync.Pool // of *[]byte, bufferSize
	writes   sync.Pool // of *[]byte, for what waits to be written
	bodies   sync.Pool // of *[]byte, bodySize: heads and bodies of responses

	mu   sync.Mutex // guards open
	open map[*conn]struct{}
}

// New makes an Engine that answers with handler. Nothing is started.
func New(handler exchange.Handler, set Settings) *Engine {
	set.fill()
	e := &Engine{handler: handler, set: set, open: make(map[*conn]struct{})}
	e.reads.New = func() any { b := make([]byte, bufferSize); return &b }
	e.writes.New = func() any { b := make([]byte, 0, bufferSize); return &b }
	e.bodies.New = func() any { b := make([]byte, bodySize); return &b }
	return e
}

// ServeConn serves nc until it closes; it is closed when ServeConn returns.
func (e *Engine) ServeConn(ctx context.Context, nc net.Conn, info *exchange.Conn) {
	c := newConn(ctx, e, nc, info)
	e.mu.Lock()
	e.open[c] = struct{}{}
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		delete(e.open, c)
		e.mu.Unlock()
		close(c.gone)
	}()
	c.serve()
}

// farewell is how long peers have to read that connections end before streams that
// they open are refused.
const farewell = time.Second

// chosen are the open connections that match.
func (e *Engine) chosen(match func(*exchange.Conn) bool) []*conn {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.DeleteFunc(slices.Collect(maps.Keys(e.open)), func(c *conn) bool { return !match(c.info) })
}

func all(*exchange.Conn) bool { return true }

// Drain sends GOAWAY on every connection, twice: first one that still lets peers open
// streams, so that no request is refused that was sent in good faith, and a
// second later, unless all are closed by then, one that does not. Each connection
// closes after its last stream. ctx need not be alive.
func (e *Engine) Drain(ctx context.Context) {
	open := e.chosen(all)
	for _, c := range open {
		c.leave()
	}
	settle(context.WithoutCancel(ctx), open, farewell)
	// A connection that was still shaking hands is told with its first response.
	e.draining.Store(true)
	for _, c := range e.chosen(all) {
		c.finish()
	}
}

// Leave ends the connections that match, each after its last stream: their peers are
// told not to open more, and one that has none open after a second is closed. It
// returns when all are closed, or ctx ends.
func (e *Engine) Leave(ctx context.Context, match func(*exchange.Conn) bool) {
	chosen := e.chosen(match)
	for _, c := range chosen {
		c.leave()
	}
	if !settle(ctx, chosen, farewell) {
		return
	}
	for _, c := range chosen {
		c.finish()
	}
	for _, c := range chosen {
		select {
		case <-c.gone:
		case <-ctx.Done():
			return
		}
	}
}

// settle waits until all of list are closed, or for d. It answers false when ctx ended first.
func settle(ctx context.Context, list []*conn, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for _, c := range list {
		select {
		case <-c.gone:
		case <-timer.C:
			return true
		case <-ctx.Done():
			return false
		}
	}
	return true
}
