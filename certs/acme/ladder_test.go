package acme

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestLadder climbs it: quick at first, six hours in the end, a day after a month.
func TestLadder(t *testing.T) {
	want := []time.Duration{1, 2, 2, 5, 10, 10, 10, 20, 20, 20, 20, 30}
	for i, minutes := range want {
		if got := ladder(i+1, 0, 0); got != minutes*time.Minute {
			t.Errorf("rung %d: %v, want %v", i+1, got, minutes*time.Minute)
		}
	}
	var total time.Duration
	attempts := 0
	for total < 30*24*time.Hour {
		attempts++
		low, high := ladder(attempts, total, 0), ladder(attempts, total, 1)
		if low < time.Minute || high > 7*time.Hour || high < low {
			t.Fatalf("rung %d is from %v to %v", attempts, low, high)
		}
		total += low
	}
	if attempts > 160 { // an authority allows five failures an hour
		t.Errorf("%d attempts in a month", attempts)
	}
	if got := ladder(attempts, total, 0); got != 24*time.Hour {
		t.Errorf("after a month: %v", got)
	}
	for n := -1; n < 100; n++ {
		if got := awayWait(n, 1); got < 5*time.Second || got > 45*time.Second {
			t.Errorf("a directory that is away is asked again after %v", got)
		}
	}
}

// TestRenewalWindow chooses when to renew.
func TestRenewalWindow(t *testing.T) {
	from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	to := from.Add(90 * 24 * time.Hour)
	day := func(n float64) time.Time { return from.Add(time.Duration(n * 24 * float64(time.Hour))) }
	suggested := &window{Start: day(40), End: day(42)}
	for _, c := range []struct {
		what   string
		before time.Duration
		w      *window
		rnd    float64
		want   time.Time
	}{
		{"a third left", 0, nil, 0, day(60)},
		{"spread", 0, nil, 1, day(59.1)},
		{"as told", 10 * 24 * time.Hour, nil, 1, day(80)},
		{"told more than the life", 1000 * 24 * time.Hour, nil, 0, day(9)},
		{"begin of the window", 0, suggested, 0, day(40)},
		{"within the window", 0, suggested, 0.5, day(41)},
		{"the window before what was told", 10 * 24 * time.Hour, suggested, 0, day(40)},
		{"what was told before the window", 60 * 24 * time.Hour, suggested, 0, day(30)},
	} {
		if got := renewal(from, to, c.before, c.w, c.rnd); !got.Equal(c.want) {
			t.Errorf("%s: %v, want %v", c.what, got, c.want)
		}
	}
}

// TestLimiter lets ten pass in ten seconds, and the rest later.
func TestLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &limiter{most: 10, in: 10 * time.Second}
		began := time.Now()
		for range 35 {
			if err := l.wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took != 30*time.Second {
			t.Errorf("35 transactions take %v", took)
		}
	})
}
