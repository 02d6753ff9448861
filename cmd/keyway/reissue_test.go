package main

import (
	"context"
	"log/slog"
	"sync/atomic"
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
		var away, revoked atomic.Bool
		var asked, needless, told atomic.Int64
		away.Store(true)
		wake := make(chan struct{}, 1)
		r := &reissuer{
			offered: func(yield func(secrets.Ref, string) bool) { _ = yield(good, "g") && yield(bad, "b") },
			revoked: func(fingerprint string) bool { return revoked.Load() && fingerprint == "b" },
			force: func(_ context.Context, ref secrets.Ref) error {
				if ref != bad {
					needless.Add(1)
				}
				asked.Add(1)
				if away.Load() {
					return secrets.ErrUnavailable
				}
				return nil
			},
			tell: func(context.Context) int { told.Add(1); return 0 },
			wake: wake, log: slog.New(slog.DiscardHandler),
		}
		ctx, end := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		time.Sleep(time.Hour)
		revoked.Store(true)
		wake <- struct{}{}
		time.Sleep(reissueAfter / 2)
		if asked.Load() != 0 {
			t.Error("asked before the issuer can have been told")
		}
		time.Sleep(reissueAfter)
		if asked.Load() != 1 {
			t.Errorf("asked %d times", asked.Load())
		}
		time.Sleep(5 * reissueAgain)
		away.Store(false)
		time.Sleep(2 * reissueAgain)
		n := asked.Load()
		if n < 5 || n > 8 {
			t.Errorf("asked %d times in seven minutes", n)
		}
		time.Sleep(time.Hour)
		wake <- struct{}{}
		time.Sleep(time.Hour)
		if asked.Load() != n || needless.Load() != 0 {
			t.Errorf("asked %d times, %d before; %d about a good pair", asked.Load(), n, needless.Load())
		}
		if told.Load() == 0 {
			t.Error("issuers were not told what they are owed")
		}
		end()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
