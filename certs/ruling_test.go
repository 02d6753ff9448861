package certs_test

import (
	"crypto/tls"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/certs/certtest"
	"github.com/keyway-edge/keyway/secrets"
)

// story is a slot and what is decided about its versions.
type story struct {
	t       *testing.T
	ca      *certtest.CA
	now     time.Time
	slot    *certs.Slot
	outcome certs.Outcome
	rulings map[string]certs.Ruling
	names   []string
}

func newStory(t *testing.T) *story {
	return &story{t: t, ca: certtest.NewCA(t, "root").Intermediate("middle"), now: time.Now(), rulings: map[string]certs.Ruling{}, names: []string{"a.test"}}
}

// pair issues one that is valid for so many hours; later ones outlive earlier ones.
func (s *story) pair(hours int) certs.Pair {
	return s.ca.Issue(certtest.Leaf{Names: []string{"a.test"}, NotBefore: s.now.Add(time.Duration(hours-1000) * time.Hour), NotAfter: s.now.Add(time.Duration(hours) * time.Hour)})
}

func (s *story) candidate(p ...certs.Pair) certs.Candidate {
	return certs.Candidate{Name: "slot", Source: "one", Names: s.names, Pairs: p, Rulings: func(f string) (certs.Ruling, bool) {
		r, ok := s.rulings[f]
		return r, ok
	}}
}

func (s *story) offer(want certs.Outcome, version int, p ...certs.Pair) {
	s.t.Helper()
	s.slot, s.outcome = certs.Advance(s.slot, s.candidate(p...), s.now)
	s.is(want, version)
	if again, outcome := certs.Advance(s.slot, s.candidate(p...), s.now.Add(time.Second)); again != s.slot || outcome != certs.Unchanged {
		s.t.Errorf("the same again: %s, told twice", outcome)
	}
}

func (s *story) is(want certs.Outcome, version int) {
	s.t.Helper()
	got := 0
	if len(s.slot.Active) > 0 {
		got = s.slot.Version
	}
	if s.outcome != want || got != version {
		s.t.Errorf("%s, version %d; want %s, version %d (refused %v, warnings %v)", s.outcome, got, want, version, s.slot.Refused, s.slot.Warnings)
	}
}

func (s *story) rollback(to, version int) {
	s.t.Helper()
	next, err := certs.Rollback(s.slot, to, "operator root", s.now)
	if err != nil {
		s.t.Fatal(err)
	}
	s.slot, s.outcome = next, certs.RolledBack
	s.is(certs.RolledBack, version)
}

// tells compares the history, as "2 active, 1 retired".
func (s *story) tells(want string) {
	s.t.Helper()
	var all []string
	for _, v := range s.slot.History(s.now) {
		text := strings.TrimSpace(string('0'+rune(v.Number)) + " " + string(v.State))
		if v.Kept {
			text += "+"
		}
		all = append(all, text)
	}
	if got := strings.Join(all, ", "); got != want {
		s.t.Errorf("history: %s\nwant:    %s", got, want)
	}
}

func fingerprint(t *testing.T, p certs.Pair) string {
	b, refusal := certs.ParseBundle(p)
	if refusal != nil {
		t.Fatal(refusal)
	}
	return b.Fingerprint
}

func (s *story) revoke(p certs.Pair, stop bool) {
	s.rulings[fingerprint(s.t, p)] = certs.Ruling{Check: certs.CheckRevoked, Reason: "key compromise", Stop: stop}
}

func TestRollbackAndWhatComesAfter(t *testing.T) {
	s := newStory(t)
	one, two, three, four := s.pair(10), s.pair(20), s.pair(30), s.pair(40)
	s.offer(certs.Activated, 1, one)
	if _, err := certs.Rollback(s.slot, 0, "x", s.now); err == nil {
		t.Error("rolled back to nothing")
	}
	s.offer(certs.Activated, 2, two)
	s.tells("2 active, 1 retired+")
	s.rollback(0, 1)
	s.tells("1 active, 2 rolled_back+")
	if s.slot.Refused == nil || s.slot.Refused.Check != certs.CheckRolledBack || !strings.Contains(s.slot.Refused.Message, "operator root") {
		t.Errorf("%v", s.slot.Refused)
	}
	s.offer(certs.Unchanged, 1, two) // the source goes on offering it
	s.offer(certs.Restored, 1, one)
	s.offer(certs.Refused, 1, two) // and again
	s.offer(certs.Activated, 3, three)
	s.tells("3 active, 1 retired+, 2 rolled_back+")
	if len(s.slot.Holds()) != 0 {
		t.Error("holds outlive the version that came instead")
	}
	s.rollback(2, 2) // somebody names it: that is a decision
	s.rollback(3, 3)
	for _, to := range []int{3, 9} {
		if _, err := certs.Rollback(s.slot, to, "x", s.now); err == nil {
			t.Errorf("rolled back to %d", to)
		}
	}
	s.offer(certs.Restored, 3, three)
	s.offer(certs.Activated, 4, four)
	s.tells("4 active, 3 retired+, 2 rolled_back+, 1 retired")
	s.now = s.now.Add(35 * time.Hour)
	if _, err := certs.Rollback(s.slot, 0, "x", s.now); err == nil || !strings.Contains(err.Error(), "valid") {
		t.Errorf("rolled back to what has ended: %v", err)
	}
}

func TestASlotWithoutAnOfferIsUpheld(t *testing.T) {
	s := newStory(t)
	old, bad := s.pair(100), s.pair(200)
	s.offer(certs.Activated, 1, old)
	s.offer(certs.Activated, 2, bad)
	uphold := func(want certs.Outcome, version int) {
		t.Helper()
		s.slot, s.outcome = certs.Uphold(s.slot, s.candidate(), s.now)
		s.is(want, version)
		if again, outcome := certs.Uphold(s.slot, s.candidate(), s.now); again != s.slot || outcome != certs.Unchanged {
			t.Errorf("the same again: %s, told twice", outcome)
		}
	}
	uphold(certs.Unchanged, 2)
	s.rulings[s.slot.Fingerprint()] = certs.Ruling{Check: certs.CheckRevoked, Reason: "stolen", Stop: true}
	uphold(certs.Revoked, 1)
	s.offer(certs.Unchanged, 1, bad) // the source is back, with what was revoked
	s.rulings[s.slot.Fingerprint()] = certs.Ruling{Check: certs.CheckRevoked, Reason: "stolen too", Stop: true}
	uphold(certs.Revoked, 0)
}

func TestARollbackNeedsTheNames(t *testing.T) {
	s := newStory(t)
	s.offer(certs.Activated, 1, s.pair(10))
	s.names = []string{"a.test", "b.test"}
	s.offer(certs.Activated, 2, s.ca.Issue(certtest.Leaf{Names: s.names}))
	if _, err := certs.Rollback(s.slot, 0, "x", s.now); err == nil || !strings.Contains(err.Error(), "b.test") {
		t.Errorf("%v", err)
	}
}

func TestARollbackHoldsOnlyWhatDiffers(t *testing.T) {
	s := newStory(t)
	rsa := s.ca.Issue(certtest.Leaf{Names: s.names, KeyType: "rsa-2048"})
	one, two := s.pair(10), s.pair(20)
	s.offer(certs.Activated, 1, one, rsa)
	s.offer(certs.Activated, 2, two, rsa)
	s.rollback(0, 1)
	if h := s.slot.Holds(); len(h) != 1 || h[0].Fingerprint != fingerprint(t, two) {
		t.Errorf("%+v", h)
	}
	s.offer(certs.Unchanged, 1, two, rsa)
	s.offer(certs.Restored, 1, one, rsa)
	s.offer(certs.Activated, 3, s.pair(30), rsa)
}

func TestRevokedWithAnotherGoodVersion(t *testing.T) {
	s := newStory(t)
	one, two := s.pair(10), s.pair(20)
	s.offer(certs.Activated, 1, one)
	s.offer(certs.Activated, 2, two)
	s.revoke(two, false)
	s.offer(certs.Revoked, 1, two)
	s.tells("1 active, 2 revoked")
	if s.slot.Refused == nil || s.slot.Refused.Check != certs.CheckRevoked {
		t.Errorf("%v", s.slot.Refused)
	}
	if _, err := certs.Rollback(s.slot, 2, "x", s.now); err == nil {
		t.Error("rolled back to what was revoked")
	}
	s.offer(certs.Activated, 3, s.pair(30))
	s.tells("3 active, 1 retired+, 2 revoked")
	// Once the ruling is lifted, what the source offers is judged again.
	s.revoke(one, false)
	s.offer(certs.Refused, 3, one)
	clear(s.rulings)
	s.offer(certs.Warned, 4, one)
}

func TestRevokedWithNothingElse(t *testing.T) {
	s := newStory(t)
	one := s.pair(10)
	s.offer(certs.Activated, 1, one)
	s.revoke(one, false)
	s.offer(certs.Warned, 1, one)
	if w := s.slot.Warnings; len(w) != 1 || !strings.Contains(w[0], "serves on") {
		t.Errorf("%q", w)
	}
	clear(s.rulings)
	s.slot, s.outcome = certs.Advance(s.slot, s.candidate(one), s.now)
	if s.is(certs.Unchanged, 1); len(s.slot.Warnings) != 0 {
		t.Errorf("a warning stays: %q", s.slot.Warnings)
	}
	// An operator's word: nothing rather than this.
	s.revoke(one, true)
	s.offer(certs.Revoked, 0, one)
	s.tells("1 revoked")
	if c, _, err := s.slot.Certificate(nil); c != nil || err != nil {
		t.Error("a revoked certificate is shown")
	}
	two := s.pair(20)
	s.offer(certs.Activated, 2, two)
	s.tells("2 active, 1 revoked")
	// A node that starts knows no slot, but the rulings.
	s.slot = nil
	s.offer(certs.Refused, 0, one)
	s.revoke(one, false)
	s.slot = nil
	s.offer(certs.Warned, 1, one)
	s.offer(certs.Activated, 2, two)
	s.tells("2 active, 1 revoked")
	s.revoke(one, true)
	s.slot = nil
	s.offer(certs.Refused, 0, one)
	clear(s.rulings)
	s.offer(certs.Activated, 1, one)
}

func TestARevokedVersionIsNoMeasure(t *testing.T) {
	s := newStory(t)
	long, short := s.pair(40), s.pair(20)
	s.offer(certs.Activated, 1, long)
	s.revoke(long, true)
	c := s.candidate(short)
	c.Source = "two" // which must not offer an older one, were the newer one good
	s.slot, s.outcome = certs.Advance(s.slot, c, s.now)
	s.is(certs.Activated, 2)
	s.tells("2 active, 1 revoked")
}

func TestStatesOverTime(t *testing.T) {
	s := newStory(t)
	one := s.pair(10)
	s.offer(certs.Activated, 1, one)
	soon := s.ca.Issue(certtest.Leaf{Names: s.names, NotBefore: s.now.Add(5 * time.Hour)})
	s.offer(certs.Refused, 1, soon)
	s.tells("1 active, 0 pending")
	if p, ok := s.slot.Pending(); !ok || p.Fingerprint != fingerprint(t, soon) {
		t.Errorf("%+v %v", p, ok)
	}
	s.now = s.now.Add(6 * time.Hour)
	s.offer(certs.Activated, 2, soon)
	s.tells("2 active, 1 retired+")
	for i := range 20 {
		s.slot, _ = certs.Advance(s.slot, s.candidate(certs.Pair{Cert: value("garbage" + strings.Repeat("!", i)), Key: value("x")}), s.now)
		s.slot, _ = certs.Advance(s.slot, s.candidate(s.ca.Issue(certtest.Leaf{Names: []string{"other.test"}})), s.now)
	}
	s.tells("2 active, 0 refused, 0 refused, 0 refused, 1 retired+")
	s.offer(certs.Restored, 2, soon)
	s.now = s.now.Add(40 * 24 * time.Hour)
	s.offer(certs.Expired, 2, soon)
	if h := s.slot.History(s.now); h[0].State != certs.VersionExpired {
		t.Errorf("%+v", h[0])
	}
	for i := range 20 {
		s.slot, _ = certs.Advance(s.slot, s.candidate(s.ca.Issue(certtest.Leaf{Names: s.names, NotAfter: s.now.Add(time.Duration(100+i) * time.Hour)})), s.now)
	}
	if h := s.slot.History(s.now); len(h) != 8 || h[0].Number != 22 || !h[2].Kept || h[3].Kept {
		t.Errorf("%d versions: %+v", len(h), h)
	}
}

func TestRehearsalTellsEveryCheckAndActivatesNothing(t *testing.T) {
	s := newStory(t)
	s.offer(certs.Activated, 1, s.pair(100))
	f := func(what string, want certs.Outcome, failed string, p ...certs.Pair) {
		t.Helper()
		r := certs.Rehearse(s.slot, s.candidate(p...), s.now)
		var bad []string
		seen := map[certs.Check]int{}
		for _, res := range r.Results {
			seen[res.Check]++
			if res.Verdict == certs.Failed || res.Verdict == certs.Warning {
				bad = append(bad, string(res.Check)+"="+string(res.Verdict))
				if res.Message == "" {
					t.Errorf("%s: %s says nothing", what, res.Check)
				}
			}
		}
		for check, n := range seen {
			if n != 1 {
				t.Errorf("%s: %s told %d times", what, check, n)
			}
		}
		if len(seen) != 15 {
			t.Errorf("%s: %d checks told: %v", what, len(seen), seen)
		}
		if got := strings.Join(bad, " "); got != failed || r.Outcome != want {
			t.Errorf("%s: %s, %q; want %s, %q", what, r.Outcome, got, want, failed)
		}
	}
	good := s.pair(200)
	f("a good one", certs.Activated, "", good)
	f("garbage", certs.Refused, "parse=failed", certs.Pair{Cert: value("x"), Key: value("y")})
	f("nothing", certs.Refused, "parse=failed")
	f("another's key", certs.Refused, "key_mismatch=failed", certs.Pair{Cert: good.Cert, Key: s.pair(200).Key})
	f("two of a kind", certs.Refused, "parse=failed", good, s.pair(201))
	f("several faults", certs.Refused, "expired=failed names=failed stand_in=failed", s.ca.Issue(certtest.Leaf{
		Names: []string{"b.test"}, NotBefore: s.now.Add(-2 * time.Hour), NotAfter: s.now.Add(-time.Hour), SelfSigned: true,
	}))
	s.revoke(good, true)
	f("revoked", certs.Refused, "revoked=failed", good)
	s.slot, _ = certs.Advance(s.slot, s.candidate(good), s.now)
	before := s.slot
	f("what was refused already", certs.Refused, "revoked=failed", good)
	if s.slot != before {
		t.Error("a rehearsal changed the slot")
	}
	s.slot = nil
	f("with nothing before", certs.Warned, "expired=warning", s.ca.Issue(certtest.Leaf{Names: s.names, NotBefore: s.now.Add(-2 * time.Hour), NotAfter: s.now.Add(-time.Hour)}))
	if !slices.Equal(s.names, []string{"a.test"}) {
		t.Error(s.names)
	}
}

func TestMustStapleWaitsForItsStaple(t *testing.T) {
	s := newStory(t)
	stapled := map[string]bool{}
	offer := func(want certs.Outcome, version int, p certs.Pair) {
		t.Helper()
		c := s.candidate(p)
		c.Stapled = func(f string) bool { return stapled[f] }
		s.slot, s.outcome = certs.Advance(s.slot, c, s.now)
		s.is(want, version)
	}
	must := func() certs.Pair {
		return s.ca.Issue(certtest.Leaf{Names: s.names, OCSP: "http://ocsp.test", MustStaple: true, NotAfter: s.now.Add(900 * time.Hour)})
	}
	never := s.ca.Issue(certtest.Leaf{Names: s.names, MustStaple: true})
	s.now = s.now.Add(time.Minute)
	offer(certs.Activated, 1, s.pair(100))
	offer(certs.Refused, 1, never)
	if r := s.slot.Refused; r.Check != certs.CheckStaple || len(s.slot.Wanted()) != 1 {
		t.Errorf("%v, %d wanted", r, len(s.slot.Wanted()))
	}
	next := must()
	offer(certs.Refused, 1, next)
	if w := s.slot.Wanted(); len(w) != 2 || w[1].Fingerprint != fingerprint(t, next) {
		t.Errorf("the pair that waits is not wanted: %d", len(w))
	}
	offer(certs.Unchanged, 1, next)
	stapled[fingerprint(t, next)] = true
	offer(certs.Activated, 2, next)
	if len(s.slot.Warnings) > 0 || len(s.slot.Wanted()) != 2 {
		t.Errorf("%q, %d wanted", s.slot.Warnings, len(s.slot.Wanted()))
	}
	// The end of what serves is worse than no staple.
	s.slot = nil
	offer(certs.Activated, 1, s.pair(10))
	next = must()
	offer(certs.Refused, 1, next)
	s.now = s.now.Add(9*time.Hour + time.Second)
	offer(certs.Warned, 2, next)
	// As is nothing at all.
	s.slot = nil
	offer(certs.Warned, 1, never)
}

func TestHandshakesShowTheStaple(t *testing.T) {
	s := newStory(t)
	s.offer(certs.Activated, 1, s.pair(10))
	b := s.slot.Active[0]
	show := func() string {
		t.Helper()
		base := certs.Base{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
			c, _, err := s.slot.Certificate(h)
			return c, err
		}}
		state, err := handshakeWith(t, mustPolicy(t, certs.PolicySpec{}), base, &tls.Config{RootCAs: s.ca.Pool(), ServerName: "a.test"})
		if err != nil {
			t.Fatal(err)
		}
		return string(state.OCSPResponse)
	}
	if got := show(); got != "" {
		t.Errorf("%q is shown", got)
	}
	b.SetStaple([]byte("staple one"))
	if got := show(); got != "staple one" {
		t.Errorf("%q is shown", got)
	}
	if n := testing.AllocsPerRun(100, func() { _, _, _ = s.slot.Certificate(nil); b.SetStaple([]byte("staple one")) }); n > 1 {
		t.Errorf("the certificate of a handshake costs %v allocations", n)
	}
	b.SetStaple([]byte("staple two"))
	if got := show(); got != "staple two" {
		t.Errorf("%q is shown", got)
	}
	b.SetStaple(nil)
	if got := show(); got != "" {
		t.Errorf("%q is shown", got)
	}
}

func TestAVersionThatFailsItsTrialIsLeft(t *testing.T) {
	s := newStory(t)
	told := 0
	offer := func(want certs.Outcome, version int, p certs.Pair) {
		t.Helper()
		c := s.candidate(p)
		c.Trial, c.Tripped = secrets.TrialRule{Failures: 5}, func() { told++ }
		s.slot, s.outcome = certs.Advance(s.slot, c, s.now)
		s.is(want, version)
	}
	one, two, three := s.pair(10), s.pair(20), s.pair(30)
	offer(certs.Activated, 1, one)
	if s.slot.Trial != nil {
		t.Error("a trial with nothing to go back to")
	}
	offer(certs.Activated, 2, two)
	for range 4 {
		s.slot.Trial.Bad()
	}
	offer(certs.Unchanged, 2, two)
	s.slot.Trial.Bad()
	if told != 1 {
		t.Errorf("told %d times", told)
	}
	offer(certs.RolledBack, 1, two)
	if r := s.slot.Refused; r == nil || r.Check != certs.CheckRolledBack || !strings.Contains(r.Message, "5 of 5") || len(s.slot.Holds()) != 1 || s.slot.Trial != nil {
		t.Errorf("%v, %+v", r, s.slot.Holds())
	}
	s.tells("1 active, 2 rolled_back+")
	offer(certs.Unchanged, 1, two)
	offer(certs.Activated, 3, three)
	s.tells("3 active, 1 retired+, 2 rolled_back+")
	// It is never gone back to what was revoked, nor to what failed.
	s.revoke(one, false)
	for range 5 {
		s.slot.Trial.Bad()
	}
	offer(certs.Warned, 3, three)
	offer(certs.Unchanged, 3, three)
}
