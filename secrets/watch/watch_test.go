package watch_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/secrets/watch"
)

func run(t *testing.T, f *watch.Folders) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	hint(t, f, "of the start")
}

func hint(t *testing.T, f *watch.Folders, what string) {
	t.Helper()
	select {
	case <-f.Changed():
	case <-time.After(10 * time.Second):
		t.Fatalf("no hint %s", what)
	}
}

func touch(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(time.Now().String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

// put makes a file by one event alone.
func put(t *testing.T, path string) {
	t.Helper()
	made := filepath.Join(t.TempDir(), "x")
	touch(t, made)
	if err := os.Rename(made, path); err != nil {
		t.Fatal(err)
	}
}

func TestBurstIsFewHintsAndAnEndlessOneIsNotSilent(t *testing.T) {
	dir := t.TempDir()
	f := watch.New(dir)
	run(t, f)
	hints, events := 0, 0
	begin := time.Now()
	for ; time.Since(begin) < time.Second || hints < 2 && time.Since(begin) < 20*time.Second; events++ { // without a pause
		touch(t, filepath.Join(dir, fmt.Sprint(events%10)))
		select {
		case <-f.Changed():
			hints++
		default:
		}
	}
	// About four, and some more where a busy machine makes pauses of its own.
	if hints < 2 || hints > 10+events/4 {
		t.Errorf("%d hints in %v of %d events; expected about four in a second", hints, time.Since(begin), events)
	}
}

func TestAddedAndReplacedFoldersAreWatched(t *testing.T) {
	root := t.TempDir()
	f := watch.New(root)
	run(t, f)
	// Run watches a moment after it was begun.
	eventually(t, f, func() { touch(t, filepath.Join(root, "ready")) }, "of a file")
	sub := filepath.Join(root, "sub")
	if err := os.Mkdir(sub, 0o700); err != nil {
		t.Fatal(err)
	}
	hint(t, f, "of a new folder")
	f.Add(sub)
	// Adding does not wait, so files come until the folder is watched.
	eventually(t, f, func() { touch(t, filepath.Join(sub, "x")) }, "of a file in an added folder")
	if err := os.Rename(sub, sub+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(sub, 0o700); err != nil {
		t.Fatal(err)
	}
	hint(t, f, "of a replaced folder")
	eventually(t, f, func() { touch(t, filepath.Join(sub, "x")) }, "of a file in a replaced folder")
}

// eventually repeats a change until it is hinted.
func eventually(t *testing.T, f *watch.Folders, change func(), what string) {
	t.Helper()
	for range 100 {
		change()
		select {
		case <-f.Changed():
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
	t.Fatalf("no hint %s", what)
}

// touches answers what was touched until want is among it.
func touches(t *testing.T, f *watch.Folders, want string) []string {
	t.Helper()
	var seen []string
	deadline := time.After(10 * time.Second)
	for {
		paths, all := f.Touched()
		if all {
			t.Error("anything may have changed; expected paths")
		}
		if seen = append(seen, paths...); slices.Contains(seen, want) {
			return seen
		}
		select {
		case <-f.Changed():
		case <-deadline:
			t.Fatalf("%s was not touched, but %q", want, seen)
		}
	}
}

func TestTouchedNamesWhatChanged(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"a", "b", "c"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	f := watch.New(root, filepath.Join(root, "a"))
	run(t, f)
	if _, all := f.Touched(); !all {
		t.Error("at the start anything may have changed before; Touched does not say so")
	}
	f.Add(filepath.Join(root, "b")) // watched when Add returns
	put(t, filepath.Join(root, "b", "x"))
	if seen := touches(t, f, filepath.Join(root, "b", "x")); slices.Contains(seen, filepath.Join(root, "a")) {
		t.Errorf("touched %q; expected b alone", seen)
	}
	if paths, all := f.Touched(); all || len(paths) > 0 {
		t.Errorf("asked again: %q, %v", paths, all)
	}
}

func TestFolderOfTwoNamesIsTouchedUnderBoth(t *testing.T) {
	root := t.TempDir()
	one, two := filepath.Join(root, "one"), filepath.Join(root, "two")
	if err := os.Mkdir(one, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("one", two); err != nil {
		t.Fatal(err)
	}
	f := watch.New(one, two)
	run(t, f)
	f.Touched()
	touch(t, filepath.Join(one, "x"))
	touches(t, f, filepath.Join(two, "x"))
	f.Touched()
	touch(t, filepath.Join(two, "y"))
	touches(t, f, filepath.Join(one, "y"))
}

func TestFolderBehindAReplacedLinkIsWatched(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"first", "second"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	current := filepath.Join(root, "current")
	if err := os.Symlink("first", current); err != nil {
		t.Fatal(err)
	}
	f := watch.New(root, current)
	run(t, f)
	f.Touched()
	if err := os.Symlink("second", current+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(current+".new", current); err != nil {
		t.Fatal(err)
	}
	touches(t, f, current)
	// The link is named before the folder behind it is watched, and again with that. So
	// files come until one is named.
	want := filepath.Join(current, "x")
	for range 100 {
		touch(t, filepath.Join(root, "second", "x"))
		if paths, _ := f.Touched(); slices.Contains(paths, want) {
			return
		}
		select {
		case <-f.Changed():
		case <-time.After(100 * time.Millisecond):
		}
	}
	t.Errorf("%s was never touched", want)
}
