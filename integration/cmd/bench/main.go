// Command bench compares Keyway with nginx, HAProxy and Caddy on this machine: CPU
// time per request of each in one interleaved run, as a ratio to nginx in the same
// round. docs/benchmarks.md says how to read what it prints.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"
)

// options are what the flags say.
type options struct {
	keyway, beside string
	quick          bool
	rounds         int
	only, out      string
}

// latest is where the figures of a whole run are kept.
const latest = "integration/bench/latest.json"

func main() {
	var o options
	flag.StringVar(&o.keyway, "keyway", "bin/keyway", "the binary")
	flag.StringVar(&o.beside, "beside", "", "another Keyway, measured as keyway-b in the same rounds; HAProxy and Caddy are left out then")
	flag.BoolVar(&o.quick, "quick", false, "3 rounds of fewer requests, without what takes long")
	flag.IntVar(&o.rounds, "rounds", 10, "rounds of each case")
	flag.StringVar(&o.only, "only", "", "regular expression of the cases to run, as in h1-tls-1k, or h1-tls-1k/2 with two workers, or sizes")
	flag.StringVar(&o.out, "out", "", "where every figure of each round is written; without it, those of a whole run to "+latest+" and those of a part nowhere")
	as := flag.String("client", "", "used by itself: full or resumed handshakes with an address; messages of WebSockets (ws), or their origin (echo); requests at a rate (h1, h2, plain)")
	n := flag.Int("n", 0, "used by itself: how many")
	mlkem := flag.Bool("mlkem", false, "used by itself: offer X25519MLKEM768")
	rate := flag.Float64("rate", 0, "used by itself: requests a second, 0 for as many as are answered")
	origin := flag.String("origin", "", "used by itself: where the client that keeps a rate answers as the origin")
	flag.Parse()
	err := error(nil)
	if *as != "" {
		err = serveAs(*as, flag.Arg(0), *origin, *n, *mlkem, *rate)
	} else {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM) // the peers end with the run
		err = bench(ctx, o)
		stop()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: "+err.Error())
		os.Exit(1)
	}
}

// serveAs is this program as a client that reports to another one, or as the origin of
// WebSockets.
func serveAs(kind, address, origin string, n int, mlkem bool, rate float64) error {
	var r run
	var err error
	switch g, ok := pacedKind(kind, address, rate, n); {
	case kind == "echo":
		return echo(address)
	case ok:
		runtime.GOMAXPROCS(1)  // one thread does it all
		debug.SetGCPercent(-1) // and is gone before what it leaves matters
		g.answers = origin
		r, err = g.load()
	case kind == "ws":
		r = websockets(address, n)
	case kind == "full" || kind == "resumed":
		r = handshakes(kind, address, n, mlkem)
	default:
		err = fmt.Errorf("there is no client %q", kind)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

func bench(ctx context.Context, o options) error {
	only, err := regexp.Compile(o.only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	alone, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", lockPort))
	if err != nil {
		return fmt.Errorf("another run has the ports, wait for its end: %w", err)
	}
	defer func() { _ = alone.Close() }()
	l, err := newLab(ctx, o.keyway, o.beside)
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(l.dir) }()
	backend, err := l.backend(ctx)
	if err != nil {
		return err
	}
	defer backend.down()
	if o.only == stallCase {
		return l.stall(ctx, min(o.rounds, 5))
	}
	sockets, err := l.sockets(ctx)
	if err != nil {
		return err
	}
	defer sockets.down()
	scale := 1.0
	if o.quick {
		o.rounds, scale = 3, 0.4
	}
	var results []result
	var failed []error // cases, that do not take the others with them
	cases, began := 0, time.Now()
	for _, c := range l.cases() {
		if !only.MatchString(c.label()) || o.quick && c.slow {
			continue
		}
		cases++
		runs, err := measure(ctx, c, o.rounds, scale)
		if ctx.Err() != nil {
			return fmt.Errorf("%s: interrupted: %w", c.label(), ctx.Err())
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench: "+err.Error())
			failed = append(failed, err)
			continue
		}
		rs := summarise(c, runs)
		table(c, rs)
		compare(c, runs)
		results = append(results, rs...)
	}
	sizes := o.only != "" && only.MatchString("sizes")
	if cases == 0 && !sizes {
		return fmt.Errorf("no case matches %q", o.only)
	}
	if o.out == "" && o.only == "" && o.beside == "" && len(failed) == 0 { // a part is not what the file promises
		o.out = latest
	}
	if o.out != "" {
		if err := save(o.out, results); err != nil {
			return err
		}
	}
	fmt.Printf("%d cases took %s\n", cases, time.Since(began).Round(time.Second))
	if len(failed) > 0 {
		return fmt.Errorf("%d cases failed: %w", len(failed), errors.Join(failed...))
	}
	if o.only == "" && !o.quick && o.beside == "" || sizes {
		return l.sizes(ctx)
	}
	return nil
}

// newLab makes the folder of a run: certificates, documents, the origin's files.
func newLab(ctx context.Context, keyway, beside string) (*lab, error) {
	abs, err := executable(keyway)
	if err != nil {
		return nil, err
	}
	if beside != "" {
		if beside, err = executable(beside); err != nil {
			return nil, err
		}
	}
	dir, err := os.MkdirTemp("", "keyway-bench")
	if err == nil {
		err = os.Mkdir(filepath.Join(dir, "log"), 0o700)
	}
	if err != nil {
		return nil, fmt.Errorf("making a folder: %w", err)
	}
	l := &lab{dir: dir, keyway: abs, beside: beside, configs: "integration/bench"}
	if beside == "" {
		if l.caddy, err = buildCaddy(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "bench: caddy is left out: "+err.Error())
		}
	}
	certPEM, keyPEM, err := selfSigned("bench.example.com")
	if err != nil {
		return nil, err
	}
	for name, data := range map[string]string{
		"cert.pem": certPEM, "key.pem": keyPEM, "both.pem": certPEM + keyPEM, "www/100k": strings.Repeat("b", 100<<10), "1m": strings.Repeat("c", 1<<20),
		"bare.yaml": document(100, false), "policy.yaml": document(100, true),
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, fmt.Errorf("making a folder: %w", err)
		}
		if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
			return nil, fmt.Errorf("writing a file: %w", err)
		}
	}
	return l, os.Chmod(dir, 0o755)
}

// executable is the absolute path of a Keyway that exists.
func executable(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("finding the binary: %w", err)
	}
	if _, err := os.Stat(abs); err != nil {
		return "", fmt.Errorf("%w; run make build first", err)
	}
	return abs, nil
}

func (l *lab) backend(ctx context.Context) (*peer, error) {
	conf, err := l.render("backend.conf", 0, 1)
	if err != nil {
		return nil, err
	}
	l.origin = &peer{name: "backend", port: backendPort, start: func(int) (*exec.Cmd, error) {
		cmd := pinned(2, "taskset", "-c", "1", "nginx", "-p", l.dir, "-c", conf)
		return cmd, nil
	}}
	return l.origin, l.origin.up(ctx, 1)
}

// sockets is the origin of WebSockets and uploads, on the origin's CPU.
func (l *lab) sockets(ctx context.Context) (*peer, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	p := &peer{name: "echo", port: echoPort, start: func(int) (*exec.Cmd, error) {
		return pinned(2, "taskset", "-c", "1", self, "-client", "echo", fmt.Sprintf("127.0.0.1:%d", echoPort)), nil
	}}
	return p, p.up(ctx, 1)
}

// document is n routes to the origin; the last one takes what is measured. With
// policy it asks for an API key and counts a limit that is never reached.
func document(n int, policy bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "_format_version: \"3.0\"\nservices:\n- name: s\n  url: http://127.0.0.1:%d\n  routes:\n", backendPort)
	for i := range n - 1 {
		fmt.Fprintf(&b, "  - {name: r%d, hosts: [h%d.example.com], paths: [/app%d/v1]}\n", i, i%50, i)
	}
	b.WriteString("  - {name: bench, paths: [/], strip_path: false}\n")
	fmt.Fprintf(&b, "- {name: tls, url: \"https://127.0.0.1:%d\", tls_verify: false, routes: [{name: tls, paths: [/tls/], strip_path: false}]}\n", backendPort+1)
	fmt.Fprintf(&b, "- {name: echo, url: \"http://127.0.0.1:%d\", routes: [{name: echo, paths: [/ws, /upload], strip_path: false, request_buffering: false}]}\n", echoPort)
	if policy {
		b.WriteString("plugins:\n- {name: key-auth}\n- {name: rate-limiting, config: {hour: 1000000000, policy: local}}\n" +
			"consumers:\n- {username: c, keyauth_credentials: [{key: " + apiKey + "}]}\n")
	}
	return b.String()
}

// caddyModule pins the Caddy that is compared with.
const caddyModule = "integration/bench/caddy"

// buildCaddy builds the pinned Caddy into the cache, once for each state of its module.
func buildCaddy(ctx context.Context) (string, error) {
	cache := os.Getenv("KEYWAY_CACHE")
	if cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("finding the cache: %w", err)
		}
		cache = filepath.Join(dir, "keyway")
	}
	state := sha256.New()
	for _, name := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join(caddyModule, name))
		if err != nil {
			return "", fmt.Errorf("reading Caddy's module: %w", err)
		}
		state.Write(text)
	}
	out := filepath.Join(cache, "bin", fmt.Sprintf("caddy-%x", state.Sum(nil)[:6]))
	if _, err := os.Stat(out); err == nil {
		return out, nil
	}
	fmt.Fprintln(os.Stderr, "bench: building Caddy for the first time")
	cmd := exec.CommandContext(ctx, "go", "build", "-C", caddyModule, "-o", out, "github.com/caddyserver/caddy/v2/cmd/caddy")
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("building Caddy: %w", err)
	}
	return out, nil
}
