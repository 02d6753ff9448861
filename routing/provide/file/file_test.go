package file

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/routing/spec"
)

const (
	good  = "_format_version: \"3.0\"\nconsumers: [{username: %s}]\n"
	bad   = "_format_version: \"3.0\"\nconsumers: [{username: x, usernam: x}]\nservices: [{host: y, nam: y}]\n"
	limit = 20 * time.Second
)

func put(t *testing.T, path, text string) {
	t.Helper()
	// Replaced as a whole, as editors and kubelets do.
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func consumer(name string) string { return strings.Replace(good, "%s", name, 1) }

// names are the consumers of the document in force.
func names(p *Provider) string {
	doc, _ := p.Current()
	if doc == nil {
		return "none"
	}
	var list []string
	for _, c := range doc.Consumers {
		list = append(list, c.Username)
	}
	return strings.Join(list, " ")
}

// told collects reports.
type told struct {
	mu   sync.Mutex // guards list
	list []string
}

func (r *told) report(ps spec.Problems) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, ps.Error())
}

func (r *told) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.list)
}

func hinted(p *Provider) bool {
	select {
	case <-p.Changed():
		return true
	default:
		return false
	}
}

func TestReadTakesAFolderInOrder(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b.yaml", "a.json", "c.yml", ".hidden.yaml", "notes.txt", "d.yaml~"} {
		put(t, filepath.Join(dir, name), "\ufeff"+name)
	}
	for _, name := range []string{"deeper", "folder.yaml", "..2026"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	put(t, filepath.Join(dir, "deeper", "e.yaml"), "e")
	put(t, filepath.Join(dir, "..2026", "z.yaml"), "z.yaml")
	// As a kubelet mounts: names are links into a hidden folder.
	if err := os.Symlink(filepath.Join("..2026", "z.yaml"), filepath.Join(dir, "z.yaml")); err != nil {
		t.Fatal(err)
	}
	single := filepath.Join(t.TempDir(), "single.conf")
	put(t, single, "single.conf")
	sources, err := Read([]string{single, dir})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range sources {
		got = append(got, filepath.Base(s.Name)+"="+string(s.Data))
	}
	if want := "single.conf=single.conf a.json=a.json b.yaml=b.yaml c.yml=c.yml z.yaml=z.yaml"; strings.Join(got, " ") != want {
		t.Errorf("read %q, want %q", strings.Join(got, " "), want)
	}
}

func TestReadNamesWhatIsMissing(t *testing.T) {
	dir := t.TempDir()
	_, err := Read([]string{filepath.Join(dir, "one"), filepath.Join(dir, "two")})
	if err == nil || !strings.Contains(err.Error(), "one") || !strings.Contains(err.Error(), "two") || !strings.Contains(err.Error(), "expected a file or a folder") {
		t.Errorf("the error must name every path: %v", err)
	}
}

func TestReadRefusesHugeFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "huge.yaml")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(maxFile + 1); err != nil { // sparse: nothing is written
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Read([]string{path}); err == nil || !strings.Contains(err.Error(), "expected at most") {
		t.Errorf("got %v", err)
	}
}

func TestLoadKeepsTheLastGoodDocument(t *testing.T) {
	path := filepath.Join(t.TempDir(), "doc.yaml")
	put(t, path, consumer("one"))
	var r told
	p := New([]string{path}, []spec.Source{{Name: "extra", Data: []byte("_format_version: \"3.0\"\nconsumers: [{username: extra}]\n")}}, nil, r.report)
	if doc, _ := p.Current(); doc != nil {
		t.Fatal("nothing is read before Load")
	}
	step := func(what, want string, problems, reports int, hint bool) {
		t.Helper()
		got := p.Load()
		_, known := p.Current()
		if len(got) != problems || len(known) != problems {
			t.Errorf("%s: Load answered %d problems, Current %d, want %d: %v", what, len(got), len(known), problems, got)
		}
		if n := names(p); n != want {
			t.Errorf("%s: the document has %q, want %q", what, n, want)
		}
		if r.count() != reports {
			t.Errorf("%s: %d reports, want %d: %q", what, r.count(), reports, r.list)
		}
		if h := hinted(p); h != hint {
			t.Errorf("%s: hinted %v, want %v", what, h, hint)
		}
	}
	step("at first", "extra one", 0, 0, true)
	first, _ := p.Current()
	step("unchanged", "extra one", 0, 0, false)
	if again, _ := p.Current(); again != first {
		t.Error("unchanged files must keep their document")
	}
	put(t, path, bad)
	step("bad", "extra one", 2, 1, true)
	step("still bad", "extra one", 2, 1, false)
	put(t, path, consumer("two"))
	step("good again", "extra two", 0, 1, true)
	put(t, path, bad)
	step("bad as before, after a good one", "extra two", 2, 2, true)
	put(t, path, consumer("two"))
	step("good", "extra two", 0, 2, true)
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	step("deleted", "extra two", 1, 3, true)
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	step("back with the same content", "extra two", 0, 3, true)
	before, _ := p.Current()
	p.Refresh()
	step("asked to look again", "extra two", 0, 3, true)
	if after, _ := p.Current(); after == before {
		t.Error("Refresh must make everything be read anew")
	}
}

func TestRunSeesReplacedFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "doc.yaml")
	put(t, path, consumer("one"))
	var r told
	p := New([]string{dir}, nil, nil, r.report)
	if problems := p.Load(); len(problems) > 0 {
		t.Fatal(problems)
	}
	ctx, end := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	until := func(what string, ok func() bool) {
		t.Helper()
		for stop := time.Now().Add(limit); !ok(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(stop) {
				t.Fatalf("%s: the document has %q, reports %q", what, names(p), r.list)
			}
		}
	}
	put(t, path, consumer("two"))
	until("replaced", func() bool { return names(p) == "two" })
	put(t, filepath.Join(dir, "a.yaml"), consumer("three"))
	until("another file", func() bool { return names(p) == "three two" })
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	until("one deleted", func() bool { return names(p) == "three" })
	put(t, filepath.Join(dir, "a.yaml"), bad)
	until("bad", func() bool { return r.count() > 0 })
	if names(p) != "three" {
		t.Error("a bad document must change nothing")
	}
	before, _ := p.Current()
	put(t, filepath.Join(dir, "a.yaml"), consumer("three"))
	p.Refresh()
	until("refreshed", func() bool { now, _ := p.Current(); return now != before })
	end()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
