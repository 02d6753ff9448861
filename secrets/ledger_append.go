package secrets

import (
	"fmt"
	"io/fs"
	"time"
)

// waitingMost is how many events wait in memory for a disk that cannot be written: hours
// of a node whose credentials change as they should.
const waitingMost = 10000

// Append writes one event. It waits for the disk's cache at most, and is called by
// the loops that build and by the Admin side, never while a request waits. An event
// that the disk does not take is an error, and waits: it is written, before those that
// came later, when the disk has room again.
func (l *Ledger) Append(e Event) error {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	e.Time = e.Time.UTC().Round(0)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held && len(l.waiting) < waitingMost {
		l.waiting = append(l.waiting, e)
		l.stats.Waiting = len(l.waiting)
		return nil
	}
	again, err := true, l.catchUp()
	if err == nil {
		again, err = l.append(e)
	}
	if err == nil {
		l.stats.Events++
		return nil
	}
	l.stats.Failures++
	switch {
	case !again:
		return fmt.Errorf("appending to the ledger: %w", err)
	case len(l.waiting) >= waitingMost:
		return fmt.Errorf("appending to the ledger: the event is lost, %d others wait already: %w", len(l.waiting), err)
	}
	l.waiting = append(l.waiting, e)
	l.stats.Waiting = len(l.waiting)
	return fmt.Errorf("appending to the ledger: the event waits, as %d of %d: %w", len(l.waiting), waitingMost, err)
}

// catchUp writes the events that wait, in their order.
func (l *Ledger) catchUp() error {
	for len(l.waiting) > 0 {
		again, err := l.append(l.waiting[0])
		if again {
			return err
		}
		l.waiting = l.waiting[1:]
		l.stats.Waiting = len(l.waiting)
		l.stats.Events++
	}
	l.waiting = nil
	return nil
}

// append answers with an error whether the event is worth another try: it is not when it
// is no event, or is written and only the head is behind, which the next one mends.
func (l *Ledger) append(e Event) (again bool, err error) {
	switch {
	case l.away != nil:
		err := l.away(e)
		return err != nil, err
	case l.held:
		return true, errHeld
	case l.file == nil:
		return false, fs.ErrClosed
	}
	if l.size >= l.cfg.MaxSize {
		if err := l.rotate(); err != nil {
			return true, err
		}
	}
	text, hash, err := encodeLine(l.key, l.seq+1, l.hash, e)
	if err != nil {
		return false, err
	}
	// The line goes where the last good one ended, so that what a full disk left of
	// an earlier try is written over. The head follows: it never promises a line
	// that was not written.
	if _, err := l.file.WriteAt(text, l.size); err != nil {
		_ = l.file.Truncate(l.size)
		return true, err
	}
	if l.size == 0 {
		l.first = l.seq + 1
	}
	l.seq, l.hash, l.dirty = l.seq+1, hash, true
	l.size += int64(len(text))
	l.stats.Sequence, l.stats.Bytes = l.seq, l.size
	if _, err := l.head.WriteAt(encodeHead(l.key, l.seq, l.hash), headSlot(l.seq)); err != nil {
		return false, fmt.Errorf("writing its head: %w", err)
	}
	return false, nil
}
