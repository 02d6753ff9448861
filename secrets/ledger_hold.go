package secrets

import (
	"cmp"
	"errors"
	"fmt"
)

// A ledger has one writer. While another process is about to take the place of this one,
// the ledger is held: its files are closed, and events wait in memory until it is known
// who writes them. The process that comes begins with a ledger that is held.

var errHeld = errors.New("the ledger is held for another process")

// HeldLedger makes a ledger that Resume opens. Events wait until then.
func HeldLedger(cfg LedgerConfig) *Ledger {
	cfg.MaxSize = cmp.Or(cfg.MaxSize, 64<<20)
	return &Ledger{cfg: cfg, held: true}
}

// Hold brings everything to the disk and closes the files for another writer. Resume or
// Divert must follow.
func (l *Ledger) Hold() error {
	err := l.Flush()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = true
	return errors.Join(err, l.close())
}

// Resume opens the files, after Hold or Divert, and writes what has waited. An error
// leaves the ledger as it was.
func (l *Ledger) Resume() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		return nil
	}
	away := l.away
	l.first, l.away = 0, nil
	if err := l.open(); err != nil {
		l.close()
		l.away = away
		return fmt.Errorf("opening the ledger in %s: %w", l.cfg.Dir, err)
	}
	return nil
}

// Divert gives events to another writer from now on, first those that have waited.
func (l *Ledger) Divert(to func(Event) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held, l.away = false, to
	return l.catchUp()
}
