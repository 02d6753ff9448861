package main

import (
	"crypto/sha256"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestCPUTimeCountsChildren sees that work of a child's child belongs to the peer: nginx
// works in children, and taskset stands before everything pinned.
func TestCPUTimeCountsChildren(t *testing.T) {
	if os.Getenv("BENCH_BURN") != "" {
		x := []byte("x")
		for end := time.Now().Add(30 * time.Second); time.Now().Before(end); { // killed long before
			s := sha256.Sum256(x)
			x = s[:]
		}
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{name: "burner", start: func(int) (*exec.Cmd, error) {
		cmd := pinned(2, "sh", "-c", self+" -test.run=TestCPUTimeCountsChildren & wait")
		cmd.Env = append(os.Environ(), "BENCH_BURN=1")
		return cmd, nil
	}}
	if p.cmd, err = p.start(2); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.down)
	pid := p.cmd.Process.Pid
	deadline := time.Now().Add(20 * time.Second)
	for {
		used, err := cpuTime(pid)
		if err != nil {
			t.Fatal(err)
		}
		if n := used.total(); n >= 100*time.Millisecond {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the tree has used %s after 20 s of work", used.total())
		}
		time.Sleep(10 * time.Millisecond)
	}
	p.down()
	if _, err := cpuTime(pid); err == nil {
		t.Fatal("a peer that is down still has CPU time")
	}
}

// TestCPUTimeAgreesWithTicks compares the clock with /proc/PID/stat, which rounds the
// same sum down to ticks, after work in threads that have ended.
func TestCPUTimeAgreesWithTicks(t *testing.T) {
	for range 4 {
		done := make(chan struct{})
		go func() {
			runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
			defer close(done)
			for i := range 200_000 {
				sha256.Sum256([]byte(strconv.Itoa(i)))
			}
		}()
		<-done
	}
	const tick = 10 * time.Millisecond
	before, err := processClock(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	after, err := processClock(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(afterName(text))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	ticks := time.Duration(user+system) * tick
	if ticks < before-2*tick || ticks > after+2*tick {
		t.Errorf("the clock says %s to %s, /proc %s", before, after, ticks)
	}
	if before < 4*tick {
		t.Errorf("800,000 sums took %s of CPU time, by the clock: those of ended threads are lost", before)
	}
}

func TestAProcessThatEndedHasNoFigure(t *testing.T) {
	before := usage{1: time.Second, 2: time.Second}
	if got, err := (usage{1: 3 * time.Second, 2: time.Second, 3: time.Second}).since(before); err != nil || got != 3*time.Second {
		t.Errorf("with a process more it is %s (%v), want 3s", got, err)
	}
	if got, err := (usage{1: 3 * time.Second}).since(before); err == nil {
		t.Errorf("without the process that has ended it is %s, want an error", got)
	}
}
