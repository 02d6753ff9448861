package integration

import (
	"slices"
	"testing"
	"time"
)

// meeting is one request or handshake and which version it met of something that is
// replaced again and again. It drew a number when it began, and by drawn it is known which
// others began after it had met that version: those that had no number yet.
type meeting struct {
	version, number, drawn int64
	began                  time.Time
}

// succession judges meetings of versions that came one after the other. back is how many met
// an older one though they had begun after a newer one was met: that is never right, whatever
// a machine does. late is how long an older one was met after a version had come, the median
// of all versions: it says what a node takes, and nothing of the few that a machine held up.
func succession(came []time.Time, all []meeting) (back int, late time.Duration) {
	const never = int64(1) << 62
	met, lates := make([]int64, len(came)), make([]time.Duration, len(came))
	for i := range met {
		met[i] = never
	}
	for _, m := range all {
		met[m.version] = min(met[m.version], m.drawn)
	}
	for _, m := range all {
		newer := met[m.version+1:]
		if slices.ContainsFunc(newer, func(drawn int64) bool { return m.number > drawn }) {
			back++
		}
		for i := m.version + 1; i < int64(len(came)); i++ {
			lates[i] = max(lates[i], m.began.Sub(came[i]))
		}
	}
	lates = lates[1:] // nothing was before the first
	slices.Sort(lates)
	return back, lates[len(lates)/2]
}

// TestRigSuccession has the judge find what is to be found.
func TestRigSuccession(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(1e9, 0).Add(time.Duration(ms) * time.Millisecond) }
	came := []time.Time{at(0), at(1000), at(2000), at(3000)}
	for what, c := range map[string]struct {
		all  []meeting
		back int
		late time.Duration
	}{
		"at once":                    {[]meeting{{0, 1, 1, at(10)}, {1, 2, 2, at(1010)}, {3, 3, 3, at(3010)}}, 0, 0},
		"under way when it came":     {[]meeting{{0, 1, 3, at(10)}, {1, 2, 3, at(1010)}, {0, 3, 3, at(1020)}}, 0, 0},
		"back":                       {[]meeting{{0, 1, 1, at(10)}, {1, 2, 2, at(1010)}, {0, 3, 3, at(1020)}}, 1, 0},
		"back to one before the one": {[]meeting{{2, 1, 1, at(2010)}, {3, 2, 2, at(3010)}, {1, 3, 3, at(3020)}}, 1, 20 * time.Millisecond},
		"one was held up":            {[]meeting{{0, 1, 1, at(1900)}, {1, 2, 2, at(1910)}, {3, 3, 3, at(3010)}}, 0, 0},
		"each is late":               {[]meeting{{0, 1, 1, at(2700)}, {1, 2, 2, at(3700)}, {2, 3, 3, at(4700)}, {3, 4, 4, at(4800)}}, 0, 1700 * time.Millisecond},
	} {
		if back, late := succession(came, c.all); back != c.back || late != c.late {
			t.Errorf("%s: %d met an older one again, half of them were met %s too late; want %d and %s", what, back, late, c.back, c.late)
		}
	}
}
