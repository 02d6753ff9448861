package secrets_test

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyway-edge/keyway/secrets"
)

// crowd is a source of any number of secrets, leased where their name says so. Each
// answer is a value of its own generation.
type crowd struct {
	generation *atomic.Int64
	made, held *atomic.Int64
}

func (s crowd) Fetch(_ context.Context, r secrets.Request) (secrets.Lease, error) {
	l := secrets.Lease{Value: secrets.NewValue(fmt.Appendf(nil, "value %d of %s", s.generation.Load(), r.Resource))}
	if r.Resource[0] == 'l' {
		l.ID, l.TTL, l.Renewable = fmt.Sprint("lease ", s.made.Add(1)), time.Hour, true
		l.NotAfter = time.Now().Add(l.TTL)
		s.held.Add(1)
	}
	return l, nil
}

func (s crowd) Renew(_ context.Context, l secrets.Lease) (secrets.Lease, error) {
	l.NotAfter = time.Now().Add(l.TTL)
	return l, nil
}

func (s crowd) Revoke(context.Context, secrets.Lease) error {
	s.held.Add(-1)
	return nil
}

// heap is what is in use after collection, in KiB.
func heap() int {
	var m runtime.MemStats
	for range 3 { // what finalizers hold goes at the next
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc / 1024)
}

// Many references and leases: little memory for each, and no more of anything after
// rotations of all, a change of the plan with each. BenchmarkResolve is a start with 10,000.
func TestScale(t *testing.T) {
	const plain, leased, rounds = 2000, 200, 8
	synctest.Test(t, func(t *testing.T) {
		s := crowd{new(atomic.Int64), new(atomic.Int64), new(atomic.Int64)}
		cfg := config(s)
		cfg.RevokeAtStop = true
		var refs []string
		for i := range plain {
			refs = append(refs, fmt.Sprintf("{vault://fake/p%d}", i))
		}
		for i := range leased {
			refs = append(refs, fmt.Sprintf("{vault://fake/l%d}", i))
		}
		empty, goroutines := heap(), runtime.NumGoroutine()
		b := bench{start(t, cfg), t, nil}
		p := plan(refs...)
		began := time.Now()
		b.Resolve(t.Context(), p)
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("resolved after %v", took)
		}
		var first int
		for round := range rounds {
			s.generation.Add(1)
			b.Want(plan(refs[:len(refs)-leased/2]...)) // half of the leases go and come again
			time.Sleep(90 * time.Second)
			b.Want(p)
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			if n := b.Stats().States[secrets.Active]; n != len(refs) {
				t.Fatalf("%d of %d are active", n, len(refs))
			}
			if round == 3 { // by now every overlap and every list of versions is full
				first = heap()
			}
		}
		last := heap()
		if each := (first - empty) * 1024 / len(refs); each > 6*1024 {
			t.Errorf("%d bytes for each reference", each)
		}
		if last > first+first/20 {
			t.Errorf("%d KiB after %d rotations, %d KiB after 4", last, rounds, first)
		}
		if n := runtime.NumGoroutine() - goroutines; n > 4 {
			t.Errorf("%d goroutines more than before", n)
		}
		if held := s.held.Load(); held != leased {
			t.Errorf("%d leases are held; expected %d", held, leased)
		}
		c := b.get(refs[0])
		if c.Version != rounds+1 || string(c.Value.Reveal()) != fmt.Sprintf("value %d of p0", rounds) {
			t.Errorf("version %d value %q", c.Version, c.Value.Reveal())
		}
		t.Logf("%d KiB empty, %d KiB with %d references, %d KiB after %d rotations", empty, first, len(refs), last, rounds)
	})
}
