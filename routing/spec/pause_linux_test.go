package spec

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/edge/cputest"
)

// TestLoadingGivesWay reads a document of 10,000 routes, and again after one has changed. How
// long requests on the same processor wait meanwhile is held against the CPU time of the
// whole, since it differs from one machine to another: the median of several, since the
// collector helps itself to some. Each of the steps that look at all routes rests by itself.
func TestLoadingGivesWay(t *testing.T) {
	if raced || testing.Short() {
		t.Skip("the race detector has a time of its own")
	}
	const routes = 10_000
	text := func(changed string) []byte {
		var b strings.Builder
		b.WriteString("_format_version: \"3.0\"\nservices:\n- {name: s, url: \"http://127.0.0.1:1\"}\nroutes:\n")
		for i := range routes {
			path := fmt.Sprintf("/app%d", i)
			if i == routes/2 {
				path = changed
			}
			fmt.Fprintf(&b, "- {name: r%d, service: s, hosts: [h%d.example.com], paths: [%s]}\n", i, i/2, path)
		}
		return []byte(b.String())
	}
	meter := cputest.New(t)
	rests := 0
	// load answers the share of the longest stretch.
	load := func(l *Loader, changed string) float64 {
		data := text(changed)
		rests = 0
		meter.Begin()
		doc, problems := l.Load([]Source{{Name: "many.yaml", Data: data}})
		meter.Rest()
		if len(problems) > 0 || len(doc.Routes) != routes {
			t.Fatal(problems)
		}
		return float64(meter.Longest()) / float64(meter.Total())
	}
	judge := func(what string, shares []float64, most float64) {
		t.Helper()
		slices.Sort(shares)
		if half := shares[len(shares)/2]; half > most {
			t.Errorf("%s: the longest stretch is %.3f of the whole (median of %.3f), expected at most %.3f", what, half, shares, most)
		}
		t.Logf("%s: %d rests, the longest stretches are %.3f of the whole", what, rests, shares)
	}
	loader := func() *Loader { return &Loader{Pause: func() { rests++; meter.Rest() }} }
	var first, again []float64
	for range 3 {
		first = append(first, load(loader(), "/first"))
	}
	// New ones are read by 32, and resolved, claimed and noted by 64.
	if least := routes/together + 3*(routes/few); rests < least {
		t.Errorf("the first reading rests %d times, expected at least %d", rests, least)
	}
	judge("all are new", first, 0.25)
	l := loader()
	load(l, "/zero")
	for i := range 7 {
		again = append(again, load(l, fmt.Sprint("/", i)))
	}
	// The text is cut; pieces are compared and listed; names are indexed, and ids; what refers
	// and what was claimed is looked at; and a rest between the last steps.
	if least := routes/(4*stretch) + 6*(routes/stretch) + 3; rests < least {
		t.Errorf("a reading after a change rests %d times, expected at least %d", rests, least)
	}
	judge("one is new", again, 0.5)
}
