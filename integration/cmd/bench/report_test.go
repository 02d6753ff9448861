package main

import (
	"encoding/json"
	"reflect"
	"testing"
)

func TestSummaryComparesWithinRounds(t *testing.T) {
	c := benchCase{name: "c", workers: 1, aim: 1.1, peers: []*peer{{name: "nginx"}, {name: "keyway"}}}
	got := summarise(c, [][]run{
		{{CPU: 10}, {CPU: 12}},
		{{CPU: 20}, {CPU: 20}},
		{{CPU: 10}, {CPU: 15}},
	})
	want := []result{
		{Case: "c", Proxy: "nginx", Workers: 1, CPU: 10, Ratio: 1, Spread: "1.00..1.00", Rounds: 3, Runs: []run{{CPU: 10}, {CPU: 20}, {CPU: 10}}},
		{Case: "c", Proxy: "keyway", Workers: 1, CPU: 15, Ratio: 1.2, Spread: "1.00..1.50", Rounds: 3, Aim: 1.1, Verdict: "missed by 9 %", Runs: []run{{CPU: 12}, {CPU: 20}, {CPU: 15}}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("summary is\n%+v, want\n%+v", got, want)
	}
}

func TestSummaryVoidsRunsWithFailures(t *testing.T) {
	c := benchCase{name: "c", workers: 1, peers: []*peer{{name: "nginx"}, {name: "keyway"}}}
	got := summarise(c, [][]run{
		{{CPU: 10}, {CPU: 1, Failed: 3}}, // too good: most of it was not done
		{{CPU: 1, Failed: 1}, {CPU: 30}},
		{{CPU: 10}, {CPU: 20}},
	})
	if k := got[1]; k.Rounds != 1 || k.Ratio != 2 || k.Errors != 3 || k.Spread != "2.00..2.00" {
		t.Errorf("keyway's line is %+v, want one round of ratio 2 and 3 errors", k)
	}
	if n := got[0]; n.Rounds != 2 || n.Errors != 1 || n.CPU != 10 {
		t.Errorf("nginx's line is %+v, want two rounds and 1 error", n)
	}
	none := summarise(c, [][]run{{{Failed: 1}, {Failed: 1}}})
	if _, err := json.Marshal(none); err != nil || none[1].Ratio != 0 || none[1].Rounds != 0 {
		t.Errorf("without any good run the line is %+v (%v), want zeroes that can be written", none[1], err)
	}
}

func TestResultHasTheFieldsOfTheFile(t *testing.T) {
	text, err := json.Marshal(result{
		Case: "h1-tls-1k", Proxy: "keyway", Workers: 1, CPU: 1, Ratio: 1, Spread: "1..1", Rounds: 1, Aim: 0.95, Verdict: "within 5 %",
		Runs: []run{{CPU: 1, Requests: 9, Rate: 3}, {Requests: 9, Rate: 3, Resumed: 8, TLS: "x", P50: 1, P99: 2, P999: 3, Late: 4}},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"case":"h1-tls-1k","proxy":"keyway","workers":1,"cpu_us_per_request":1,"ratio_to_nginx":1,"spread":"1..1","rounds":1,"errors":0,"aim":0.95,"verdict":"within 5 %",` +
		`"runs":[{"cpu_us_per_request":1,"requests":9,"failed":0,"requests_per_second":3},` +
		`{"cpu_us_per_request":0,"requests":9,"failed":0,"requests_per_second":3,"resumed":8,"tls":"x","p50_us":1,"p99_us":2,"p999_us":3,"generator_late_p99_us":4}]}`
	if string(text) != want {
		t.Fatalf("a line is %s, want %s", text, want)
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		list []float64
		want float64
	}{{[]float64{3, 1, 2}, 2}, {[]float64{4, 1, 3, 2}, 2.5}, {[]float64{7}, 7}} {
		if got := median(c.list); got != c.want {
			t.Errorf("median of %v is %v, want %v", c.list, got, c.want)
		}
	}
}

func TestLatencyIsComparedByItsTail(t *testing.T) {
	c := benchCase{name: "c", workers: 1, latency: true, aim: 1.1, peers: []*peer{{name: "nginx"}, {name: "keyway"}}}
	got := summarise(c, [][]run{{{CPU: 10, P50: 1, P99: 10}, {CPU: 30, P50: 9, P99: 11}}})[1]
	if got.Ratio != 1.1 || got.Verdict != "met" || got.CPU != 30 {
		t.Errorf("the line is %+v, want the ratio of p99, 1.1, which meets the aim", got)
	}
}

func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		ratio, aim float64
		want       string
	}{{0.95, 0.95, "met"}, {0.99, 0.95, "within 5 %"}, {1.2, 1, "missed by 20 %"}, {0, 1, "not measured"}} {
		if got := verdict(c.ratio, c.aim); got != c.want {
			t.Errorf("a ratio of %v with the aim %v is %q, want %q", c.ratio, c.aim, got, c.want)
		}
	}
}

// TestConfidenceIsThatOfOrderedValues has the ranks of the sign test's tables.
func TestConfidenceIsThatOfOrderedValues(t *testing.T) {
	for _, c := range []struct{ n, low, high int }{{1, 1, 1}, {3, 1, 3}, {5, 1, 5}, {6, 1, 6}, {8, 1, 8}, {9, 2, 8}, {10, 2, 9}, {12, 3, 10}, {20, 6, 15}, {30, 10, 21}} {
		var list []float64
		for i := range c.n {
			list = append(list, float64(c.n-i))
		}
		if low, high := confidence(list); low != float64(c.low) || high != float64(c.high) {
			t.Errorf("of %d values it is from the %v. to the %v., want the %d. to the %d.", c.n, low, high, c.low, c.high)
		}
	}
}

func TestResumedShare(t *testing.T) {
	if got := resumedShare([]run{{Requests: 100, Resumed: 99}, {Requests: 100, Resumed: 98}}); got != "98.50 %" {
		t.Errorf("the share is %q, want 98.50 %%", got)
	}
	if got := resumedShare([]run{{Requests: 100}}); got != "" {
		t.Errorf("where nothing is resumed the share is %q, want none", got)
	}
}
