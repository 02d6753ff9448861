package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
)

// result is one line of latest.json.
type result struct {
	Case    string  `json:"case"`
	Proxy   string  `json:"proxy"`
	Workers int     `json:"workers"`
	CPU     float64 `json:"cpu_us_per_request"` // median
	Ratio   float64 `json:"ratio_to_nginx"`     // median of the rounds' ratios: of CPU time, or of p99 where a rate was given
	Spread  string  `json:"spread"`             // least and greatest of the rounds' ratios
	Rounds  int     `json:"rounds"`
	Errors  int     `json:"errors"`
	Aim     float64 `json:"aim,omitempty"` // of the ratio
	Verdict string  `json:"verdict,omitempty"`
	Runs    []run   `json:"runs"` // one for each round
}

// summarise makes a line for each proxy of a case. Runs is by round, then by
// proxy, nginx first. A void run takes part in no median, and neither does what
// would be compared with it.
func summarise(c benchCase, runs [][]run) []result {
	var out []result
	for i, p := range c.peers {
		r := result{Case: c.name, Proxy: p.name, Workers: c.workers}
		for _, round := range runs {
			r.Errors += round[i].Failed
			r.Runs = append(r.Runs, round[i])
		}
		ratios := within(runs, 0, i, c.of())
		if r.Rounds = len(ratios); r.Rounds > 0 {
			r.CPU, r.Ratio = medianOf(r.Runs, cpu), median(ratios)
			r.Spread = fmt.Sprintf("%.2f..%.2f", slices.Min(ratios), slices.Max(ratios))
		}
		if c.aim > 0 && strings.HasPrefix(p.name, "keyway") {
			r.Aim, r.Verdict = c.aim, verdict(r.Ratio, c.aim)
		}
		out = append(out, r)
	}
	return out
}

// verdict says whether a ratio, 0 for none, is what was aimed at.
func verdict(ratio, aim float64) string {
	switch {
	case ratio == 0:
		return "not measured"
	case ratio <= aim:
		return "met"
	case ratio <= aim*1.05:
		return "within 5 %"
	}
	return fmt.Sprintf("missed by %.0f %%", (ratio/aim-1)*100)
}

// What runs are compared by.
func cpu(r run) float64  { return r.CPU }
func p50(r run) float64  { return r.P50 }
func p99(r run) float64  { return r.P99 }
func p999(r run) float64 { return r.P999 }
func rate(r run) float64 { return r.Rate }
func late(r run) float64 { return r.Late }

func counted(r run) float64 { return r.Counted }

// within answers what proxy b had of what a had, in each round that is good for both.
func within(runs [][]run, a, b int, of func(run) float64) (ratios []float64) {
	for _, round := range runs {
		if round[a].Failed == 0 && round[b].Failed == 0 && of(round[a]) > 0 {
			ratios = append(ratios, of(round[b])/of(round[a]))
		}
	}
	return ratios
}

func median(list []float64) float64 {
	s := slices.Sorted(slices.Values(list))
	n := len(s)
	if n%2 == 1 {
		return s[n/2]
	}
	return (s[n/2-1] + s[n/2]) / 2
}

// medianOf is that of the good runs, 0 without any.
func medianOf(runs []run, of func(run) float64) float64 {
	var list []float64
	for _, r := range runs {
		if r.Failed == 0 {
			list = append(list, of(r))
		}
	}
	if len(list) == 0 {
		return 0
	}
	return median(list)
}

// confidence is the narrowest pair of ordered values that holds the median with 95 %,
// whatever the distribution; of fewer than six values it is all of them.
func confidence(list []float64) (low, high float64) {
	s := slices.Sorted(slices.Values(list))
	n := len(s)
	outside, ways := 0.0, math.Pow(0.5, float64(n)) // the chance that at most k values are below the median
	k := 0
	for ; k < n/2; k++ {
		if outside+ways > 0.025 {
			break
		}
		outside += ways
		ways *= float64(n-k) / float64(k+1)
	}
	k = max(k-1, 0)
	return s[k], s[n-1-k]
}

// table prints the lines of one case.
func table(c benchCase, results []result) {
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	defer func() {
		_ = w.Flush()
		fmt.Println()
	}()
	if c.latency {
		fmt.Fprintln(w, "case\tproxy\trate\tCPU busy\tp50 us\tp99 us\tp99.9 us\tratio p50\tp99\tp99.9\tspread of p99\tlate p99 us\tcounted\trounds\terrors\taim\t")
	} else {
		fmt.Fprintln(w, "case\tproxy\tworkers\tus/request\tratio\tspread\trounds\terrors\tresumed\taim\t")
	}
	nginx := results[0].Runs
	for _, r := range results {
		aim := ""
		if r.Aim > 0 {
			aim = fmt.Sprintf("%.2f", r.Aim)
		}
		if !c.latency {
			fmt.Fprintf(w, "%s\t%s\t%d\t%.1f\t%.2f\t%s\t%d\t%d\t%s\t%s\t%s\n", r.Case, r.Proxy, r.Workers, r.CPU, r.Ratio, r.Spread, r.Rounds, r.Errors, resumedShare(r.Runs), aim, r.Verdict)
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%.0f\t%.0f %%\t%.0f\t%.0f\t%.0f\t%.2f\t%.2f\t%.2f\t%s\t%.0f\t%.1f %%\t%d\t%d\t%s\t%s\n", r.Case, r.Proxy, medianOf(r.Runs, rate), r.CPU*medianOf(r.Runs, rate)/1e4,
			medianOf(r.Runs, p50), medianOf(r.Runs, p99), medianOf(r.Runs, p999), ratioOf(nginx, r.Runs, p50), r.Ratio, ratioOf(nginx, r.Runs, p999),
			r.Spread, medianOf(r.Runs, late), 100*medianOf(r.Runs, counted), r.Rounds, r.Errors, aim, r.Verdict)
	}
}

// ratioOf is the median of the rounds' ratios of two proxies, 0 without any.
func ratioOf(a, b []run, of func(run) float64) float64 {
	rounds := make([][]run, len(a))
	for i := range a {
		rounds[i] = []run{a[i], b[i]}
	}
	if ratios := within(rounds, 0, 1, of); len(ratios) > 0 {
		return median(ratios)
	}
	return 0
}

// resumedShare is how many of the connections that made a handshake each were resumed,
// and empty where none was.
func resumedShare(runs []run) string {
	resumed, all := 0, 0
	for _, r := range runs {
		resumed += r.Resumed
		all += r.Requests
	}
	if resumed == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f %%", 100*float64(resumed)/float64(all))
}

// compare prints the two Keyways of a case side by side, each round by itself.
func compare(c benchCase, runs [][]run) {
	a, b := c.index("keyway"), c.index("keyway-b")
	if a < 0 || b < 0 {
		return
	}
	ratios := within(runs, a, b, c.of())
	if len(ratios) == 0 {
		fmt.Print("no good round of both\n\n")
		return
	}
	low, high := confidence(ratios)
	fmt.Printf("%s: keyway-b / keyway is %.3f, with 95 %% between %.3f and %.3f (%d rounds, %.3f..%.3f)\n\n",
		c.label(), median(ratios), low, high, len(ratios), slices.Min(ratios), slices.Max(ratios))
}

func save(path string, results []result) error {
	text, err := json.MarshalIndent(results, "", " ")
	if err != nil {
		return fmt.Errorf("rendering the results: %w", err)
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("writing the results: %w", err)
	}
	return nil
}
