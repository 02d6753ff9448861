// Package sealed is the local store of secrets, encrypted at rest.
//
// The store is one file: AES-256-GCM over all secrets, names included, under a
// key that HKDF derives for each write from a key file and a fresh salt. One box
// for all means that secrets cannot be cut out, swapped or renamed without the
// key. An asymmetric format such as age was not taken because whoever knows its
// recipient can make a valid file, and here only the key's holder shall be able
// to write; what no cipher can show is that the whole file was put back to an
// older copy, so the file and its key are for their owner alone.
//
// {vault://sealed/name} is a whole secret, {vault://sealed/name/key} a string of
// one that is a JSON object; #2 is the value before the current one, #3 the one
// before that. Secrets are put, removed and listed by the command "keyway
// secrets", beside a running node, which notices.
package sealed

import (
	"cmp"
	"context"
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
	"unicode"

	"github.com/keyway-edge/keyway/secrets"
	"github.com/keyway-edge/keyway/secrets/watch"
)

// The bounds of the store.
const (
	MaxValue  = 1 << 20 // bytes of one secret
	maxStore  = 64 << 20
	maxName   = 512
	keepOlder = 4
)

const (
	magic    = "keyway-sealed-1\n" // of the store; authenticated with the content
	keyLabel = "KEYWAY-SEALED-KEY-1"
)

// Config is the settings of the store.
type Config struct {
	Path    string // of the store; best in a folder of its own, which is watched and made when the first secret is put
	KeyFile string // "" for Path + ".key"; keep it on another volume where the disk may be stolen
	Keep    int    // versions kept before the current one; 0 means 4
}

// Parse reads the settings of a vault: path, key_file, keep. Its error names the
// field and what was expected.
func Parse(config map[string]any) (Config, error) {
	var c Config
	for name, v := range config {
		switch name {
		case "path", "key_file":
			s, ok := v.(string)
			if v != nil && (!ok || !filepath.IsAbs(s)) {
				return Config{}, fmt.Errorf("config.%s: it is no absolute path; expected the absolute path of a file", name)
			}
			if name == "path" {
				c.Path = s
			} else {
				c.KeyFile = s
			}
		case "keep":
			n, ok := v.(int)
			if f, isFloat := v.(float64); isFloat && f == float64(int(f)) {
				n, ok = int(f), true
			}
			if !ok || n < 1 || n > 100 {
				return Config{}, errors.New("config.keep: expected a number of versions from 1 to 100")
			}
			c.Keep = n
		default:
			return Config{}, fmt.Errorf("config.%s: unknown field; expected path, key_file or keep", name)
		}
	}
	if c.Path == "" {
		return Config{}, errors.New("config.path: it is missing; expected the absolute path of a file")
	}
	return c, nil
}

// Open is the secrets.Opener of this kind.
func Open(config map[string]any) (secrets.Source, error) {
	c, err := Parse(config)
	if err != nil {
		return nil, err
	}
	return New(c), nil
}

// Store is a sealed store; several may be open on one file, in several processes.
type Store struct {
	cfg     Config
	folders *watch.Folders

	mu   sync.Mutex // guards the group below: the content as last read
	info fs.FileInfo
	last content
}

// content is what is sealed.
type content map[string][]version // newest first

type version struct {
	N     int       `json:"n"` // 1 for the first ever
	Made  time.Time `json:"made"`
	Value []byte    `json:"value"`
}

// Entry tells of one secret without its value.
type Entry struct {
	Name     string
	Version  int // counts the values put, from 1
	Kept     int // values that can be read, the current one included
	Modified time.Time
}

// New makes a Store. Nothing is read or made before it is used.
func New(c Config) *Store {
	c.KeyFile = cmp.Or(c.KeyFile, c.Path+".key")
	c.Keep = cmp.Or(c.Keep, keepOlder)
	return &Store{cfg: c, folders: watch.New(filepath.Dir(c.Path))}
}

// Touched answers whether the file may have changed since it was asked last; others
// in its folder change more often.
func (s *Store) Touched() func(resource string) bool {
	paths, all := s.folders.Touched()
	for _, p := range paths {
		// What a mount keeps beside it decides about its links.
		bookkeeping := strings.HasPrefix(filepath.Base(p), "..")
		all = all || bookkeeping || p == filepath.Clean(s.cfg.Path) || p == filepath.Clean(s.cfg.KeyFile) || p == filepath.Dir(s.cfg.Path)
	}
	return func(string) bool { return all }
}

// Reference is how a document refers to a whole secret of a vault. A name with a
// slash needs the slash at the end, or its last part would be taken for a key.
func Reference(vault, name string) string {
	escaped := strings.NewReplacer("%", "%25", "?", "%3F", "#", "%23", "}", "%7D", "{", "%7B", " ", "%20").Replace(name)
	if strings.Contains(name, "/") {
		escaped += "/"
	}
	return "{vault://" + vault + "/" + escaped + "}"
}

// Run watches the store's folder until ctx ends.
func (s *Store) Run(ctx context.Context) error { return s.folders.Run(ctx) }

// Changed hints that the store may have changed.
func (s *Store) Changed() <-chan struct{} { return s.folders.Changed() }

// Fetch answers one secret.
func (s *Store) Fetch(ctx context.Context, r secrets.Request) (secrets.Lease, error) {
	if err := ctx.Err(); err != nil {
		return secrets.Lease{}, err
	}
	for name := range r.Options {
		return secrets.Lease{}, fmt.Errorf("reading sealed secret %s: unknown option %s; expected none", r.Resource, name)
	}
	all, err := s.read()
	if err != nil {
		return secrets.Lease{}, fmt.Errorf("reading sealed secret %s: %w", r.Resource, err)
	}
	kept := all[r.Resource]
	i := max(r.Version, 1) - 1
	if i >= len(kept) {
		if len(kept) > 0 {
			return secrets.Lease{}, fmt.Errorf("reading sealed secret %s: %w in version #%d; %d are kept", r.Resource, secrets.ErrNotFound, r.Version, len(kept))
		}
		gone := secrets.ErrNotFound
		if all != nil { // a store that is whole and does not have it: somebody removed it to end it
			gone = secrets.ErrRemoved
		}
		return secrets.Lease{}, fmt.Errorf("reading sealed secret %s: %w; put it with \"keyway secrets put\"", r.Resource, gone)
	}
	v := kept[i]
	return secrets.Lease{Value: secrets.NewValue(slices.Clone(v.Value)), Version: fmt.Sprint(v.N), Modified: v.Made}, nil
}

// Put makes value the current version of a secret and answers the version's
// number. The value that is current already makes no new version. The first Put
// makes the store and, unless there is one, its key file.
func (s *Store) Put(name string, value []byte) (int, error) {
	if err := checkName(name); err != nil {
		return 0, err
	}
	if len(value) == 0 || len(value) > MaxValue {
		return 0, fmt.Errorf("sealed secret %s: its value has %d bytes; expected 1 to %d", name, len(value), MaxValue)
	}
	n := 0
	err := s.change(func(all content) (bool, error) {
		kept := all[name]
		if len(kept) > 0 && slices.Equal(kept[0].Value, value) {
			n = kept[0].N
			return false, nil
		}
		n = 1
		if len(kept) > 0 {
			n = kept[0].N + 1
		}
		kept = slices.Insert(slices.Clone(kept), 0, version{n, time.Now().UTC(), slices.Clone(value)})
		all[name] = kept[:min(len(kept), s.cfg.Keep+1)]
		return true, nil
	})
	if err != nil {
		return 0, fmt.Errorf("putting sealed secret %s: %w", name, err)
	}
	return n, nil
}

// Remove forgets a secret with all its versions.
func (s *Store) Remove(name string) error {
	err := s.change(func(all content) (bool, error) {
		if all[name] == nil {
			return false, secrets.ErrNotFound
		}
		delete(all, name)
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("removing sealed secret %s: %w", name, err)
	}
	return nil
}

// List tells of every secret, by name in order. A store that was never written is empty.
func (s *Store) List() ([]Entry, error) {
	all, err := s.read()
	if err != nil {
		return nil, fmt.Errorf("listing sealed secrets: %w", err)
	}
	var list []Entry
	for _, name := range slices.Sorted(maps.Keys(all)) {
		v := all[name]
		list = append(list, Entry{name, v[0].N, len(v), v[0].Made})
	}
	return list, nil
}

// checkName refuses names that a reference or a terminal would trip over.
func checkName(name string) error {
	odd := func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }
	if name == "" || len(name) > maxName || strings.ContainsFunc(name, odd) || strings.HasPrefix(name, "/") || strings.HasSuffix(name, "/") {
		return fmt.Errorf("name %q of a sealed secret: expected 1 to %d bytes of printable text without a slash at its ends", name, maxName)
	}
	return nil
}

// read answers the content as it is now. It is shared: callers do not change it.
func (s *Store) read() (content, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := os.Open(s.cfg.Path)
	if errors.Is(err, fs.ErrNotExist) {
		s.info, s.last = nil, nil
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("opening the sealed store: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("opening the sealed store: %w", err)
	}
	// The file is only ever replaced, so the same file is the same content, and
	// many references cost one decryption.
	if s.info != nil && os.SameFile(info, s.info) && info.ModTime().Equal(s.info.ModTime()) && info.Size() == s.info.Size() {
		return s.last, nil
	}
	if info.Size() > maxStore {
		return nil, fmt.Errorf("opening the sealed store: %s has %d bytes; expected at most %d", s.cfg.Path, info.Size(), maxStore)
	}
	box := make([]byte, info.Size())
	if _, err := f.ReadAt(box, 0); err != nil {
		return nil, fmt.Errorf("opening the sealed store: %w", err)
	}
	all, err := s.decode(box)
	if err != nil {
		return nil, fmt.Errorf("opening the sealed store %s: %w", s.cfg.Path, err)
	}
	s.info, s.last = info, all
	return all, nil
}

func (s *Store) decode(box []byte) (content, error) {
	key, err := secrets.ReadKey(s.cfg.KeyFile, keyLabel)
	if err != nil {
		return nil, err
	}
	plain, err := secrets.Unseal(key, magic, "", box)
	if err != nil {
		return nil, err
	}
	var all content
	if err := json.Unmarshal(plain, &all); err != nil {
		return nil, errors.New("decoding its content: expected what this program wrote") // the decoder's text could quote a value
	}
	for name, kept := range all {
		if len(kept) == 0 {
			delete(all, name)
		}
	}
	return all, nil
}

// change reads, changes and replaces the store while no one else can.
func (s *Store) change(f func(all content) (changed bool, err error)) error {
	if err := private(filepath.Dir(s.cfg.Path)); err != nil {
		return err
	}
	release, err := lock(s.cfg.Path + ".lock")
	if err != nil {
		return err
	}
	defer release()
	shared, err := s.read()
	if err != nil {
		return err
	}
	all := maps.Clone(shared)
	if all == nil {
		all = make(content)
	}
	changed, err := f(all)
	if err != nil || !changed {
		return err
	}
	key, err := secrets.ReadKey(s.cfg.KeyFile, keyLabel)
	if errors.Is(err, fs.ErrNotExist) && shared == nil {
		key, err = secrets.MakeKey(s.cfg.KeyFile, keyLabel)
	}
	if err != nil {
		return err
	}
	plain, err := json.Marshal(all)
	if err != nil {
		return errors.New("encoding the sealed store")
	}
	box, err := secrets.Seal(key, magic, "", plain)
	if err != nil {
		return err
	}
	if len(box) > maxStore {
		return fmt.Errorf("the sealed store would have %d bytes; expected at most %d: remove secrets or keep fewer versions", len(box), maxStore)
	}
	return secrets.ReplaceFile(s.cfg.Path, box)
}
