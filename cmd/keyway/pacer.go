package main

import (
	"runtime"
	"time"
)

const (
	paceWork = 500 * time.Microsecond
	paceRest = 50 * time.Microsecond
	// paceAlone is the rest on one processor. Who wakes up goes before all that wait there, so
	// that after a short rest no more than one request has had its turn.
	paceAlone = 3 * time.Millisecond
)

// pacer has long work give way to requests: what reads and builds documents calls pause
// between its parts. Each user has one of its own.
//
// Why it sleeps and does not only yield: on one processor the runtime takes a goroutine
// that yielded up again before it looks at the network, and requests that have come
// meanwhile would wait for its own watchman, up to ten milliseconds.
type pacer struct {
	serves func() bool
	rest   time.Duration
	rested time.Time
}

// newPacer makes one that does not rest before the node serves, when nobody waits but those
// who want it to: on a busy machine each rest is as long as others' turns are.
func (n *node) newPacer() *pacer {
	rest := paceRest
	if runtime.GOMAXPROCS(0) == 1 {
		rest = paceAlone
	}
	return &pacer{serves: func() bool { return n.publisher != nil && n.publisher.Current() != nil }, rest: rest}
}

// pause rests a moment if the work goes on for long enough.
func (p *pacer) pause() {
	if time.Since(p.rested) < paceWork || !p.serves() {
		return
	}
	time.Sleep(p.rest)
	p.rested = time.Now()
}
