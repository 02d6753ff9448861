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

// openLedger opens the ledger, waiting a moment for a writer that is about to end. Where
// another process writes it until this one takes its place, it stays held.
func (n *node) openLedger() (*secrets.Ledger, error) {
	l := secrets.HeldLedger(secrets.LedgerConfig{Dir: ledgerDir(n.settings)})
	if n.succession.from != nil {
		return l, nil
	}
	return l, resumeLedger(l)
}

func resumeLedger(l *secrets.Ledger) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for until := time.Now().Add(ledgerWait); ; <-tick.C {
		err := l.Resume()
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, secrets.ErrLedgerBusy) || time.Now().After(until):
			return fmt.Errorf("opening the ledger: %w", err)
		}
	}
}
