package integration

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// soakReport is what is kept of a run.
type soakReport struct {
	Date         string           `json:"date"`
	Version      string           `json:"version"`
	Go           string           `json:"go"`
	CPUs         int              `json:"cpus"`
	Seconds      float64          `json:"seconds"`
	Drain        float64          `json:"drain_seconds"`
	CPU          float64          `json:"cpu_seconds"`
	GeneratorCPU float64          `json:"generator_cpu_seconds"`
	Waiting      float64          `json:"waiting_for_processor_seconds"`
	Done         int64            `json:"done"`
	Bytes        int64            `json:"bytes"`
	Explained    int64            `json:"explained"`
	Unexplained  int64            `json:"unexplained"`
	Handshakes   int64            `json:"handshakes"`
	SlowestSwap  float64          `json:"slowest_certificate_swap_seconds"`
	Happened     map[string]int64 `json:"happened"`
	Clients      map[string]*sum  `json:"clients"`
	Requests     map[string]int64 `json:"requests"`
	PeakRSS      int              `json:"peak_rss_bytes"`
	Start        holding          `json:"start"`
	Thirds       [3]third         `json:"thirds"`
	End          holding          `json:"end"`
}

// tell prints what the run was, fails it for what nothing explains, and writes the file
// that SOAK_OUT names.
func (k *soak) tell(r soakReport) {
	k.t.Helper()
	b := k.book
	b.mu.Lock()
	defer b.mu.Unlock()
	version, err := os.ReadFile("../VERSION")
	if err != nil {
		k.t.Fatal(err)
	}
	r.Version, r.Go, r.CPUs = strings.TrimSpace(string(version)), runtime.Version(), runtime.NumCPU()
	r.Clients, r.Requests, r.Happened, r.Handshakes, r.SlowestSwap, r.Unexplained = b.kinds, b.errands, b.happens, k.handshakes.Load(), k.slowestSwap.Seconds(), b.lost
	var text strings.Builder
	names := make([]string, 0, len(b.kinds))
	for name := range b.kinds {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		c := b.kinds[name]
		r.Done, r.Bytes = r.Done+c.Done, r.Bytes+c.Bytes
		var why []string
		for reason, n := range c.Explained {
			r.Explained += n
			why = append(why, fmt.Sprintf("%d: %s", n, reason))
		}
		slices.Sort(why)
		fmt.Fprintf(&text, "%-56s %8d done %8.1f MiB %4d unexplained  %s\n", name, c.Done, float64(c.Bytes)/mebi, c.Unexplained, strings.Join(why, "; "))
	}
	k.t.Logf("%.0fs of load, %d done, %d explained, %d unexplained, %d handshakes, the slowest swap %.2fs\n%s", r.Seconds, r.Done, r.Explained, r.Unexplained, r.Handshakes, r.SlowestSwap, text.String())
	k.t.Logf("happened: %v", r.Happened)
	k.t.Logf("requests: %v", r.Requests)
	k.t.Logf("processor: node %.1fs, generator %.1fs, a thread of them waited %.1fs; peak %d MiB; drain %.1fs", r.CPU, r.GeneratorCPU, r.Waiting, r.PeakRSS/mebi, r.Drain)
	k.t.Logf("at rest %+v; thirds %+v; at rest again %+v", r.Start, r.Thirds, r.End)
	for _, fault := range b.faults {
		k.t.Errorf("nothing explains %s", fault)
	}
	if b.lost > 0 {
		k.t.Errorf("%d errors that nothing explains", b.lost)
	}
	if out := os.Getenv("SOAK_OUT"); out != "" {
		data, err := json.MarshalIndent(r, "", " ")
		if err == nil {
			err = os.MkdirAll(filepath.Dir(out), 0o755)
		}
		if err = cmp.Or(err, os.WriteFile(out, append(data, '\n'), 0o644)); err != nil {
			k.t.Error(err)
		}
	}
}
