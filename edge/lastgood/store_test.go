package lastgood

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/secrets"
)

const (
	canary = "canary-of-a-secret-value"
	node   = "node-a"
)

// served is what a test's node serves.
type served struct {
	mu   sync.Mutex // guards the group below
	doc  *spec.Document
	kept []secrets.Kept
	err  error
	asks int
}

func (s *served) serving(context.Context) (Serving, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asks++
	return Serving{s.doc, slices.Clone(s.kept)}, s.err
}

func (s *served) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func document(t testing.TB, consumer string) *spec.Document {
	t.Helper()
	doc, problems := spec.Load([]spec.Source{{Name: "d", Data: []byte("_format_version: \"3.0\"\nconsumers: [{username: " + consumer + "}]\n")}}, spec.Schemas{})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return doc
}

func one(value string, version int) []secrets.Kept {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return []secrets.Kept{
		{Ref: "{vault://v/b}", Value: secrets.NewValue([]byte(value)), Version: version, Modified: at, Good: at.Add(time.Hour), NotAfter: at.Add(2 * time.Hour), Origin: "request-1", Pinned: 1, Older: []secrets.KeptValue{{Version: 1, Value: secrets.NewValue([]byte("older-" + value)), Modified: at, Until: at.Add(time.Minute)}}},
		{Ref: "{vault://v/a}", Value: secrets.NewValue(nil), Version: 1},
	}
}

// place is where a test keeps its files.
func place(t testing.TB) Config {
	t.Helper()
	dir := t.TempDir()
	return Config{Dir: filepath.Join(dir, "kept"), Mark: filepath.Join(dir, "mark"), Node: node, Keys: FileKey{filepath.Join(dir, "key"), true}, Log: slog.New(slog.DiscardHandler)}
}

// written is a place with one state in it.
func written(t testing.TB, from *served) Config {
	t.Helper()
	cfg := place(t)
	cfg.Serving = from.serving
	s := New(cfg)
	if !s.save(t.Context()) {
		t.Fatal(s.Facts().Failed)
	}
	return cfg
}

// sameState fails unless a place has the state of alice and canary, and its number.
func sameState(t testing.TB, cfg Config, sequence uint64) {
	t.Helper()
	st, err := New(cfg).Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(st.Document, []byte("alice")) || st.Sequence != sequence || len(st.Kept) != 2 {
		t.Fatalf("document %q, number %d, %d values", st.Document, st.Sequence, len(st.Kept))
	}
	is, want := st.Kept[1], one(canary, 7)[0]
	if string(is.Value.Reveal()) != canary || string(is.Older[0].Value.Reveal()) != "older-"+canary {
		t.Error("the values are others")
	}
	is.Value, want.Value, is.Older[0].Value, want.Older[0].Value = secrets.Value{}, secrets.Value{}, secrets.Value{}, secrets.Value{}
	if is.Ref != want.Ref || is.Version != 7 || !is.Good.Equal(want.Good) || !is.NotAfter.Equal(want.NotAfter) || !is.Modified.Equal(want.Modified) || is.Origin != want.Origin || is.Pinned != 1 || is.Older[0] != want.Older[0] {
		t.Errorf("came back as %+v; expected %+v", is, want)
	}
	if st.Kept[0].Value.IsZero() {
		t.Error("an empty value came back as none")
	}
}

func TestAStateComesBackAsItWas(t *testing.T) {
	from := &served{doc: document(t, "alice"), kept: one(canary, 7)}
	cfg := written(t, from)
	sameState(t, cfg, 1)
	for _, path := range []string{New(cfg).path(), cfg.Mark, cfg.Keys.(FileKey).Path} {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(data, []byte(canary)) || bytes.Contains(data, []byte("alice")) {
			t.Errorf("%s tells what is sealed", path)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
	}
}

func TestWhatCannotBeTrustedIsRefused(t *testing.T) {
	from := &served{doc: document(t, "alice"), kept: one(canary, 7)}
	cfg := written(t, from)
	path := New(cfg).path()
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f := func(name string, want error, cfg Config, data []byte) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		st, err := New(cfg).Load(t.Context())
		if !errors.Is(err, want) || (st == nil) != (err != nil) {
			t.Errorf("%s: %v; expected %v", name, err, want)
		}
		if err != nil && strings.Contains(err.Error(), canary) {
			t.Errorf("%s: the error tells the secret", name)
		}
	}
	for _, n := range []int{0, 1, 20, len(good) / 2, len(good) - 1} {
		f("cut short", ErrForm, cfg, good[:n])
	}
	for i := range good {
		flipped := bytes.Clone(good)
		flipped[i] ^= 1 << (i % 8)
		if err := os.WriteFile(path, flipped, 0o600); err != nil {
			t.Fatal(err)
		}
		if st, err := New(cfg).Load(t.Context()); err == nil || st != nil {
			t.Fatalf("byte %d was flipped, and it was taken", i)
		}
	}
	f("more than was written", ErrForm, cfg, append(bytes.Clone(good), 0))
	f("a newer format", ErrFormat, cfg, bytes.Replace(good, []byte(format), []byte(family+"3"), 1))
	other := cfg
	other.Node = "node-b"
	f("another node's", ErrForeign, other, good)
	f("another node's, renamed", ErrForm, other, bytes.Replace(good, []byte(node), []byte("node-b"), 1))
	other = cfg
	other.Keys = FileKey{filepath.Join(t.TempDir(), "other"), true}
	if _, _, err := other.Keys.New(t.Context()); err != nil {
		t.Fatal(err)
	}
	f("another key", secrets.ErrKey, other, good)
	other.Keys = FileKey{Path: filepath.Join(t.TempDir(), "none")}
	f("no key", secrets.ErrKey, other, good)
	mark, err := os.ReadFile(cfg.Mark)
	if err != nil {
		t.Fatal(err)
	}
	f("the mark in its place", ErrForm, cfg, mark)
	f("good again", nil, cfg, good)
}

func TestAnOlderCopyIsRefused(t *testing.T) {
	from := &served{doc: document(t, "alice"), kept: one("first", 1)}
	cfg := written(t, from)
	path := New(cfg).path()
	older, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s := New(cfg)
	if _, err := s.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	from.set(func() { from.kept = one("second", 2) })
	if !s.save(t.Context()) {
		t.Fatal(s.Facts().Failed)
	}
	newer, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, older, 0o600); err != nil {
		t.Fatal(err)
	}
	s = New(cfg)
	if _, err := s.Load(t.Context()); !errors.Is(err, ErrOlder) {
		t.Errorf("the older copy: %v", err)
	}
	if !s.save(t.Context()) || s.Facts().Sequence != 3 {
		t.Errorf("the write after that has number %d: %s; expected 3", s.Facts().Sequence, s.Facts().Failed)
	}
	// Without the mark nobody knows whether a copy is the latest.
	if err := os.Remove(cfg.Mark); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, newer, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(cfg).Load(t.Context()); !errors.Is(err, ErrOlder) {
		t.Errorf("without the mark: %v", err)
	}
}

func TestNoneIsNoFault(t *testing.T) {
	if _, err := New(place(t)).Load(t.Context()); !errors.Is(err, ErrNone) {
		t.Error(err)
	}
}

func TestWritesAreGatheredAndSpaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := &served{doc: document(t, "alice"), kept: one("a", 1)}
		cfg := place(t)
		cfg.Serving = from.serving
		s := New(cfg)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		f := func(after time.Duration, want uint64) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			if n := s.Facts().Writes; n != want {
				t.Fatalf("%d writes; expected %d", n, want)
			}
		}
		change := func(n int) {
			from.set(func() { from.kept = one("a", n) })
			s.Hint()
		}
		s.Hint()
		f(settle-time.Millisecond, 0)
		f(2*time.Millisecond, 1)
		for i := range 200 { // two seconds of changes
			change(2 + i)
			time.Sleep(10 * time.Millisecond)
		}
		f(0, 1)
		f(gap-2*time.Second, 2)
		s.Hint() // nothing new
		f(gap, 2)
		// A renewed lease, of which nobody hints, is there within a minute.
		from.set(func() { from.kept[0].NotAfter = time.Now().Add(time.Hour) })
		f(lookAgain, 3)
		// When sources confirmed what they gave matters less, but it does.
		f(freshen-lookAgain, 3)
		f(2*lookAgain, 4)
		// The last change is not lost at an orderly end.
		change(1000)
		time.Sleep(time.Millisecond)
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		f(0, 5)
	})
}

func TestADiskThatCannotBeWrittenStopsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := &served{doc: document(t, "alice"), kept: one("a", 1)}
		cfg := place(t)
		var log bytes.Buffer
		cfg.Serving, cfg.Log = from.serving, slog.New(slog.NewTextHandler(&log, nil))
		// A file where the folder should be: root may write anywhere else.
		if err := os.WriteFile(cfg.Dir, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		s := New(cfg)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		s.Hint()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if f := s.Facts(); f.Failures < 90 || f.Failures > 122 || f.Failed == "" || f.Since.IsZero() {
			t.Errorf("%+v; expected a failure each five seconds, and since when", f)
		}
		if err := os.Remove(cfg.Dir); err != nil {
			t.Fatal(err)
		}
		time.Sleep(retry + time.Second)
		synctest.Wait()
		if f := s.Facts(); f.Writes != 1 || f.Failed != "" {
			t.Errorf("%+v; expected it written once there was room", f)
		}
		cancel()
		<-done
		if n := strings.Count(log.String(), "failed"); n != 1 {
			t.Errorf("logged %d times; expected once", n)
		}
	})
}

func TestAFolderThatOthersWriteIsRefused(t *testing.T) {
	from := &served{doc: document(t, "alice")}
	cfg := place(t)
	cfg.Serving = from.serving
	if err := os.Mkdir(cfg.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(cfg.Dir, 0o777); err != nil {
		t.Fatal(err)
	}
	s := New(cfg)
	if s.save(t.Context()) || !strings.Contains(s.Facts().Failed, "chmod 700") {
		t.Errorf("%q", s.Facts().Failed)
	}
}

// wrapper is a service that keeps keys, and can be away.
type wrapper struct {
	away         bool
	wraps, opens int
}

var errAway = errors.New("away")

func (w *wrapper) Wrap(_ context.Context, key []byte) ([]byte, error) {
	if w.wraps++; w.away {
		return nil, errAway
	}
	return append([]byte("wrapped:"), flip(key)...), nil
}

func (w *wrapper) Unwrap(_ context.Context, wrapped []byte) ([]byte, error) {
	if w.opens++; w.away {
		return nil, errAway
	}
	return flip(bytes.TrimPrefix(wrapped, []byte("wrapped:"))), nil
}

func flip(b []byte) []byte {
	out := bytes.Clone(b)
	for i := range out {
		out[i] ^= 0x5a
	}
	return out
}

func TestAKeyThatAServiceWraps(t *testing.T) {
	from := &served{doc: document(t, "alice"), kept: one(canary, 1)}
	w := &wrapper{}
	cfg := place(t)
	cfg.Serving, cfg.Keys = from.serving, Wrapped(w)
	s := New(cfg)
	for i := range 3 {
		from.set(func() { from.kept = one(canary, i+1) })
		if !s.save(t.Context()) {
			t.Fatal(s.Facts().Failed)
		}
	}
	if w.wraps != 1 {
		t.Errorf("the service was asked %d times for three writes; expected once", w.wraps)
	}
	cfg.Keys = Wrapped(w)
	if st, err := New(cfg).Load(t.Context()); err != nil || st.Sequence != 3 || w.opens != 1 {
		t.Errorf("%v after %d questions; expected the third after one", err, w.opens)
	}
	w.away = true
	cfg.Keys = Wrapped(w)
	s = New(cfg)
	if _, err := s.Load(t.Context()); !errors.Is(err, errAway) {
		t.Errorf("while the service is away: %v", err)
	}
	// What cannot be read now is not overwritten now: it may be readable soon.
	if s.save(t.Context()) {
		t.Error("a state was written without a key")
	}
	w.away = false
	if st, err := New(cfg).Load(t.Context()); err != nil || st.Sequence != 3 {
		t.Errorf("back again: %v", err)
	}
}

func TestLeftoversOfKilledWritesGo(t *testing.T) {
	from := &served{doc: document(t, "alice")}
	cfg := written(t, from)
	left := filepath.Join(cfg.Dir, "."+FileName+".12345")
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(cfg).Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); err == nil {
		t.Error("it is still there")
	}
}

// Two processes write the file one after the other: never both, and with numbers that rise.
func TestTheFileIsHandedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := place(t)
		mine, theirs := &served{doc: document(t, "mine"), kept: one("a", 2)}, &served{doc: document(t, "theirs"), kept: one("b", 3)}
		begin := func(s *Store) (end func()) {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- s.Run(ctx) }()
			return func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
		}
		cfg.Serving = mine.serving
		old := New(cfg)
		defer begin(old)()
		old.Flush(t.Context())
		cfg.Serving = theirs.serving
		fresh := New(cfg)
		fresh.Hold()
		if _, err := fresh.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer begin(fresh)()
		fresh.Hint()
		mine.set(func() { mine.kept = one("a2", 4) })
		time.Sleep(time.Minute)
		holds := func(want string) uint64 {
			t.Helper()
			st, err := New(cfg).Load(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(st.Document, []byte(want)) {
				t.Errorf("the file has %s, want what %s serves", st.Document, want)
			}
			return st.Sequence
		}
		holds("mine") // who comes writes nothing before its turn
		mine.set(func() { mine.kept = one("a3", 5) })
		old.Release(t.Context())
		last := holds("mine")
		fresh.Reclaim(t.Context())
		time.Sleep(time.Minute)
		if n := holds("theirs"); n <= last {
			t.Errorf("number %d follows %d", n, last)
		}
		mine.set(func() { mine.kept = one("a4", 6) })
		old.Hint()
		time.Sleep(time.Hour)
		holds("theirs")
	})
}
