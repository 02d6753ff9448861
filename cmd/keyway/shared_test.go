package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReplicasShareAFolderUnderOneKey(t *testing.T) {
	volume := filepath.Join(t.TempDir(), "volume")
	one, two := &settings{DataDir: t.TempDir(), SharedState: volume}, &settings{DataDir: t.TempDir(), SharedState: volume}
	first, err := openShared(t.Context(), one)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Swap(t.Context(), "a", "", []byte("CANARY")); err != nil {
		t.Fatal(err)
	}
	if _, err := openShared(t.Context(), two); err == nil || !strings.Contains(err.Error(), "key") {
		t.Errorf("a key of its own opens what another sealed: %v", err)
	}
	two.SharedStateKey = filepath.Join(one.DataDir, "shared.key")
	second, err := openShared(t.Context(), two)
	if err != nil {
		t.Fatal(err)
	}
	if value, _, err := second.Load(t.Context(), "a"); err != nil || string(value) != "CANARY" {
		t.Errorf("%q, %v", value, err)
	}
	files, err := filepath.Glob(filepath.Join(volume, "*"))
	if err != nil || len(files) < 2 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		if text, err := os.ReadFile(f); err != nil || bytes.Contains(text, []byte("CANARY")) {
			t.Errorf("%s is in clear (%v)", f, err)
		}
	}
	two.SharedStateKey = filepath.Join(two.DataDir, "no-such.key")
	if _, err := openShared(t.Context(), two); err == nil || !strings.Contains(err.Error(), "no-such.key") {
		t.Errorf("a key file that was named and is missing: %v", err)
	}
}
