package secrettest

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/secrets"
)

// Subject is a real source under the contract suite.
type Subject struct {
	Source secrets.Source
	// Put makes value the current version of the resource name, as its owner would.
	Put func(t *testing.T, name, value string)
	// Remove makes the resource name absent.
	Remove func(t *testing.T, name string)
	// Previous says that version 2 of a resource put twice is the value before.
	Previous bool
	// Fixed says that values cannot change from outside, so that no hints are expected.
	Fixed bool
}

// Contract checks what the broker relies on. open is called for each part.
func Contract(t *testing.T, open func(t *testing.T) Subject) {
	t.Run("answers what was put", func(t *testing.T) {
		s := open(t)
		s.Put(t, "one", "first")
		s.Put(t, "two", `{"a":"b"}`)
		fetchIs(t, s, secrets.Request{Resource: "one"}, "first")
		fetchIs(t, s, secrets.Request{Resource: "one", Version: 1}, "first")
		fetchIs(t, s, secrets.Request{Resource: "two"}, `{"a":"b"}`)
		s.Put(t, "one", "second, and longer")
		fetchIs(t, s, secrets.Request{Resource: "one"}, "second, and longer")
		if s.Previous {
			fetchIs(t, s, secrets.Request{Resource: "one", Version: 2}, "first")
		}
	})
	t.Run("says what is not there", func(t *testing.T) {
		s := open(t)
		s.Put(t, "one", "canary")
		s.Remove(t, "one")
		for _, r := range []secrets.Request{{Resource: "one"}, {Resource: "never"}, {Resource: "one", Version: 99}, {Resource: "../one"}} {
			if _, err := s.Source.Fetch(t.Context(), r); !errors.Is(err, secrets.ErrNotFound) && r.Resource != "../one" || err == nil {
				t.Errorf("fetching %+v: %v; expected an error that is secrets.ErrNotFound", r, err)
			}
		}
	})
	t.Run("errors tell no value", func(t *testing.T) {
		s := open(t)
		s.Put(t, "one", "canary")
		for _, r := range []secrets.Request{{Resource: "one", Version: 7}, {Resource: "one", Options: map[string]string{"no-such-option": "1"}}} {
			_, err := s.Source.Fetch(t.Context(), r)
			if err == nil || strings.Contains(err.Error(), "canary") {
				t.Errorf("fetching %+v: %v; expected an error without the value", r, err)
			}
		}
	})
	t.Run("is safe for concurrent use", func(t *testing.T) {
		s := open(t)
		s.Put(t, "one", "same")
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 20 {
					if l, err := s.Source.Fetch(t.Context(), secrets.Request{Resource: "one"}); err != nil || string(l.Value.Reveal()) != "same" {
						t.Errorf("concurrent fetch: %v", err)
						return
					}
				}
			})
		}
		wg.Wait()
	})
	t.Run("hints at changes", func(t *testing.T) {
		s := open(t)
		if s.Fixed {
			return
		}
		hints(t, s)
	})
}

// hints changes a resource and waits for the source to say so.
func hints(t *testing.T, s Subject) {
	t.Helper()
	n, ok := s.Source.(secrets.Notifier)
	if !ok {
		t.Fatal("the source gives no hints")
	}
	if cap(n.Changed()) != 1 {
		t.Errorf("Changed has capacity %d; expected 1", cap(n.Changed()))
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	s.Put(t, "one", "first")
	fetchIs(t, s, secrets.Request{Resource: "one"}, "first")
	for _, change := range []func(){
		func() { s.Put(t, "one", "second") },
		func() { s.Remove(t, "one") },
		func() { s.Put(t, "one", "third") },
	} {
		drain(n.Changed())
		change()
		select {
		case <-n.Changed():
		case <-time.After(5 * time.Second):
			t.Error("no hint within 5 s of a change")
		}
	}
	fetchIs(t, s, secrets.Request{Resource: "one"}, "third")
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("Run ended with %v; expected nil at the end of its context", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("Run did not end with its context")
	}
}

// drain takes hints until they are quiet, so that the next one is of what follows.
func drain(c <-chan struct{}) {
	for {
		select {
		case <-c:
		case <-time.After(400 * time.Millisecond):
			return
		}
	}
}

func fetchIs(t *testing.T, s Subject, r secrets.Request, want string) {
	t.Helper()
	l, err := s.Source.Fetch(t.Context(), r)
	if err != nil {
		t.Errorf("fetching %+v: %v", r, err)
		return
	}
	if string(l.Value.Reveal()) != want {
		t.Errorf("fetching %+v answered another value than the one put", r)
	}
}
