package secrets

import (
	"bytes"
	"cmp"
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

	lease    Lease // the one in use; its Value is zero before the first good one
	prior    Lease // the one before, for as long as a trial may go back to it
	trial    *Trial
	refused  Value         // whole secret that was rolled back: not taken again; zero for none
	full     time.Duration // what the lease's time was when it was new
	good     time.Time
	err      error  // of the last look, nil when it was good
	refusal  string // why the last answered value is not in use
	failures int
	alarmed  bool // said so in the log
	kept     bool // the value is from last-known-good and its source was not heard yet
	removed  bool // its source said that it was taken away on purpose, and nothing good since
	after    time.Duration

	looked   bool // a look ended since it was wanted or its vault changed
	primed   bool // not yet, and there is a value to start with
	inFlight bool
	queued   bool
	parked   bool // waits until its source answers again
	again    bool // a hint came while in flight
	force    bool // the next look goes past what the source remembers
	dropped  bool
	began    time.Time // of the last look
	forced   time.Time // when the last forced look began
	nextLook time.Time
	wake     time.Time // nextLook, or sooner when a state changes by time alone
	index    int       // in the agenda, -1 when not there
	waiting  []waiter  // who forced a look
	orphans  []revoke  // leases of the sources before, in use until this one answers
}

// take applies what a look answered and says which lease is of no more use, if
// one is: the old one, or a new one that was refused.
func (e *entry) take(lease Lease, err error, m moment) (useless Lease, ok bool) {
	e.looked, e.after = true, 0
	if err != nil {
		e.err, e.refusal = err, ""
		e.failures++
		var throttled *Throttled
		if errors.As(err, &throttled) {
			e.after = min(throttled.After, afterMost)
		}
		if errors.Is(err, ErrRemoved) {
			// No later trouble with the source brings the value back, nor does a trial.
			e.removed, e.prior, e.trial = true, Lease{}, nil
			for _, w := range e.wanted {
				w.forgo(m)
			}
		}
		return Lease{}, false
	}
	if why := e.unfit(lease); why != nil {
		e.err, e.refusal = why, ""
		if !e.lease.Value.IsZero() {
			e.err, e.refusal = nil, fmt.Sprintf("the new version was refused: %v", why)
			e.noteRefused(lease, m)
		}
		e.failures++
		return lease, lease.ID != e.lease.ID
	}
	old := e.lease
	e.adoptLease(lease, old, m)
	return old, old.ID != lease.ID
}

// adoptLease puts a lease into use.
func (e *entry) adoptLease(lease, old Lease, m moment) {
	renewed := lease.ID != "" && lease.ID == old.ID
	switch {
	case !renewed:
		e.full = lease.TTL
	case lease.TTL < e.full/2:
		// Near the end of what it may be extended to, a renewal gives less and less:
		// the successor is fetched while this one is still good.
		lease.Renewable = false
	}
	e.lease = lease
	e.good, e.err, e.refusal, e.failures, e.kept = m.now, nil, "", 0, false
	e.refused, e.removed = Value{}, false
	if !old.Value.IsZero() && !bytes.Equal(old.Value.Reveal(), lease.Value.Reveal()) {
		e.prior, e.trial = old, NewTrial(m.now, m.rule, m.tripped)
	}
	for _, w := range e.wanted {
		w.read(e, m)
	}
}

// noteRefused lists a refusal once for each reference.
func (e *entry) noteRefused(lease Lease, m moment) {
	for _, w := range e.wanted {
		if len(w.facts) == 0 || w.facts[0].State != "refused" || w.facts[0].Reason != e.refusal {
			w.note(VersionFacts{State: "refused", Since: m.now, Origin: lease.Origin, Reason: e.refusal})
		}
	}
}

var errRolledBack = errors.New("it failed when it was used and was rolled back; put another value")

// unfit says why a lease must not replace the one in use. A lease is taken as a
// whole or not at all: a new user name with the old password would be worse than
// both old.
func (e *entry) unfit(lease Lease) error {
	if _, err := field(lease.Value, ""); err != nil {
		return err
	}
	if !e.refused.IsZero() && bytes.Equal(e.refused.Reveal(), lease.Value.Reveal()) {
		return errRolledBack
	}
	for _, w := range e.wanted {
		if _, err := field(lease.Value, w.ref.Key); err != nil && !w.use.value.IsZero() {
			return err
		}
	}
	return nil
}

// adopt begins to want a reference; a lease in use answers it at once.
func (e *entry) adopt(r Ref, m moment) {
	w := &wanted{ref: r}
	e.wanted[r.String()] = w
	if !e.lease.Value.IsZero() {
		w.read(e, m)
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
	sooner := func(t time.Time) {
		if !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	if now.Before(e.lease.NotAfter) {
		sooner(e.lease.NotAfter)
	}
	if at := e.alarmAt(); now.Before(at) && e.failing() {
		sooner(at)
	}
	if end := e.good.Add(e.life.ResurrectTTL); !e.good.IsZero() && (e.failing() || e.kept) && now.Before(end) {
		sooner(end)
	}
	for _, w := range e.wanted {
		sooner(w.nextEnd())
	}
	return at
}

// alarmAt is when a lease without a successor is an alarm, zero for one without an
// end: while a third of its time is left for somebody to do something.
func (e *entry) alarmAt() time.Time { return alarmAt(e.good, e.lease.NotAfter) }

func alarmAt(good, end time.Time) time.Time {
	if end.IsZero() || good.IsZero() {
		return time.Time{}
	}
	return end.Add(-end.Sub(good) / 3)
}

// failing says that the last look did not bring the value in use.
func (e *entry) failing() bool { return e.err != nil || e.refusal != "" || e.broken != nil }

// why is what keeps the latest value of the source from being in use.
func (e *entry) why() string {
	switch {
	case e.broken != nil:
		return plain(e.broken)
	case e.err != nil:
		return plain(e.err)
	}
	return e.refusal
}

// judge answers the state of one reference and why it is not Active.
func (e *entry) judge(w *wanted, now time.Time) (State, string) {
	why := e.why()
	switch {
	case w.use.value.IsZero() && w.bad != "" && why == "":
		return Missing, w.bad
	case w.use.value.IsZero() && !e.looked && e.broken == nil:
		return Pending, "nothing was fetched yet"
	case w.use.value.IsZero():
		return Missing, why
	case e.removed:
		return Missing, cmp.Or(why, "its source said that it was removed")
	case !e.lease.NotAfter.IsZero() && !now.Before(e.lease.NotAfter):
		return Expired, joined("its hard end was "+e.lease.NotAfter.UTC().Format(time.RFC3339), why)
	case e.kept && !e.failing() && now.Before(e.good.Add(e.life.ResurrectTTL)):
		return Stale, "the last known good value is in use until its source answers"
	case !e.failing() && !e.kept:
		return Active, joined(w.pinnedWhy(), e.lease.Remark)
	case !now.Before(e.good.Add(e.life.ResurrectTTL)):
		state := Expired
		if errors.Is(e.err, ErrNotFound) {
			state = Missing
		}
		return state, joined("the last good value may not be used longer than resurrect_ttl", why)
	case e.refusal != "":
		return Refused, joined(w.pinnedWhy(), why)
	}
	return Stale, joined(w.pinnedWhy(), why)
}

func (w *wanted) pinnedWhy() string {
	if w.pinned == 0 {
		return ""
	}
	return fmt.Sprintf("version %d is pinned; the source has version %d", w.pinned, w.latest.version)
}

// credential is the picture of one reference. It answers whether something
// changed that a user of the value or an operator must hear of.
func (e *entry) credential(w *wanted, now time.Time) (c *Credential, material bool) {
	c = &Credential{
		Ref: w.ref, Name: w.ref.String(), Version: w.use.version, Source: e.key.vault,
		Fetched: e.good, Modified: w.use.modified, NextLook: e.nextLook, NotAfter: e.lease.NotAfter,
		History: w.facts, Pinned: w.pinned, Origin: w.use.origin, TTL: e.lease.TTL, Renewable: e.lease.Renewable, Remark: e.lease.Remark,
	}
	c.State, c.Reason = e.judge(w, now)
	if c.State == Active || c.State == Stale || c.State == Refused {
		c.Value, c.Previous = w.use.value, w.previous()
		if w.use.version == w.latest.version {
			c.Trial = e.trial // a pinned version is not on trial
		}
	}
	was := w.shown
	material = was == nil || was.Version != c.Version || was.State != c.State || !was.NotAfter.Equal(c.NotAfter) ||
		was.Pinned != c.Pinned || len(was.Previous) != len(c.Previous) || was.Trial != c.Trial
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
	if a == "" || b == "" {
		return a + b
	}
	return a + "; " + b
}
