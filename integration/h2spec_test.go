package integration

import (
	"encoding/xml"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// junit is the part of h2spec's report that is judged.
type junit struct {
	Suites []struct {
		Package string `xml:"package,attr"`
		ID      string `xml:"id,attr"`
		Cases   []struct {
			Package string    `xml:"package,attr"`
			Class   string    `xml:"classname,attr"`
			Failure *string   `xml:"failure"`
			Error   *string   `xml:"error"`
			Skipped *struct{} `xml:"skipped"`
		} `xml:"testcase"`
	} `xml:"testsuite"`
}

// TestH2spec runs the conformance suite of HTTP/2 against the TLS listener.
func TestH2spec(t *testing.T) {
	cache := os.Getenv("KEYWAY_CACHE")
	if cache == "" {
		home, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		cache = filepath.Join(home, "keyway")
	}
	tool := filepath.Join(cache, "bin", "h2spec")
	if _, err := os.Stat(tool); err != nil {
		skip(t, "h2spec is missing, make setup builds it: "+err.Error())
	}
	g := start(t, options{}) // the starter document: / is answered by the echo upstream
	host, port, _ := strings.Cut(g.tls, ":")
	report := filepath.Join(t.TempDir(), "h2spec.xml")
	out, runErr := exec.Command(tool, "-t", "-k", "-h", host, "-p", port, "-P", "/echo", "-j", report).CombinedOutput()
	text, err := os.ReadFile(report)
	if err != nil {
		t.Fatalf("h2spec: %v\n%s", runErr, out)
	}
	var r junit
	if err := xml.Unmarshal(text, &r); err != nil {
		t.Fatalf("reading h2spec's report: %v", err)
	}
	passed, total := 0, 0
	for _, suite := range r.Suites {
		for i, c := range suite.Cases {
			total++
			name := suite.Package + "/" + strconv.Itoa(i+1)
			if c.Failure == nil && c.Error == nil && c.Skipped == nil {
				passed++
			} else {
				t.Errorf("%s fails: %s", name, c.Class)
			}
		}
	}
	t.Logf("h2spec: %d of %d passed", passed, total)
	if passed != 145 || total != 145 {
		t.Errorf("%d of %d cases passed, want 145 of 145\n%s", passed, total, out)
	}
	if status := g.get("/status/ready"); status != 200 {
		t.Errorf("after it the node says %d", status)
	}
}
