package http1

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/exchange/wire"
)

const (
	lingerFor  = 2 * time.Second        // how long a closed connection's input is read away, in all
	lingerIdle = 500 * time.Millisecond // and how long without any

	waitSize       = 512             // what each direction of a tunnel holds while nothing comes
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
	c     *conn
	peer  io.ReadWriteCloser
	quiet *quiet
	ws    *wire.WebSocket // what a WebSocket's client is written to, nil for other protocols
}

// tunnel answers 101 and carries what follows.
func (c *conn) tunnel() error {
	resp := &c.x.Response
	t := &tunnel{c: c, peer: resp.Switch}
	defer func() { _ = t.peer.Close() }()
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
	defer t.quiet.stop()
	if c.w > c.r { // what the client sent behind its request belongs to the new protocol
		if _, err := t.peer.Write(c.buf[c.r:c.w]); err != nil {
			return fmt.Errorf("writing to the upstream: %w", err)
		}
		c.Discard(c.w - c.r)
	}
	c.release()
	down := make(chan error, 1)
	var client io.Writer = tunnelWriter{t}
	if exchange.EqualFold(c.x.Request.Upgrade, "websocket") {
		t.ws = &wire.WebSocket{W: client}
		client = t.ws
		c.tunneled.Store(t)
		if c.ending() { // perhaps before it could be found
			go t.goAway()
		}
	}
	go func() {
		peer, _ := t.peer.(deadliner)
		err := t.carry(client, t.peer, peer)
		c.stopReading() // ends the other direction
		down <- err
	}()
	up := t.carry(t.peer, tunnelReader{t}, c.nc)
	_ = t.peer.Close()
	err = <-down
	if up != nil && err != nil && !errors.Is(up, os.ErrDeadlineExceeded) {
		return fmt.Errorf("upgraded connection: %w", up)
	}
	return nil
}

// end ends both directions.
func (t *tunnel) end() {
	t.c.stopReading()
	_ = t.peer.Close()
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

// carry copies from src to dst until src ends. Most of its time a tunnel waits, and it
// waits with little in its hands: only while much comes it takes a buffer. by wakes src
// up, nil for what cannot be.
func (t *tunnel) carry(dst io.Writer, src io.Reader, by deadliner) error {
	var box *[]byte
	release := func() {
		if box != nil {
			t.c.s.reads.Put(box)
			box = nil
		}
	}
	defer release()
	few := make([]byte, waitSize)
	for {
		p := few
		if box != nil {
			p = *box
			if by != nil {
				_ = by.SetReadDeadline(time.Now().Add(keepBuffer))
			}
			if t.c.stopped.Load() {
				return errStopped // looked at after the deadline was set, which stopReading may have done before
			}
		}
		n, err := src.Read(p)
		if n > 0 {
			if _, err := dst.Write(p[:n]); err != nil {
				return err
			}
		}
		switch {
		case box == nil && n == waitSize:
			box = t.c.s.reads.Get().(*[]byte)
		case box != nil && n < waitSize:
			release()
			if by != nil {
				_ = by.SetReadDeadline(time.Time{})
			}
			if t.c.stopped.Load() {
				return errStopped
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				continue
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// tunnelReader and tunnelWriter are the client's side of a tunnel. Each has one
// user, and counts bytes of its own direction.
type tunnelReader struct{ t *tunnel }

func (r tunnelReader) Read(p []byte) (int, error) {
	n, err := r.t.c.nc.Read(p)
	r.t.c.x.BytesIn += int64(n)
	if n > 0 {
		r.t.quiet.heard()
	}
	return n, err
}

type tunnelWriter struct{ t *tunnel }

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
	again := make(chan struct{}) // orders the timer's first run behind its being stored
	q.timer = time.AfterFunc(limit, func() {
		<-again
		if left := limit - (time.Since(q.began) - time.Duration(q.last.Load())); left > 0 {
			q.timer.Reset(left)
			return
		}
		end()
	})
	close(again)
	return q
}

func (q *quiet) heard() { q.last.Store(int64(time.Since(q.began))) }

func (q *quiet) stop() { q.timer.Stop() }
