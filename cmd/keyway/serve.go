package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Exit statuses of `keyway serve`.
const (
	exitOK       = 0 // a signal asked for it and every request was finished
	exitFailed   = 1 // it could not start, or a part of it failed
	exitCut      = 3 // the grace period ended with requests in flight
	exitForced   = 4 // a second signal asked to stop at once
	exitSettings = 2 // the command line or a setting is wrong
)

// exitError is an error with the exit status that says why.
type exitError struct {
	status int
	err    error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// serve runs a node until a signal ends it, in the place of another process if from is not nil.
func serve(ctx context.Context, s *settings, stdout, stderr io.Writer, from *predecessor) error {
	if err := prepareDataDir(s.DataDir); err != nil {
		return &exitError{exitFailed, from.failed(err)}
	}
	log, err := newLogger(s, stderr)
	if err != nil {
		return &exitError{exitSettings, from.failed(err)}
	}
	n, err := newNode(ctx, s, log, stdout, from)
	if err != nil {
		return &exitError{exitFailed, fmt.Errorf("starting: %w", from.failed(err))}
	}
	err = n.run(ctx)
	if st, link := n.succession.steward, n.succession.to; st != nil {
		return stay(st, link, err, log)
	}
	return err
}

// prepareDataDir makes the data folder for this user only.
func prepareDataDir(dir string) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("finding the data folder: %w", err)
	}
	// The folder of large request bodies in wait is inside, so that they are on the same disk.
	if err := os.MkdirAll(filepath.Join(abs, "spool"), 0o700); err != nil {
		return fmt.Errorf("making the data folder: %w; set data_dir (KEYWAY_DATA_DIR) to a folder that this user may write", err)
	}
	info, err := os.Stat(abs)
	if err != nil {
		return fmt.Errorf("reading the data folder: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("the data folder %s can be read by others (mode %04o); expected 0700: run chmod 700 %s", abs, info.Mode().Perm(), abs)
	}
	return nil
}

// newLogger makes the node's log. Whoever asks for debug has every line.
func newLogger(s *settings, w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(s.LogLevel)); err != nil {
		return nil, fmt.Errorf("setting log_level: %w", err)
	}
	opts := &slog.HandlerOptions{Level: level}
	var h slog.Handler = slog.NewJSONHandler(w, opts)
	if s.LogFormat == "text" {
		h = slog.NewTextHandler(w, opts)
	}
	if level > slog.LevelDebug {
		h = newCalmLog(h)
	}
	return slog.New(h), nil
}

// signals tells a shutdown in two steps: the first SIGTERM or SIGINT ends the
// context, with the signal as its cause; the second closes forced.
func signals(ctx context.Context) (stop context.Context, forced <-chan struct{}, release func()) {
	stop, cancel := context.WithCancelCause(ctx)
	now := make(chan struct{})
	c := make(chan os.Signal, 2)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGINT)
	done := make(chan struct{})
	go func() {
		for first := true; ; first = false {
			select {
			case sig := <-c:
				if !first {
					close(now)
					return
				}
				cancel(fmt.Errorf("received %s", sig))
			case <-done:
				return
			}
		}
	}()
	return stop, now, func() {
		signal.Stop(c)
		close(done)
		cancel(nil)
	}
}

// task is one part of a node that runs until its context ends.
type task struct {
	name string
	run  func(context.Context) error
}

// runTasks runs every task; the first one to fail ends the others, with its error
// as the cause. It returns when all have returned.
func runTasks(ctx context.Context, tasks []task) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failures []error
	for _, t := range tasks {
		wg.Go(func() {
			err := guarded(ctx, t)
			if err != nil && !errors.Is(err, context.Canceled) {
				err = fmt.Errorf("%s: %w", t.name, err)
				mu.Lock()
				failures = append(failures, err)
				mu.Unlock()
				cancel(err)
			}
		})
	}
	wg.Wait()
	return errors.Join(failures...)
}

// guarded turns a panic of a task into its error: the node then drains instead of dying in mid-request.
func guarded(ctx context.Context, t task) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return t.run(ctx)
}

// onSignal makes a task that calls f on each signal until ctx ends. The signal is caught from
// now on: tasks begin in any order, and whoever is told by another that the node serves may send
// one at once, which would end the process.
func onSignal(sig os.Signal, f func(context.Context)) func(context.Context) error {
	c := make(chan os.Signal, 1)
	signal.Notify(c, sig)
	return func(ctx context.Context) error {
		defer signal.Stop(c)
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-c:
				f(ctx)
			}
		}
	}
}

// waitFor waits for ready, for as long as limit.
func waitFor(ctx context.Context, ready <-chan struct{}, limit time.Duration) bool {
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-ready:
		return true
	case <-t.C:
	case <-ctx.Done():
	}
	return false
}
