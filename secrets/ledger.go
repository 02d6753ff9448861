package secrets

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Event is one entry of the ledger: one change of a credential or of the
// configuration, or one action of an administrator. It never holds a secret or
// anything a secret could be guessed from: a secret is told by its version number
// alone, a certificate, which is public, also by its fingerprint.
type Event struct {
	Time           time.Time `json:"time"`    // zero for now
	Kind           string    `json:"kind"`    // certificate, secret, document, admin, ledger
	Subject        string    `json:"subject"` // the reference, the slot, the document
	Source         string    `json:"source,omitempty"`
	Result         string    `json:"result"` // activated, refused, stale, ...
	Check          string    `json:"check,omitempty"`
	Reason         string    `json:"reason,omitempty"`
	Actor          string    `json:"actor,omitempty"`
	OldVersion     int       `json:"old_version,omitempty"`
	NewVersion     int       `json:"new_version,omitempty"`
	OldFingerprint string    `json:"old_fingerprint,omitempty"` // SHA-256 of a certificate's DER, hex
	NewFingerprint string    `json:"new_fingerprint,omitempty"`
	Generation     uint64    `json:"generation,omitempty"` // of the snapshot
	Origin         string    `json:"origin,omitempty"`     // the source's id of the read, which its own audit log has too

	Took time.Duration `json:"took_ns,omitempty"` // from the change in the source, or of what ended
}

// The files of a ledger in its folder.
const (
	LedgerFile    = "ledger.jsonl" // being written
	LedgerKeyFile = "ledger.key"   // 0600; move a copy to where an attacker of the node cannot write
	LedgerHead    = "ledger.head"  // the last sequence number and hash, authenticated
	rotatedFile   = "ledger-%012d.jsonl"
	rotatedGlob   = "ledger-????????????.jsonl"
	ledgerKey     = "KEYWAY-LEDGER-KEY-1"
)

// ErrLedgerBusy says that another process writes the ledger.
var ErrLedgerBusy = errors.New("the ledger is in use by another process")

// LedgerConfig is what a Ledger is made of.
type LedgerConfig struct {
	Dir     string // made with mode 0700 if it is not there
	MaxSize int64  // bytes after which the file is rotated; 0 means 64 MiB
}

// Ledger is an append-only chain of events in JSON lines. Each line carries the
// hash of itself and the line before, and a code keyed with a secret of the node,
// so that nobody without that key can change, remove, reorder or forge a line
// unseen; the head, kept beside it, shows lines cut off at the end. See Verify.
//
// A line is in the operating system's hands when Append returns, and on the disk
// a second later (Run) or after Flush. So the death of the process loses nothing,
// and a power cut at most the last second, which then shows as missing lines.
type Ledger struct {
	cfg LedgerConfig // immutable
	key []byte       // immutable

	mu    sync.Mutex // guards the group below
	lock  *os.File
	file  *os.File // nil when closed
	head  *os.File
	first uint64 // sequence number of the file's first line
	seq   uint64 // of the last line
	hash  string // of the last line
	size  int64  // of the file up to the end of the last line
	dirty bool
	stats LedgerStats

	waiting []Event           // that the disk did not take yet
	held    bool              // not to be written now: events wait
	away    func(Event) error // who takes the events, nil for this ledger
}

// LedgerStats counts what a Ledger did since it was opened.
type LedgerStats struct {
	Sequence  uint64 // of the last line, over the ledger's whole life
	Events    uint64
	Failures  uint64 // events that could not be written when they came, and syncs that failed
	Waiting   int    // events that wait for the disk
	Rotations uint64
	Bytes     int64 // of the file being written
	Synced    time.Time
}

// OpenLedger opens or makes the ledger in a folder and goes on where it ended. What
// a crash or a stranger left at its end is cut or kept as it is, and recorded.
func OpenLedger(cfg LedgerConfig) (*Ledger, error) {
	l := HeldLedger(cfg)
	if err := l.Resume(); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *Ledger) path(name string) string { return filepath.Join(l.cfg.Dir, name) }

// open opens the files. l.mu is held.
func (l *Ledger) open() error {
	if err := os.MkdirAll(l.cfg.Dir, 0o700); err != nil {
		return err
	}
	var err error
	if l.lock, err = os.OpenFile(l.path("ledger.lock"), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return err
	}
	if err := syscall.Flock(int(l.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("%w; expected one writer at a time", ErrLedgerBusy)
	}
	if err := l.loadKey(); err != nil {
		return err
	}
	if l.file, err = os.OpenFile(l.path(LedgerFile), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return err
	}
	if l.head, err = os.OpenFile(l.path(LedgerHead), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return err
	}
	found, err := l.recover()
	if err != nil {
		return err
	}
	if _, err := l.head.WriteAt(encodeHead(l.key, l.seq, l.hash), headSlot(l.seq)); err != nil {
		return fmt.Errorf("writing its head: %w", err)
	}
	for i := range found {
		found[i].Time = time.Now().UTC().Round(0)
	}
	l.waiting, l.held = append(found, l.waiting...), false
	if err := l.catchUp(); err != nil {
		l.stats.Failures++ // a disk that is full is no reason not to begin: the events wait
	}
	return nil
}

// loadKey reads the key, or makes it where there is no ledger yet. A ledger whose
// key is gone is not gone on with: nobody could verify it any more.
func (l *Ledger) loadKey() error {
	var err error
	if l.key, err = ReadKey(l.path(LedgerKeyFile), ledgerKey); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	files, err := LedgerFiles(l.cfg.Dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if info, err := os.Stat(f); err == nil && info.Size() > 0 {
			return fmt.Errorf("%w: %s is gone and there are lines made with it; expected it back, or the ledger's files moved away to begin a new one", ErrKey, l.path(LedgerKeyFile))
		}
	}
	l.key, err = MakeKey(l.path(LedgerKeyFile), ledgerKey)
	return err
}

// LedgerFiles lists the files of the ledger in a folder, oldest first.
func LedgerFiles(dir string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, rotatedGlob))
	if err != nil {
		return nil, fmt.Errorf("listing the ledger's files: %w", err)
	}
	slices.Sort(files)
	current := filepath.Join(dir, LedgerFile)
	if _, err := os.Stat(current); err == nil {
		files = append(files, current)
	}
	return files, nil
}

// ReadLedgerKey reads the key that Verify needs.
func ReadLedgerKey(path string) ([]byte, error) { return ReadKey(path, ledgerKey) }

// rotate puts the file aside under the number of its first line and begins another;
// the chain goes on.
func (l *Ledger) rotate() error {
	if err := l.sync(); err != nil {
		return err
	}
	current, fresh, aside := l.path(LedgerFile), l.path(LedgerFile+".next"), l.path(fmt.Sprintf(rotatedFile, l.first))
	next, err := os.OpenFile(fresh, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("rotating: %w", err)
	}
	if err = os.Rename(current, aside); err == nil {
		if err = os.Rename(fresh, current); err != nil {
			err = errors.Join(err, os.Rename(aside, current))
		}
	}
	if err != nil {
		next.Close()
		return fmt.Errorf("rotating: %w", err)
	}
	l.file.Close()
	l.file, l.size = next, 0
	l.stats.Rotations++
	return nil
}

// Run brings lines to the disk each second until ctx ends. What others append after
// that is taken until Close.
func (l *Ledger) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return l.Flush()
		case <-tick.C:
			if err := l.Flush(); err != nil {
				l.mu.Lock()
				l.stats.Failures++ // tried again in a second; the metric is the alarm
				l.mu.Unlock()
			}
		}
	}
}

// Flush returns when all that was appended is on the disk.
func (l *Ledger) Flush() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil // held, diverted or closed
	}
	err := l.catchUp()
	if l.dirty {
		err = errors.Join(err, l.sync())
	}
	if err != nil {
		return fmt.Errorf("flushing the ledger: %w", err)
	}
	return nil
}

func (l *Ledger) sync() error {
	if err := errors.Join(l.file.Sync(), l.head.Sync()); err != nil {
		return err
	}
	l.dirty, l.stats.Synced = false, time.Now()
	return nil
}

// Close flushes and closes. A second call does nothing.
func (l *Ledger) Close() error {
	err := l.Flush()
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.waiting); n > 0 && (l.file != nil || l.held || l.away != nil) {
		err = fmt.Errorf("%d events are lost: %w", n, cmp.Or(err, errHeld))
	}
	l.held, l.away = false, nil
	return errors.Join(err, l.close())
}

func (l *Ledger) close() error {
	var err error
	for _, f := range []*os.File{l.file, l.head, l.lock} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	l.file, l.head, l.lock = nil, nil, nil
	return err
}

// Stats samples the ledger.
func (l *Ledger) Stats() LedgerStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stats
}
