package statefolder_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/certs/certtest"
	"github.com/keyway-edge/keyway/certs/statefolder"
	"github.com/keyway-edge/keyway/secrets"
)

func newKey() []byte {
	key := make([]byte, 32)
	rand.Read(key)
	return key
}

func open(t *testing.T, dir string, key []byte) *statefolder.Folder {
	t.Helper()
	f, err := statefolder.Open(t.Context(), dir, key)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestTheFolderKeepsTheContract(t *testing.T) {
	dir, key := t.TempDir(), newKey()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	certtest.SharedState(t, func(t *testing.T) certs.SharedState { return open(t, dir, key) })
}

// files answers the folder's files of values, without the one that proves the key.
func files(t *testing.T, dir string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "*.state"))
	if err != nil {
		t.Fatal(err)
	}
	var values []string
	for _, f := range all {
		if filepath.Base(f) != "check.state" {
			values = append(values, f)
		}
	}
	return values
}

func TestNothingIsInClearAndNothingChangedIsTaken(t *testing.T) {
	dir, key := filepath.Join(t.TempDir(), "state"), newKey()
	f := open(t, dir, key)
	const canary, name = "CANARY-of-the-folder", "acme/shop.example.test"
	if _, err := f.Swap(t.Context(), name, "", []byte(canary)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Swap(t.Context(), "other", "", []byte("x")); err != nil {
		t.Fatal(err)
	}
	paths := files(t, dir)
	if len(paths) != 2 {
		t.Fatalf("%v", paths)
	}
	var boxes [][]byte
	for _, p := range paths {
		box, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(box, []byte("CANARY")) || bytes.Contains([]byte(p), []byte("shop")) || bytes.Contains(box, []byte("shop")) {
			t.Errorf("%s tells what is in it", p)
		}
		if info, err := os.Stat(p); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", p, info.Mode())
		}
		boxes = append(boxes, box)
	}
	refused := func(why string) {
		t.Helper()
		bad := 0
		for _, k := range []string{name, "other"} {
			if value, _, err := f.Load(t.Context(), k); err != nil && !errors.Is(err, certs.ErrNoState) {
				bad++
			} else if err == nil && string(value) != canary && string(value) != "x" {
				t.Errorf("%s: %s reads %q", why, k, value)
			}
		}
		if bad == 0 {
			t.Errorf("%s: nothing was refused", why)
		}
	}
	write := func(i int, box []byte) {
		t.Helper()
		if err := os.WriteFile(paths[i], box, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for at := range boxes[0] {
		flipped := bytes.Clone(boxes[0])
		flipped[at] ^= 1
		write(0, flipped)
		refused("a flipped bit")
	}
	for n := range boxes[0] {
		write(0, boxes[0][:n])
		refused("cut off")
	}
	write(0, boxes[1])
	write(1, boxes[0])
	refused("files exchanged")
	if _, err := statefolder.Open(t.Context(), dir, newKey()); !errors.Is(err, secrets.ErrKey) {
		t.Errorf("another key opens the folder: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	if _, err := statefolder.Open(t.Context(), dir, []byte("short")); !errors.Is(err, secrets.ErrKey) {
		t.Errorf("a short key: %v", err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := statefolder.Open(t.Context(), dir, newKey()); err == nil {
		t.Error("a folder that everybody may write is taken")
	}
}

func TestAWriterThatWaitsHonoursItsContext(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	f := open(t, dir, newKey())
	other, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := syscall.Flock(int(other.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := f.Swap(ctx, "a", "", []byte("x")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if _, _, err := f.Load(t.Context(), "a"); !errors.Is(err, certs.ErrNoState) {
		t.Errorf("a reader needs no lock: %v", err)
	}
}

func TestOpenTidiesUpAfterTheKilled(t *testing.T) {
	dir, key := filepath.Join(t.TempDir(), "state"), newKey()
	f := open(t, dir, key)
	if _, err := f.Swap(t.Context(), "a", "", []byte("x")); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(dir, "."+filepath.Base(files(t, dir)[0])+".123")
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	again := open(t, dir, key)
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what a killed writer left is there: %v", err)
	}
	if value, _, err := again.Load(t.Context(), "a"); err != nil || string(value) != "x" {
		t.Errorf("%q, %v", value, err)
	}
}
