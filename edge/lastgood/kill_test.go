package lastgood

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/secrets"
)

// killed is where the child of TestAKillLeavesTheOldOrTheNew writes.
const killed = "KEYWAY_TEST_LASTGOOD"

func killedConfig(dir string) Config {
	return Config{Dir: filepath.Join(dir, "kept"), Mark: filepath.Join(dir, "mark"), Node: node, Keys: FileKey{filepath.Join(dir, "key"), true}, Log: slog.New(slog.DiscardHandler)}
}

// writeForever writes one state after the other, each of half a megabyte that says
// its number all over.
func writeForever(t *testing.T, dir string) {
	t.Helper()
	from := &served{doc: document(t, "alice")}
	cfg := killedConfig(dir)
	cfg.Serving = from.serving
	s := New(cfg)
	if _, err := s.Load(t.Context()); err != nil && !errors.Is(err, ErrNone) {
		t.Fatal(err)
	}
	for i := int(s.Facts().Sequence) + 1; ; i++ {
		from.set(func() { from.kept = []secrets.Kept{{Ref: "r", Version: i, Value: secrets.NewValue(pattern(i))}} })
		if !s.save(t.Context()) {
			t.Fatal(s.Facts().Failed)
		}
		fmt.Println("written", i)
	}
}

func pattern(i int) []byte { return bytes.Repeat(fmt.Appendf(nil, "%08d", i), 1<<16) }

// TestAKillLeavesTheOldOrTheNew kills a writer 200 times, at any moment.
func TestAKillLeavesTheOldOrTheNew(t *testing.T) {
	if dir := os.Getenv(killed); dir != "" {
		writeForever(t, dir)
	}
	if testing.Short() {
		t.Skip("200 processes")
	}
	dir := t.TempDir()
	var last uint64
	for range 200 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestAKillLeavesTheOldOrTheNew$")
		cmd.Env = append(os.Environ(), killed+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		first, err := bufio.NewReader(out).ReadString('\n')
		if err != nil || !strings.HasPrefix(first, "written ") {
			t.Fatalf("the writer said %q: %v", first, err)
		}
		time.Sleep(rand.N(20 * time.Millisecond)) // where in a write it dies is chance, which is the point
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		st, err := New(killedConfig(dir)).Load(t.Context())
		if err != nil {
			t.Fatalf("after number %d: %v", last, err)
		}
		if st.Sequence <= last {
			t.Fatalf("number %d was written, and number %d came back", last+1, st.Sequence)
		}
		if k := st.Kept[0]; !bytes.Equal(k.Value.Reveal(), pattern(k.Version)) {
			t.Fatalf("number %d is a mixture", st.Sequence)
		}
		last = st.Sequence
	}
	t.Logf("%d writes in 200 lives", last)
	left, err := filepath.Glob(filepath.Join(dir, "kept", ".*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left over: %v %v", left, err)
	}
}
