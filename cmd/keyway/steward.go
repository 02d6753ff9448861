package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/keyway-edge/keyway/edge/handover"
)

// steward is what is left of a process that has handed over and whose end would be seen
// as the end of the node: the first of a container, or the one that a supervisor
// started. It passes signals on to the process that is the node, reaps orphans, and ends as
// the node does.
type steward struct {
	log *slog.Logger

	mu     sync.Mutex
	node   int          // the process that is the node
	ended  bool         // it has, and no other was told of yet
	alive  map[int]bool // processes that are or were the node
	status syscall.WaitStatus
	over   chan struct{} // closed when all have ended
}

// lookEvery is how often a steward looks who is alive, beside when it is told.
const lookEvery = time.Second

// newSteward begins to look after a process.
func newSteward(pid int, log *slog.Logger) *steward {
	if os.Getpid() != 1 {
		if err := handover.AdoptOrphans(); err != nil {
			log.Error("a process that takes over later may be lost sight of", slog.Any("error", err))
		}
	}
	s := &steward{log: log, node: pid, alive: map[int]bool{pid: true}, over: make(chan struct{})}
	pass := make(chan os.Signal, 8)
	signal.Notify(pass, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2)
	died := make(chan os.Signal, 1)
	signal.Notify(died, syscall.SIGCHLD)
	go s.run(pass, died) // its owner is the process
	return s
}

// follow makes another process the node.
func (s *steward) follow(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.node, s.ended, s.alive[pid] = pid, false, true
}

func (s *steward) run(pass, died <-chan os.Signal) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case sig := <-pass:
			s.pass(sig)
		case <-died:
			s.reap()
		case <-tick.C:
			s.reap()
			if s.finished() {
				close(s.over)
				return
			}
		case <-s.over:
			return
		}
	}
}

func (s *steward) pass(sig os.Signal) {
	s.mu.Lock()
	pid := s.node
	s.mu.Unlock()
	number, _ := sig.(syscall.Signal)
	if err := syscall.Kill(pid, number); err != nil {
		s.log.Warn("a signal could not be passed on", slog.String("signal", sig.String()), slog.Int("pid", pid), slog.Any("error", err))
	}
}

// reap takes the status of every child that has ended.
func (s *steward) reap() {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		s.mu.Lock()
		if s.alive[pid] {
			delete(s.alive, pid)
			if s.status = status; pid == s.node {
				s.ended = true
			}
		}
		s.mu.Unlock()
	}
}

// finished says that nobody is left. It is asked a moment after the last one ended, so
// that what it said of another process has been heard.
func (s *steward) finished() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for pid := range s.alive { // of a child of another process nobody tells
		if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			delete(s.alive, pid)
		}
	}
	return len(s.alive) == 0
}

// wait waits for the end of all, and answers as the node ended.
func (s *steward) wait() error {
	<-s.over
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.status.Signaled():
		return &exitError{128 + int(s.status.Signal()), fmt.Errorf("process %d, which was the node, was ended by signal %s", s.node, s.status.Signal())}
	case s.status.ExitStatus() != exitOK:
		return &exitError{s.status.ExitStatus(), fmt.Errorf("process %d, which was the node, ended with status %d", s.node, s.status.ExitStatus())}
	}
	return nil
}
