package integration

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
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
	out, err := exec.Command("go", "run", "./cmd/probe", "-probe", source, "-keyway", binary(t)).CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatalf("the probe: %v", err)
	}
	total := regexp.MustCompile(`(?m)^TOTAL (\d+)/(\d+), hidden requests or answers passed: (\d+)$`).FindStringSubmatch(string(out))
	if total == nil || total[1] != total[2] || total[3] != "0" {
		t.Fatalf("the probe's summary is %q, want every case passed and nothing hidden", strings.Join(total, " "))
	}
	if source == "edgeprobe" && total[2] != "154" {
		t.Fatalf("%s cases ran, want all 154", total[2])
	}
}
