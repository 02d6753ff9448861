package lastgood

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/secrets"
)

const (
	// FileName is the sealed file in its folder.
	FileName = "last-good.sealed"

	settle     = time.Second      // how long a change waits for others that came with it
	gap        = 3 * time.Second  // between two writes
	lookAgain  = time.Minute      // how often renewed leases are looked for, of which nobody hints
	freshen    = 10 * time.Minute // how old the times of confirmation in the file may become
	retry      = 5 * time.Second  // after a write that failed
	writeLimit = 5 * time.Second  // of one write, keys included; also of the last one before the end
)

// Serving is what a node serves now.
type Serving struct {
	Document *spec.Document // nil before the first
	Kept     []secrets.Kept
}

// State is what a file held.
type State struct {
	Document []byte // in canonical form
	Kept     []secrets.Kept
	Sequence uint64
	Written  time.Time
}

// Config is what a Store is made of.
type Config struct {
	Dir     string // of the sealed file; made with mode 0700
	Mark    string // the file that remembers the highest number; best not in Dir, so that no copy of Dir brings its own
	Node    string // id of this node
	Keys    Keys
	Serving func(ctx context.Context) (Serving, error)
	Log     *slog.Logger
	// Pause is called between parts of a write, so that it can let others go first; nil for nothing.
	Pause func()
}

// Facts is what there is to tell of a Store.
type Facts struct {
	Written  time.Time // of the last good write, or of the file that was loaded; zero for none
	Sequence uint64
	Size     int
	Writes   uint64
	Failures uint64
	Failed   string    // why the last write failed, "" when it did not
	Since    time.Time // since when writes fail
}

// Store keeps one node's last known good state.
type Store struct {
	cfg  Config
	hint chan struct{} // capacity 1: something was published

	encodedOf *spec.Document    // owned by Run, as the group below
	encoded   [sha256.Size]byte // of encodedOf's text, which is as long as the document itself and not kept
	digest    [sha256.Size]byte // of what the file holds

	writing  sync.Mutex // held while the file is written; guards released
	released bool       // another process writes the file

	mu    sync.Mutex // guards the group below
	facts Facts
}

// New makes a Store; Run works.
func New(cfg Config) *Store { return &Store{cfg: cfg, hint: make(chan struct{}, 1)} }

// Hint says that something was published. It does not wait.
func (s *Store) Hint() {
	select {
	case s.hint <- struct{}{}:
	default:
	}
}

// Facts answers how it stands.
func (s *Store) Facts() Facts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.facts
}

// Load reads the file, before Run. ErrNone says that there is none; any other error
// why it is refused.
func (s *Store) Load(ctx context.Context) (*State, error) {
	s.writing.Lock()
	if !s.released { // else they may be another's that writes
		s.sweep()
	}
	s.writing.Unlock()
	st, size, err := s.open(ctx)
	if errors.Is(err, ErrNone) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("last known good state %s is refused: %w", s.path(), err)
	}
	s.mu.Lock()
	s.facts.Written, s.facts.Size = st.Written, size
	s.mu.Unlock()
	return st, nil
}

func (s *Store) open(ctx context.Context) (*State, int, error) {
	file, size, err := openFile(s.path())
	if err != nil {
		return nil, 0, err
	}
	defer file.Close()
	highest, markErr := s.mark(ctx)
	st, err := unpack(ctx, s.cfg.Keys, s.cfg.Node, file)
	s.mu.Lock()
	s.facts.Sequence = highest
	if err == nil {
		s.facts.Sequence = max(highest, st.Sequence)
	}
	s.mu.Unlock()
	switch {
	case err != nil:
		return nil, 0, err
	case markErr != nil && st.Sequence > 1: // number 1 may have been cut off from its mark by a crash
		return nil, 0, fmt.Errorf("%w, or cannot be told from such: the record of the highest number, %s: %w", ErrOlder, s.cfg.Mark, markErr)
	case st.Sequence < highest:
		return nil, 0, fmt.Errorf("%w: it has number %d; expected at least %d", ErrOlder, st.Sequence, highest)
	}
	return st, size, nil
}

func (s *Store) mark(ctx context.Context) (uint64, error) {
	file, _, err := openFile(s.cfg.Mark)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	h, err := unpackMark(ctx, s.cfg.Keys, s.cfg.Node, file)
	if err != nil {
		return 0, err
	}
	return h.Sequence, nil
}

func (s *Store) path() string { return filepath.Join(s.cfg.Dir, FileName) }

// sweep removes what writes left that were killed.
func (s *Store) sweep() {
	for _, path := range []string{s.path(), s.cfg.Mark} {
		left, err := filepath.Glob(filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".*"))
		if err != nil {
			continue
		}
		for _, f := range left {
			_ = os.Remove(f)
		}
	}
}

// Run writes until ctx ends, and once more then if something is waiting. It reacts to:
//
//   - a hint that something was published: it is written a second later;
//   - a minute passed: leases may have been renewed, of which nobody hints;
//   - a write that failed is due again.
func (s *Store) Run(ctx context.Context) error {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	var due <-chan time.Time
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			if due != nil {
				final, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeLimit)
				s.save(final)
				cancel()
			}
			return nil
		case <-s.hint:
			if due == nil {
				due = time.After(max(settle, gap-time.Since(last)))
			}
			continue
		case <-tick.C:
			if due != nil {
				continue
			}
		case <-due:
		}
		due = nil
		if !s.save(ctx) {
			due = time.After(retry)
		}
		last = time.Now()
	}
}

// save writes what is served now unless the file has it, and notes how that went.
func (s *Store) save(ctx context.Context) bool {
	limited, cancel := context.WithTimeout(ctx, writeLimit)
	defer cancel()
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.released {
		return true
	}
	err := s.write(limited)
	if err != nil && ctx.Err() != nil {
		return false // who asked for it ended: no fault of the disk
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		if s.facts.Failed != "" {
			s.cfg.Log.Info("the last known good state is written again", slog.String("file", s.path()))
		}
		s.facts.Failed, s.facts.Since = "", time.Time{}
		return true
	}
	s.facts.Failures++
	if s.facts.Failed == "" { // once, not at each try
		s.facts.Since = time.Now()
		s.cfg.Log.Error("writing the last known good state failed; serving goes on, a restart would find an older state", slog.String("file", s.path()), slog.Any("error", err))
	}
	s.facts.Failed = err.Error()
	return false
}

// Flush writes now what is waiting to be written.
func (s *Store) Flush(ctx context.Context) { s.save(ctx) }

// Release brings the file up to date and leaves it to another process.
func (s *Store) Release(ctx context.Context) {
	s.save(ctx)
	s.Hold()
}

// Hold leaves the file to another process as it is. A process that is to take another's
// place begins with it, and then reads alone.
func (s *Store) Hold() {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.released = true
}

// Reclaim takes the file back, with the number that it has by now.
func (s *Store) Reclaim(ctx context.Context) {
	s.writing.Lock()
	defer s.writing.Unlock()
	if !s.released {
		return
	}
	s.sweep()
	if highest, err := s.mark(ctx); err == nil {
		s.mu.Lock()
		s.facts.Sequence = max(s.facts.Sequence, highest)
		s.mu.Unlock()
	}
	s.released, s.digest = false, [sha256.Size]byte{} // what the file holds is another's
	s.Hint()
}
