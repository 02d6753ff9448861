package integration

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// The tests of overload run attacks by real tools against a real node, and clients
// beside them that must not notice. By default they are small; OVERLOAD=full
// gives the attacks the size that docs/overload.md reports.

// whole says whether the attacks have their whole size.
func whole() bool { return os.Getenv("OVERLOAD") == "full" }

// sized answers small, or large when the attacks have their whole size.
func sized[T any](small, large T) T {
	if whole() {
		return large
	}
	return small
}

// attacked is a node under attack with what is looked at meanwhile.
type attacked struct {
	*gateway
	t      *testing.T
	roots  *x509.CertPool
	before footprint
	files  int // descriptors that the node may have, 0 for as many as there are
	// saturated says that the attack is good clients too, who are more than there are
	// cores for: how long answers take is how long the queue is.
	saturated bool
}

// attackable starts a node for an attack: services is the document's list of services,
// more are other top-level entries of it.
func attackable(t *testing.T, services, more string, env map[string]string) *attacked {
	t.Helper()
	return (&attacked{t: t}).start(services, more, env)
}

func (a *attacked) start(services, more string, env map[string]string) *attacked {
	t := a.t
	t.Helper()
	all := map[string]string{
		// So that what is over is seen to be over, and that a kept connection stays one.
		"KEYWAY_UPSTREAM_KEEPALIVE_IDLE_TIMEOUT": "1s", "KEYWAY_KEEPALIVE_REQUESTS": "10000000",
	}
	for k, v := range env {
		all[k] = v
	}
	cert, key := pair(t, "edge.test", "edge.test")
	// Tools that attack name no server: they are shown this one.
	dir := t.TempDir()
	all["KEYWAY_TLS_CERT"], all["KEYWAY_TLS_KEY"] = file(t, dir, "tls.crt", cert), file(t, dir, "tls.key", key)
	a.roots = x509.NewCertPool()
	a.roots.AppendCertsFromPEM([]byte(cert))
	a.gateway = start(t, options{env: all, files: a.files, document: fmt.Sprintf(`
_format_version: "3.0"
certificates: [{cert: %q, key: %q, snis: [edge.test]}]
%s
services: %s
`, cert, key, more, services)})
	return a
}

// service is the entry of a service with one route for a path.
func service(name, address, path, fields, route string) string {
	host, port, _ := strings.Cut(address, ":")
	return fmt.Sprintf(`{name: %s, host: %s, port: %s, %s routes: [{name: %s, paths: [%s], strip_path: false, %s}]}`, name, host, port, fields, name, path, route)
}

// timings are how long answers took: on kept connections, and with a handshake.
type timings struct {
	mu   sync.Mutex // guards took
	took [2][]time.Duration
}

func (m *timings) add(fresh bool, d time.Duration) {
	i := 0
	if fresh {
		i = 1
	}
	m.mu.Lock()
	m.took[i] = append(m.took[i], d)
	m.mu.Unlock()
}

// reset forgets, and answers how many there were, the median and the 99th percentile.
func (m *timings) reset(fresh int) (n int, p50, p99 time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := m.took[fresh]
	m.took[fresh] = nil
	if len(all) == 0 {
		return 0, 0, 0
	}
	slices.Sort(all)
	return len(all), all[len(all)/2], all[len(all)*99/100]
}

// noise is what the 99th percentile may always be: attack, node and clients share two
// cores with whatever else runs there, and who waits for a core waits for tenths of a
// second, some for more than one. It is below any of the times for which an attack could
// hold somebody up.
const noise = 1800 * time.Millisecond

// beside has good clients ask for path, over TLS, before and while attack runs. Not
// one of their requests may fail. settled leaves out those that make new connections.
// Then everything that the attack made the node take has to come back.
func (a *attacked) beside(path string, settled bool, attack func()) {
	t := a.t
	t.Helper()
	m := &timings{}
	l := &clients{g: a.gateway, roots: a.roots, names: []string{"edge.test"}, path: path, took: m.add, settled: settled}
	warm := (&clients{g: a.gateway, roots: a.roots, names: l.names, path: path, settled: settled}).begin(2)
	time.Sleep(300 * time.Millisecond)
	warm.end()
	a.rest(0)
	a.before = a.footprint(t)

	l.begin(2)
	time.Sleep(sized(time.Second, 5*time.Second))
	var quiet [2]time.Duration
	for kind, what := range []string{"kept", "new"} {
		n, p50, p99 := m.reset(kind)
		quiet[kind] = p99
		t.Logf("before the attack: %5d requests on %s connections, p50 %v, p99 %v", n, what, round(p50), round(p99))
	}
	attack()
	l.end()
	for kind, what := range []string{"kept", "new"} {
		n, p50, p99 := m.reset(kind)
		t.Logf("during the attack: %5d requests on %s connections, p50 %v, p99 %v", n, what, round(p50), round(p99))
		if n == 0 && !(settled && kind == 1) {
			t.Errorf("no good client on %s connections was served", what)
		}
		if p99 > max(2*quiet[kind], noise) && !a.saturated {
			t.Errorf("p99 on %s connections went from %v to %v", what, quiet[kind], p99)
		}
	}
	if bad := l.lost.Load() + l.failed.Load(); bad > 0 {
		t.Errorf("%d of %d requests of good clients failed, first: %v", bad, l.requests.Load(), l.first.Load())
	}
	a.rest(1)
}

func round(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }

// rest waits until the node has let go of what it had: with factor 0, until it idles;
// else until it takes what it took before the attack.
func (a *attacked) rest(factor int) {
	t := a.t
	t.Helper()
	const near = 12 // goroutines and descriptors that come and go
	var is footprint
	deadline := time.Now().Add(60 * time.Second)
	for {
		is = a.footprint(t)
		if factor == 0 && a.counter(t, `keyway_connections_open{listener="proxy-tls"}`)+a.counter(t, `keyway_connections_open{listener="proxy"}`) == 0 {
			return
		}
		if factor > 0 && is.goroutines <= a.before.goroutines+near && is.files <= a.before.files+near && is.heap <= 2*a.before.heap+8*mebi {
			t.Logf("before and after: %d and %d goroutines, %d and %d descriptors, %.1f and %.1f MiB of heap",
				a.before.goroutines, is.goroutines, a.before.files, is.files, float64(a.before.heap)/mebi, float64(is.heap)/mebi)
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the node does not come to rest: %+v, before %+v", is, a.before)
		}
		// The collector comes when there is something to collect.
		if resp, err := http.Post("http://"+a.proxy+"/collect", "text/plain", bytes.NewReader(make([]byte, 900<<10))); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
		http.DefaultClient.CloseIdleConnections()
		time.Sleep(20 * time.Millisecond)
	}
}

// installed is the path of a tool that attacks.
func installed(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		skip(t, name+" is missing, make setup installs it")
	}
	return path
}

// unleash runs a tool until it ends or ctx does, and answers what it said.
func unleash(ctx context.Context, t *testing.T, path string, args ...string) string {
	out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
	if err != nil && ctx.Err() == nil {
		t.Errorf("%s %v: %v\n%s", path, args, err, out)
	}
	return string(out)
}

// highest watches a number until stop and answers the most that it was.
func highest(stop <-chan struct{}, is func() float64) func() float64 {
	most := make(chan float64, 1)
	go func() {
		top := is()
		for {
			select {
			case <-stop:
				most <- top
				return
			case <-time.After(50 * time.Millisecond):
				top = max(top, is())
			}
		}
	}()
	return func() float64 { return <-most }
}

// footprint is what a node holds.
type footprint struct{ heap, goroutines, files int }

func (g *gateway) footprint(t testing.TB) footprint {
	t.Helper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", g.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return footprint{int(g.counter(t, "keyway_heap_bytes")), int(g.counter(t, "keyway_goroutines")), len(open)}
}
