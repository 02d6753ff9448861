package acme

import (
	"slices"
	"strings"
	"sync"
	"time"
)

// Stats tells how the issuers of a node do, over reloads of their configuration. Safe
// for concurrent use; a nil one counts nothing.
type Stats struct {
	mu      sync.Mutex // guards all below; never taken while a Source's is held
	counts  map[string]*tally
	running map[*Source]struct{}
}

// tally counts the attempts of one issuer that ended.
type tally struct{ issued, failed uint64 }

// IssuerStats is how one issuer does.
type IssuerStats struct {
	Name           string
	Issued, Failed uint64    // attempts of this node
	Wanted         int       // sets of names
	Failing        int       // of them, those whose last attempt failed, here or at a replica
	Next           time.Time // the next attempt: a renewal, or another try; zero while nothing is wanted
}

// NewStats makes a Stats without issuers.
func NewStats() *Stats {
	return &Stats{counts: map[string]*tally{}, running: map[*Source]struct{}{}}
}

// began takes an issuer in, ended lets it go; what was counted stays.
func (t *Stats) began(s *Source) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counts[s.cfg.Name] == nil {
		t.counts[s.cfg.Name] = &tally{}
	}
	t.running[s] = struct{}{}
}

func (t *Stats) ended(s *Source) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.running, s)
}

// count counts an attempt of a running issuer.
func (t *Stats) count(s *Source, good bool) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if c := t.counts[s.cfg.Name]; good {
		c.issued++
	} else {
		c.failed++
	}
}

// All tells of every issuer that runs or ran, by name.
func (t *Stats) All() []IssuerStats {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]IssuerStats, 0, len(t.counts))
	for name, c := range t.counts {
		x := IssuerStats{Name: name, Issued: c.issued, Failed: c.failed}
		for s := range t.running {
			if s.cfg.Name == name {
				s.tell(&x)
			}
		}
		all = append(all, x)
	}
	slices.SortFunc(all, func(a, b IssuerStats) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// tell adds what is wanted of an issuer now.
func (s *Source) tell(x *IssuerStats) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, it := range s.items {
		x.Wanted++
		if it.rec.Failures > 0 {
			x.Failing++
		}
		at := s.planned(&it.rec)
		if at.IsZero() {
			at = it.next // there was no attempt yet
		}
		if x.Next.IsZero() || at.Before(x.Next) {
			x.Next = at
		}
	}
}

// planned is when a set of names is to be ordered next, zero for at once.
func (s *Source) planned(rec *record) time.Time {
	at := rec.RenewAt
	if rec.Cert == "" || !s.configured(rec.Directory) {
		at = time.Time{}
	}
	if rec.Next.After(at) {
		at = rec.Next
	}
	return at
}
