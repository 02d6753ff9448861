package integration

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// sockets are WebSockets that stay open.
type sockets struct {
	conns []net.Conn
	r     []*bufio.Reader
}

// connected opens n WebSockets, over TLS or in clear.
func (a *attacked) connected(n int, secure bool) *sockets {
	t := a.t
	t.Helper()
	s := &sockets{conns: make([]net.Conn, n), r: make([]*bufio.Reader, n)}
	t.Cleanup(s.close)
	s.each(t, 8, func(i int) error {
		var c net.Conn
		var err error
		if secure {
			c, err = tls.Dial("tcp", a.tls, &tls.Config{ServerName: "edge.test", InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
		} else {
			c, err = net.Dial("tcp", a.proxy)
		}
		if err != nil {
			return err
		}
		s.conns[i] = c
		_ = c.SetDeadline(time.Now().Add(60 * time.Second))
		if _, err := io.WriteString(c, "GET /chat HTTP/1.1\r\nHost: edge.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"); err != nil {
			return err
		}
		s.r[i] = bufio.NewReaderSize(c, 256)
		resp, err := http.ReadResponse(s.r[i], nil)
		if err == nil && resp.StatusCode != http.StatusSwitchingProtocols {
			err = errors.New(resp.Status)
		}
		return err
	})
	return s
}

// each calls f for every WebSocket, some at a time.
func (s *sockets) each(t *testing.T, workers int, f func(i int) error) {
	t.Helper()
	var wg sync.WaitGroup
	var bad atomic.Int64
	var first atomic.Value
	for w := range workers {
		wg.Go(func() {
			for i := w; i < len(s.conns); i += workers {
				if err := f(i); err != nil {
					bad.Add(1)
					first.CompareAndSwap(nil, fmt.Sprintf("WebSocket %d: %v", i, err))
				}
			}
		})
	}
	wg.Wait()
	if n := bad.Load(); n > 0 {
		t.Fatalf("%d of %d WebSockets: %v", n, len(s.conns), first.Load())
	}
}

// echo says something on every WebSocket and expects it back.
func (s *sockets) echo(t *testing.T) {
	t.Helper()
	s.each(t, 8, func(i int) error {
		_ = s.conns[i].SetDeadline(time.Now().Add(60 * time.Second))
		if err := writeFrame(s.conns[i], wsFrame{true, 1, []byte("are you there")}, true); err != nil {
			return err
		}
		f, err := readFrame(s.r[i])
		if err == nil && string(f.payload) != "are you there" {
			err = fmt.Errorf("it said %q", f.payload)
		}
		return err
	})
}

func (s *sockets) close() {
	for _, c := range s.conns {
		if c != nil {
			_ = c.Close()
		}
	}
}

// TestOverloadWebSockets (O-14) has many WebSockets open while documents and certificates
// change: none is dropped, and a waiting one takes little.
func TestOverloadWebSockets(t *testing.T) {
	// A WebSocket takes two descriptors here and two there: as many as the system lets
	// one process have, if it is less.
	n := sized(2000, 20_000)
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		t.Fatal(err)
	}
	n = min(n, int(r.Cur)*9/10/2-100)
	for _, c := range []struct {
		name   string
		secure bool
		limit  int // bytes for each
	}{{"clear", false, 20 << 10}, {"TLS", true, 36 << 10}} {
		t.Run(c.name, func(t *testing.T) {
			o := origin(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/chat" {
					echoFrames(w, r)
					return
				}
				_, _ = io.Copy(io.Discard, r.Body)
			})
			document := func(g *gateway, i int) string {
				cert, key := pair(t, "edge.test", "edge.test")
				return fmt.Sprintf("_format_version: \"3.0\"\ncertificates: [{cert: %q, key: %q, snis: [edge.test]}]\nservices: [%s]\nconsumers: [{username: c%d}]\n", cert, key, service("all", o, "/", "", ""), i)
			}
			a := attackable(t, "["+service("all", o, "/", "", "")+"]", "", map[string]string{"GOMEMLIMIT": "16MiB", "KEYWAY_MEMORY_LIMIT": "off"})
			first := a.connected(1, c.secure)
			first.echo(t)
			before := a.resident()
			s := a.connected(n, c.secure)
			s.echo(t)
			each := 0
			for deadline := time.Now().Add(60 * time.Second); ; <-time.After(200 * time.Millisecond) {
				if each = (a.resident() - before) / n; each <= c.limit || time.Now().After(deadline) {
					break
				}
				if resp, err := http.Post("http://"+a.proxy+"/", "text/plain", bytes.NewReader(make([]byte, 900<<10))); err == nil { // some work, so that the collector comes
					_ = resp.Body.Close()
				}
			}
			t.Logf("%d WebSockets: %d bytes each", n, each)
			if each > c.limit {
				t.Errorf("a waiting WebSocket takes %d bytes, at most %d are allowed", each, c.limit)
			}
			for i := range sized(3, 10) {
				a.write(document(a.gateway, i))
				if out, err := a.run("reload"); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				poll(t, "the document is served", 20*time.Second, func() bool {
					return a.counter(t, "keyway_snapshot_generation") >= float64(i+2)
				})
			}
			s.echo(t)
			first.echo(t)
		})
	}
}
