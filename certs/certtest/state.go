package certtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/certs"
)

// State is a certs.SharedState in memory, for tests of what uses one.
type State struct {
	mu     sync.Mutex
	values map[string]stateValue
	writes int
	calls  int
	fail   error
}

type stateValue struct {
	value   []byte
	version string
}

// NewState makes an empty State.
func NewState() *State { return &State{values: map[string]stateValue{}} }

// Fail makes every call answer err, until Fail(nil).
func (s *State) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

// Calls is how many calls there were.
func (s *State) Calls() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

// Keys answers the keys that have values.
func (s *State) Keys() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []string
	for k := range s.values {
		keys = append(keys, k)
	}
	return keys
}

func (s *State) usable(ctx context.Context, key string) error {
	s.calls++
	if err := certs.CheckStateKey(key); err != nil {
		return err
	}
	if s.fail != nil {
		return s.fail
	}
	return ctx.Err()
}

// Load answers a value and its version.
func (s *State) Load(ctx context.Context, key string) ([]byte, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx, key); err != nil {
		return nil, "", err
	}
	v, ok := s.values[key]
	if !ok {
		return nil, "", fmt.Errorf("%w: %s", certs.ErrNoState, key)
	}
	return bytes.Clone(v.value), v.version, nil
}

// Swap replaces the value of one version.
func (s *State) Swap(ctx context.Context, key, old string, value []byte) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx, key); err != nil {
		return "", err
	}
	if s.values[key].version != old {
		return "", fmt.Errorf("%w: %s", certs.ErrConflict, key)
	}
	s.writes++
	v := stateValue{bytes.Clone(value), strconv.Itoa(s.writes)}
	s.values[key] = v
	return v.version, nil
}

// Delete removes the value of one version.
func (s *State) Delete(ctx context.Context, key, version string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx, key); err != nil {
		return err
	}
	v, ok := s.values[key]
	if !ok {
		return fmt.Errorf("%w: %s", certs.ErrNoState, key)
	}
	if v.version != version {
		return fmt.Errorf("%w: %s", certs.ErrConflict, key)
	}
	delete(s.values, key)
	return nil
}

// SharedState holds an implementation to the contract of certs.SharedState. open
// answers one more view of one and the same state each time, as another replica
// has it; what is in it under keys that begin with test/ is the suite's.
func SharedState(t *testing.T, open func(*testing.T) certs.SharedState) {
	t.Run("swap", func(t *testing.T) { swap(t, open(t), open(t)) })
	t.Run("race", func(t *testing.T) { race(t, open) })
	t.Run("keys", func(t *testing.T) { keys(t, open(t)) })
	t.Run("lock", func(t *testing.T) { lock(t, open(t), open(t)) })
}

func swap(t *testing.T, a, b certs.SharedState) {
	ctx, key := t.Context(), "test/swap"
	if _, _, err := a.Load(ctx, key); !errors.Is(err, certs.ErrNoState) {
		t.Fatalf("what was never written: %v, want ErrNoState", err)
	}
	if err := a.Delete(ctx, key, "1"); !errors.Is(err, certs.ErrNoState) {
		t.Errorf("deleting what is not there: %v, want ErrNoState", err)
	}
	if _, err := a.Swap(ctx, key, "1", []byte("x")); !errors.Is(err, certs.ErrConflict) {
		t.Errorf("replacing what is not there: %v, want ErrConflict", err)
	}
	first, err := a.Swap(ctx, key, "", []byte("one\x00\xff"))
	if err != nil || first == "" {
		t.Fatalf("version %q, %v", first, err)
	}
	if value, version, err := b.Load(ctx, key); err != nil || string(value) != "one\x00\xff" || version != first {
		t.Errorf("another replica sees %q of version %q, %v", value, version, err)
	}
	if _, err := b.Swap(ctx, key, "", []byte("y")); !errors.Is(err, certs.ErrConflict) {
		t.Errorf("making what is there: %v, want ErrConflict", err)
	}
	second, err := b.Swap(ctx, key, first, []byte("one\x00\xff"))
	if err != nil || second == first {
		t.Errorf("the same value again has version %q after %q, %v", second, first, err)
	}
	if _, err := a.Swap(ctx, key, first, []byte("z")); !errors.Is(err, certs.ErrConflict) {
		t.Errorf("replacing an old version: %v, want ErrConflict", err)
	}
	if err := a.Delete(ctx, key, first); !errors.Is(err, certs.ErrConflict) {
		t.Errorf("deleting an old version: %v, want ErrConflict", err)
	}
	if err := a.Delete(ctx, key, second); err != nil {
		t.Error(err)
	}
	third, err := b.Swap(ctx, key, "", []byte("three"))
	if err != nil {
		t.Fatalf("making it anew: %v", err)
	}
	if err := b.Delete(ctx, key, third); err != nil {
		t.Error(err)
	}
}

// race has many replicas add to one number: none may be lost.
func race(t *testing.T, open func(*testing.T) certs.SharedState) {
	const replicas, each = 4, 10
	ctx, key := t.Context(), "test/race"
	var wg sync.WaitGroup
	for range replicas {
		state := open(t)
		wg.Go(func() {
			for done := 0; done < each; {
				value, version, err := state.Load(ctx, key)
				if err != nil && !errors.Is(err, certs.ErrNoState) {
					t.Error(err)
					return
				}
				n, _ := strconv.Atoi(string(value))
				switch _, err := state.Swap(ctx, key, version, []byte(strconv.Itoa(n+1))); {
				case err == nil:
					done++
				case !errors.Is(err, certs.ErrConflict):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	state := open(t)
	value, version, err := state.Load(ctx, key)
	if err != nil || string(value) != strconv.Itoa(replicas*each) {
		t.Fatalf("%q, %v; want %d", value, err, replicas*each)
	}
	if err := state.Delete(ctx, key, version); err != nil {
		t.Error(err)
	}
}

func keys(t *testing.T, s certs.SharedState) {
	for _, key := range []string{"", "test/a b", "test/\x00", "test/é", "test/" + string(bytes.Repeat([]byte("x"), 512))} {
		if _, err := s.Swap(t.Context(), key, "", []byte("x")); err == nil {
			t.Errorf("key %q is taken", key)
		}
	}
	for _, key := range []string{"test/A", "test/a", "test/a/b", "test/..", "test/a.b_c-d"} {
		version, err := s.Swap(t.Context(), key, "", []byte(key))
		if err != nil {
			t.Errorf("key %q: %v", key, err)
			continue
		}
		if value, _, err := s.Load(t.Context(), key); err != nil || string(value) != key {
			t.Errorf("key %q holds %q, %v", key, value, err)
		}
		defer func() {
			if err := s.Delete(t.Context(), key, version); err != nil {
				t.Errorf("key %q: %v", key, err)
			}
		}()
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Swap(ended, "test/ended", "", nil); err == nil {
		t.Error("a call whose context has ended writes")
	}
}

func lock(t *testing.T, a, b certs.SharedState) {
	ctx, key := t.Context(), "test/lock"
	one, err := certs.Lock(ctx, a, key, "one", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := certs.Lock(ctx, b, key, "two", time.Hour); !errors.Is(err, certs.ErrHeld) {
		t.Errorf("a second holder: %v, want ErrHeld", err)
	}
	if err := one.Extend(ctx, -time.Second); err != nil { // as if its time had passed
		t.Error(err)
	}
	two, err := certs.Lock(ctx, b, key, "two", time.Hour)
	if err != nil {
		t.Fatalf("a lock whose time has passed: %v", err)
	}
	if err := one.Extend(ctx, time.Hour); !errors.Is(err, certs.ErrHeld) {
		t.Errorf("extending what another has: %v, want ErrHeld", err)
	}
	if err := one.Release(ctx); err != nil {
		t.Errorf("giving back what another has: %v", err)
	}
	if _, err := certs.Lock(ctx, a, key, "one", time.Hour); !errors.Is(err, certs.ErrHeld) {
		t.Errorf("another's lock was given back: %v", err)
	}
	if _, err := certs.Lock(ctx, a, key, "two", time.Hour); err != nil {
		t.Errorf("a holder that starts again: %v", err)
	}
	again, err := certs.Lock(ctx, a, key, "two", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := two.Release(ctx); err != nil {
		t.Error(err)
	}
	if err := again.Release(ctx); err != nil {
		t.Error(err)
	}
	if _, _, err := a.Load(ctx, key); !errors.Is(err, certs.ErrNoState) {
		t.Errorf("a lock given back: %v", err)
	}
}
