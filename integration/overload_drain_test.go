package integration

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestOverloadDrain (O-10) ends a node that has everything at once: wrk, h2load, WebSockets
// of each kind and long downloads. Whatever it took it answers, and WebSockets are told.
func TestOverloadDrain(t *testing.T) {
	downloads, each := sized(8, 40), sized(20, 100)
	goOn := make(chan struct{})
	var begun atomic.Int64
	o := origin(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/chat":
			echoFrames(w, r)
		case "/download":
			_, _ = io.Copy(w, zeros(mebi))
			_ = http.NewResponseController(w).Flush()
			begun.Add(1)
			select {
			case <-goOn:
			case <-r.Context().Done():
			}
			_, _ = io.Copy(w, zeros(mebi))
		default:
			_, _ = io.Copy(io.Discard, r.Body)
		}
	})
	a := attackable(t, "["+service("all", o, "/", "read_timeout: 60000,", "")+"]", "", nil)
	wrk, h2load := installed(t, "wrk"), installed(t, "h2load")
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	start := func(name string, args ...string) (*exec.Cmd, *lockedBuffer) {
		cmd, out := exec.CommandContext(ctx, name, args...), &lockedBuffer{}
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, out
	}
	load1, said1 := start(wrk, "-t1", "-c16", "-d60s", "http://"+a.proxy+"/")
	load2, said2 := start(h2load, "-n", "10000000", "-c", "4", "-m", "10", "-t", "1", "https://"+a.tls+"/")
	var wg sync.WaitGroup
	for i := range downloads {
		c := speaker(t, i%2 == 0)
		wg.Go(func() {
			resp, err := c.Get("https://" + a.tls + "/download")
			if err != nil {
				t.Errorf("a download: %v", err)
				return
			}
			defer func() { _ = resp.Body.Close() }()
			if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != 2*mebi {
				t.Errorf("a download ended after %d bytes: %v", n, err)
			}
		})
	}
	var chats []*ws
	for _, how := range []string{"clear", "tls", "h2"} {
		for range each {
			s := webSocket(t, a.gateway, how)
			s.say(wsFrame{true, 1, []byte("hello")})
			s.hear(wsFrame{true, 1, []byte("hello")})
			chats = append(chats, s)
		}
	}
	poll(t, "all are at it", 30*time.Second, func() bool { return int(begun.Load()) == downloads })

	began := time.Now()
	if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	poll(t, "readiness is gone", 20*time.Second, func() bool { return a.get("/status/ready") == http.StatusServiceUnavailable })
	unready := time.Since(began)
	for _, s := range chats {
		s.hear(wsFrame{true, 8, []byte{1001 >> 8, 1001 & 0xff}})
		s.say(wsFrame{true, 8, []byte{1001 >> 8, 1001 & 0xff}})
	}
	for _, s := range chats {
		if f, err := readFrame(s.r); !errors.Is(err, io.EOF) {
			t.Fatalf("after the goodbye came a frame of opcode %d, %v", f.opcode, err)
		}
	}
	told := time.Since(began)
	close(goOn)
	wg.Wait()
	select {
	case <-a.done:
	case <-time.After(30 * time.Second):
		t.Error("the node does not end within its grace period")
	}
	took := time.Since(began)
	if code := a.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit status %d", code)
	}
	_ = load1.Process.Signal(os.Interrupt) // it tells what it has seen
	_, _ = load1.Wait(), load2.Wait()
	t.Logf("not ready after %v, %d WebSockets at their end after %v, the node after %v", round(unready), len(chats), round(told), round(took))
	drained(t, said1.String(), said2.String())
}

// drained judges what the tools saw of the end: none of their connections broke off, and
// no answer is an error. New ones are refused, which wrk counts as errors of writing.
func drained(t *testing.T, wrk, h2load string) {
	t.Helper()
	if !strings.Contains(wrk, "requests in") || strings.Contains(wrk, "Non-2xx") {
		t.Errorf("wrk said\n%s", wrk)
	}
	if _, errs, ok := strings.Cut(wrk, "Socket errors: "); ok && !strings.Contains(errs, "read 0,") {
		t.Errorf("wrk said\n%s", wrk)
	}
	for line := range strings.Lines(h2load) {
		if strings.HasPrefix(line, "status codes:") && !strings.Contains(line, " 0 3xx, 0 4xx, 0 5xx") {
			t.Errorf("h2load said\n%s", line)
		}
	}
	for _, out := range []string{wrk, h2load} {
		for line := range strings.Lines(out) {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, "Socket errors") || strings.Contains(line, "requests in") || strings.HasPrefix(line, "status codes") {
				t.Log(line)
			}
		}
	}
	if !strings.Contains(h2load, "status codes:") {
		t.Errorf("h2load said\n%s", h2load)
	}
}
