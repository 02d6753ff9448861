package integration

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// TestOverloadConcurrentStreams (O-16) has h2load use every stream that it is given.
func TestOverloadConcurrentStreams(t *testing.T) {
	n := sized(10_000, 1_000_000)
	a := attackable(t, "["+service("all", fast(t), "/", "", "")+"]", "", nil)
	a.saturated = true
	a.beside("/", false, func() {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		out := unleash(ctx, t, installed(t, "h2load"), "-n", strconv.Itoa(n), "-c", "50", "-m", "100", "-t", "1", "https://"+a.tls+"/")
		want := fmt.Sprintf("requests: %d total, %d started, %d done, %d succeeded, 0 failed, 0 errored, 0 timeout", n, n, n, n)
		if !strings.Contains(out, want) {
			t.Errorf("h2load did not say %q:\n%s", want, out)
		}
		for line := range strings.Lines(out) {
			if strings.HasPrefix(line, "finished in") || strings.HasPrefix(line, "time for request") {
				t.Log(strings.TrimSpace(line))
			}
		}
	})
	c, err := tls.Dial("tcp", a.tls, &tls.Config{ServerName: "edge.test", InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	f, err := http2.NewFramer(c, c).ReadFrame()
	if err != nil {
		t.Fatal(err)
	}
	set, ok := f.(*http2.SettingsFrame)
	if !ok {
		t.Fatalf("the first frame is %v", f)
	}
	if streams, ok := set.Value(http2.SettingMaxConcurrentStreams); !ok || streams != 100 {
		t.Errorf("%d concurrent streams are offered, %v", streams, ok)
	}
}

// TestOverloadDescriptors gives a node few descriptors and takes all of them: idle
// connections are refused before the last ones, and when upstreams have taken those too,
// who is served already is served on, others are told to come again, and no target is
// blamed. It recovers by itself.
func TestOverloadDescriptors(t *testing.T) {
	const files = 256
	slow := slowOrigin(t)
	a := (&attacked{t: t, files: files}).start("["+service("good", fast(t), "/good", "", "")+", "+service("slow", "slow.up:80", "/slow", "read_timeout: 60000,", "")+"]", fmt.Sprintf(`
upstreams: [{name: slow.up, healthchecks: {passive: {unhealthy: {tcp_failures: 1}}}, targets: [{target: %q}]}]
`, slow.addr), map[string]string{"KEYWAY_HEADER_TIMEOUT": "60s"})
	if n := a.counter(t, "keyway_descriptors_limit"); n != files {
		t.Fatalf("the node may have %v descriptors, %d were meant", n, files)
	}
	a.beside("/good", true, func() {
		var conns []net.Conn
		for range 2 * files {
			c, err := net.DialTimeout("tcp", a.proxy, 5*time.Second)
			if err != nil {
				continue // refused so soon
			}
			defer func() { _ = c.Close() }()
			conns = append(conns, c)
		}
		poll(t, "the node has refused those that are too many", 20*time.Second, func() bool {
			refused := a.counter(t, `keyway_connections_refused_total{listener="proxy",reason="descriptors"}`)
			return refused > files/2 && int(refused+a.counter(t, `keyway_connections_open{listener="proxy"}`)) >= len(conns)
		})
		open := a.counter(t, "keyway_descriptors_open")
		if open > files*9/10+10 {
			t.Errorf("%v descriptors are open, nine tenths of %d are for clients", open, files)
		}
		var held []net.Conn
		for _, c := range conns {
			_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
			if _, err := c.Read(make([]byte, 1)); err != nil && isTimeout(err) {
				held = append(held, c)
			}
		}
		before := a.busy()
		statuses := map[int]int{}
		var mu sync.Mutex
		var wg sync.WaitGroup
		for _, c := range held {
			_ = c.SetReadDeadline(time.Now().Add(60 * time.Second))
			wg.Go(func() {
				_, _ = io.WriteString(c, "GET /slow HTTP/1.1\r\nHost: edge.test\r\nConnection: close\r\n\r\n")
				answer, _ := io.ReadAll(c)
				status := 0
				if len(answer) > 12 {
					status, _ = strconv.Atoi(string(answer[9:12]))
				}
				if status == 503 && !strings.Contains(string(answer), "Retry-After: 1\r\n") {
					status = -503
				}
				mu.Lock()
				statuses[status]++
				mu.Unlock()
			})
		}
		began := time.Now()
		refusals := func() int { mu.Lock(); defer mu.Unlock(); return statuses[503] }
		poll(t, "all descriptors are taken and requests are refused for it", 20*time.Second, func() bool { return refusals() > 0 })
		time.Sleep(time.Second) // in which the node must do without
		t.Logf("%d idle connections were held, %d requests wait at the origin, %d were refused; %v of CPU in %v", len(held), slow.asked.Load(), refusals(), a.busy()-before, time.Since(began).Round(time.Millisecond))
		close(slow.goOn)
		wg.Wait()
		t.Logf("by status: %v", statuses)
		if statuses[200] == 0 || statuses[200]+statuses[503] != len(held) {
			t.Errorf("of %d requests %v were answered by status, want 200 and 503 with Retry-After alone", len(held), statuses)
		}
		poll(t, "new connections are taken again", 20*time.Second, func() bool {
			resp, err := http.Get("http://" + a.proxy + "/slow")
			if err != nil {
				return false
			}
			_ = resp.Body.Close()
			return resp.StatusCode == 200
		})
	})
	if n := a.counter(t, `keyway_upstream_ejections_total{by="traffic",upstream="slow.up"}`); n != 0 {
		t.Errorf("the target was taken out %v times for what the node lacked", n)
	}
}
