package file_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/secrets"
	"github.com/keyway-edge/keyway/secrets/file"
	"github.com/keyway-edge/keyway/secrets/secrettest"
)

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	// Replaced as careful writers do.
	if err := os.WriteFile(name+".tmp", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".tmp", name); err != nil {
		t.Fatal(err)
	}
}

func TestContract(t *testing.T) {
	secrettest.Contract(t, func(t *testing.T) secrettest.Subject {
		root := t.TempDir()
		var deny func(t *testing.T, name string)
		if os.Geteuid() != 0 { // root may read everything
			deny = func(t *testing.T, name string) {
				if err := os.Chmod(filepath.Join(root, name), 0); err != nil {
					t.Fatal(err)
				}
			}
		}
		return secrettest.Subject{
			Source: file.New(file.Config{Root: root}),
			Deny:   deny,
			Put:    func(t *testing.T, name, value string) { write(t, filepath.Join(root, name), value) },
			Remove: func(t *testing.T, name string) {
				if err := os.Remove(filepath.Join(root, name)); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}

// swap makes a new generation of a kubelet mount: a folder of files, and then the
// link ..data by rename.
func swap(t *testing.T, mount, generation string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		write(t, filepath.Join(mount, generation, name), content)
		// Equal in time and size: only the generation itself tells them apart.
		if err := os.Chtimes(filepath.Join(mount, generation, name), time.Unix(1, 0), time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("..data/"+name, filepath.Join(mount, name)); err != nil && !errors.Is(err, os.ErrExist) {
			t.Fatal(err)
		}
	}
	old, _ := os.Readlink(filepath.Join(mount, "..data"))
	if err := os.Symlink(generation, filepath.Join(mount, "..tmp")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(mount, "..tmp"), filepath.Join(mount, "..data")); err != nil {
		t.Fatal(err)
	}
	if old != "" {
		if err := os.RemoveAll(filepath.Join(mount, old)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestKubeletMountIsReadAsOneGeneration(t *testing.T) {
	root := t.TempDir()
	mount := filepath.Join(root, "tls")
	pair := func(n int) map[string]string {
		return map[string]string{"tls.crt": fmt.Sprintf("crt %06d", n), "tls.key": fmt.Sprintf("key %06d", n)}
	}
	swap(t, mount, "..gen0", pair(0))
	s := file.New(file.Config{Root: root})
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for n := 1; ; n++ {
			select {
			case <-stop:
				return
			default:
				swap(t, mount, fmt.Sprint("..gen", n), pair(n))
			}
		}
	}()
	seen, moved := make(map[string]bool), 0
	// More where whoever swaps waits for a processor.
	for n, began := 0, time.Now(); n < 500 || len(seen) < 3 && time.Since(began) < 30*time.Second; n++ {
		l, err := s.Fetch(t.Context(), secrets.Request{Resource: "tls"})
		if err != nil {
			// Every try met a swap: an error is right, and rare even at this pace.
			if moved++; moved > 25+n/20 {
				t.Fatal(err)
			}
			continue
		}
		var a, b int
		if _, err := fmt.Sscanf(string(l.Value.Reveal()), `{"tls.crt":"crt %d","tls.key":"key %d"}`, &a, &b); err != nil || a != b {
			t.Fatalf("read %s", l.Value.Reveal())
		}
		seen[l.Version] = true
	}
	close(stop)
	<-stopped
	if len(seen) < 3 {
		t.Errorf("only %d generations seen; the test shows nothing", len(seen))
	}
}

func TestWhatAReferenceNames(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "plain"), "line\r\n")
	write(t, filepath.Join(root, "creds.json"), `{"user":"ann"}`)
	write(t, filepath.Join(root, "db", "user"), "bob\n\n")
	write(t, filepath.Join(root, "db", "binary"), "\xff\xfe")
	write(t, filepath.Join(root, "archive", "cert2"), "cert")
	for link, to := range map[string]string{"db/cert": "../archive/cert2", "db/dangling": "nowhere", "escape": "/etc/passwd", "up": "../../etc/passwd"} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	b := secrets.NewBroker(secrets.Config{
		Openers: map[string]secrets.Opener{"file": file.Open},
		Vaults:  []secrets.Vault{{Name: "file", Kind: "file", Config: map[string]any{"root": root, "ttl": 10}}},
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = b.Run(ctx) }()
	defer func() { cancel(); <-done }()
	f := func(text, want, reason string) {
		t.Helper()
		ref, err := secrets.ParseRef(text)
		if err != nil {
			t.Fatal(err)
		}
		wait, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		c := b.Resolve(wait, secrets.Plan{Refs: []secrets.Ref{ref}}).Get(ref)
		if string(c.Value.Reveal()) != want || !strings.Contains(c.Reason, reason) || (reason == "") != (c.State == secrets.Active) {
			t.Errorf("%s: %s %q because %q; expected %q because %q", text, c.State, c.Value.Reveal(), c.Reason, want, reason)
		}
	}
	f("{vault://file/plain}", "line", "")
	f("{vault://file/plain?trim=false}", "line\r\n", "")
	f("{vault://file/plain?root=/}", "", "option root is unknown")
	f("{vault://file/creds.json/user}", "ann", "")
	f("{vault://file/db/user}", "bob\n", "")
	f("{vault://file/db/user/}", "bob\n", "")
	f("{vault://file/db%2Fuser}", "bob\n", "")
	f("{vault://file/db/cert}", "cert", "")
	f("{vault://file/db/binary}", "", "subfield binary not found")
	f("{vault://file/db%2Fbinary}", "\xff\xfe", "")
	f("{vault://file/db/none}", "", "subfield none not found")
	f("{vault://file/none}", "", "no such secret")
	f("{vault://file/escape}", "", "escapes")
	f("{vault://file/up}", "", "escapes")
	f("{vault://file/..%2F..%2Fetc%2Fpasswd}", "", "escapes")
}

func TestOddFilesAreRefused(t *testing.T) {
	root := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(root, "pipe"), 0o600); err != nil {
		t.Skip(err)
	}
	write(t, filepath.Join(root, "big"), strings.Repeat("x", file.Limit+1))
	write(t, filepath.Join(root, "most"), strings.Repeat("x", file.Limit))
	s := file.New(file.Config{Root: root})
	f := func(name, want string) {
		t.Helper()
		if _, err := s.Fetch(t.Context(), secrets.Request{Resource: name}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; expected %q", name, err, want)
		}
	}
	f("pipe", "expected a regular file")
	f("big", "larger than")
	if _, err := s.Fetch(t.Context(), secrets.Request{Resource: "most"}); err != nil {
		t.Error(err)
	}
	write(t, filepath.Join(root, "half", "a"), strings.Repeat("x", file.Limit/2))
	write(t, filepath.Join(root, "half", "b"), strings.Repeat("x", file.Limit/2+1))
	f("half", "holds more than")
}

func TestFolderThatComesLaterIsHinted(t *testing.T) {
	root := filepath.Join(t.TempDir(), "not", "yet")
	s := file.New(file.Config{Root: root})
	if _, err := s.Fetch(t.Context(), secrets.Request{Resource: "x"}); !errors.Is(err, secrets.ErrNotFound) {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	<-s.Changed() // the one at the start
	write(t, filepath.Join(root, "x"), "here")
	select {
	case <-s.Changed():
	case <-time.After(10 * time.Second):
		t.Error("no hint of a root that came later")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestParse(t *testing.T) {
	if c, err := file.Parse(map[string]any{"root": "/run/secrets", "trim": false}); err != nil || c != (file.Config{Root: "/run/secrets", Keep: true}) {
		t.Errorf("%+v, %v", c, err)
	}
	f := func(field string, config map[string]any) {
		t.Helper()
		if _, err := file.Open(config); err == nil || !strings.HasPrefix(err.Error(), "config."+field+": ") {
			t.Errorf("%v is %v", config, err)
		}
	}
	f("root", nil)
	f("root", map[string]any{"root": "relative"})
	f("root", map[string]any{"root": 7})
	f("trim", map[string]any{"root": "/", "trim": "yes"})
	f("path", map[string]any{"root": "/", "path": "x"})
}

func TestRotationOnDiskIsSeenWithinASecondAndAsAPair(t *testing.T) {
	root := t.TempDir()
	mount := filepath.Join(root, "tls")
	pair := func(n int) map[string]string {
		return map[string]string{"tls.crt": fmt.Sprint(n), "tls.key": fmt.Sprint(n)}
	}
	swap(t, mount, "..gen1", pair(1))
	b := secrets.NewBroker(secrets.Config{
		Openers: map[string]secrets.Opener{"file": file.Open},
		Vaults:  []secrets.Vault{{Name: "file", Kind: "file", Config: map[string]any{"root": root, "ttl": 3600}}},
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = b.Run(ctx) }()
	defer func() { cancel(); <-done }()
	var p secrets.Plan
	for _, text := range []string{"{vault://file/tls/tls.crt}", "{vault://file/tls/tls.key}"} {
		ref, err := secrets.ParseRef(text)
		if err != nil {
			t.Fatal(err)
		}
		p.Refs = append(p.Refs, ref)
	}
	wait, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	b.Resolve(wait, p)
	fastest := time.Minute
	for n := 2; n < 6; n++ {
		swap(t, mount, fmt.Sprint("..gen", n), pair(n))
		begin := time.Now()
		for {
			crt, key := b.Current().Get(p.Refs[0]), b.Current().Get(p.Refs[1])
			if string(crt.Value.Reveal()) != string(key.Value.Reveal()) {
				t.Fatalf("certificate %d with key %d", crt.Version, key.Version)
			}
			if string(crt.Value.Reveal()) == fmt.Sprint(n) && crt.Version == n {
				break
			}
			if time.Since(begin) > 30*time.Second {
				t.Fatalf("generation %d was not seen", n)
			}
			select {
			case <-b.Changed():
			case <-time.After(time.Second):
			}
		}
		fastest = min(fastest, time.Since(begin))
	}
	if fastest > time.Second { // one that waits for a processor says nothing of the others
		t.Errorf("the fastest generation took %v", fastest)
	}
}

// running runs a source's watch for the time of a test.
func running(t *testing.T, s *file.Source) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-s.Changed():
	case <-time.After(10 * time.Second):
		t.Fatal("no hint at the start")
	}
	s.Touched()
}

func TestHintsSayWhere(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"flat", "a/x", "b/x", "archive/cert2"} {
		write(t, filepath.Join(root, name), "old")
	}
	mount := filepath.Join(root, "mount")
	swap(t, mount, "..gen0", map[string]string{"tls.crt": "old"})
	if err := os.Symlink("archive/cert2", filepath.Join(root, "live")); err != nil {
		t.Fatal(err)
	}
	s := file.New(file.Config{Root: root})
	running(t, s)
	all := []string{"flat", "a/x", "a", "b/x", "b/missing", "mount", "mount/tls.crt", "live", "missing"}
	for _, name := range all {
		_, _ = s.Fetch(t.Context(), secrets.Request{Resource: name})
	}
	for _, c := range []struct {
		name   string
		change func()
		want   []string // "live" leads to where nobody watches: each hint is one for it
	}{
		{"a file", func() { write(t, filepath.Join(root, "a/x"), "new") }, []string{"a/x", "a", "live"}},
		{"one at the top", func() { write(t, filepath.Join(root, "flat"), "new") }, []string{"flat", "live"}},
		{"one that was missing", func() { write(t, filepath.Join(root, "b/missing"), "new") }, []string{"b/missing", "live"}},
		{"a generation", func() { swap(t, mount, "..gen1", map[string]string{"tls.crt": "new"}) }, []string{"mount", "mount/tls.crt", "live"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.change()
			got := make(map[string]bool)
			deadline := time.After(10 * time.Second)
			for len(got) < len(c.want) {
				select {
				case <-s.Changed():
				case <-deadline:
					t.Fatalf("hints at %v; expected %q", got, c.want)
				}
				touched := s.Touched()
				for _, name := range all {
					if touched(name) || touched("/"+name+"/") {
						got[name] = true
					}
				}
			}
			for _, name := range c.want {
				delete(got, name)
			}
			if len(got) > 0 {
				t.Errorf("hints at %v too", got)
			}
		})
	}
}
