package secrets_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyway-edge/keyway/secrets"
	"github.com/keyway-edge/keyway/secrets/secrettest"
)

// wide is a source that takes more looks at a time.
type wide struct{ *secrettest.Source }

func (wide) Parallel() int { return 9 }

func TestAWideSourceHasMoreLooksAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := secrettest.New(t)
		s.Parallel = 9
		s.Delay(time.Second)
		b := start(t, config(wide{s}))
		var refs []string
		for i := range 20 {
			name := fmt.Sprint("key-", i)
			s.Put(name, "v")
			refs = append(refs, "{vault://fake/"+name+"}")
		}
		began := time.Now()
		b.Resolve(t.Context(), plan(refs...))
		if took, n := time.Since(began), s.MostInFlight(); took != 3*time.Second || n != 9 {
			t.Errorf("20 looks of a second took %v with %d at a time; expected 3 s with 9", took, n)
		}
		for _, ref := range refs {
			if c := b.Current().Get(plan(ref).Refs[0]); c.State != secrets.Active {
				t.Errorf("%s: %s", ref, c.State)
			}
		}
	})
}

// forewarned is a source that takes note of what is expected, and of what is asked for
// without having been.
type forewarned struct {
	*secrettest.Source
	mu       sync.Mutex // guards the group below
	expected [][]string
	sudden   []string
}

func (f *forewarned) Expect(resources []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expected = append(f.expected, slices.Sorted(slices.Values(resources)))
}

func (f *forewarned) Fetch(ctx context.Context, r secrets.Request) (secrets.Lease, error) {
	f.mu.Lock()
	if !slices.ContainsFunc(f.expected, func(list []string) bool { return slices.Contains(list, r.Resource) }) {
		f.sudden = append(f.sudden, r.Resource)
	}
	f.mu.Unlock()
	return f.Source.Fetch(ctx, r)
}

func TestASourceIsToldWhatWillBeLookedAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &forewarned{Source: secrettest.New(t)}
		for _, name := range []string{"a", "b", "c"} {
			f.Put(name, `{"x": "1", "y": "2"}`)
		}
		b := start(t, config(f))
		b.Resolve(t.Context(), plan("{vault://fake/a/x}", "{vault://fake/a/y}", "{vault://fake/b/x}"))
		b.Resolve(t.Context(), plan("{vault://fake/a/x}", "{vault://fake/b/x}", "{vault://fake/c/x}"))
		f.mu.Lock()
		defer f.mu.Unlock()
		if want := [][]string{{"a", "b"}, {"c"}}; !slices.EqualFunc(f.expected, want, slices.Equal) || len(f.sudden) > 0 {
			t.Errorf("expected were %v, and %v was asked for without; want %v", f.expected, f.sudden, want)
		}
	})
}
