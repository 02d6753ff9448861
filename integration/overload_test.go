package integration

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestMemoryGuard fills the node's memory with uploads that never end: the node refuses
// what is new before its limit, is not killed, and serves again when they are gone.
func TestMemoryGuard(t *testing.T) {
	o := fast(t)
	const limit = 128
	g := behind(t, o, "", "", map[string]string{"KEYWAY_MEMORY_LIMIT": fmt.Sprint(limit, "MiB"), "KEYWAY_BODY_MIN_RATE": "0"})
	var conns []net.Conn
	var wg sync.WaitGroup
	var refused atomic.Bool
	piece := strings.Repeat("x", 900<<10) // less than what is spooled to disk, so all of it is kept
	for range 400 {
		if refused.Load() {
			break
		}
		c, err := net.Dial("tcp", g.proxy)
		if err != nil { // closed as soon as it was accepted
			refused.Store(true)
			break
		}
		conns = append(conns, c)
		if _, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: edge.test\r\nContent-Length: 1000000\r\n\r\n"+piece); err != nil {
			continue // refused on the way
		}
		wg.Go(func() {
			// Who is let in gets no answer; who is refused, a 503 or the end.
			b := make([]byte, 12)
			n, _ := io.ReadFull(c, b)
			if s := string(b[:n]); s == "HTTP/1.1 503" {
				refused.Store(true)
			}
		})
		if i := len(conns); i%20 == 0 {
			if resp, err := http.Get("http://" + g.proxy + "/"); err == nil {
				_ = resp.Body.Close()
				if resp.StatusCode == 503 && resp.Header.Get("Retry-After") != "" {
					refused.Store(true)
				}
			} else {
				refused.Store(true) // a new connection was closed
			}
		}
	}
	if !refused.Load() {
		t.Error("400 uploads of 900 KiB were let in under a limit of 128 MiB")
	}
	if peak := g.peak(); peak > 2*limit*mebi {
		t.Errorf("the node had %d MiB resident, its limit is %d", peak/mebi, limit)
	}
	for _, c := range conns {
		_ = c.Close()
	}
	wg.Wait()
	deadline := time.Now().Add(20 * time.Second)
	for {
		resp, err := http.Get("http://" + g.proxy + "/")
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == 200 {
				break
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("the node does not serve again: %v %v", resp, err)
		}
		<-time.After(50 * time.Millisecond)
	}
	_, text := g.read("/metrics")
	if !strings.Contains(text, `reason="memory_limit"`) || !strings.Contains(text, "keyway_memory_limit_bytes 1.34217728e+08") {
		t.Errorf("the metrics do not tell of it:\n%s", text)
	}
}
