package secrets_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyway-edge/keyway/secrets"
	"github.com/keyway-edge/keyway/secrets/secrettest"
)

// events keeps what a broker told.
type events struct {
	mu   sync.Mutex
	list []secrets.Event
}

func (x *events) add(e secrets.Event) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.list = append(x.list, e)
}

func (x *events) results() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	var all []string
	for _, e := range x.list {
		all = append(all, e.Result)
	}
	return strings.Join(all, " ")
}

func (x *events) count(result string) int {
	return len(slices.DeleteFunc(strings.Fields(x.results()), func(s string) bool { return s != result }))
}

func refOf(text string) secrets.Ref { return plan(text).Refs[0] }

// bubble is inBubble with a configuration of its own.
func bubble(t *testing.T, change func(*secrets.Config), f func(t *testing.T, b bench, told *events)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := secrettest.New(t)
		told := &events{}
		cfg := config(s)
		cfg.Events = told.add
		if change != nil {
			change(&cfg)
		}
		f(t, bench{start(t, cfg), t, s}, told)
	})
}

const key = "{vault://fake/key}"

// A source that is away for an hour is asked at most once a second in all, however
// many leases are due, and all of them are fresh soon after it is back.
func TestDeadSourceIsProbedOneAtATime(t *testing.T) {
	bubble(t, nil, func(t *testing.T, b bench, told *events) {
		const leases = 1000
		var refs []string
		for i := range leases {
			b.source.Put(fmt.Sprintf("k%d", i), "v")
			refs = append(refs, fmt.Sprintf("{vault://fake/k%d}", i))
		}
		b.Resolve(t.Context(), plan(refs...))
		calls := func() (n int) {
			for i := range leases {
				n += b.source.Fetches(fmt.Sprintf("k%d", i))
			}
			return n
		}
		b.source.Fail(fmt.Errorf("sealed: %w", secrets.ErrUnavailable))
		before := calls()
		time.Sleep(time.Hour)
		n := calls() - before
		if n > 3600 || n < 60 {
			t.Errorf("%d calls in an hour to a source that is away; expected a probe a minute or so, at most one a second", n)
		}
		b.expect(refs[0], secrets.Stale, 1, "v")
		b.expect(refs[leases-1], secrets.Stale, 1, "v")
		if s := b.Stats().Sources[0]; !s.Away || s.LastError == "" || s.AwaySince.IsZero() || told.count("stale") != 1 {
			t.Errorf("%+v, told %s", s, told.results())
		}
		b.source.Fail(nil)
		time.Sleep(70 * time.Second)
		for _, r := range refs {
			b.expect(r, secrets.Active, 1, "v")
		}
		if s := b.Stats().Sources[0]; s.Away || told.count("recovered") != 1 {
			t.Errorf("%+v, told %s", s, told.results())
		}
	})
}

// A source that hints is there: what it came back with is looked at in a second or
// two, not at the end of a step; but hints of one that is away make no probe a second.
func TestAHintEndsTheWaitForASource(t *testing.T) {
	bubble(t, nil, func(t *testing.T, b bench, _ *events) {
		b.source.Put("k", "one")
		b.Resolve(t.Context(), plan("{vault://fake/k}"))
		b.source.Fail(fmt.Errorf("down: %w", secrets.ErrUnavailable))
		time.Sleep(time.Hour)
		before := b.source.Fetches("k")
		for range 100 {
			b.source.Hint()
			time.Sleep(100 * time.Millisecond)
		}
		if n := b.source.Fetches("k") - before; n < 8 || n > 11 {
			t.Errorf("%d probes in 10 s of hints; expected one a second", n)
		}
		time.Sleep(time.Hour)
		b.source.Fail(nil)
		b.source.Put("k", "two")
		b.source.Hint()
		time.Sleep(2 * time.Second)
		b.expect("{vault://fake/k}", secrets.Active, 2, "two")
	})
}

// One resource that always fails does not keep the others from being looked at.
func TestOneBrokenResourceStarvesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := secrettest.New(t)
		s := halfDead{inner}
		b := bench{start(t, config(s)), t, inner}
		inner.Put("good", "one")
		inner.Put("dead", "x")
		b.Resolve(t.Context(), plan("{vault://fake/good}", "{vault://fake/dead}"))
		for i := range 20 {
			value := fmt.Sprintf("value %d", i)
			inner.Put("good", value)
			time.Sleep(2 * time.Minute)
			if c := b.get("{vault://fake/good}"); string(c.Value.Reveal()) != value {
				t.Fatalf("after two minutes the other secret is %s (%s)", c.State, c.Reason)
			}
		}
	})
}

type halfDead struct{ *secrettest.Source }

func (s halfDead) Fetch(ctx context.Context, r secrets.Request) (secrets.Lease, error) {
	lease, err := s.Source.Fetch(ctx, r)
	if r.Resource == "dead" {
		return secrets.Lease{}, fmt.Errorf("its engine is broken: %w", secrets.ErrUnavailable)
	}
	return lease, err
}

func TestOverlapEnds(t *testing.T) {
	bubble(t, nil, func(t *testing.T, b bench, told *events) {
		ref := "{vault://fake/key?overlap=30}"
		b.source.Put("key", "one")
		b.Resolve(t.Context(), plan(ref))
		b.source.Put("key", "two")
		time.Sleep(time.Second)
		b.source.Hint()
		time.Sleep(time.Second)
		c := b.expect(ref, secrets.Active, 2, "two")
		if len(c.Previous) != 1 || string(c.Previous[0].Value.Reveal()) != "one" || c.Previous[0].Version != 1 {
			t.Fatalf("previous: %+v", c.Previous)
		}
		if left := time.Until(c.Previous[0].Until); left > 30*time.Second || left < 25*time.Second {
			t.Errorf("the overlap ends in %v", left)
		}
		for len(b.Changed()) > 0 {
			<-b.Changed()
		}
		time.Sleep(31 * time.Second)
		c = b.expect(ref, secrets.Active, 2, "two")
		if len(c.Previous) != 0 || len(b.Changed()) != 1 || told.count("overlap_ended") != 1 {
			t.Errorf("previous %+v, told %s", c.Previous, told.results())
		}
		if h := c.History; len(h) != 2 || h[0].State != "active" || h[0].Version != 2 || h[1].State != "retired" {
			t.Errorf("history %+v", h)
		}
	})
}

func TestRemovalOnPurposeEndsOverlapsToo(t *testing.T) {
	bubble(t, nil, func(t *testing.T, b bench, _ *events) {
		b.source.Put("key", "one")
		b.Resolve(t.Context(), plan(key))
		b.source.Put("key", "two")
		time.Sleep(61 * time.Second)
		if c := b.expect(key, secrets.Active, 2, "two"); len(c.Previous) != 1 {
			t.Fatalf("no overlap to end")
		}
		b.source.Fail(secrets.ErrRemoved)
		b.source.Hint()
		time.Sleep(time.Second)
		if c := b.expect(key, secrets.Missing, 2, ""); len(c.Previous) != 0 {
			t.Error("a removed secret has a value in its overlap")
		}
	})
}

func TestPins(t *testing.T) {
	bubble(t, nil, func(t *testing.T, b bench, told *events) {
		b.source.Put("key", "one")
		b.Resolve(t.Context(), plan(key))
		b.source.Put("key", "two")
		time.Sleep(61 * time.Second)
		b.expect(key, secrets.Active, 2, "two")
		if err := b.Pin(t.Context(), key, 7); err == nil || !strings.Contains(err.Error(), "this node holds [1 2]") {
			t.Errorf("pinning what is not held: %v", err)
		}
		if err := b.Pin(t.Context(), "{vault://fake/other}", 1); !errors.Is(err, secrets.ErrUnknownRef) {
			t.Errorf("pinning what nobody wants: %v", err)
		}
		if err := b.Pin(t.Context(), key, 1); err != nil {
			t.Fatal(err)
		}
		b.expect(key, secrets.Active, 1, "one") // at once: Pin waits
		b.source.Put("key", "three")
		time.Sleep(2 * time.Minute)
		if c := b.expect(key, secrets.Active, 1, "one"); c.Pinned != 1 || !strings.Contains(c.Reason, "the source has version 3") {
			t.Errorf("%+v", c)
		}
		if err := b.Unpin(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		b.expect(key, secrets.Active, 3, "three")
		if err := b.Unpin(t.Context(), key); err == nil {
			t.Error("unpinned twice")
		}
		if told.count("pinned") != 1 || told.count("unpinned") != 1 {
			t.Errorf("told %s", told.results())
		}
	})
}

func TestFailedTrialGoesBack(t *testing.T) {
	rule := func(c *secrets.Config) { c.Trial = secrets.TrialRule{Failures: 5} }
	bubble(t, rule, func(t *testing.T, b bench, told *events) {
		b.source.Put("key", `{"user":"u1","word":"w1"}`)
		user, word := "{vault://fake/key/user}", "{vault://fake/key/word}"
		b.Resolve(t.Context(), plan(user, word))
		if b.expect(word, secrets.Active, 1, "w1").Trial != nil {
			t.Error("the first version ever is on trial, with nothing to go back to")
		}
		b.source.Put("key", `{"user":"u2","word":"w2"}`)
		time.Sleep(61 * time.Second)
		trial := b.expect(word, secrets.Active, 2, "w2").Trial
		for range 4 {
			trial.Bad()
		}
		for range 10 {
			trial.Good()
		}
		for range 5 {
			trial.Bad() // 9 of 19
		}
		b.expect(word, secrets.Active, 2, "w2")
		trial.Bad()
		trial.Bad()
		b.expect(user, secrets.Refused, 1, "u1")
		b.expect(word, secrets.Refused, 1, "w1")
		if told.count("rolled_back") != 2 {
			t.Errorf("told %s", told.results())
		}
		time.Sleep(10 * time.Minute) // the same bad value is answered all the while
		c := b.expect(word, secrets.Refused, 1, "w1")
		if !slices.ContainsFunc(c.History, func(f secrets.VersionFacts) bool { return f.State == "rolled_back" && f.Version == 2 }) {
			t.Errorf("history %+v", c.History)
		}
		b.source.Put("key", `{"user":"u3","word":"w3"}`)
		time.Sleep(2 * time.Minute)
		b.expect(word, secrets.Active, 3, "w3")
	})
}

func TestTrialEndsWithItsWindow(t *testing.T) {
	rule := func(c *secrets.Config) { c.Trial = secrets.TrialRule{Failures: 1} }
	bubble(t, rule, func(t *testing.T, b bench, _ *events) {
		b.source.Put("key", "one")
		b.Resolve(t.Context(), plan(key))
		b.source.Put("key", "two")
		time.Sleep(61 * time.Second)
		c := b.expect(key, secrets.Active, 2, "two")
		time.Sleep(2 * time.Minute)
		c.Trial.Bad()
		b.expect(key, secrets.Active, 2, "two")
	})
}

func TestForceIsOneLookForAll(t *testing.T) {
	bubble(t, nil, func(t *testing.T, b bench, _ *events) {
		b.source.Put("key", "one")
		b.Resolve(t.Context(), plan(key))
		time.Sleep(10 * time.Second)
		b.source.Put("key", "two")
		b.source.Delay(200 * time.Millisecond)
		before := b.source.Fetches("key")
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if err := b.Force(t.Context(), refOf(key)); err != nil {
					t.Error(err)
				}
				if c := b.Current().Get(refOf(key)); string(c.Value.Reveal()) != "two" {
					t.Errorf("forced, and version %d is current", c.Version)
				}
			})
		}
		wg.Wait()
		if err := b.Force(t.Context(), refOf(key)); err != nil {
			t.Error(err)
		}
		if n := b.source.Fetches("key") - before; n != 1 {
			t.Errorf("%d fetches for 101 forced looks within a second", n)
		}
		b.source.Delay(time.Hour)
		time.Sleep(2 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.Force(ctx, refOf(key)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a source that hangs: %v", err)
		}
	})
}

func TestCheckChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := secrettest.NewLeasing(t, time.Hour)
		cfg := config(s)
		cfg.RevokeAtStop = true
		b := bench{start(t, cfg), t, s.Source}
		s.Put("key", `{"a":"one"}`)
		ref := "{vault://fake/key/a}"
		b.Resolve(t.Context(), plan(ref))
		s.Put("key", `{"a":"two"}`)
		c, err := b.Check(t.Context(), ref)
		if err != nil || c.Err != nil || !c.Changed || c.TTL != time.Hour || !c.Renewable {
			t.Errorf("%+v, %v", c, err)
		}
		s.Put("key", `{"b":"three"}`)
		if c, err = b.Check(t.Context(), ref); err != nil || c.Err == nil || !strings.Contains(c.Err.Error(), "subfield a not found") {
			t.Errorf("%+v, %v", c, err)
		}
		b.expect(ref, secrets.Active, 1, "one")
		synctest.Wait()
		if held := s.Held(); len(held) != 1 {
			t.Errorf("leases of checks are still held: %v", held)
		}
	})
}

func TestLastKnownGood(t *testing.T) {
	var kept []secrets.Kept
	bubble(t, nil, func(t *testing.T, b bench, _ *events) {
		b.source.Put("key", "one")
		b.Resolve(t.Context(), plan(key))
		b.source.Put("key", "two")
		time.Sleep(61 * time.Second)
		var err error
		if kept, err = b.Export(t.Context()); err != nil || len(kept) != 1 || kept[0].Version != 2 || len(kept[0].Older) != 1 {
			t.Fatalf("%+v, %v", kept, err)
		}
	})
	with := func(good, end time.Duration) func(*secrets.Config) {
		return func(c *secrets.Config) { // bubbles begin at one time
			k := kept[0]
			k.Good = time.Now().Add(good)
			if end != 0 {
				k.NotAfter = time.Now().Add(end)
			}
			c.Kept = []secrets.Kept{k}
		}
	}
	t.Run("source away", func(t *testing.T) {
		bubble(t, with(-time.Minute, 0), func(t *testing.T, b bench, _ *events) {
			b.source.Delay(time.Hour)
			began := time.Now()
			b.Resolve(t.Context(), plan(key))
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("resolved after %v", took)
			}
			b.expect(key, secrets.Stale, 2, "two")
			if err := b.Pin(t.Context(), key, 1); err != nil {
				t.Error(err)
			}
			b.expect(key, secrets.Stale, 1, "one")
		})
	})
	t.Run("value that is over, source slow", func(t *testing.T) {
		for _, c := range []struct{ good, end time.Duration }{{-25 * time.Hour, 0}, {-time.Hour, -time.Minute}} {
			bubble(t, with(c.good, c.end), func(t *testing.T, b bench, _ *events) {
				b.source.Put("key", "three")
				b.source.Delay(3 * time.Second)
				b.Resolve(t.Context(), plan(key))
				b.expect(key, secrets.Active, 3, "three")
			})
		}
	})
	t.Run("source away for longer than the value may be used", func(t *testing.T) {
		bubble(t, with(-24*time.Hour+4*time.Second, 0), func(t *testing.T, b bench, _ *events) {
			b.source.Delay(time.Hour)
			b.Resolve(t.Context(), plan(key))
			b.expect(key, secrets.Stale, 2, "two")
			time.Sleep(3500 * time.Millisecond) // the first look is still on its way
			b.expect(key, secrets.Expired, 2, "")
		})
		bubble(t, with(-25*time.Hour, 0), func(t *testing.T, b bench, _ *events) {
			b.source.Delay(time.Hour)
			b.Resolve(t.Context(), plan(key))
			b.expect(key, secrets.Expired, 2, "")
		})
	})
	t.Run("source there", func(t *testing.T) {
		bubble(t, with(-time.Minute, 0), func(t *testing.T, b bench, _ *events) {
			b.source.Put("key", "three")
			b.Resolve(t.Context(), plan(key))
			b.expect(key, secrets.Active, 3, "three")
		})
	})
	t.Run("hard end", func(t *testing.T) {
		bubble(t, with(-time.Minute, 10*time.Second), func(t *testing.T, b bench, _ *events) {
			b.source.Fail(secrets.ErrUnavailable)
			b.Resolve(t.Context(), plan(key))
			b.expect(key, secrets.Stale, 2, "two")
			time.Sleep(11 * time.Second)
			b.expect(key, secrets.Expired, 2, "")
		})
	})
}

// shrinking is a source of leases that can be extended to three minutes in all.
type shrinking struct {
	secrettest.Leasing
	made map[string]time.Time
}

func (s *shrinking) Fetch(ctx context.Context, r secrets.Request) (secrets.Lease, error) {
	l, err := s.Leasing.Fetch(ctx, r)
	l.Value = secrets.NewValue([]byte("value of " + l.ID))
	s.made[l.ID] = time.Now()
	l.NotAfter = time.Now().Add(l.TTL)
	return l, err
}

func (s *shrinking) Renew(ctx context.Context, l secrets.Lease) (secrets.Lease, error) {
	l, err := s.Leasing.Renew(ctx, l)
	l.TTL = min(time.Minute, time.Until(s.made[l.ID].Add(3*time.Minute)))
	l.NotAfter = time.Now().Add(l.TTL)
	return l, err
}

// Near the end of what a lease may be extended to, its successor is there in time.
func TestSuccessorBeforeTheLastExtension(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shrinking{secrettest.NewLeasing(t, time.Minute), map[string]time.Time{}}
		cfg := config(s)
		cfg.RevokeAtStop = true
		b := bench{start(t, cfg), t, s.Source}
		s.Put("key", "x")
		b.Resolve(t.Context(), plan(key))
		for end := time.Now().Add(3 * time.Hour); time.Now().Before(end); time.Sleep(time.Second) {
			if c := b.get(key); c.State != secrets.Active || !time.Now().Before(c.NotAfter) {
				t.Fatalf("%s until %v (%s)", c.State, c.NotAfter, c.Reason)
			}
		}
		if n := len(s.made); n < 60 || n > 130 {
			t.Errorf("%d leases of three minutes in three hours", n)
		}
		if held := s.Held(); len(held) > 2 {
			t.Errorf("%v are held: replaced leases are revoked after their overlap", held)
		}
	})
}
