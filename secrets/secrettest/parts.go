package secrettest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/secrets"
)

// canary is the value that must turn up nowhere. It is JSON so that sources whose
// values have fields take it.
const canary = `{"word":"canary-4711"}`

var errAny = errors.New("any error") // a test's wish, compared by identity

func answersWhatWasPut(t *testing.T, s Subject) {
	s.Put(t, "one", "first")
	s.Put(t, "two", `{"a":"b"}`)
	fetchIs(t, s, secrets.Request{Resource: "one"}, "first")
	fetchIs(t, s, secrets.Request{Resource: "one", Version: 1}, "first")
	fetchIs(t, s, secrets.Request{Resource: "two"}, `{"a":"b"}`)
	s.Put(t, "one", "second, and longer")
	// Force goes past whatever the source remembers.
	fetchIs(t, s, secrets.Request{Resource: "one", Force: true}, "second, and longer")
	fetchIs(t, s, secrets.Request{Resource: "one"}, "second, and longer")
	if s.Previous {
		fetchIs(t, s, secrets.Request{Resource: "one", Version: 2}, "first")
	}
}

func saysWhatIsNotThere(t *testing.T, s Subject) {
	s.Put(t, "one", canary)
	s.Remove(t, "one")
	for _, r := range []secrets.Request{{Resource: "one"}, {Resource: "one", Force: true}, {Resource: "never"}, {Resource: "one", Version: 99}} {
		failsAs(t, s, r, secrets.ErrNotFound)
	}
	if s.Purposeful {
		failsAs(t, s, secrets.Request{Resource: "one"}, secrets.ErrRemoved)
	}
	failsAs(t, s, secrets.Request{Resource: "../one"}, errAny)
	s.Put(t, "one", "again")
	fetchIs(t, s, secrets.Request{Resource: "one", Force: true}, "again")
}

func saysWhatMayNotBeRead(t *testing.T, s Subject) {
	if s.Deny == nil {
		return
	}
	s.Put(t, "one", canary)
	s.Put(t, "two", "good")
	s.Deny(t, "one")
	failsAs(t, s, secrets.Request{Resource: "one"}, secrets.ErrDenied)
	fetchIs(t, s, secrets.Request{Resource: "two"}, "good")
}

func errorsTellNoValue(t *testing.T, s Subject) {
	s.Put(t, "one", canary)
	fetchIs(t, s, secrets.Request{Resource: "one"}, canary) // what it remembers must not leak either
	for _, r := range []secrets.Request{{Resource: "one", Version: 7}, {Resource: "one", Options: map[string]string{"no-such-option": "1"}}} {
		failsAs(t, s, r, errAny)
	}
}

// valuesNeverPrint looks for a value, or a part of it that is long enough to
// know it by, in what prints of a lease and of the source that answered it.
func valuesNeverPrint(t *testing.T, s Subject) {
	s.Put(t, "one", canary)
	lease, err := s.Source.Fetch(t.Context(), secrets.Request{Resource: "one"})
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := json.Marshal(lease)
	if err != nil {
		t.Errorf("a lease cannot be encoded: %v", err)
	}
	shown := fmt.Sprintf("%v %+v %#v %s %v %+v", lease, lease, lease, encoded, s.Source, s.Source)
	for _, part := range secretParts(lease.Value) {
		if strings.Contains(shown, part) {
			t.Error("a value prints: wrap it in secrets.Value")
		}
	}
}

// secretParts are the whole value and the fields of it that are not names.
func secretParts(v secrets.Value) []string {
	parts := []string{string(v.Reveal())}
	var object map[string]any
	if json.Unmarshal(v.Reveal(), &object) != nil {
		return parts
	}
	for _, field := range object {
		if text, ok := field.(string); ok && len(text) > 8 {
			parts = append(parts, text)
		}
	}
	return parts
}

func isSafeForConcurrentUse(t *testing.T, s Subject) {
	s.Put(t, "one", "same")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 20 {
				fetchIs(t, s, secrets.Request{Resource: "one", Force: i == 0}, "same")
				if t.Failed() {
					return
				}
			}
		})
	}
	wg.Wait()
}

// keepsToItsContext fetches with a context that is over: whatever is answered must
// come at once, and an error must not say that the secret is gone.
func keepsToItsContext(t *testing.T, s Subject) {
	s.Put(t, "one", canary)
	for name, end := range map[string]func() (context.Context, context.CancelFunc){
		"cancelled": func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			return ctx, cancel
		},
		"late": func() (context.Context, context.CancelFunc) {
			return context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
		},
	} {
		ctx, cancel := end()
		began := time.Now()
		_, err := s.Source.Fetch(ctx, secrets.Request{Resource: "one", Force: true})
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("%s context: the fetch took %v", name, took)
		}
		if errors.Is(err, secrets.ErrNotFound) || errors.Is(err, secrets.ErrDenied) {
			t.Errorf("%s context: %v; expected the context's own error", name, err)
		}
		if err != nil && !errors.Is(err, ctx.Err()) && !errors.Is(err, secrets.ErrUnavailable) {
			t.Errorf("%s context: %v; expected an error that wraps %v", name, err, ctx.Err())
		}
		cancel()
	}
	fetchIs(t, s, secrets.Request{Resource: "one"}, canary) // nothing of it stays behind
}

func outageIsNoAbsence(t *testing.T, s Subject) {
	if s.Break == nil {
		return
	}
	s.Put(t, "one", canary)
	fetchIs(t, s, secrets.Request{Resource: "one"}, canary)
	mend := s.Break(t)
	for _, name := range []string{"one", "never"} {
		failsAs(t, s, secrets.Request{Resource: name, Force: true}, secrets.ErrUnavailable)
	}
	mend()
	fetchIs(t, s, secrets.Request{Resource: "one", Force: true}, canary)
}

func hangingIsLeftInTime(t *testing.T, s Subject) {
	if s.Hang == nil {
		return
	}
	s.Put(t, "one", canary)
	fetchIs(t, s, secrets.Request{Resource: "one"}, canary)
	mend := s.Hang(t)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := s.Source.Fetch(ctx, secrets.Request{Resource: "one", Force: true})
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("a fetch with half a second to spend took %v", took)
	}
	if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, secrets.ErrUnavailable) {
		t.Errorf("a source that hangs: %v; expected the context's own error or secrets.ErrUnavailable", err)
	}
	mend()
	fetchIs(t, s, secrets.Request{Resource: "one", Force: true}, canary)
}

// leasesAreRenewedAndGivenBack holds for sources that answer a handle.
func leasesAreRenewedAndGivenBack(t *testing.T, s Subject) {
	s.Put(t, "one", canary)
	lease, err := s.Source.Fetch(t.Context(), secrets.Request{Resource: "one"})
	if err != nil {
		t.Fatal(err)
	}
	if lease.ID == "" {
		return
	}
	if renewer, ok := s.Source.(secrets.Renewer); ok && lease.Renewable {
		renewed, err := renewer.Renew(t.Context(), lease)
		if err != nil || renewed.ID != lease.ID || !renewed.Value.IsZero() && string(renewed.Value.Reveal()) != string(lease.Value.Reveal()) {
			t.Errorf("renewing: %v; expected the same lease with the same value", err)
		}
		if renewed.TTL <= 0 {
			t.Errorf("a renewed lease has ttl %v", renewed.TTL)
		}
	} else if lease.Renewable {
		t.Error("a lease that can be renewed, of a source that renews nothing")
	}
	if revoker, ok := s.Source.(secrets.Revoker); ok {
		if err := revoker.Revoke(t.Context(), lease); err != nil {
			t.Errorf("giving a lease back: %v", err)
		}
	}
}

// failsAs checks that a fetch fails as one kind of error alone, tells no value, and
// answers none beside it.
func failsAs(t *testing.T, s Subject, r secrets.Request, kind error) {
	t.Helper()
	lease, err := s.Source.Fetch(t.Context(), r)
	switch {
	case err == nil:
		t.Errorf("fetching %+v: no error; expected %v", r, kind)
		return
	case !errors.Is(kind, errAny) && !errors.Is(err, kind):
		t.Errorf("fetching %+v: %v; expected an error that is %v", r, err, kind)
	case !lease.Value.IsZero():
		t.Errorf("fetching %+v: a value beside the error", r)
	case strings.Contains(err.Error(), "canary"):
		t.Errorf("fetching %+v: the error tells the value", r)
	}
	for _, other := range []error{secrets.ErrNotFound, secrets.ErrDenied, secrets.ErrUnavailable} {
		if !errors.Is(kind, errAny) && errors.Is(err, other) && !errors.Is(kind, other) {
			t.Errorf("fetching %+v: %v is also %v; expected one kind alone", r, err, other)
		}
	}
}
