package lastgood

import (
	"context"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// TestAWriteGivesWay counts the CPU time of the longest stretch between two rests of a
// write: what requests on the same processor wait for at the most. CPU time, since others
// may use the machine; the median of several writes, since the collector helps itself to some.
func TestAWriteGivesWay(t *testing.T) {
	if raced || testing.Short() {
		t.Skip("the race detector has a time of its own")
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	used := func() time.Duration {
		// Not what getrusage says, which counts by the kernel's ticks of 4 ms.
		const thread = 3 // CLOCK_THREAD_CPUTIME_ID
		var now syscall.Timespec
		if _, _, err := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, thread, uintptr(unsafe.Pointer(&now)), 0); err != 0 {
			t.Fatal(err)
		}
		return time.Duration(now.Nano())
	}
	docs, kept := manyRoutes(t), manyValues(20_000)
	from := &served{}
	cfg := place(t)
	var last, longest time.Duration
	cfg.Serving = func(ctx context.Context) (Serving, error) {
		now, err := from.serving(ctx)
		last = used() // collecting is another's work
		return now, err
	}
	cfg.Pause = func() {
		now := used()
		longest = max(longest, now-last)
		last = used()
	}
	s := New(cfg)
	var all []time.Duration
	for i := range 7 {
		from.set(func() { from.doc, from.kept = docs[i%2], append(slices.Clone(kept), one("x", i)...) })
		last, longest = used(), 0
		began := last
		if !s.save(t.Context()) {
			t.Fatal(s.Facts().Failed)
		}
		cfg.Pause()
		all = append(all, longest)
		t.Logf("a write took %v, its longest stretch %v", last-began, longest)
	}
	if n := s.Facts().Writes; n != 7 {
		t.Errorf("%d writes; expected 7", n)
	}
	slices.Sort(all)
	if all[len(all)/2] > 5*time.Millisecond {
		t.Errorf("the longest stretch of a write is %v (median of %v), expected at most 5 ms", all[len(all)/2], all)
	}
}
