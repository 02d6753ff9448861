package http2

//lint:file-ignore SA1019 net/http cannot serve a connection that this edge has accepted and handshaken

import (
	"context"
	"crypto/tls"
	"errors"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

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
	Idle         time.Duration // a connection without streams is closed after this (75 s)
	BodyIdle     time.Duration // longest silence inside a request body (30 s)
	MinRate      int           // bytes a second a request body must average after 10 s (0: none)
	WriteStall   time.Duration // longest time without progress of a write (30 s)
	MaxBody      int64         // bytes of a request body; 0 for no limit
}

func or[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// Engine serves connections that negotiated h2. Make one with New.
type Engine struct {
	handler  exchange.Handler
	set      Settings
	base     *http.Server
	server   *http2.Server
	draining atomic.Bool
	buffers  sync.Pool

	mu   sync.Mutex // guards open
	open map[*guard]*exchange.Conn
}

// New makes an Engine that answers with handler. Nothing is started.
func New(handler exchange.Handler, set Settings, logger *slog.Logger) (*Engine, error) {
	set.MaxStreams = or(set.MaxStreams, 100)
	set.HeaderList = or(set.HeaderList, 32<<10)
	set.Line = or(set.Line, 8<<10)
	set.Target = or(set.Target, 8<<10)
	set.Fields = or(set.Fields, 100)
	set.Glitches = or(set.Glitches, 200)
	set.BodyIdle = or(set.BodyIdle, 30*time.Second)
	e := &Engine{handler: handler, set: set, open: map[*guard]*exchange.Conn{}}
	e.buffers.New = func() any { b := make([]byte, 16<<10); return &b }
	e.server = &http2.Server{
		MaxConcurrentStreams:         set.MaxStreams,
		MaxReadFrameSize:             16 << 10,
		MaxUploadBufferPerConnection: or(set.ConnWindow, 1<<20),
		MaxUploadBufferPerStream:     or(set.StreamWindow, 64<<10),
		IdleTimeout:                  or(set.Idle, 75*time.Second),
		WriteByteTimeout:             or(set.WriteStall, 30*time.Second),
	}
	e.base = &http.Server{
		MaxHeaderBytes: set.HeaderList,
		ErrorLog:       log.New(quiet{logger}, "", 0),
	}
	if err := http2.ConfigureServer(e.base, e.server); err != nil {
		return nil, err
	}
	return e, nil
}

// quiet turns what the library logs of single connections into debug lines.
type quiet struct{ log *slog.Logger }

func (q quiet) Write(p []byte) (int, error) {
	q.log.Debug("http2", slog.String("message", string(p)))
	return len(p), nil
}

// ServeConn serves c until it closes.
func (e *Engine) ServeConn(ctx context.Context, c net.Conn, info *exchange.Conn) {
	defer func() { _ = c.Close() }()
	var guarded net.Conn
	g := newGuard(c, e.set.Glitches)
	g.over.Store(info.Last)
	guarded = g
	if tc, ok := c.(*tls.Conn); ok {
		guarded = secureGuard{g, tc}
	}
	e.mu.Lock()
	e.open[g] = info
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		delete(e.open, g)
		e.mu.Unlock()
	}()
	e.server.ServeConn(guarded, &http2.ServeConnOpts{
		Context:    ctx,
		BaseConfig: e.base,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			g.streams.Add(1)
			defer g.streams.Add(-1)
			e.serve(w, r, info, g)
		}),
	})
}

// farewell is how long peers have to read that connections end before streams that
// they open are refused.
const farewell = time.Second

// leave announces the end on every connection, and answers how many are open.
func (e *Engine) leave() int {
	e.mu.Lock()
	open := slices.Collect(maps.Keys(e.open))
	e.mu.Unlock()
	for _, g := range open {
		g.leave()
	}
	return len(open)
}

// Drain sends GOAWAY on every connection, twice: first one that still lets peers open
// streams, so that no request is refused that was sent in good faith, and a
// second later, unless all are closed by then, one that does not. Each connection
// closes after its last stream. ctx need not be alive.
func (e *Engine) Drain(ctx context.Context) {
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for until := time.Now().Add(farewell); e.leave() > 0 && time.Now().Before(until); {
		<-look.C
	}
	// A connection that was still shaking hands is told with its first response.
	e.draining.Store(true)
	// Shutdown runs the hooks that ConfigureServer registered and finds no
	// listener of its own to wait for.
	_ = e.base.Shutdown(ctx)
}

// Leave ends the connections that match, each after its last stream: their peers are
// told not to open more, and one that has none open after a second is closed. It
// returns when all are closed, or ctx ends.
func (e *Engine) Leave(ctx context.Context, match func(*exchange.Conn) bool) {
	e.mu.Lock()
	var chosen []*guard
	for g, info := range e.open {
		if match(info) {
			chosen = append(chosen, g)
		}
	}
	e.mu.Unlock()
	idle := make(map[*guard]bool, len(chosen))
	told := time.Now().Add(farewell)
	look := time.NewTicker(farewell / 20)
	defer look.Stop()
	for {
		e.mu.Lock()
		chosen = slices.DeleteFunc(chosen, func(g *guard) bool { return e.open[g] == nil })
		e.mu.Unlock()
		if len(chosen) == 0 {
			return
		}
		late := time.Now().After(told)
		for _, g := range chosen {
			g.leave()
			g.over.Store(late)
			free := g.streams.Load() == 0
			// Twice in a row: what a stream that has just ended wrote is out by then.
			if late && free && idle[g] {
				_ = g.Close()
			}
			idle[g] = free
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return
		}
	}
}

// errPanicked stands in the log for a handler's panic, which it has logged itself.
var errPanicked = errors.New("the handler panicked")

// serve answers one request.
func (e *Engine) serve(w http.ResponseWriter, r *http.Request, info *exchange.Conn, g *guard) {
	x := &exchange.Exchange{Conn: info, Ctx: r.Context(), Start: time.Now()}
	x.HeadDone = x.Start
	x.Interim = func(status int, fields *exchange.Fields) error { return interim(w, status, fields) }
	x.Refused = e.request(x, w, r)
	var failed error
	defer func() {
		p := recover()
		x.Elapsed = time.Since(x.Start)
		if p != nil && failed == nil {
			failed = errPanicked
		}
		e.handler.Done(x, failed)
		if failed != nil {
			panic(http.ErrAbortHandler) // the stream ends with RST_STREAM, never as if complete
		}
	}()
	e.handler.Handle(x)
	failed = e.respond(x, w, e.draining.Load() || g.over.Load())
}
