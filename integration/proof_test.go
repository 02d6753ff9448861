package integration

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// outcome is what one case of the proof came to; of several rounds the worst.
type outcome struct {
	Case             string  `json:"case"`
	Requests         int64   `json:"requests"`
	Lost             int64   `json:"lost"`
	HandshakesFailed int64   `json:"handshakes_failed"`
	Stale            int64   `json:"stale"`
	Canaries         int64   `json:"canaries"`
	RecoveryS        float64 `json:"recovery_s"`
	Rounds           int     `json:"rounds"`
	Note             string  `json:"note"` // the case's own figures, of the last round
}

// merge keeps the worst of rounds, and all requests.
func (o *outcome) merge(n outcome) {
	o.Case, o.Note = n.Case, n.Note
	o.Requests += n.Requests
	o.Lost, o.HandshakesFailed = max(o.Lost, n.Lost), max(o.HandshakesFailed, n.HandshakesFailed)
	o.Stale, o.Canaries = max(o.Stale, n.Stale), max(o.Canaries, n.Canaries)
	o.RecoveryS = max(o.RecoveryS, n.RecoveryS)
	o.Rounds++
}

// figures are how much a case does.
type figures struct {
	rotations, names int           // of certificates
	within           time.Duration // all of them
	credentials      int           // rotations of an upstream credential
	outage           time.Duration
	kills            int
	certs, leases    int // at once
	many             int // rotations for flatness
	rounds           int
}

// scale reads from PROOF how much is done: full is what docs/reliability.md
// reports, anything else a short form of every case.
func scale() figures {
	if os.Getenv("PROOF") == "full" {
		return figures{rotations: 1000, names: 50, credentials: 100, outage: 5 * time.Minute, kills: 200, certs: 10000, leases: 1000, many: 50000, rounds: 3, within: 20 * time.Second}
	}
	return figures{rotations: 100, names: 50, within: 4 * time.Second, credentials: 6, outage: 10 * time.Second, kills: 20, certs: 1000, leases: 100, many: 2000, rounds: 1}
}

// TestProof breaks what the broker depends on, rotates what it keeps, and kills the
// node, each under load that verifies strictly. `make proof` runs it in full.
func TestProof(t *testing.T) {
	cases := []struct {
		name string
		run  func(t *testing.T, f figures) []outcome
	}{
		{"certificates", proveCertificates},
		{"credentials", proveCredentials},
		{"outages", proveOutages},
		{"lease_end", proveLeaseEnd},
		{"database", proveDatabase},
		{"kills", proveKills},
		{"acme", proveACME},
		{"restart", proveRestart},
		{"many", proveMany},
		{"flat", proveFlat},
	}
	f := scale()
	if v := os.Getenv("PROOF_ROUNDS"); v != "" {
		if _, err := fmt.Sscan(v, &f.rounds); err != nil {
			t.Fatalf("PROOF_ROUNDS: %v", err)
		}
	}
	worst := map[string]*outcome{}
	var order []string
	for range f.rounds {
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				at := time.Now()
				defer func() { t.Logf("%s took %s", c.name, time.Since(at).Round(time.Second)) }()
				for _, o := range c.run(t, f) {
					if worst[o.Case] == nil {
						worst[o.Case] = &outcome{}
						order = append(order, o.Case)
					}
					worst[o.Case].merge(o)
				}
			})
		}
	}
	var all []outcome
	for _, name := range order {
		all = append(all, *worst[name])
	}
	report(t, f.rounds, all)
}

// report prints the table and writes the file that PROOF_OUT names.
func report(t *testing.T, rounds int, all []outcome) {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "%-46s %9s %5s %7s %6s %8s %9s  %s\n", "case", "requests", "lost", "hs.fail", "stale", "canaries", "recovery", "note")
	for _, o := range all {
		fmt.Fprintf(&b, "%-46s %9d %5d %7d %6d %8d %8.2fs  %s\n", o.Case, o.Requests, o.Lost, o.HandshakesFailed, o.Stale, o.Canaries, o.RecoveryS, o.Note)
	}
	t.Logf("worst of %d rounds\n%s", rounds, b.String())
	out := os.Getenv("PROOF_OUT")
	if out == "" {
		return
	}
	text, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(out, append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// judge turns what clients met into an outcome, and fails the case for all that may
// not happen.
func judge(t *testing.T, name string, l *clients, canaries int64, recovery time.Duration, note string, args ...any) outcome {
	t.Helper()
	o := outcome{
		Case: name, Requests: l.requests.Load(), Lost: l.lost.Load(), HandshakesFailed: l.failed.Load(), Stale: l.old.Load(),
		Canaries: canaries, RecoveryS: recovery.Seconds(), Note: fmt.Sprintf(note, args...),
	}
	if o.Requests == 0 {
		t.Errorf("%s: the clients made no request", name)
	}
	if o.Lost+o.HandshakesFailed+o.Stale > 0 {
		t.Errorf("%s: of %d requests %d were lost, %d handshakes failed, %d certificates were stale; the first: %v", name, o.Requests, o.Lost, o.HandshakesFailed, o.Stale, l.first.Load())
	}
	if recovery > time.Minute {
		t.Errorf("%s: recovery took %s, at most 1m", name, recovery)
	}
	return o
}

// canaries are secrets that may stand nowhere.
type canaries []string

// add takes a value, or the body of a key in PEM, as a canary.
func (c *canaries) add(values ...string) {
	for _, v := range values {
		if strings.Contains(v, "PRIVATE KEY") {
			lines := strings.Split(strings.TrimSpace(v), "\n")
			v = lines[len(lines)/2] // a line of base64 that no other key has
		}
		*c = append(*c, v)
	}
}

// forms are the encodings that a secret could hide in.
func forms(secret string) []string {
	b := []byte(secret)
	percent, escaped := "", ""
	for _, x := range b {
		percent += fmt.Sprintf("%%%02X", x)
		escaped += fmt.Sprintf(`\u%04x`, x)
	}
	out := []string{secret, hex.EncodeToString(b), strings.ToUpper(hex.EncodeToString(b)), percent, escaped, url.QueryEscape(secret)}
	// In base64 a text looks different at each of three offsets; the ends depend on the neighbours.
	for offset := range 3 {
		padded := append(make([]byte, offset), b...)
		for _, enc := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
			text := enc.EncodeToString(padded[:len(padded)/3*3])
			out = append(out, text[(offset*8+5)/6:])
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// scan ends a node with SIGQUIT, for its stack dump, and looks for canaries in all
// that it said and left: log, metrics, status, what commands print, the data folder;
// and in what those before it said.
func (c canaries) scan(t *testing.T, g *gateway, before ...string) int64 {
	t.Helper()
	places := map[string]string{"the logs before": strings.Join(before, "")}
	for _, path := range []string{"/metrics", "/status", "/status/ready"} {
		_, places[path] = g.read(path)
	}
	for _, args := range [][]string{{"secrets", "list", "--json"}, {"secrets", "list"}, {"certs", "list", "--json"}, {"audit", "tail"}, {"audit", "query"}, {"status"}, {"credentials", "uses", "kept.test"}} {
		out, _ := g.run(args...)
		places["keyway "+strings.Join(args, " ")] = out
	}
	g.stop(syscall.SIGQUIT)
	places["the log and the stack dump"] = g.log.String()
	if !strings.Contains(places["the log and the stack dump"], "goroutine ") {
		t.Error("SIGQUIT made no stack dump to look at")
	}
	err := filepath.WalkDir(g.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		places[path] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var found int64
	for _, secret := range c {
		for _, form := range forms(secret) {
			for place, text := range places {
				if strings.Contains(text, form) {
					found++
					t.Errorf("%s has a secret (as %.6s...)", place, form)
				}
			}
		}
	}
	return found
}

// TestCanariesAreFound plants a secret in every encoding and finds it.
func TestCanariesAreFound(t *testing.T) {
	const secret = "canary-5e6f7a8b9c0d"
	for _, offset := range []string{"", "x", "xy"} {
		text := base64.StdEncoding.EncodeToString([]byte(offset + secret + "zz"))
		if !slices.ContainsFunc(forms(secret), func(f string) bool { return strings.Contains(text, f) }) {
			t.Errorf("%q is not found in %s", secret, text)
		}
	}
	if len(forms(secret)) < 8 {
		t.Errorf("forms %q", forms(secret))
	}
}
