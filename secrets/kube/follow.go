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
	pauseMost = 30 * time.Second // where the account may not watch
	awayMost  = 4 * time.Second  // where the server is away: what was missed is known 5 s after its return
	brief     = time.Second      // a watch that ended earlier has failed
)

// Run watches the Secrets that were asked for until ctx ends, and has ended all of
// it when it returns. It reacts to these, one at a time: a Secret was asked for
// the first time; time to forget those that nobody asks for; ctx ended.
func (s *Source) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	tick := time.NewTicker(sweep)
	defer tick.Stop()
	for {
		for _, f := range s.unwatched() {
			own, stop := context.WithCancel(ctx)
			s.mu.Lock()
			f.stop = stop
			s.mu.Unlock()
			wg.Go(func() {
				defer s.rest(f)
				s.follow(own, f)
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

func (s *Source) unwatched() (list []*followed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.known {
		if f.stop == nil {
			list = append(list, f)
		}
	}
	return list
}

// rest makes a Secret one that is not watched.
func (s *Source) rest(f *followed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.stop()
	f.stop, f.live, f.from = nil, false, ""
}

// forget drops Secrets that nobody asks for. A broker that has long times to live
// asks seldom: it is given a hint, after which it asks for all that it wants, and
// only what it did not ask for until the next sweep goes.
func (s *Source) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, f := range s.known {
		switch {
		case f.doomed:
			delete(s.known, k)
			if f.stop != nil {
				f.stop()
			}
		case !f.used:
			f.doomed = true
			s.hint() // who needs it says so by asking
		}
		f.used = false
	}
}

// follow keeps a watch up. One that the server ends in order is gone on with at
// once from the version that it came to, so nothing is missed between.
func (s *Source) follow(ctx context.Context, f *followed) {
	holds := false // the turn
	leave := func(answered bool) {
		if holds {
			holds = false
			s.turns.leave(answered)
		}
	}
	for failed := 0; ; {
		began := time.Now()
		err := s.once(ctx, f, func() {
			if s.up(f); failed > 0 {
				s.mu.Lock()
				s.hint() // whoever found the server away need not wait any longer
				s.mu.Unlock()
			}
			leave(true)
		})
		leave(ctx.Err() == nil && !away(err))
		s.down(f, errors.Is(err, errExpired))
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) >= brief {
			failed = 0
		}
		if err == nil && time.Since(began) >= brief {
			continue
		}
		failed++
		if !sleep(ctx, pause(failed, err)) {
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
func (s *Source) once(ctx context.Context, f *followed, up func()) error {
	s.mu.Lock()
	from := f.from
	s.mu.Unlock()
	if from == "" {
		o, at, err := s.api.list(ctx, f.key)
		if err != nil {
			return err
		}
		s.take(f, o, at)
		from = at
	}
	lasts := lasting + rand.N(lasting) //nolint:gosec // jitter is no secret
	return s.api.watch(ctx, f.key, from, lasts, up, func(kind string, o *object) {
		at := o.Metadata.ResourceVersion
		switch kind {
		case "ADDED", "MODIFIED":
			s.take(f, o, at)
		case "DELETED":
			s.take(f, nil, at)
		case "BOOKMARK":
			s.mu.Lock()
			f.from = at
			s.mu.Unlock()
		}
	})
}

// take notes what a Secret is now, nil for absent, and hints when it differs.
func (s *Source) take(f *followed, o *object, at string) {
	var lease secrets.Lease
	if o != nil {
		lease, _ = o.lease() // texts always encode
	}
	s.mu.Lock()
	changed := f.present != (o != nil) || f.held.Version != lease.Version
	f.present, f.held, f.from = o != nil, lease, at
	if changed {
		s.hint(f.key)
	}
	s.mu.Unlock()
}

func (s *Source) up(f *followed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.live = true
}

// down says that each Fetch asks the server until the watch is up again. After a
// version that is too old, the next watch begins with a list.
func (s *Source) down(f *followed, anew bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.live = false
	if anew {
		f.from = ""
	}
}
