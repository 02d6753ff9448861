package edge

import (
	"io"
	"slices"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/edge/cputest"
	"github.com/keyway-edge/keyway/routing/spec"
)

// TestARebuildGivesWay counts the CPU time of the longest stretch between two pauses while
// one of 10,000 routes changes: what requests on the same processor wait for at the most.
// The median of several changes, since the collector helps itself to some.
func TestARebuildGivesWay(t *testing.T) {
	if raced || testing.Short() {
		t.Skip("the race detector has a time of its own")
	}
	meter := cputest.New(t)
	rests := 0
	pause := func() {
		rests++
		meter.Rest()
	}
	builder := newBuilder(t, &Config{})
	builder.Pause = pause
	loader := &spec.Loader{Pause: pause}
	var snap *Snapshot
	change := func(path string) time.Duration {
		text := []byte("_format_version: \"3.0\"\n" + manyRoutes(10_000, path))
		meter.Begin()
		doc, problems := loader.Load([]spec.Source{{Name: "many.yaml", Data: text}})
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		pause()
		rests = 0
		snap, _ = builder.Build(snap, Inputs{Document: doc, Now: time.Now()})
		if rests < 9 {
			t.Errorf("a build rests %d times, expected once after each of its parts", rests)
		}
		if err := doc.EncodeSlowly(io.Discard, pause); err != nil {
			t.Fatal(err)
		}
		pause()
		return meter.Longest()
	}
	change("/zero")
	var all []time.Duration
	for _, path := range []string{"/one", "/two", "/three", "/four", "/five", "/six", "/seven"} {
		all = append(all, change(path))
	}
	slices.Sort(all)
	t.Logf("longest stretches: %v", all)
	if all[len(all)/2] > 5*time.Millisecond {
		t.Errorf("the longest stretch of a change is %v (median of %v), expected at most 5 ms", all[len(all)/2], all)
	}
}
