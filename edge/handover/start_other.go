//go:build !linux

package handover

import (
	"errors"
	"os"
	"time"
)

// errSystem is the answer where sockets cannot be handed over as on Linux.
var errSystem = errors.New("handing over to a new process is done on Linux alone; start the new version and stop this one")

// Pair makes the two ends of a conversation, on Linux.
func Pair() (*Link, *os.File, error) { return nil, nil, errSystem }

// Start starts a program that is to take this one's place, on Linux.
func Start(string, []string) (*os.Process, *Link, error) { return nil, nil, errSystem }

// Inherited is the Link to the process that started this one; there is none here.
func Inherited() (*Link, error) { return nil, nil } //nolint:nilnil // an ordinary start

// AdoptOrphans makes this process the parent of orphans, on Linux.
func AdoptOrphans() error { return errSystem }

// monotonic is a clock that no service manager compares with here.
func monotonic() time.Duration { return 0 }
