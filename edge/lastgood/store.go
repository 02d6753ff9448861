package lastgood

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
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

	much = 4 << 20 // bytes of a document whose write leaves much memory behind
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
	s.sweep()
	data, err := readFile(s.path())
	if errors.Is(err, ErrNone) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("last known good state %s is refused: %w", s.path(), err)
	}
	st, err := s.open(ctx, data)
	if err != nil {
		return nil, fmt.Errorf("last known good state %s is refused: %w", s.path(), err)
	}
	s.mu.Lock()
	s.facts.Written, s.facts.Size = st.Written, len(data)
	s.mu.Unlock()
	return st, nil
}

func (s *Store) open(ctx context.Context, data []byte) (*State, error) {
	highest, markErr := s.mark(ctx)
	h, plain, err := unpack(ctx, s.cfg.Keys, kindFile, s.cfg.Node, data)
	s.mu.Lock()
	s.facts.Sequence = highest
	if err == nil {
		s.facts.Sequence = max(highest, h.Sequence)
	}
	s.mu.Unlock()
	switch {
	case err != nil:
		return nil, err
	case markErr != nil && h.Sequence > 1: // number 1 may have been cut off from its mark by a crash
		return nil, fmt.Errorf("%w, or cannot be told from such: the record of the highest number, %s: %w", ErrOlder, s.cfg.Mark, markErr)
	case h.Sequence < highest:
		return nil, fmt.Errorf("%w: it has number %d; expected at least %d", ErrOlder, h.Sequence, highest)
	}
	document, kept, err := decode(plain)
	if err != nil {
		return nil, err
	}
	return &State{Document: document, Kept: kept, Sequence: h.Sequence, Written: h.Written}, nil
}

func (s *Store) mark(ctx context.Context) (uint64, error) {
	data, err := readFile(s.cfg.Mark)
	if err != nil {
		return 0, err
	}
	h, _, err := unpack(ctx, s.cfg.Keys, kindMark, s.cfg.Node, data)
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
	ctx, cancel := context.WithTimeout(ctx, writeLimit)
	defer cancel()
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.released {
		return true
	}
	err := s.write(ctx)
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
	if highest, err := s.mark(ctx); err == nil {
		s.mu.Lock()
		s.facts.Sequence = max(s.facts.Sequence, highest)
		s.mu.Unlock()
	}
	s.released, s.digest = false, [sha256.Size]byte{} // what the file holds is another's
	s.Hint()
}

func (s *Store) write(ctx context.Context) error {
	now, err := s.cfg.Serving(ctx)
	if err != nil {
		return fmt.Errorf("collecting what is served: %w", err)
	}
	if now.Document == nil {
		return nil
	}
	slices.SortFunc(now.Kept, func(a, b secrets.Kept) int { return cmp.Compare(a.Ref, b.Ref) })
	var text []byte
	fresh := s.encodedOf != now.Document
	if fresh {
		if text, err = s.text(now.Document); err != nil {
			return err
		}
		s.encodedOf, s.encoded = now.Document, sha256.Sum256(text)
	}
	digest := digestOf(s.encoded, now.Kept)
	f := s.Facts()
	if digest == s.digest && time.Since(f.Written) < freshen {
		return nil
	}
	if text == nil {
		if text, err = s.text(now.Document); err != nil {
			return err
		}
	}
	plain, err := encode(text, now.Kept)
	if err != nil {
		return err
	}
	h := head{Node: s.cfg.Node, Sequence: f.Sequence + 1, Written: time.Now().UTC()}
	size, err := s.put(ctx, h, plain)
	if err != nil {
		return err
	}
	s.digest = digest
	s.mu.Lock()
	s.facts.Written, s.facts.Sequence, s.facts.Size = h.Written, h.Sequence, size
	s.facts.Writes++
	s.mu.Unlock()
	if fresh && size > much {
		// It took several times the size of the document, and this may be the last for days:
		// other processes want the memory. What the publisher gave back was before.
		debug.FreeOSMemory()
	}
	return nil
}

// text is a document in canonical form.
func (s *Store) text(d *spec.Document) ([]byte, error) {
	text, err := d.EncodeSlowly(s.cfg.Pause)
	if err != nil {
		return nil, fmt.Errorf("encoding the document: %w", err)
	}
	return text, nil
}

// put writes the file, then its number: a crash between leaves a number that is too
// low, which refuses nothing.
func (s *Store) put(ctx context.Context, h head, plain []byte) (int, error) {
	if err := private(s.cfg.Dir); err != nil {
		return 0, err
	}
	key, wrapped, err := s.cfg.Keys.New(ctx)
	if err != nil {
		return 0, fmt.Errorf("its key: %w", err)
	}
	h.Wrapped = wrapped
	data, err := pack(key, kindFile, h, plain)
	if err != nil {
		return 0, err
	}
	if len(data) > maxFile {
		return 0, fmt.Errorf("it would have %d bytes; at most %d are expected", len(data), maxFile)
	}
	if err := secrets.ReplaceFile(s.path(), data); err != nil {
		return 0, err
	}
	mark, err := pack(key, kindMark, h, nil)
	if err != nil {
		return 0, err
	}
	return len(data), secrets.ReplaceFile(s.cfg.Mark, mark)
}

// private makes a folder for its owner alone, or refuses one that others may write.
func private(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the folder: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("making the folder: %w", err)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("folder %s has mode %v; expected one that only its owner may write: chmod 700 %s", dir, info.Mode().Perm(), dir)
	}
	return nil
}

// digestOf tells whether there is anything to write: it leaves out when sources
// confirmed values, which changes all the time.
func digestOf(document [sha256.Size]byte, kept []secrets.Kept) [sha256.Size]byte {
	sum := sha256.New()
	sum.Write(document[:])
	for i := range kept {
		k := &kept[i]
		fmt.Fprintf(sum, "%q %s %d %d %d\n", k.Ref, k.Value.Fingerprint(), k.Version, k.Pinned, k.NotAfter.UnixNano())
		for _, o := range k.Older {
			fmt.Fprintf(sum, " %s %d %d\n", o.Value.Fingerprint(), o.Version, o.Until.UnixNano())
		}
	}
	var out [sha256.Size]byte
	sum.Sum(out[:0])
	return out
}
