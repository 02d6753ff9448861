//go:build !linux

package main

import "errors"

// load needs the poller of Linux.
func (paced) load() (run, error) {
	return run{}, errors.New("a constant rate is measured on Linux only")
}
