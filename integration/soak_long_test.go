//lint:file-ignore SA1019 the transport of net/http opens no WebSockets over HTTP/2

package integration

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/http2"
)

const (
	eventEvery = 100 * time.Millisecond // of server-sent events
	wordEvery  = 150 * time.Millisecond // of messages in long sessions
)

// words is how many messages a long session has.
func (k *soak) words() int { return 10 + mathrand.IntN(k.longest) }

// listen reads server-sent events, each in its turn.
func (k *soak) listen(v *voice) {
	tr, end := v.open(k)
	defer end()
	n := k.words()
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience+4*time.Duration(n)*eventEvery)
	defer cancel()
	req := request("GET", fmt.Sprintf("%s/plain/events/%d", v.base(k.fleet.name(mathrand.IntN(anyNames))), n), nil, "X-Number", k.next()).WithContext(ctx)
	d := &deed{kind: "server-sent events, " + v.protocol, what: "GET " + req.URL.String(), number: req.Header.Get("X-Number"), pool: "plain", safe: true, began: time.Now()}
	err := k.follow(d, tr, req, n)
	if errors.Is(err, errEnough) {
		return // the load ends
	}
	k.book.done(d, err)
}

// errEnough ends a session whose client has no more to say.
var errEnough = errors.New("the load is over")

// follow reads events until the last, or until the load ends.
func (k *soak) follow(d *deed, tr http.RoundTripper, req *http.Request, n int) error {
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	d.status, d.target = resp.StatusCode, resp.Header.Get("X-Target")
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	lines := bufio.NewReader(resp.Body)
	expect := func(want string) error {
		line, err := lines.ReadString('\n')
		d.bytes += int64(len(line))
		switch {
		case errors.Is(err, io.EOF):
			return wrong("the stream ended as if it were whole, before %q", want)
		case err == nil && line != want:
			return wrong("%q, want %q", line, want)
		}
		return err
	}
	for i := range n {
		for _, want := range []string{fmt.Sprintf("id: %d\n", i), fmt.Sprintf("data: event %d\n", i), "\n"} {
			if err := expect(want); err != nil {
				return err
			}
		}
		if !k.running() {
			return errEnough
		}
	}
	return errors.Join(expect("data: end\n"), expect("\n"))
}

// chat is a WebSocket with messages both ways, pings among them, and a close.
func (k *soak) chat(how string) {
	d := &deed{kind: "WebSocket, " + how, what: "/plain/chat", number: k.next(), pool: "plain", began: time.Now()}
	err := k.gossip(d, how)
	k.book.done(d, err)
}

// gossip opens the WebSocket, has it out, and closes.
func (k *soak) gossip(d *deed, how string) error {
	open := k.upgrade
	if how == "HTTP/2" {
		open = k.extended
	}
	w, r, end, err := open(d, how == "HTTP/1.1 over TLS")
	if err != nil {
		return err
	}
	defer end()
	for i := range k.words() {
		if !k.running() {
			break
		}
		f := wsFrame{true, 2, k.block[:mathrand.IntN(8<<10)]}
		if i%7 == 3 {
			f = wsFrame{true, 9, []byte("there?")}
		}
		err := talk(d, w, r, f)
		if errors.Is(err, errGoodbye) && k.book.stopped() {
			return (&ws{w: w, r: r}).leave()
		}
		if err != nil {
			return err
		}
		k.rest(wordEvery)
	}
	err = talk(d, w, r, wsFrame{true, 8, append([]byte{3, 232}, "bye"...)})
	if err != nil && (!errors.Is(err, errGoodbye) || !k.book.stopped()) { // both may say it at once
		return err
	}
	if _, err := readFrame(r); !errors.Is(err, io.EOF) {
		return wrong("after the close came %v, not the end", err)
	}
	return nil
}

// talk says something and hears it come back.
func talk(d *deed, w io.Writer, r *bufio.Reader, f wsFrame) error {
	if err := writeFrame(w, f, true); err != nil {
		return err
	}
	got, err := readFrame(r)
	if err != nil {
		return err
	}
	d.bytes += int64(len(f.payload) + len(got.payload))
	if f.opcode == 9 {
		f.opcode = 10
	}
	if goodbye(got) {
		return errGoodbye
	}
	if !got.fin || got.opcode != f.opcode || !bytes.Equal(got.payload, f.payload) {
		return wrong("a frame of opcode %d and %d bytes came back of opcode %d and %d", got.opcode, len(got.payload), f.opcode, len(f.payload))
	}
	return nil
}

// upgrade opens a WebSocket over HTTP/1.1.
func (k *soak) upgrade(d *deed, secure bool) (io.Writer, *bufio.Reader, func(), error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	name := k.fleet.name(mathrand.IntN(anyNames))
	var c net.Conn
	var err error
	if secure {
		var t *tls.Conn
		t, err = k.shake(ctx, k.g.tls, name, "http/1.1")
		c = t
	} else {
		c, err = (&net.Dialer{}).DialContext(ctx, "tcp", k.g.proxy)
	}
	if err != nil {
		return nil, nil, nil, err
	}
	end := func() { _ = c.Close() }
	_ = c.SetDeadline(time.Now().Add(3*patience + 4*time.Duration(k.longest)*wordEvery))
	r := bufio.NewReader(c)
	var resp *http.Response
	_, err = fmt.Fprintf(c, "GET /plain/chat HTTP/1.1\r\nHost: %s\r\nX-Number: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", name, d.number)
	if err == nil {
		resp, err = http.ReadResponse(r, nil)
	}
	if err == nil {
		d.status, d.target = resp.StatusCode, resp.Header.Get("X-Target")
		if resp.StatusCode != http.StatusSwitchingProtocols {
			err = fmt.Errorf("the upgrade got %s", resp.Status)
		} else if got := resp.Header.Get("Sec-WebSocket-Accept"); got != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
			err = wrong("Sec-WebSocket-Accept %q", got)
		}
	}
	if err != nil {
		end()
	}
	return c, r, end, err
}

// extended opens a WebSocket on a stream of HTTP/2 (RFC 8441).
func (k *soak) extended(d *deed, _ bool) (io.Writer, *bufio.Reader, func(), error) {
	name := k.fleet.name(mathrand.IntN(anyNames))
	tr := &http2.Transport{DialTLSContext: func(ctx context.Context, _, _ string, _ *tls.Config) (net.Conn, error) {
		return k.shake(ctx, k.g.tls, name, "h2")
	}}
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience+4*time.Duration(k.longest)*wordEvery)
	pr, pw := io.Pipe()
	req := request(http.MethodConnect, "https://"+name+"/plain/chat", pr, "X-Number", d.number, "Sec-WebSocket-Version", "13").WithContext(ctx)
	req.Header[":protocol"] = []string{"websocket"}
	end := func() {
		_ = pw.Close()
		cancel()
		tr.CloseIdleConnections()
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		end()
		return nil, nil, nil, err
	}
	d.status, d.target = resp.StatusCode, resp.Header.Get("X-Target")
	if resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close()
		end()
		return nil, nil, nil, fmt.Errorf("the upgrade got %s", resp.Status)
	}
	return pw, bufio.NewReader(resp.Body), func() { _ = resp.Body.Close(); end() }, nil
}
