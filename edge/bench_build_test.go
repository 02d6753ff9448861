package edge

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/routing/spec"
)

// manyRoutes is a document of n routes of n/10 services; the path of one of them is changed.
func manyRoutes(n int, changed string) string {
	var b strings.Builder
	b.WriteString("services:\n")
	for i := range n {
		if i%10 == 0 {
			fmt.Fprintf(&b, "- name: s%d\n  url: http://127.0.0.1:%d\n  routes:\n", i, 20000+i%1000)
		}
		path := fmt.Sprintf("/app%d/v1", i)
		if i == n/2 {
			path = changed
		}
		fmt.Fprintf(&b, "  - {name: r%d, hosts: [h%d.example.com], paths: [%s]}\n", i, i/2, path)
	}
	return b.String()
}

// BenchmarkBuild makes a snapshot of 10,000 routes, at first and after the change of one.
func BenchmarkBuild(b *testing.B) {
	first, second := load(b, manyRoutes(10_000, "/one")), load(b, manyRoutes(10_000, "/two"))
	builder := newBuilder(b, &Config{})
	now := time.Now()
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			builder.Build(nil, Inputs{Document: first, Now: now})
		}
	})
	before, _ := builder.Build(nil, Inputs{Document: first, Now: now})
	b.Run("one-change", func(b *testing.B) {
		for b.Loop() {
			builder.Build(before, Inputs{Document: second, Now: now})
		}
	})
}

// BenchmarkReload goes from the text of a document of 10,000 routes to the snapshot: one that
// was never read before, and one of which one route changed. The CPU time that it reports is
// that of the whole process, collection included.
func BenchmarkReload(b *testing.B) {
	builder, now := newBuilder(b, &Config{}), time.Now()
	text := func(path string) []spec.Source {
		return []spec.Source{{Name: "many.yaml", Data: []byte("_format_version: \"3.0\"\n" + manyRoutes(10_000, path))}}
	}
	turns := [][]spec.Source{text("/turn0"), text("/turn1")}
	build := func(b *testing.B, l *spec.Loader, from *Snapshot, turn int) *Snapshot {
		doc, problems := l.Load(turns[turn%2])
		if len(problems) > 0 {
			b.Fatal(problems)
		}
		snap, _ := builder.Build(from, Inputs{Document: doc, Now: now})
		return snap
	}
	b.Run("first", func(b *testing.B) {
		before := cpuTime(b)
		for b.Loop() {
			build(b, &spec.Loader{}, nil, 0)
		}
		b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/1000/float64(b.N), "cpu-ms/op")
	})
	b.Run("one-change", func(b *testing.B) {
		loader := &spec.Loader{}
		snap := build(b, loader, nil, 0)
		before := cpuTime(b)
		for turn := 1; b.Loop(); turn++ {
			snap = build(b, loader, snap, turn)
		}
		b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/1000/float64(b.N), "cpu-ms/op")
	})
}

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
