package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// stallCase is its name: it is run alone, and needs no other proxy and no file of
// results.
const stallCase = "stall-rebuild"

const (
	stallRoutes  = 10_000
	stallChanges = 100
	stallEvery   = 250 * time.Millisecond // a change; the node waits 50 ms for more of them
)

// stall measures what rebuilds cost the requests that come meanwhile, and the CPU
// time of the node for each. HTTPS requests are sent at a constant rate, half of
// what the node can do, whether or not earlier ones were answered: latency counts
// from when a request was due. Rounds with and without changes of one route among
// 10,000 take turns. Each document is made and written before: a change is a rename.
func (l *lab) stall(ctx context.Context, rounds int) error {
	folder := filepath.Join(l.dir, "stall")
	c := &changer{origin: l.origin, path: filepath.Join(folder, "stall.yaml"), next: filepath.Join(l.dir, "next")}
	for _, dir := range []string{folder, c.next} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return fmt.Errorf("making a folder: %w", err)
		}
	}
	text := document(stallRoutes, false)
	for i := range stallChanges {
		next := strings.Replace(text, fmt.Sprintf("[/app%d/v1]", i*37%(stallRoutes-1)), "[/changed]", 1)
		if err := os.WriteFile(c.file(i), []byte(next), 0o600); err != nil {
			return fmt.Errorf("writing a document: %w", err)
		}
	}
	if err := os.WriteFile(c.path, []byte(text), 0o600); err != nil {
		return fmt.Errorf("writing a document: %w", err)
	}
	for _, workers := range []int{1, 2} {
		c.p = l.keywayPeer("keyway-stall", l.keyway, serving{document: c.path, curves: "X25519", port: keywayPort + 170})
		if err := c.measure(ctx, workers, rounds); err != nil {
			return err
		}
	}
	return nil
}

// measure prints the figures of one node.
func (c *changer) measure(ctx context.Context, workers, rounds int) error {
	defer c.p.down()
	if err := c.p.up(ctx, workers); err != nil {
		return err
	}
	if err := ready(ctx, c.p.port+2); err != nil {
		return err
	}
	whole, err := build(c.p)
	if err != nil {
		return err
	}
	fmt.Printf("%s, workers %d: first snapshot built in %s s, %s of CPU with start and reading\n", stallCase, workers, whole.seconds, whole.cpu)
	cpu, err := c.quiet(ctx)
	if err != nil {
		return err
	}
	seconds, err := metric(c.p.port+2, "keyway_snapshot_build_seconds")
	if err != nil {
		return err
	}
	fmt.Printf("%s, workers %d: a change of one of %d routes costs the process %s of CPU (%d changes, no traffic; build alone %s s)\n", stallCase, workers, stallRoutes, cpu.Round(10*time.Microsecond), stallChanges, seconds)
	same := &pace{kind: "h1", origin: c.origin.down, rates: map[string]float64{}}
	if err := same.saturate(ctx, benchCase{name: stallCase, workers: workers, peers: []*peer{c.p}}); err != nil {
		return err
	}
	for round := range rounds {
		for _, changes := range []bool{round%2 == 0, round%2 == 1} {
			if err := c.round(ctx, same, round, changes); err != nil {
				return err
			}
		}
	}
	return nil
}

// round keeps the rate for as long as all changes take.
func (c *changer) round(ctx context.Context, at *pace, number int, changes bool) error {
	stop, end := context.WithCancel(ctx)
	done := make(chan error, 1)
	c.made = 0
	go func() {
		if !changes {
			done <- nil
			return
		}
		done <- c.run(stop, stallChanges, stallEvery)
	}()
	r, err := at.load(ctx, c.p, int((stallChanges * stallEvery).Milliseconds()))
	end()
	if changed := <-done; changed != nil && !errors.Is(changed, context.Canceled) {
		return changed
	}
	if err != nil {
		return err
	}
	fmt.Printf("%s, workers %d, round %d, %3d changes: %.0f/s, %d answered, %d failed, p50 %.2f p99 %.2f p99.9 %.2f ms, generator late by %.2f ms (p99), %.1f %% counted\n",
		stallCase, c.p.workers, number+1, c.made, r.Rate, r.Requests, r.Failed, r.P50/1000, r.P99/1000, r.P999/1000, r.Late/1000, r.Counted*100)
	return nil
}

// changer changes one route of the document over and over.
type changer struct {
	p, origin *peer
	path      string // of the document
	next      string // folder of those that come
	made, all int
}

func (c *changer) file(i int) string { return filepath.Join(c.next, strconv.Itoa(i)) }

// run makes n changes, each time of another route: what was changed before is as it was.
func (c *changer) run(ctx context.Context, n int, every time.Duration) error {
	turn := time.NewTicker(every)
	defer turn.Stop()
	for c.made = 0; c.made < n; c.made++ {
		c.all++
		if err := os.Link(c.file(c.all%stallChanges), c.path+".new"); err != nil {
			return fmt.Errorf("taking a document: %w", err)
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
