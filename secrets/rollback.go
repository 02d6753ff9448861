package secrets

import (
	"bytes"
	"fmt"
	"slices"
	"time"
)

// trials goes back where a new version failed.
func (l *loop) trials(now time.Time) {
	if l.cfg.Trial.Failures <= 0 {
		return
	}
	for _, e := range l.entries {
		if !e.trial.Tripped() {
			continue
		}
		if useless, ok := e.goBack(l.moment(now)); ok {
			// The lease that is used again must not be revoked.
			l.revokes = slices.DeleteFunc(l.revokes, func(r revoke) bool { return r.mount == e.mount && r.lease.ID == e.lease.ID })
			l.giveBack(e.mount, useless, now.Add(e.life.Overlap))
		}
		e.failures++
		e.schedule(now, 1)
		l.judge(e, now)
		l.reschedule(e, now)
	}
}

// keep is how long the lease that e's present one replaced is not given back: as
// long as clients may use its values, and as long as a trial may go back to it.
func (e *entry) keep() time.Duration {
	if e.trial == nil {
		return e.life.Overlap
	}
	return max(e.life.Overlap, e.trial.rule.Window+time.Second)
}

// goBack returns to the lease before, because the one in use failed its trial. It
// answers the lease that is of no more use.
func (e *entry) goBack(m moment) (useless Lease, ok bool) {
	good, bad := e.trial.Counts()
	e.trial = nil
	prior := e.prior
	if prior.Value.IsZero() || !prior.NotAfter.IsZero() && !m.now.Before(prior.NotAfter) {
		return Lease{}, false
	}
	for _, w := range e.wanted {
		if _, err := field(prior.Value, w.ref.Key); err != nil {
			return Lease{}, false // wanted since, and the lease before has no such field
		}
	}
	useless = e.lease
	e.refused, e.lease, e.prior = e.lease.Value, prior, Lease{}
	e.err, e.refusal = nil, fmt.Sprintf("the new version was refused: %v", errRolledBack)
	reason := fmt.Sprintf("%d of its first %d uses failed", bad, good+bad)
	for _, w := range e.wanted {
		w.goBack(e, reason, m)
	}
	return useless, useless.ID != e.lease.ID
}

// goBack makes what the lease now in use says the value again. Not every reference
// changed with the lease that failed, so the value before is not always the right one.
func (w *wanted) goBack(e *entry, reason string, m moment) {
	v, err := field(e.lease.Value, w.ref.Key)
	failed := w.latest
	if err != nil || bytes.Equal(v.Reveal(), failed.value.Reveal()) {
		return
	}
	back := held{value: v, modified: e.lease.Modified, origin: e.lease.Origin}
	same := func(h held) bool { return bytes.Equal(h.value.Reveal(), v.Reveal()) }
	if all := append([]held{w.use}, w.older...); slices.ContainsFunc(all, same) {
		back = all[slices.IndexFunc(all, same)]
	} else {
		back.version = m.history.version(w.ref, v)
	}
	back.until = time.Time{}
	w.latest = back
	w.mark(failed.version, "rolled_back", m.now, time.Time{}, failed.origin)
	w.explain(failed.version, reason)
	if w.pinned == 0 {
		w.use = back
		w.older = slices.DeleteFunc(w.older, func(h held) bool { return h.version == back.version })
		w.mark(back.version, "active", m.now, time.Time{}, back.origin)
	}
	m.tell(Event{
		Kind: "secret", Subject: w.ref.String(), Source: e.key.vault, Result: "rolled_back", Check: "trial", Reason: reason,
		OldVersion: failed.version, NewVersion: back.version, Origin: back.origin,
	})
}
