package secrets

import (
	"container/heap"
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	holdoff  = 100 * time.Millisecond // how long a change waits for others that came with it
	showWait = time.Second            // how long a look that found nothing new waits to be shown
	sweepAll = time.Minute            // how often every state is judged anew, whatever the wall clock did
)

// loop is what Run owns.
type loop struct {
	*Broker
	ctx     context.Context //nolint:containedctx // a loop is the call of Run
	wg      sync.WaitGroup
	mounts  map[string]*mount
	entries map[entryKey]*entry
	agenda  agenda
	history history
	kept    map[string]Kept // last known good values not yet taken up
	// restarted says that there were some, in the first minute.
	restarted bool
	revokes   []revoke
	revokeAt  time.Time       // when the first of them is due, or sooner
	spared    map[string]bool // ids of leases that are not given back
	waiting   []chan *Set
	answers   []func()  // for those who forced a look, once its result is shown
	pending   int       // entries not looked at yet
	primed    int       // of those, the ones with a last known good value
	waitedAt  time.Time // since when somebody waits for a plan to be resolved
	goodAt    time.Time // when a first look at something was good last
	inFlight  int       // looks running or queued

	generation  uint64
	changedAt   time.Time // of the first change not yet shown, zero for none
	shownAt     time.Time // of the last set with a change
	lookedAt    time.Time // of the first uneventful look not yet shown, zero for none
	nextSweep   time.Time
	nextMention map[string]time.Time // when a source's trouble may be logged again
}

// Run is the one loop that owns every lease. It reacts to these, one at a time:
//
//   - mail: a new plan, a refresh, someone who waits for a plan to be resolved;
//   - a look ended (fetch or renewal), with a lease or an error;
//   - a source hinted that it may answer something new;
//   - the time came to look, to judge a state anew, to show a change, to revoke;
//   - ctx ended: looks in flight are cancelled and waited for.
func (b *Broker) Run(ctx context.Context) error {
	inner, cancel := context.WithCancel(ctx)
	l := &loop{
		Broker: b, ctx: inner,
		mounts:      make(map[string]*mount),
		entries:     make(map[entryKey]*entry),
		history:     make(history),
		kept:        make(map[string]Kept),
		spared:      make(map[string]bool),
		nextSweep:   time.Now().Add(sweepAll),
		nextMention: make(map[string]time.Time),
	}
	for _, k := range b.cfg.Kept {
		l.kept[k.Ref] = k
	}
	l.restarted = len(l.kept) > 0
	b.cfg.Kept = nil // only this loop reads it; old values must not stay in memory
	for ref, n := range b.cfg.Versions {
		l.history[ref] = trace{version: n}
	}
	defer func() {
		cancel()
		l.wg.Wait()
		l.revokeAll(context.WithoutCancel(ctx))
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-b.poke:
			l.mail()
		case r := <-b.results:
			l.ended(r)
		case m := <-b.hints:
			l.hinted(m)
		case <-timer.C:
		}
		now := time.Now()
		l.wakeDue(now)
		l.probeDue(now)
		l.show(now)
		l.revokeDue(now)
		timer.Reset(l.pause(now))
	}
}

// mail takes up what others asked for.
func (l *loop) mail() {
	l.mu.Lock()
	plan, refresh, asked := l.plan, l.refresh, l.asked
	l.plan, l.refresh, l.asked = nil, false, nil
	now := time.Now()
	if len(l.waiters) > 0 && len(l.waiting) == 0 {
		l.waitedAt = now
	}
	l.waiting = append(l.waiting, l.waiters...)
	l.waiters = nil
	l.mu.Unlock()
	if plan != nil {
		l.apply(*plan, now)
	}
	if refresh {
		for _, e := range l.entries {
			l.soon(e, now)
		}
	}
	for _, f := range asked {
		f(l)
	}
	l.trials(now)
}

// hinted looks again at what a source hinted at, which is all that it gave where it
// does not know better.
func (l *loop) hinted(m *mount) {
	now := time.Now()
	m.away.heard(now)
	touched := func(string) bool { return true }
	if m.pointer != nil {
		touched = m.pointer.Touched()
	}
	for _, e := range l.entries {
		if e.mount == m && touched(e.request.Resource) {
			l.soon(e, now)
		}
	}
}

// soon schedules a look for now, or for as soon as the gap between two looks and
// the source's own demand to be left alone allow.
func (l *loop) soon(e *entry, now time.Time) {
	if e.parked {
		return // its source is away: the probes know when to look
	}
	if e.inFlight || e.queued {
		e.again = true
		return
	}
	at := now
	if e.looked {
		at = latest(now, e.began.Add(max(lookGap, e.after)))
	}
	if !e.looked || at.Before(e.nextLook) {
		e.nextLook = at
	}
	l.reschedule(e, now)
}

func latest(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// reschedule puts an entry where it belongs in the agenda.
func (l *loop) reschedule(e *entry, now time.Time) {
	e.wake = e.deadline(now)
	if !e.inFlight && !e.queued && !e.parked && e.broken == nil && (e.wake.IsZero() || e.nextLook.Before(e.wake)) {
		e.wake = e.nextLook
	}
	switch {
	case e.wake.IsZero() && e.index >= 0:
		heap.Remove(&l.agenda, e.index)
	case e.wake.IsZero():
	case e.index >= 0:
		heap.Fix(&l.agenda, e.index)
	default:
		heap.Push(&l.agenda, e)
	}
}

// wakeDue starts the looks whose time has come and judges what time alone changed.
func (l *loop) wakeDue(now time.Time) {
	if !now.Before(l.nextSweep) {
		l.nextSweep = now.Add(sweepAll)
		clear(l.kept) // what no document asked for in the first minute
		l.restarted = false
		for _, e := range l.entries {
			l.reschedule(e, now)
			l.judge(e, now)
			l.alarm(e, now)
		}
	}
	for len(l.agenda) > 0 && !now.Before(l.agenda[0].wake) {
		e := l.agenda[0]
		if !e.inFlight && !e.queued && !e.parked && e.broken == nil && !now.Before(e.nextLook) && !l.held(e, now) {
			l.look(e, now)
		}
		for _, w := range e.wanted {
			w.endOverlaps(l.moment(now))
		}
		l.judge(e, now)
		l.alarm(e, now)
		l.reschedule(e, now)
	}
}

// look starts a look, or queues it behind the others of its vault.
func (l *loop) look(e *entry, now time.Time) {
	m := e.mount
	if m.inFlight >= m.parallel {
		e.queued = true
		m.queue = append(m.queue, e)
		l.inFlight++
		return
	}
	if !e.queued {
		l.inFlight++
	}
	e.queued, e.inFlight, e.again, e.began = false, true, false, now
	m.inFlight++
	l.count(m, func(s *SourceStats) { s.InFlight = m.inFlight })
	request, held := e.request, e.lease
	if e.force {
		e.force, e.forced, request.Force = false, now, true
	}
	l.wg.Go(func() {
		o := m.look(l.ctx, request, held)
		select {
		case l.results <- result{e, m, o}:
		case <-l.ctx.Done():
			if l.cfg.RevokeAtStop && m.revoker != nil && o.lease.ID != "" && o.lease.ID != held.ID {
				l.revoke(context.WithoutCancel(l.ctx), revoke{mount: m, lease: o.lease}) // nobody else knows of it
			}
		}
	})
}

// ended takes the result of a look.
func (l *loop) ended(r result) {
	now := time.Now()
	l.inFlight--
	r.mount.inFlight--
	l.tally(r)
	l.answered(r, now)
	l.next(r.mount, now)
	e := r.entry
	if e.dropped || e.mount != r.mount {
		if r.renewal != renewedOK { // a renewed one was planned for when it was dropped
			l.giveBack(r.mount, r.lease, now.Add(e.life.Overlap))
		}
		return
	}
	was := e.lease
	if r.err == nil && !e.looked {
		l.goodAt = now
	}
	l.await(e, false)
	if useless, ok := e.take(r.lease, r.err, l.moment(now)); ok {
		l.giveBack(r.mount, useless, now.Add(e.keep()))
	}
	if !e.failing() {
		l.giveOrphansBack(e, now.Add(e.keep()))
	}
	l.mention(e, was, now)
	e.inFlight = false
	e.schedule(now, rand.Float64())
	if e.force {
		e.nextLook = now
	}
	if e.again {
		e.again = false
		l.soon(e, now)
	}
	l.judge(e, now)
	l.alarm(e, now)
	l.reschedule(e, now)
	l.answerForced(e, r.err)
}

// next starts the first queued look of a vault.
func (l *loop) next(m *mount, now time.Time) {
	for len(m.queue) > 0 && m.inFlight < m.parallel {
		e := m.queue[0]
		m.queue = m.queue[1:]
		if e.dropped || e.mount != m {
			l.inFlight--
			continue
		}
		if l.held(e, now) { // its source went away while it waited
			e.queued = false
			l.inFlight--
			l.judge(e, now)
			continue
		}
		l.look(e, now)
	}
}

// judge pictures an entry's credentials and notes whether there is something to show.
func (l *loop) judge(e *entry, now time.Time) {
	for _, w := range e.wanted {
		if _, material := e.credential(w, now); material && l.changedAt.IsZero() {
			l.changedAt = now
		}
	}
	if l.lookedAt.IsZero() {
		l.lookedAt = now
	}
}

// show publishes a set. A change waits a moment while looks are in flight, so that
// a certificate and its key, changed together, are seen together.
func (l *loop) show(now time.Time) {
	settled := l.settled(now)
	change := !l.changedAt.IsZero() && (settled || l.inFlight == 0 && now.Sub(l.shownAt) >= l.gap() || now.Sub(l.changedAt) >= holdoff)
	if change || !l.lookedAt.IsZero() && now.Sub(l.lookedAt) >= showWait && l.changedAt.IsZero() {
		set := &Set{Generation: l.generation, byRef: make(map[string]*Credential, len(l.entries))}
		if change {
			l.generation++
			set.Generation = l.generation
		}
		for _, e := range l.entries {
			for text, w := range e.wanted {
				set.byRef[text] = w.shown
			}
		}
		l.current.Store(set)
		l.lookedAt = time.Time{}
		if change {
			l.changedAt, l.shownAt = time.Time{}, now
			signal(l.changed)
		}
	}
	if settled {
		for _, w := range l.waiting {
			w <- l.Current()
		}
		l.waiting = nil
	}
	if l.changedAt.IsZero() {
		for _, answer := range l.answers {
			answer()
		}
		l.answers = nil
	}
}

// gap is the least time between two sets: a set costs in proportion to its size,
// and ten thousand secrets that change within a minute are not ten thousand sets.
func (l *loop) gap() time.Duration {
	const few = 250
	return min(time.Duration(max(len(l.entries)-few, 0))*10*time.Microsecond, holdoff)
}

// pause is how long nothing has to be done.
func (l *loop) pause(now time.Time) time.Duration {
	at := l.nextSweep
	sooner := func(t time.Time) {
		if t.Before(at) {
			at = t
		}
	}
	if len(l.agenda) > 0 {
		sooner(l.agenda[0].wake)
	}
	if !l.changedAt.IsZero() {
		sooner(l.changedAt.Add(holdoff))
		if l.inFlight == 0 {
			sooner(l.shownAt.Add(l.gap()))
		}
	} else if !l.lookedAt.IsZero() {
		sooner(l.lookedAt.Add(showWait))
	}
	if !l.revokeAt.IsZero() {
		sooner(l.revokeAt)
	}
	if at := l.nextProbe(); !at.IsZero() {
		sooner(at)
	}
	if len(l.waiting) > 0 && l.pending > 0 && l.pending == l.primed {
		sooner(l.waitedAt.Add(keptWait))
	}
	if len(l.waiting) > 0 {
		sooner(l.giveUp())
	}
	return max(at.Sub(now), 0)
}

// tally counts a look.
func (l *loop) tally(r result) {
	l.count(r.mount, func(s *SourceStats) {
		s.InFlight = r.mount.inFlight
		s.Fetches++
		s.Latency += r.took
		switch r.renewal {
		case renewedOK:
			s.Renewals++
		case renewalFailed:
			s.RenewalsFailed++
		}
		if r.err != nil {
			s.Failures++
		} else {
			s.LastGood = time.Now()
		}
	})
}

func (l *loop) count(m *mount, f func(*SourceStats)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m.gone {
		return // another vault may have its name by now
	}
	s := l.sources[m.name]
	s.Name = m.name
	f(&s)
	l.sources[m.name] = s
}

// alarm logs once that a source has failed for too long, or that a lease nears its
// end without a successor, and that it is over.
func (l *loop) alarm(e *entry, now time.Time) {
	at := e.alarmAt()
	bad := e.failing() && !e.good.IsZero() && (now.Sub(e.good) >= AlarmAfter || !at.IsZero() && !now.Before(at))
	if bad == e.alarmed {
		return
	}
	e.alarmed = bad
	attrs := []any{slog.String("source", e.key.vault), slog.String("resource", e.key.resource), slog.Time("last_good", e.good)}
	if bad && !at.IsZero() && !now.Before(at) {
		l.cfg.Log.Error("a lease nears its end without a successor", append(attrs, slog.Time("end", e.lease.NotAfter))...)
	} else if bad {
		l.cfg.Log.Error("secret was not confirmed by its source for an hour or more", attrs...)
	} else {
		l.cfg.Log.Info("secret is confirmed by its source again", attrs...)
	}
}

// mention logs what an operator should hear, at most once in ten seconds per source.
func (l *loop) mention(e *entry, was Lease, now time.Time) {
	if e.refusal != "" {
		l.count(e.mount, func(s *SourceStats) { s.Refused++ })
	}
	if now.Before(l.nextMention[e.mount.name]) {
		return
	}
	attrs := []any{slog.String("source", e.mount.name), slog.String("resource", e.request.Resource)}
	switch {
	case e.err != nil && e.failures == 1:
		l.cfg.Log.Warn("source answers no value; the last good one stays in use if there is one", append(attrs, slog.String("reason", plain(e.err)))...)
	case e.refusal != "" && e.failures == 1:
		l.cfg.Log.Warn("new version of a secret was refused", append(attrs, slog.String("reason", e.refusal))...)
	case !e.failing() && e.lease.Modified.Before(was.Modified):
		l.cfg.Log.Warn("source went back to an older version", append(attrs, slog.Time("modified", e.lease.Modified), slog.Time("before", was.Modified))...)
	default:
		return
	}
	l.nextMention[e.mount.name] = now.Add(10 * time.Second)
}
