package certs

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"slices"
	"time"
)

// Candidate is what the sources offer for a slot now.
type Candidate struct {
	Name     string   // what logs and metrics call the slot
	Source   string   // who offers it
	Pairs    []Pair   // one, or two of different key types
	Names    []string // server names bound to it, wildcards among them
	Modified time.Time
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
	Unchanged Outcome = "unchanged"
	Activated Outcome = "activated"
	Refused   Outcome = "refused"
	Warned    Outcome = "warning"  // activated, or serving on, with a new warning
	Restored  Outcome = "restored" // what serves is offered again after a refusal
)

// Slot is one configured certificate in time: what serves, and what was refused
// since. Immutable.
type Slot struct {
	Name     string
	Source   string
	Version  int       // counts activations: n of name@n
	Active   []*Bundle // ECDSA before Ed25519 before RSA; empty when nothing was ever good
	Since    time.Time // of the activation
	Refused  *Refusal  // of the newest candidate, nil when that one is active
	Warnings []string  // about the active version, as it was judged last

	mark [32]byte // of the candidate that is active, zero for none
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
// cured what it was refused for. When only the names bound to the active pairs
// are new, or who offers them, the slot is a new one and the outcome Unchanged.
func Advance(prev *Slot, c Candidate, now time.Time) (*Slot, Outcome) {
	mark := c.mark()
	if prev == nil {
		prev = &Slot{Name: c.Name, Source: c.Source}
	}
	switch {
	case prev.Refused == nil && prev.mark == mark:
		return prev, Unchanged
	case prev.Refused != nil && prev.Refused.mark == mark && !prev.Refused.due(now):
		return prev, Unchanged
	case prev.Refused != nil && prev.mark == mark:
		next := *prev
		next.Refused = nil
		return &next, Restored
	}
	v, refusal := judge(prev, &c, now)
	if refusal != nil {
		refusal.At, refusal.mark = now, mark
		if r := prev.Refused; r != nil && r.mark == mark && r.Check == refusal.Check && r.retry.Equal(refusal.retry) {
			return prev, Unchanged
		}
		next := *prev
		next.Refused = refusal
		return &next, Refused
	}
	next := &Slot{Name: c.Name, Source: c.Source, Version: prev.Version + 1, Active: v.bundles, Since: now, Warnings: v.warnings, mark: mark}
	if !v.same {
		if len(v.warnings) > 0 {
			return next, Warned
		}
		return next, Activated
	}
	next.Version, next.Active, next.Since = prev.Version, prev.Active, prev.Since
	switch {
	case prev.Refused != nil:
		return next, Restored
	case len(v.warnings) > 0 && !slices.Equal(v.warnings, prev.Warnings):
		return next, Warned
	}
	return next, Unchanged
}
