package rulings

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/certs"
)

func open(t *testing.T, dir string, now time.Time) *Store {
	t.Helper()
	s, err := Open(dir, now)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// told is what a store says of versions, in one line.
func told(s *Store, fingerprints ...string) string {
	var list []string
	view := s.View()
	for _, f := range fingerprints {
		r, ok := view(f)
		if !ok {
			r.Check = "-"
		}
		list = append(list, string(r.Check))
	}
	return strings.Join(list, " ")
}

func TestRulingsOutliveARestart(t *testing.T) {
	dir, now := t.TempDir(), time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	s := open(t, dir, now)
	if err := s.Revoke(Entry{Fingerprint: "aa", Reason: "stolen", Stop: true, Certificate: "1", Name: "a.test", Actor: "root", At: now, NotAfter: now.Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if err := s.Hold("1", Entry{Fingerprint: "bb", Reason: "slow", At: now}, Entry{Fingerprint: "aa", Reason: "also", At: now}); err != nil {
		t.Fatal(err)
	}
	if err := s.Hold("2", Entry{Fingerprint: "cc", Reason: "odd", At: now}); err != nil {
		t.Fatal(err)
	}
	if got := told(s, "aa", "bb", "cc", "dd"); got != "revoked rolled_back rolled_back -" {
		t.Errorf("told %s", got)
	}
	again := open(t, dir, now)
	if got := told(again, "aa", "bb", "cc", "dd"); got != "revoked rolled_back rolled_back -" {
		t.Errorf("after a restart told %s", got)
	}
	if r, _ := again.View()("aa"); !r.Stop || r.Reason != "stolen" {
		t.Errorf("ruling %+v", r)
	}
	if info, err := os.Stat(filepath.Join(dir, FileName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file %v, %v", info, err)
	}
	view := again.View()
	if err := again.Hold("1"); err != nil {
		t.Fatal(err)
	}
	if got := told(again, "aa", "bb", "cc"); got != "revoked - rolled_back" {
		t.Errorf("after the release told %s", got)
	}
	if _, ok := view("bb"); !ok {
		t.Error("a view changed under its reader")
	}
	if got := told(open(t, dir, now.Add(grace+2*time.Hour)), "aa", "cc"); got != "- rolled_back" {
		t.Errorf("long after its end told %s", got)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("files left: %v", left)
	}
}

func TestNothingNewWritesNothing(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	s := open(t, dir, now)
	held := Entry{Fingerprint: "bb", Reason: "slow", At: now}
	for range 2 {
		if err := s.Hold("1", held); err != nil {
			t.Fatal(err)
		}
		held.At = held.At.Add(time.Minute)
		if err := os.RemoveAll(filepath.Join(dir, FileName)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, FileName)); err == nil {
		t.Error("the same holds were written twice")
	}
}

func TestRulingsHoldWithoutADisk(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "gone"), time.Now())
	err := s.Revoke(Entry{Fingerprint: "aa"})
	if err == nil || !strings.Contains(err.Error(), "until this node stops") {
		t.Errorf("error %v", err)
	}
	if got := told(s, "aa"); got != "revoked" {
		t.Errorf("told %s: a full disk must not keep a revoked certificate serving", got)
	}
}

func TestAFileThatCannotBeReadIsRefused(t *testing.T) {
	for what, text := range map[string]string{
		"no JSON":        "{\"format\":1,\"rulings\":[{\"finger",
		"another format": `{"format":2}`,
		"another ruling": `{"format":1,"rulings":[{"fingerprint":"aa","ruling":"forgiven"}]}`,
		"no version":     `{"format":1,"rulings":[{"ruling":"revoked"}]}`,
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, FileName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, time.Now()); err == nil || !strings.Contains(err.Error(), FileName) {
			t.Errorf("%s: error %v", what, err)
		}
	}
}

func TestHoldsAreBounded(t *testing.T) {
	s := open(t, t.TempDir(), time.Now())
	now := time.Now()
	held := make([]Entry, mostHolds+10)
	for i := range held {
		held[i] = Entry{Fingerprint: string(rune(i + 1)), At: now.Add(time.Duration(i))}
	}
	if err := s.Revoke(Entry{Fingerprint: "aa", At: now.Add(-time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if err := s.Hold("1", held...); err != nil {
		t.Fatal(err)
	}
	list := s.List()
	if len(list) != mostHolds+1 || list[len(list)-1].Check != certs.CheckRevoked {
		t.Errorf("%d kept; expected %d and the revocation, which is the oldest", len(list), mostHolds)
	}
}

// Two processes keep the file one after the other, and neither forgets what the other
// decided.
func TestTheFileIsHandedOver(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	open := func() *Store {
		s, err := Open(dir, now)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	revoke := func(s *Store, fingerprint string) {
		if err := s.Revoke(Entry{Fingerprint: fingerprint, Certificate: "c", NotAfter: now.Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
	}
	has := func(s *Store, want ...string) {
		t.Helper()
		if n := len(s.List()); n != len(want) {
			t.Errorf("%d decisions, want %v", n, want)
		}
		for _, f := range want {
			if _, ok := s.View()(f); !ok {
				t.Errorf("%s is not revoked", f)
			}
		}
	}
	old, fresh := open(), open()
	fresh.Release()
	revoke(old, "a")
	revoke(fresh, "b")
	has(open(), "a")
	has(fresh, "b")
	old.Release()
	revoke(old, "c")
	has(open(), "a")
	if err := fresh.Reclaim(now); err != nil {
		t.Fatal(err)
	}
	has(fresh, "a", "b")
	has(open(), "a", "b")
	// A hand-over that fails.
	fresh.Release()
	if err := old.Reclaim(now); err != nil {
		t.Fatal(err)
	}
	has(open(), "a", "b", "c")
}
