package certs_test

import (
	"testing"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/secrets"
)

// Whoever can make trials fail must not be able to keep renewals out until the end.
func TestAHoldEndsBeforeWhatItKeepsServing(t *testing.T) {
	for _, persisted := range []bool{false, true} {
		s := newStory(t)
		offer := func(want certs.Outcome, version int, p certs.Pair) {
			t.Helper()
			c := s.candidate(p)
			c.Trial = secrets.TrialRule{Failures: 1}
			s.slot, s.outcome = certs.Advance(s.slot, c, s.now)
			s.is(want, version)
		}
		one, two := s.pair(10), s.pair(20)
		offer(certs.Activated, 1, one)
		offer(certs.Activated, 2, two)
		s.slot.Trial.Bad()
		offer(certs.RolledBack, 1, two)
		if persisted {
			for _, h := range s.slot.Holds() {
				s.rulings[h.Fingerprint] = h.Ruling
			}
		}
		s.now = s.now.Add(8 * time.Hour)
		offer(certs.Unchanged, 1, two)
		s.now = s.now.Add(time.Hour + time.Second)
		offer(certs.Warned, 3, two)
		if s.slot.Trial == nil && !persisted {
			t.Error("it is tried no more")
		}
		s.slot.Trial.Bad()
		s.now = s.now.Add(time.Minute)
		s.slot, s.outcome = certs.Advance(s.slot, s.candidate(two), s.now)
		if s.slot.Version != 3 || len(s.slot.Active) == 0 {
			t.Errorf("%s, version %d: back to what is about to end", s.outcome, s.slot.Version)
		}
	}
}
