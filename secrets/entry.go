package secrets

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"
)

// entryKey is what one fetch is for: references that differ only in their key share it.
type entryKey struct {
	vault, resource, query string
	version                int
}

func keyOf(r Ref) entryKey { return entryKey{r.Vault, r.Resource, r.Query, r.Version} }

// entry is one resource in use: its lease, and the references that take fields of it.
// Owned by Run.
type entry struct {
	key     entryKey
	mount   *mount
	request Request
	life    Life
	broken  error // why it can never be looked at as it is configured
	wanted  map[string]*wanted

	lease    Lease // the one in use; its Value is zero before the first good fetch
	good     time.Time
	err      error  // of the last look, nil when it was good
	refusal  string // why the last answered value is not in use
	failures int
	alarmed  bool // said so in the log
	after    time.Duration

	looked   bool // a look ended since it was wanted or its vault changed
	inFlight bool
	queued   bool
	again    bool // a hint came while in flight
	dropped  bool
	began    time.Time // of the last look
	nextLook time.Time
	wake     time.Time // nextLook, or sooner when a state changes by time alone
	index    int       // in the agenda, -1 when not there
}

// wanted is one reference to an entry.
type wanted struct {
	ref      Ref
	value    Value // last good one
	version  int
	modified time.Time
	bad      string // why the lease in use has nothing for it
	shown    *Credential
}

// take applies what a look answered and says which lease is of no more use, if
// one is: the old one, or a new one that was refused.
func (e *entry) take(lease Lease, err error, now time.Time, h history) (useless Lease, ok bool) {
	e.looked, e.after = true, 0
	if err != nil {
		e.err, e.refusal = err, ""
		e.failures++
		var throttled *Throttled
		if errors.As(err, &throttled) {
			e.after = throttled.After
		}
		return Lease{}, false
	}
	if why := e.unfit(lease); why != nil {
		e.err, e.refusal = why, ""
		if !e.lease.Value.IsZero() {
			e.err, e.refusal = nil, fmt.Sprintf("the new version was refused: %v", why)
		}
		e.failures++
		return lease, lease.ID != e.lease.ID
	}
	old := e.lease
	e.lease = lease
	e.good, e.err, e.refusal, e.failures = now, nil, "", 0
	for _, w := range e.wanted {
		w.read(lease, now, h)
	}
	return old, old.ID != lease.ID
}

// unfit says why a lease must not replace the one in use. A lease is taken as a
// whole or not at all: a new user name with the old password would be worse than
// both old.
func (e *entry) unfit(lease Lease) error {
	if _, err := field(lease.Value, ""); err != nil {
		return err
	}
	for _, w := range e.wanted {
		if _, err := field(lease.Value, w.ref.Key); err != nil && !w.value.IsZero() {
			return err
		}
	}
	return nil
}

// read takes a reference's field out of the lease now in use.
func (w *wanted) read(lease Lease, now time.Time, h history) {
	v, err := field(lease.Value, w.ref.Key)
	if err != nil {
		w.bad = err.Error()
		return
	}
	w.accept(v, lease.Modified, now, h)
}

// accept makes v the value in use, as a new version when it differs.
func (w *wanted) accept(v Value, modified, now time.Time, h history) {
	w.bad = ""
	if !w.value.IsZero() && bytes.Equal(w.value.Reveal(), v.Reveal()) {
		return
	}
	w.value, w.modified = v, modified
	if modified.IsZero() {
		w.modified = now
	}
	w.version = h.version(w.ref, v)
}

// adopt begins to want a reference; a lease in use answers it at once.
func (e *entry) adopt(r Ref, now time.Time, h history) {
	w := &wanted{ref: r}
	e.wanted[r.String()] = w
	if !e.lease.Value.IsZero() {
		w.read(e.lease, now, h)
	}
}

// absent says that the source answered and what is wanted is not there.
func (e *entry) absent() bool {
	if errors.Is(e.err, ErrNotFound) {
		return true
	}
	if e.err == nil && e.refusal == "" {
		for _, w := range e.wanted {
			if w.bad != "" {
				return true
			}
		}
	}
	return false
}

// schedule sets when to look again after a look ended.
func (e *entry) schedule(now time.Time, rnd float64) {
	e.nextLook = now.Add(nextWake(standing{lease: e.lease, life: e.life, failures: e.failures, absent: e.absent(), after: e.after}, now, rnd))
}

// deadline is when the state changes by time alone, zero for never.
func (e *entry) deadline(now time.Time) time.Time {
	var at time.Time
	if !e.lease.NotAfter.IsZero() && now.Before(e.lease.NotAfter) {
		at = e.lease.NotAfter
	}
	if end := e.good.Add(e.life.ResurrectTTL); !e.good.IsZero() && e.failing() && now.Before(end) && (at.IsZero() || end.Before(at)) {
		at = end
	}
	return at
}

// failing says that the last look did not bring the value in use.
func (e *entry) failing() bool { return e.err != nil || e.refusal != "" || e.broken != nil }

// judge answers the state of one reference and why it is not Active.
func (e *entry) judge(w *wanted, now time.Time) (State, string) {
	why := e.refusal
	if e.err != nil {
		why = plain(e.err)
	}
	if e.broken != nil {
		why = plain(e.broken)
	}
	switch {
	case w.value.IsZero() && w.bad != "" && why == "":
		return Missing, w.bad
	case w.value.IsZero() && !e.looked && e.broken == nil:
		return Pending, "nothing was fetched yet"
	case w.value.IsZero():
		return Missing, why
	case !e.lease.NotAfter.IsZero() && !now.Before(e.lease.NotAfter):
		return Expired, joined("its hard end was "+e.lease.NotAfter.UTC().Format(time.RFC3339), why)
	case !e.failing():
		return Active, ""
	case errors.Is(e.err, ErrRemoved):
		return Missing, why
	case !now.Before(e.good.Add(e.life.ResurrectTTL)):
		state := Expired
		if errors.Is(e.err, ErrNotFound) {
			state = Missing
		}
		return state, joined("the last good value may not be used longer than resurrect_ttl", why)
	case e.refusal != "":
		return Refused, why
	}
	return Stale, why
}

// credential is the picture of one reference. It answers whether something
// changed that a user of the value or an operator must hear of.
func (e *entry) credential(w *wanted, now time.Time) (c *Credential, material bool) {
	c = &Credential{
		Ref: w.ref, Name: w.ref.String(), Version: w.version, Source: e.key.vault,
		Fetched: e.good, Modified: w.modified, NextLook: e.nextLook, NotAfter: e.lease.NotAfter,
	}
	c.State, c.Reason = e.judge(w, now)
	if c.State == Active || c.State == Stale || c.State == Refused {
		c.Value = w.value
	}
	was := w.shown
	material = was == nil || was.Version != c.Version || was.State != c.State || !was.NotAfter.Equal(c.NotAfter)
	w.shown = c
	return c, material
}

// plain is an error as one line of bounded length, fit for a reason.
func plain(err error) string {
	const most = 300
	s := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0x85 || r == 0x2028 || r == 0x2029 {
			return ' '
		}
		return r
	}, err.Error())
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}

func joined(a, b string) string {
	if b == "" {
		return a
	}
	return a + "; " + b
}

// history counts the versions of each reference ever seen, by reference. It
// outlives the wanting, so that a version number never names two values.
type history map[string]trace

type trace struct {
	version int
	print   string // fingerprint of that version, "" when it is from before this process
}

func (h history) version(r Ref, v Value) int {
	t := h[r.String()]
	if t.version == 0 || t.print != v.Fingerprint() {
		t = trace{t.version + 1, v.Fingerprint()}
		h[r.String()] = t
	}
	return t.version
}

// agenda is a heap of entries by wake.
type agenda []*entry

func (a agenda) Len() int           { return len(a) }
func (a agenda) Less(i, j int) bool { return a[i].wake.Before(a[j].wake) }
func (a agenda) Swap(i, j int) {
	a[i], a[j] = a[j], a[i]
	a[i].index, a[j].index = i, j
}

// Push adds an entry; for container/heap.
func (a *agenda) Push(x any) {
	e := x.(*entry)
	e.index = len(*a)
	*a = append(*a, e)
}

// Pop takes the last entry; for container/heap.
func (a *agenda) Pop() any {
	last := len(*a) - 1
	e := (*a)[last]
	(*a)[last] = nil
	*a = (*a)[:last]
	e.index = -1
	return e
}
