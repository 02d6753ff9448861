package acme

import (
	"context"
	"sync"
	"time"
)

// limiter lets through so many transactions in so long, whatever the number of
// certificates that wait: an authority's own limits count for days.
type limiter struct {
	most int
	in   time.Duration

	mu   sync.Mutex  // guards past
	past []time.Time // of the latest, also to come
}

// reserve answers how long to wait for one's turn, which is taken.
func (l *limiter) reserve(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := now
	if len(l.past) >= l.most {
		if free := l.past[len(l.past)-l.most].Add(l.in); free.After(at) {
			at = free
		}
		l.past = append(l.past[:0], l.past[len(l.past)-l.most+1:]...)
	}
	l.past = append(l.past, at)
	return at.Sub(now)
}

// wait waits for one's turn, or until ctx ends.
func (l *limiter) wait(ctx context.Context) error { return pause(ctx, l.reserve(time.Now())) }

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
