package sealed

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// replace makes content the content of a file, for its owner alone, such that
// after a crash at any moment it is the old or the new, whole.
func replace(path string, content []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // made with mode 0600
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer os.Remove(f.Name()) // in vain after the rename
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
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

// lock keeps other writers, in this process or another, out until release.
func lock(path string) (release func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the sealed store: %w", err)
	}
	for {
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != syscall.EINTR { //nolint:errorlint // an errno, never wrapped
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("locking the sealed store: %w", err)
	}
	return func() { f.Close() }, nil
}

// private makes a folder for its owner alone and refuses one that others may write.
func private(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the folder of the sealed store: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("making the folder of the sealed store: %w", err)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("folder %s of the sealed store has mode %v; expected one that only its owner may write: chmod 700 %s", dir, info.Mode().Perm(), dir)
	}
	return nil
}
