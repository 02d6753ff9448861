package integration

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// TestCertificatesWithoutAVersionAreListed has a pair whose source never had a value
// beside a good one: it is listed with the reason, counted, and commands name it.
func TestCertificatesWithoutAVersionAreListed(t *testing.T) {
	cert, key := pair(t, "shop.test", "shop.test")
	dir := filepath.Join(t.TempDir(), "data")
	g := start(t, options{dir: dir, document: fmt.Sprintf(`
_format_version: "3.0"
certificates:
- {cert: %q, key: %q, snis: [shop.test]}
- {cert: "{vault://sealed/nothing-there}", key: "{vault://sealed/nothing-there}", snis: [none.test, also.none.test]}
`, cert, key)})
	list := g.said("certs", "list")
	for line := range strings.Lines(list) {
		if strings.HasPrefix(line, "also.none.test") && (!strings.Contains(line, "missing") || !strings.Contains(line, "sealed") || !strings.Contains(line, "nothing-there")) {
			t.Errorf("it is listed without its state, source or reason: %s", line)
		}
	}
	if !strings.Contains(list, "also.none.test") || !strings.Contains(list, "shop.test") {
		t.Errorf("certs list:\n%s", list)
	}
	if out := g.said("certs", "show", "none.test"); !strings.Contains(out, "missing") || !strings.Contains(out, "nothing-there") {
		t.Errorf("certs show:\n%s", out)
	}
	if out := g.said("status"); !strings.Contains(out, "also.none.test") {
		t.Errorf("status:\n%s", out)
	}
	if out, err := g.run("certs", "revoke", "none.test"); err == nil || !strings.Contains(out, "never had a version") {
		t.Errorf("certs revoke: %v\n%s", err, out)
	}
	if _, text := g.read("/metrics"); !strings.Contains(text, "keyway_certificates{state=\"missing\"} 1\n") {
		t.Error("it is not counted as missing")
	}
}
