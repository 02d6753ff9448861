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

// BenchmarkReload goes from the text of a document of 10,000 routes, one of which changed,
// to the snapshot. The CPU time that it reports is that of the whole process, collection included.
func BenchmarkReload(b *testing.B) {
	builder := newBuilder(b, &Config{})
	loader := &spec.Loader{}
	load := func(path string) *spec.Document {
		doc, problems := loader.Load([]spec.Source{{Name: "many.yaml", Data: []byte("_format_version: \"3.0\"\n" + manyRoutes(10_000, path))}})
		if len(problems) > 0 {
			b.Fatal(problems)
		}
		return doc
	}
	now := time.Now()
	snap, _ := builder.Build(nil, Inputs{Document: load("/zero"), Now: now})
	texts := make([]string, 2)
	for i := range texts {
		texts[i] = "_format_version: \"3.0\"\n" + manyRoutes(10_000, fmt.Sprintf("/turn%d", i))
	}
	before := cpuTime(b)
	for i := 0; b.Loop(); i++ {
		doc, problems := loader.Load([]spec.Source{{Name: "many.yaml", Data: []byte(texts[i%2])}})
		if len(problems) > 0 {
			b.Fatal(problems)
		}
		snap, _ = builder.Build(snap, Inputs{Document: doc, Now: now})
	}
	b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/1000/float64(b.N), "cpu-ms/op")
}

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
