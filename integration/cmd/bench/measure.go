package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// tick is a clock tick of /proc in microseconds.
const tick = 10_000

// load makes n requests against a peer and answers how many failed.
type load func(ctx context.Context, p *peer, n int) (failed int, err error)

// benchCase is one thing that is measured on several proxies.
type benchCase struct {
	name    string
	workers int
	n       int
	load    load
	peers   []*peer // the first one is nginx, what the others are compared with
	slow    bool    // left out of a quick run
}

// h2load loads with Debian's h2load, on the second CPU when the proxy has the first.
func h2load(path string, plain bool, args ...string) load {
	return func(ctx context.Context, p *peer, n int) (int, error) {
		url := fmt.Sprintf("https://127.0.0.1:%d%s", p.tls(), path)
		if plain {
			url = fmt.Sprintf("http://127.0.0.1:%d%s", p.plain(), path)
		}
		all := append([]string{"-n", strconv.Itoa(n), "-t", "1"}, args...)
		cmd := loader(ctx, p, "h2load", append(all, url)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return 0, fmt.Errorf("h2load against %s: %w: %s", p.name, err, out)
		}
		m := regexp.MustCompile(`status codes: (\d+) 2xx`).FindSubmatch(out)
		if m == nil {
			return 0, fmt.Errorf("h2load against %s says nothing of status codes: %s", p.name, out)
		}
		good, err := strconv.Atoi(string(m[1]))
		if err != nil {
			return 0, fmt.Errorf("reading h2load's answer: %w", err)
		}
		return n - good, nil
	}
}

// loader makes a command on the CPU that the proxy does not have.
func loader(ctx context.Context, p *peer, name string, args ...string) *exec.Cmd {
	if p.workers == 1 {
		return exec.CommandContext(ctx, "taskset", append([]string{"-c", "1", name}, args...)...)
	}
	return exec.CommandContext(ctx, name, args...)
}

// own loads with this program's own client: one request on each new connection.
func own(kind string, mlkem bool) load {
	return func(ctx context.Context, p *peer, n int) (int, error) {
		self, err := os.Executable()
		if err != nil {
			return 0, fmt.Errorf("finding this program: %w", err)
		}
		args := []string{"-client", kind, "-n", strconv.Itoa(n)}
		if mlkem {
			args = append(args, "-mlkem")
		}
		cmd := loader(ctx, p, self, append(args, fmt.Sprintf("127.0.0.1:%d", p.tls()))...)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			return 0, fmt.Errorf("%s handshakes with %s: %w", kind, p.name, err)
		}
		failed, err := strconv.Atoi(strings.TrimSpace(string(out)))
		if err != nil {
			return 0, fmt.Errorf("reading the client's answer: %w", err)
		}
		return failed, nil
	}
}

// label tells cases of one name apart by their workers.
func (c benchCase) label() string {
	if c.workers == 1 {
		return c.name
	}
	return fmt.Sprintf("%s/%d", c.name, c.workers)
}

// index is where a proxy is among those of the case, -1 when it takes no part.
func (c benchCase) index(name string) int {
	return slices.IndexFunc(c.peers, func(p *peer) bool { return p.name == name })
}

// cases lists what is measured, in order.
func (l *lab) cases() []benchCase {
	nginx := []*peer{l.nginx()}
	bare := append(nginx, l.keyways(l.dir+"/bare.yaml", "X25519", keywayPort)...)
	policy := append(nginx, l.keyways(l.dir+"/policy.yaml", "X25519", keywayPort+10)...)
	defaults := append(nginx, l.keyways(l.dir+"/bare.yaml", "", keywayPort+20)...)
	three, all := bare, bare
	if l.beside == "" {
		three = append(bare, l.haproxy())
		all = three
	}
	if l.caddy != "" {
		all = append(three, l.caddyPeer())
	}
	return []benchCase{
		{name: "h1-tls-1k", workers: 1, n: 60000, load: h2load("/1k", false, "--h1", "-c", "64"), peers: all},
		{name: "h1-tls-1k-policy", workers: 1, n: 60000, load: h2load("/1k", false, "--h1", "-c", "64", "-H", "apikey: bench-key"), peers: policy},
		{name: "h1-tls-100k", workers: 1, n: 8000, load: h2load("/100k", false, "--h1", "-c", "64"), peers: all},
		{name: "h2-tls-1k", workers: 1, n: 60000, load: h2load("/1k", false, "-c", "10", "-m", "16"), peers: all},
		{name: "h1-plain-1k", workers: 1, n: 60000, load: h2load("/1k", true, "--h1", "-c", "64"), peers: all},
		{name: "tls-full", workers: 1, n: 2000, load: own("full", false), peers: all},
		{name: "tls-resumed", workers: 1, n: 2000, load: own("resumed", false), peers: all},
		{name: "tls-full-mlkem768", workers: 1, n: 2000, load: own("full", true), peers: defaults, slow: true},
		{name: "h1-tls-1k-upstream-tls", workers: 1, n: 40000, load: h2load("/tls/1k", false, "--h1", "-c", "64"), peers: three},
		{name: "upload-1m", workers: 1, n: 1000, load: h2load("/upload", false, "--h1", "-c", "16", "-d", l.dir+"/1m"), peers: three},
		{name: "ws-echo", workers: 1, n: 60000, load: own("ws", false), peers: three},
		{name: "h1-tls-1k", workers: 2, n: 60000, load: h2load("/1k", false, "--h1", "-c", "64"), peers: bare, slow: true},
		{name: "h2-tls-1k", workers: 2, n: 60000, load: h2load("/1k", false, "-c", "10", "-m", "16"), peers: bare, slow: true},
	}
}

// measure runs the rounds of a case: every proxy in turn, round after round, each
// second round backwards: nobody always follows the same one. What it answers is by
// round, then by proxy.
func measure(ctx context.Context, c benchCase, rounds int, scale float64) ([][]run, error) {
	n := max(int(float64(c.n)*scale), 100)
	defer func() {
		for _, p := range c.peers {
			p.down()
		}
	}()
	for _, p := range c.peers {
		if err := p.up(ctx, c.workers); err != nil {
			return nil, err
		}
		if _, err := c.load(ctx, p, max(n/10, 64)); err != nil { // warm
			return nil, err
		}
	}
	runs := make([][]run, rounds)
	for i := range runs {
		runs[i] = make([]run, len(c.peers))
		for k := range c.peers {
			if i%2 == 1 {
				k = len(c.peers) - 1 - k
			}
			r, err := once(ctx, c, c.peers[k], n)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			runs[i][k] = r
		}
	}
	return runs, nil
}

// run is one proxy in one round.
type run struct {
	cpu    float64 // microseconds for a request
	failed int     // requests; one makes the run void
}

func once(ctx context.Context, c benchCase, p *peer, n int) (run, error) {
	before, err := ticks(p.cmd.Process.Pid)
	if err != nil {
		return run{}, fmt.Errorf("%s: %w", p.name, err)
	}
	failed, err := c.load(ctx, p, n)
	if err != nil {
		return run{}, err
	}
	after, err := ticks(p.cmd.Process.Pid)
	if err != nil {
		return run{}, fmt.Errorf("%s: %w", p.name, err)
	}
	return run{cpu: float64(after-before) * tick / float64(n), failed: failed}, nil
}

// summarise makes a line for each proxy of a case. Runs is by round, then by
// proxy, nginx first. A void run takes part in no median, and neither does what
// would be compared with it.
func summarise(c benchCase, runs [][]run) []result {
	var out []result
	for i, p := range c.peers {
		r := result{Case: c.name, Proxy: p.name, Workers: c.workers}
		var cpu []float64
		for _, round := range runs {
			r.Errors += round[i].failed
			if round[i].failed == 0 {
				cpu = append(cpu, round[i].cpu)
			}
		}
		ratios := within(runs, 0, i)
		if r.Rounds = len(ratios); r.Rounds > 0 {
			r.CPU, r.Ratio = median(cpu), median(ratios)
			r.Spread = fmt.Sprintf("%.2f..%.2f", slices.Min(ratios), slices.Max(ratios))
		}
		out = append(out, r)
	}
	return out
}

// within answers what proxy b cost of what a did, in each round that is good for both.
func within(runs [][]run, a, b int) (ratios []float64) {
	for _, round := range runs {
		if round[a].failed == 0 && round[b].failed == 0 && round[a].cpu > 0 {
			ratios = append(ratios, round[b].cpu/round[a].cpu)
		}
	}
	return ratios
}

func median(list []float64) float64 {
	s := slices.Sorted(slices.Values(list))
	n := len(s)
	if n%2 == 1 {
		return s[n/2]
	}
	return (s[n/2-1] + s[n/2]) / 2
}
