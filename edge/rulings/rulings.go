// Package rulings keeps what operators and trials decided about versions of
// certificates: which were revoked and which were rolled back. The decisions are an
// input of every build, and are kept in a file of the data folder so that a restart
// does not bring back what was left. Revocations are shared with the replicas. No
// secret is in it.
package rulings

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keyway-edge/keyway/certs"
)

// FileName is the file's name inside the data folder.
const FileName = "rulings.json"

// format is the version of the file.
const format = 1

const (
	mostHolds = 10_000              // rolled back versions; of revoked ones none is ever pushed out
	grace     = 30 * 24 * time.Hour // a version that ended is told of for so long
)

// Entry is a decision about one version.
type Entry struct {
	Fingerprint string      `json:"fingerprint"` // SHA-256 of the leaf, hex
	Check       certs.Check `json:"ruling"`      // revoked or rolled_back
	Reason      string      `json:"reason"`
	Stop        bool        `json:"stop,omitempty"` // rather serve nothing than this
	Certificate string      `json:"certificate"`    // its id, "default" for the default slot
	Name        string      `json:"name"`           // of the slot
	Actor       string      `json:"actor"`
	At          time.Time   `json:"at"`
	NotAfter    time.Time   `json:"not_after,omitzero"` // of the version
}

func (e Entry) ruling() certs.Ruling {
	return certs.Ruling{Check: e.Check, Reason: e.Reason, Stop: e.Stop}
}

// forgotten says that the version ended so long ago that nobody asks.
func (e Entry) forgotten(now time.Time) bool {
	return !e.NotAfter.IsZero() && !now.Before(e.NotAfter.Add(grace))
}

// Store keeps the decisions. Its methods may be called by any goroutine.
type Store struct {
	path    string
	learned chan struct{} // a replica decided something
	revoked chan struct{} // this node did

	mu       sync.Mutex // guards all that follows
	all      map[string]Entry
	view     map[string]Entry // a copy that readers share; nil when it is stale
	released bool             // another process keeps the file
}

// file is what is on disk.
type file struct {
	Format  int     `json:"format"`
	Rulings []Entry `json:"rulings"`
}

// Open reads the decisions of the data folder dir. A file that cannot be read is an
// error: without it a version that was revoked would serve again.
func Open(dir string, now time.Time) (*Store, error) {
	s := &Store{path: filepath.Join(dir, FileName), all: map[string]Entry{}, learned: make(chan struct{}, 1), revoked: make(chan struct{}, 1)}
	return s, s.read(now)
}

// read takes what the file has beside what is known.
func (s *Store) read(now time.Time) error {
	text, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the rulings on certificates: %w", err)
	}
	var f file
	if err := json.Unmarshal(text, &f); err != nil {
		return fmt.Errorf("reading the rulings on certificates in %s: %w; restore the file, or remove it if no certificate in use was ever revoked or rolled back", s.path, err)
	}
	if f.Format != format {
		return fmt.Errorf("reading the rulings on certificates in %s: it has format %d, expected %d: a newer version of this program wrote it", s.path, f.Format, format)
	}
	for _, e := range f.Rulings {
		if e.Check != certs.CheckRevoked && e.Check != certs.CheckRolledBack || e.Fingerprint == "" {
			return fmt.Errorf("reading the rulings on certificates in %s: ruling %q on %q; expected %q or %q on a fingerprint", s.path, e.Check, e.Fingerprint, certs.CheckRevoked, certs.CheckRolledBack)
		}
		if !e.forgotten(now) && s.all[e.Fingerprint].Check != certs.CheckRevoked {
			s.all[e.Fingerprint] = e
		}
	}
	return nil
}

// Release leaves the file to another process. What is decided from now on holds here,
// and is kept if Reclaim follows.
func (s *Store) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.released = true
}

// Reclaim takes the file back, and what another process has decided by now.
func (s *Store) Reclaim(now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.released {
		return nil
	}
	s.released = false
	if err := s.read(now); err != nil {
		return err
	}
	hint(s.learned)
	return s.keep()
}

// View is the decisions of this moment, as builds ask for them.
func (s *Store) View() certs.Rulings {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.view == nil {
		s.view = maps.Clone(s.all)
	}
	view := s.view
	return func(fingerprint string) (certs.Ruling, bool) {
		e, ok := view[fingerprint]
		return e.ruling(), ok
	}
}

// List answers the decisions, newest first.
func (s *Store) List() []Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.list()
}

func (s *Store) list() []Entry {
	return slices.SortedFunc(maps.Values(s.all), func(a, b Entry) int {
		if c := b.At.Compare(a.At); c != 0 {
			return c
		}
		return strings.Compare(a.Fingerprint, b.Fingerprint)
	})
}

// Revoke keeps revocations, for good: a version that was revoked never serves again.
// They hold at once; an error says that they would not outlive a restart.
func (s *Store) Revoke(entries ...Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range entries {
		e.Check = certs.CheckRevoked
		s.all[e.Fingerprint] = e
	}
	hint(s.revoked)
	return s.keep()
}

// Hold makes held the versions of a certificate that were rolled back, in place of
// those before; revocations stay. Like Revoke it holds at once. Nothing new writes
// nothing.
func (s *Store) Hold(certificate string, held ...Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := maps.Clone(s.all)
	maps.DeleteFunc(next, func(_ string, e Entry) bool {
		return e.Check == certs.CheckRolledBack && e.Certificate == certificate
	})
	for _, e := range held {
		e.Check, e.Certificate = certs.CheckRolledBack, certificate
		old, known := s.all[e.Fingerprint]
		switch {
		case known && old.Check == certs.CheckRevoked:
			continue
		case known && old.Certificate == certificate && old.Reason == e.Reason:
			e = old // the first word on it stands
		}
		next[e.Fingerprint] = e
	}
	if maps.Equal(next, s.all) {
		return nil
	}
	s.all = next
	return s.keep()
}

// keep writes the file, with mu held.
func (s *Store) keep() error {
	s.view = nil
	if s.released {
		return nil
	}
	list := s.list()
	for i, holds := len(list)-1, s.holds(); i >= 0 && holds > mostHolds; i-- {
		if list[i].Check == certs.CheckRolledBack {
			delete(s.all, list[i].Fingerprint)
			holds--
		}
	}
	text, err := json.MarshalIndent(file{format, s.list()}, "", "  ")
	if err == nil {
		err = replace(s.path, append(text, '\n'))
	}
	if err != nil {
		return fmt.Errorf("keeping the rulings on certificates, which hold until this node stops: %w", err)
	}
	return nil
}

func (s *Store) holds() int {
	n := 0
	for _, e := range s.all {
		if e.Check == certs.CheckRolledBack {
			n++
		}
	}
	return n
}

// replace writes a file whole or not at all.
func replace(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
