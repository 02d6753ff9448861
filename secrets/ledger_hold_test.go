package secrets

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
)

// Two writers follow one another: what each has to tell while the other writes waits, or
// goes through the other, and the chain is one.
func TestLedgerIsHandedOver(t *testing.T) {
	dir := t.TempDir()
	old, err := OpenLedger(LedgerConfig{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	tell := func(l *Ledger, what string) {
		t.Helper()
		if err := l.Append(Event{Kind: "test", Subject: what, Result: "told"}); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	fresh := HeldLedger(LedgerConfig{Dir: dir})
	tell(fresh, "before it is its turn")
	tell(old, "first")
	if err := fresh.Resume(); !errors.Is(err, ErrLedgerBusy) {
		t.Errorf("a second writer: %v, want ErrLedgerBusy", err)
	}
	// A hand-over that fails.
	if err := old.Hold(); err != nil {
		t.Fatal(err)
	}
	tell(old, "while it is held")
	if err := old.Resume(); err != nil {
		t.Fatal(err)
	}
	// One that succeeds.
	if err := old.Hold(); err != nil {
		t.Fatal(err)
	}
	tell(old, "held again")
	if err := fresh.Resume(); err != nil {
		t.Fatal(err)
	}
	away := errors.New("nobody takes it")
	if err := old.Divert(fresh.Append); err != nil {
		t.Fatal(err)
	}
	tell(old, "through the other")
	tell(fresh, "its own")
	if err := old.Divert(func(Event) error { return away }); err != nil {
		t.Fatal(err)
	}
	if err := old.Append(Event{Kind: "test", Subject: "waits", Result: "told"}); !errors.Is(err, away) {
		t.Errorf("%v, want the reason", err)
	}
	// The other ends, and the first writes again what is left.
	if err := fresh.Close(); err != nil {
		t.Fatal(err)
	}
	if err := old.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := LedgerFiles(dir)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ReadLedgerKey(dir + "/" + LedgerKeyFile)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Verify(files, key)
	if err != nil || !r.OK() {
		t.Errorf("%v: %v", err, r.Findings)
	}
	var got []string
	for _, f := range files {
		err := eachLine(f, func(_ int, text []byte, _ bool) bool {
			l, err := decodeLine(text)
			if err != nil {
				t.Error(err)
			}
			var e Event
			if err := json.Unmarshal(l.Event, &e); err != nil {
				t.Error(err)
			}
			got = append(got, e.Subject)
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	want := "[first while it is held before it is its turn held again through the other its own waits]"
	if fmt.Sprint(got) != want {
		t.Errorf("the ledger has %v, want %v", got, want)
	}
}

// What is held when the process ends is lost, which is an error.
func TestHeldLedgerLosesNothingQuietly(t *testing.T) {
	l := HeldLedger(LedgerConfig{Dir: t.TempDir()})
	if err := l.Close(); err != nil {
		t.Errorf("nothing waits: %v", err)
	}
	l = HeldLedger(LedgerConfig{Dir: t.TempDir()})
	if err := l.Append(Event{Kind: "test", Subject: "x", Result: "y"}); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err == nil {
		t.Error("an event was lost without a word")
	}
}
