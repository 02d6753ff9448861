package ocsp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/keyway-edge/keyway/certs"
)

// What responders said is kept in the state that replicas share, so that a node that
// starts shows staples at once, also while responders are away. Answers are kept in
// some thousand groups by fingerprint: a group that is written loses what has ended,
// which is all the cleaning that is needed.

// groupOf is the key of a fingerprint's group.
func groupOf(fingerprint string) string { return "ocsp/" + fingerprint[:min(3, len(fingerprint))] }

// keptAnswer is one answer in its group.
type keptAnswer struct {
	DER   []byte    `json:"der"`
	Until time.Time `json:"until"`
}

func (s *Stapler) group(ctx context.Context, fingerprint string) (map[string]keptAnswer, string, error) {
	all := map[string]keptAnswer{}
	value, version, err := s.state.Load(ctx, groupOf(fingerprint))
	if errors.Is(err, certs.ErrNoState) {
		return all, "", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("reading kept answers: %w", err)
	}
	if json.Unmarshal(value, &all) != nil || all == nil {
		all = map[string]keptAnswer{} // answers can be had again
	}
	return all, version, nil
}

// recall answers what was kept of a certificate, verified like any answer; false
// when there is nothing that is good for now.
func (s *Stapler) recall(ctx context.Context, b *certs.Bundle) (answer, bool) {
	if s.state == nil {
		return answer{}, false
	}
	wait, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	all, _, err := s.group(wait, b.Fingerprint)
	if err != nil {
		return answer{}, false
	}
	leaf, issuer, err := b.Parents()
	if err != nil {
		return answer{}, false
	}
	a, err := read(all[b.Fingerprint].DER, leaf, issuer, time.Now())
	return a, err == nil
}

// keep keeps an answer. That it may fail is no loss to this node.
func (s *Stapler) keep(ctx context.Context, b *certs.Bundle, a answer) {
	if s.state == nil {
		return
	}
	wait, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	for range 3 { // others write too
		all, version, err := s.group(wait, b.Fingerprint)
		if err != nil {
			return
		}
		now := time.Now()
		for fingerprint, k := range all {
			if !k.Until.After(now) {
				delete(all, fingerprint)
			}
		}
		all[b.Fingerprint] = keptAnswer{a.der, a.until}
		text, err := json.Marshal(all)
		if err != nil {
			return
		}
		if _, err = s.state.Swap(wait, groupOf(b.Fingerprint), version, text); !errors.Is(err, certs.ErrConflict) {
			return
		}
	}
}
