package integration

import (
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
)

// TestProbe attacks a node with every case of the probe: raw HTTP/1.1, HTTP/2 frames
// written by hand, TLS hellos. All 154 must pass and nothing hidden may get through.
func TestProbe(t *testing.T) {
	t.Parallel()
	source := os.Getenv("KEYWAY_PROBE")
	if source == "" {
		source = "edgeprobe"
	}
	cases := attack(t, "-probe", source)
	if source == "edgeprobe" && cases != 154 {
		t.Fatalf("%d cases ran, want all 154", cases)
	}
}

// TestProbeClasses does the same with cases of this repository's own, which fill the
// classes that the probe's cases are examples of. Nearly all of its time is silence, so
// parts of them, by the last digit of their ids, run beside each other.
func TestProbeClasses(t *testing.T) {
	t.Parallel()
	var cases atomic.Int64
	t.Cleanup(func() {
		if n := cases.Load(); n != 581 {
			t.Errorf("%d cases ran, want all 581", n)
		}
	})
	for _, digits := range []string{"0-2", "3-5", "67", "89"} {
		t.Run(digits, func(t *testing.T) {
			t.Parallel()
			n := attack(t, "-probe", "edgeprobe", "-cases", "cmd/probe/cases", "-idle", "500ms", "-only", `^K.*[`+digits+`]$`)
			cases.Add(int64(n))
		})
	}
}

// attack runs the probe, expects every case to pass and answers how many there were.
func attack(t *testing.T, args ...string) int {
	t.Helper()
	args = append([]string{"run", "./cmd/probe", "-keyway", binary(t)}, args...)
	out, err := exec.Command("go", args...).CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatalf("the probe: %v", err)
	}
	total := regexp.MustCompile(`(?m)^TOTAL (\d+)/(\d+), hidden requests or answers passed: (\d+)$`).FindStringSubmatch(string(out))
	if total == nil || total[1] != total[2] || total[3] != "0" {
		t.Fatalf("the probe's summary is %q, want every case passed and nothing hidden", strings.Join(total, " "))
	}
	cases, err := strconv.Atoi(total[2])
	if err != nil {
		t.Fatal(err)
	}
	return cases
}
