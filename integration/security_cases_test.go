package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// securityPage says which test shows which case of securityCases.
const securityPage = "docs/security-cases.md"

// securityCases are the cases of TLS (T), certificates (C), secrets (S), HTTP/3 (Q), overload
// (O), Kubernetes (K), faults of its API server (F) and what is shipped (X) that the product is held to.
const securityCases = `
T-01 T-02 T-04 T-06 T-07 T-08 T-10 T-12 T-15 T-16 T-17 T-18 T-19 T-20 T-21 T-22
C-01 C-02 C-03 C-04 C-06 C-08 C-10 C-12 C-13 C-16
S-01 S-02 S-03 S-04 S-07 S-08 S-12 S-16 S-17 S-18 S-19 S-20 S-21 S-22
Q-04 Q-05 Q-06 Q-07 Q-08 Q-10
O-01 O-02 O-03 O-04 O-08 O-09 O-10 O-14 O-16
K-01 K-03 K-08 K-09 X-05 F-08 F-09`

// securityRow is one line of a table of the page.
type securityRow struct {
	tests []string // file:TestName
	note  string
}

// securityRows reads the tables of the page.
func securityRows(t *testing.T, text string) map[string]securityRow {
	t.Helper()
	rows := map[string]securityRow{}
	for line := range strings.Lines(text) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		id := strings.TrimSpace(cells[0])
		if !regexp.MustCompile(`^[A-Z]-\d\d$`).MatchString(id) {
			continue
		}
		if len(cells) != 4 {
			t.Errorf("%s: %s has %d cells, want id, case, tests and note", securityPage, id, len(cells))
			continue
		}
		if _, twice := rows[id]; twice {
			t.Errorf("%s: %s has two rows", securityPage, id)
		}
		row := securityRow{note: strings.TrimSpace(cells[3])}
		for _, m := range regexp.MustCompile("`([^`]*)`").FindAllStringSubmatch(cells[2], -1) {
			row.tests = append(row.tests, m[1])
		}
		rows[id] = row
	}
	return rows
}

// TestSecurityCasesPage holds the page of security cases to the code: every case has
// a row, every test that a row names is there, and a row without one says why.
func TestSecurityCasesPage(t *testing.T) {
	rows := securityRows(t, page(t, securityPage))
	ids := strings.Fields(securityCases)
	for _, id := range ids {
		row, ok := rows[id]
		switch {
		case !ok:
			t.Errorf("%s: no row for %s", securityPage, id)
		case len(row.tests) == 0 && !regexp.MustCompile(`^later: .{10}`).MatchString(row.note):
			t.Errorf("%s: %s names no test; name one, or say \"later: \" and why", securityPage, id)
		}
		for _, name := range row.tests {
			file, function, _ := strings.Cut(name, ":")
			text, err := os.ReadFile(filepath.Join(root(t), file))
			if err != nil || !strings.HasSuffix(file, "_test.go") {
				t.Errorf("%s: %s names %s: no such file of tests: %v", securityPage, id, name, err)
			} else if !strings.Contains(string(text), "\nfunc "+function+"(t *testing.T)") {
				t.Errorf("%s: %s names %s: there is no such test", securityPage, id, name)
			}
		}
	}
	for id := range rows {
		if !slices.Contains(ids, id) {
			t.Errorf("%s: %s is no case that the list has", securityPage, id)
		}
	}
}
