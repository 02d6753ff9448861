package http1

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/exchange/sock"
	"github.com/keyway-edge/keyway/edge/exchange/wire"
)

const (
	lingerFor  = 2 * time.Second        // how long a closed connection's input is read away, in all
	lingerIdle = 500 * time.Millisecond // and how long without any

	waitSize       = 256             // what each direction of a tunnel holds while nothing comes
	spliceMost     = 64 << 10        // what the kernel moves of a tunnel before anybody looks
	spliceLeast    = 8 << 10         // what is copied sooner than passed by
	tunnelFarewell = 5 * time.Second // how long a WebSocket may take to end after our goodbye
)

// linger closes in a way that lets the client read the answer: with bytes of its
// own still unread, a plain close would make the kernel reset the connection.
func (c *conn) linger() {
	if c.r == c.w && c.body.finished() && c.x.Refused == 0 {
		return
	}
	if h, ok := c.nc.(interface{ CloseWrite() error }); ok {
		_ = h.CloseWrite()
	}
	if c.box == nil {
		c.takeRead()
	}
	end := time.Now().Add(lingerFor)
	for time.Now().Before(end) {
		_ = c.nc.SetReadDeadline(time.Now().Add(lingerIdle))
		if _, err := c.nc.Read(c.buf); err != nil {
			return
		}
	}
}

// tunnel is an upgraded connection: bytes go both ways until either side ends, or both
// were silent for too long.
type tunnel struct {
	c      *conn
	peer   io.ReadWriteCloser
	client io.Writer // what the client is written to
	quiet  *quiet
	ended  chan error      // of the way down
	ws     *wire.WebSocket // the same as client for a WebSocket, nil for other protocols
}

// tunnel answers 101 and carries what follows. Both of its goroutines wait most of the time:
// what it takes to begin and to end is not in the frames that they wait on, so that their
// stacks can be small.
func (c *conn) tunnel() (err error) {
	t := &tunnel{c: c, peer: c.x.Response.Switch, ended: make(chan error, 1)}
	defer t.recovered(&err)
	if err = t.begin(); err == nil {
		go t.carryDown()
		err = t.over(t.carry(t.up()))
	}
	return err
}

// begin answers 101 and passes on what the client sent behind its request, which belongs
// to the new protocol.
func (t *tunnel) begin() error {
	c, resp := t.c, &t.c.x.Response
	b := wire.AppendStatusLine(nil, resp.Status, http.StatusText(resp.Status))
	var err error
	for f := range resp.Fields.All() {
		if b, err = wire.AppendField(b, f.Name, f.Value); err != nil {
			return fmt.Errorf("writing the response head: %w", err)
		}
	}
	b = append(b, "Connection: Upgrade\r\n\r\n"...)
	c.writeWithin(time.Now(), c.s.WriteStall)
	n, err := c.nc.Write(b)
	c.x.BytesOut += int64(n)
	if err != nil {
		return fmt.Errorf("writing to the client: %w", err)
	}
	_ = c.nc.SetReadDeadline(time.Time{})
	t.quiet = newQuiet(c.s.TunnelIdle, t.end)
	if c.w > c.r {
		if _, err := t.peer.Write(c.buf[c.r:c.w]); err != nil {
			t.quiet.stop()
			return fmt.Errorf("writing to the upstream: %w", err)
		}
		c.Discard(c.w - c.r)
	}
	c.release()
	t.client = tunnelWriter{t}
	if exchange.EqualFold(c.x.Request.Upgrade, "websocket") {
		t.ws = &wire.WebSocket{W: t.client}
		t.client = t.ws
		c.tunneled.Store(t)
		if c.ending() { // perhaps before it could be found
			go t.goAway()
		}
	}
	return nil
}

func (t *tunnel) carryDown() {
	err := t.carry(t.down())
	t.c.stopReading() // ends the other direction
	t.ended <- err
}

// over ends a tunnel of which the way up has, and waits for the other.
func (t *tunnel) over(up error) error {
	t.closePeer()
	down := <-t.ended
	t.quiet.stop()
	if up != nil && down != nil && !errors.Is(up, os.ErrDeadlineExceeded) {
		return fmt.Errorf("upgraded connection: %w", up)
	}
	return nil
}

// recovered is deferred to the end. A tunnel that panics ends alone.
func (t *tunnel) recovered(err *error) {
	if p := recover(); p != nil {
		*err = panicked(p)
	}
	t.closePeer()
}

func (t *tunnel) closePeer() { _ = t.peer.Close() }

// end ends both directions.
func (t *tunnel) end() {
	t.c.stopReading()
	t.closePeer()
}

// goAway says goodbye to the client of a WebSocket, which has no end of its own. It
// answers, the upstream hears of it and closes; who does not is given up.
func (t *tunnel) goAway() {
	time.AfterFunc(tunnelFarewell, t.end)
	if err := t.ws.GoAway(); err != nil {
		t.end()
	}
}

// deadliner is what a read can be woken of.
type deadliner interface{ SetReadDeadline(time.Time) error }

// way is one direction of a tunnel.
type way struct {
	dst io.Writer
	src io.Reader
	by  deadliner // wakes src up, nil for what cannot be

	counts bool // passed is told of what is copied, too

	// Between two plain sockets the kernel moves what comes in masses; nil for others.
	to, from *net.TCPConn
	room     func() int64            // how much of what comes next may pass by, 0 for nothing
	passed   func(n int64) error     // takes in that so much did
	stalled  func(at time.Time) bool // that dst has taken nothing in time
}

// up is the way to the upstream.
func (t *tunnel) up() *way {
	return &way{
		dst: t.peer, src: t.c.nc, by: t.c.nc, counts: true,
		to: sock.Plain(t.peer), from: sock.Plain(t.c.nc),
		room: func() int64 { return spliceMost },
		passed: func(n int64) error {
			t.c.x.BytesIn += n
			t.quiet.heard()
			return nil
		},
		stalled: func(time.Time) bool { return false },
	}
}

// down is the way to the client. Of a WebSocket frames are followed, so that one can be
// ended behind one of them: only what is inside of one passes by.
func (t *tunnel) down() *way {
	c := t.c
	w := &way{dst: t.client, src: t.peer, to: sock.Plain(c.nc), from: sock.Plain(t.peer)}
	w.by, _ = t.peer.(deadliner)
	ahead, _ := t.peer.(interface{ Ahead() bool })
	w.room = func() int64 {
		n := int64(spliceMost)
		if t.ws != nil {
			n = min(n, t.ws.Ahead())
		}
		if n < spliceLeast || ahead != nil && ahead.Ahead() {
			return 0
		}
		c.writeWithin(time.Now(), c.s.WriteStall)
		return n
	}
	w.passed = func(n int64) error {
		c.x.BytesOut += n
		t.quiet.heard()
		if t.ws != nil {
			return t.ws.Passed(n)
		}
		return nil
	}
	w.stalled = func(at time.Time) bool { return !at.Before(c.writeBy) }
	return w
}

// carry copies until w's source ends. Most of its time a tunnel waits, and it waits with
// little in its hands: only while much comes it takes a buffer, or leaves it to the kernel,
// which holds a pipe for as long.
func (t *tunnel) carry(w *way) error {
	var box *[]byte
	defer func() { t.giveBack(box) }()
	few := make([]byte, waitSize)
	for much := false; ; {
		if much && w.by != nil {
			_ = w.by.SetReadDeadline(time.Now().Add(keepBuffer))
		}
		if much && t.c.stopped.Load() {
			return exchange.ErrBodyStopped // looked at after the deadline was set, which stopReading may have done before
		}
		var more bool
		var err, broken error
		if n := w.splices(much); n > 0 {
			more, err, broken = w.splice(n)
		} else {
			p := few
			if much {
				if box == nil {
					box = t.c.s.reads.Get().(*[]byte)
				}
				p = *box
			}
			more, err, broken = w.copy(p)
		}
		if broken != nil {
			return broken
		}
		if much && !more {
			much = false
			t.giveBack(box)
			box = nil
			if w.by != nil {
				_ = w.by.SetReadDeadline(time.Time{})
			}
			if t.c.stopped.Load() {
				return exchange.ErrBodyStopped
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				continue
			}
		}
		much = much || more
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (t *tunnel) giveBack(box *[]byte) {
	if box != nil {
		t.c.s.reads.Put(box)
	}
}

// copy reads once and writes what came. more says that there is likely more of it, broken
// what went wrong with writing.
func (w *way) copy(p []byte) (more bool, err, broken error) {
	n, err := w.src.Read(p)
	if n > 0 {
		if w.counts {
			_ = w.passed(int64(n)) // fails for the way down alone
		}
		_, broken = w.dst.Write(p[:n])
	}
	return n >= waitSize, err, broken
}

// splices says how much the kernel may move next.
func (w *way) splices(much bool) int64 {
	if !much || w.to == nil || w.from == nil {
		return 0
	}
	return w.room()
}

// splice is copy, but the kernel moves up to n bytes.
func (w *way) splice(n int64) (more bool, err, broken error) {
	moved, end, err := sock.Splice(w.to, w.from, n)
	if moved > 0 {
		broken = w.passed(moved)
	}
	switch {
	case end:
		return false, io.EOF, broken
	case err != nil && broken == nil && w.stalled(time.Now()):
		return false, nil, err
	}
	return err == nil, err, broken
}

// tunnelWriter writes to the client of a tunnel and counts.
type tunnelWriter struct{ t *tunnel }

// Write writes to the client.
func (w tunnelWriter) Write(p []byte) (int, error) {
	c := w.t.c
	c.writeWithin(time.Now(), c.s.WriteStall)
	n, err := c.nc.Write(p)
	c.x.BytesOut += int64(n)
	w.t.quiet.heard()
	return n, err
}

// quiet calls end once nothing was heard for a while. A tunnel may be silent in
// one direction for ever, so deadlines of its reads would not do.
type quiet struct {
	began time.Time
	last  atomic.Int64 // when something was heard, since began
	timer *time.Timer
}

func newQuiet(limit time.Duration, end func()) *quiet {
	q := &quiet{began: time.Now()}
	q.timer = time.AfterFunc(math.MaxInt64, func() {
		if left := limit - (time.Since(q.began) - time.Duration(q.last.Load())); left > 0 {
			q.timer.Reset(left)
			return
		}
		end()
	})
	q.timer.Reset(limit) // only now: its first run is behind its being stored
	return q
}

func (q *quiet) heard() { q.last.Store(int64(time.Since(q.began))) }

func (q *quiet) stop() { q.timer.Stop() }
