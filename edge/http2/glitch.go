package http2

import "time"

// What a glitch weighs. A peer may cause a few small ones for each frame of a body, as
// those do that measure the way by PINGs, and none of the others without end.
const (
	small = 1
	large = 10
)

// glitches count what is cheap for a peer and dear for this side: streams that are
// given up or broken before they are answered, and frames that say nothing. How much
// of that runs at a time is bounded elsewhere, here how long it may go on. Each
// answered stream, and each second, takes a large one back, each frame of a body a
// small one.
type glitches struct {
	level, limit int
	since        time.Time
}

// add counts one; true is one too many.
func (g *glitches) add(weight int, now time.Time) bool {
	if s := int(now.Sub(g.since) / time.Second); s > 0 {
		g.level = max(0, g.level-large*s)
		g.since = now
	}
	g.level += weight
	return g.over()
}

func (g *glitches) over() bool { return g.level > g.limit }

func (g *glitches) forgive(weight int) { g.level = max(0, g.level-weight) }

// earlyStreams are those that ended last for this side before they did for the peer: what
// the peer had sent before it knew is no offence.
type earlyStreams struct {
	ids [64]uint32
	at  int
}

func (s *earlyStreams) add(id uint32) {
	s.ids[s.at%len(s.ids)] = id
	s.at++
}

func (s *earlyStreams) has(id uint32) bool {
	for _, e := range s.ids {
		if e == id {
			return true
		}
	}
	return false
}
