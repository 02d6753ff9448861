package secrets_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyway-edge/keyway/secrets"
	"github.com/keyway-edge/keyway/secrets/secrettest"
)

// quick makes every version that fails once fail its trial.
func quick(c *secrets.Config) { c.Trial = secrets.TrialRule{Failures: 1} }

// turn puts a value and has the broker look at it.
func (b bench) turn(resource, value string) {
	b.t.Helper()
	time.Sleep(time.Second)
	b.source.Put(resource, value)
	b.source.Hint()
	time.Sleep(time.Second)
	synctest.Wait()
}

// What was taken away on purpose comes back by a good read alone: neither an
// outage, nor another configuration, nor a failed trial brings it into use again.
func TestWhatWasRemovedStaysRemoved(t *testing.T) {
	gone := fmt.Errorf("reading it: %w", secrets.ErrRemoved)
	for name, trouble := range map[string]func(b bench, trial *secrets.Trial){
		"outage": func(b bench, _ *secrets.Trial) { b.source.Fail(secrets.ErrUnavailable) },
		"denied": func(b bench, _ *secrets.Trial) { b.source.Fail(secrets.ErrDenied) },
		"hangs":  func(b bench, _ *secrets.Trial) { b.source.Delay(time.Hour) },
		"trial":  func(_ bench, trial *secrets.Trial) { trial.Bad() },
		"refused": func(b bench, _ *secrets.Trial) {
			b.source.Fail(nil)
			b.source.Put("key", "")
		},
		"other configuration": func(b bench, _ *secrets.Trial) {
			b.source.Fail(secrets.ErrUnavailable)
			p := plan(key)
			p.Vaults = []secrets.Vault{{Name: "fake", Kind: "fake", Config: map[string]any{"n": 2}}}
			b.Resolve(b.t.Context(), p)
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, quick, func(t *testing.T, b bench, _ *events) {
				b.source.Put("key", "one")
				b.Resolve(t.Context(), plan(key))
				b.turn("key", "two")
				trial := b.expect(key, secrets.Active, 2, "two").Trial
				b.source.Fail(gone)
				b.source.Hint()
				time.Sleep(2 * time.Second)
				b.expect(key, secrets.Missing, 2, "")
				trouble(b, trial)
				for range 30 {
					time.Sleep(time.Minute)
					if c := b.get(key); c.State != secrets.Missing || !c.Value.IsZero() || len(c.Previous) > 0 {
						t.Fatalf("%s with a value: %v, previous %d (%s)", c.State, !c.Value.IsZero(), len(c.Previous), c.Reason)
					}
				}
				b.source.Delay(0)
				b.source.Fail(nil)
				b.source.Put("key", "three")
				time.Sleep(2 * time.Minute)
				b.expect(key, secrets.Active, 3, "three")
			})
		})
	}
}

// A rollback restores the lease before as a whole, though its fields changed at
// different times and one was not wanted yet when it was in use.
func TestRollbackRestoresOneLease(t *testing.T) {
	bubble(t, quick, func(t *testing.T, b bench, told *events) {
		user, word, host := "{vault://fake/pg/user}", "{vault://fake/pg/word}", "{vault://fake/pg/host}"
		b.source.Put("pg", `{"user":"bob","word":"w1","host":"h1"}`)
		b.Resolve(t.Context(), plan(user, word))
		b.turn("pg", `{"user":"ann","word":"w1","host":"h1"}`)
		time.Sleep(2 * time.Minute)
		b.turn("pg", `{"user":"ann","word":"w2","host":"h2"}`)
		b.Resolve(t.Context(), plan(user, word, host))
		b.expect(host, secrets.Active, 1, "h2")
		b.get(word).Trial.Bad()
		b.expect(user, secrets.Refused, 2, "ann")
		b.expect(word, secrets.Refused, 1, "w1")
		b.expect(host, secrets.Refused, 2, "h1")
		if told.count("rolled_back") != 2 {
			t.Errorf("told %s", told.results())
		}
		b.turn("pg", `{"user":"ann","word":"w3","host":"h2"}`)
		b.expect(word, secrets.Active, 3, "w3")
		b.expect(user, secrets.Active, 2, "ann")
	})
}

// What is pinned is not on trial, and does not follow to a version that failed.
func TestRollbackUnderAPin(t *testing.T) {
	bubble(t, quick, func(t *testing.T, b bench, _ *events) {
		user, word := "{vault://fake/pg/user}", "{vault://fake/pg/word}"
		b.source.Put("pg", `{"user":"u1","word":"w1"}`)
		b.Resolve(t.Context(), plan(user, word))
		if err := b.Pin(t.Context(), user, 1); err != nil {
			t.Fatal(err)
		}
		b.turn("pg", `{"user":"u2","word":"w2"}`)
		if c := b.expect(user, secrets.Active, 1, "u1"); c.Trial != nil {
			t.Error("a pinned version is on trial")
		}
		b.get(word).Trial.Bad()
		b.expect(word, secrets.Refused, 1, "w1")
		if err := b.Unpin(t.Context(), user); err != nil {
			t.Fatal(err)
		}
		b.expect(user, secrets.Refused, 1, "u1")
	})
}

// A trial may outlast the overlap; the lease it may go back to is not revoked.
func TestRollbackIsNeverToARevokedLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := secrettest.NewLeasing(t, time.Hour)
		cfg := config(s)
		cfg.RevokeAtStop = true
		quick(&cfg)
		b := bench{start(t, cfg), t, s.Source}
		ref := "{vault://fake/key?overlap=2}"
		s.Put("key", "one")
		b.Resolve(t.Context(), plan(ref))
		time.Sleep(2 * time.Second)
		s.Put("key", "two")
		if err := b.Force(t.Context(), refOf(ref)); err != nil {
			t.Fatal(err)
		}
		c := b.expect(ref, secrets.Active, 2, "two")
		time.Sleep(50 * time.Second)
		if held := s.Held(); len(held) != 2 {
			t.Errorf("%v are held while the trial goes on", held)
		}
		c.Trial.Bad()
		b.expect(ref, secrets.Refused, 1, "one")
		time.Sleep(20 * time.Second)
		if held := s.Held(); !slices.Contains(held, "lease-1") {
			t.Errorf("held are %v; the lease gone back to was revoked", held)
		}
	})
}

// A reference's overlap rules its lease as well as its value.
func TestLeaseLivesAsLongAsItsOverlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := secrettest.NewLeasing(t, time.Hour)
		cfg := config(s)
		cfg.RevokeAtStop = true
		b := bench{start(t, cfg), t, s.Source}
		ref := "{vault://fake/key?overlap=600}"
		s.Put("key", "one")
		b.Resolve(t.Context(), plan(ref))
		s.Put("key", "two")
		if err := b.Force(t.Context(), refOf(ref)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(9 * time.Minute)
		if c := b.expect(ref, secrets.Active, 2, "two"); len(c.Previous) != 1 || len(s.Held()) != 2 {
			t.Errorf("%d values in their overlap, held %v", len(c.Previous), s.Held())
		}
		time.Sleep(2 * time.Minute)
		if c := b.get(ref); len(c.Previous) != 0 || len(s.Held()) != 1 {
			t.Errorf("%d values in their overlap, held %v", len(c.Previous), s.Held())
		}
	})
}

// Who forces a look that cannot be is told so at once.
func TestForceOfWhatCannotBeLookedAt(t *testing.T) {
	soon := func(t *testing.T, b bench, ref string, want error) {
		t.Helper()
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := b.Force(ctx, refOf(ref)); !errors.Is(err, want) {
			t.Errorf("forcing %s: %v; expected %v", ref, err, want)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("the answer took %v", took)
		}
	}
	t.Run("source away", func(t *testing.T) {
		bubble(t, nil, func(t *testing.T, b bench, _ *events) {
			other := "{vault://fake/other?ttl=3600}"
			b.source.Put("key", "one")
			b.source.Put("other", "two")
			b.Resolve(t.Context(), plan(key, other))
			time.Sleep(10 * time.Second)
			b.source.Fail(secrets.ErrUnavailable)
			time.Sleep(2 * time.Minute)
			before := b.source.Fetches("other")
			for range 20 { // one of them may be the probe, and each is told
				soon(t, b, other, secrets.ErrUnavailable)
				soon(t, b, key, secrets.ErrUnavailable)
			}
			if n := b.source.Fetches("other") - before; n > 1 {
				t.Errorf("%d forced looks at a source that is away", n)
			}
			b.expect(other, secrets.Stale, 1, "two")
		})
	})
	t.Run("queued when the source goes away", func(t *testing.T) {
		bubble(t, nil, func(t *testing.T, b bench, _ *events) {
			refs := []string{"{vault://fake/a}", "{vault://fake/b}", "{vault://fake/c}", "{vault://fake/d}", "{vault://fake/e}"}
			b.Resolve(t.Context(), plan(refs...))
			b.source.Delay(time.Hour)
			time.Sleep(10 * time.Second) // all are due: four hang, and the fifth waits
			for _, ref := range refs {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				if err := b.Force(ctx, refOf(ref)); err == nil || ctx.Err() != nil {
					t.Errorf("%s: %v", ref, err)
				}
				cancel()
			}
		})
	})
	t.Run("dropped meanwhile", func(t *testing.T) {
		bubble(t, nil, func(t *testing.T, b bench, _ *events) {
			b.source.Put("key", "one")
			b.Resolve(t.Context(), plan(key))
			time.Sleep(10 * time.Second)
			b.source.Delay(4 * time.Second)
			go func() {
				time.Sleep(100 * time.Millisecond)
				b.Want(plan())
			}()
			soon(t, b, key, secrets.ErrUnknownRef)
		})
	})
}

// A source slower than its callers are impatient: each is answered by the first
// forced look that began when it asked or after.
func TestForceStarvesNobody(t *testing.T) {
	bubble(t, nil, func(t *testing.T, b bench, _ *events) {
		b.source.Put("key", "one")
		b.Resolve(t.Context(), plan(key))
		time.Sleep(10 * time.Second)
		b.source.Delay(3 * time.Second)
		before := b.source.Fetches("key")
		done := make(chan time.Duration, 100)
		for range 100 {
			go func() {
				began := time.Now()
				if err := b.Force(t.Context(), refOf(key)); err != nil {
					t.Error(err)
				}
				done <- time.Since(began)
			}()
			time.Sleep(700 * time.Millisecond)
		}
		for range 100 {
			if took := <-done; took > 7*time.Second {
				t.Fatalf("an answer took %v of a source that takes 3 s", took)
			}
		}
		if n := b.source.Fetches("key") - before; n > 26 {
			t.Errorf("%d looks in 70 s", n)
		}
	})
}

// Another configuration of a vault that does not answer leaves the old lease be:
// it is in use until the new vault has given a successor.
func TestOldVaultsLeaseIsKeptUntilTheNewOneAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := secrettest.NewLeasing(t, time.Hour), secrettest.NewLeasing(t, time.Hour)
		b := bench{start(t, secrets.Config{RevokeAtStop: true, Openers: map[string]secrets.Opener{"fake": func(c map[string]any) (secrets.Source, error) {
			if c["n"] == 2 {
				return two, nil
			}
			return one, nil
		}}}), t, one.Source}
		p := plan("{vault://v/key}")
		one.Put("key", "one")
		two.Put("key", "two")
		two.Fail(secrets.ErrUnavailable)
		p.Vaults = []secrets.Vault{{Name: "v", Kind: "fake", Config: map[string]any{"n": 1}}}
		b.Resolve(t.Context(), p)
		p.Vaults = []secrets.Vault{{Name: "v", Kind: "fake", Config: map[string]any{"n": 2}}}
		b.Resolve(t.Context(), p)
		time.Sleep(30 * time.Minute)
		b.expect("{vault://v/key}", secrets.Stale, 1, "one")
		if held := one.Held(); len(held) != 1 {
			t.Fatal("the lease in use was revoked")
		}
		two.Fail(nil)
		time.Sleep(time.Minute)
		b.expect("{vault://v/key}", secrets.Active, 2, "two")
		time.Sleep(2 * time.Minute)
		if held := one.Held(); len(held) != 0 {
			t.Errorf("%v of the old vault are still held", held)
		}
	})
}

// A lease whose renewal fails is an alarm while a third of it is left, is used to
// its last second, and not longer.
func TestLeaseThatNearsItsEndIsAnAlarm(t *testing.T) {
	bubble(t, nil, func(t *testing.T, b bench, _ *events) {
		b.source.Put("key", "one")
		b.source.Shape(func(l *secrets.Lease) { l.TTL, l.NotAfter = 30*time.Minute, time.Now().Add(30*time.Minute) })
		b.Resolve(t.Context(), plan(key))
		end := b.get(key).NotAfter
		b.source.Fail(secrets.ErrUnavailable)
		time.Sleep(time.Until(end.Add(-10*time.Minute - time.Second)))
		if n := b.Stats().Alarmed; n != 0 {
			t.Errorf("%d alarms with more than a third left", n)
		}
		time.Sleep(time.Second + time.Millisecond)
		b.expect(key, secrets.Stale, 1, "one")
		if n := b.Stats().Alarmed; n != 1 {
			t.Errorf("%d alarms with a third of the lease left; expected 1", n)
		}
		before := b.source.Fetches("key")
		time.Sleep(time.Until(end) - time.Millisecond)
		b.expect(key, secrets.Stale, 1, "one")
		if n := b.source.Fetches("key") - before; n > 40 {
			t.Errorf("%d looks in the last ten minutes: a near end is no reason for a storm", n)
		}
		time.Sleep(time.Second)
		if c := b.expect(key, secrets.Expired, 1, ""); !strings.Contains(c.Reason, "hard end") {
			t.Errorf("reason %q", c.Reason)
		}
	})
}

// Whenever the source comes back, all is fresh within a minute, in any of these ways of being away.
func TestRecoveryWithinAMinute(t *testing.T) {
	for name, away := range map[string]func(b bench, yes bool){
		"refuses connections": func(b bench, yes bool) { b.source.Fail(failure(yes, secrets.ErrUnavailable)) },
		"black hole": func(b bench, yes bool) {
			b.source.Delay(0)
			if yes {
				b.source.Delay(time.Hour)
			}
		},
		"429 after 7 s": func(b bench, yes bool) {
			b.source.Fail(failure(yes, &secrets.Throttled{Err: errors.New("429"), After: 7 * time.Second}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, b bench, told *events) {
				var refs []string
				for i := range 300 {
					b.source.Put(fmt.Sprint("k", i), "v")
					refs = append(refs, fmt.Sprintf("{vault://fake/k%d}", i))
				}
				b.Resolve(t.Context(), plan(refs...))
				for round := range 6 {
					away(b, true)
					time.Sleep(5*time.Minute + time.Duration(round)*3700*time.Millisecond)
					away(b, false)
					time.Sleep(time.Minute)
					synctest.Wait()
					if n := b.Stats().States[secrets.Active]; n != len(refs) {
						t.Fatalf("round %d: %d of %d are fresh", round, n, len(refs))
					}
				}
				if told.count("stale") != 6 || told.count("recovered") != 6 {
					t.Errorf("told %d stale, %d recovered", told.count("stale"), told.count("recovered"))
				}
			})
		})
	}
}

func failure(yes bool, err error) error {
	if yes {
		return err
	}
	return nil
}

// A source that asks to be left alone for a year is asked after an hour or so.
func TestAbsurdRetryAfterIsBounded(t *testing.T) {
	bubble(t, nil, func(t *testing.T, b bench, _ *events) {
		b.source.Put("key", "one")
		b.Resolve(t.Context(), plan(key))
		b.source.Fail(&secrets.Throttled{Err: errors.New("429"), After: 365 * 24 * time.Hour})
		time.Sleep(2 * time.Minute)
		b.source.Fail(nil)
		b.source.Put("key", "two")
		time.Sleep(70 * time.Minute)
		b.expect(key, secrets.Active, 2, "two")
	})
}

// A vault that nobody refers to leaves no figures behind, though a look at it ends later.
func TestFiguresEndWithTheVault(t *testing.T) {
	bubble(t, nil, func(t *testing.T, b bench, told *events) {
		b.source.Put("key", "one")
		b.Resolve(t.Context(), plan(key))
		b.source.Delay(4 * time.Second)
		b.Refresh()
		time.Sleep(time.Second)
		b.Resolve(t.Context(), plan())
		b.source.Fail(secrets.ErrUnavailable)
		time.Sleep(time.Minute)
		if s := b.Stats().Sources; len(s) != 0 || told.count("stale") != 0 {
			t.Errorf("%+v, told %s", s, told.results())
		}
	})
}

// More versions than are kept within one overlap: the oldest ends early, and is said to have.
func TestOverlapsAreBounded(t *testing.T) {
	bubble(t, nil, func(t *testing.T, b bench, told *events) {
		b.source.Put("key", "value 1")
		ref := "{vault://fake/key?overlap=3600}"
		b.Resolve(t.Context(), plan(ref))
		for i := 2; i <= 12; i++ {
			b.turn("key", fmt.Sprint("value ", i))
		}
		c := b.expect(ref, secrets.Active, 12, "value 12")
		if len(c.Previous) != 3 || c.Previous[0].Version != 11 || c.Previous[2].Version != 9 {
			t.Errorf("previous: %+v", c.Previous)
		}
		if len(c.History) != 8 {
			t.Errorf("%d versions are listed; expected 8", len(c.History))
		}
		for _, f := range c.History {
			want := map[bool]string{true: "overlap", false: "retired"}[f.Version >= 9]
			if f.Version != 12 && f.State != want {
				t.Errorf("version %d is %s; expected %s", f.Version, f.State, want)
			}
		}
		if told.count("seen") != 12 || told.count("overlap_ended") != 8 {
			t.Errorf("told %d seen, %d ended", told.count("seen"), told.count("overlap_ended"))
		}
	})
}

// A last known good value for a field that the lease in use lacks says nothing
// about that lease.
func TestKeptValuesDoNotTouchALeaseInUse(t *testing.T) {
	with := func(c *secrets.Config) {
		c.Kept = []secrets.Kept{{Ref: "{vault://fake/pg/old}", Value: secrets.NewValue([]byte("x")), Version: 3, Good: time.Now(), NotAfter: time.Now().Add(time.Minute)}}
	}
	bubble(t, with, func(t *testing.T, b bench, _ *events) {
		b.source.Put("pg", `{"user":"ann"}`)
		b.Resolve(t.Context(), plan("{vault://fake/pg/user}"))
		b.Resolve(t.Context(), plan("{vault://fake/pg/user}", "{vault://fake/pg/old}"))
		time.Sleep(2 * time.Minute)
		b.expect("{vault://fake/pg/user}", secrets.Active, 1, "ann")
		b.expect("{vault://fake/pg/old}", secrets.Missing, 0, "")
	})
}
