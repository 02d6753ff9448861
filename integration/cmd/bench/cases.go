package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

// cases lists what is measured, in order, with what is aimed at.
func (l *lab) cases() []benchCase {
	nginx := []*peer{l.nginx()}
	bare := append(nginx, l.keyways(serving{document: "bare.yaml", curves: "X25519", port: keywayPort})...)
	policy := append(nginx, l.keyways(serving{document: "policy.yaml", curves: "X25519", port: keywayPort + 10, log: true})...)
	defaults := append(nginx, l.keyways(serving{document: "bare.yaml", port: keywayPort + 20})...)
	all := bare
	if l.beside == "" { // what is judged is a change
		bare, policy = append(bare, l.haproxy()), append(policy, l.haproxy())
		all = bare
	}
	if l.caddy != "" {
		all = append(bare, l.caddyPeer())
	}
	small, multiplexed := h2load("/1k", false, "--h1", "-c", "64"), h2load("/1k", false, "-c", "10", "-m", "16")
	keyed := h2load("/1k", false, "--h1", "-c", "64", "-H", "apikey: "+apiKey)
	list := []benchCase{
		{name: "h1-tls-1k", workers: 1, n: 60000, load: small, peers: all, aim: 0.95},
		{name: "h1-tls-1k-policy", workers: 1, n: 60000, load: keyed, peers: policy, aim: 1.05, prepare: inForce, settle: logged},
		{name: "h1-tls-100k", workers: 1, n: 8000, load: h2load("/100k", false, "--h1", "-c", "64"), peers: all, aim: 0.95},
		{name: "h2-tls-1k", workers: 1, n: 60000, load: multiplexed, peers: all, aim: 0.8},
		{name: "h1-plain-1k", workers: 1, n: 60000, load: h2load("/1k", true, "--h1", "-c", "64"), peers: all, aim: 1.1},
		{name: "tls-full", workers: 1, n: 2000, load: own("full", false), peers: all, aim: 0.85},
		{name: "tls-resumed", workers: 1, n: 2000, load: own("resumed", false), peers: all, aim: 0.95},
		{name: "tls-full-mlkem768", workers: 1, n: 2000, load: own("full", true), peers: defaults, slow: true},
		{name: "tls-resumed-mlkem768", workers: 1, n: 2000, load: own("resumed", true), peers: defaults, slow: true},
		{name: "h1-tls-1k-upstream-tls", workers: 1, n: 40000, load: h2load("/tls/1k", false, "--h1", "-c", "64"), peers: bare, aim: 1},
		{name: "upload-1m", workers: 1, n: 1000, load: h2load("/upload", false, "--h1", "-c", "16", "-d", l.dir+"/1m"), peers: bare, aim: 1.1},
		{name: "ws-echo", workers: 1, n: 60000, load: own("ws", false), peers: bare, aim: 1.2},
		{name: "h1-tls-1k", workers: 2, n: 60000, load: small, peers: bare, aim: 1.05, slow: true},
		{name: "h1-tls-1k-policy", workers: 2, n: 60000, load: keyed, peers: policy, aim: 1.15, slow: true, prepare: inForce, settle: logged},
		{name: "h2-tls-1k", workers: 2, n: 60000, load: multiplexed, peers: bare, aim: 0.95, slow: true},
	}
	return append(list, l.latencies(bare)...)
}

// h2load loads with Debian's h2load, on the second CPU when the proxy has the first.
func h2load(path string, plain bool, args ...string) load {
	return func(ctx context.Context, p *peer, n int) (run, error) {
		url := fmt.Sprintf("https://127.0.0.1:%d%s", p.tls(), path)
		if plain {
			url = fmt.Sprintf("http://127.0.0.1:%d%s", p.plain(), path)
		}
		all := append([]string{"-n", strconv.Itoa(n), "-t", "1"}, args...)
		out, err := loader(ctx, p, "h2load", append(all, url)...).CombinedOutput()
		if err != nil {
			return run{}, fmt.Errorf("h2load: %w: %s", err, out)
		}
		r, err := readH2load(string(out), n)
		if err != nil || plain {
			return r, err
		}
		return r, r.agreed(sameTLS)
	}
}

// sameTLS is what all proxies use where nothing else is said.
const sameTLS = "TLS 1.3 TLS_AES_128_GCM_SHA256 X25519"

// agreed refuses the figures of connections that were not like those of the other
// proxies. A run that is void may have had none.
func (r run) agreed(want string) error {
	if r.Failed > 0 || r.TLS == want {
		return nil
	}
	return fmt.Errorf("client and proxy have agreed on %q, not on %q", r.TLS, want)
}

// readH2load reads what h2load prints about n requests.
func readH2load(out string, n int) (run, error) {
	codes := regexp.MustCompile(`status codes: (\d+) 2xx`).FindStringSubmatch(out)
	speed := regexp.MustCompile(`finished in [^,]*, ([0-9.]+) req/s`).FindStringSubmatch(out)
	if codes == nil || speed == nil {
		return run{}, fmt.Errorf("h2load says nothing of status codes or of time: %s", out)
	}
	r := run{Requests: n}
	good, err := strconv.Atoi(codes[1])
	if err != nil {
		return run{}, fmt.Errorf("reading h2load's answer: %w", err)
	}
	r.Failed = n - good
	if r.Rate, err = strconv.ParseFloat(speed[1], 64); err != nil {
		return run{}, fmt.Errorf("reading h2load's answer: %w", err)
	}
	if m := regexp.MustCompile(`TLS Protocol: TLSv(\S+)\nCipher: (\S+)\nServer Temp Key: (\S+)`).FindStringSubmatch(out); m != nil {
		r.TLS = "TLS " + m[1] + " " + m[2] + " " + m[3]
	}
	return r, nil
}

// loader makes a command on the CPU that the proxy does not have.
func loader(ctx context.Context, p *peer, name string, args ...string) *exec.Cmd {
	if p.workers < 2 {
		return exec.CommandContext(ctx, "taskset", append([]string{"-c", "1", name}, args...)...)
	}
	return exec.CommandContext(ctx, name, args...)
}

// own loads with this program's own client: one request on each new connection, or
// messages of WebSockets.
func own(kind string, mlkem bool) load {
	return func(ctx context.Context, p *peer, n int) (run, error) {
		args := []string{"-client", kind, "-n", strconv.Itoa(n)}
		if mlkem {
			args = append(args, "-mlkem")
		}
		r, err := client(ctx, p, append(args, fmt.Sprintf("127.0.0.1:%d", p.tls()))...)
		if err != nil {
			return r, err
		}
		want := sameTLS
		if mlkem && strings.HasPrefix(p.name, "keyway") {
			want = strings.Replace(want, "X25519", "X25519MLKEM768", 1)
		}
		return r, r.agreed(want)
	}
}

// client runs this program as a client of a peer.
func client(ctx context.Context, p *peer, args ...string) (r run, err error) {
	self, err := os.Executable()
	if err != nil {
		return r, fmt.Errorf("finding this program: %w", err)
	}
	cmd := loader(ctx, p, self, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return r, fmt.Errorf("the client with %v: %w", args, err)
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return r, fmt.Errorf("reading the client's answer: %w", err)
	}
	return r, nil
}
