package secrets

import (
	"context"
	"time"
)

// keptWait is how long a plan waits for the sources of references that have a last
// known good value: long enough for a source that is there, short enough for a
// node that restarts while all of them are away.
const keptWait = time.Second

// patience is how long a plan waits for the next good value of those it waits for, as
// long as a look may take; and hurry how long at a start with last known good values:
// a node that restarts while all sources are away has to serve within five seconds.
const (
	patience = 5 * time.Second
	hurry    = 4 * time.Second
)

// giveUp is when who waits for a plan is answered whatever is missing.
func (l *loop) giveUp() time.Time {
	wait := patience
	if l.restarted {
		wait = hurry
	}
	return latest(l.waitedAt, l.goodAt).Add(wait)
}

// Kept is the last known good state of one reference, for a store that is sealed.
type Kept struct {
	Ref      string
	Value    Value
	Version  int
	Modified time.Time
	Good     time.Time // when its source confirmed it last
	NotAfter time.Time // hard end, zero for none
	Origin   string
	Pinned   int
	Older    []KeptValue // replaced values, newest first
}

// KeptValue is a replaced value.
type KeptValue struct {
	Version  int
	Value    Value
	Modified time.Time
	Until    time.Time // end of its overlap, zero when that is over
}

// Export answers everything that has a value, for a last-known-good store.
func (b *Broker) Export(ctx context.Context) ([]Kept, error) {
	return query(ctx, b, func(l *loop, answer chan<- []Kept) {
		list := make([]Kept, 0, len(l.entries))
		for _, e := range l.entries {
			for text, w := range e.wanted {
				if w.shown == nil || w.shown.Value.IsZero() {
					continue
				}
				k := Kept{Ref: text, Value: w.use.value, Version: w.use.version, Modified: w.use.modified, Good: e.good, NotAfter: e.lease.NotAfter, Origin: w.use.origin, Pinned: w.pinned}
				for _, o := range w.older {
					k.Older = append(k.Older, KeptValue{o.version, o.value, o.modified, o.until})
				}
				list = append(list, k)
			}
		}
		answer <- list
	})
}

// prime gives a reference that is new to this process its last known good value.
func (l *loop) prime(e *entry, w *wanted, now time.Time) {
	k, ok := l.kept[w.ref.String()]
	if !ok || !w.use.value.IsZero() || !e.lease.Value.IsZero() || k.Value.IsZero() {
		return
	}
	delete(l.kept, w.ref.String())
	w.use = held{value: k.Value, version: k.Version, modified: k.Modified, origin: k.Origin}
	w.latest, w.pinned = w.use, k.Pinned
	for _, o := range k.Older {
		w.older = append(w.older, held{value: o.Value, version: o.Version, modified: o.Modified, until: o.Until})
	}
	if t := l.history[w.ref.String()]; t.version <= k.Version {
		l.history[w.ref.String()] = trace{k.Version, k.Value.Fingerprint()}
	}
	e.good, e.lease.NotAfter, e.kept = k.Good, k.NotAfter, true
	// One that is over already is nothing to start with: its source is waited for.
	over := !k.NotAfter.IsZero() && !now.Before(k.NotAfter) || !now.Before(k.Good.Add(e.life.ResurrectTTL))
	if !over && !e.looked && !e.primed {
		e.primed = true
		l.primed++
	}
}

// await counts an entry among those that were not looked at yet, or out of them.
func (l *loop) await(e *entry, yes bool) {
	if yes != e.looked {
		return
	}
	e.looked = !yes
	n := 1
	if !yes {
		n = -1
	}
	l.pending += n
	if e.primed {
		e.primed = false
		l.primed--
	}
}

// settled says that who waits for a plan need not wait any longer.
func (l *loop) settled(now time.Time) bool {
	switch {
	case len(l.waiting) == 0:
		return false
	case l.pending == 0, l.pending == l.primed && now.Sub(l.waitedAt) >= keptWait:
		return true
	}
	return !now.Before(l.giveUp())
}
