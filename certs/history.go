package certs

import (
	"slices"
	"time"

	"github.com/keyway-edge/keyway/secrets"
)

// VersionState is where a version of a certificate is in its life.
type VersionState string

// The states of a version.
const (
	VersionPending    VersionState = "pending"     // not yet valid; taken when it is
	VersionActive     VersionState = "active"      // serves
	VersionExpired    VersionState = "expired"     // serves past its end, for want of another
	VersionRetired    VersionState = "retired"     // served until another was activated
	VersionRefused    VersionState = "refused"     // failed a check
	VersionRolledBack VersionState = "rolled_back" // served until an earlier one was brought back
	VersionRevoked    VersionState = "revoked"     // served until it was revoked
)

// Version is one version of a certificate, as history tells it.
type Version struct {
	Number      int // n of name@n, 0 for one that never served
	State       VersionState
	Source      string
	Fingerprint string // of the first leaf; "" for what could not be parsed
	Serial      string
	NotAfter    time.Time
	Since       time.Time // when it began to serve; when it was refused, for one that never did
	Until       time.Time // when it ceased to serve, zero for what serves or never did
	Reason      string    // why it serves no longer, or never did
	Kept        bool      // a rollback can bring it back
}

const (
	mostPast    = 7 // and the active one: 8 versions are told of
	mostRefused = 3 // of them: a source that sends garbage must not push out what served
	mostKept    = 2
	mostHolds   = 8
)

// kept is an earlier version that can serve again: DER, nothing parsed.
type kept struct {
	number  int
	mark    [32]byte
	source  string
	left    bool // for this one's own sake: only somebody who names it brings it back
	bundles []*Bundle
}

// History answers the versions of the slot, newest first and the active one before
// all others, at most 8.
func (s *Slot) History(now time.Time) []Version {
	if s == nil {
		return nil
	}
	var all []Version
	if len(s.Active) > 0 {
		v := s.version(VersionActive)
		if s.over(now) {
			v.State = VersionExpired
		}
		all = append(all, v)
	}
	all = append(all, s.past...)
	for i := range all {
		all[i].Kept = all[i].Number > 0 && slices.ContainsFunc(s.kept, func(k kept) bool { return k.number == all[i].Number })
	}
	return all
}

// Pending is the newest version that is not yet valid, and false when there is none.
func (s *Slot) Pending() (Version, bool) {
	if s == nil || s.Refused == nil || s.Refused.Check != CheckNotYetValid || len(s.past) == 0 || s.past[0].State != VersionPending {
		return Version{}, false
	}
	return s.past[0], true
}

// Pairs answers the pairs of a version, the active one or one that a rollback can bring
// back; none for another.
func (s *Slot) Pairs(version int) []*Bundle {
	if s == nil {
		return nil
	}
	if version == s.Version {
		return slices.Clone(s.Active)
	}
	for _, k := range s.kept {
		if k.number == version {
			return slices.Clone(k.bundles)
		}
	}
	return nil
}

// version tells of what is active.
func (s *Slot) version(state VersionState) Version {
	v := Version{Number: s.Version, State: state, Source: s.Source, Since: s.Since}
	v.of(s.Active)
	return v
}

func (v *Version) of(bundles []*Bundle) {
	if len(bundles) > 0 {
		v.Fingerprint, v.Serial, v.NotAfter = bundles[0].Fingerprint, bundles[0].Serial, bundles[0].NotAfter
	}
}

func refusedVersion(c *Candidate, bundles []*Bundle, r *Refusal) Version {
	v := Version{State: VersionRefused, Source: c.Source, Since: r.At, Reason: r.Error()}
	if r.Check == CheckNotYetValid {
		v.State = VersionPending
	}
	v.of(bundles)
	return v
}

// remember answers the past with v before it, bounded. What is told of v anew
// replaces what was told of it before; that a version which was left is still
// offered, and still not taken, is no news.
func (s *Slot) remember(v Version) []Version {
	if v.Number == 0 && slices.ContainsFunc(s.past, func(o Version) bool {
		return o.Fingerprint == v.Fingerprint && (o.State == VersionRevoked || o.State == VersionRolledBack)
	}) {
		return s.past
	}
	past, refused := append(make([]Version, 0, len(s.past)+1), v), 0
	if v.Number == 0 {
		refused++
	}
	for _, o := range s.past {
		if o.Number == v.Number && (o.Number > 0 || o.Fingerprint == v.Fingerprint) {
			continue
		}
		if o.Number == 0 {
			if refused++; refused > mostRefused {
				continue
			}
		}
		past = append(past, o)
	}
	return past[:min(len(past), mostPast)]
}

// forget answers the past without what is active now.
func (s *Slot) forget(past []Version) []Version {
	return slices.DeleteFunc(slices.Clone(past), func(v Version) bool {
		return v.Number == s.Version || v.Number == 0 && v.Fingerprint == s.Fingerprint()
	})
}

// activate makes the slot whose active version is the candidate.
func (s *Slot) activate(c *Candidate, mark [32]byte, v verdict, now time.Time) *Slot {
	next := &Slot{
		Name: c.Name, Source: c.Source, Version: s.last + 1, Active: v.bundles, Since: now, Warnings: v.warnings,
		mark: mark, names: c.Names, last: s.last + 1, past: s.past, kept: s.kept,
	}
	next.ended = next.over(now)
	if len(s.Active) > 0 {
		left := s.version(VersionRetired)
		left.Until = now
		r, b := s.condemned(c)
		if b != nil {
			left.State, left.Reason = r.state(), r.Reason
		} else {
			next.Trial = secrets.NewTrial(now, c.Trial, c.Tripped)
		}
		next.past = s.remember(left)
		if left.State != VersionRevoked {
			next.kept = s.keep(left.State == VersionRolledBack)
		}
	}
	next.past = next.forget(next.past)
	return next
}

// keep answers the kept versions with the active one before them.
func (s *Slot) keep(left bool) []kept {
	k := kept{number: s.Version, mark: s.mark, source: s.Source, left: left, bundles: make([]*Bundle, len(s.Active))}
	for i, b := range s.Active {
		k.bundles[i] = b.idle()
	}
	all := append(make([]kept, 0, mostKept), k)
	for _, o := range s.kept {
		if len(all) < mostKept && o.number != k.number {
			all = append(all, o)
		}
	}
	return all
}
