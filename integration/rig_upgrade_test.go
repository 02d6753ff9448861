package integration

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// lineage is a node whose program is a file of the test's own: processes follow one
// another, and the first is g.cmd.
type lineage struct {
	*gateway
	program string
}

// upgradable runs a node from a copy of the program.
func upgradable(t testing.TB, o options) *lineage {
	t.Helper()
	l := &lineage{program: filepath.Join(t.TempDir(), "keyway")}
	l.install(t, binary(t))
	o.program = l.program
	t.Cleanup(func() { // after the gateway's own
		for _, pid := range l.processes() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	l.gateway = start(t, o)
	return l
}

// install puts another file in the program's place, as an installer does.
func (l *lineage) install(t testing.TB, from string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(l.program+".new", text, 0o700)
	}
	if err == nil {
		err = os.Rename(l.program+".new", l.program)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// processes are those that run the program, or ran what was there before.
func (l *lineage) processes() []int {
	var list []int
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		exe, err := os.Readlink("/proc/" + e.Name() + "/exe")
		if err == nil && strings.TrimSuffix(exe, " (deleted)") == l.program {
			list = append(list, pid)
		}
	}
	return list
}

// upgraded is what `keyway upgrade --json` answers.
type upgraded struct {
	Pid        int    `json:"pid"`
	Version    string `json:"version"`
	OldPid     int    `json:"old_pid"`
	OldVersion string `json:"old_version"`
}

// upgrade asks for one and waits for it.
func (l *lineage) upgrade(t testing.TB) upgraded {
	t.Helper()
	cmd := l.command("upgrade", "--json")
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	var u upgraded
	if err == nil {
		err = json.Unmarshal(out, &u)
	}
	if err != nil {
		t.Fatalf("keyway upgrade: %v: %s%s", err, out, said.String())
	}
	return u
}

// serves is the process that is the node, and its version; zero where nobody answers.
func (l *lineage) serves() (pid int, version string) {
	out, err := l.run("status", "--json")
	var s struct {
		Pid     int    `json:"pid"`
		Version string `json:"version"`
	}
	if err != nil || json.Unmarshal([]byte(out), &s) != nil {
		return 0, ""
	}
	return s.Pid, s.Version
}

// another builds the program with another version.
func another(t testing.TB, version string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keyway-"+version)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-trimpath", "-ldflags", "-s -w -X main.version="+version, "-o", path, "../cmd/keyway")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

// newcomers make a connection for each request, so many a second whether or not those
// before have ended, and count what becomes of them. What a busy moment holds up is made
// up for after it.
type newcomers struct {
	address string
	roots   *tls.Config
	path    string
	judge   func(body string, began time.Time) error // of an answer 200; nil for anything

	sent, ok, refused, reset, failed atomic.Int64
	first                            atomic.Value // the first trouble
	flying                           chan struct{}
}

// mostFlying is how many connections may be open at a time. A machine that cannot make
// as many as are asked for makes fewer: what is looked for is what goes wrong with an upgrade,
// not what a handshake does that takes longer than it may.
const mostFlying = 32

// run makes rate connections a second until stop is closed, and waits for them.
func (n *newcomers) run(rate int, stop <-chan struct{}) {
	n.flying = make(chan struct{}, mostFlying)
	var wg sync.WaitGroup
	defer wg.Wait()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	began := time.Now()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		for due := int64(time.Since(began).Seconds() * float64(rate)); n.sent.Load() < due; {
			select {
			case n.flying <- struct{}{}:
			case <-stop:
				return
			}
			i := n.sent.Add(1)
			wg.Go(func() {
				defer func() { <-n.flying }()
				n.one(i)
			})
		}
	}
}

func (n *newcomers) one(i int64) {
	began := time.Now()
	body, err := n.ask(i)
	if err == nil && n.judge != nil {
		err = n.judge(body, began)
	}
	switch {
	case err == nil:
		n.ok.Add(1)
		return
	case errors.Is(err, syscall.ECONNREFUSED):
		n.refused.Add(1)
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		n.reset.Add(1)
	default:
		n.failed.Add(1)
	}
	n.first.CompareAndSwap(nil, fmt.Sprintf("connection %d: %v", i, err))
}

// ask makes one request on a connection of its own. Addresses of loopback take turns:
// each has its own ports.
func (n *newcomers) ask(i int64) (string, error) {
	d := net.Dialer{Timeout: 20 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+i%32))}}
	c, err := d.Dial("tcp", n.address)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	if n.roots != nil {
		c = tls.Client(c, n.roots)
	}
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }}
	req, err := http.NewRequest(http.MethodGet, "http://edge.test"+n.path, nil)
	if err != nil {
		return "", err
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("it was answered %s", resp.Status)
	}
	return string(text), err
}

// notified is a service manager's socket. The answer waits for the next message and holds it
// against what is wanted; "*" stands for a number.
func notified(t *testing.T, address string) func(want string) {
	t.Helper()
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	number := regexp.MustCompile(`USEC=[0-9]+`)
	return func(want string) {
		t.Helper()
		buf := make([]byte, 4096)
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		n, err := c.Read(buf)
		if got := number.ReplaceAllString(string(buf[:n]), "USEC=*"); err != nil || got != want {
			t.Fatalf("the service manager was told %q, want %q: %v", got, want, err)
		}
	}
}

// shortDir is a folder whose path leaves room for a socket's name.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// dialUDP is a client of datagrams.
func dialUDP(t testing.TB, address string) net.Conn {
	t.Helper()
	c, err := net.Dial("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}
