package integration

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// slow is an origin whose /slow holds its answer, or the rest of one, until it is
// told to go on; asked counts who has come.
type slow struct {
	addr  string
	asked atomic.Int64
	goOn  chan struct{}
}

func slowOrigin(t testing.TB) *slow {
	s := &slow{goOn: make(chan struct{})}
	s.addr = origin(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/slow":
			s.asked.Add(1)
			select {
			case <-s.goOn:
			case <-r.Context().Done():
			}
		case "/download":
			_, _ = io.Copy(w, zeros(mebi))
			_ = http.NewResponseController(w).Flush()
			s.asked.Add(1)
			<-s.goOn
			_, _ = io.Copy(w, zeros(mebi))
			return
		}
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(append(body, "done"...))
	})
	return s
}

// refusesConnections says whether nobody listens at an address.
func refusesConnections(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err == nil {
		_ = c.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// TestDrainFinishesWhatItHas stops a node that has, over both protocols, requests
// whose answers wait, downloads and an upload half done, idle connections, and a
// handshake that has not ended. Each gets what it is owed.
func TestDrainFinishesWhatItHas(t *testing.T) {
	o := slowOrigin(t)
	access := filepath.Join(t.TempDir(), "access.log")
	g := behind(t, o.addr, "read_timeout: 60000,", "request_buffering: false", map[string]string{"KEYWAY_ACCESS_LOG": access})
	type answer struct {
		what, text string
		err        error
	}
	answers := make(chan answer, 8)
	uploads := make([]*io.PipeWriter, 0, 2)
	for _, h2 := range []bool{false, true} {
		for _, path := range []string{"/slow", "/download", "/upload"} {
			c := speaker(t, h2)
			what := fmt.Sprintf("%s, HTTP/2 %v", path, h2)
			var body io.Reader
			if path == "/upload" {
				r, w := io.Pipe()
				body, uploads = r, append(uploads, w)
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+g.tls+path, body)
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				resp, err := c.Do(req)
				if err != nil {
					answers <- answer{what, "", err}
					return
				}
				defer func() { _ = resp.Body.Close() }()
				text, err := io.ReadAll(resp.Body)
				answers <- answer{what, strconv.Itoa(len(text)), err}
			}()
		}
	}
	for _, w := range uploads {
		if _, err := w.Write(make([]byte, 100000)); err != nil {
			t.Fatal(err)
		}
	}
	// A connection that is idle, and one that has a pipelined request behind a slow one.
	idle, busy := raw(t, g, true), raw(t, g, true)
	idleIn, busyIn := bufio.NewReader(idle), bufio.NewReader(busy)
	send(t, idle, "GET /quick HTTP/1.1\r\nHost: edge.test\r\n\r\n")
	if resp, err := http.ReadResponse(idleIn, nil); err != nil {
		t.Fatal(err)
	} else if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	send(t, busy, "GET /slow HTTP/1.1\r\nHost: edge.test\r\n\r\n")
	poll(t, "the origin has them all", 20*time.Second, func() bool { return o.asked.Load() == 5 })

	began := time.Now()
	if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	poll(t, "readiness is gone", 20*time.Second, func() bool { return g.get("/status/ready") == http.StatusServiceUnavailable })
	notReady := time.Since(began)
	if _, text := g.read("/status/ready"); !strings.Contains(text, "draining") {
		t.Errorf("the reason is not told: %s", text)
	}
	poll(t, "nobody listens", 20*time.Second, func() bool { return refusesConnections(g.tls) && refusesConnections(g.proxy) })
	if n, err := idleIn.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("an idle connection: %v %v, want its end", n, err)
	}
	select {
	case <-g.done:
		t.Fatal("the node has gone and left its requests")
	default:
	}
	for _, w := range uploads {
		if _, err := w.Write(make([]byte, 100000)); err != nil {
			t.Error(err)
		}
		_ = w.Close()
	}
	close(o.goOn)
	for range 6 {
		a := <-answers
		want := map[string]string{"/slow": "4", "/download": strconv.Itoa(2 * mebi), "/upload": strconv.Itoa(200004)}[strings.Split(a.what, ",")[0]]
		if a.err != nil || a.text != want {
			t.Errorf("%s: %s bytes, want %s; %v", a.what, a.text, want, a.err)
		}
	}
	resp, err := http.ReadResponse(busyIn, nil)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(resp.Body); err != nil || string(text) != "done" || !resp.Close {
		t.Errorf("the last answer of a connection: %q %v, Connection: close %v", text, err, resp.Close)
	}
	select {
	case <-g.done:
	case <-time.After(10 * time.Second):
		t.Fatal("nothing is left and the node stays")
	}
	if code := g.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit status %d: %v", code, g.err)
	}
	// What was logged is on the disk, and the ledger is whole.
	text, err := os.ReadFile(access)
	if lines := bytes.Count(text, []byte("\n")); err != nil || lines != 8 {
		t.Errorf("%d lines in the access log, want 8: %v", lines, err)
	}
	if out, err := g.run("audit", "verify"); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	t.Logf("not ready %s after the signal", notReady)
}

// TestDrainUnderH2Load stops a node under h2load: every request that it took is answered.
func TestDrainUnderH2Load(t *testing.T) {
	tool, err := exec.LookPath("h2load")
	if err != nil {
		skip(t, "h2load is missing, make setup installs it")
	}
	for _, protocol := range []string{"h2", "http/1.1"} {
		s := newShop(t, nil)
		ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
		load := exec.CommandContext(ctx, tool, "-n", "400000", "-c", "8", "-m", "10", "-t", "1", "--npn-list="+protocol, "--connect-to="+s.tls, "https://shop.test/open")
		var out lockedBuffer
		load.Stdout, load.Stderr = &out, &out
		if err := load.Start(); err != nil {
			t.Fatal(err)
		}
		poll(t, "the load is on", 20*time.Second, func() bool { return s.counter(t, `keyway_http_requests_total{code="2xx",source="service"}`) > 2000 })
		if code := s.stop(syscall.SIGTERM); code != 0 {
			t.Errorf("%s: exit status %d", protocol, code)
		}
		_ = load.Wait()
		cancel()
		text := out.String()
		// Those that h2load had not sent fail, since it never opens a connection anew;
		// an answer other than 200 would be a request that was taken and dropped.
		var ok, redirected, client, server int
		at := strings.Index(text, "status codes: ")
		if at < 0 {
			t.Fatalf("%s: h2load said\n%s", protocol, text)
		}
		if _, err := fmt.Sscanf(text[at:], "status codes: %d 2xx, %d 3xx, %d 4xx, %d 5xx", &ok, &redirected, &client, &server); err != nil {
			t.Fatal(err)
		}
		if ok < 2000 || redirected+client+server > 0 {
			t.Errorf("%s: of the answers %d were 2xx, %d 3xx, %d 4xx, %d 5xx", protocol, ok, redirected, client, server)
		}
		t.Logf("%s: %d answered 200 until the drain, none otherwise", protocol, ok)
	}
}

// counter is the value of one series of /metrics, 0 when it is not there.
func (g *gateway) counter(t testing.TB, series string) float64 {
	t.Helper()
	_, text := g.read("/metrics")
	return seriesOf(t, text, series)
}

// seriesOf is the value of one series in a text of metrics, 0 when it is not there.
func seriesOf(t testing.TB, text, series string) float64 {
	t.Helper()
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, series+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	return 0
}

// TestDrainEnds ends by the grace period with status 3, and by a second signal
// with status 4, at once.
func TestDrainEnds(t *testing.T) {
	for _, c := range []struct {
		name   string
		grace  string
		second bool
		code   int
		say    string
	}{
		{"grace", "700ms", false, 3, "connections were cut"},
		{"second signal", "60s", true, 4, "stopped at once by a second signal"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := slowOrigin(t)
			g := behind(t, o.addr, "read_timeout: 60000,", "", map[string]string{"KEYWAY_GRACE": c.grace})
			ended := make(chan error, 2)
			for _, h2 := range []bool{false, true} {
				client := speaker(t, h2)
				go func() {
					resp, err := client.Get("https://" + g.tls + "/slow")
					if err == nil {
						_ = resp.Body.Close()
					}
					ended <- err
				}()
			}
			poll(t, "the origin has them", 20*time.Second, func() bool { return o.asked.Load() == 2 })
			began := time.Now()
			if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if c.second {
				poll(t, "it drains", 20*time.Second, func() bool { return g.get("/status/ready") == http.StatusServiceUnavailable })
				began = time.Now()
				if err := g.cmd.Process.Signal(syscall.SIGINT); err != nil {
					t.Fatal(err)
				}
			}
			select {
			case <-g.done:
			case <-time.After(15 * time.Second):
				t.Fatal("it does not end")
			}
			took := time.Since(began)
			if code := g.cmd.ProcessState.ExitCode(); code != c.code || !strings.Contains(g.log.String(), c.say) {
				t.Errorf("exit status %d, want %d and a word of it: %q", code, c.code, c.say)
			}
			if took > 10*time.Second {
				t.Errorf("it took %s", took)
			}
			for range 2 {
				if err := <-ended; err == nil {
					t.Error("a request that was cut looks answered")
				}
			}
			if out, err := g.run("audit", "verify"); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

// failing runs `keyway serve` with settings that must keep it from serving.
func failing(t *testing.T, env map[string]string, args ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary(t), append([]string{"serve"}, args...)...)
	all := map[string]string{
		"KEYWAY_PROXY_LISTEN": "127.0.0.1:0", "KEYWAY_PROXY_TLS_LISTEN": "off", "KEYWAY_ADMIN_LISTEN": "off", "KEYWAY_MANAGER_LISTEN": "off",
		"KEYWAY_STATUS_LISTEN": "off", "KEYWAY_ECHO_LISTEN": "off", "KEYWAY_DATA_DIR": filepath.Join(t.TempDir(), "data"),
	}
	for k, v := range env {
		all[k] = v
	}
	cmd.Env = os.Environ()
	for k, v := range all {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	out, err := cmd.CombinedOutput()
	if err == nil || ctx.Err() != nil {
		t.Fatalf("it served: %v\n%s", err, out)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// TestStartFailures starts with what cannot work: the status tells settings (2)
// from the rest (1), and the text what to change.
func TestStartFailures(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	open := filepath.Join(t.TempDir(), "open")
	if err := os.MkdirAll(open, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o755); err != nil {
		t.Fatal(err)
	}
	living := start(t, options{document: "_format_version: \"3.0\"\n"})
	bad := file(t, t.TempDir(), "bad.yaml", "_format_version: \"3.0\"\nservices: [{name: a, hots: b}]\nroutes: [{paths: [x]}]\n")
	in := func(env ...string) map[string]string {
		m := map[string]string{}
		for i := 0; i < len(env); i += 2 {
			m[env[i]] = env[i+1]
		}
		return m
	}
	for _, c := range []struct {
		name string
		env  map[string]string
		args []string
		code int
		say  []string
	}{
		{"settings", in("KEYWAY_PROXI_LISTEN", "x", "KEYWAY_GRACE", "soon", "KEYWAY_HEADER_LIMIT", "7"), []string{"--idle-timeout", "-1s"}, 2, []string{
			"KEYWAY_PROXI_LISTEN", "did you mean proxy_listen?", "setting grace (from KEYWAY_GRACE): \"soon\"", "expected a duration", "header_limit", "--idle-timeout",
		}},
		{"unknown flag", nil, []string{"--proxy-lisen", "x"}, 2, []string{"proxy-lisen"}},
		{"half a pair", in("KEYWAY_TLS_CERT", "cert.pem"), nil, 2, []string{"tls_cert", "tls_key"}},
		{"port in use", in("KEYWAY_PROXY_LISTEN", taken.Addr().String()), nil, 1, []string{"listening on " + taken.Addr().String() + " for proxy", "address already in use"}},
		{"status port in use", in("KEYWAY_STATUS_LISTEN", taken.Addr().String()), nil, 1, []string{"listening on " + taken.Addr().String() + " for status", "address already in use"}},
		{"data folder of another node", in("KEYWAY_DATA_DIR", living.dir), nil, 1, []string{"another", living.dir}},
		{"open data folder", in("KEYWAY_DATA_DIR", open), nil, 1, []string{open, "0755", "0700", "chmod 700"}},
		{"documents", in("KEYWAY_DOCUMENTS", bad), nil, 1, []string{bad + ":2", "hots", bad + ":3"}},
		{"no document", in("KEYWAY_DOCUMENTS", "/nowhere/at.yaml"), nil, 1, []string{"/nowhere/at.yaml"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, code := failing(t, c.env, c.args...)
			if code != c.code {
				t.Errorf("exit status %d, want %d\n%s", code, c.code, out)
			}
			for _, w := range c.say {
				if !strings.Contains(out, w) {
					t.Errorf("it does not say %q:\n%s", w, out)
				}
			}
		})
	}
	if living.get("/status/ready") != 200 {
		t.Error("the node that was there first is not well")
	}
	info, err := os.Stat(living.dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the data folder's mode is %v, %v", info.Mode(), err)
	}
}

// TestKilled kills a node without a word, again and again, and starts it anew on
// its data folder: it serves, and its ledger verifies.
func TestKilled(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	for i := range 6 {
		g := start(t, options{dir: dir, document: fmt.Sprintf("_format_version: \"3.0\"\nservices: [{name: s%d, host: a.test, routes: [{paths: [/]}]}]\n", i)})
		for j := range i {
			g.write(fmt.Sprintf("_format_version: \"3.0\"\nservices: [{name: s%d-%d, host: a.test, routes: [{paths: [/]}]}]\n", i, j))
			_, _ = g.run("reload")
		}
		g.stop(syscall.SIGKILL)
		if out, err := g.run("audit", "verify"); err != nil {
			t.Fatalf("after kill %d: %v\n%s", i+1, err, out)
		}
	}
}
