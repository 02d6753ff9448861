package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keyway-edge/keyway/edge/control"
	"github.com/keyway-edge/keyway/secrets"
)

// actWait is how long an action may wait for sources.
const actWait = 20 * time.Second

// actions are what commands can ask a node to do. Each answers once it is done.
func (n *node) actions() map[string]func(context.Context, control.Action) (any, error) {
	return map[string]func(context.Context, control.Action) (any, error){
		"secrets.pin":       n.pin,
		"secrets.unpin":     n.unpin,
		"secrets.check":     n.checkSecret,
		"credentials.uses":  n.uses,
		"certs.rollback":    n.rollBack,
		"certs.check":       n.checkCert,
		"certs.renew":       n.renew,
		"certs.ech":         n.echConfig,
		"certs.rotate-keys": n.rotateKeys,
		"certs.revoke":      n.revoke,
	}
}

// Act does what a command asks for.
func (c *controlled) Act(ctx context.Context, a control.Action) (any, error) {
	n := (*node)(c)
	if a.Do == "upgrade" { // has bounds of its own, and goes on when nobody waits any more
		return n.upgrade(a.Actor)
	}
	do := n.actions()[a.Do]
	if do == nil {
		return nil, control.ErrUnknownAction
	}
	ctx, cancel := context.WithTimeout(ctx, actWait)
	defer cancel()
	return do(ctx, a)
}

// did notes an administrator's action in the ledger.
func (n *node) did(a control.Action, result, reason string, version int) {
	n.event(secrets.Event{Kind: "admin", Subject: a.Name, Result: result, Reason: reason, Actor: a.Actor, NewVersion: version})
}

func (n *node) pin(ctx context.Context, a control.Action) (any, error) {
	if err := n.broker.Pin(ctx, a.Name, a.Version); err != nil {
		return nil, err
	}
	n.did(a, "pin", a.Reason, a.Version)
	return n.settled(ctx, a.Name)
}

func (n *node) unpin(ctx context.Context, a control.Action) (any, error) {
	if err := n.broker.Unpin(ctx, a.Name); err != nil {
		return nil, err
	}
	n.did(a, "unpin", a.Reason, 0)
	return n.settled(ctx, a.Name)
}

// settled waits until the snapshot in force has what the broker has of a reference.
func (n *node) settled(ctx context.Context, ref string) (any, error) {
	r, err := secrets.ParseRef(ref)
	if err != nil {
		return nil, err
	}
	c := n.broker.Current().Get(r)
	if c == nil {
		return nil, fmt.Errorf("reference %s: %w", ref, secrets.ErrUnknownRef)
	}
	ok := n.publisher.Await(ctx, func(s *edgeSnapshot) bool {
		x := s.Set.Get(r)
		return x != nil && x.Version == c.Version && x.Pinned == c.Pinned
	})
	if !ok {
		return nil, errors.New("it is done, but no snapshot with it was published yet; look at `keyway status`")
	}
	return factsOfSecret(c), nil
}

// checkFacts is the answer of a dry run.
type checkFacts struct {
	Good    bool          `json:"good"`
	Reason  string        `json:"reason,omitempty"`
	Changed bool          `json:"changed"`
	Version string        `json:"source_version,omitempty"`
	TTL     time.Duration `json:"ttl_ns,omitempty"`
	Renews  bool          `json:"renewable,omitempty"`
	End     time.Time     `json:"not_after,omitzero"`
	Origin  string        `json:"origin,omitempty"`
	Took    time.Duration `json:"took_ns"`
}

func (n *node) checkSecret(ctx context.Context, a control.Action) (any, error) {
	c, err := n.broker.Check(ctx, a.Name)
	if err != nil {
		return nil, err
	}
	f := checkFacts{Good: c.Err == nil, Changed: c.Changed, Version: c.Version, TTL: c.TTL, Renews: c.Renewable, End: c.NotAfter, Origin: c.Origin, Took: c.Took}
	if c.Err != nil {
		f.Reason = c.Err.Error()
	}
	return f, nil
}
