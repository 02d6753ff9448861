package rulings

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/keyway-edge/keyway/certs"
)

const (
	sharedKey  = "tls/revoked"   // in the shared state
	sharePoll  = 5 * time.Second // how soon a replica learns of the others' revocations
	shareSlow  = time.Minute     // how often one that cannot read the state tries again, at least
	shareTries = 5               // of one exchange, while others write too
)

// Run keeps the revocations of this node and of those that share state in step until
// ctx ends: a certificate that one of them revoked serves at none of them. What was
// rolled back is each node's own. changed is called when another node's revocation
// was learned, and must not block.
func (s *Store) Run(ctx context.Context, state certs.SharedState, changed func(), log *slog.Logger) error {
	for failures := 0; ; {
		err := s.Sync(ctx, state)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			if failures++; failures == 1 {
				log.Warn("revocations of certificates are this node's alone until the shared state answers", slog.Any("error", err))
			}
		case failures > 0:
			log.Info("revocations of certificates are shared again")
			failures = 0
		}
		wait := sharePoll
		if failures > 0 {
			wait = min(time.Second<<min(failures, 10), shareSlow)
		}
		timer := time.NewTimer(wait - rand.N(wait/5))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-s.learned:
			changed()
			timer.Stop()
		case <-s.revoked:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// Sync learns what others revoked, and tells them what this node did.
func (s *Store) Sync(ctx context.Context, state certs.SharedState) error {
	var err error
	for range shareTries {
		if err = s.exchange(ctx, state); !errors.Is(err, certs.ErrConflict) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("sharing revocations of certificates: %w", err)
	}
	return nil
}

// exchange is one read of the state, and one write where there is something to say.
func (s *Store) exchange(ctx context.Context, state certs.SharedState) error {
	value, version, err := state.Load(ctx, sharedKey)
	if err != nil && !errors.Is(err, certs.ErrNoState) {
		return err
	}
	var there file
	if err == nil {
		if there, err = decode(value); err != nil {
			return fmt.Errorf("reading %s: %w", sharedKey, err)
		}
	}
	now := time.Now()
	all := make(map[string]Entry)
	for _, e := range there.Rulings {
		if !e.forgotten(now) {
			all[e.Fingerprint] = e
		}
	}
	known := len(all)
	keepErr := s.learn(all)
	for _, e := range s.List() {
		if _, ok := all[e.Fingerprint]; !ok && e.Check == certs.CheckRevoked && !e.forgotten(now) {
			all[e.Fingerprint] = e
		}
	}
	if len(all) == known && known == len(there.Rulings) {
		return keepErr
	}
	list := slices.SortedFunc(maps.Values(all), func(a, b Entry) int { return strings.Compare(a.Fingerprint, b.Fingerprint) })
	text, err := json.Marshal(file{format, list})
	if err == nil {
		_, err = state.Swap(ctx, sharedKey, version, text)
	}
	return errors.Join(err, keepErr)
}

// decode reads what replicas share. Only revocations are taken.
func decode(text []byte) (file, error) {
	var f file
	if err := json.Unmarshal(text, &f); err != nil {
		return file{}, fmt.Errorf("it is no list of revocations: %w", err)
	}
	if f.Format != format {
		return file{}, fmt.Errorf("it has format %d, expected %d: a newer version of this program wrote it", f.Format, format)
	}
	for _, e := range f.Rulings {
		if e.Check != certs.CheckRevoked || e.Fingerprint == "" {
			return file{}, fmt.Errorf("ruling %q on %q; expected %q on a fingerprint", e.Check, e.Fingerprint, certs.CheckRevoked)
		}
	}
	return f, nil
}

// learn takes the revocations that are new here.
func (s *Store) learn(shared map[string]Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	fresh := false
	for f, e := range shared {
		if s.all[f].Check != certs.CheckRevoked {
			s.all[f] = e
			fresh = true
		}
	}
	if !fresh {
		return nil
	}
	err := s.keep()
	hint(s.learned)
	return err
}

func hint(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
