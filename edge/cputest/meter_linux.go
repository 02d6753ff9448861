package cputest

import (
	"runtime"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// Meter measures the CPU time of one thread between rests: what requests on the same
// processor wait for. CPU time, since others may use the machine.
type Meter struct {
	t                    testing.TB
	began, last, longest time.Duration
}

// New makes a meter of the calling goroutine, which keeps its thread until the test ends.
func New(t testing.TB) *Meter {
	t.Helper()
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	m := &Meter{t: t}
	m.Begin()
	return m
}

// Begin forgets what was measured.
func (m *Meter) Begin() {
	m.longest = 0
	m.Skip()
	m.began = m.last
}

// Rest ends a stretch and begins the next.
func (m *Meter) Rest() {
	m.longest = max(m.longest, m.used()-m.last)
	m.Skip()
}

// Skip begins a stretch anew: what was done since the last rest does not count.
func (m *Meter) Skip() { m.last = m.used() }

// Longest is the longest stretch since Begin.
func (m *Meter) Longest() time.Duration { return m.longest }

// Total is the time between Begin and the last rest.
func (m *Meter) Total() time.Duration { return m.last - m.began }

func (m *Meter) used() time.Duration {
	// Not what getrusage says, which counts by the kernel's ticks of 4 ms.
	const thread = 3 // CLOCK_THREAD_CPUTIME_ID
	var now syscall.Timespec
	if _, _, err := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, thread, uintptr(unsafe.Pointer(&now)), 0); err != 0 {
		m.t.Fatal(err)
	}
	return time.Duration(now.Nano())
}
