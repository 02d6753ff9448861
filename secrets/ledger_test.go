package secrets_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyway-edge/keyway/secrets"
)

// written makes a ledger of n events and closes it.
func written(t *testing.T, dir string, n int, size int64) {
	t.Helper()
	l, err := secrets.OpenLedger(secrets.LedgerConfig{Dir: dir, MaxSize: size})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := l.Append(secrets.Event{Kind: "secret", Subject: "{vault://env/a}", Result: "activated", NewVersion: i + 1}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// verified verifies the ledger in a folder, with its key or without.
func verified(t *testing.T, dir string, withKey bool) secrets.Report {
	t.Helper()
	var key []byte
	var err error
	if withKey {
		if key, err = secrets.ReadLedgerKey(filepath.Join(dir, secrets.LedgerKeyFile)); err != nil {
			t.Fatal(err)
		}
	}
	files, err := secrets.LedgerFiles(dir)
	if err != nil {
		t.Fatal(err)
	}
	r, err := secrets.Verify(files, key)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestLedgerOfManyFilesAndLivesVerifies(t *testing.T) {
	dir := t.TempDir()
	for range 3 {
		written(t, dir, 20, 2000)
	}
	files, _ := secrets.LedgerFiles(dir)
	if len(files) < 5 {
		t.Fatalf("%d files; the test wants rotation", len(files))
	}
	r := verified(t, dir, true)
	if !r.OK() || r.Lines != 60 || r.First != 1 || r.Last != 60 {
		t.Errorf("%+v", r)
	}
	if len(r.NotShown) != 1 || !strings.Contains(r.NotShown[0], "older copy") {
		t.Errorf("not shown: %q", r.NotShown)
	}
	r = verified(t, dir, false)
	if !r.OK() || len(r.NotShown) != 3 || !strings.Contains(r.NotShown[1], "forged") || !strings.Contains(r.NotShown[0], "cut off") {
		t.Errorf("without the key: %+v", r)
	}
	for _, name := range []string{secrets.LedgerFile, secrets.LedgerKeyFile, secrets.LedgerHead, filepath.Base(files[0])} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	versions, err := secrets.Versions(dir)
	if err != nil || versions["{vault://env/a}"] != 20 {
		t.Errorf("versions %v, %v", versions, err)
	}
}

// forge recomputes what can be recomputed without the key: a stranger's best try.
func forge(t *testing.T, text string, change func(event map[string]any)) string {
	t.Helper()
	var l map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &l); err != nil {
		t.Fatal(err)
	}
	var event map[string]any
	if err := json.Unmarshal(l["event"], &event); err != nil {
		t.Fatal(err)
	}
	change(event)
	b, _ := json.Marshal(event)
	return strings.Replace(text, string(l["event"]), string(b), 1)
}

func TestVerifyTellsWhatWasDone(t *testing.T) {
	tests := map[string]struct {
		change  func(lines []string) []string
		line    int // of the first finding
		problem string
		keyOnly bool // shown only with the key
	}{
		"event changed": {func(l []string) []string {
			l[4] = strings.Replace(l[4], `"new_version":5`, `"new_version":6`, 1)
			return l
		}, 5, "changed", false},
		"event rewritten": {func(l []string) []string {
			l[4] = forge(t, l[4], func(e map[string]any) { e["result"] = "refused" })
			return l
		}, 5, "changed", false},
		"spacing changed":    {func(l []string) []string { l[4] = strings.Replace(l[4], ":", ": ", 1); return l }, 5, "changed", false},
		"field added":        {func(l []string) []string { l[4] = strings.Replace(l[4], "{", `{"x":1,`, 1); return l }, 5, "changed", false},
		"mac changed":        {func(l []string) []string { l[4] = flip(l[4], `"mac":"`); return l }, 5, "forged", true},
		"line removed":       {func(l []string) []string { return slices.Delete(l, 4, 5) }, 5, "missing", false},
		"lines removed":      {func(l []string) []string { return slices.Delete(l, 4, 7) }, 5, "missing", false},
		"lines swapped":      {func(l []string) []string { l[4], l[5] = l[5], l[4]; return l }, 5, "missing", false},
		"line doubled":       {func(l []string) []string { return slices.Insert(l, 5, l[4]) }, 6, "reordered", false},
		"line blanked":       {func(l []string) []string { l[4] = ""; return l }, 5, "changed", false},
		"garbage put in":     {func(l []string) []string { return slices.Insert(l, 4, "hello") }, 5, "changed", false},
		"cut at the end":     {func(l []string) []string { return l[:8] }, 0, "truncated", true},
		"emptied":            {func([]string) []string { return nil }, 0, "truncated", true},
		"last line changed":  {func(l []string) []string { l[9] = flip(l[9], `"time":"`); return l }, 10, "changed", false},
		"first line changed": {func(l []string) []string { l[0] = flip(l[0], `"subject":"`); return l }, 1, "changed", false},
		"link changed":       {func(l []string) []string { l[4] = flip(l[4], `"prev":"`); return l }, 5, "changed", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			written(t, dir, 10, 0)
			path := filepath.Join(dir, secrets.LedgerFile)
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			lines := tt.change(strings.Split(strings.TrimSuffix(string(text), "\n"), "\n"))
			out := strings.Join(lines, "\n")
			if len(lines) > 0 {
				out += "\n"
			}
			if err := os.WriteFile(path, []byte(out), 0o600); err != nil {
				t.Fatal(err)
			}
			r := verified(t, dir, true)
			if r.OK() || r.Findings[0].Line != tt.line || r.Findings[0].Problem != tt.problem {
				t.Errorf("with the key: %+v; expected %s at line %d", r.Findings, tt.problem, tt.line)
			}
			if r := verified(t, dir, false); r.OK() != tt.keyOnly {
				t.Errorf("without the key: %+v", r.Findings)
			}
		})
	}
}

func TestLineHashedAnewWithoutTheKeyIsShown(t *testing.T) {
	dir := t.TempDir()
	written(t, dir, 5, 0)
	path := filepath.Join(dir, secrets.LedgerFile)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(text), "\n")
	var l struct {
		Seq   uint64          `json:"seq"`
		Prev  string          `json:"prev"`
		Event json.RawMessage `json:"event"`
		Hash  string          `json:"hash"`
	}
	if err := json.Unmarshal([]byte(lines[2]), &l); err != nil {
		t.Fatal(err)
	}
	event := strings.Replace(string(l.Event), `"activated"`, `"forgotten"`, 1)
	sum := sha256.Sum256(fmt.Appendf(nil, "keyway-ledger-1\x00%d\x00%s\x00%s", l.Seq, l.Prev, event))
	lines[2] = strings.NewReplacer(string(l.Event), event, l.Hash, hex.EncodeToString(sum[:])).Replace(lines[2])
	if err := os.WriteFile(path, []byte(strings.Join(lines, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := verified(t, dir, true); r.OK() || r.Findings[0].Line != 3 || r.Findings[0].Problem != "forged" {
		t.Errorf("with the key: %+v", r.Findings)
	}
	if r := verified(t, dir, false); r.OK() || r.Findings[0].Line != 4 || !strings.Contains(r.Findings[0].Message, "does not follow") {
		t.Errorf("without the key, by the link of the next line: %+v", r.Findings)
	}
}

// flip changes one letter of a value.
func flip(s, after string) string {
	i := strings.Index(s, after) + len(after)
	c := byte('1')
	if s[i] == c {
		c = '2'
	}
	return s[:i] + string(c) + s[i+1:]
}

func TestForgedChainIsShownWithTheKeyOnly(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	written(t, dir, 5, 0)
	written(t, other, 5, 0) // a whole chain made with another key
	text, err := os.ReadFile(filepath.Join(other, secrets.LedgerFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, secrets.LedgerFile), text, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := verified(t, dir, false); !r.OK() {
		t.Errorf("without the key: %+v", r.Findings)
	}
	r := verified(t, dir, true)
	if len(r.Findings) < 5 || r.Findings[0].Problem != "forged" {
		t.Errorf("with the key: %+v", r.Findings)
	}
}

func TestLedgerGoesOnAfterACrash(t *testing.T) {
	tests := map[string]struct {
		damage func(t *testing.T, path string)
		result string   // of the event that tells of it
		left   []string // what Verify finds afterwards
	}{
		"torn last line": {func(t *testing.T, path string) { appendTo(t, path, `{"seq":6,"prev":"ab`) }, "recovered", nil},
		"torn by zeros":  {func(t *testing.T, path string) { appendTo(t, path, strings.Repeat("\x00", 300)) }, "recovered", nil},
		"cut in a line": {func(t *testing.T, path string) {
			info, _ := os.Stat(path)
			if err := os.Truncate(path, info.Size()-10); err != nil {
				t.Fatal(err)
			}
		}, "truncated", []string{"missing"}},
		"cut to nothing": {func(t *testing.T, path string) {
			if err := os.Truncate(path, 0); err != nil {
				t.Fatal(err)
			}
		}, "truncated", nil}, // begins later: that lines are in no given file is said in NotShown
		"stranger's line": {func(t *testing.T, path string) { appendTo(t, path, "hello\n") }, "damaged", []string{"changed"}},
		"head gone":       {func(t *testing.T, path string) { os.Remove(filepath.Join(filepath.Dir(path), secrets.LedgerHead)) }, "damaged", nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			written(t, dir, 5, 0)
			tt.damage(t, filepath.Join(dir, secrets.LedgerFile))
			written(t, dir, 1, 0)
			text, err := os.ReadFile(filepath.Join(dir, secrets.LedgerFile))
			if err != nil || !bytes.Contains(text, []byte(`"kind":"ledger"`)) || !bytes.Contains(text, []byte(`"result":"`+tt.result+`"`)) {
				t.Errorf("the crash was not recorded: %s", text)
			}
			r := verified(t, dir, true)
			var problems []string
			for _, f := range r.Findings {
				problems = append(problems, f.Problem)
			}
			if !slices.Equal(problems, tt.left) || r.Last < 6 {
				t.Errorf("afterwards: %+v, last %d; expected %v", r.Findings, r.Last, tt.left)
			}
		})
	}
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func TestCrashBetweenTheStepsOfARotation(t *testing.T) {
	dir := t.TempDir()
	written(t, dir, 5, 0)
	if err := os.Rename(filepath.Join(dir, secrets.LedgerFile), filepath.Join(dir, "ledger-000000000001.jsonl")); err != nil {
		t.Fatal(err)
	}
	written(t, dir, 5, 0)
	if r := verified(t, dir, true); !r.OK() || r.Lines != 10 {
		t.Errorf("%+v", r)
	}
}

func TestKilledAtAnyByteTheLedgerIsCleanAgain(t *testing.T) {
	dir := t.TempDir()
	written(t, dir, 3, 0)
	path, headPath := filepath.Join(dir, secrets.LedgerFile), filepath.Join(dir, secrets.LedgerHead)
	text, _ := os.ReadFile(path)
	headText, _ := os.ReadFile(headPath)
	written(t, dir, 1, 0)
	next, _ := os.ReadFile(path)
	for n := len(text); n < len(next); n += 7 { // the fourth line cut at any byte, its head not yet written
		if err := errors.Join(os.WriteFile(path, next[:n], 0o600), os.WriteFile(headPath, headText, 0o600)); err != nil {
			t.Fatal(err)
		}
		written(t, dir, 1, 0)
		if r := verified(t, dir, true); !r.OK() || r.Last < 4 {
			t.Fatalf("cut at byte %d: %+v", n, r)
		}
	}
	// The line is whole and the head is not there yet.
	if err := errors.Join(os.WriteFile(path, next, 0o600), os.WriteFile(headPath, headText, 0o600)); err != nil {
		t.Fatal(err)
	}
	if r := verified(t, dir, true); !r.OK() {
		t.Errorf("a line beyond the head: %+v", r.Findings)
	}
}

func TestLedgerRefusals(t *testing.T) {
	dir := t.TempDir()
	l, err := secrets.OpenLedger(secrets.LedgerConfig{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := secrets.OpenLedger(secrets.LedgerConfig{Dir: dir}); !errors.Is(err, secrets.ErrLedgerBusy) {
		t.Errorf("a second writer: %v", err)
	}
	if err := l.Append(secrets.Event{Kind: "admin", Reason: strings.Repeat("x", 2<<20)}); err == nil {
		t.Error("an event of 2 MiB was taken")
	}
	if err := l.Append(secrets.Event{Kind: "admin", Reason: "a\r\nb\x1b[0m\u2028\"}"}); err != nil {
		t.Error(err)
	}
	if s := l.Stats(); s.Events != 1 || s.Failures != 1 || s.Sequence != 1 || s.Bytes == 0 {
		t.Errorf("%+v", s)
	}
	if err := errors.Join(l.Close(), l.Close()); err != nil {
		t.Error(err)
	}
	if err := l.Append(secrets.Event{Kind: "admin"}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("appending after the end: %v", err)
	}
	if r := verified(t, dir, true); !r.OK() || r.Lines != 1 {
		t.Errorf("%+v", r)
	}
	key := filepath.Join(dir, secrets.LedgerKeyFile)
	if err := os.Chmod(key, 0o644); err != nil { //nolint:gosec // that is the case
		t.Fatal(err)
	}
	if _, err := secrets.OpenLedger(secrets.LedgerConfig{Dir: dir}); !errors.Is(err, secrets.ErrKey) {
		t.Errorf("a key that all may read: %v", err)
	}
	os.Remove(key)
	if _, err := secrets.OpenLedger(secrets.LedgerConfig{Dir: dir}); !errors.Is(err, secrets.ErrKey) {
		t.Errorf("a ledger whose key is gone: %v", err)
	}
}

func TestVerifyWhileTheLedgerIsWritten(t *testing.T) {
	dir := t.TempDir()
	l, err := secrets.OpenLedger(secrets.LedgerConfig{Dir: dir, MaxSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for w := range 2 {
		wg.Go(func() {
			for i := range 200 {
				if err := l.Append(secrets.Event{Kind: "admin", Subject: fmt.Sprint(w, i)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 20 {
		if r := verified(t, dir, true); !r.OK() && r.Findings[0].Problem != "torn" {
			t.Errorf("%+v", r.Findings)
		}
	}
	wg.Wait()
	if r := verified(t, dir, true); !r.OK() || r.Lines != 400 {
		t.Errorf("%d lines, %+v", r.Lines, r.Findings)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestLedgerRunSyncsWithinASecondAndAtTheEnd(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		l, err := secrets.OpenLedger(secrets.LedgerConfig{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- l.Run(t.Context()) }()
		if err := l.Append(secrets.Event{Kind: "admin"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(1100 * time.Millisecond)
		if l.Stats().Synced.IsZero() {
			t.Error("not on the disk after a second")
		}
		t.Cleanup(func() {
			if err := <-done; err != nil {
				t.Error(err)
			}
			// Others end later and have something to tell still.
			if err := errors.Join(l.Append(secrets.Event{Kind: "admin"}), l.Close()); err != nil {
				t.Error(err)
			}
			if r := verified(t, dir, true); !r.OK() || r.Lines != 2 {
				t.Errorf("%d lines, %+v", r.Lines, r.Findings)
			}
		})
	})
}
