// Package file is the source of secrets in mounted files.
//
// Below its root folder, {vault://file/name} and {vault://file/folder/name/} are
// the whole content of a file. In {vault://file/x/name}, x may be a folder, whose
// files are the keys, or a file that holds a JSON object with the key name. A
// folder is read as one resource, and where kubelet or a tool like it swaps the
// link "..data" inside, all files come from the same generation: a certificate
// and its key never mix two. Links that lead out of the root are refused.
//
// One line end at the end of a file is not part of the secret, unless the
// setting or the option "trim" is false. A file of a folder that is not UTF-8
// text cannot be a key; as a resource of its own it can be read.
package file

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/keyway-edge/keyway/secrets"
	"github.com/keyway-edge/keyway/secrets/watch"
)

// Limit is the most bytes that a file, or all files of a folder, may have.
const Limit = 1 << 20

// Config is the settings of the source.
type Config struct {
	Root string // the folder below which everything is read; must be absolute
	Keep bool   // keep the line end at the end of files (setting "trim" is its opposite, default true)
}

// Parse reads the settings of a vault. Its error names the field and what was expected.
func Parse(config map[string]any) (Config, error) {
	var c Config
	for name, v := range config {
		switch name {
		case "root":
			c.Root, _ = v.(string)
		case "trim":
			trim, ok := v.(bool)
			if !ok && v != nil {
				return Config{}, fmt.Errorf("config.trim: it is neither true nor false; expected one of them")
			}
			c.Keep = ok && !trim
		default:
			return Config{}, fmt.Errorf("config.%s: unknown field; expected root or trim", name)
		}
	}
	if !filepath.IsAbs(c.Root) {
		return Config{}, fmt.Errorf("config.root: it is missing or relative; expected the absolute path of a folder")
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

// Source reads files. It hints at changes in the folders it was asked about.
type Source struct {
	cfg     Config
	folders *watch.Folders

	mu     sync.Mutex      // guards linked
	linked map[string]bool // files that are links to another folder
}

// New makes a Source.
func New(c Config) *Source {
	return &Source{cfg: c, folders: watch.New(c.Root), linked: make(map[string]bool)}
}

// Run watches folders until ctx ends.
func (s *Source) Run(ctx context.Context) error { return s.folders.Run(ctx) }

// Changed hints that a file may have changed.
func (s *Source) Changed() <-chan struct{} { return s.folders.Changed() }

// note remembers whether a file is a link to another folder. Links into a mount's
// own generation are no such links.
func (s *Source) note(name string) {
	target, err := os.Readlink(filepath.Join(s.cfg.Root, filepath.FromSlash(name)))
	elsewhere := err == nil && strings.Contains(target, "/") && !strings.HasPrefix(target, link+"/")
	s.mu.Lock()
	defer s.mu.Unlock()
	if elsewhere {
		s.linked[name] = true
	} else {
		delete(s.linked, name)
	}
}

// Touched answers which files and folders may have changed since it was asked last.
func (s *Source) Touched() func(resource string) bool {
	paths, all := s.folders.Touched()
	t := touched{all: all, at: make(map[string]bool), over: make(map[string]bool)}
	for _, p := range paths {
		rel, err := filepath.Rel(s.cfg.Root, p)
		if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
			t.all = true
			break
		}
		t.add(filepath.ToSlash(rel))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t.linked = maps.Clone(s.linked)
	return t.has
}

// touched is a set of paths below the root.
type touched struct {
	all    bool
	at     map[string]bool // these, and all below them
	over   map[string]bool // the folders above these
	linked map[string]bool // links to another folder, where nobody sees what happens
}

func (t *touched) add(p string) {
	// What a mount keeps there decides about all that is beside it.
	if strings.HasPrefix(path.Base(p), "..") {
		p = path.Dir(p)
	}
	t.at[p] = true
	for p != "." {
		p = path.Dir(p)
		t.over[p] = true
	}
}

func (t *touched) has(resource string) bool {
	name := clean(resource)
	if t.all || t.over[name] || t.at["."] || t.linked[name] {
		return true
	}
	for ; name != "."; name = path.Dir(name) {
		if t.at[name] {
			return true
		}
	}
	return false
}

// clean is a resource as a path below the root.
func clean(resource string) string {
	return path.Clean(strings.TrimLeft(path.Join("/", resource), "/"))
}

// Fetch answers a file, or a folder as a JSON object of its files.
func (s *Source) Fetch(ctx context.Context, r secrets.Request) (secrets.Lease, error) {
	if err := ctx.Err(); err != nil {
		return secrets.Lease{}, err
	}
	keep := s.cfg.Keep
	for name, v := range r.Options {
		trim, err := strconv.ParseBool(v)
		if name != "trim" || err != nil {
			return secrets.Lease{}, fmt.Errorf("reading file %s: option %s is unknown or wrong; expected trim=true or trim=false", r.Resource, name)
		}
		keep = !trim
	}
	if r.Version > 1 {
		return secrets.Lease{}, fmt.Errorf("reading version %d of file %s: %w; a file has only its current version", r.Version, r.Resource, secrets.ErrNotFound)
	}
	// The folder is watched even while there is no such file: it may come.
	name := path.Clean(r.Resource)
	s.folders.Add(filepath.Join(s.cfg.Root, filepath.Dir(filepath.FromSlash(path.Join("/", name)))))
	s.note(clean(name))
	lease, folder, err := read(s.cfg.Root, name, keep)
	if folder {
		s.folders.Add(filepath.Join(s.cfg.Root, filepath.FromSlash(name)))
	}
	return lease, err
}
