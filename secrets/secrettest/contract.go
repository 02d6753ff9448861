package secrettest

import (
	"context"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/secrets"
)

// Subject is a real source under the contract suite. A field that is nil or false
// says that the source has nothing of the kind; its part of the suite is left out.
type Subject struct {
	Source secrets.Source
	// Put makes value the current version of the resource name, as its owner would.
	Put func(t *testing.T, name, value string)
	// Remove makes the resource name absent.
	Remove func(t *testing.T, name string)
	// Deny makes the resource name be there and this node not allowed to read it.
	Deny func(t *testing.T, name string)
	// Break takes the source away (stopped, sealed, cut off) until mend is called.
	Break func(t *testing.T) (mend func())
	// Hang makes the source take what is asked and answer nothing until mend is called.
	Hang func(t *testing.T) (mend func())
	// Previous says that version 2 of a resource put twice is the value before.
	Previous bool
	// Purposeful says that the source knows of a removal that it was meant: ErrRemoved.
	Purposeful bool
	// Fixed says that values cannot change from outside, so that no hints are expected.
	Fixed bool
	// Issues says that each fetch makes a value of its own, as of a database user or
	// a certificate: Put makes the resource one that can be asked for, whatever the value.
	Issues bool
}

// Contract checks what the broker relies on. open is called for each part.
func Contract(t *testing.T, open func(t *testing.T) Subject) {
	for _, part := range []struct {
		name string
		run  func(t *testing.T, s Subject)
	}{
		{"answers what was put", answersWhatWasPut},
		{"says what is not there", saysWhatIsNotThere},
		{"says what may not be read", saysWhatMayNotBeRead},
		{"errors tell no value", errorsTellNoValue},
		{"values never print", valuesNeverPrint},
		{"is safe for concurrent use", isSafeForConcurrentUse},
		{"keeps to its context", keepsToItsContext},
		{"an outage is no absence", outageIsNoAbsence},
		{"a source that hangs is left in time", hangingIsLeftInTime},
		{"leases are renewed and given back", leasesAreRenewedAndGivenBack},
		{"hints at changes", hints},
	} {
		t.Run(part.name, func(t *testing.T) { part.run(t, open(t)) })
	}
}

// hints changes a resource and waits for the source to say so.
func hints(t *testing.T, s Subject) {
	if s.Fixed || s.Issues {
		return
	}
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
	if l.Value.IsZero() {
		t.Errorf("fetching %+v: no value and no error", r)
	}
	if !s.Issues && string(l.Value.Reveal()) != want {
		t.Errorf("fetching %+v answered another value than the one put", r)
	}
	soon := time.Now().Add(time.Minute)
	if l.TTL < 0 || l.Modified.After(soon) || !l.NotAfter.IsZero() && l.NotAfter.Before(time.Now()) {
		t.Errorf("fetching %+v: ttl %v, modified %v, hard end %v; expected a life that lasts", r, l.TTL, l.Modified, l.NotAfter)
	}
	if l.Renewable && (l.ID == "" || l.TTL == 0) {
		t.Errorf("fetching %+v: renewable without a handle or a time", r)
	}
}
