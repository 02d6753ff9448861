package secrets

import (
	"iter"
	"maps"
	"slices"
	"time"
)

// State is where a credential is in its life.
type State string

// The states of a credential.
const (
	Pending State = "pending" // asked for, nothing fetched yet
	Active  State = "active"  // the latest fetch is in use
	Stale   State = "stale"   // the source fails; the last good value is in use
	Refused State = "refused" // the source's latest value was refused; the last good one is in use
	Missing State = "missing" // there is no value: what needs it is closed
	Expired State = "expired" // the hard end has passed: what needs it is closed
)

// Credential is what the broker knows of one reference, immutable.
type Credential struct {
	Ref      Ref
	Name     string // display name: the reference itself, which is not secret
	Value    Value  // zero in states Pending, Missing, Expired
	Version  int    // counts the distinct values seen since the ledger began: 1, 2, ...
	Source   string // name of the source
	State    State
	Reason   string    // why the state is not Active, without values
	Fetched  time.Time // last good fetch
	Modified time.Time // when the source made this version; else when it was first seen
	NextLook time.Time // when the broker looks again
	NotAfter time.Time // hard end, zero for none

	Previous  []Old          // replaced values still in their overlap, newest first
	History   []VersionFacts // newest first, at most 8
	Pinned    int            // the version that an operator holds, 0 for none
	Trial     *Trial         // of the version in use, nil when none is on
	Origin    string         // the source's id of the read that brought the version
	TTL       time.Duration  // of the lease as it was answered last, 0 for none
	Renewable bool
	Remark    string // trouble with the successor of a good version
}

// Old is a replaced value that clients may still use.
type Old struct {
	Version int
	Value   Value
	Until   time.Time
}

// VersionFacts is what can be told of one version. The states are pending (known,
// not in use), active, overlap (replaced, still accepted), retired, refused and
// rolled_back.
type VersionFacts struct {
	Version int // 0 for one that was refused before it had a number
	State   string
	Since   time.Time
	Until   time.Time // of an overlap, zero for none
	Origin  string
	Reason  string
}

// Set is an immutable picture of every credential in use. A nil *Set is empty.
type Set struct {
	Generation uint64                 // counts changes of a version or a state, not looks that found nothing new
	byRef      map[string]*Credential // key: Ref.String()
}

// Get answers the credential of a reference, nil if it was never asked for.
func (s *Set) Get(r Ref) *Credential {
	if s == nil {
		return nil
	}
	return s.byRef[r.String()]
}

// Len is the number of credentials.
func (s *Set) Len() int {
	if s == nil {
		return 0
	}
	return len(s.byRef)
}

// NewSet makes a set of the given credentials, which must not change afterwards.
func NewSet(generation uint64, credentials ...*Credential) *Set {
	s := &Set{Generation: generation, byRef: make(map[string]*Credential, len(credentials))}
	for _, c := range credentials {
		s.byRef[c.Ref.String()] = c
	}
	return s
}

// All yields every credential, by name in order.
func (s *Set) All() iter.Seq[*Credential] {
	return func(yield func(*Credential) bool) {
		if s == nil {
			return
		}
		for _, name := range slices.Sorted(maps.Keys(s.byRef)) {
			if !yield(s.byRef[name]) {
				return
			}
		}
	}
}
