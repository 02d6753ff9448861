package secrets_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyway-edge/keyway/secrets"
	"github.com/keyway-edge/keyway/secrets/secrettest"
)

// bench is a running broker with one fake vault, within a bubble of fake time.
type bench struct {
	*secrets.Broker
	t      *testing.T
	source *secrettest.Source
}

func open(s secrets.Source) secrets.Opener {
	return func(map[string]any) (secrets.Source, error) { return s, nil }
}

func config(s secrets.Source) secrets.Config {
	return secrets.Config{Openers: map[string]secrets.Opener{"fake": open(s)}, Vaults: []secrets.Vault{{Name: "fake", Kind: "fake"}}}
}

func start(t *testing.T, cfg secrets.Config) *secrets.Broker {
	t.Helper()
	b := secrets.NewBroker(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return b
}

// inBubble runs f with a broker on a fake source.
func inBubble(t *testing.T, f func(t *testing.T, b bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := secrettest.New(t)
		f(t, bench{start(t, config(s)), t, s})
	})
}

func plan(refs ...string) secrets.Plan {
	var p secrets.Plan
	for _, s := range refs {
		r, err := secrets.ParseRef(s)
		if err != nil {
			panic(err)
		}
		p.Refs = append(p.Refs, r)
	}
	return p
}

// get answers the credential of a reference as it stands now.
func (b bench) get(ref string) *secrets.Credential {
	b.t.Helper()
	synctest.Wait()
	c := b.Current().Get(plan(ref).Refs[0])
	if c == nil {
		b.t.Fatalf("%s is not in the set", ref)
	}
	return c
}

// expect checks state, version and value of a reference.
func (b bench) expect(ref string, state secrets.State, version int, value string) *secrets.Credential {
	b.t.Helper()
	c := b.get(ref)
	if c.State != state || c.Version != version || string(c.Value.Reveal()) != value {
		b.t.Fatalf("%s is %s version %d value %q (%s); expected %s version %d value %q", ref, c.State, c.Version, c.Value.Reveal(), c.Reason, state, version, value)
	}
	return c
}

func TestResolveThenRotateByHint(t *testing.T) {
	inBubble(t, func(t *testing.T, b bench) {
		b.source.Put("pg", `{"username":"ann","password":"one"}`)
		set := b.Resolve(t.Context(), plan("{vault://fake/pg/username}", "{vault://fake/pg/password}"))
		if set.Len() != 2 || b.source.Fetches("pg") != 1 {
			t.Fatalf("%d credentials of %d fetches; expected 2 of 1", set.Len(), b.source.Fetches("pg"))
		}
		b.expect("{vault://fake/pg/password}", secrets.Active, 1, "one")
		<-b.Changed()
		generation := set.Generation

		b.source.Put("pg", `{"username":"ann","password":"two"}`)
		time.Sleep(time.Second)
		b.source.Hint()
		begin := time.Now()
		<-b.Changed()
		if took := time.Since(begin); took > time.Second {
			t.Errorf("a hinted change took %v", took)
		}
		b.expect("{vault://fake/pg/username}", secrets.Active, 1, "ann")
		b.expect("{vault://fake/pg/password}", secrets.Active, 2, "two")
		if string(set.Get(plan("{vault://fake/pg/password}").Refs[0]).Value.Reveal()) != "one" {
			t.Error("a published set changed")
		}
		if got := b.Current().Generation; got != generation+1 {
			t.Errorf("generation %d after one change of %d", got, generation)
		}
	})
}

func TestUnchangedValueIsNoNewVersion(t *testing.T) {
	inBubble(t, func(t *testing.T, b bench) {
		b.source.Put("key", "same")
		b.Resolve(t.Context(), plan("{vault://fake/key}"))
		<-b.Changed()
		for range 5 {
			b.source.Put("key", "same")
			b.source.Hint()
			time.Sleep(2 * time.Minute)
		}
		select {
		case <-b.Changed():
			t.Error("Changed without a change")
		default:
		}
		c := b.expect("{vault://fake/key}", secrets.Active, 1, "same")
		if age := time.Since(c.Fetched); age > 2*time.Minute {
			t.Errorf("the set shows a fetch %v old", age)
		}
	})
}

func TestFailingSourceKeepsLastGoodUntilResurrectTTL(t *testing.T) {
	inBubble(t, func(t *testing.T, b bench) {
		b.source.Put("key", "good")
		b.Resolve(t.Context(), plan("{vault://fake/key}"))
		b.source.Fail(errors.New("connection refused"))
		time.Sleep(2 * time.Minute)
		if c := b.expect("{vault://fake/key}", secrets.Stale, 1, "good"); !strings.Contains(c.Reason, "connection refused") {
			t.Errorf("reason %q does not say why", c.Reason)
		}
		if n := b.Stats().Alarmed; n != 0 {
			t.Errorf("%d alarms after two minutes", n)
		}
		before := b.source.Fetches("key")
		time.Sleep(time.Hour)
		if n := b.source.Fetches("key") - before; n < 60 || n > 400 {
			t.Errorf("%d looks in an hour of failure; expected one in a minute or somewhat more", n)
		}
		if n := b.Stats().Alarmed; n != 1 {
			t.Errorf("%d alarms after an hour; expected 1", n)
		}
		time.Sleep(22*time.Hour + 50*time.Minute)
		b.expect("{vault://fake/key}", secrets.Stale, 1, "good")
		time.Sleep(15 * time.Minute)
		b.expect("{vault://fake/key}", secrets.Expired, 1, "")
		b.source.Fail(nil)
		time.Sleep(2 * time.Minute)
		b.expect("{vault://fake/key}", secrets.Active, 1, "good")
	})
}

func TestRemovedSecretStaysUntilResurrectTTL(t *testing.T) {
	inBubble(t, func(t *testing.T, b bench) {
		b.source.Put("key", "good")
		ref := "{vault://fake/key?resurrect_ttl=600}"
		b.Resolve(t.Context(), plan(ref))
		b.source.Remove("key")
		time.Sleep(5 * time.Minute)
		b.expect(ref, secrets.Stale, 1, "good")
		time.Sleep(7 * time.Minute)
		b.expect(ref, secrets.Missing, 1, "")
		b.source.Put("key", "new")
		time.Sleep(10 * time.Second)
		b.expect(ref, secrets.Active, 2, "new")
	})
}

func TestRemovalOnPurposeEndsAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, b bench) {
		b.source.Put("key", "good")
		b.Resolve(t.Context(), plan("{vault://fake/key}"))
		b.source.Fail(fmt.Errorf("reading key: %w", secrets.ErrRemoved))
		time.Sleep(2 * time.Minute)
		b.expect("{vault://fake/key}", secrets.Missing, 1, "")
		b.source.Fail(nil)
		time.Sleep(time.Minute)
		b.expect("{vault://fake/key}", secrets.Active, 1, "good")
	})
}

func TestMissingSecretIsAskedForAgainAfterNegTTL(t *testing.T) {
	inBubble(t, func(t *testing.T, b bench) {
		b.Resolve(t.Context(), plan("{vault://fake/key}", "{vault://fake/slow?neg_ttl=100}"))
		c := b.expect("{vault://fake/key}", secrets.Missing, 0, "")
		if !strings.Contains(c.Reason, "no such secret") {
			t.Errorf("reason %q", c.Reason)
		}
		time.Sleep(89 * time.Second)
		if n := b.source.Fetches("key"); n < 15 || n > 20 {
			t.Errorf("%d looks in 89 s of neg_ttl 5 s", n)
		}
		if n := b.source.Fetches("slow"); n != 1 {
			t.Errorf("%d looks in 89 s of neg_ttl 100 s", n)
		}
	})
}

func TestHardEndExpires(t *testing.T) {
	inBubble(t, func(t *testing.T, b bench) {
		end := time.Now().Add(time.Hour)
		b.source.Shape(func(l *secrets.Lease) { l.NotAfter = end })
		b.source.Put("key", "good")
		b.Resolve(t.Context(), plan("{vault://fake/key?ttl=86400}"))
		<-b.Changed()
		time.Sleep(59 * time.Minute)
		if n := b.source.Fetches("key"); n < 2 {
			t.Errorf("no look for a successor before the hard end, %d in all", n)
		}
		b.expect("{vault://fake/key?ttl=86400}", secrets.Active, 1, "good")
		<-b.Changed()
		if late := time.Since(end); late < 0 || late > time.Second {
			t.Errorf("the change came %v after the end", late)
		}
		b.expect("{vault://fake/key?ttl=86400}", secrets.Expired, 1, "")
	})
}

func TestResolveWaitsNoLongerThanAllowed(t *testing.T) {
	inBubble(t, func(t *testing.T, b bench) {
		b.source.Put("key", "late")
		b.source.Delay(3 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		set := b.Resolve(ctx, plan("{vault://fake/key}"))
		if took := time.Since(begin); took != time.Second {
			t.Errorf("Resolve took %v", took)
		}
		if c := set.Get(plan("{vault://fake/key}").Refs[0]); c == nil || c.State != secrets.Pending {
			t.Errorf("credential %+v; expected it pending", c)
		}
		time.Sleep(3 * time.Second)
		b.expect("{vault://fake/key}", secrets.Active, 1, "late")
	})
}

func TestResolveIsPatientWhileValuesCome(t *testing.T) {
	inBubble(t, func(t *testing.T, b bench) {
		var refs []string
		for i := range 80 { // four at a time, one second each
			b.source.Put(fmt.Sprint("key", i), "v")
			refs = append(refs, fmt.Sprintf("{vault://fake/key%d}", i))
		}
		b.source.Delay(time.Second)
		begin := time.Now()
		set := b.Resolve(t.Context(), plan(refs...))
		if took := time.Since(begin); took < 20*time.Second || took > 22*time.Second {
			t.Errorf("Resolve took %v; all values are there after 20 s", took)
		}
		for _, r := range plan(refs...).Refs {
			if c := set.Get(r); c == nil || c.State != secrets.Active {
				t.Fatalf("%s: %+v", r, c)
			}
		}
		b.source.Delay(time.Hour)
		b.source.Put("slow", "v")
		begin = time.Now()
		b.Resolve(t.Context(), plan(append(refs, "{vault://fake/slow}")...))
		if took := time.Since(begin); took > 6*time.Second {
			t.Errorf("Resolve took %v for a source that gives nothing", took)
		}
	})
}

func TestHungSourceTimesOutAndIsNotCrowded(t *testing.T) {
	inBubble(t, func(t *testing.T, b bench) {
		b.source.Delay(20 * time.Second)
		var refs []string
		for i := range 20 {
			refs = append(refs, fmt.Sprintf("{vault://fake/key-%d}", i))
		}
		begin := time.Now()
		b.Resolve(t.Context(), plan(refs...))
		// The first four show that the source is away: the others need not hang too.
		if took := time.Since(begin); took != 5*time.Second {
			t.Errorf("20 fetches from a source that hangs, 5 s each, took %v", took)
		}
		if n := b.source.MostInFlight(); n != 4 {
			t.Errorf("%d in flight; expected 4", n)
		}
		for _, ref := range refs {
			if c := b.get(ref); c.State != secrets.Missing || !strings.Contains(c.Reason, "deadline") {
				t.Errorf("%s: %s", c.State, c.Reason)
			}
		}
	})
}

func TestRefusedVersionLeavesTheWholeOldOneInUse(t *testing.T) {
	for name, bad := range map[string]string{
		"field gone":  `{"username":"bob"}`,
		"not JSON":    `username=bob`,
		"empty":       ``,
		"wrong type":  `{"username":"bob","password":7}`,
		"empty field": `{"username":"bob","password":""}`,
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b bench) {
				user, pass := "{vault://fake/pg/username}", "{vault://fake/pg/password}"
				b.source.Put("pg", `{"username":"ann","password":"one"}`)
				b.Resolve(t.Context(), plan(user, pass))
				b.source.Put("pg", bad)
				time.Sleep(2 * time.Minute)
				b.expect(user, secrets.Refused, 1, "ann")
				if c := b.expect(pass, secrets.Refused, 1, "one"); strings.Contains(c.Reason, "bob") {
					t.Errorf("reason %q tells the value", c.Reason)
				}
				b.source.Put("pg", `{"username":"bob","password":"two"}`)
				time.Sleep(2 * time.Minute)
				b.expect(user, secrets.Active, 2, "bob")
				b.expect(pass, secrets.Active, 2, "two")
			})
		})
	}
}

func TestReasonsOfMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := secrettest.New(t)
		s.Put("json", `{"a":"x","n":1,"o":{},"nil":null}`)
		cfg := config(s)
		cfg.Openers["broken"] = func(map[string]any) (secrets.Source, error) {
			return nil, errors.New("config.root: it is missing; expected a folder")
		}
		cfg.Openers["panics"] = open(panics{})
		b := bench{start(t, cfg), t, s}
		f := map[string]string{
			"{vault://fake/json/b}":       "subfield b not found in JSON secret",
			"{vault://fake/json/n}":       "unexpected number value in JSON secret for subfield n",
			"{vault://fake/json/o}":       "unexpected object value in JSON secret for subfield o",
			"{vault://fake/json/nil}":     "unexpected null value in JSON secret for subfield nil",
			"{vault://nowhere/x}":         `no vault named "nowhere"`,
			"{vault://fake/json?ttl=now}": "option ttl: expected a number of seconds",
			"{vault://bad-kind/x}":        `no source of kind "odd"`,
			"{vault://bad-life/x}":        "config.ttl: expected a number of seconds",
			"{vault://bad-root/x}":        "config.root: it is missing",
			"{vault://panics/x}":          "the source panicked",
		}
		var p secrets.Plan
		for ref := range f {
			p.Refs = append(p.Refs, plan(ref).Refs...)
		}
		p.Vaults = []secrets.Vault{
			{Name: "bad-kind", Kind: "odd"},
			{Name: "bad-life", Kind: "fake", Config: map[string]any{"ttl": "soon"}},
			{Name: "bad-root", Kind: "broken"},
			{Name: "panics", Kind: "panics"},
		}
		b.Resolve(t.Context(), p)
		for ref, reason := range f {
			if c := b.get(ref); c.State != secrets.Missing || !strings.Contains(c.Reason, reason) || strings.Contains(c.Reason, "canary") {
				t.Errorf("%s is %s because %q; expected missing because %q", ref, c.State, c.Reason, reason)
			}
		}
	})
}

type panics struct{}

func (panics) Fetch(context.Context, secrets.Request) (secrets.Lease, error) { panic("canary") }

func TestThrottledSourceIsLeftAlone(t *testing.T) {
	inBubble(t, func(t *testing.T, b bench) {
		b.source.Put("key", "good")
		b.Resolve(t.Context(), plan("{vault://fake/key}"))
		b.source.Fail(&secrets.Throttled{Err: errors.New("429"), After: 70 * time.Second})
		b.Refresh()
		time.Sleep(time.Second)
		before := b.source.Fetches("key")
		for range 69 {
			b.source.Hint() // neither hints nor refreshes may override it
			b.Refresh()
			time.Sleep(time.Second)
		}
		if n := b.source.Fetches("key") - before; n != 0 {
			t.Errorf("%d looks while the source asked to be left alone", n)
		}
		time.Sleep(10 * time.Second)
		if n := b.source.Fetches("key") - before; n != 1 {
			t.Errorf("%d looks afterwards; expected 1", n)
		}
	})
}

func TestStormOfHintsIsBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, b bench) {
		b.source.Put("key", "0")
		b.Resolve(t.Context(), plan("{vault://fake/key}"))
		for i := range 1000 {
			b.source.Put("key", fmt.Sprint(i))
			b.source.Hint()
			time.Sleep(10 * time.Millisecond)
		}
		if n := b.source.Fetches("key"); n < 40 || n > 55 {
			t.Errorf("%d looks in 10 s of hints; expected about 5 in a second", n)
		}
		time.Sleep(time.Second)
		if c := b.get("{vault://fake/key}"); string(c.Value.Reveal()) != "999" {
			t.Errorf("the last hint was lost: value %q", c.Value.Reveal())
		}
	})
}

func TestChangesThatCameTogetherAreShownTogether(t *testing.T) {
	inBubble(t, func(t *testing.T, b bench) {
		put := func(v string) {
			b.source.Put("crt", v)
			b.source.Put("key", v)
		}
		put("1")
		b.Resolve(t.Context(), plan("{vault://fake/crt}", "{vault://fake/key}"))
		<-b.Changed()
		b.source.Delay(30 * time.Millisecond)
		for i := 2; i < 12; i++ {
			put(fmt.Sprint(i))
			b.source.Hint()
			<-b.Changed()
			crt, key := b.get("{vault://fake/crt}"), b.get("{vault://fake/key}")
			if string(crt.Value.Reveal()) != string(key.Value.Reveal()) || crt.Version != i {
				t.Fatalf("pair of %s and %s at version %d", crt.Value.Reveal(), key.Value.Reveal(), i)
			}
			time.Sleep(time.Second)
		}
	})
}

// eager reads at once and answers a second later.
type eager struct{ *secrettest.Source }

func (s eager) Fetch(ctx context.Context, r secrets.Request) (secrets.Lease, error) {
	l, err := s.Source.Fetch(ctx, r)
	time.Sleep(time.Second)
	return l, err
}

func TestHintDuringALookIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := secrettest.New(t)
		s.Put("key", "old")
		b := bench{start(t, config(eager{s})), t, s}
		b.Resolve(t.Context(), plan("{vault://fake/key}"))
		b.Refresh()
		time.Sleep(500 * time.Millisecond) // the look has read the old value
		s.Put("key", "new")
		s.Hint()
		time.Sleep(3 * time.Second)
		b.expect("{vault://fake/key}", secrets.Active, 2, "new")
	})
}

func TestPlansComeAndGo(t *testing.T) {
	inBubble(t, func(t *testing.T, b bench) {
		b.source.Put("a", "a1")
		b.source.Put("b", "b1")
		b.Resolve(t.Context(), plan("{vault://fake/a}"))
		set := b.Resolve(t.Context(), plan("{vault://fake/b}"))
		if set.Len() != 1 {
			t.Fatalf("%d credentials of the second plan", set.Len())
		}
		b.source.Put("a", "a2")
		before := b.source.Fetches("a")
		time.Sleep(time.Hour)
		if b.source.Fetches("a") != before {
			t.Error("what is unwanted is still fetched")
		}
		b.Resolve(t.Context(), plan("{vault://fake/a}", "{vault://fake/b}"))
		b.expect("{vault://fake/a}", secrets.Active, 2, "a2") // the count went on
		b.Resolve(t.Context(), plan())
		if n := b.Current().Len(); n != 0 {
			t.Errorf("%d credentials of an empty plan", n)
		}
		if got := len(b.List()); got != 0 {
			t.Errorf("List has %d", got)
		}
	})
}

func TestChangedVaultKeepsTheOldValueUntilTheNewOneAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := secrettest.New(t), secrettest.New(t)
		one.Put("key", "one")
		two.Fail(errors.New("away"))
		opened := 0
		b := bench{start(t, secrets.Config{Openers: map[string]secrets.Opener{"fake": func(c map[string]any) (secrets.Source, error) {
			opened++
			if c["n"] == 2 {
				return two, nil
			}
			return one, nil
		}}}), t, one}
		p := plan("{vault://v/key}")
		p.Vaults = []secrets.Vault{{Name: "v", Kind: "fake", Config: map[string]any{"n": 1, "ttl": 60}}}
		b.Resolve(t.Context(), p)
		b.Resolve(t.Context(), p)
		if opened != 1 {
			t.Errorf("an unchanged vault was opened %d times", opened)
		}
		p.Vaults = []secrets.Vault{{Name: "v", Kind: "fake", Config: map[string]any{"n": 2, "ttl": 60}}}
		b.Resolve(t.Context(), p)
		b.expect("{vault://v/key}", secrets.Stale, 1, "one")
		two.Fail(nil)
		two.Put("key", "two")
		time.Sleep(5 * time.Second)
		b.expect("{vault://v/key}", secrets.Active, 2, "two")
	})
}

func TestLeaseIsRenewedThenReplacedThenRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := secrettest.NewLeasing(t, time.Hour)
		cfg := config(s)
		cfg.RevokeAtStop = true
		b := bench{start(t, cfg), t, s.Source}
		s.Put("db", "user-1")
		b.Resolve(t.Context(), plan("{vault://fake/db}"))
		time.Sleep(10 * time.Hour)
		if n := s.Renewals(); n < 13 || n > 17 {
			t.Errorf("%d renewals in 10 hours of a lease of 1 hour", n)
		}
		if n := s.Fetches("db"); n != 1 {
			t.Errorf("%d fetches while the lease can be renewed", n)
		}
		b.Resolve(t.Context(), plan())
		if len(s.Held()) != 1 {
			t.Error("the lease was revoked while requests may still use it")
		}
		time.Sleep(2 * time.Minute)
		if len(s.Held()) != 0 {
			t.Error("an unused lease was not given back")
		}
		b.Resolve(t.Context(), plan("{vault://fake/db}")) // left to RevokeAtStop; the source checks at cleanup
	})
}

// Another process has taken this one's place: what it uses is not given back at the end.
func TestSparedLeasesAreNotGivenBack(t *testing.T) {
	for _, spare := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := secrettest.NewLeasing(t, time.Hour)
			s.Put("db", "user-1")
			s.Put("other", "user-2")
			cfg := config(s)
			cfg.RevokeAtStop = true
			b := secrets.NewBroker(cfg)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- b.Run(ctx) }()
			b.Resolve(t.Context(), plan("{vault://fake/db}", "{vault://fake/other}"))
			all, err := b.Fingerprints(t.Context())
			if err != nil || len(all) != 2 {
				t.Fatalf("%v, %v", all, err)
			}
			want := 0
			if spare {
				want = 1
				ref, _ := secrets.ParseRef("{vault://fake/db}")
				if err := b.Spare(t.Context(), map[string]bool{b.Current().Get(ref).Value.Fingerprint(): true}); err != nil {
					t.Fatal(err)
				}
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if held := s.Held(); len(held) != want {
				t.Errorf("spared %v: %v are held, want %d", spare, held, want)
			}
			for _, id := range s.Held() { // as the other process will
				if err := s.Revoke(t.Context(), secrets.Lease{ID: id}); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestVersionsGoOnAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := secrettest.New(t)
		s.Put("key", "x")
		cfg := config(s)
		cfg.Versions = map[string]int{"{vault://fake/key}": 41}
		b := bench{start(t, cfg), t, s}
		b.Resolve(t.Context(), plan("{vault://fake/key}"))
		b.expect("{vault://fake/key}", secrets.Active, 42, "x")
	})
}

func TestNothingPrintsAValue(t *testing.T) {
	inBubble(t, func(t *testing.T, b bench) {
		b.source.Put("key", "canary-4711")
		set := b.Resolve(t.Context(), plan("{vault://fake/key}"))
		for _, s := range []string{fmt.Sprintf("%v %+v %#v", set, set, set), fmt.Sprintf("%+v", b.List()), fmt.Sprintf("%#v", b.Broker), fmt.Sprintf("%+v", b.Stats())} {
			if strings.Contains(s, "4711") {
				t.Errorf("printed: %s", s)
			}
		}
	})
}
