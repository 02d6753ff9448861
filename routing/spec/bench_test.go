package spec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
)

// bigYAML is a document of n services with a route each, as people write them.
func bigYAML(n int) []byte {
	var b bytes.Buffer
	b.WriteString("_format_version: \"3.0\"\nservices:\n")
	for i := range n {
		fmt.Fprintf(&b, `- name: service-%d
  url: http://backend-%d.internal:8080/api
  retries: 3
  tags: [team-%d, prod]
  routes:
  - name: route-%d
    hosts: [host-%d.example.com]
    paths: [/v1/things-%d]
    methods: [GET, POST]
    strip_path: false
`, i, i%100, i%7, i, i%1000, i)
	}
	return b.Bytes()
}

func mustLoad(tb testing.TB, name string, data []byte, schemas Schemas) *Document {
	tb.Helper()
	d, problems := Load([]Source{{Name: name, Data: data}}, schemas)
	if len(problems) > 0 {
		tb.Fatal(problems)
	}
	return d
}

func BenchmarkLoad(b *testing.B) {
	text := bigYAML(10_000)
	b.Run("yaml-10000", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			mustLoad(b, "big.yaml", text, nil)
		}
	})
	d := mustLoad(b, "big.yaml", text, nil)
	flat, err := d.Encode()
	if err != nil {
		b.Fatal(err)
	}
	b.Run("canonical-10000", func(b *testing.B) {
		b.SetBytes(int64(len(flat)))
		for b.Loop() {
			mustLoad(b, "flat.yaml", flat, nil)
		}
	})
	root, _ := parseSource(Source{Name: "big.yaml", Data: text})
	asJSON, err := json.Marshal(root.value())
	if err != nil {
		b.Fatal(err)
	}
	b.Run("json-10000", func(b *testing.B) {
		b.SetBytes(int64(len(asJSON)))
		for b.Loop() {
			mustLoad(b, "big.json", asJSON, nil)
		}
	})
}

func BenchmarkDiff(b *testing.B) {
	text := bigYAML(10_000)
	old, new := mustLoad(b, "a.yaml", text, nil), mustLoad(b, "b.yaml", text, nil)
	for b.Loop() {
		if len(Diff(old, new)) > 0 {
			b.Fatal("equal documents differ")
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	d := mustLoad(b, "a.yaml", bigYAML(10_000), nil)
	for b.Loop() {
		if _, err := d.Encode(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMerge puts a small document of files and a large one of a cluster together.
func BenchmarkMerge(b *testing.B) {
	base := mustLoad(b, "base.yaml", []byte("_format_version: \"3.0\"\nconsumers: [{username: ann}]\n"), nil)
	other := mustLoad(b, "big.yaml", bigYAML(10_000), nil)
	next := *other
	next.Routes = slices.Clone(other.Routes)
	for name, merge := range map[string]func(base, other *Document) (*Document, Problems){"whole": Merge, "again": new(Merger).Merge} {
		b.Run(name, func(b *testing.B) {
			turns := [...]*Document{other, &next}
			for i := 0; b.Loop(); i++ {
				if _, problems := merge(base, turns[i%2]); len(problems) > 0 {
					b.Fatal(problems)
				}
			}
		})
	}
}
