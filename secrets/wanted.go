package secrets

import (
	"bytes"
	"slices"
	"time"
)

const (
	keepValues = 4 // values of one reference kept in memory: the one in use and those before it
	keepFacts  = 8 // versions of one reference that can be listed
)

// moment is what the change of an entry needs to know and to tell.
type moment struct {
	now     time.Time
	history history
	rule    TrialRule
	tripped func()
	tell    func(Event)
}

// held is one value that was or is in use.
type held struct {
	value    Value
	version  int
	modified time.Time
	origin   string
	until    time.Time // end of its overlap; zero for one that is in use or over
}

// wanted is one reference to an entry.
type wanted struct {
	ref    Ref
	use    held           // the value in use, zero before the first good one
	latest held           // what the source answered last; another than use while pinned
	older  []held         // those before it, newest first
	pinned int            // the version that an operator chose, 0 for none
	facts  []VersionFacts // newest first
	bad    string         // why the lease in use has nothing for it
	shown  *Credential
}

// read takes a reference's field out of the lease now in use.
func (w *wanted) read(e *entry, m moment) {
	v, err := field(e.lease.Value, w.ref.Key)
	if err != nil {
		w.bad = err.Error()
		return
	}
	w.accept(v, e, m)
}

// accept makes v the latest value, as a new version when it differs, and the one
// in use unless another is pinned.
func (w *wanted) accept(v Value, e *entry, m moment) {
	w.bad = ""
	if !w.latest.value.IsZero() && bytes.Equal(w.latest.value.Reveal(), v.Reveal()) {
		return
	}
	w.latest = held{value: v, version: m.history.version(w.ref, v), modified: e.lease.Modified, origin: e.lease.Origin}
	seen := Event{Kind: "secret", Subject: w.ref.String(), Source: w.ref.Vault, Result: "seen", OldVersion: w.use.version, NewVersion: w.latest.version, Origin: w.latest.origin}
	if w.latest.modified.IsZero() {
		w.latest.modified = m.now
	} else {
		seen.Took = max(m.now.Sub(w.latest.modified), 0)
	}
	m.tell(seen)
	if w.pinned != 0 && w.pinned != w.latest.version {
		w.note(VersionFacts{Version: w.latest.version, State: "pending", Since: m.now, Origin: w.latest.origin, Reason: "another version is pinned"})
		return
	}
	w.activate(w.latest, e.life.Overlap, m)
}

// activate puts h into use; what was in use stays acceptable for the overlap.
func (w *wanted) activate(h held, overlap time.Duration, m moment) {
	if was := w.use; !was.value.IsZero() && was.version != h.version {
		was.until = m.now.Add(overlap)
		w.older = slices.Insert(w.older, 0, was)
		for _, o := range w.older[min(len(w.older), keepValues-1):] {
			if !o.until.IsZero() { // so many came so fast: its overlap is cut short
				w.retire(o, h.version, "overlap_ended", m)
			}
		}
		w.older = w.older[:min(len(w.older), keepValues-1)]
		w.mark(was.version, "overlap", m.now, was.until, "")
	}
	// A value that comes back is one value, not two.
	w.older = slices.DeleteFunc(w.older, func(o held) bool { return o.version == h.version })
	h.until = time.Time{}
	w.use = h
	w.mark(h.version, "active", m.now, time.Time{}, h.origin)
}

// note lists a version, newest first.
func (w *wanted) note(f VersionFacts) {
	// The shown credential holds the old list: a new one is made.
	list := slices.DeleteFunc(slices.Clone(w.facts), func(x VersionFacts) bool { return x.Version == f.Version && x.Version != 0 })
	w.facts = slices.Insert(list, 0, f)[:min(len(list)+1, keepFacts)]
}

// mark sets the state of a version in the list.
func (w *wanted) mark(version int, state string, since, until time.Time, origin string) {
	i := slices.IndexFunc(w.facts, func(f VersionFacts) bool { return f.Version == version })
	if i < 0 || state == "active" {
		w.note(VersionFacts{Version: version, State: state, Since: since, Until: until, Origin: origin})
		return
	}
	w.facts = slices.Clone(w.facts)
	f := &w.facts[i]
	f.State, f.Since, f.Until = state, since, until
}

// endOverlaps retires the values whose overlap is over.
func (w *wanted) endOverlaps(m moment) {
	for i := range w.older {
		if o := &w.older[i]; !o.until.IsZero() && !m.now.Before(o.until) {
			o.until = time.Time{}
			w.retire(*o, w.use.version, "overlap_ended", m)
		}
	}
}

// retire notes and tells that a replaced value is accepted no longer.
func (w *wanted) retire(o held, by int, result string, m moment) {
	w.mark(o.version, "retired", m.now, time.Time{}, "")
	m.tell(Event{Kind: "secret", Subject: w.ref.String(), Source: w.ref.Vault, Result: result, OldVersion: o.version, NewVersion: by, Origin: o.origin})
}

// explain gives a listed version a reason.
func (w *wanted) explain(version int, reason string) {
	if i := slices.IndexFunc(w.facts, func(f VersionFacts) bool { return f.Version == version }); i >= 0 {
		w.facts = slices.Clone(w.facts)
		w.facts[i].Reason = reason
	}
}

// forgo ends every overlap at once and forgets the values: they were taken away on purpose.
func (w *wanted) forgo(m moment) {
	for _, o := range w.older {
		if !o.until.IsZero() {
			w.retire(o, 0, "retired", m)
		}
	}
	w.older = nil
}

// nextEnd is when the next overlap ends, zero for none.
func (w *wanted) nextEnd() time.Time {
	var at time.Time
	for _, o := range w.older {
		if !o.until.IsZero() && (at.IsZero() || o.until.Before(at)) {
			at = o.until
		}
	}
	return at
}

// previous are the values still in their overlap.
func (w *wanted) previous() []Old {
	var list []Old
	for _, o := range w.older {
		if !o.until.IsZero() {
			list = append(list, Old{o.version, o.value, o.until})
		}
	}
	return list
}

// find answers a held value by its version number.
func (w *wanted) find(version int) (held, bool) {
	for _, h := range append([]held{w.latest, w.use}, w.older...) {
		if h.version == version && !h.value.IsZero() {
			return h, true
		}
	}
	return held{}, false
}

// versions are the numbers of the held values, for messages.
func (w *wanted) versions() []int {
	var list []int
	for _, h := range append([]held{w.latest, w.use}, w.older...) {
		if !h.value.IsZero() && !slices.Contains(list, h.version) {
			list = append(list, h.version)
		}
	}
	slices.Sort(list)
	return list
}
