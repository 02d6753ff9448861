package http1

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange/wire"
)

const (
	lingerFor  = 2 * time.Second        // how long a closed connection's input is read away, in all
	lingerIdle = 500 * time.Millisecond // and how long without any
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

// tunnel answers 101 and copies bytes both ways until either side ends, or both
// were silent for too long.
func (c *conn) tunnel() error {
	resp := &c.x.Response
	peer := resp.Switch
	defer func() { _ = peer.Close() }()
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
	quiet := newQuiet(c.s.TunnelIdle, func() {
		c.stopReading()
		_ = peer.Close()
	})
	defer quiet.stop()
	if c.w > c.r { // what the client sent behind its request belongs to the new protocol
		if _, err := peer.Write(c.buf[c.r:c.w]); err != nil {
			return fmt.Errorf("writing to the upstream: %w", err)
		}
		c.Discard(c.w - c.r)
	}
	c.release()
	down := make(chan error, 1)
	go func() {
		_, err := io.Copy(tunnelWriter{c, quiet}, peer)
		c.stopReading() // ends the other direction
		down <- err
	}()
	_, up := io.Copy(peer, tunnelReader{c, quiet})
	_ = peer.Close()
	err = <-down
	if up != nil && err != nil && !errors.Is(up, os.ErrDeadlineExceeded) {
		return fmt.Errorf("upgraded connection: %w", up)
	}
	return nil
}

// tunnelReader and tunnelWriter are the client's side of a tunnel. Each has one
// user, and counts bytes of its own direction.
type tunnelReader struct {
	c *conn
	q *quiet
}

func (r tunnelReader) Read(p []byte) (int, error) {
	n, err := r.c.nc.Read(p)
	r.c.x.BytesIn += int64(n)
	r.q.heard()
	return n, err
}

type tunnelWriter struct {
	c *conn
	q *quiet
}

func (w tunnelWriter) Write(p []byte) (int, error) {
	w.c.writeWithin(time.Now(), w.c.s.WriteStall)
	n, err := w.c.nc.Write(p)
	w.c.x.BytesOut += int64(n)
	w.q.heard()
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
