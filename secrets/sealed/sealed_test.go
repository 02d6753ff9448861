package sealed_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/keyway-edge/keyway/secrets"
	"github.com/keyway-edge/keyway/secrets/sealed"
	"github.com/keyway-edge/keyway/secrets/secrettest"
)

func store(t *testing.T) (*sealed.Store, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "data", "store")
	return sealed.New(sealed.Config{Path: path}), path
}

func put(t *testing.T, s *sealed.Store, name, value string) int {
	t.Helper()
	n, err := s.Put(name, []byte(value))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestContract(t *testing.T) {
	secrettest.Contract(t, func(t *testing.T) secrettest.Subject {
		s, path := store(t)
		other := sealed.New(sealed.Config{Path: path}) // as the command beside a running node
		return secrettest.Subject{
			Source: s,
			Put:    func(t *testing.T, name, value string) { put(t, other, name, value) },
			Remove: func(t *testing.T, name string) {
				if err := other.Remove(name); err != nil {
					t.Fatal(err)
				}
			},
			Previous:   true,
			Purposeful: true,
		}
	})
}

func TestVersionsAreKeptAndCounted(t *testing.T) {
	s, _ := store(t)
	for i := 1; i <= 8; i++ {
		if n := put(t, s, "key", fmt.Sprint("value ", i)); n != i {
			t.Errorf("put %d is version %d", i, n)
		}
	}
	if n := put(t, s, "key", "value 8"); n != 8 {
		t.Errorf("the same value again is version %d", n)
	}
	for back := range 5 {
		l, err := s.Fetch(t.Context(), secrets.Request{Resource: "key", Version: back + 1})
		if want := fmt.Sprint("value ", 8-back); err != nil || string(l.Value.Reveal()) != want || l.Version != fmt.Sprint(8-back) {
			t.Errorf("#%d: %s, %v; expected %s", back+1, l.Version, err, want)
		}
	}
	if _, err := s.Fetch(t.Context(), secrets.Request{Resource: "key", Version: 6}); !errors.Is(err, secrets.ErrNotFound) {
		t.Errorf("#6: %v", err)
	}
	put(t, s, "another", "x")
	list, err := s.List()
	if err != nil || len(list) != 2 || list[1].Name != "key" || list[1].Version != 8 || list[1].Kept != 5 {
		t.Errorf("%+v, %v", list, err)
	}
	if err := s.Remove("none"); !errors.Is(err, secrets.ErrNotFound) {
		t.Errorf("removing what is not there: %v", err)
	}
}

func TestNothingOnDiskTellsASecretOrIsOpenToOthers(t *testing.T) {
	s, path := store(t)
	put(t, s, "name-canary", "value-canary")
	dir := filepath.Dir(path)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 3 {
		t.Errorf("%d files; expected store, key and lock", len(entries))
	}
	for _, e := range entries {
		info, _ := e.Info()
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", e.Name(), info.Mode())
		}
		if b, _ := os.ReadFile(filepath.Join(dir, e.Name())); bytes.Contains(b, []byte("canary")) {
			t.Errorf("%s tells a name or a value", e.Name())
		}
	}
	if info, _ := os.Stat(dir); info.Mode().Perm() != 0o700 {
		t.Errorf("the folder has mode %v", info.Mode())
	}
	for _, verb := range []string{"%v", "%+v", "%#v"} {
		if _, err := s.List(); err != nil {
			t.Fatal(err)
		}
		l, _ := s.Fetch(t.Context(), secrets.Request{Resource: "name-canary"})
		if out := fmt.Sprintf(verb, l); strings.Contains(out, "value-canary") {
			t.Errorf("a lease prints its value with %s", verb)
		}
	}
}

func TestEveryChangedByteIsSeen(t *testing.T) {
	s, path := store(t)
	put(t, s, "key", "value")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damaged := func(b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		fresh := sealed.New(sealed.Config{Path: path})
		if l, err := fresh.Fetch(t.Context(), secrets.Request{Resource: "key"}); err == nil || errors.Is(err, secrets.ErrNotFound) {
			t.Errorf("a damaged store answered %v, %v", l, err)
		}
		if _, err := fresh.Put("key", []byte("new")); err == nil {
			t.Fatal("a damaged store was written over")
		}
	}
	for i := range good {
		b := bytes.Clone(good)
		b[i] ^= 1
		damaged(b)
	}
	for _, n := range []int{0, 5, len(good) / 2, len(good) - 1} {
		damaged(good[:n])
	}
}

func TestKeyFile(t *testing.T) {
	s, path := store(t)
	put(t, s, "key", "value")
	fetch := func() error {
		_, err := sealed.New(sealed.Config{Path: path}).Fetch(t.Context(), secrets.Request{Resource: "key"})
		return err
	}
	if err := fetch(); err != nil {
		t.Fatal(err)
	}
	keyFile := path + ".key"
	text, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	f := func(what string, change func(), want string) {
		t.Helper()
		change()
		if err := fetch(); !errors.Is(err, secrets.ErrKey) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), string(text[25:40])) {
			t.Errorf("%s: %v; expected %q", what, err, want)
		}
	}
	chmod := func(mode os.FileMode) func() {
		return func() {
			if err := os.Chmod(keyFile, mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	rewrite := func(s string) func() {
		return func() {
			if err := os.WriteFile(keyFile, []byte(s), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	f("readable by its group", chmod(0o640), "chmod 600")
	f("readable by all", chmod(0o604), "chmod 600")
	chmod(0o600)()
	f("no key", rewrite("hello"), "holds no such key")
	f("short key", rewrite("KEYWAY-SEALED-KEY-1 AAAA"), "holds no such key")
	f("another key", rewrite("KEYWAY-SEALED-KEY-1 "+strings.Repeat("A", 43)+"="), "another key")
	f("gone", func() { os.Remove(keyFile) }, "no such file")
	if _, err := sealed.New(sealed.Config{Path: path}).Put("key", []byte("x")); err == nil {
		t.Error("a new key was made for an old store, which nobody could read again")
	}
}

func TestOpenFolderIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil { //nolint:gosec // that is the case
		t.Fatal(err)
	}
	if _, err := sealed.New(sealed.Config{Path: filepath.Join(dir, "store")}).Put("a", []byte("x")); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Error(err)
	}
}

func TestConcurrentWritersLoseNothing(t *testing.T) {
	_, path := store(t)
	var wg sync.WaitGroup
	for w := range 4 {
		s := sealed.New(sealed.Config{Path: path})
		wg.Go(func() {
			for i := range 10 {
				if _, err := s.Put(fmt.Sprintf("w%d-%d", w, i), []byte("x")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	list, err := sealed.New(sealed.Config{Path: path}).List()
	if err != nil || len(list) != 40 {
		t.Errorf("%d secrets of 40, %v", len(list), err)
	}
}

func TestNamesAndReferences(t *testing.T) {
	s, _ := store(t)
	for _, name := range []string{"", "/a", "a/", "a\nb", "a\x1bb", "\xff", strings.Repeat("a", 600)} {
		if _, err := s.Put(name, []byte("x")); err == nil {
			t.Errorf("name %q was taken", name)
		}
	}
	for _, value := range [][]byte{nil, make([]byte, sealed.MaxValue+1)} {
		if _, err := s.Put("a", value); err == nil {
			t.Errorf("a value of %d bytes was taken", len(value))
		}
	}
	for _, name := range []string{"plain", "db/password", "100% odd?#{name}", "ä"} {
		put(t, s, name, "of "+name)
		ref, err := secrets.ParseRef(sealed.Reference("sealed", name))
		if err != nil || ref.Resource != name || ref.Key != "" {
			t.Errorf("reference to %q is %s: resource %q key %q, %v", name, ref, ref.Resource, ref.Key, err)
		}
	}
}

func TestParse(t *testing.T) {
	c, err := sealed.Parse(map[string]any{"path": "/a/b", "key_file": "/c", "keep": 2.0})
	if err != nil || c != (sealed.Config{Path: "/a/b", KeyFile: "/c", Keep: 2}) {
		t.Errorf("%+v, %v", c, err)
	}
	f := func(field string, v any) {
		t.Helper()
		if _, err := sealed.Open(map[string]any{"path": "/x", field: v}); err == nil || !strings.HasPrefix(err.Error(), "config."+field+": ") {
			t.Errorf("%s: %v is %v", field, v, err)
		}
	}
	f("path", "relative")
	f("path", nil)
	f("key_file", 1)
	f("keep", 0)
	f("keep", 1.5)
	f("keep", "many")
	f("prefix", "x")
}
