package spec

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
)

// TestMergerIsMerge has documents of a cluster follow each other, beside some of files. What
// comes of each is what Merge makes of it, and what differs in nothing is shared.
func TestMergerIsMerge(t *testing.T) {
	load := func(text string) *Document {
		return mustLoad(t, "t.yaml", []byte("_format_version: \"3.0\"\n"+text), nil)
	}
	var bases []*Document
	for _, text := range []string{
		"services: [{name: f, host: f.test, routes: [{name: f, paths: [/f]}]}]\nconsumers: [{username: ann}]\n",
		"services: [{name: s1, host: f.test}]\nupstreams: [{name: up2, targets: [{target: \"10.0.0.1:1\"}]}]\nconsumer_groups: [{name: g}]\n",
		"",
	} {
		bases = append(bases, load(text))
	}
	kinds := []string{"services", "routes", "upstreams", "targets", "consumers"}
	quick := 0
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 5))
		m, base, other := &Merger{}, bases[0], &Document{}
		for range 60 {
			if r.IntN(12) == 0 {
				base = bases[r.IntN(len(bases))]
			}
			text := "services:\n"
			for i := range 3 {
				text += fmt.Sprintf("- {name: s%d, host: up%d, routes: [{name: r%d, paths: [/x%d]}]}\n", i+r.IntN(2), i, i+r.IntN(2)*7, r.IntN(3))
				if r.IntN(2) == 0 {
					break
				}
			}
			text += fmt.Sprintf("upstreams: [{name: up%d, targets: [{target: \"10.0.0.%d:1\"}, {target: \"10.0.1.%d:1\"}]}]\n", r.IntN(3), r.IntN(3), r.IntN(3))
			if r.IntN(4) == 0 {
				text += fmt.Sprintf("consumers: [{username: %s}]\n", []string{"ann", "bob", "eve"}[r.IntN(3)])
			}
			drawn, problems := Load([]Source{{Name: "c.yaml", Data: []byte("_format_version: \"3.0\"\n" + text)}}, nil)
			if len(problems) > 0 {
				continue
			}
			only := kinds[r.IntN(len(kinds))]
			other = Join(other, func(kind string) bool { return r.IntN(10) == 0 || kind == only }, func(string) iter.Seq[*Document] {
				return slices.Values([]*Document{drawn})
			})
			if r.IntN(6) == 0 { // other lists of the same entities
				other.Routes, other.Targets = slices.Clone(other.Routes), slices.Clone(other.Targets)
			}
			last, taken := m.last, m.taken
			got, gotProblems := m.Merge(base, other)
			want, wantProblems := Merge(base, other)
			if !equalLists(got, want) || !reflect.DeepEqual(gotProblems, wantProblems) {
				t.Fatalf("seed %d: got %v %v, expected %v", seed, Diff(got, want), gotProblems, wantProblems)
			}
			if taken != nil && len(m.taken) == len(taken) && reflect.ValueOf(m.taken).Pointer() == reflect.ValueOf(taken).Pointer() {
				quick++
			}
			for _, kind := range Kinds() {
				if last != nil && got != other && same(got.list(kind), last.list(kind)) && !oneArray(got.list(kind), last.list(kind)) {
					t.Fatalf("seed %d: %s has the very same entities as before and is another list", seed, kind)
				}
			}
		}
	}
	if t.Logf("%d of 1200 without a look at all", quick); quick < 100 {
		t.Error("the test shows little")
	}
}

// equalLists says that two documents have the same in the same order.
func equalLists(a, b *Document) bool {
	for _, kind := range Kinds() {
		if !reflect.DeepEqual(slices.Collect(a.Entities(kind)), slices.Collect(b.Entities(kind))) {
			return false
		}
	}
	return true
}

// TestDiffering has what is new in a list be in the part that is looked at.
func TestDiffering(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 9))
	list := make([]*Service, 12)
	for i := range list {
		list[i] = &Service{}
	}
	for range 300 {
		was, is := &Document{Services: list[:r.IntN(9)]}, &Document{}
		is.Services = slices.Clone(was.Services)
		for range r.IntN(3) {
			at := r.IntN(len(is.Services) + 1)
			is.Services = slices.Replace(is.Services, at, min(len(is.Services), at+r.IntN(2)), list[9:9+r.IntN(3)]...)
		}
		from, to := differing(was.list("services"), is.list("services"))
		for i, s := range is.Services {
			if (i < from || i >= to) && !slices.Contains(was.Services, s) {
				t.Fatalf("entity %d of %d is new, and %d to %d are looked at", i, len(is.Services), from, to)
			}
		}
		if slices.Equal(was.Services, is.Services) && from != to {
			t.Fatal("nothing differs, and something is looked at")
		}
	}
}
