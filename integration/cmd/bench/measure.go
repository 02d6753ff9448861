package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// load puts so much on a peer, and answers what came of it, without the CPU time.
type load func(ctx context.Context, p *peer, n int) (run, error)

// run is one proxy in one round.
type run struct {
	CPU      float64 `json:"cpu_us_per_request"`
	Requests int     `json:"requests"`
	Failed   int     `json:"failed"` // requests; one makes the run void
	Rate     float64 `json:"requests_per_second"`
	Resumed  int     `json:"resumed,omitempty"` // connections
	TLS      string  `json:"tls,omitempty"`     // what was agreed on
	Counted  float64 `json:"counted,omitempty"` // share of the requests that no stop of a CPU touched: latencies are theirs
	P50      float64 `json:"p50_us,omitempty"`  // from when a request was due
	P99      float64 `json:"p99_us,omitempty"`
	P999     float64 `json:"p999_us,omitempty"`
	Late     float64 `json:"generator_late_p99_us,omitempty"` // what the generator added by itself
}

// benchCase is one thing that is measured on several proxies.
type benchCase struct {
	name    string
	workers int
	n       int // requests, or milliseconds of load at a constant rate
	load    load
	peers   []*peer // the first one is nginx, what the others are compared with
	aim     float64 // the most that Keyway's ratio should be; 0 for none
	slow    bool    // left out of a quick run
	latency bool    // p99 is compared, not CPU time

	prepare func(ctx context.Context, c benchCase) error           // before the first load, the peers are up; may be nil
	settle  func(ctx context.Context, p *peer, requests int) error // after each load; may be nil
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

// of is what the case compares.
func (c benchCase) of() func(run) float64 {
	if c.latency {
		return p99
	}
	return cpu
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
	}
	if c.prepare != nil {
		if err := c.prepare(ctx, c); err != nil {
			return nil, fmt.Errorf("%s: %w", c.label(), err)
		}
	}
	for _, p := range c.peers { // warm
		if _, err := once(ctx, c, p, max(n/10, 64)); err != nil {
			return nil, fmt.Errorf("%s: %w", c.label(), err)
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
				return nil, fmt.Errorf("%s: %w", c.label(), err)
			}
			runs[i][k] = r
		}
	}
	return runs, nil
}

// once loads a peer and reads its clocks before and after.
func once(ctx context.Context, c benchCase, p *peer, n int) (run, error) {
	before, err := p.cpuTime()
	if err != nil {
		return run{}, fmt.Errorf("%s: %w", p.name, err)
	}
	r, err := c.load(ctx, p, n)
	if err != nil {
		return run{}, fmt.Errorf("%s: %w", p.name, err)
	}
	after, err := p.cpuTime()
	if err != nil {
		return run{}, fmt.Errorf("%s: %w", p.name, err)
	}
	used, err := after.since(before)
	if err != nil {
		return run{}, fmt.Errorf("%s: %w", p.name, err)
	}
	r.CPU = float64(used) / float64(time.Microsecond) / float64(r.Requests)
	if c.settle != nil && r.Failed == 0 {
		if err := c.settle(ctx, p, r.Requests); err != nil {
			return run{}, fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return r, nil
}
