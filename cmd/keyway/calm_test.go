package main

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestCalmLog floods a log for ten minutes: a source that never ends has a line a second,
// others and what tells of no source have all of theirs.
func TestCalmLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		log := slog.New(newCalmLog(slog.NewTextHandler(&out, nil)))
		bound := log.With(slog.String("source", "bound"))
		for i := range 60000 {
			log.Warn("refused", slog.String("source", "bad"))
			log.Warn("told otherwise", slog.String("source", "bad"))
			bound.Info("of a source")
			log.Info("published")
			if i%1000 == 0 {
				log.Info("changed", slog.String("source", "good"), slog.Int("n", i))
			}
			time.Sleep(10 * time.Millisecond)
		}
		text := out.String()
		for what, most := range map[string]int{"source=bad": 600, "source=bound": 600, "msg=published": 600} {
			if n := strings.Count(text, what); n > most || n < most/2 {
				t.Errorf("%d lines with %s in ten minutes, want a line a second at most", n, what)
			}
		}
		for i := 0; i < 60000; i += 1000 {
			if !strings.Contains(text, fmt.Sprintf("source=good n=%d\n", i)) {
				t.Errorf("line %d of a good source is missing", i)
			}
		}
		written, omitted := strings.Count(text, "source=bad"), 0
		for line := range strings.Lines(text) {
			var n int
			if _, after, ok := strings.Cut(line, "lines_left_out="); ok && strings.Contains(line, "source=bad") {
				if _, err := fmt.Sscan(after, &n); err != nil {
					t.Error(err)
				}
				omitted += n
			}
		}
		if sum := written + omitted; sum < 119000 || sum > 120000 {
			t.Errorf("%d lines written and %d told as left out of 120000", written, omitted)
		}
		// After a quiet time there is room for all again.
		time.Sleep(5 * time.Minute)
		out.Reset()
		for range calmBurst {
			log.Info("again", slog.String("source", "bad"))
		}
		if n := strings.Count(out.String(), "msg=again"); n != calmBurst {
			t.Errorf("%d lines after a quiet time", n)
		}
	})
}
