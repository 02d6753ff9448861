package cluster

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const (
	deniedMost = 30 * time.Second // between tries of what the account may not do
	toldMost   = 30 * time.Second // that a server which asks for time is given
)

// gate lets everybody through while the server answers. While it does not, one at a time
// tries it, seconds apart, however many wait; when it answers all go on at once. The zero
// value is a gate of a server that answers.
type gate struct {
	mu       sync.Mutex // guards what follows
	failures int        // tries in a row that failed, 0 while it answers
	err      error      // of the last one, nil while it is only in doubt
	next     time.Time  // no try before
	trying   bool
	moved    chan struct{} // closed when one of these changed, nil while nobody waits
}

// enter waits until the server may be tried, and answers what is to be told what came of
// it. waits is called with the reason, each time that a failed try of somebody else is why
// there is a wait.
func (g *gate) enter(ctx context.Context, waits func(error)) (leave func(error), err error) {
	for {
		g.mu.Lock()
		if g.failures == 0 {
			g.mu.Unlock()
			return func(err error) { g.left(ctx, err, false) }, nil
		}
		if !g.trying && !time.Now().Before(g.next) {
			g.trying = true
			g.mu.Unlock()
			return func(err error) { g.left(ctx, err, true) }, nil
		}
		if g.moved == nil {
			g.moved = make(chan struct{})
		}
		moved, why, left, trying := g.moved, g.err, time.Until(g.next), g.trying
		g.mu.Unlock()
		if why != nil {
			waits(why)
		}
		var due <-chan time.Time
		if !trying {
			due = time.After(left)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-moved:
		case <-due:
		}
	}
}

// left notes what came of a try. Of several that began before the first one failed, that
// one counts; one that was given up says nothing.
func (g *gate) left(ctx context.Context, err error, alone bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if alone {
		g.trying = false
	}
	switch {
	case !away(err):
		g.failures, g.err = 0, nil
	case ctx.Err() != nil:
	case g.err == nil:
		g.failures, g.err, g.next = 1, err, time.Now().Add(spacing(1, err))
	case alone:
		g.failures, g.err = g.failures+1, err
		g.next = time.Now().Add(spacing(g.failures, err))
	}
	g.tell()
}

// doubt says that a connection broke off: the next try shows whether the server is there,
// and others wait for it.
func (g *gate) doubt() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failures == 0 {
		g.failures, g.next = 1, time.Now()
		g.tell()
	}
}

// tell has those who wait look again. mu is held.
func (g *gate) tell() {
	if g.moved != nil {
		close(g.moved)
		g.moved = nil
	}
}

// away says that an error tells of the server, not of what was asked for.
func away(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return err != nil && !errors.Is(err, ErrShape)
	}
	code := status.Status().Code
	return code >= http.StatusInternalServerError || code == http.StatusTooManyRequests
}

// spacing is how long to wait after so many failures in a row: never less than a second,
// never more than four, so that what was missed is known within five of the server's
// return, and never the same, so that replicas do not come back as one. A server that
// says when to come again is believed, within bounds.
func spacing(failures int, err error) time.Duration {
	d := min(time.Second<<min(failures-1, 5), 3*time.Second) + rand.N(time.Second) //nolint:gosec // jitter is no secret
	if seconds, says := apierrors.SuggestsClientDelay(err); says {
		d = max(d, min(time.Duration(seconds)*time.Second, toldMost))
	}
	return d
}

// denial is how long to wait until the account is tried again that was refused so often.
// It begins small: an API server that starts refuses all until it knows its rules.
func denial(times int) time.Duration {
	d := min(time.Second<<min((times-1)/2, 10), deniedMost)
	return d/2 + rand.N(d/2+1) //nolint:gosec // jitter is no secret
}
