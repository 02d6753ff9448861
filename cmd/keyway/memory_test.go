package main

import (
	"os"
	"path/filepath"
	"testing"
)

// TestContainerMemory: both versions of control groups, and none.
func TestContainerMemory(t *testing.T) {
	dir := t.TempDir()
	at := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, c := range []struct {
		files []string
		want  int64
	}{
		{[]string{at("two", "536870912\n"), at("one", "1\n")}, 512 << 20},
		{[]string{at("max", "max\n"), at("one", "1\n")}, 0},
		{[]string{"/none", at("one", "1073741824\n")}, 1 << 30},
		{[]string{at("unlimited", "9223372036854771712\n")}, 0},
		{[]string{"/none"}, 0},
	} {
		if got := containerMemory(c.files); got != c.want {
			t.Errorf("%v: %d, want %d", c.files, got, c.want)
		}
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{"512MiB": 512 << 20, "2GiB": 2 << 30, "100KiB": 100 << 10, "512": 0, "MiB": 0, "-1GiB": 0, "1GB": 0, "": 0} {
		if got, err := parseSize(text); got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
}
