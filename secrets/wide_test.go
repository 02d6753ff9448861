package secrets_test

import (
	"fmt"
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
