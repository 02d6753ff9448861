package kube

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/secrets"
)

// ups are the scopes of the watches that came up at the server.
func (s *server) ups() (list []string) {
	s.with(func() { list = slices.Clone(s.told) })
	slices.Sort(list)
	return slices.Compact(list)
}

// TestOneWatchTellsOfAllSecrets has many Secrets of three namespaces in use, and more that
// are not.
func TestOneWatchTellsOfAllSecrets(t *testing.T) {
	for name, tt := range map[string]struct {
		namespaces []any
		watches    []string
	}{
		"all namespaces":   {[]any{"*"}, []string{"/"}},
		"three namespaces": {[]any{"one", "two"}, []string{"one/", "own/", "two/"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := fake(t)
			src := s.open(t, map[string]any{"namespaces": tt.namespaces})
			run(t, src)
			var used []string
			for _, namespace := range []string{"own", "one", "two"} {
				for i := range 10 {
					used = append(used, fmt.Sprintf("%s/s%d", namespace, i))
					s.put(used[len(used)-1], map[string]string{"k": "v"})
					s.put(fmt.Sprintf("%s/unused%d", namespace, i), map[string]string{"k": "v"})
				}
			}
			for _, name := range used {
				if got, err := field(t, src, name, "k"); got != "v" {
					t.Fatalf("%s: %v", name, err)
				}
			}
			for _, name := range used {
				live(t, src, named(name))
			}
			for i, name := range used {
				s.put(name, map[string]string{"k": fmt.Sprint(i)})
				s.put("own/unused0", map[string]string{"k": fmt.Sprint(i)})
				becomes(t, src, name, "k", fmt.Sprint(i))
			}
			s.remove("one/s3")
			becomes(t, src, "one/s3", "k", "")
			if got := s.ups(); !slices.Equal(got, tt.watches) {
				t.Errorf("watches of %v came up; expected %v", got, tt.watches)
			}
			src.mu.Lock()
			known := len(src.known)
			src.mu.Unlock()
			if known != len(used) {
				t.Errorf("%d Secrets are kept; expected the %d that are used", known, len(used))
			}
			s.with(func() {
				if s.values > 0 {
					t.Errorf("%d lists and watches asked for what Secrets hold", s.values)
				}
			})
		})
	}
}

// TestNarrowerWatchesStandIn refuses the wide watch, then that of the namespace, and allows
// all again.
func TestNarrowerWatchesStandIn(t *testing.T) {
	for wide, watches := range [][]string{{"/"}, {"one/", "own/"}, {"one/a", "own/a", "own/b"}} {
		s := fake(t)
		s.wide = wide
		src := s.open(t, map[string]any{"namespaces": []any{"*"}})
		run(t, src)
		for _, name := range []string{"own/a", "own/b", "one/a"} {
			s.put(name, map[string]string{"k": "v"})
			_, _ = field(t, src, name, "k")
			live(t, src, named(name))
		}
		s.put("own/b", map[string]string{"k": "w"})
		becomes(t, src, "own/b", "k", "w")
		if got := s.ups(); !slices.Equal(got, watches) {
			t.Errorf("rights %d: watches of %v came up; expected %v", wide, got, watches)
		}
		s.with(func() { s.wide = 0 })
		only := func() bool {
			src.mu.Lock()
			defer src.mu.Unlock()
			return len(src.watches) == 1 && src.watches[key{}] != nil && src.watches[key{}].live
		}
		for range 2000 {
			if only() {
				break
			}
			time.Sleep(10 * time.Millisecond) // the network is real here
		}
		if !only() {
			t.Errorf("rights %d: the wide watch did not take over when it was allowed", wide)
		}
		s.put("one/a", map[string]string{"k": "x"})
		becomes(t, src, "one/a", "k", "x")
	}
}

// TestARightThatIsRefusedOnceIsNotGone has a server refuse a watch that was up, as one does
// that starts.
func TestARightThatIsRefusedOnceIsNotGone(t *testing.T) {
	s := fake(t)
	src := s.open(t, nil)
	s.put("a", map[string]string{"k": "v"})
	run(t, src)
	_, _ = field(t, src, "a", "k")
	live(t, src, named("a"))
	s.with(func() { s.wide = 2 })
	s.cutWatches()
	refused := s.count("watch")
	for range 1000 {
		if s.count("watch") > refused {
			break
		}
		time.Sleep(10 * time.Millisecond) // the network is real here
	}
	s.with(func() { s.wide = 0 })
	live(t, src, named("a"))
	if got := s.ups(); !slices.Equal(got, []string{"own/"}) {
		t.Errorf("watches of %v came up; expected that of the namespace alone", got)
	}
}

// TestWhatWasToldWhileReadingIsReadAgain orders what a watch tells and what is read by each
// other.
func TestWhatWasToldWhileReadingIsReadAgain(t *testing.T) {
	lease := func(version string) secrets.Lease {
		return secrets.Lease{Value: secrets.NewValue([]byte(`{}`)), Version: version}
	}
	k := key{"own", "a"}
	for name, tt := range map[string]struct {
		told   string
		listed bool
		read   secrets.Lease
		fresh  bool
	}{
		"nothing newer": {"7", false, lease("8"), true},
		"the same":      {"8", false, lease("8"), true},
		"newer":         {"9", false, lease("8"), false},
		"gone":          {"", false, lease("8"), false},
		"both gone":     {"", false, secrets.Lease{}, true},
		"made anew":     {"9", false, secrets.Lease{}, false},
		"an older list": {"3", true, lease("3"), true}, // of a server that was restored
	} {
		s := fake(t)
		src := s.open(t, nil)
		_, changes, _ := src.remembered(k)
		src.take(k, changes, lease("6"))
		src.Touched()
		_, changes, _ = src.remembered(k)
		src.tell(k, tt.told, tt.listed)
		src.take(k, changes, tt.read)
		f := src.known[k]
		if f.fresh != tt.fresh || !src.Touched()("a") {
			t.Errorf("%s: fresh %v; expected %v, and a hint", name, f.fresh, tt.fresh)
		}
		if src.tell(k, "5", false); tt.fresh && tt.read.Version != "3" && !tt.read.Value.IsZero() && !f.fresh {
			t.Errorf("%s: what a watch tells late makes it read again", name)
		}
	}
}

// TestAListOfManyPartsTellsWhatChanged has a watch begin anew after one of many Secrets
// changed: the others are not read again.
func TestAListOfManyPartsTellsWhatChanged(t *testing.T) {
	s := fake(t)
	src := s.open(t, nil)
	run(t, src)
	const count = 9
	for i := range count {
		name := fmt.Sprint("s", i)
		s.put(name, map[string]string{"k": "v"})
		_, _ = field(t, src, name, "k")
		live(t, src, named(name))
	}
	s.with(func() { // the past is forgotten, as by etcd's compaction
		s.at++
		s.oldest = s.at
		s.past = nil
	})
	s.put("s8", map[string]string{"k": "w"})
	s.with(func() { s.oldest, s.past = s.at, nil })
	s.cutWatches()
	becomes(t, src, "s8", "k", "w")
	live(t, src, named("s0"))
	read := s.count("get")
	for range 5 {
		for i := range count {
			if _, err := field(t, src, fmt.Sprint("s", i), "k"); err != nil {
				t.Error(err)
			}
		}
	}
	if n := s.count("get") - read; n > 0 {
		t.Errorf("%d reads too many of Secrets that did not change", n)
	}
}
