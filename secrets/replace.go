package secrets

import (
	"fmt"
	"os"
	"path/filepath"
)

// ReplaceFile makes content the content of a file, for its owner alone (0600),
// such that after a crash at any moment it is the old or the new, whole.
func ReplaceFile(path string, content []byte) error {
	r, err := Replace(path)
	if err != nil {
		return err
	}
	defer r.Drop()
	if _, err := r.Write(content); err != nil {
		return err
	}
	return r.Commit()
}

// Replacement is a file that is written in pieces and takes another's place when it is
// whole: ReplaceFile for what is too large to have in memory. Make one with Replace.
type Replacement struct {
	path string
	file *os.File // nil after its end
}

// Replace begins a file for its owner alone (0600) beside the one that it is to replace.
// Drop it whatever comes of it.
func Replace(path string) (*Replacement, error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // made with mode 0600
	if err != nil {
		return nil, fmt.Errorf("writing %s: %w", path, err)
	}
	return &Replacement{path, f}, nil
}

// Write adds to the file.
func (r *Replacement) Write(p []byte) (int, error) {
	n, err := r.file.Write(p)
	if err != nil {
		return n, fmt.Errorf("writing %s: %w", r.path, err)
	}
	return n, nil
}

// Commit puts the file in the other's place. After a crash at any moment there is the old
// one or the new, whole.
func (r *Replacement) Commit() error {
	err := r.file.Sync()
	if closed := r.file.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(r.file.Name(), r.path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", r.path, err)
	}
	r.file = nil
	dir := filepath.Dir(r.path)
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing %s: %w", dir, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("syncing %s: %w", dir, err)
	}
	return nil
}

// Drop takes the file away again unless it was committed.
func (r *Replacement) Drop() {
	if r.file == nil {
		return
	}
	_ = r.file.Close() // in vain after a Commit that failed
	_ = os.Remove(r.file.Name())
	r.file = nil
}
