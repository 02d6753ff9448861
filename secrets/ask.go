package secrets

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// ForceGap is the least time between two forced looks at one resource.
const ForceGap = time.Second

// ErrUnknownRef says that the broker was never asked for a reference.
var ErrUnknownRef = errors.New("no document or setting refers to it")

// waiter is who forced a look, and when a look must have begun to be an answer.
type waiter struct {
	since  time.Time
	answer chan<- error // capacity 1
}

// ask runs f in the loop.
func (b *Broker) ask(f func(*loop)) {
	b.mu.Lock()
	b.asked = append(b.asked, f)
	b.mu.Unlock()
	signal(b.poke)
}

// query runs f in the loop and waits for its answer, or for ctx to end.
func query[T any](ctx context.Context, b *Broker, f func(l *loop, answer chan<- T)) (T, error) {
	answer := make(chan T, 1)
	b.ask(func(l *loop) { f(l, answer) })
	select {
	case x := <-answer:
		return x, nil
	case <-ctx.Done():
		var zero T
		return zero, ctx.Err()
	}
}

// find answers the entry of a reference and what is known of it.
func (l *loop) find(ref string) (*entry, *wanted, error) {
	r, err := ParseRef(ref)
	if err != nil {
		return nil, nil, err
	}
	e := l.entries[keyOf(r)]
	if e == nil || e.wanted[ref] == nil {
		return nil, nil, fmt.Errorf("reference %s: %w", ref, ErrUnknownRef)
	}
	return e, e.wanted[ref], nil
}

// Force looks at a reference now, past renewals and what its source remembers, as
// when an upstream refused its value. All who ask at once share one look, and
// within a second of a forced look no other begins. It answers once what the look
// brought is in Current, or the look's error; at the latest when ctx ends.
func (b *Broker) Force(ctx context.Context, r Ref) error {
	err, late := query(ctx, b, func(l *loop, answer chan<- error) {
		now := time.Now()
		e, _, err := l.find(r.String())
		switch {
		case err != nil:
			answer <- err
		case e.broken != nil:
			answer <- e.broken
		case e.parked:
			answer <- fmt.Errorf("forcing %s: %w", r, ErrUnavailable)
		case now.Sub(e.forced) < ForceGap && !e.inFlight:
			err := e.err
			l.answers = append(l.answers, func() { answer <- err })
		case now.Sub(e.forced) < ForceGap: // that look is under way
			e.waiting = append(e.waiting, waiter{e.forced, answer})
		default:
			e.waiting = append(e.waiting, waiter{now, answer})
			e.force = true
			if !e.inFlight && !e.queued {
				e.nextLook = now
				l.reschedule(e, now)
			}
		}
	})
	if late != nil {
		return fmt.Errorf("forcing %s: %w", r, late)
	}
	return err
}

// answerForced answers who forced the look that ended, once its result is shown.
func (l *loop) answerForced(e *entry, err error) {
	var later []waiter
	for _, w := range e.waiting {
		if w.since.After(e.began) {
			later = append(later, w)
			continue
		}
		l.answers = append(l.answers, func() { w.answer <- err })
	}
	e.waiting = later
}

// dismiss answers all who forced a look that will not be.
func (e *entry) dismiss(err error) {
	for _, w := range e.waiting {
		w.answer <- err
	}
	e.waiting, e.force = nil, false
}

// Pin holds a reference at a version that is still held, whatever its source
// answers, until Unpin. It waits until that is in Current. What comes with a lease
// cannot be held: the source ends it.
func (b *Broker) Pin(ctx context.Context, ref string, version int) error {
	return b.change(ctx, ref, func(l *loop, e *entry, w *wanted, m moment) error {
		if e.lease.ID != "" {
			return fmt.Errorf("reference %s: its values come with leases, which end whatever is pinned here; make its source answer another value instead", ref)
		}
		h, ok := w.find(version)
		if !ok {
			return fmt.Errorf("reference %s: version %d is not held any more; this node holds %v", ref, version, w.versions())
		}
		was := w.use.version
		w.pinned = version
		w.activate(h, e.life.Overlap, m)
		m.tell(Event{Kind: "secret", Subject: ref, Source: w.ref.Vault, Result: "pinned", OldVersion: was, NewVersion: version})
		return nil
	})
}

// Unpin lets a reference follow its source again.
func (b *Broker) Unpin(ctx context.Context, ref string) error {
	return b.change(ctx, ref, func(l *loop, e *entry, w *wanted, m moment) error {
		if w.pinned == 0 {
			return fmt.Errorf("reference %s: it is not pinned", ref)
		}
		was := w.pinned
		w.pinned = 0
		if w.latest.version != w.use.version && !w.latest.value.IsZero() {
			w.activate(w.latest, e.life.Overlap, m)
		}
		m.tell(Event{Kind: "secret", Subject: ref, Source: w.ref.Vault, Result: "unpinned", OldVersion: was, NewVersion: w.use.version})
		return nil
	})
}

// change does something to a reference and waits until it is in Current.
func (b *Broker) change(ctx context.Context, ref string, f func(*loop, *entry, *wanted, moment) error) error {
	err, late := query(ctx, b, func(l *loop, answer chan<- error) {
		now := time.Now()
		e, w, err := l.find(ref)
		if err == nil {
			err = f(l, e, w, l.moment(now))
		}
		if err != nil {
			answer <- err
			return
		}
		l.judge(e, now)
		l.reschedule(e, now)
		l.answers = append(l.answers, func() { answer <- nil })
	})
	if late != nil {
		return fmt.Errorf("changing %s: %w", ref, late)
	}
	return err
}

// Checked is what a dry run found.
type Checked struct {
	Err       error // why the source has no value for it, or why the value would be refused; nil for good
	Changed   bool  // the value differs from the one in use
	Version   string
	Modified  time.Time
	TTL       time.Duration
	Renewable bool
	NotAfter  time.Time
	Origin    string
	Took      time.Duration
}

// Check asks the source of a reference what it would answer, and judges it,
// without putting it into use. A lease that this made is given back.
func (b *Broker) Check(ctx context.Context, ref string) (Checked, error) {
	type asked struct {
		entry   *entry
		mount   *mount
		request Request
		unfit   func(Lease) error
		use     Value
		key     string
		err     error
	}
	q, err := query(ctx, b, func(l *loop, answer chan<- asked) {
		e, w, err := l.find(ref)
		if err == nil && e.broken != nil {
			err = e.broken
		}
		if err != nil {
			answer <- asked{err: err}
			return
		}
		// The judgement needs the entry as it is now, not as it will be.
		frozen := *e
		frozen.wanted = make(map[string]*wanted, len(e.wanted))
		for text, x := range e.wanted {
			frozen.wanted[text] = &wanted{ref: x.ref, use: x.use}
		}
		request := e.request
		request.Force = true
		answer <- asked{e, e.mount, request, frozen.unfit, w.use.value, w.ref.Key, nil}
	})
	if err == nil {
		err = q.err
	}
	if err != nil {
		return Checked{}, fmt.Errorf("checking %s: %w", ref, err)
	}
	o := q.mount.look(ctx, q.request, Lease{})
	c := Checked{Err: o.err, Version: o.lease.Version, Modified: o.lease.Modified, TTL: o.lease.TTL, Renewable: o.lease.Renewable, NotAfter: o.lease.NotAfter, Origin: o.lease.Origin, Took: o.took}
	if c.Err == nil {
		c.Err = q.unfit(o.lease)
	}
	if c.Err == nil {
		var v Value
		v, c.Err = field(o.lease.Value, q.key)
		c.Changed = string(v.Reveal()) != string(q.use.Reveal())
	}
	if o.lease.ID != "" {
		b.ask(func(l *loop) { l.giveBackNow(q.mount, o.lease) })
	}
	return c, nil
}

// giveBackNow revokes a lease that nothing ever used.
func (l *loop) giveBackNow(m *mount, lease Lease) {
	if m.revoker == nil || slices.ContainsFunc(l.revokes, func(r revoke) bool { return r.mount == m && r.lease.ID == lease.ID }) {
		return
	}
	if l.heldLeases()[heldLease{m, lease.ID}] {
		return // the source answers one lease to all who ask
	}
	l.wg.Go(func() { l.revoke(l.ctx, revoke{mount: m, lease: lease}) })
}

// moment is now, with what the change of an entry needs.
func (l *loop) moment(now time.Time) moment {
	return moment{now: now, history: l.history, rule: l.cfg.Trial, tripped: func() { signal(l.poke) }, tell: l.tell}
}

// tell tells an event of this moment.
func (l *loop) tell(e Event) {
	e.Actor = "broker"
	l.cfg.Events(e)
}

// Condemn tells the source of a reference that a lease of it is compromised, where it
// can be told, beyond giving the lease back. match picks the lease by its value,
// among the one in use and the one before; false when there is none or no way to
// tell.
func (b *Broker) Condemn(ctx context.Context, r Ref, match func(Value) bool) (bool, error) {
	type found struct {
		condemner Condemner
		lease     Lease
		name      string
	}
	f, err := query(ctx, b, func(l *loop, answer chan<- found) {
		var f found
		if e, _, err := l.find(r.String()); err == nil && e.mount != nil {
			f.condemner, _ = e.mount.source.(Condemner)
			f.name = e.mount.name
			for _, lease := range []Lease{e.lease, e.prior} {
				if f.lease.Value.IsZero() && !lease.Value.IsZero() && match(lease.Value) {
					f.lease = lease
				}
			}
		}
		answer <- f
	})
	if err != nil || f.condemner == nil || f.lease.Value.IsZero() {
		return false, err
	}
	if err := f.condemner.Condemn(ctx, f.lease); err != nil {
		return false, fmt.Errorf("revoking at %s: %w", f.name, err)
	}
	b.cfg.Events(Event{Kind: "source", Subject: f.name, Source: f.name, Result: "revoked", Reason: "compromised", Origin: f.lease.Origin, Actor: "broker"})
	return true, nil
}
