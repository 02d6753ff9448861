package upstream

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// script is a resolver that answers what answer holds, counting.
type script struct {
	asked  atomic.Int32
	answer atomic.Pointer[func(host string) ([]netip.Addr, error)]
}

func (s *script) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	s.asked.Add(1)
	return (*s.answer.Load())(host)
}

func (s *script) says(addr string, err error) {
	f := func(string) ([]netip.Addr, error) {
		time.Sleep(10 * time.Millisecond) // virtual
		if err != nil {
			return nil, err
		}
		return []netip.Addr{netip.MustParseAddr(addr)}, nil
	}
	s.answer.Store(&f)
}

func TestNamesAreCachedRefreshedAndServedStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s script
		s.says("::ffff:10.0.0.1", nil)
		n := newNames(&s)
		want := func(addr string, asked int32) {
			t.Helper()
			got, err := n.lookup(t.Context(), question{host: "a.test"})
			if err != nil || got[0].addr.String() != addr {
				t.Fatalf("got %v %v, want %s", got, err, addr)
			}
			if s.asked.Load() != asked {
				t.Fatalf("asked %d times, want %d", s.asked.Load(), asked)
			}
		}
		want("10.0.0.1", 1)
		want("10.0.0.1", 1)
		s.says("10.0.0.2", nil)
		time.Sleep(resolveFresh)
		want("10.0.0.1", 1)
		n.refresh(t.Context())
		want("10.0.0.2", 2)
		s.says("", errors.New("no such server"))
		time.Sleep(resolveFresh + resolveLate)
		want("10.0.0.2", 3) // stale
		time.Sleep(resolveStale)
		if _, err := n.lookup(t.Context(), question{host: "a.test"}); err == nil {
			t.Fatal("an answer older than the stale time was served")
		}
		asked := s.asked.Load()
		_, _ = n.lookup(t.Context(), question{host: "a.test"})
		if s.asked.Load() != asked {
			t.Fatal("a failure just seen was asked for again")
		}
		time.Sleep(resolveFailed)
		s.says("10.0.0.3", nil)
		want("10.0.0.3", asked+1)
		time.Sleep(resolveUnused)
		n.refresh(t.Context())
		if len(n.known) != 0 {
			t.Fatal("an unused name was kept")
		}
	})
}

func TestNamesAreAskedForOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s script
		s.says("10.0.0.1", nil)
		n := newNames(&s)
		for range 20 {
			go func() {
				if _, err := n.lookup(t.Context(), question{host: "a.test"}); err != nil {
					t.Error(err)
				}
			}()
		}
		synctest.Wait()
		time.Sleep(time.Second)
		if s.asked.Load() != 1 {
			t.Fatalf("asked %d times", s.asked.Load())
		}
	})
}

func TestLookupEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s script
		f := func(string) ([]netip.Addr, error) { time.Sleep(time.Minute); return nil, errors.New("late") }
		s.answer.Store(&f)
		n := newNames(&s)
		go func() { _, _ = n.lookup(t.Context(), question{host: "a.test"}) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := n.lookup(ctx, question{host: "a.test"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		time.Sleep(time.Minute)
	})
}
