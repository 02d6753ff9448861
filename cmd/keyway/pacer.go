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
	rested time.Time
}

func newPacer() *pacer { return &pacer{} }

// pause rests a moment if the work goes on for long enough.
func (p *pacer) pause() {
	if time.Since(p.rested) < paceWork {
		return
	}
	time.Sleep(paceRest)
	p.rested = time.Now()
}
