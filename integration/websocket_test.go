//lint:file-ignore SA1019 the transport of net/http opens no WebSockets over HTTP/2

package integration

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	enc "encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// wsFrame is one frame of RFC 6455.
type wsFrame struct {
	fin     bool
	opcode  byte // 0 continuation, 1 text, 2 binary, 8 close, 9 ping, 10 pong
	payload []byte
}

// writeFrame writes a frame, masked as a client's if mask is set.
func writeFrame(w io.Writer, f wsFrame, mask bool) error {
	b := []byte{f.opcode, 0}
	if f.fin {
		b[0] |= 0x80
	}
	switch n := len(f.payload); {
	case n < 126:
		b[1] = byte(n)
	case n < 1<<16:
		b[1] = 126
		b = enc.BigEndian.AppendUint16(b, uint16(n))
	default:
		b[1] = 127
		b = enc.BigEndian.AppendUint64(b, uint64(n))
	}
	payload := f.payload
	if mask {
		b[1] |= 0x80
		key := [4]byte{1, 2, 3, 4}
		b = append(b, key[:]...)
		payload = make([]byte, len(f.payload))
		for i := range payload {
			payload[i] = f.payload[i] ^ key[i%4]
		}
	}
	_, err := w.Write(append(b, payload...))
	return err
}

func readFrame(r *bufio.Reader) (f wsFrame, err error) {
	var h [2]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return f, err
	}
	f.fin, f.opcode = h[0]&0x80 != 0, h[0]&0xf
	n := uint64(h[1] & 0x7f)
	switch n {
	case 126:
		var b [2]byte
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return f, err
		}
		n = uint64(enc.BigEndian.Uint16(b[:]))
	case 127:
		var b [8]byte
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return f, err
		}
		n = enc.BigEndian.Uint64(b[:])
	}
	var key [4]byte
	if h[1]&0x80 != 0 {
		if _, err := io.ReadFull(r, key[:]); err != nil {
			return f, err
		}
	}
	f.payload = make([]byte, n)
	if _, err := io.ReadFull(r, f.payload); err != nil {
		return f, err
	}
	for i := range f.payload {
		f.payload[i] ^= key[i%4]
	}
	return f, nil
}

// echoFrames is an origin that upgrades, with the fields that are set, and sends each
// frame back as it is, answers PING with PONG, and CLOSE with the same CLOSE and the end.
func echoFrames(w http.ResponseWriter, r *http.Request) {
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer func() { _ = c.Close() }()
	w.Header().Set("Sec-WebSocket-Accept", base64.StdEncoding.EncodeToString(sum[:]))
	var head bytes.Buffer
	_ = w.Header().Write(&head)
	_, _ = fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n%s\r\n", head.String())
	for {
		f, err := readFrame(rw.Reader)
		if err != nil {
			return
		}
		if f.opcode == 9 {
			f.opcode = 10
		}
		if err := writeFrame(c, f, false); err != nil || f.opcode == 8 {
			return
		}
	}
}

// ws is a WebSocket as its client has it.
type ws struct {
	t *testing.T
	w io.Writer
	r *bufio.Reader
}

// webSocket opens one: over HTTP/1.1 in clear, HTTP/1.1 over TLS, or HTTP/2 (RFC 8441).
func webSocket(t *testing.T, g *gateway, how string) *ws {
	t.Helper()
	if how == "h2" {
		tr := &http2.Transport{TLSClientConfig: &tls.Config{ServerName: "edge.test", InsecureSkipVerify: true}}
		t.Cleanup(tr.CloseIdleConnections)
		pr, pw := io.Pipe()
		ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
		req, err := http.NewRequestWithContext(ctx, http.MethodConnect, "https://"+g.tls+"/chat", pr)
		if err != nil {
			t.Fatal(err)
		}
		req.Header[":protocol"] = []string{"websocket"}
		req.Header.Set("Sec-WebSocket-Version", "13")
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = pw.Close()
			_ = resp.Body.Close()
			cancel()
		})
		if resp.StatusCode != 200 {
			t.Fatalf("the upgrade got %s", resp.Status)
		}
		return &ws{t, pw, bufio.NewReader(resp.Body)}
	}
	c := raw(t, g, how == "tls")
	_ = c.SetDeadline(time.Now().Add(60 * time.Second))
	send(t, c, "GET /chat HTTP/1.1\r\nHost: edge.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Fatalf("the upgrade got %s %v", resp.Status, resp.Header)
	}
	return &ws{t, c, r}
}

func (s *ws) say(f wsFrame) {
	s.t.Helper()
	if err := writeFrame(s.w, f, true); err != nil {
		s.t.Fatal(err)
	}
}

func (s *ws) hear(want wsFrame) {
	s.t.Helper()
	f, err := readFrame(s.r)
	if err != nil {
		s.t.Fatal(err)
	}
	if f.fin != want.fin || f.opcode != want.opcode || !bytes.Equal(f.payload, want.payload) {
		s.t.Fatalf("got a frame of opcode %d, fin %v, %d bytes; want opcode %d, fin %v, %d bytes", f.opcode, f.fin, len(f.payload), want.opcode, want.fin, len(want.payload))
	}
}

// TestWebSocketCases: frames go through as they are, each way of opening a WebSocket.
func TestWebSocketCases(t *testing.T) {
	g := behind(t, origin(t, echoFrames), "", "", nil)
	large := bytes.Repeat([]byte("0123456789abcdef"), 16*mebi/16)
	for _, how := range []string{"clear", "tls", "h2"} {
		t.Run(how, func(t *testing.T) {
			t.Run("text and empty", func(t *testing.T) {
				s := webSocket(t, g, how)
				for _, text := range []string{"hello", "", "grüß dich"} {
					s.say(wsFrame{true, 1, []byte(text)})
					s.hear(wsFrame{true, 1, []byte(text)})
				}
			})
			t.Run("fragments with a ping between", func(t *testing.T) {
				s := webSocket(t, g, how)
				for _, f := range []wsFrame{{false, 1, []byte("one")}, {false, 0, []byte("two")}, {true, 9, []byte("now")}, {true, 0, []byte("three")}} {
					s.say(f)
					if f.opcode == 9 {
						f.opcode = 10
					}
					s.hear(f)
				}
			})
			t.Run("byte by byte", func(t *testing.T) {
				s := webSocket(t, g, how)
				var b bytes.Buffer
				_ = writeFrame(&b, wsFrame{true, 2, []byte("slowly")}, true)
				for _, x := range b.Bytes() {
					if _, err := s.w.Write([]byte{x}); err != nil {
						t.Fatal(err)
					}
				}
				s.hear(wsFrame{true, 2, []byte("slowly")})
			})
			for _, code := range []uint16{1000, 1001, 1011, 3000, 4999} {
				t.Run(fmt.Sprint("close ", code), func(t *testing.T) {
					s := webSocket(t, g, how)
					f := wsFrame{true, 8, append(enc.BigEndian.AppendUint16(nil, code), "bye"...)}
					s.say(f)
					s.hear(f)
					if _, err := readFrame(s.r); !errors.Is(err, io.EOF) {
						t.Errorf("after the close came %v, not the end", err)
					}
				})
			}
			t.Run("16 MiB", func(t *testing.T) {
				s := webSocket(t, g, how)
				failed := make(chan error, 1)
				go func() { failed <- writeFrame(s.w, wsFrame{true, 2, large}, true) }()
				s.hear(wsFrame{true, 2, large})
				if err := <-failed; err != nil {
					t.Error(err)
				}
			})
			t.Run("slow reader", func(t *testing.T) {
				s := webSocket(t, g, how)
				const n = 640
				piece := large[:100<<10] // together more than any buffer on the way
				failed := make(chan error, 1)
				go func() {
					for range n {
						if err := writeFrame(s.w, wsFrame{true, 2, piece}, true); err != nil {
							failed <- err
							return
						}
					}
					failed <- nil
				}()
				select {
				case err := <-failed:
					t.Fatalf("64 MB went into a WebSocket that nobody reads: %v", err)
				case <-time.After(300 * time.Millisecond):
				}
				for range n {
					s.hear(wsFrame{true, 2, piece})
				}
				if err := <-failed; err != nil {
					t.Error(err)
				}
			})
		})
	}
	if peak := g.peak(); peak > 200*mebi {
		t.Errorf("the node had %d MiB resident", peak/mebi)
	}
}

// TestH2C: a listener in clear understands clients that begin with HTTP/2, beside HTTP/1.1.
func TestH2C(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		skip(t, "curl is missing")
	}
	o := origin(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		_, _ = fmt.Fprintf(w, "%d bytes", n)
	})
	g := behind(t, o, "", "", map[string]string{"KEYWAY_H2C": "all"})
	body := file(t, t.TempDir(), "body", string(bytes.Repeat([]byte("x"), mebi)))
	for _, version := range []string{"--http2-prior-knowledge", "--http1.1", "--http1.0"} {
		out, err := exec.Command(curl, "-sS", "--max-time", "20", version, "-w", " %{http_version} %{http_code}", "-H", "Expect:", "--data-binary", "@"+body, "http://"+g.proxy+"/").CombinedOutput()
		want := map[string]string{"--http2-prior-knowledge": "2", "--http1.1": "1.1", "--http1.0": "1.1"}[version]
		if err != nil || string(out) != fmt.Sprintf("%d bytes %s 200", mebi, want) {
			t.Errorf("%s: %q, %v", version, out, err)
		}
	}
	// What only begins like it is HTTP/1.1's to refuse.
	c := raw(t, g, false)
	send(t, c, "PRI * HTTP/1.1\r\nHost: edge.test\r\n\r\n")
	if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || resp.StatusCode != 400 {
		t.Errorf("%v, %v", resp, err)
	}
	plain := behind(t, o, "", "", nil)
	out, err := exec.Command(curl, "-sS", "--max-time", "20", "--http2-prior-knowledge", "http://"+plain.proxy+"/").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "curl:") {
		t.Errorf("a listener without h2c answered HTTP/2: %q", out)
	}
}
