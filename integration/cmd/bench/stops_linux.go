package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// watcher looks for the times in which CPUs stop or are slow.
type watcher struct {
	began  time.Time
	before int // GOMAXPROCS
	over   atomic.Bool
	all    sync.WaitGroup

	mu     sync.Mutex // guards the group below
	late   []span
	failed error
}

// watchCPUs begins to watch every CPU, each with a thread of the first real-time class. The
// runtime gets a processor more for each: one that wakes must not wait for a goroutine.
func watchCPUs(began time.Time) *watcher {
	w := &watcher{began: began, before: runtime.GOMAXPROCS(0)}
	runtime.GOMAXPROCS(w.before + cpus())
	for cpu := range cpus() {
		w.all.Go(func() {
			late, err := w.watch(cpu)
			w.mu.Lock()
			defer w.mu.Unlock()
			w.late, w.failed = append(w.late, late...), errors.Join(w.failed, err)
		})
	}
	return w
}

// cpus is how many there are, those too that this process was not given.
func cpus() int {
	stat, err := os.ReadFile("/proc/stat")
	if n := bytes.Count(stat, []byte("\ncpu")); err == nil && n > 0 {
		return min(n, 1024)
	}
	return runtime.NumCPU()
}

// end answers the stops, none of a nil watcher.
func (w *watcher) end() ([]span, error) {
	if w == nil {
		return nil, nil
	}
	w.over.Store(true)
	w.all.Wait()
	runtime.GOMAXPROCS(w.before)
	return stopsOf(w.late), w.failed
}

func (w *watcher) watch(cpu int) (late []span, err error) {
	runtime.LockOSThread() // and the thread ends with its goroutine
	const fifo, monotonic = 1, 1
	var set [16]uint64
	set[cpu/64] = 1 << (cpu % 64)
	if _, _, errno := syscall.Syscall(syscall.SYS_SCHED_SETAFFINITY, 0, unsafe.Sizeof(set), uintptr(unsafe.Pointer(&set))); errno != 0 {
		return nil, fmt.Errorf("watching CPU %d: %w", cpu, errno)
	}
	priority := int32(50)
	if _, _, errno := syscall.Syscall(syscall.SYS_SCHED_SETSCHEDULER, 0, fifo, uintptr(unsafe.Pointer(&priority))); errno != 0 {
		return nil, fmt.Errorf("going before everything else on CPU %d, for which one has to be root: %w", cpu, errno)
	}
	for !w.over.Load() {
		asked := time.Since(w.began)
		ts := syscall.NsecToTimespec(int64(watchEvery))
		if _, _, errno := syscall.Syscall6(syscall.SYS_CLOCK_NANOSLEEP, monotonic, 0, uintptr(unsafe.Pointer(&ts)), 0, 0, 0); errno != 0 && errno != syscall.EINTR {
			return nil, fmt.Errorf("watching CPU %d: %w", cpu, errno)
		}
		if now := time.Since(w.began); now > asked+watchEvery+watchLate {
			late = append(late, span{asked + watchEvery, now})
		}
	}
	return late, nil
}
