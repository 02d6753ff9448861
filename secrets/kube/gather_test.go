package kube

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/keyway-edge/keyway/secrets"
)

// TestManySecretsAreReadTogether expects many Secrets, one of which does not exist, among
// others that nobody wants.
func TestManySecretsAreReadTogether(t *testing.T) {
	const count = 3 * many
	for name, tt := range map[string]struct{ wide, most int }{
		"all may be read":      {0, 5},             // the one that is not there, and what is late
		"none may be listed":   {3, 2*count + 100}, // one by one
		"only single ones may": {2, 2*count + 100},
	} {
		t.Run(name, func(t *testing.T) {
			s := fake(t)
			s.wide = tt.wide
			src := s.open(t, nil)
			var names []string
			for i := range count {
				names = append(names, fmt.Sprint("s", i))
				s.put(names[i], map[string]string{"k": fmt.Sprint(i)})
				s.put(fmt.Sprint("unused", i), map[string]string{"k": "v"})
			}
			src.Expect(append(names, "absent", "foreign/s1"))
			run(t, src)
			var all sync.WaitGroup
			for worker := range src.Parallel() {
				all.Go(func() {
					for i := worker; i < count; i += src.Parallel() {
						if got, err := field(t, src, names[i], "k"); err != nil || got != fmt.Sprint(i) {
							t.Errorf("%s: %v", names[i], err)
						}
					}
				})
			}
			all.Wait()
			if _, err := src.Fetch(t.Context(), secrets.Request{Resource: "absent"}); !errors.Is(err, secrets.ErrNotFound) {
				t.Errorf("what is not there: %v", err)
			}
			if n := s.count("get"); n > tt.most {
				t.Errorf("%d reads of single Secrets; expected at most %d", n, tt.most)
			}
			src.mu.Lock()
			known := len(src.known)
			src.mu.Unlock()
			if known != count+1 {
				t.Errorf("%d Secrets are kept; expected %d", known, count+1)
			}
			s.with(func() {
				if s.values > 0 {
					t.Errorf("%d lists and watches did not ask for what they should", s.values)
				}
			})
			if tt.wide == 0 {
				s.put("s7", map[string]string{"k": "changed"})
				becomes(t, src, "s7", "k", "changed")
			}
		})
	}
}

// TestAFewSecretsAreReadOneByOne: what is not wanted does not get into memory for them.
func TestAFewSecretsAreReadOneByOne(t *testing.T) {
	s := fake(t)
	src := s.open(t, nil)
	s.put("a", map[string]string{"k": "v"})
	src.Expect([]string{"a"})
	run(t, src)
	if got, err := field(t, src, "a", "k"); got != "v" {
		t.Error(err)
	}
	live(t, src, named("a"))
	if n := s.count("whole"); n > 0 {
		t.Errorf("%d lists of what Secrets hold; expected none", n)
	}
}
