package certs_test

import (
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/certs"
)

// linearMatch is the index in its plainest form: it looks at every name.
func linearMatch(names []string, query string) string {
	fold := func(s string) string {
		return strings.TrimSuffix(strings.Map(func(r rune) rune {
			if 'A' <= r && r <= 'Z' {
				return r + 'a' - 'A'
			}
			return r
		}, s), ".")
	}
	best, rank := "", 0
	q := fold(query)
	valid := len(strings.TrimSuffix(query, ".")) <= 253
	for _, label := range strings.Split(q, ".") {
		valid = valid && label != ""
		for i := range len(label) {
			valid = valid && label[i] > ' ' && label[i] < 0x7f && label[i] != '*'
		}
	}
	first, rest, dotted := strings.Cut(q, ".")
	for _, name := range names {
		n, r := fold(name), 0
		switch {
		case name == "*":
			r = 1
		case !valid:
		case strings.HasPrefix(n, "*."):
			if dotted && first != "" && rest == n[2:] {
				r = 3
			}
		case strings.HasSuffix(n, ".*"):
			if i := strings.LastIndexByte(q, '.'); i > 0 && q[:i] == n[:len(n)-2] {
				r = 2
			}
		case n == q:
			r = 4
		}
		if r > 0 && r >= rank {
			best, rank = name, r
		}
	}
	return best
}

// FuzzIndex holds the index against a look at every name, and against an index that took
// the tables of another one.
func FuzzIndex(f *testing.F) {
	f.Add("a.test\n*.a.test\nb.*\n*", "x.a.test")
	f.Add("a.test\nA.test.\n*.test", "A.TEST.")
	f.Add("*.a.b\na.*\n*.b\na.a.*", "a.a.b")
	f.Add("x.test", "\xff.test")
	f.Fuzz(func(t *testing.T, list, query string) {
		var names []string
		var bindings []certs.Binding
		for name := range strings.SplitSeq(list, "\n") {
			bare := strings.TrimSuffix(strings.TrimPrefix(name, "*."), ".*")
			if name != "*" && (bare == "" || strings.ContainsAny(bare, "* ") || strings.HasPrefix(bare, ".") || strings.HasSuffix(bare, ".") && name != bare) || strings.HasPrefix(name, "*.") && strings.HasSuffix(name, ".*") {
				continue // no document has it
			}
			names = append(names, name)
			bindings = append(bindings, certs.Binding{Name: name})
		}
		x := certs.NewIndex(nil, bindings, nil)
		got, want := x.Find(query).Pattern, linearMatch(names, query)
		if got != want {
			t.Fatalf("%q among %q: found %q, looking at each %q", query, names, got, want)
		}
		if again := certs.NewIndex(x, bindings, nil).Find(query).Pattern; again != got {
			t.Fatalf("with the tables of before: %q, was %q", again, got)
		}
	})
}
