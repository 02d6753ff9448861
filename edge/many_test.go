package edge

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/secrets"
)

// manyCertificates is a document with n certificates and a set with a pair for each, where
// every tenth pair has the key of another.
func manyCertificates(t *testing.T, n int) (document string, set *secrets.Set) {
	t.Helper()
	ca := newAuthority(t)
	_, foreign := ca.leaf("foreign.test")
	var doc strings.Builder
	doc.WriteString("certificates:\n")
	var list []*secrets.Credential
	for i := range n {
		name := fmt.Sprintf("n%03d.test", i)
		fmt.Fprintf(&doc, "- {cert: \"{vault://env/c%d}\", key: \"{vault://env/k%d}\", snis: [%s]}\n", i, i, name)
		cert, key := ca.leaf(name)
		if i%10 == 7 {
			key = foreign
		}
		list = append(list, credential(t, fmt.Sprintf("{vault://env/c%d}", i), cert, 1), credential(t, fmt.Sprintf("{vault://env/k%d}", i), key, 1))
	}
	return doc.String(), secrets.NewSet(1, list...)
}

func TestBuildOfManyCertificatesKeepsTheirOrder(t *testing.T) {
	const n = 5 * fewSlots
	text, set := manyCertificates(t, n)
	b := newBuilder(t, &Config{})
	doc := load(t, text)
	s, report := construct(b, nil, doc, set)
	var want, refused []string
	for i := range n {
		name := fmt.Sprintf("n%03d.test", i)
		want = append(want, name)
		m := s.Certs.Find(name)
		if bad := i%10 == 7; bad {
			refused = append(refused, name)
		} else if m.Slot == nil || m.Slot.Active[0].DNSNames[0] != name {
			t.Errorf("%s has another's certificate, or none", name)
		}
	}
	var noted, problems []string
	for _, r := range report.Rotations {
		if r.Kind == "certificate" {
			noted = append(noted, r.Name)
		}
	}
	for _, p := range s.Problems {
		problems = append(problems, p.Name)
	}
	if !slices.Equal(noted, want) {
		t.Errorf("rotations are told in the order %q", noted)
	}
	if !slices.Equal(problems, refused) {
		t.Errorf("problems of %q, want %q", problems, refused)
	}
}

func TestBuildPanicsInItsCallersGoroutine(t *testing.T) {
	text, set := manyCertificates(t, 2*fewSlots)
	b := newBuilder(t, &Config{})
	defer func() {
		if p := recover(); p != "canary" {
			t.Errorf("panicked with %v", p)
		}
	}()
	b.Build(nil, Inputs{Document: load(t, text), Set: set, Now: time.Now(), Rulings: func(string) (certs.Ruling, bool) { panic("canary") }})
}
