package certs

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"slices"
	"time"

	"github.com/keyway-edge/keyway/secrets"
)

// Candidate is what the sources offer for a slot now.
type Candidate struct {
	Name     string   // what logs and metrics call the slot
	Source   string   // who offers it
	Pairs    []Pair   // one, or two of different key types
	Names    []string // server names bound to it, wildcards among them
	Modified time.Time
	// Rulings, nil for none, answers what was decided about a version.
	Rulings Rulings
	// Stapled, nil for "don't ask", answers whether the staple of a leaf is at hand.
	Stapled func(fingerprint string) bool
	// Trial is what a version that takes another's place has to pass, zero for
	// nothing. Tripped is called when it does not, and must not block: the next
	// Advance goes back.
	Trial   secrets.TrialRule
	Tripped func()
}

// mark tells two candidates apart.
func (c *Candidate) mark() [32]byte {
	var text []byte
	add := func(s string) {
		text = binary.AppendUvarint(text, uint64(len(s)))
		text = append(text, s...)
	}
	add(c.Source)
	text = binary.AppendUvarint(text, uint64(len(c.Pairs)))
	for _, p := range c.Pairs {
		add(p.Cert.Fingerprint())
		add(p.Key.Fingerprint())
	}
	for _, n := range c.Names {
		add(n)
	}
	return sha256.Sum256(text)
}

// Outcome is what became of a candidate.
type Outcome string

// The outcomes.
const (
	Unchanged  Outcome = "unchanged"
	Activated  Outcome = "activated"
	Refused    Outcome = "refused"
	Warned     Outcome = "warning"     // activated, or serving on, with a new warning
	Restored   Outcome = "restored"    // what serves is offered again after a refusal
	RolledBack Outcome = "rolled_back" // an earlier version serves again
	Revoked    Outcome = "revoked"     // the active version was revoked and serves no longer
	Expired    Outcome = "expired"     // the active version ended, and serves on for want of another
)

// Slot is one configured certificate in time: what serves, what served before, and
// what was refused since. Immutable.
type Slot struct {
	Name     string
	Source   string
	Version  int       // n of name@n, which names one pair for good: a rollback brings the old number back
	Active   []*Bundle // ECDSA before Ed25519 before RSA; empty when nothing was ever good, or what was is revoked
	Since    time.Time // of the activation
	Refused  *Refusal  // of the newest candidate, nil when that one is active
	Warnings []string  // about the active version, as it was judged last

	// Trial counts the handshakes with the active version in its first minute; nil
	// when there was none to go back to.
	Trial *secrets.Trial

	mark  [32]byte // of the candidate that is active, zero for none
	names []string // bound to the slot when it was judged last
	last  int      // the highest Version so far
	past  []Version
	kept  []kept // earlier pairs that can serve again, newest first
	holds []Hold
	noted string // the last of Warnings, when it is about a ruling
	ended bool   // Expired was told
}

// Fingerprint is the SHA-256 of the active leaf, "" for none.
func (s *Slot) Fingerprint() string {
	if s == nil || len(s.Active) == 0 {
		return ""
	}
	return s.Active[0].Fingerprint
}

// Certificate picks from the active pairs the one that the client can use. It
// answers nil and no error when there is none, which makes crypto/tls send
// unrecognized_name: the alert that says so.
func (s *Slot) Certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, *Bundle, error) {
	if s == nil || len(s.Active) == 0 {
		return nil, nil, nil
	}
	if len(s.Active) > 1 && hello != nil {
		// The name is not judged here: the slot was chosen by it.
		anyName := *hello
		anyName.ServerName = ""
		for _, b := range s.Active {
			cert, err := b.TLS()
			if err != nil {
				return nil, nil, err
			}
			if anyName.SupportsCertificate(cert) == nil {
				return cert, b, nil
			}
		}
	}
	cert, err := s.Active[0].TLS()
	return cert, s.Active[0], err
}

// Advance stages a candidate. It answers the next slot: prev itself when nothing
// is new, one with the candidate active when every check passes, else one that
// serves what prev served and says what was refused. prev is nil for a slot that
// never was. A function of its arguments.
//
// A candidate that was refused is not judged again, unless time alone may have
// cured what it was refused for, a ruling was lifted or a staple came. When only the names bound
// to the active pairs are new, or who offers them, the slot is a new one and the
// outcome Unchanged.
//
// An active version that a ruling condemns is left: for the candidate when that is
// another and passes, else for the newest earlier one that is still good. A version
// that fails its trial is left in the same way.
func Advance(prev *Slot, c Candidate, now time.Time) (*Slot, Outcome) {
	if prev == nil {
		prev = &Slot{Name: c.Name, Source: c.Source}
	}
	mark := c.mark()
	next, outcome := offer(prev, &c, mark, now)
	return next.uphold(&c, mark, outcome, now)
}

// Uphold is Advance for a slot whose source offers nothing now: c has no pairs. What
// serves goes on unless a ruling condemns it, it fails its trial, or it ends.
func Uphold(s *Slot, c Candidate, now time.Time) (*Slot, Outcome) {
	return s.uphold(&c, s.mark, Unchanged, now)
}

// uphold leaves what is condemned and tells what has ended.
func (s *Slot) uphold(c *Candidate, mark [32]byte, outcome Outcome, now time.Time) (*Slot, Outcome) {
	next := s
	if r, b := s.condemned(c); b != nil {
		next, outcome = s.leave(c, mark, r, b, now, outcome)
	} else if s.noted != "" {
		next = s.copy()
		next.note("")
	}
	if outcome == Unchanged && !next.ended && next.over(now) {
		next = next.copy()
		next.ended = true
		return next, Expired
	}
	return next, outcome
}

// offer is Advance without rulings on what is active.
func offer(prev *Slot, c *Candidate, mark [32]byte, now time.Time) (*Slot, Outcome) {
	switch {
	case prev.Refused == nil && prev.mark == mark:
		return prev, Unchanged
	case prev.Refused != nil && prev.Refused.mark == mark && !prev.Refused.due(now) && !prev.lifted(c):
		return prev, Unchanged
	case prev.Refused != nil && prev.mark == mark:
		next := prev.copy()
		next.Refused = nil
		return next, Restored
	}
	v, refusal := judge(prev, c, now)
	if refusal != nil {
		refusal.At, refusal.mark = now, mark
		if r := prev.Refused; r != nil && r.mark == mark && r.Check == refusal.Check && r.retry.Equal(refusal.retry) {
			return prev, Unchanged
		}
		next := prev.copy()
		next.Refused = refusal
		next.past = prev.remember(refusedVersion(c, v.bundles, refusal))
		return next, Refused
	}
	if v.same {
		return prev.same(c, mark, v)
	}
	next := prev.activate(c, mark, v, now)
	if len(v.warnings) > 0 {
		return next, Warned
	}
	return next, Activated
}

// same takes new facts about the pairs that are active already.
func (s *Slot) same(c *Candidate, mark [32]byte, v verdict) (*Slot, Outcome) {
	next := s.copy()
	next.Name, next.Source, next.mark, next.names, next.Refused, next.Warnings, next.noted = c.Name, c.Source, mark, c.Names, nil, v.warnings, ""
	switch {
	case s.Refused != nil:
		return next, Restored
	case len(v.warnings) > 0 && !slices.Equal(v.warnings, s.Warnings):
		return next, Warned
	}
	return next, Unchanged
}

func (s *Slot) copy() *Slot {
	next := *s
	return &next
}

// over says that no active pair is in its time any longer.
func (s *Slot) over(now time.Time) bool {
	return len(s.Active) > 0 && !slices.ContainsFunc(s.Active, func(b *Bundle) bool { return !now.After(b.NotAfter) })
}
