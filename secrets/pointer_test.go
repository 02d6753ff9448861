package secrets_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyway-edge/keyway/secrets"
	"github.com/keyway-edge/keyway/secrets/secrettest"
)

// pointing is a source whose hints are about one resource.
type pointing struct {
	*secrettest.Source
	at *string
}

func (p pointing) Touched() func(string) bool {
	at := *p.at
	return func(resource string) bool { return resource == at }
}

func TestHintIsFollowedWhereItPoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at := "one"
		source := secrettest.New(t)
		b := start(t, config(pointing{source, &at}))
		source.Put("one", "1")
		source.Put("two", "1")
		b.Resolve(t.Context(), plan("{vault://fake/one}", "{vault://fake/two}"))
		before := source.Fetches("two")
		source.Put("one", "2")
		source.Put("two", "2")
		source.Hint()
		time.Sleep(time.Second)
		for ref, want := range map[string]string{"one": "2", "two": "1"} {
			r, err := secrets.ParseRef("{vault://fake/" + ref + "}")
			if err != nil {
				t.Fatal(err)
			}
			if is := string(b.Current().Get(r).Value.Reveal()); is != want {
				t.Errorf("%s is %s, want %s", ref, is, want)
			}
		}
		if n := source.Fetches("two") - before; n != 0 {
			t.Errorf("%d looks at what the hint was not about", n)
		}
	})
}

func TestReasonsAreWholeWhilePinnedAndNot(t *testing.T) {
	inBubble(t, func(t *testing.T, b bench) {
		const ref = "{vault://fake/key}"
		b.source.Put("key", "1")
		b.Resolve(t.Context(), plan(ref))
		b.source.Shape(func(l *secrets.Lease) { l.Remark = "the source says so" })
		b.source.Put("key", "2")
		b.source.Hint()
		time.Sleep(time.Second)
		if c := b.get(ref); c.Reason != "the source says so" {
			t.Errorf("reason %q", c.Reason)
		}
		if err := b.Pin(t.Context(), ref, 1); err != nil {
			t.Fatal(err)
		}
		b.source.Put("key", "")
		b.source.Hint()
		time.Sleep(time.Second)
		c := b.get(ref)
		if c.State != secrets.Refused || !strings.HasPrefix(c.Reason, "version 1 is pinned; the source has version 2; ") {
			t.Errorf("%s: reason %q", c.State, c.Reason)
		}
	})
}

func TestLeasedValuesCannotBePinned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := secrettest.NewLeasing(t, time.Hour)
		b := start(t, config(source))
		source.Put("creds", `{"user":"ann"}`)
		const ref = "{vault://fake/creds/user}"
		b.Resolve(t.Context(), plan(ref))
		if err := b.Pin(t.Context(), ref, 1); err == nil || !strings.Contains(err.Error(), "leases") {
			t.Errorf("error %v", err)
		}
		b.Want(secrets.Plan{}) // gives the lease back
		time.Sleep(10 * time.Minute)
	})
}
