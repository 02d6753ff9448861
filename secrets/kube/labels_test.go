package kube

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/secrets"
)

// TestSecretsAreTakenByTheirLabels: one without them is as if it were not there, and what
// a change of labels makes of it is told.
func TestSecretsAreTakenByTheirLabels(t *testing.T) {
	s := fake(t)
	src := s.open(t, map[string]any{"label_selector": "team in (a, b)", "namespaces": []any{"*"}})
	run(t, src)
	team := func(name, value string) {
		s.with(func() { s.labels[named(name)] = map[string]string{"team": value} })
		s.put(name, map[string]string{"k": "of " + value})
	}
	team("one/x", "a")
	team("y", "c")
	if got, err := field(t, src, "one/x", "k"); got != "of a" {
		t.Fatalf("%q, %v", got, err)
	}
	_, err := field(t, src, "y", "k")
	if !errors.Is(err, secrets.ErrNotFound) || !strings.Contains(err.Error(), `"team in (a, b)"`) || !strings.Contains(err.Error(), "kube_secret_selector") {
		t.Fatalf("without the labels: %v", err)
	}
	live(t, src, named("y"))
	team("y", "b")
	becomes(t, src, "y", "k", "of b")
	team("one/x", "c")
	becomes(t, src, "one/x", "k", "")
	team("one/x", "b")
	becomes(t, src, "one/x", "k", "of b")
	s.with(func() {
		if s.counts["get"] > 0 || !maps.Equal(s.query, map[string]bool{"team in (a, b)": true}) {
			t.Errorf("%d gets; asked with %v", s.counts["get"], slices.Collect(maps.Keys(s.query)))
		}
	})
}

func TestASelectorThatIsWrong(t *testing.T) {
	_, err := Open(map[string]any{"server": "https://a.test", "label_selector": "team in (a"})
	if err == nil || !strings.Contains(err.Error(), `config.label_selector: "team in (a": `) || !strings.Contains(err.Error(), "; expected a selector of labels such as ") {
		t.Errorf("%v", err)
	}
}
