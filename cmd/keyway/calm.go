package main

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// What a source may say in the log: so many lines at once, as a start or an operator's
// change brings them, and about one a second for as long as it lasts.
const (
	calmBurst = 100
	calmEach  = 1250 * time.Millisecond
	calmKeys  = 1000 // sources and messages that are kept apart
)

// calmLog keeps a source that changes, or fails, without an end from flooding the log. The
// ledger and the metrics have what is left out; the next line says how much it was.
// Lines that tell of no source are counted by their message.
type calmLog struct {
	slog.Handler
	source string // of With
	shared *calmState
}

type calmState struct {
	mu      sync.Mutex
	buckets map[string]*bucket
}

// bucket is how many lines are left, as of a time.
type bucket struct {
	left    float64
	at      time.Time
	omitted int
}

func newCalmLog(h slog.Handler) slog.Handler {
	return &calmLog{Handler: h, shared: &calmState{buckets: map[string]*bucket{}}}
}

// Handle writes a line or counts it.
func (q *calmLog) Handle(ctx context.Context, r slog.Record) error {
	key := q.source
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "source" && a.Value.Kind() == slog.KindString && a.Value.String() != "" {
			key = a.Value.String()
		}
		return true
	})
	if key == "" {
		key = "message: " + r.Message
	}
	omitted, ok := q.shared.take(key, r.Time)
	if !ok {
		return nil
	}
	if omitted > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int("lines_left_out", omitted))
	}
	return q.Handler.Handle(ctx, r)
}

// take answers whether a line may be written, and how many were not since the last one.
func (s *calmState) take(key string, now time.Time) (omitted int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.buckets[key]
	if b == nil {
		if len(s.buckets) >= calmKeys {
			clear(s.buckets)
		}
		b = &bucket{left: calmBurst, at: now}
		s.buckets[key] = b
	}
	if since := now.Sub(b.at); since > 0 {
		b.left = min(calmBurst, b.left+float64(since)/float64(calmEach))
		b.at = now
	}
	if b.left < 1 {
		b.omitted++
		return 0, false
	}
	b.left--
	omitted, b.omitted = b.omitted, 0
	return omitted, true
}

// WithAttrs is what slog asks for.
func (q *calmLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := &calmLog{Handler: q.Handler.WithAttrs(attrs), source: q.source, shared: q.shared}
	for _, a := range attrs {
		if a.Key == "source" {
			next.source = a.Value.String()
		}
	}
	return next
}

// WithGroup is what slog asks for.
func (q *calmLog) WithGroup(name string) slog.Handler {
	return &calmLog{Handler: q.Handler.WithGroup(name), source: q.source, shared: q.shared}
}
