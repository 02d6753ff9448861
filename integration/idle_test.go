package integration

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// resident is what the node has resident now, in bytes.
func (g *gateway) resident() int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.cmd.Process.Pid))
	if err != nil {
		g.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			var kib int
			if _, err := fmt.Sscanf(v, "%d kB", &kib); err != nil {
				g.t.Fatal(err)
			}
			return kib << 10
		}
	}
	g.t.Fatal("no VmRSS")
	return 0
}

// TestIdleConnections: what a connection over TLS takes that waits for its next request:
// buffers and goroutines of requests go back.
func TestIdleConnections(t *testing.T) {
	o := origin(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	for _, c := range []struct {
		protocol string
		n        int
		limit    int // bytes for each
	}{{"http/1.1", 10000, 24 << 10}, {"h2", 1000, 40 << 10}} {
		t.Run(c.protocol, func(t *testing.T) {
			// The runtime gives back what it can, so that what is resident is what is in use.
			g := behind(t, o, "", "", map[string]string{"GOMEMLIMIT": "32MiB", "KEYWAY_MEMORY_LIMIT": "off", "KEYWAY_IDLE_TIMEOUT": "120s"})
			conns := make([]*tls.Conn, c.n)
			open := func(i int) error {
				conn, err := tls.Dial("tcp", g.tls, &tls.Config{ServerName: "edge.test", InsecureSkipVerify: true, NextProtos: []string{c.protocol}})
				if err != nil {
					return err
				}
				conns[i] = conn
				if c.protocol == "h2" {
					return askH2(conn)
				}
				if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: edge.test\r\n\r\n"); err != nil {
					return err
				}
				resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil {
					return err
				}
				_, err = io.Copy(io.Discard, resp.Body)
				return err
			}
			if err := open(0); err != nil { // what the first one makes is everybody's
				t.Fatal(err)
			}
			before := g.resident()
			var wg sync.WaitGroup
			errs := make(chan error, c.n)
			for w := range 4 {
				wg.Go(func() {
					for i := 1 + w; i < c.n; i += 4 {
						if err := open(i); err != nil {
							errs <- err
							return
						}
					}
				})
			}
			wg.Wait()
			defer func() {
				for _, conn := range conns {
					if conn != nil {
						_ = conn.Close()
					}
				}
			}()
			select {
			case err := <-errs:
				t.Fatal(err)
			default:
			}
			deadline := time.Now().Add(60 * time.Second)
			for {
				each := (g.resident() - before) / c.n
				if each <= c.limit {
					t.Logf("%d idle connections of %s: %d bytes each", c.n, c.protocol, each)
					return
				}
				if time.Now().After(deadline) {
					t.Fatalf("%d idle connections of %s take %d bytes each, at most %d are allowed", c.n, c.protocol, each, c.limit)
				}
				<-time.After(200 * time.Millisecond)
				if resp, err := http.Get("http://" + g.proxy + "/"); err == nil { // some work, so that the collector comes
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
			}
		})
	}
}

// askH2 sends one request and reads until its stream ends.
func askH2(c io.ReadWriter) error {
	var b bytes.Buffer
	b.WriteString(http2.ClientPreface)
	fr := http2.NewFramer(&b, c)
	if err := fr.WriteSettings(); err != nil {
		return err
	}
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":path", "/"}, {":authority", "edge.test"}} {
		if err := enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			return err
		}
	}
	if err := fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true}); err != nil {
		return err
	}
	if _, err := c.Write(b.Bytes()); err != nil {
		return err
	}
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return err
		}
		if d, ok := f.(*http2.DataFrame); ok && d.StreamEnded() {
			return nil
		}
	}
}
