package exchange

import (
	"slices"
	"strings"
	"testing"
)

func lines(f *Fields) string {
	var b strings.Builder
	for x := range f.All() {
		b.WriteString(x.Name + ":" + x.Value + "|")
	}
	return b.String()
}

func TestFieldsKeepOrderAndDuplicates(t *testing.T) {
	var f Fields
	for _, x := range []string{"A=1", "b=2", "a=3", "C=4"} {
		n, v, _ := strings.Cut(x, "=")
		f.Add(n, v)
	}
	if got := slices.Collect(f.Values("A")); !slices.Equal(got, []string{"1", "3"}) {
		t.Fatalf("Values(A) = %v", got)
	}
	f.Set("B", "5")
	if got := lines(&f); got != "A:1|B:5|a:3|C:4|" {
		t.Fatalf("after Set: %s", got)
	}
	f.Set("a", "6")
	f.Set("d", "7")
	if got := lines(&f); got != "a:6|B:5|C:4|d:7|" {
		t.Fatalf("after Set of a duplicate: %s", got)
	}
	if !f.Del("b") || f.Del("b") || f.Has("B") {
		t.Fatal("Del must remove once and say so")
	}
	f.Rename("c", "E")
	if got := lines(&f); got != "a:6|E:4|d:7|" {
		t.Fatalf("after Rename: %s", got)
	}
}

func TestEqualFoldIsASCIIOnly(t *testing.T) {
	f := func(a, b string, want bool) {
		t.Helper()
		if EqualFold(a, b) != want {
			t.Errorf("EqualFold(%q, %q) != %v", a, b, want)
		}
	}
	f("Host", "hOST", true)
	f("a", "ab", false)
	f("[", "{", false) // differ in bit 0x20 only
	f("K", "\u212a", false)
	f("x-a", "x_a", false)
}
