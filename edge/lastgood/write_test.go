package lastgood

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/secrets"
)

// manyRoutes is a document of 10,000 routes, twice: two that have the same text.
func manyRoutes(t testing.TB) (docs [2]*spec.Document) {
	t.Helper()
	text := []byte("_format_version: \"3.0\"\nservices:\n- name: s\n  url: http://127.0.0.1:9\n  routes:\n")
	for i := range 10_000 {
		text = fmt.Appendf(text, "  - {name: r%d, hosts: [h%d.many.test], paths: [/p%d], methods: [GET, POST]}\n", i, i, i)
	}
	for i := range docs {
		doc, problems := spec.Load([]spec.Source{{Name: "d", Data: text}}, spec.Schemas{})
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		docs[i] = doc
	}
	return docs
}

// manyValues are values of as many credentials.
func manyValues(n int) []secrets.Kept {
	kept := make([]secrets.Kept, n)
	for i := range kept {
		kept[i] = one(fmt.Sprint("value-", i), 1+i)[0]
		kept[i].Ref = fmt.Sprintf("{vault://v/%d}", (i*7919)%n)
	}
	return kept
}

func BenchmarkWrite(b *testing.B) {
	docs := manyRoutes(b)
	from := &served{}
	cfg := place(b)
	cfg.Serving = from.serving
	s := New(cfg)
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n++
		from.set(func() { from.doc, from.kept = docs[n%2], one("x", n) })
		if !s.save(b.Context()) {
			b.Fatal(s.Facts().Failed)
		}
	}
	b.SetBytes(int64(s.Facts().Size))
}

// left lists the files of a write that are not where they belong.
func left(t *testing.T, cfg Config) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(cfg.Dir, ".*"))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestTheTextIsNotKept writes a document of 8 MiB: what it takes is let go, and a change of
// credentials is written all the same.
func TestTheTextIsNotKept(t *testing.T) {
	from := &served{doc: document(t, strings.Repeat("a", 8<<20)), kept: one("first", 2)}
	cfg := place(t)
	cfg.Serving = from.serving
	s := New(cfg)
	held := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc) //nolint:gosec // no heap is as large
	}
	before := held()
	for i, value := range []string{"first", "second"} {
		from.set(func() { from.kept = one(value, 2+i) })
		if !s.save(t.Context()) {
			t.Fatal(s.Facts().Failed)
		}
		if grown := held() - before; grown > 1<<20 {
			t.Errorf("after write %d the store keeps %d bytes", i+1, grown)
		}
		state, err := New(cfg).Load(t.Context())
		if err != nil || len(state.Document) < 8<<20 || string(state.Kept[1].Value.Reveal()) != value {
			t.Errorf("write %d cannot be loaded: %v", i+1, err)
		}
	}
	if n := s.Facts().Writes; n != 2 {
		t.Errorf("%d writes, 2 are expected", n)
	}
}

// TestAWriteHoldsLittle looks at the heap at each rest of a write of 4 MB.
func TestAWriteHoldsLittle(t *testing.T) {
	from := &served{doc: manyRoutes(t)[0], kept: manyValues(1000)}
	cfg := place(t)
	cfg.Serving = from.serving
	held := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc) //nolint:gosec // no heap is as large
	}
	before, rests, most := held(), 0, int64(0)
	cfg.Pause = func() {
		if rests++; rests%20 == 0 {
			most = max(most, held()-before)
		}
	}
	s := New(cfg)
	if !s.save(t.Context()) {
		t.Fatal(s.Facts().Failed)
	}
	t.Logf("%d bytes were written with %d rests, at most %d were held", s.Facts().Size, rests, most)
	// Of encoding a document, of each piece to the disk, of encoding values and of summing them up.
	if want := 10_000/64 + s.Facts().Size/pieceBytes + 2*(1000/pieceKept); rests < want {
		t.Errorf("%d rests; expected %d at least", rests, want)
	}
	if most == 0 || most > int64(s.Facts().Size)/4 {
		t.Errorf("%d bytes were held for a file of %d", most, s.Facts().Size)
	}
}

// TestTheSameTextIsNotWrittenAgain publishes a document that says what the one before did.
func TestTheSameTextIsNotWrittenAgain(t *testing.T) {
	docs := manyRoutes(t)
	from := &served{doc: docs[0], kept: one(canary, 1)}
	cfg := place(t)
	cfg.Serving = from.serving
	s := New(cfg)
	f := func(what string, writes uint64) {
		t.Helper()
		if !s.save(t.Context()) {
			t.Fatal(s.Facts().Failed)
		}
		if n := s.Facts().Writes; n != writes {
			t.Errorf("%s: %d writes; expected %d", what, n, writes)
		}
		if list := left(t, cfg); len(list) > 0 {
			t.Errorf("%s: left over: %v", what, list)
		}
	}
	f("the first", 1)
	f("the same", 1)
	from.set(func() { from.doc = docs[1] })
	f("another with its text", 1)
	f("that again", 1)
	from.set(func() { from.kept = one(canary, 2) })
	f("another value", 2)
	from.set(func() { from.doc = document(t, "alice") })
	f("another text", 3)
	from.set(func() { from.doc = docs[1] })
	f("back again", 4)
}

// TestAWriteEndsInItsTime is about a node that is never idle: each rest takes a while, and
// the state is written all the same.
func TestAWriteEndsInItsTime(t *testing.T) {
	docs := manyRoutes(t)
	synctest.Test(t, func(t *testing.T) {
		from := &served{doc: docs[0], kept: manyValues(1000)}
		cfg := place(t)
		cfg.Serving = from.serving
		cfg.Pause = func() { time.Sleep(100 * time.Millisecond) }
		s := New(cfg)
		began := time.Now()
		if !s.save(t.Context()) {
			t.Fatal(s.Facts().Failed)
		}
		if took := time.Since(began); took < writeLimit/2 || took > writeLimit*3/4 {
			t.Errorf("it took %v; expected half of its time and no more", took)
		}
		// One that takes longer than all of it is given up, and leaves nothing.
		from.set(func() { from.kept = one(canary, 2) })
		s.cfg.Pause = func() { time.Sleep(writeLimit) }
		if s.save(t.Context()) {
			t.Fatal("it was written after its time")
		}
		if f := s.Facts(); f.Writes != 1 || f.Failures != 1 || !strings.Contains(f.Failed, writeLimit.String()) {
			t.Errorf("%+v; expected a failure that names the time", f)
		}
		if list := left(t, cfg); len(list) > 0 {
			t.Errorf("left over: %v", list)
		}
		if st, err := New(cfg).Load(t.Context()); err != nil || st.Sequence != 1 {
			t.Errorf("what was there before: %v", err)
		}
	})
}

// TestTheEndOfANodeIsNoFault stops a node while it writes: the write stops at once, the
// last one is whole, and nothing is told of the disk.
func TestTheEndOfANodeIsNoFault(t *testing.T) {
	docs := manyRoutes(t)
	synctest.Test(t, func(t *testing.T) {
		from := &served{doc: docs[0], kept: one(canary, 1)}
		cfg := place(t)
		cfg.Serving = from.serving
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		rests := 0
		cfg.Pause = func() {
			if rests++; rests == 20 {
				cancel()
			}
		}
		s := New(cfg)
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		s.Hint()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if f := s.Facts(); f.Writes != 1 || f.Failures != 0 || f.Failed != "" {
			t.Errorf("%+v; expected one write and no failure", f)
		}
		if n := from.asks; n != 2 {
			t.Errorf("%d writes were begun; expected the one that was stopped and the last", n)
		}
		if list := left(t, cfg); len(list) > 0 {
			t.Errorf("left over: %v", list)
		}
	})
}

// TestWhoComesLeavesTheOthersWrite reads the file while another process writes it.
func TestWhoComesLeavesTheOthersWrite(t *testing.T) {
	docs := manyRoutes(t)
	from := &served{doc: document(t, "alice"), kept: one(canary, 7)}
	cfg := written(t, from)
	cfg.Serving = from.serving
	from.set(func() { from.doc = docs[0] })
	rests := 0
	cfg.Pause = func() {
		if rests++; rests != 20 {
			return
		}
		comes := New(cfg)
		comes.Hold()
		if _, err := comes.Load(t.Context()); err != nil {
			t.Error(err)
		}
		if list := left(t, cfg); len(list) != 1 {
			t.Errorf("the write has %v; expected the file that it writes", list)
		}
	}
	s := New(cfg)
	if !s.save(t.Context()) {
		t.Fatal(s.Facts().Failed)
	}
	// What it leaves when it is killed goes when the file is taken over.
	over := filepath.Join(cfg.Dir, "."+FileName+".12345")
	if err := os.WriteFile(over, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Hold()
	s.Reclaim(t.Context())
	if list := left(t, cfg); len(list) > 0 {
		t.Errorf("left over: %v", list)
	}
}

// TestAFileThatIsTooLargeIsNotWritten is about the size that is read again.
func TestAFileThatIsTooLargeIsNotWritten(t *testing.T) {
	m := &meter{to: io.Discard, over: t.Context().Err, rest: func() {}, size: maxFile - 10}
	if n, err := m.Write(make([]byte, 10)); n != 10 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	if _, err := m.Write(make([]byte, 1)); err == nil {
		t.Error("a file was written that is not read")
	}
}

// TestErrorsOfAWriteTellNoValue lets the disk fail at each piece.
func TestErrorsOfAWriteTellNoValue(t *testing.T) {
	now := Serving{document(t, strings.Repeat("a", 300_000)), manyValues(1000)}
	var pieces int
	count := writerFunc(func([]byte) error { pieces++; return nil })
	if _, err := pack(count, make([]byte, keySize), head{Node: node}, now, func() {}); err != nil {
		t.Fatal(err)
	}
	if pieces < 7 {
		t.Errorf("%d pieces; expected 7 at least", pieces)
	}
	for i := range pieces {
		n := 0
		fails := writerFunc(func([]byte) error {
			if n++; n > i {
				return errAway
			}
			return nil
		})
		_, err := pack(fails, make([]byte, keySize), head{Node: node}, now, func() {})
		if !errors.Is(err, errAway) || strings.Contains(err.Error(), "value-") {
			t.Errorf("piece %d: %v; expected what the disk says", i, err)
		}
	}
}
