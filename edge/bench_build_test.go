package edge

import (
	"fmt"
	"strings"
	"testing"
	"time"
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
