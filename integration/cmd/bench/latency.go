package main

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// half is the share of its saturation that a proxy is loaded with for latency: of what it
// answers at most, or of its processor's time if that is less.
const half = 0.5

// latencies lists the cases of latency. The generator is the origin too, and each case has
// it among its peers, asked by itself in clear: what generator and machine add to every figure.
func (l *lab) latencies(bare []*peer) (list []benchCase) {
	origin := &peer{name: "origin alone", port: backendPort, fixed: true}
	for _, kind := range []struct{ name, client string }{{"h1-tls-1k-latency", "h1"}, {"h2-tls-1k-latency", "h2"}, {"h1-plain-1k-latency", "plain"}} {
		same := &pace{kind: kind.client, origin: func() { l.origin.down() }, rates: map[string]float64{}}
		list = append(list, benchCase{
			name: kind.name, workers: 1, n: 3000, load: same.load, peers: append(bare[:len(bare):len(bare)], origin),
			aim: 1.1, latency: true, prepare: same.saturate,
		})
		if kind.client == "plain" {
			continue
		}
		each := &pace{kind: kind.client, origin: func() { l.origin.down() }, own: true, rates: map[string]float64{}}
		list = append(list, benchCase{
			name: kind.name + "-own-rate", workers: 1, n: 3000, load: each.load, peers: bare,
			latency: true, slow: true, prepare: each.saturate,
		})
	}
	return list
}

// pace is a constant rate, found in the run itself.
type pace struct {
	kind   string             // of the client
	own    bool               // each proxy at half of its own saturation; all at half of nginx's otherwise
	origin func()             // ends the origin, whose port the generator takes
	rates  map[string]float64 // by proxy
}

// saturate finds the rates. The limit is what a proxy answers when the generator sends the
// next request on each of its connections as soon as it has the answer, the most of three times.
func (s *pace) saturate(ctx context.Context, c benchCase) error {
	const requests, times = 20000, 3
	s.origin()
	for i, p := range c.peers {
		if i > 0 && !s.own {
			s.rates[p.name] = s.rates[c.peers[0].name]
			continue
		}
		most := 0.0
		for range times {
			r, err := client(ctx, p, s.args(p, requests, 0)...)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			if r.Failed > 0 {
				return fmt.Errorf("%s at its limit has failed %d of %d requests", p.name, r.Failed, requests)
			}
			most = max(most, r.Rate)
		}
		busy, err := s.busy(ctx, p, most*half)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		s.rates[p.name] = most * half * min(1, half/busy)
		fmt.Printf("%s: %s answers at most %.0f requests a second, and is busy for %.0f %% of the time with half as many; the rate is %.0f\n", c.name, p.name, most, busy*100, s.rates[p.name])
	}
	return nil
}

// busy is the share of its processor that a proxy takes at a rate: requests that come one at
// a time cost it more than those that come together at its limit.
func (s *pace) busy(ctx context.Context, p *peer, rate float64) (float64, error) {
	r, err := once(ctx, benchCase{load: func(ctx context.Context, p *peer, n int) (run, error) { return client(ctx, p, s.args(p, n, rate)...) }}, p, max(int(rate), 1))
	if err != nil {
		return 0, err
	}
	return r.CPU / float64(time.Second/time.Microsecond) * rate / float64(max(p.workers, 1)), nil
}

func (s *pace) args(p *peer, n int, rate float64) []string {
	kind, port := s.kind, p.tls()
	switch {
	case p.fixed:
		kind = "plain"
	case kind == "plain":
		port = p.plain()
	}
	return []string{
		"-client", kind, "-n", strconv.Itoa(n), "-rate", strconv.FormatFloat(rate, 'f', 1, 64),
		"-origin", fmt.Sprintf("127.0.0.1:%d", backendPort), fmt.Sprintf("127.0.0.1:%d", port),
	}
}

// load keeps the rate for so many milliseconds.
func (s *pace) load(ctx context.Context, p *peer, milliseconds int) (run, error) {
	rate := s.rates[p.name]
	r, err := client(ctx, p, s.args(p, max(int(rate*float64(milliseconds)/1000), 1), rate)...)
	if err != nil || s.kind == "plain" || p.fixed {
		return r, err
	}
	return r, r.agreed(sameTLS)
}
