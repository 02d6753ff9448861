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
	"path"
	"path/filepath"
	"strconv"

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
}

// New makes a Source.
func New(c Config) *Source {
	return &Source{c, watch.New(c.Root)}
}

// Run watches folders until ctx ends.
func (s *Source) Run(ctx context.Context) error { return s.folders.Run(ctx) }

// Changed hints that a file may have changed.
func (s *Source) Changed() <-chan struct{} { return s.folders.Changed() }

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
	lease, folder, err := read(s.cfg.Root, name, keep)
	if folder {
		s.folders.Add(filepath.Join(s.cfg.Root, filepath.FromSlash(name)))
	}
	return lease, err
}
