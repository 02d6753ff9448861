package secrettest_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyway-edge/keyway/secrets"
	"github.com/keyway-edge/keyway/secrets/secrettest"
)

// judged is a test that takes note of its failures instead of failing.
type judged struct {
	testing.TB
	failures []string
	cleanups []func()
}

func (j *judged) Errorf(format string, _ ...any) { j.failures = append(j.failures, format) }
func (j *judged) Cleanup(f func())               { j.cleanups = append(j.cleanups, f) }

func (j *judged) end() {
	for i := len(j.cleanups) - 1; i >= 0; i-- {
		j.cleanups[i]()
	}
}

// TestTheFakePolicesItsUser breaks the contract on purpose.
func TestTheFakePolicesItsUser(t *testing.T) {
	tests := map[string]struct {
		breach func(ctx context.Context, s secrettest.Leasing)
		want   string
	}{
		"two fetches at one time": {func(ctx context.Context, s secrettest.Leasing) {
			s.Fail(context.Canceled) // makes no lease
			s.Delay(time.Second)
			go func() { _, _ = s.Fetch(ctx, secrets.Request{Resource: "a"}) }()
			_, _ = s.Fetch(ctx, secrets.Request{Resource: "a"})
		}, "two fetches"},
		"a crowd": {func(ctx context.Context, s secrettest.Leasing) {
			s.Fail(context.Canceled)
			s.Delay(time.Second)
			for _, name := range []string{"a", "b", "c", "d", "e"} {
				go func() { _, _ = s.Fetch(ctx, secrets.Request{Resource: name}) }()
			}
		}, "fetches in flight"},
		"a leaked lease": {func(ctx context.Context, s secrettest.Leasing) {
			_, _ = s.Fetch(ctx, secrets.Request{Resource: "a"})
		}, "was never revoked"},
		"renewed after revoked": {func(ctx context.Context, s secrettest.Leasing) {
			l, _ := s.Fetch(ctx, secrets.Request{Resource: "a"})
			_ = s.Revoke(ctx, l)
			_, _ = s.Renew(ctx, l)
		}, "renewing"},
		"revoked twice": {func(ctx context.Context, s secrettest.Leasing) {
			l, _ := s.Fetch(ctx, secrets.Request{Resource: "a"})
			_ = s.Revoke(ctx, l)
			_ = s.Revoke(ctx, l)
		}, "revoking"},
	}
	for name, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			j := &judged{TB: t}
			s := secrettest.NewLeasing(j, time.Hour)
			s.Put("a", "x")
			tt.breach(t.Context(), s)
			time.Sleep(2 * time.Second)
			j.end()
			if len(j.failures) != 1 || !strings.Contains(j.failures[0], tt.want) {
				t.Errorf("%s: %q; expected one failure about %q", name, j.failures, tt.want)
			}
		})
	}
}
