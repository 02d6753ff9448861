package kube

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/keyway-edge/keyway/secrets"
)

const (
	sweep     = 10 * time.Minute // how often Secrets that nobody asks for are looked for
	lasting   = 5 * time.Minute  // a watch lasts this long, and up to twice, before the server ends it
	pauseMin  = time.Second
	pauseMost = 30 * time.Second     // where the account may not watch
	awayMost  = 4 * time.Second      // where the server is away: what was missed is known 5 s after its return
	brief     = time.Second          // a watch that ended earlier has failed
	surely    = 3                    // refusals of what was allowed before, until it is believed: a server that starts refuses all
	stagger   = 5 * time.Millisecond // between the beginnings of many watches
)

// Run watches the Secrets that were asked for until ctx ends, and has ended all of
// it when it returns. It reacts to these, one at a time: a watch is needed that does
// not run; time to forget Secrets that nobody asks for; ctx ended.
func (s *Source) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	tick := time.NewTicker(sweep)
	defer tick.Stop()
	for {
		begun := s.begin(ctx)
		for w, own := range begun {
			wg.Go(func() {
				defer s.rest(w)
				if len(begun) == 1 || sleep(own, rand.N(time.Duration(len(begun))*stagger)) { //nolint:gosec // jitter is no secret
					s.follow(own, w)
				}
			})
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.added:
		case <-tick.C:
			s.forget()
		}
	}
}

// follow keeps a watch up. One that the server ends in order is gone on with at
// once from the version that it came to, so nothing is missed between.
func (s *Source) follow(ctx context.Context, w *watch) {
	holds := false // the turn
	leave := func(answered bool) {
		if holds {
			holds = false
			s.turns.leave(answered)
		}
	}
	for failed, refused := 0, 0; ; {
		began := time.Now()
		err := s.once(ctx, w, func() {
			if s.up(w); failed > 0 {
				s.mu.Lock()
				s.hint() // whoever found the server away need not wait any longer
				s.mu.Unlock()
			}
			leave(true)
		})
		leave(ctx.Err() == nil && !away(err))
		s.down(w, errors.Is(err, errExpired))
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) >= brief {
			failed = 0
		}
		denied := errors.Is(err, secrets.ErrDenied)
		if !denied {
			refused = 0
		}
		if err == nil && time.Since(began) >= brief {
			continue
		}
		failed++
		wait := pause(failed, err)
		if denied {
			refused++
			s.refuse(w, refused)
			wait = max(pause(refused, err), s.crowd(w))
		}
		if !sleep(ctx, wait) {
			return
		}
		if away(err) {
			if !s.turns.take(ctx) {
				return
			}
			holds = true
		}
	}
}

// away says that an error tells of the server, not of one Secret.
func away(err error) bool {
	return errors.Is(err, secrets.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded)
}

// turns lets one watch at a time try a server that does not answer, seconds apart,
// however many watches wait for it.
type turns struct {
	one      chan struct{} // holds an item while somebody has the turn, who alone uses what follows
	failures int
	next     time.Time // no try before
}

// take waits for the turn and for the time of the next try. It answers false when
// ctx ends before.
func (t *turns) take(ctx context.Context) bool {
	select {
	case t.one <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	if !sleep(ctx, time.Until(t.next)) {
		<-t.one
		return false
	}
	return true
}

func (t *turns) leave(answered bool) {
	if answered {
		t.failures, t.next = 0, time.Time{}
	} else {
		t.failures++
		t.next = time.Now().Add(pause(t.failures, nil))
	}
	<-t.one
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// pause doubles with failures, with jitter, so that replicas do not come back as
// one. It begins small for a refusal too: an API server that starts refuses all
// until it knows its rules. A server that says when to come again is believed.
func pause(failed int, err error) time.Duration {
	most := awayMost
	if errors.Is(err, secrets.ErrDenied) {
		most = pauseMost
	}
	most = min(pauseMin<<min(failed-1, 10), most)
	d := most/2 + rand.N(most/2+1) //nolint:gosec // jitter is no secret
	var throttled *secrets.Throttled
	if errors.As(err, &throttled) {
		d = max(d, throttled.After)
	}
	return d
}

// once lists where needed, and watches until the watch ends. It calls up when the
// watch is up.
func (s *Source) once(ctx context.Context, w *watch, up func()) error {
	s.mu.Lock()
	from := w.from
	s.mu.Unlock()
	if from == "" {
		at, err := s.compare(ctx, w.of)
		if err != nil {
			return err
		}
		if err := s.gather(ctx, w); err != nil {
			return err
		}
		from = at
	}
	lasts := lasting + rand.N(lasting) //nolint:gosec // jitter is no secret
	reach := func(at string) {
		s.mu.Lock()
		w.from = at
		s.mu.Unlock()
	}
	reach(from)
	return s.api.watch(ctx, w.of, from, lasts, up, func(kind string, k key, at string) {
		switch kind {
		case "ADDED", "MODIFIED":
			s.tell(k, at, false)
		case "DELETED":
			s.tell(k, "", false)
		}
		reach(at)
	})
}

// compare lists a scope, tells what differs of Secrets that were asked for, and answers
// the version of the list. One that is asked for meanwhile is read after the list was
// made, so that it is newer.
func (s *Source) compare(ctx context.Context, of key) (at string, err error) {
	absent := make(map[key]bool)
	s.mu.Lock()
	for k := range s.known {
		if of.covers(k) {
			absent[k] = true
		}
	}
	s.mu.Unlock()
	at, err = s.api.names(ctx, of, func(k key, version string) {
		if absent[k] {
			delete(absent, k)
			s.tell(k, version, true)
		}
	})
	if err != nil {
		return "", err
	}
	for k := range absent {
		s.tell(k, "", true)
	}
	return at, nil
}
