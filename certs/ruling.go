package certs

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Ruling is a decision about a version that its pair alone does not tell.
type Ruling struct {
	Check  Check  // CheckRevoked or CheckRolledBack
	Reason string // who or what decided, and why
	Stop   bool   // rather serve nothing than this version; else it serves where nothing else can

	trial bool // nobody's word but the version's own: held like an operator's rollback
}

// Rulings answers what was decided about the version with a leaf of this
// fingerprint. It is asked for every pair at every build and must be quick.
type Rulings func(fingerprint string) (Ruling, bool)

// Hold is a ruling that a rollback made, kept in the slot until another version is
// activated; the last hour of what came instead ends its force, so that nobody can
// keep renewals out for good by making trials fail. A restart forgets slots: whoever wants holds to last gives them back
// as Rulings.
type Hold struct {
	Fingerprint string
	Ruling      Ruling
}

func (r Ruling) state() VersionState {
	if r.Check == CheckRevoked {
		return VersionRevoked
	}
	return VersionRolledBack
}

// spare is how long what comes instead has to last: nothing that is about to end is
// better than a version that was rolled back, anything is than one that was revoked.
func (r Ruling) spare() time.Duration {
	if r.Check == CheckRevoked {
		return 0
	}
	return lastHour
}

func (r Ruling) outcome() Outcome {
	if r.Check == CheckRevoked {
		return Revoked
	}
	return RolledBack
}

func (r Ruling) refusal(b *Bundle) *Refusal {
	if r.Check == CheckRevoked {
		return refuse(CheckRevoked, "certificate %s was revoked: %s; issue a new one, with a new key", b.Serial, r.Reason)
	}
	return refuse(CheckRolledBack, "certificate %s was rolled back: %s; offer another one", b.Serial, r.Reason)
}

// Holds answers the rulings that rollbacks of this slot made.
func (s *Slot) Holds() []Hold {
	if s == nil {
		return nil
	}
	return slices.Clone(s.holds)
}

// ruling answers the first ruling on any of the pairs, and the pair.
func (s *Slot) ruling(c *Candidate, bundles []*Bundle) (Ruling, *Bundle) {
	for _, b := range bundles {
		if c != nil && c.Rulings != nil {
			if r, ok := c.Rulings(b.Fingerprint); ok {
				return r, b
			}
		}
		for _, h := range s.holds {
			if h.Fingerprint == b.Fingerprint {
				return h.Ruling, b
			}
		}
	}
	return Ruling{}, nil
}

// condemned answers the ruling on what is active, and the pair that it is on. A
// version that fails its trial condemns itself.
func (s *Slot) condemned(c *Candidate) (Ruling, *Bundle) {
	r, b := s.ruling(c, s.Active)
	if b == nil && s.Trial.Tripped() {
		good, bad := s.Trial.Counts()
		return Ruling{Check: CheckRolledBack, Reason: fmt.Sprintf("handshakes failed soon after its activation: %d of %d", bad, good+bad), trial: true}, s.Active[0]
	}
	return r, b
}

// lifted says that what was refused by a ruling is under none any more, or that
// the staple that it was refused for has come.
func (s *Slot) lifted(c *Candidate) bool {
	r := s.Refused
	if r.Check == CheckStaple {
		return len(r.bundles) > 0 && (c.Stapled == nil || !slices.ContainsFunc(r.bundles, func(b *Bundle) bool { return !c.Stapled(b.Fingerprint) }))
	}
	_, b := s.ruling(c, r.bundles)
	return len(r.bundles) > 0 && b == nil
}

// standing is the slot as a candidate is compared with it: what is active, unless
// it must not serve, when it is what would come back in its place.
func (s *Slot) standing(c *Candidate, now time.Time) *Slot {
	r, b := s.condemned(c)
	if b == nil {
		return s
	}
	as := s.copy()
	if k, err := s.fallback(c, 0, now, r.spare()); err == nil {
		as.Active, as.Source = k.bundles, k.source
	} else if r.Stop {
		as.Active = nil
	}
	return as
}

// leave goes from a condemned version to the newest good one, if there is one.
func (s *Slot) leave(c *Candidate, mark [32]byte, r Ruling, b *Bundle, now time.Time, outcome Outcome) (*Slot, Outcome) {
	k, err := s.fallback(c, 0, now, r.spare())
	if err != nil && !r.Stop {
		text := r.refusal(b).Error() + "; it serves on: " + err.Error()
		if s.noted == text {
			return s, outcome
		}
		next := s.copy()
		next.note(text)
		return next, Warned
	}
	next := &Slot{Name: s.Name, Source: s.Source, Version: s.Version, last: s.last, names: s.names, past: s.past, kept: s.kept, holds: s.holds, Refused: s.Refused}
	if err == nil {
		next = s.back(k, r, now)
		if r.trial {
			next.holds = s.hold(k, r)
		}
	} else {
		next.past = s.remember(s.left(r, now))
	}
	if mark == s.mark {
		next.refuseLeft(s, r, b, now)
	}
	return next, r.outcome()
}

// refuseLeft says of what was left, and is still what the source offers, that it is
// not taken: until a ruling on it is lifted, where there is one.
func (s *Slot) refuseLeft(left *Slot, r Ruling, b *Bundle, now time.Time) {
	s.Refused = r.refusal(b)
	s.Refused.At, s.Refused.mark = now, left.mark
	if r.Check == CheckRolledBack && len(s.Active) > 0 {
		s.Refused.retry = s.Active[0].NotAfter.Add(-lastHour)
	}
	if len(s.holds) > 0 || r.Check == CheckRevoked {
		s.Refused.bundles = left.Active
	}
}

// note replaces the warning about a ruling; "" removes it.
func (s *Slot) note(text string) {
	if s.noted != "" {
		s.Warnings = s.Warnings[:len(s.Warnings)-1]
	}
	if s.noted = text; text != "" {
		s.Warnings = append(slices.Clone(s.Warnings), text)
	}
}

func (s *Slot) left(r Ruling, now time.Time) Version {
	v := s.version(r.state())
	v.Until, v.Reason = now, r.Reason
	return v
}

// back makes the slot in which an earlier version serves again.
func (s *Slot) back(k *kept, r Ruling, now time.Time) *Slot {
	next := &Slot{
		Name: s.Name, Source: k.source, Version: k.number, Active: k.bundles, Since: now,
		mark: k.mark, names: s.names, last: s.last, past: s.remember(s.left(r, now)), kept: s.kept, holds: s.holds, Refused: s.Refused,
	}
	if r.Check != CheckRevoked {
		next.kept = s.keep(true)
	}
	next.kept = slices.DeleteFunc(slices.Clone(next.kept), func(o kept) bool { return o.number == k.number })
	next.past = next.forget(next.past)
	return next
}

var (
	errNoVersion = errors.New("no earlier version is kept")
	errNotKept   = errors.New("it is not kept: the last two before the active one are, since the node began")
)

// fallback finds an earlier version that can serve: version to, or with 0 the
// newest that is under no ruling, in its time for spare longer, and for every name
// that the active one is for.
func (s *Slot) fallback(c *Candidate, to int, now time.Time, spare time.Duration) (*kept, error) {
	err := errNoVersion
	for i := range s.kept {
		k := &s.kept[i]
		if to > 0 && k.number != to || to == 0 && k.left {
			continue
		}
		why := s.unfit(c, k, now, spare)
		// Who names a version may bring back what was rolled back, never what was revoked.
		if r, b := s.ruling(c, k.bundles); why == "" && b != nil && (to == 0 || r.Check == CheckRevoked) {
			why = r.refusal(b).Message
		}
		if why == "" {
			return k, nil
		}
		err = fmt.Errorf("version %d cannot serve: %s", k.number, why)
	}
	if to > 0 && errors.Is(err, errNoVersion) {
		return nil, fmt.Errorf("version %d: %w", to, errNotKept)
	}
	return nil, err
}

func (s *Slot) unfit(c *Candidate, k *kept, now time.Time, spare time.Duration) string {
	names := s.names
	if c != nil {
		names = c.Names
	}
	for _, b := range k.bundles {
		if now.Before(b.NotBefore) || now.Add(spare).After(b.NotAfter) {
			return fmt.Sprintf("certificate %s is valid from %s to %s", b.Serial, b.NotBefore.UTC().Format(time.RFC3339), b.NotAfter.UTC().Format(time.RFC3339))
		}
		for _, n := range names {
			if strings.HasSuffix(n, "*") || covers(b.DNSNames, n) {
				continue
			}
			if slices.ContainsFunc(s.Active, func(a *Bundle) bool { return covers(a.DNSNames, n) }) {
				return fmt.Sprintf("certificate %s does not cover %s", b.Serial, n)
			}
		}
	}
	return ""
}

// Rollback answers the slot in which version to serves again, with 0 the newest
// earlier one that is good, or why that cannot be. What served until now is not
// taken again until another version was activated (Holds), or until Rollback names
// it. why says who or what wanted it. A function of its arguments.
func Rollback(s *Slot, to int, why string, now time.Time) (*Slot, error) {
	if s == nil || len(s.Active) == 0 {
		return nil, errors.New("rolling back: nothing is active")
	}
	if to == s.Version {
		return nil, fmt.Errorf("rolling back %s: version %d is active already", s.Name, to)
	}
	k, err := s.fallback(nil, to, now, 0)
	if err != nil {
		return nil, fmt.Errorf("rolling back %s: %w", s.Name, err)
	}
	r := Ruling{Check: CheckRolledBack, Reason: why}
	next := s.back(k, r, now)
	next.holds = s.hold(k, r)
	if s.Refused == nil {
		next.refuseLeft(s, r, s.Active[0], now)
	}
	return next, nil
}

// hold answers the holds with those on what is active and not in k: a pair that
// both have is not at fault.
func (s *Slot) hold(k *kept, r Ruling) []Hold {
	same := func(fingerprint string) bool {
		return slices.ContainsFunc(k.bundles, func(b *Bundle) bool { return b.Fingerprint == fingerprint })
	}
	holds := slices.DeleteFunc(slices.Clone(s.holds), func(h Hold) bool { return same(h.Fingerprint) })
	for _, b := range s.Active {
		if !same(b.Fingerprint) {
			holds = append(holds, Hold{b.Fingerprint, r})
		}
	}
	return holds[max(0, len(holds)-mostHolds):]
}
