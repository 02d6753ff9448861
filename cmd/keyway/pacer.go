package main

import "time"

const (
	paceWork = 500 * time.Microsecond
	paceRest = 50 * time.Microsecond
)

// pacer has long work give way to requests: what reads and builds documents calls pause
// between its parts. Each user has one of its own.
//
// Why it sleeps and does not only yield: on one processor the runtime takes a goroutine
// that yielded up again before it looks at the network, and requests that have come
// meanwhile would wait for its own watchman, up to ten milliseconds.
type pacer struct {
	serves func() bool
	rested time.Time
}

// newPacer makes one that does not rest before the node serves, when nobody waits but those
// who want it to: on a busy machine each rest is as long as others' turns are.
func (n *node) newPacer() *pacer {
	return &pacer{serves: func() bool { return n.publisher != nil && n.publisher.Current() != nil }}
}

// pause rests a moment if the work goes on for long enough.
func (p *pacer) pause() {
	if time.Since(p.rested) < paceWork || !p.serves() {
		return
	}
	time.Sleep(paceRest)
	p.rested = time.Now()
}
