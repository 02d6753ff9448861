package edge

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/routing/spec"
)

// Whatever place the way begins at, each share of a run gets its part of it, but for
// less than three requests.
func TestChooserKeepsToWeights(t *testing.T) {
	for _, weights := range [][]int{{70, 30}, {1, 1, 1}, {0, 5, 0, 1}, {1000000, 1}, {1}, {3, 0}} {
		list, sum := make([]spec.Share, len(weights)), 0
		for i, w := range weights {
			list[i].Weight = w
			sum += w
		}
		c := newChooser(list)
		for _, n := range []int{10, 100, 1000} {
			got := make([]int, len(weights))
			for range n {
				got[c.choose()]++
			}
			for i, w := range weights {
				want := float64(n) * float64(w) / float64(sum)
				if d := float64(got[i]) - want; d < -3 || d > 3 || w == 0 && got[i] > 0 {
					t.Errorf("%v: share %d got %d of %d, expected %.1f", weights, i, got[i], n, want)
				}
			}
		}
	}
	if i := newChooser([]spec.Share{{}, {}}).choose(); i != -1 {
		t.Errorf("without a weight share %d was chosen", i)
	}
}

func TestSplit(t *testing.T) {
	var services strings.Builder
	for _, name := range []string{"a", "b"} {
		o := newOrigin(t, func(w http.ResponseWriter, q *http.Request) {
			_, _ = io.WriteString(w, name+" "+q.RequestURI+" "+q.Header.Get("Authorization"))
		})
		fmt.Fprintf(&services, "- {name: %s, url: %q}\n", name, o.URL+"/"+name)
	}
	text := "services:\n" + services.String() + `- {name: dead, host: nobody}
- {name: secret, host: 127.0.0.1, port: 1, x_keyway_upstream_auth: {type: bearer, value: "{vault://env/none}"}}
upstreams: [{name: nobody}]
routes:
- {name: r, paths: [/two], strip_path: false, x_keyway_split: [{service: a, weight: 3}, {service: b}]}
- {name: half, paths: [/null], x_keyway_split: [{service: a}, {service: null}]}
- {name: zero, paths: [/zero], x_keyway_split: [{service: a, weight: 0}]}
- {name: dead, paths: [/dead], x_keyway_split: [{service: a}, {service: dead}]}
- {name: closed, paths: [/closed], x_keyway_split: [{service: a}, {service: secret}]}
- {name: busy, paths: [/busy], x_keyway_max_requests: 1, x_keyway_split: [{service: a}, {service: b}]}
- {name: plugin, paths: [/plugin], x_keyway_split: [{service: a}, {service: b}]}
plugins:
- {name: stop, route: plugin, service: b, config: {say: not here}}
- {name: needs, service: b, config: {value: met}}
`
	r := newRig(t, &Config{}, text)
	count := func(target string, n int) map[string]int {
		got := map[string]int{}
		for range n {
			x := ask(t, "GET", "h.test", target)
			body := r.do(x)
			if x.Response.Status != 200 {
				body = ""
			}
			got[strings.TrimSpace(fmt.Sprintf("%d %.1s%s", x.Response.Status, body, x.Response.Fields.Get("X-Needs")))]++
		}
		return got
	}
	for target, want := range map[string]map[string]int{
		"/two/x":   {"200 a": 30, "200 bmet": 10},
		"/null":    {"200 a": 20, "500": 20},
		"/zero":    {"500": 40},
		"/dead":    {"200 a": 20, "503": 20},
		"/closed":  {"200 a": 20, "503": 20},
		"/busy":    {"200 a": 20, "200 bmet": 20},
		"/plugin":  {"200 a": 20, "418 met": 20},
		"/nowhere": {"404": 40},
	} {
		got := count(target, 40)
		for what, n := range want {
			if d := got[what] - n; d < -3 || d > 3 || len(got) != len(want) {
				t.Errorf("%s: %v, expected %v", target, got, want)
			}
		}
	}
	// What is of the chosen service applies: its path.
	x := ask(t, "GET", "h.test", "/two/x?q=1")
	body := r.do(x)
	name := body[:1]
	if want := name + " /" + name + "/two/x?q=1 "; body != want {
		t.Errorf("got %q, want %q", body, want)
	}
	for at := range r.publisher.Current().Table.Routes() {
		to := r.publisher.Current().Routed(at)
		if to.Route.Name == "r" && (len(to.Shares) != 2 || to.Shares[0].Service.Name != "a" || to.Shares[0].Weight != 3 || to.Shares[1].Cluster == nil || to.Service != nil) {
			t.Errorf("told as %+v", to)
		}
	}
}

// TestSplitAllocates holds that choosing costs no allocation.
func TestSplitAllocates(t *testing.T) {
	r := newRig(t, &Config{}, `services: [{name: a, host: h.test}, {name: b, host: h.test}]
routes: [{name: r, paths: [/], x_keyway_split: [{service: a, weight: 3}, {service: b}]}]`)
	s := r.publisher.Current().bindings[0].split
	var b *binding
	if n := testing.AllocsPerRun(100, func() { b = s.choose() }); n > 0 || b == nil {
		t.Errorf("%.1f allocations", n)
	}
}
