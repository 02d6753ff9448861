package integration

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

// machine knows how long the node and the clients had to wait for a processor: what is
// late by no more than that is not the node's doing.
type machine struct {
	processes []int
	mu        sync.Mutex // guards waits and total
	waits     []waited
	total     time.Duration
	before    map[string]time.Duration // of threads
}

// waited is what the thread that waited longest did, from one look to the next.
type waited struct {
	from, to time.Time
	time     time.Duration
}

// look reads the kernel's account of each thread.
func (m *machine) look(from, to time.Time) {
	now := map[string]time.Duration{}
	var longest time.Duration
	for _, pid := range m.processes {
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		for _, name := range files {
			text, err := os.ReadFile(name)
			f := bytes.Fields(text)
			if err != nil || len(f) < 2 {
				continue // the thread has ended
			}
			n, err := strconv.ParseInt(string(f[1]), 10, 64)
			if err != nil {
				continue
			}
			now[name] = time.Duration(n)
			if old, ok := m.before[name]; ok {
				longest = max(longest, now[name]-old)
			}
		}
	}
	m.before = now
	m.mu.Lock()
	defer m.mu.Unlock()
	longest = min(longest, to.Sub(from))
	m.total += longest
	if m.waits = append(m.waits, waited{from, to, longest}); len(m.waits) > 2000 {
		m.waits = slices.Delete(m.waits, 0, 1000)
	}
}

// watch looks until stop.
func (m *machine) watch(stop <-chan struct{}) {
	m.look(time.Now(), time.Now())
	for from := time.Now(); ; {
		pause(stop, 200*time.Millisecond)
		to := time.Now()
		m.look(from, to)
		from = to
		select {
		case <-stop:
			return
		default:
		}
	}
}

// busy is how long what is watched waited for a processor since then. The last look may
// be a moment ago, which counts as waiting if it is a long one.
func (m *machine) busy(since time.Time) time.Duration { return m.between(since, time.Now()) }

func (m *machine) between(since, to time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	var sum time.Duration
	last := since
	for _, w := range m.waits {
		if w.to.After(since) && w.from.Before(to) {
			sum += w.time
		}
		last = w.to
	}
	return sum + max(0, to.Sub(last)-300*time.Millisecond)
}

// all is how long what is watched waited in all.
func (m *machine) all() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.total
}

// late says whether more time than a limit has passed, beside that of waiting.
func (k *soak) late(since time.Time, limit time.Duration) bool {
	return time.Since(since) > limit && time.Since(since)-k.machine.busy(since) > limit
}

// TestSoakMachine reads the account of this process, and adds it up.
func TestSoakMachine(t *testing.T) {
	m := &machine{processes: []int{os.Getpid()}}
	if _, err := os.Stat("/proc/self/schedstat"); err != nil {
		skip(t, "the kernel keeps no account of waiting")
	}
	stop := make(chan struct{})
	var wait sync.WaitGroup
	wait.Go(func() { m.watch(stop) })
	began := time.Now()
	pause(nil, time.Second)
	close(stop)
	wait.Wait()
	if got, all := m.busy(began), time.Since(began); got > all {
		t.Errorf("%s of waiting in %s", got, all)
	}
	if len(m.waits) < 3 || len(m.before) == 0 {
		t.Errorf("%d looks, at %d threads", len(m.waits), len(m.before))
	}
	// What nobody looked at for long was no wait of the node's, but the looker's.
	m.waits = []waited{{began, began.Add(time.Second), 600 * time.Millisecond}, {began.Add(time.Second), time.Now().Add(time.Hour), 0}}
	if got := m.busy(began); got != 600*time.Millisecond {
		t.Errorf("%s of waiting, want 600ms", got)
	}
	if got := m.busy(began.Add(2 * time.Second)); got != 0 {
		t.Errorf("%s of waiting after it, want none", got)
	}
}
