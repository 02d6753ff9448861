package secrets_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/secrets"
	"github.com/keyway-edge/keyway/secrets/secrettest"
)

// paired answers another pair at each read.
type paired struct {
	secrettest.Leasing
	reads *int
}

func (s paired) Fetch(ctx context.Context, r secrets.Request) (secrets.Lease, error) {
	l, err := s.Leasing.Fetch(ctx, r)
	*s.reads++
	l.Value = secrets.NewValue(fmt.Appendf(nil, `{"cert":"cert %d","key":"key %d"}`, *s.reads, *s.reads))
	return l, err
}

func TestWhatIsFetchedTogetherIsOfOneVersion(t *testing.T) {
	reads := 0
	s := paired{secrettest.NewLeasing(t, time.Hour), &reads}
	s.Put("pair", "x")
	refs := plan("{vault://fake/pair/cert}", "{vault://fake/pair/key}").Refs
	got, err := secrets.FetchTogether(t.Context(), open(s), secrets.Vault{Name: "fake", Kind: "fake"}, refs...)
	if err != nil || len(got) != 2 || string(got[0].Reveal()) != "cert 1" || string(got[1].Reveal()) != "key 1" {
		t.Errorf("%d values of %d reads, %v; expected both of one", len(got), reads, err)
	}
	if held := s.Held(); len(held) > 0 {
		t.Errorf("leases %v were not given back", held)
	}
	one, err := secrets.FetchOnce(t.Context(), open(s), secrets.Vault{Name: "fake", Kind: "fake"}, refs[1])
	if err != nil || string(one.Reveal()) != "key 2" {
		t.Errorf("%v", err)
	}
}
