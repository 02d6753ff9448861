package secrets

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// probeMost is the longest step between two probes. With the time that a probe may
// hang and the spread of the looks after it, all is fresh a minute after the source
// is back.
const probeMost = 45 * time.Second

// afterMost is the longest that a source may ask to be left alone: a mistake there
// must not end with the credentials here.
const afterMost = time.Hour

// away is how a mount is treated whose source does not answer: one probe at a
// time, further and further apart, whatever the number of leases that are due.
// The probes take turns, so that one resource that always fails does not keep the
// others from being looked at.
type away struct {
	failures int       // in a row, of any resource; 0 when the source answers
	since    time.Time // of the first of them
	until    time.Time // no look before
	probing  bool
	parked   []*entry // due and waiting, in turn
	failed   *entry   // whose look failed last
	last     error
}

// unanswered says that an error tells of the source and not of one resource.
func unanswered(err error) bool {
	var throttled *Throttled
	return errors.Is(err, ErrUnavailable) || errors.As(err, &throttled) || errors.Is(err, context.DeadlineExceeded)
}

// held answers whether a look must wait for the source to be back; then the
// entry is parked.
func (l *loop) held(e *entry, now time.Time) bool {
	a := &e.mount.away
	if a.failures == 0 {
		return false
	}
	if !a.probing && !now.Before(a.until) {
		a.probing = true
		return false
	}
	if !e.parked {
		e.parked = true
		a.parked = append(a.parked, e)
		l.await(e, false) // nobody needs to wait for it: it has its reason
		if e.err == nil {
			e.err = a.last
		}
		e.dismiss(fmt.Errorf("forcing %s: %w", e.request.Resource, ErrUnavailable))
	}
	return true
}

// answered takes what a look says about the source as a whole.
func (l *loop) answered(r result, now time.Time) {
	m := r.mount
	if m.gone {
		return
	}
	a := &m.away
	defer l.showAway(m)
	// A look that was cancelled says nothing about the source.
	if r.err == nil || !unanswered(r.err) {
		if a.failures > 0 {
			l.tell(Event{Kind: "source", Subject: m.name, Source: m.name, Result: "recovered", Took: now.Sub(a.since)})
			l.cfg.Log.Info("source answers again", "source", m.name, "away", now.Sub(a.since))
		}
		a.failures, a.probing, a.last, a.failed = 0, false, nil, nil
		l.release(m, now)
		return
	}
	if a.failures == 0 {
		a.since = now
		l.tell(Event{Kind: "source", Subject: m.name, Source: m.name, Result: "stale", Reason: plain(r.err)})
	}
	// Looks that were under way together when it went away are one failure.
	if a.failures == 0 || a.probing {
		// One resource that fails again and again tells of itself: it waits by its own
		// step, and the others do not wait longer for it.
		if a.failures == 0 || r.entry != a.failed {
			a.failures++
		}
		a.failed = r.entry
		a.until = now.Add(probeWait(a.failures, r.err, rand.Float64()))
	}
	a.probing, a.last = false, r.err
}

// heard takes a hint of the source: who hints is there, so the next probe need not
// wait its step out, unless the source asked to be left alone.
func (a *away) heard(now time.Time) {
	var throttled *Throttled
	if a.failures == 0 || errors.As(a.last, &throttled) {
		return
	}
	if soon := latest(now, a.failed.began.Add(backoffFirst)); soon.Before(a.until) {
		a.until = soon
	}
}

// showAway makes the state of a source visible.
func (l *loop) showAway(m *mount) {
	a := &m.away
	l.count(m, func(s *SourceStats) {
		s.Away, s.AwaySince, s.NextProbe, s.Parked, s.LastError = a.failures > 0, time.Time{}, time.Time{}, len(a.parked), ""
		if s.Away {
			s.AwaySince, s.NextProbe, s.LastError = a.since, a.until, plain(a.last)
		}
	})
}

// probeWait is the wait before the next probe. Half of the step is certain: with
// full jitter two probes could follow each other within a moment.
func probeWait(failures int, err error, rnd float64) time.Duration {
	step := probeMost
	if failures < 7 {
		step = min(step, backoffFirst<<(failures-1))
	}
	wait := max(backoffFirst, scale(step, 0.5+rnd/2))
	var throttled *Throttled
	if errors.As(err, &throttled) {
		after := min(throttled.After, afterMost)
		wait = max(wait, after+scale(after, rnd/10))
	}
	return wait
}

// release lets the parked looks go, spread where they are many.
func (l *loop) release(m *mount, now time.Time) {
	const apart, most = 5 * time.Millisecond, 5 * time.Second
	spread := min(time.Duration(len(m.away.parked))*apart, most)
	for _, e := range m.away.parked {
		e.parked = false
		if e.dropped || e.mount != m {
			continue
		}
		e.nextLook = now.Add(scale(spread, rand.Float64()))
		l.reschedule(e, now)
	}
	m.away.parked = nil
}

// probeDue starts the next probe of each source that is away.
func (l *loop) probeDue(now time.Time) {
	for _, m := range l.mounts {
		a := &m.away
		for a.failures > 0 && !a.probing && !now.Before(a.until) && len(a.parked) > 0 {
			i := max(slices.IndexFunc(a.parked, func(e *entry) bool { return e.failures == 0 }), 0)
			e := a.parked[i]
			a.parked = slices.Delete(a.parked, i, i+1)
			e.parked = false
			if e.dropped || e.mount != m || e.inFlight || e.queued {
				continue
			}
			a.probing = true
			l.look(e, now)
			l.reschedule(e, now)
		}
	}
}

// nextProbe is when the next probe is due, zero for none.
func (l *loop) nextProbe() time.Time {
	var at time.Time
	for _, m := range l.mounts {
		if a := &m.away; a.failures > 0 && !a.probing && len(a.parked) > 0 && (at.IsZero() || a.until.Before(at)) {
			at = a.until
		}
	}
	return at
}
