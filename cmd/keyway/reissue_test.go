package main

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyway-edge/keyway/secrets"
)

// TestRevokedPairsAreReissued has an issuer away when one of its pairs is revoked: it is
// asked for another one until it answers, and then no more.
func TestRevokedPairsAreReissued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good, bad := secrets.Ref{Vault: "issuer.a", Resource: "good"}, secrets.Ref{Vault: "issuer.a", Resource: "bad"}
		away, revoked, asked := true, false, map[secrets.Ref]int{}
		wake := make(chan struct{}, 1)
		r := &reissuer{
			offered: func(yield func(secrets.Ref, string) bool) { _ = yield(good, "g") && yield(bad, "b") },
			revoked: func(fingerprint string) bool { return revoked && fingerprint == "b" },
			force: func(_ context.Context, ref secrets.Ref) error {
				asked[ref]++
				if away {
					return secrets.ErrUnavailable
				}
				return nil
			},
			wake: wake, log: slog.New(slog.DiscardHandler),
		}
		ctx, end := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		time.Sleep(time.Hour)
		revoked = true
		wake <- struct{}{}
		time.Sleep(reissueAfter / 2)
		if len(asked) != 0 {
			t.Error("asked before the issuer can have been told")
		}
		time.Sleep(reissueAfter)
		if asked[bad] != 1 {
			t.Errorf("asked %v", asked)
		}
		time.Sleep(5 * reissueAgain)
		away = false
		time.Sleep(2 * reissueAgain)
		n := asked[bad]
		if n < 5 || n > 8 {
			t.Errorf("asked %d times in seven minutes", n)
		}
		time.Sleep(time.Hour)
		wake <- struct{}{}
		time.Sleep(time.Hour)
		if asked[bad] != n || asked[good] != 0 {
			t.Errorf("asked %v, and %d before", asked, n)
		}
		end()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
