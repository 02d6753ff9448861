package integration

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"testing"
	"time"
)

// holding is what a node holds at a moment.
type holding struct {
	Seconds    float64 `json:"seconds"` // since the load began
	RSS        int     `json:"rss_bytes"`
	Heap       int     `json:"heap_bytes"`
	Goroutines int     `json:"goroutines"`
	Files      int     `json:"descriptors"`
}

// holds measures a node.
func (g *gateway) holds(t testing.TB) holding {
	t.Helper()
	pid := g.cmd.Process.Pid
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	h := holding{Files: len(open), RSS: g.resident()}
	var text string
	poll(t, "the node answers /metrics", patience, func() bool {
		status, said := g.read("/metrics")
		text = said
		return status == http.StatusOK
	})
	h.Heap, h.Goroutines = int(seriesOf(t, text, "keyway_heap_bytes")), int(seriesOf(t, text, "keyway_goroutines"))
	return h
}

// least keeps the least of each figure over many looks: what is not garbage.
func (h *holding) least(n holding) {
	if h.Files == 0 {
		*h = n
		return
	}
	h.RSS, h.Heap, h.Goroutines, h.Files = min(h.RSS, n.RSS), min(h.Heap, n.Heap), min(h.Goroutines, n.Goroutines), min(h.Files, n.Files)
}

// third summarises a part of a run: the median of what is resident, and the least tenth
// of the others, which is what is left after collections and while little is under way.
type third struct {
	Samples    int `json:"samples"`
	RSS        int `json:"rss_bytes"`
	Heap       int `json:"heap_after_gc_bytes"`
	Goroutines int `json:"goroutines"`
	Files      int `json:"descriptors"`
}

func summary(list []holding) third {
	at := func(share float64, of func(holding) int) int {
		if len(list) == 0 {
			return 0
		}
		var v []int
		for _, h := range list {
			v = append(v, of(h))
		}
		slices.Sort(v)
		return v[int(share*float64(len(v)-1))]
	}
	return third{
		Samples: len(list), RSS: at(0.5, func(h holding) int { return h.RSS }), Heap: at(0.1, func(h holding) int { return h.Heap }),
		Goroutines: at(0.1, func(h holding) int { return h.Goroutines }), Files: at(0.1, func(h holding) int { return h.Files }),
	}
}

// grown says what grew from the second to the last third of a run by more than a
// tenth and a little: what comes and goes with clients and targets.
func grown(second, last third) []string {
	var out []string
	for _, x := range []struct {
		name                string
		before, now, little int
	}{
		{"resident bytes", second.RSS, last.RSS, 6 * mebi},
		{"heap bytes after collections", second.Heap, last.Heap, 8 * mebi},
		{"goroutines", second.Goroutines, last.Goroutines, 100},
		{"descriptors", second.Files, last.Files, 60},
	} {
		if x.now > x.before+x.before/10+x.little {
			out = append(out, fmt.Sprintf("%s grew from %d to %d", x.name, x.before, x.now))
		}
	}
	return out
}

// sample measures the node until the load ends, and says each minute how it goes.
func (k *soak) sample() {
	began := time.Now()
	for told := began; ; {
		pause(k.stop, min(5*time.Second, k.length/60))
		if !k.running() {
			return
		}
		h := k.g.holds(k.t)
		h.Seconds = time.Since(began).Seconds()
		k.series = append(k.series, h)
		k.book.ledger.sweep(5 * time.Minute)
		if time.Since(told) > time.Minute {
			told = time.Now()
			k.t.Logf("after %.0fs: %d errors that nothing explains, %d MiB resident, %d MiB of heap, %d goroutines, %d descriptors", h.Seconds, k.book.troubles(), h.RSS/mebi, h.Heap/mebi, h.Goroutines, h.Files)
		}
	}
}

// thirds are the parts of a run.
func thirds(list []holding) (out [3]third) {
	for i := range out {
		out[i] = summary(list[len(list)*i/3 : len(list)*(i+1)/3])
	}
	return out
}

// TestSoakGrowth shows the judge of memory a run that grows, and one that does not.
func TestSoakGrowth(t *testing.T) {
	run := func(per int) (list []holding) {
		for i := range 300 {
			// The heap goes up and down between collections.
			list = append(list, holding{RSS: 80*mebi + i*per, Heap: 12*mebi + i*per + i%7*2*mebi, Goroutines: 300 + i%40, Files: 200 + i*per/mebi})
		}
		return list
	}
	for per, want := range map[int]int{0: 0, 20 << 10: 0, 200 << 10: 2, 2 * mebi: 3} {
		th := thirds(run(per))
		if got := grown(th[1], th[2]); len(got) != want {
			t.Errorf("%d bytes a sample: %q, want %d of them", per, got, want)
		}
	}
}
