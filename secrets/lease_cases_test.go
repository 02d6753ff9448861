package secrets_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyway-edge/keyway/secrets"
	"github.com/keyway-edge/keyway/secrets/secrettest"
)

// fixedLeases is a source of leases that nobody can extend, each with a hard end.
type fixedLeases struct {
	*secrettest.Source
	made    []time.Time
	renewed int
	revoked int
}

func (s *fixedLeases) Fetch(ctx context.Context, r secrets.Request) (secrets.Lease, error) {
	l, err := s.Source.Fetch(ctx, r)
	if err == nil {
		s.made = append(s.made, time.Now())
		l.ID, l.TTL, l.NotAfter = fmt.Sprintf("lease-%d", len(s.made)), time.Hour, time.Now().Add(time.Hour)
		l.Value = secrets.NewValue([]byte("value of " + l.ID))
	}
	return l, err
}

func (s *fixedLeases) Renew(context.Context, secrets.Lease) (secrets.Lease, error) {
	s.renewed++
	return secrets.Lease{}, errors.New("lease is not renewable")
}

func (s *fixedLeases) Revoke(context.Context, secrets.Lease) error {
	s.revoked++
	return nil
}

// TestLeaseThatCannotBeRenewedIsFetchedAnew is case S-07: a successor at two thirds,
// give or take a tenth, and never a call to renew.
func TestLeaseThatCannotBeRenewedIsFetchedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fixedLeases{Source: secrettest.New(t)}
		b := bench{start(t, config(s)), t, s.Source}
		s.Put("key", "x")
		b.Resolve(t.Context(), plan(key))
		for end := time.Now().Add(24 * time.Hour); time.Now().Before(end); time.Sleep(time.Minute) {
			if c := b.get(key); c.State != secrets.Active || !time.Now().Before(c.NotAfter) {
				t.Fatalf("%s until %v (%s)", c.State, c.NotAfter, c.Reason)
			}
		}
		for i := 1; i < len(s.made); i++ {
			if gap := s.made[i].Sub(s.made[i-1]); gap < 35*time.Minute || gap > 45*time.Minute {
				t.Errorf("lease %d came %s after the one before, want about 40m", i+1, gap)
			}
		}
		if len(s.made) < 30 || s.renewed > 0 {
			t.Errorf("%d leases in a day, %d calls to renew; expected about 36 and none", len(s.made), s.renewed)
		}
		if n := len(s.made) - 2; s.revoked < n {
			t.Errorf("%d of %d replaced leases were given back", s.revoked, n)
		}
	})
}

// TestSpreadOfTheBackoff is the jitter of case S-01: the waits between two looks at a
// source that is away grow from a second to a minute, and differ by a fifth and more,
// so that nodes which lost it at one moment do not ask together.
func TestSpreadOfTheBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := secrettest.New(t)
		b := bench{start(t, config(s)), t, s}
		s.Put("key", "good")
		b.Resolve(t.Context(), plan(key))
		s.Fail(fmt.Errorf("sealed: %w", secrets.ErrUnavailable))
		var gaps []time.Duration
		seen, last := s.Fetches("key"), time.Time{}
		for end := time.Now().Add(2 * time.Hour); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			synctest.Wait()
			n := s.Fetches("key")
			if n == seen {
				continue
			}
			if n > seen+1 {
				t.Fatalf("%d looks at one moment", n-seen)
			}
			if seen = n; !last.IsZero() {
				gaps = append(gaps, time.Since(last))
			}
			last = time.Now()
		}
		if len(gaps) < 100 || len(gaps) > 400 {
			t.Fatalf("%d looks in two hours; expected one each half minute or so", len(gaps)+1)
		}
		if early := slices.Max(gaps[:3]); early > 10*time.Second {
			t.Errorf("the first looks were up to %s apart", early)
		}
		if least, most := slices.Min(gaps[10:]), slices.Max(gaps[10:]); most > 61*time.Second || least < 900*time.Millisecond || most-least < most/5 {
			t.Errorf("waits between %s and %s; expected between a second and a minute, and a fifth between them", least, most)
		}
		b.expect(key, secrets.Stale, 1, "good")
	})
}

// oneLease is a source that answers one lease to all who ask.
type oneLease struct{ *fixedLeases }

func (s oneLease) Fetch(ctx context.Context, r secrets.Request) (secrets.Lease, error) {
	l, err := s.Source.Fetch(ctx, r)
	if r.Resource == "other" {
		return l, err
	}
	l.ID, l.TTL, l.NotAfter = "the-lease", time.Hour, time.Now().Add(time.Hour)
	return l, err
}

// TestLeaseThatIsWantedAgainIsNotRevoked: a reference that left and came back within
// its overlap, to the lease it had, keeps that lease.
func TestLeaseThatIsWantedAgainIsNotRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := oneLease{&fixedLeases{Source: secrettest.New(t)}}
		b := bench{start(t, config(s)), t, s.Source}
		s.Put("key", "x")
		s.Put("other", "x") // keeps the vault open
		const other = "{vault://fake/other}"
		b.Resolve(t.Context(), plan(key, other))
		b.Resolve(t.Context(), plan(other))
		time.Sleep(10 * time.Second)
		b.Resolve(t.Context(), plan(key, other))
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if s.revoked > 0 {
			t.Error("the lease in use was revoked")
		}
		b.expect(key, secrets.Active, 1, "x")
		b.Resolve(t.Context(), plan(other))
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if s.revoked != 1 {
			t.Errorf("%d revocations after its release; expected one", s.revoked)
		}
	})
}
