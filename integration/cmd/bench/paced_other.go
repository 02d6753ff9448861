//go:build !linux

package main

import (
	"errors"
	"time"
)

// load needs the poller of Linux.
func (paced) load() (run, error) {
	return run{}, errors.New("a constant rate is measured on Linux only")
}

// watcher sees nothing elsewhere.
type watcher struct{}

func watchCPUs(time.Time) *watcher { return &watcher{} }

func (*watcher) end() ([]span, error) {
	return nil, errors.New("CPUs are watched on Linux only")
}
