package lastgood

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"
	"time"

	"github.com/keyway-edge/keyway/secrets"
)

// write brings the file up to date unless it is.
func (s *Store) write(ctx context.Context) error {
	now, err := s.cfg.Serving(ctx)
	if err != nil {
		return fmt.Errorf("collecting what is served: %w", err)
	}
	if now.Document == nil {
		return nil
	}
	rest := s.rest()
	arrange(now.Kept, rest)
	if s.encodedOf == now.Document && s.has(digestOf(s.encoded, now.Kept, rest)) {
		return nil
	}
	return s.put(ctx, now, rest)
}

// has says that the file holds what has this digest, confirmed not long ago.
func (s *Store) has(digest [sha256.Size]byte) bool {
	return digest == s.digest && time.Since(s.Facts().Written) < freshen
}

// rest answers what is called between parts of a write. In the second half of its time a
// write has no more of it to give away: on a node that is never idle it would not end.
func (s *Store) rest() func() {
	began := time.Now()
	return func() {
		if s.cfg.Pause != nil && time.Since(began) < writeLimit/2 {
			s.cfg.Pause()
		}
	}
}

// put writes the file, then its number: a crash between leaves a number that is too
// low, which refuses nothing. What is written in pieces beside the file is dropped when
// it turns out that the file has the same.
func (s *Store) put(ctx context.Context, now Serving, rest func()) error {
	if err := private(s.cfg.Dir); err != nil {
		return err
	}
	h := head{Node: s.cfg.Node, Sequence: s.Facts().Sequence + 1, Written: time.Now().UTC()}
	var key []byte
	var err error
	if key, h.Wrapped, err = s.cfg.Keys.New(ctx); err != nil {
		return fmt.Errorf("its key: %w", err)
	}
	file, err := secrets.Replace(s.path())
	if err != nil {
		return err
	}
	defer file.Drop()
	out := &meter{to: file, over: ctx.Err, rest: rest}
	sum, err := pack(out, key, h, now, rest)
	if err != nil {
		return err
	}
	s.encodedOf, s.encoded = now.Document, sum
	digest := digestOf(sum, now.Kept, rest)
	if s.has(digest) {
		return nil
	}
	s.digest = [sha256.Size]byte{} // until it is known which of the two is there
	if err := file.Commit(); err != nil {
		return err
	}
	rest()
	mark, err := packMark(key, h)
	if err != nil {
		return err
	}
	if err := secrets.ReplaceFile(s.cfg.Mark, mark); err != nil {
		return err
	}
	s.digest = digest
	s.mu.Lock()
	defer s.mu.Unlock()
	s.facts.Written, s.facts.Sequence, s.facts.Size = h.Written, h.Sequence, out.size
	s.facts.Writes++
	return nil
}

// meter is the way to the file: it holds a write to its time and its size, and rests
// after each piece.
type meter struct {
	to   io.Writer
	over func() error // why the time is over
	rest func()
	size int
}

// Write passes on one piece.
func (m *meter) Write(p []byte) (int, error) {
	if err := m.over(); err != nil {
		return 0, fmt.Errorf("after %d bytes; at most %v are expected for all: %w", m.size, writeLimit, err)
	}
	if m.size += len(p); m.size > maxFile {
		return 0, fmt.Errorf("it would have more than %d bytes, at most as many are expected", maxFile)
	}
	n, err := m.to.Write(p)
	m.rest()
	return n, err
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

// counted calls rest at each so manieth call.
func counted(most int, rest func()) func() {
	n := 0
	return func() {
		if n++; n%most == 0 {
			rest()
		}
	}
}

// arrange puts values in the order of their references.
func arrange(kept []secrets.Kept, rest func()) {
	step := counted(16*pieceKept, rest) // comparing is quick
	slices.SortFunc(kept, func(a, b secrets.Kept) int {
		step()
		return cmp.Compare(a.Ref, b.Ref)
	})
}

// digestOf tells whether there is anything to write: it leaves out when sources
// confirmed values, which changes all the time.
func digestOf(document [sha256.Size]byte, kept []secrets.Kept, rest func()) [sha256.Size]byte {
	sum := sha256.New()
	sum.Write(document[:])
	step := counted(pieceKept, rest)
	for i := range kept {
		step()
		digestKept(sum, &kept[i])
	}
	var out [sha256.Size]byte
	sum.Sum(out[:0])
	return out
}

func digestKept(sum hash.Hash, k *secrets.Kept) {
	fmt.Fprintf(sum, "%q %s %d %d %d\n", k.Ref, k.Value.Fingerprint(), k.Version, k.Pinned, k.NotAfter.UnixNano())
	for _, o := range k.Older {
		fmt.Fprintf(sum, " %s %d %d\n", o.Value.Fingerprint(), o.Version, o.Until.UnixNano())
	}
}
