package secrets

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestEventsWaitForADiskThatCannotBeWritten is the ledger's part of fault F-18: what the
// disk does not take waits, bounded, is an error each time, and is written in its order
// and with its own time when there is room again.
func TestEventsWaitForADiskThatCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	l, err := OpenLedger(LedgerConfig{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	event := func(i int) Event {
		return Event{Kind: "admin", Subject: fmt.Sprint(i), Time: time.Date(2026, 1, 1, 0, 0, i, 0, time.UTC)}
	}
	if err := l.Append(event(0)); err != nil {
		t.Fatal(err)
	}
	good := l.file
	// A file that is open for reading alone refuses writes, as root is refused too.
	if l.file, err = os.Open(filepath.Join(dir, LedgerFile)); err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= waitingMost; i++ {
		if err := l.Append(event(i)); err == nil || i == 1 && !strings.Contains(err.Error(), "waits, as 1 of") {
			t.Fatalf("event %d: %v", i, err)
		}
	}
	if err := l.Append(event(-1)); err == nil || !strings.Contains(err.Error(), "lost") {
		t.Errorf("an event beyond the bound: %v", err)
	}
	if err := l.Flush(); err == nil {
		t.Error("flushed to a disk that cannot be written")
	}
	if s := l.Stats(); s.Waiting != waitingMost || s.Failures != waitingMost+1 || s.Events != 1 {
		t.Errorf("%+v", s)
	}
	if err := l.file.Close(); err != nil {
		t.Fatal(err)
	}
	l.file = good
	if err := l.Append(event(waitingMost + 1)); err != nil {
		t.Error(err)
	}
	if s := l.Stats(); s.Waiting != 0 || s.Events != waitingMost+2 {
		t.Errorf("%+v", s)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, LedgerFile))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) != waitingMost+2 {
		t.Fatalf("%d lines", len(lines))
	}
	for i, line := range lines {
		if !strings.Contains(line, fmt.Sprintf(`"subject":"%d"`, i)) {
			t.Fatalf("line %d is %.200s", i, line)
		}
	}
	// At the end it is told what is lost.
	if l, err = OpenLedger(LedgerConfig{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	good = l.file
	if l.file, err = os.Open(filepath.Join(dir, LedgerFile)); err != nil {
		t.Fatal(err)
	}
	_ = l.Append(event(1))
	if err := l.Close(); err == nil || !strings.Contains(err.Error(), "1 events are lost") {
		t.Errorf("the end says %v", err)
	}
	_ = good.Close()
}
