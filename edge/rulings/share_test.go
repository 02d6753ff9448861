package rulings

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/certs/certtest"
)

func TestReplicasShareRevocationsAndNothingElse(t *testing.T) {
	dirs := []string{t.TempDir(), t.TempDir()}
	synctest.Test(t, func(t *testing.T) {
		state := certtest.NewState()
		ctx, end := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var nodes []*Store
		hints := make([]int, len(dirs))
		for i, dir := range dirs {
			s := open(t, dir, time.Now())
			nodes = append(nodes, s)
			wg.Go(func() {
				if err := s.Run(ctx, state, func() { hints[i]++ }, slog.New(slog.DiscardHandler)); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		one, two := nodes[0], nodes[1]
		if err := one.Hold("1", Entry{Fingerprint: "held", Reason: "slow", At: time.Now()}); err != nil {
			t.Fatal(err)
		}
		if err := two.Hold("1", Entry{Fingerprint: "aa", Reason: "slow", At: time.Now()}); err != nil {
			t.Fatal(err)
		}
		if err := one.Revoke(Entry{Fingerprint: "aa", Reason: "stolen", Stop: true, At: time.Now(), NotAfter: time.Now().Add(time.Hour - grace)}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(sharePoll)
		synctest.Wait()
		if hints[0] != 0 || hints[1] != 1 {
			t.Errorf("hints %v; expected one, at the other node", hints)
		}
		if got := told(two, "aa", "held"); got != "revoked -" {
			t.Errorf("the other node is told %s", got)
		}
		if r, _ := two.View()("aa"); !r.Stop || r.Reason != "stolen" {
			t.Errorf("ruling %+v", r)
		}
		if got := told(open(t, dirs[1], time.Now()), "aa"); got != "revoked" {
			t.Errorf("after a restart without the state: %s", got)
		}

		// With the state away each decides alone, and both learn it when it is back.
		state.Fail(errors.New("away"))
		for i, s := range nodes {
			if err := s.Revoke(Entry{Fingerprint: fmt.Sprint("alone", i), At: time.Now()}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(10 * time.Minute)
		if err := one.Sync(ctx, state); err == nil {
			t.Error("no error while the state is away")
		}
		if got := told(two, "alone0", "alone1"); got != "- revoked" {
			t.Errorf("with the state away: %s", got)
		}
		state.Fail(nil)
		time.Sleep(shareSlow + 2*sharePoll)
		for i, s := range nodes {
			if got := told(s, "alone0", "alone1", "aa"); got != "revoked revoked revoked" {
				t.Errorf("node %d after its return: %s", i, got)
			}
		}
		// What ended long ago is forgotten by all.
		time.Sleep(time.Hour)
		text, _, err := state.Load(ctx, sharedKey)
		if err != nil {
			t.Fatal(err)
		}
		if f, err := decode(text); err != nil || len(f.Rulings) != 2 {
			t.Errorf("after the end of one the state has %+v, %v", f, err)
		}
		end()
		wg.Wait()
	})
}

func TestSharedRulingsThatCannotBeReadAreAnError(t *testing.T) {
	for _, text := range []string{"{", `{"format":2}`, `{"format":1,"rulings":[{"fingerprint":"aa","ruling":"rolled_back"}]}`, `{"format":1,"rulings":[{"ruling":"revoked"}]}`} {
		state, s := certtest.NewState(), open(t, t.TempDir(), time.Now())
		if _, err := state.Swap(t.Context(), sharedKey, "", []byte(text)); err != nil {
			t.Fatal(err)
		}
		if err := s.Revoke(Entry{Fingerprint: "bb"}); err != nil {
			t.Fatal(err)
		}
		if err := s.Sync(t.Context(), state); err == nil {
			t.Errorf("%s: no error", text)
		}
		if got := told(s, "aa", "bb"); got != "- revoked" {
			t.Errorf("%s: told %s", text, got)
		}
		if now, _, _ := state.Load(t.Context(), sharedKey); string(now) != text {
			t.Errorf("%s was overwritten", text)
		}
	}
}

func TestManyNodesRevokeAtOnce(t *testing.T) {
	state := certtest.NewState()
	var wg sync.WaitGroup
	var nodes []*Store
	for i := range 4 {
		s := open(t, t.TempDir(), time.Now())
		nodes = append(nodes, s)
		wg.Go(func() {
			for j := range 5 {
				err := s.Revoke(Entry{Fingerprint: fmt.Sprint(i, ".", j)})
				for tries := 0; err == nil && tries < 100; tries++ {
					if err = s.Sync(t.Context(), state); !errors.Is(err, certs.ErrConflict) {
						break
					}
					err = nil
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, s := range nodes {
		if err := s.Sync(t.Context(), state); err != nil {
			t.Error(err)
		}
		if n := len(s.List()); n != 20 {
			t.Errorf("%d revocations, want 20", n)
		}
	}
}
