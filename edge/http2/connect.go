package http2

import (
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // RFC 6455 says so; nothing is kept secret by it
	"encoding/base64"
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

// WebSockets over a stream (RFC 8441): the client sends an extended CONNECT, which is
// handed on as the upgrade of HTTP/1.1 that it stands for. When the upstream has
// switched, DATA frames carry the bytes of both directions.

var errNotSwitched = errors.New("the upstream answered the request for a WebSocket, but not as RFC 6455, section 4.2.2, has it")

// upgrade makes a request for a WebSocket of an extended CONNECT.
func (s *section) upgrade() {
	st := s.st
	q := &st.x.Request
	if s.protocol != "websocket" {
		st.x.Refused = http.StatusNotImplemented
		return
	}
	var key [16]byte
	_, _ = rand.Read(key[:]) // it never fails
	st.key = base64.StdEncoding.EncodeToString(key[:])
	q.Method, q.Upgrade = http.MethodGet, s.protocol
	q.Fields.Del("sec-websocket-key")
	q.Fields.Add("Sec-WebSocket-Key", st.key)
}

// acceptKey is what an upstream that understood the request answers to its key.
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // see above
	return base64.StdEncoding.EncodeToString(sum[:])
}

// refuseSwitch makes an error of a success that is none: to the client, 2xx would say
// that it may begin to talk.
func refuseSwitch(resp *exchange.Response) {
	resp.Fields.Reset()
	resp.Trailer.Reset()
	resp.Status, resp.Reason, resp.Body, resp.Length = http.StatusBadGateway, "", nil, 0
}

// tunnel answers that the upstream has switched, and copies bytes both ways until
// either side ends, or both were silent for too long.
func (st *stream) tunnel() error {
	resp := &st.x.Response
	peer := resp.Switch
	defer func() { _ = peer.Close() }()
	if resp.Fields.Get("Sec-WebSocket-Accept") != acceptKey(st.key) {
		refuseSwitch(resp)
		return errors.Join(errNotSwitched, st.respondAll())
	}
	resp.Fields.Del("Sec-WebSocket-Accept")
	resp.Status, resp.Length = http.StatusOK, -1
	head, err := st.appendHead(nil, false)
	if err != nil {
		return err
	}
	if err := st.sendHead(head, false); err != nil {
		return err
	}
	st.body.tunnel = true
	st.touch()
	t := &tunnel{st: st, peer: peer}
	t.ws = &wire.WebSocket{W: t}
	st.c.mu.Lock()
	st.ws = t
	leaving := st.c.leaving || st.c.over
	st.c.mu.Unlock()
	if leaving { // perhaps before it could be found
		go t.goAway()
	}
	down := make(chan error, 1)
	go func() {
		err := t.pump()
		st.body.stop() // ends the other direction
		down <- err
	}()
	up := t.listen()
	_ = peer.Close()
	err = <-down
	t.ws.Over()
	st.c.mu.Lock()
	st.ws = nil // what comes later is not meant for who has the stream then
	st.c.mu.Unlock()
	if err != nil && up != nil {
		return fmt.Errorf("WebSocket: %w", up)
	}
	return nil
}

// waitSize is what each direction of a tunnel holds while nothing comes.
const waitSize = 512

// tunnelFarewell is how long a WebSocket may take to end after our goodbye.
const tunnelFarewell = 5 * time.Second

// tunnel is a WebSocket that a stream has become.
type tunnel struct {
	st   *stream
	peer io.ReadWriteCloser
	ws   *wire.WebSocket
	buf  atomic.Pointer[[]byte] // of pump: what is written next stands in it behind a gap
}

// Write sends p, a goodbye or the beginning of what pump has read, as DATA.
func (t *tunnel) Write(p []byte) (int, error) {
	var buf []byte
	if b := t.buf.Load(); b != nil && len(p) > 0 && &p[0] == &(*b)[frameHead] {
		buf = *b
	} else {
		buf = append(make([]byte, frameHead), p...)
	}
	if err := t.st.send(buf, 0, len(p), false); err != nil {
		return 0, err
	}
	return len(p), nil
}

// goAway says goodbye to the client, since a WebSocket has no end of its own. The client
// answers, the upstream hears of it and closes; who does not is given up.
func (t *tunnel) goAway() {
	time.AfterFunc(tunnelFarewell, t.end)
	if t.ws.GoAway() != nil {
		t.end()
	}
}

// end ends both directions, unless they have ended.
func (t *tunnel) end() {
	t.st.c.mu.Lock()
	if t.st.ws == t {
		t.st.body.stopLocked()
	}
	t.st.c.mu.Unlock()
	_ = t.peer.Close()
}

// pump sends what the upstream says. Most of its time it waits, with little in its
// hands: only while much comes it takes a buffer.
func (t *tunnel) pump() error {
	st, e := t.st, t.st.c.e
	by, _ := t.peer.(interface{ SetReadDeadline(time.Time) error })
	var box *[]byte
	release := func() {
		if box != nil {
			e.bodies.Put(box)
			box = nil
		}
	}
	defer release()
	few := make([]byte, frameHead+waitSize)
	for {
		buf, size := few, waitSize
		if box != nil {
			buf, size = *box, readSize
			if by != nil {
				_ = by.SetReadDeadline(time.Now().Add(keepBuffers))
			}
		}
		n, err := t.peer.Read(buf[frameHead:][:size])
		if n > 0 {
			st.touch()
			st.x.BytesOut += int64(n)
			if t.buf.Store(&few); box != nil {
				t.buf.Store(box)
			}
			if _, err := t.ws.Write(buf[frameHead:][:n]); err != nil {
				return err
			}
		}
		switch {
		case box == nil && n == waitSize:
			box = e.bodies.Get().(*[]byte)
		case box != nil && n < waitSize:
			t.buf.Store(&few)
			release()
			if by != nil {
				_ = by.SetReadDeadline(time.Time{})
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				continue
			}
		}
		if errors.Is(err, io.EOF) {
			return st.send(few, 0, 0, true)
		}
		if err != nil {
			return err
		}
	}
}

// listen passes on what the client says.
func (t *tunnel) listen() error {
	st, e := t.st, t.st.c.e
	few := make([]byte, waitSize)
	for {
		p := few
		var box *[]byte
		if st.pending() > waitSize {
			box = e.bodies.Get().(*[]byte)
			p = *box
		}
		n, err := tunnelReader{&st.body}.Read(p)
		if n > 0 {
			_, werr := t.peer.Write(p[:n])
			err = errors.Join(err, werr)
		}
		if box != nil {
			e.bodies.Put(box)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// pending is how much of the body has come and was not read. What held a long message
// is given back when there is nothing.
func (st *stream) pending() int {
	st.c.mu.Lock()
	defer st.c.mu.Unlock()
	n := len(st.in) - st.inAt
	if n == 0 && cap(st.in) > waitSize {
		st.in, st.inAt = nil, 0
	}
	return n
}

// tunnelReader reads what the client says.
type tunnelReader struct{ b *body }

func (r tunnelReader) Read(p []byte) (int, error) {
	n, err := r.b.await(p)
	if n > 0 {
		r.b.st.touch()
		r.b.st.x.BytesIn += int64(n)
	}
	return n, err
}

// touch notes that something was said.
func (st *stream) touch() { st.said.Store(time.Now().UnixNano()) }

// silent says that neither side of a tunnel has said anything for its time.
func (st *stream) silent() bool {
	return time.Since(time.Unix(0, st.said.Load())) >= st.c.e.set.TunnelIdle
}
