package sealed

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// lock keeps other writers, in this process or another, out until release.
func lock(path string) (release func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the sealed store: %w", err)
	}
	for {
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX); !errors.Is(err, syscall.EINTR) {
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
