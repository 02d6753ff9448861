package http2

import (
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // RFC 6455 says so; nothing is kept secret by it
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
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
	down := make(chan error, 1)
	go func() {
		err := st.pump(peer)
		st.body.stop() // ends the other direction
		down <- err
	}()
	_, up := io.Copy(peer, tunnelReader{&st.body})
	_ = peer.Close()
	if err := <-down; err != nil && up != nil {
		return fmt.Errorf("WebSocket: %w", up)
	}
	return nil
}

// pump sends what the upstream says.
func (st *stream) pump(peer io.Reader) error {
	box := st.c.e.bodies.Get().(*[]byte)
	defer st.c.e.bodies.Put(box)
	buf := *box
	for {
		n, err := peer.Read(buf[frameHead:][:readSize])
		if n > 0 {
			st.touch()
			st.x.BytesOut += int64(n)
			if err := st.send(buf, 0, n, false); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return st.send(buf, 0, 0, true)
		}
		if err != nil {
			return err
		}
	}
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
