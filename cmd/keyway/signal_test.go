package main

import (
	"context"
	"os"
	"syscall"
	"testing"
	"time"
)

// TestSignalsAreCaughtBeforeTheirTaskRuns: one that comes before is not lost, and ends nobody.
func TestSignalsAreCaughtBeforeTheirTaskRuns(t *testing.T) {
	heard := make(chan struct{}, 1)
	run := onSignal(syscall.SIGUSR2, func(context.Context) { heard <- struct{}{} })
	if err := syscall.Kill(os.Getpid(), syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	select {
	case <-heard:
	case <-time.After(20 * time.Second):
		t.Error("a signal that came before its task ran was lost")
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
