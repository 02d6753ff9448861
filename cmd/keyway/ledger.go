package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/keyway-edge/keyway/secrets"
)

// ledgerWait is how long a start waits for the writer before it: a process that was
// killed holds its files until the system has taken it down, and its supervisor may
// be faster.
const ledgerWait = 3 * time.Second

// openLedger opens the ledger, waiting a moment for a writer that is about to end.
func openLedger(dir string) (*secrets.Ledger, error) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for until := time.Now().Add(ledgerWait); ; <-tick.C {
		l, err := secrets.OpenLedger(secrets.LedgerConfig{Dir: dir})
		switch {
		case err == nil:
			return l, nil
		case !errors.Is(err, secrets.ErrLedgerBusy) || time.Now().After(until):
			return nil, fmt.Errorf("opening the ledger: %w", err)
		}
	}
}
