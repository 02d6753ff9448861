package ratelimiting

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func at(text string) int64 {
	t, err := time.Parse(time.DateTime, text)
	if err != nil {
		panic(err)
	}
	return t.Unix()
}

func TestPeriods(t *testing.T) {
	f := func(p period, now, start, end string) {
		t.Helper()
		if got := [2]int64{p.start(at(now)), p.end(at(now))}; got != [2]int64{at(start), at(end)} {
			t.Errorf("%s at %s: %v, want %s to %s", periodNames[p], now, got, start, end)
		}
	}
	f(second, "2026-08-29 13:37:42", "2026-08-29 13:37:42", "2026-08-29 13:37:43")
	f(minute, "2026-08-29 13:37:42", "2026-08-29 13:37:00", "2026-08-29 13:38:00")
	f(hour, "2026-08-29 13:37:42", "2026-08-29 13:00:00", "2026-08-29 14:00:00")
	f(day, "2026-12-31 23:59:59", "2026-12-31 00:00:00", "2027-01-01 00:00:00")
	f(month, "2024-02-29 23:59:59", "2024-02-01 00:00:00", "2024-03-01 00:00:00")
	f(month, "2026-12-01 00:00:00", "2026-12-01 00:00:00", "2027-01-01 00:00:00")
	f(year, "2024-12-31 23:59:59", "2024-01-01 00:00:00", "2025-01-01 00:00:00")
}

func perMinute(max int64) []limit { return []limit{{period: minute, max: max}} }

func TestTakeAtTheTurnOfAWindow(t *testing.T) {
	s, k, used := newStore(64), key{id: "a", given: true}, make([]usage, 1)
	take := func(now string, want bool, count int64) {
		t.Helper()
		if got := s.take(k, perMinute(2), at(now), used); got != want || used[0].count != count {
			t.Errorf("at %s: %v with %d counted, want %v with %d", now, got, used[0].count, want, count)
		}
	}
	take("2026-01-01 00:00:59", true, 1)
	take("2026-01-01 00:01:00", true, 1)
	take("2026-01-01 00:00:59", true, 2) // began before the turn, is counted after it
	take("2026-01-01 00:01:01", false, 2)
	take("2026-01-01 00:02:00", true, 1)
	take("2025-12-31 00:00:00", true, 1) // the clock was set back
}

// TestAllOrNothing: a request that one window refuses counts in none.
func TestAllOrNothing(t *testing.T) {
	s, used := newStore(64), make([]usage, 2)
	limits := []limit{{period: minute, max: 1}, {period: day, max: 10}}
	for range 5 {
		s.take(key{}, limits, at("2026-01-01 00:00:00"), used)
	}
	if used[0].count != 1 || used[1].count != 1 {
		t.Errorf("counted %v", used)
	}
}

func (s *store) size() int {
	n := 0
	for i := range s.shards {
		n += len(s.shards[i].counters)
	}
	return n
}

func TestMemoryIsBounded(t *testing.T) {
	s, used := newStore(shards*4), make([]usage, 1)
	for i := range 10_000 {
		s.take(key{id: fmt.Sprint(i), given: true}, perMinute(1), at("2026-01-01 00:00:00"), used)
	}
	if n := s.size(); n > shards*4 {
		t.Errorf("%d counters, at most %d are allowed", n, shards*4)
	}
}

// TestLongValues: a client must not choose how much memory it costs.
func TestLongValues(t *testing.T) {
	long := strings.Repeat("x", 1<<16)
	if a, b := bounded(long), bounded(long[1:]); len(a) > 64 || a == b || a != bounded(long) {
		t.Errorf("long values become %d bytes, equal: %v", len(a), a == b)
	}
	if got := bounded("short"); got != "short" {
		t.Errorf("a short value becomes %q", got)
	}
}

func TestWhatHasEndedIsDropped(t *testing.T) {
	s, used := newStore(shards*1000), make([]usage, 1)
	fill := func(from int, now int64) {
		for i := range 10_000 {
			s.take(key{id: fmt.Sprint(from + i), given: true}, perMinute(1), now, used)
		}
	}
	start := at("2026-01-01 00:00:00")
	fill(0, start)
	fill(10_000, start+60)
	if n := s.size(); n != 10_000 {
		t.Errorf("%d counters are kept, of which 10,000 are in use", n)
	}
}

func BenchmarkTake(b *testing.B) {
	s := newStore(maxIdentities)
	limits := []limit{{period: minute, max: 1 << 40}, {period: year, max: 1 << 40}}
	now := time.Now().Unix()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		used, k := make([]usage, 2), key{id: "0123456789abcdef", given: true}
		for pb.Next() {
			s.take(k, limits, now, used)
		}
	})
}
