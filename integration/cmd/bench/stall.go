package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// stallCase is its name among the cases: it is run alone, and needs no other proxy
// and no file of results.
const stallCase = "stall-rebuild"

const (
	stallRoutes  = 10_000
	stallChanges = 100
	stallEvery   = 250 * time.Millisecond // a change; the node waits 50 ms for more of them
	stallConns   = 32
)

// stall measures what rebuilds cost the requests that come meanwhile, and the CPU
// time of the node for each. HTTPS requests are sent at a constant rate, half of
// what the node can do, whether or not earlier ones were answered: latency counts
// from when a request was due. Rounds with and without changes of one route among
// 10,000 take turns.
func stall(ctx context.Context, keyway string, rounds int) error {
	abs, err := filepath.Abs(keyway)
	if err != nil {
		return fmt.Errorf("finding the binary: %w", err)
	}
	dir, err := os.MkdirTemp("", "keyway-stall")
	if err != nil {
		return fmt.Errorf("making a folder: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.Chmod(dir, 0o755); err != nil { // the origin is nobody's
		return fmt.Errorf("making a folder: %w", err)
	}
	l := &lab{dir: dir, keyway: abs, configs: "integration/bench"}
	cert, key, err := selfSigned("bench.example.com")
	if err != nil {
		return err
	}
	for name, data := range map[string]string{"cert.pem": cert, "key.pem": key, "both.pem": cert + key} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644); err != nil {
			return fmt.Errorf("writing a file: %w", err)
		}
	}
	origin, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("opening the origin: %w", err)
	}
	defer func() { _ = origin.Close() }()
	go func() {
		body := []byte(strings.Repeat("a", 1024))
		_ = http.Serve(origin, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) }))
	}()
	path := filepath.Join(l.dir, "stall.yaml")
	text := strings.Replace(document(stallRoutes, false), fmt.Sprintf("http://127.0.0.1:%d\n", backendPort), "http://"+origin.Addr().String()+"\n", 1)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return fmt.Errorf("writing a document: %w", err)
	}
	for _, workers := range []int{1, 2} {
		p := l.keywayPeer("keyway-stall", l.keyway, serving{document: path, curves: "X25519", port: keywayPort + 170})
		if err := stallOne(ctx, p, workers, rounds, path, text); err != nil {
			return err
		}
	}
	return nil
}

func stallOne(ctx context.Context, p *peer, workers, rounds int, path, text string) error {
	defer p.down()
	if err := p.up(ctx, workers); err != nil {
		return err
	}
	if err := ready(ctx, p.port+2); err != nil {
		return err
	}
	if workers == 1 { // the load and the origin have the other CPU
		if err := ownCPU("1"); err != nil {
			return err
		}
		defer func() { _ = ownCPU("0,1") }()
	}
	whole, err := build(p)
	if err != nil {
		return err
	}
	fmt.Printf("stall-rebuild, workers %d: first snapshot built in %s s, %s of CPU with start and reading\n", workers, whole.seconds, whole.cpu)
	c := &changer{p: p, path: path, text: text}
	cpu, err := c.quiet(ctx)
	if err != nil {
		return err
	}
	seconds, err := metric(p.port+2, "keyway_snapshot_build_seconds")
	if err != nil {
		return err
	}
	fmt.Printf("stall-rebuild, workers %d: a change of one of %d routes costs the process %s of CPU (%d changes, no traffic; build alone %s s)\n", workers, stallRoutes, cpu.Round(10*time.Microsecond), stallChanges, seconds)
	most := newSender(p.tls(), 0).run(3 * time.Second)
	rate := float64(len(most.took)) / 3 / 2
	for round := range rounds {
		for _, changes := range []bool{round%2 == 0, round%2 == 1} {
			pace := newSender(p.tls(), rate)
			stop, end := context.WithCancel(ctx)
			done := make(chan error, 1)
			if changes {
				go func() { done <- c.run(stop, stallChanges, stallEvery) }()
			}
			s := pace.run(stallChanges * stallEvery)
			end()
			note := "no changes "
			if changes {
				if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
					return err
				}
				note = fmt.Sprintf("%d changes", c.made)
			}
			fmt.Printf("stall-rebuild, workers %d, round %d, %s: %.0f/s, %s\n", workers, round+1, note, rate, s)
		}
	}
	return nil
}

// ownCPU puts all threads of this process on CPUs.
func ownCPU(list string) error {
	if out, err := exec.Command("taskset", "-acp", list, strconv.Itoa(os.Getpid())).CombinedOutput(); err != nil {
		return fmt.Errorf("choosing a CPU: %w: %s", err, out)
	}
	return nil
}

// changer changes one route of the document over and over.
type changer struct {
	p          *peer
	path, text string
	made, all  int
}

// run makes n changes and waits for the last one to be in force.
func (c *changer) run(ctx context.Context, n int, every time.Duration) error {
	turn := time.NewTicker(every)
	defer turn.Stop()
	for c.made = 0; c.made < n; c.made++ {
		c.all++
		// Each time another route, and what was changed before is as it was.
		old := fmt.Sprintf("[/app%d/v1]", c.all*37%(stallRoutes-1))
		next := strings.Replace(c.text, old, "[/changed]", 1)
		if err := os.WriteFile(c.path+".new", []byte(next), 0o600); err != nil {
			return fmt.Errorf("writing a document: %w", err)
		}
		if err := os.Rename(c.path+".new", c.path); err != nil {
			return fmt.Errorf("replacing the document: %w", err)
		}
		select {
		case <-turn.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// quiet answers the CPU time of the node for one change, without traffic.
func (c *changer) quiet(ctx context.Context) (time.Duration, error) {
	idle, err := c.spent(func() error { time.Sleep(stallChanges * stallEvery); return nil })
	if err != nil {
		return 0, err
	}
	before, err := metric(c.p.port+2, "keyway_snapshot_generation")
	if err != nil {
		return 0, err
	}
	busy, err := c.spent(func() error { return c.run(ctx, stallChanges, stallEvery) })
	if err != nil {
		return 0, err
	}
	after, err := metric(c.p.port+2, "keyway_snapshot_generation")
	if err != nil {
		return 0, err
	}
	a, errA := strconv.ParseFloat(before, 64)
	b, errB := strconv.ParseFloat(after, 64)
	if err := errors.Join(errA, errB); err != nil {
		return 0, fmt.Errorf("reading the generation: %w", err)
	}
	if b-a < stallChanges*0.9 {
		return 0, fmt.Errorf("of %d changes %.0f were published", stallChanges, b-a)
	}
	return time.Duration(float64(busy-idle) / (b - a)), nil
}

// spent is the CPU time of the node while f runs.
func (c *changer) spent(f func() error) (time.Duration, error) {
	before, err := c.p.cpuTime()
	if err != nil {
		return 0, err
	}
	if err := f(); err != nil {
		return 0, err
	}
	after, err := c.p.cpuTime()
	if err != nil {
		return 0, err
	}
	return after.since(before)
}

// sender sends requests at a constant rate over kept connections, or, at rate 0, as
// fast as they are answered.
type sender struct {
	port  int
	rate  float64
	next  atomic.Int64
	mu    sync.Mutex // guards took and failed
	taken answers
}

// answers is what came of a run.
type answers struct {
	took   []time.Duration
	failed int
}

func newSender(port int, rate float64) *sender { return &sender{port: port, rate: rate} }

// run sends for so long.
func (p *sender) run(length time.Duration) answers {
	var all sync.WaitGroup
	began := time.Now()
	for range stallConns {
		all.Go(func() {
			took, failed := p.worker(began, length)
			p.mu.Lock()
			defer p.mu.Unlock()
			p.taken.took, p.taken.failed = append(p.taken.took, took...), p.taken.failed+failed
		})
	}
	all.Wait()
	slices.Sort(p.taken.took)
	return p.taken
}

// worker takes the next request that is due, over and over.
func (p *sender) worker(began time.Time, length time.Duration) (took []time.Duration, failed int) {
	c, err := tls.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(p.port)), &tls.Config{
		ServerName: "bench.example.com", InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}, CurvePreferences: []tls.CurveID{tls.X25519},
	})
	if err != nil {
		return nil, 1
	}
	defer func() { _ = c.Close() }()
	from := bufio.NewReader(c)
	for {
		due := time.Now()
		if p.rate > 0 {
			due = began.Add(time.Duration(float64(p.next.Add(1)) / p.rate * float64(time.Second)))
			time.Sleep(time.Until(due))
		}
		if due.Sub(began) >= length {
			return took, failed
		}
		if err := ask(c, from); err != nil {
			return took, failed + 1
		}
		took = append(took, time.Since(due))
	}
}

// ask makes one request over a kept connection.
func ask(c net.Conn, from *bufio.Reader) error {
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, "GET /1k HTTP/1.1\r\nHost: bench.example.com\r\n\r\n"); err != nil {
		return fmt.Errorf("sending: %w", err)
	}
	resp, err := http.ReadResponse(from, nil)
	if err != nil {
		return fmt.Errorf("reading: %w", err)
	}
	n, err := io.Copy(io.Discard, resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || n != 1024 {
		return fmt.Errorf("the answer is %d with %d bytes: %w", resp.StatusCode, n, err)
	}
	return nil
}

// String is the percentiles in milliseconds.
func (s answers) String() string {
	if len(s.took) == 0 {
		return "nothing was answered"
	}
	at := func(q float64) float64 {
		return float64(s.took[min(int(q*float64(len(s.took))), len(s.took)-1)].Microseconds()) / 1000
	}
	return fmt.Sprintf("%d answered, %d connections failed, p50 %.2f p99 %.2f p99.9 %.2f max %.2f ms", len(s.took), s.failed, at(0.5), at(0.99), at(0.999), at(1))
}
