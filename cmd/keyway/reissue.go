package main

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/secrets"
)

const (
	// reissueAfter is how long whoever revokes has to tell the issuer, before another
	// pair takes the revoked one's place.
	reissueAfter = 10 * time.Second
	reissueAgain = time.Minute // after an issuer that was away
	tellAgain    = 15 * time.Second
)

// reissuer has issuers asked for another pair in place of what was revoked: by the
// issuer itself, by an operator, or at another node.
type reissuer struct {
	offered func(yield func(secrets.Ref, string) bool) // what issuers gave last, with its fingerprint
	revoked func(fingerprint string) bool
	force   func(context.Context, secrets.Ref) error
	tell    func(context.Context) (left int) // tells issuers what they could not be told before
	wake    <-chan struct{}
	log     *slog.Logger
}

// untold is what issuers are still to be told: they were away when an operator revoked
// what they issued.
type untold struct {
	mu   sync.Mutex // guards list
	list []debt
}

type debt struct {
	ref          secrets.Ref
	fingerprints []string
	since        time.Time
}

// tellFor is how long an issuer is tried: the pair is not held for ever.
const tellFor = 24 * time.Hour

func (u *untold) add(ref secrets.Ref, fingerprints []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.list = append(u.list, debt{ref, fingerprints, time.Now()})
}

// tellIssuers tells what is owed and answers how much is left.
func (n *node) tellIssuers(ctx context.Context) int {
	n.untold.mu.Lock()
	list := n.untold.list
	n.untold.list = nil
	n.untold.mu.Unlock()
	var left []debt
	for _, d := range list {
		wait, cancel := context.WithTimeout(ctx, reissueAfter)
		_, err := n.broker.Condemn(wait, d.ref, func(v secrets.Value) bool { return slices.Contains(d.fingerprints, issuedLeaf(v)) })
		cancel()
		switch {
		case err == nil:
			n.log.Info("an issuer was told of a revocation, late", slog.Any("sha256", d.fingerprints))
		case time.Since(d.since) > tellFor:
			n.log.Error("an issuer was never told of a revocation; tell it by hand", slog.Any("sha256", d.fingerprints), slog.Any("error", err))
		default:
			left = append(left, d)
		}
	}
	n.untold.mu.Lock()
	defer n.untold.mu.Unlock()
	n.untold.list = append(n.untold.list, left...)
	return len(n.untold.list)
}

// reissuer is the one of a node.
func (n *node) reissuer() *reissuer {
	return &reissuer{
		offered: n.offeredByIssuers, force: n.broker.Force, tell: n.tellIssuers, wake: n.condemned, log: n.log,
		revoked: func(fingerprint string) bool {
			if r, yes := n.rulings.View()(fingerprint); yes && r.Check == certs.CheckRevoked {
				return true
			}
			if n.stapler == nil {
				return false
			}
			r, yes := n.stapler.Ruling(fingerprint)
			return yes && r.Check == certs.CheckRevoked
		},
	}
}

// offeredByIssuers yields what issuers gave for certificates of the document in force.
func (n *node) offeredByIssuers(yield func(secrets.Ref, string) bool) {
	s := n.publisher.Current()
	if s == nil || len(s.Document.Issuers) == 0 {
		return
	}
	set, pairs := n.broker.Current(), s.Document.Pairs()
	for _, c := range s.Document.Certificates {
		if c.Issuer == "" {
			continue
		}
		cert, _ := pairs(c)
		if x := set.Get(cert.Ref); x != nil && !x.Value.IsZero() && !yield(cert.Ref, firstLeaf(x.Value)) {
			return
		}
	}
}

// Run asks until ctx ends. Each pair is asked about once; an issuer that was away is
// asked again.
func (r *reissuer) Run(ctx context.Context) error {
	seen, asked := map[string]time.Time{}, map[string]bool{}
	timer := time.NewTimer(reissueAgain) // what was revoked before the node began
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		case <-timer.C:
		}
		if wait := r.look(ctx, seen, asked); wait > 0 {
			timer.Reset(wait)
		}
	}
}

// look asks for what is due and answers when to look again, 0 for at the next wake.
func (r *reissuer) look(ctx context.Context, seen map[string]time.Time, asked map[string]bool) time.Duration {
	var wait time.Duration
	sooner := func(d time.Duration) {
		if wait == 0 || d < wait {
			wait = d
		}
	}
	// The authority is told first: a new pair takes the old one's place in the broker.
	if r.tell(ctx) > 0 {
		sooner(tellAgain)
	}
	for ref, fingerprint := range r.offered {
		if asked[fingerprint] || !r.revoked(fingerprint) {
			continue
		}
		if seen[fingerprint].IsZero() {
			seen[fingerprint] = time.Now()
		}
		if left := reissueAfter - time.Since(seen[fingerprint]); left > 0 {
			sooner(left)
			continue
		}
		if err := r.force(ctx, ref); err != nil {
			r.log.Warn("a certificate was revoked, and its issuer gave no other one yet", slog.String("sha256", fingerprint), slog.Any("error", err))
			sooner(reissueAgain)
			continue
		}
		asked[fingerprint] = true
	}
	return wait
}
