package main

import (
	"slices"
	"time"
)

// A virtual CPU is taken away now and then, for milliseconds, by the machine that lends
// it. Requests of such a time say nothing of a proxy, and one percent of them is all
// that p99 is. At other times it runs, and every timer and every wake-up takes the machine
// a tenth of a millisecond, for 5 to 30 ms: the load is nearly the machine's limit then. A
// watcher on each CPU that goes before everything else finds these times, and latencies are
// those of the requests outside of them.

// span is a time in which a CPU did nothing or was slow, from the start of a run.
type span struct{ from, to time.Duration }

const (
	watchEvery = 500 * time.Microsecond
	watchLate  = 80 * time.Microsecond  // a watcher that wakes so late may be on a slow machine
	watchStop  = 500 * time.Microsecond // and this is a stop
	watchNear  = 2 * time.Millisecond   // between late wake-ups that have one cause
	watchMany  = 3                      // late wake-ups near each other are a slow machine
)

// stopsOf makes of late wake-ups, each from when it was due, the times that were stopped or
// slow. One alone that is a little late is nothing.
func stopsOf(late []span) []span {
	late = slices.Clone(late)
	slices.SortFunc(late, func(a, b span) int { return int(a.from - b.from) })
	var stops []span
	for i := 0; i < len(late); {
		whole, stop, n := late[i], false, 0
		for ; i < len(late) && late[i].from <= whole.to+watchNear; i++ {
			whole.to = max(whole.to, late[i].to)
			stop = stop || late[i].to-late[i].from >= watchStop
			n++
		}
		if stop || n >= watchMany {
			stops = append(stops, whole)
		}
	}
	return stops
}

// sample is one request.
type sample struct{ due, took time.Duration }

// aftermath is for how long after a stop requests are left out, in lengths of the stop: what
// came together meanwhile is worked off in one by a proxy at half of its saturation, and
// in somewhat more by one that is busier.
const aftermath = 3

// calm answers how long those requests took that no stop touched, in order.
func calm(samples []sample, stops []span) []time.Duration {
	stops = slices.Clone(stops)
	for i, s := range stops {
		stops[i].to = s.to + aftermath*(s.to-s.from)
	}
	slices.SortFunc(stops, func(a, b span) int { return int(a.from - b.from) })
	merged := stops[:0]
	for _, s := range stops {
		if n := len(merged); n > 0 && s.from <= merged[n-1].to {
			merged[n-1].to = max(merged[n-1].to, s.to)
			continue
		}
		merged = append(merged, s)
	}
	list := make([]time.Duration, 0, len(samples))
	for _, s := range samples {
		// The first stop that ends after the request was due.
		i, _ := slices.BinarySearchFunc(merged, s.due, func(p span, due time.Duration) int { return int(p.to - due) })
		if i == len(merged) || s.due+s.took < merged[i].from {
			list = append(list, s.took)
		}
	}
	slices.Sort(list)
	return list
}
