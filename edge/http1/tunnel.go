package http1

import (
	"errors"
	"fmt"
	"io"
	"net/http"
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

// tunnel answers 101 and copies bytes both ways until either side ends.
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
	if _, err := c.nc.Write(b); err != nil {
		return fmt.Errorf("writing to the client: %w", err)
	}
	_ = c.nc.SetDeadline(time.Time{})
	if c.w > c.r { // what the client sent behind its request belongs to the new protocol
		if _, err := peer.Write(c.buf[c.r:c.w]); err != nil {
			return fmt.Errorf("writing to the upstream: %w", err)
		}
		c.Discard(c.w - c.r)
	}
	c.releaseRead()
	down := make(chan error, 1)
	go func() {
		n, err := io.Copy(idleWriter{c}, peer)
		c.x.BytesOut += n
		c.stopReading() // ends the other direction
		down <- err
	}()
	n, up := io.Copy(peer, idleReader{c})
	_ = peer.Close()
	err = <-down
	c.x.BytesIn += n
	if up != nil && !errors.Is(up, io.EOF) && err != nil {
		return fmt.Errorf("upgraded connection: %w", err)
	}
	return nil
}

// idleReader and idleWriter end a tunnel that is silent for too long.
type idleReader struct{ c *conn }

func (r idleReader) Read(p []byte) (int, error) {
	r.c.readWithin(time.Now(), r.c.s.TunnelIdle)
	if r.c.stopped.Load() {
		return 0, errStopped
	}
	return r.c.nc.Read(p)
}

type idleWriter struct{ c *conn }

func (w idleWriter) Write(p []byte) (int, error) {
	w.c.writeWithin(time.Now(), w.c.s.WriteStall)
	return w.c.nc.Write(p)
}
