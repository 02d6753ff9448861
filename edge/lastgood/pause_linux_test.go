package lastgood

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/edge/cputest"
)

// TestAWriteGivesWay counts the CPU time of the longest stretch between two rests of a
// write: what requests on the same processor wait for at the most. The median of several
// writes, since the collector helps itself to some.
func TestAWriteGivesWay(t *testing.T) {
	if raced || testing.Short() {
		t.Skip("the race detector has a time of its own")
	}
	meter := cputest.New(t)
	docs, kept := manyRoutes(t), manyValues(20_000)
	from := &served{}
	cfg := place(t)
	cfg.Serving = func(ctx context.Context) (Serving, error) {
		now, err := from.serving(ctx)
		meter.Skip() // collecting is another's work
		return now, err
	}
	cfg.Pause = meter.Rest
	s := New(cfg)
	var all []time.Duration
	for i := range 7 {
		from.set(func() { from.doc, from.kept = docs[i%2], append(slices.Clone(kept), one("x", i)...) })
		meter.Begin()
		if !s.save(t.Context()) {
			t.Fatal(s.Facts().Failed)
		}
		cfg.Pause()
		all = append(all, meter.Longest())
		t.Logf("a write took %v, its longest stretch %v", meter.Total(), meter.Longest())
	}
	if n := s.Facts().Writes; n != 7 {
		t.Errorf("%d writes; expected 7", n)
	}
	slices.Sort(all)
	if all[len(all)/2] > 5*time.Millisecond {
		t.Errorf("the longest stretch of a write is %v (median of %v), expected at most 5 ms", all[len(all)/2], all)
	}
}
