package main

import (
	"slices"
	"time"
)

// A virtual CPU is taken away now and then, for milliseconds, by the machine that lends
// it. Requests of such a time say nothing of a proxy, and one percent of them is all
// that p99 is. A watcher on each CPU that goes before everything else finds these times,
// and latencies are those of the requests outside of them.

// span is a time in which a CPU did nothing, from the start of a run.
type span struct{ from, to time.Duration }

// sample is one request.
type sample struct{ due, took time.Duration }

// aftermath is for how long after a stop requests are left out, in lengths of the stop. At
// half of a proxy's saturation, what came together meanwhile is worked off in one.
const aftermath = 2

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
