package kube

import (
	"context"
	"slices"
	"time"
)

// watch tells of changes of Secrets: of all, of those of a namespace, or of one. Of those
// that may be had the widest is, so that a cluster full of Secrets in use costs one; the
// narrower ones stand in for it where the account may not watch it. Its source's mu
// guards it.
type watch struct {
	of      key
	stop    context.CancelFunc // nil while it does not run
	live    bool               // it is up: what it did not tell of did not change
	was     bool               // it was up once
	refused bool               // the account may not have it: narrower ones stand in
	from    string             // version to go on from, "" to list first
	coming  chan struct{}      // closed when what many wait for was read, or cannot be; nil for nothing
}

// covers says that a scope has a Secret.
func (k key) covers(other key) bool {
	return (k.namespace == "" || k.namespace == other.namespace) && (k.name == "" || k.name == other.name)
}

// scopes are what a watch of a Secret may be of, the widest first.
func (s *Source) scopes(k key) []key {
	all := []key{{}, {namespace: k.namespace}, k}
	if !slices.Contains(s.cfg.Namespaces, everywhere) {
		return all[1:]
	}
	return all
}

// over answers the watch of a Secret, the widest one that was not refused. mu is held.
func (s *Source) over(k key) *watch {
	var w *watch
	for _, of := range s.scopes(k) {
		if w = s.watches[of]; w == nil {
			w = &watch{of: of}
			s.watches[of] = w
			signal(s.added)
		}
		if !w.refused {
			break
		}
	}
	return w
}

// refuse has narrower watches stand in for one that was refused so many times in a row.
func (s *Source) refuse(w *watch, times int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.of.name != "" || w.was && times < surely || s.watches[w.of] != w {
		return
	}
	w.refused, w.was, w.from = true, false, ""
	for k, f := range s.known {
		if f.watch == w {
			f.watch = s.over(k)
		}
	}
}

// up says that a watch tells of all that it covers from now on, in place of narrower ones.
func (s *Source) up(w *watch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watches[w.of] != w {
		return // a wider one was faster
	}
	w.live, w.was, w.refused = true, true, false
	w.arrived()
	if w.of.name != "" {
		return
	}
	for k, f := range s.known {
		if f.watch != w && w.of.covers(k) {
			f.watch = w
		}
	}
	for of, other := range s.watches {
		if other != w && w.of.covers(of) {
			s.end(other)
		}
	}
}

// down says that each Fetch asks the server until the watch is up again. After a
// version that is too old, the next watch begins with a list.
func (s *Source) down(w *watch, anew bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.live = false
	w.arrived()
	if anew {
		w.from = ""
	}
}

// end lets go of a watch. mu is held.
func (s *Source) end(w *watch) {
	delete(s.watches, w.of)
	if w.stop != nil {
		w.stop()
	}
	w.live = false
	w.arrived()
}

// rest makes a watch one that does not run.
func (s *Source) rest(w *watch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.stop()
	w.stop, w.live, w.from = nil, false, ""
	w.arrived()
}

// begin gives each watch that does not run a context to run in.
func (s *Source) begin(ctx context.Context) map[*watch]context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	begun := make(map[*watch]context.Context)
	for _, w := range s.watches {
		if w.stop == nil {
			begun[w], w.stop = context.WithCancel(ctx)
		}
	}
	return begun
}

// forget drops Secrets that nobody asks for, and watches that cover none that is left. A
// broker that has long times to live asks seldom: it is given a hint, after which it asks
// for all that it wants, and only what it did not ask for until the next sweep goes.
func (s *Source) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, f := range s.known {
		switch {
		case f.doomed:
			delete(s.known, k)
		case !f.used:
			f.doomed = true
			s.hint() // who needs it says so by asking
		}
		f.used = false
	}
	needed := make(map[*watch]bool)
	for k := range s.known {
		for _, of := range s.scopes(k) {
			needed[s.watches[of]] = true
		}
	}
	for _, w := range s.watches {
		if !needed[w] {
			s.end(w)
		}
	}
}

// apart is the least time from one try to the next of all single Secrets that the account
// may not watch, taken together.
const apart = 100 * time.Millisecond

// crowd is how long one of them waits for that at the least.
func (s *Source) crowd(w *watch) time.Duration {
	if w.of.name == "" {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Duration(len(s.watches)) * apart
}
