// Package statefolder keeps what replicas share in a sealed folder: on the disk of
// a single node, or on a volume that all of them mount.
//
// Each value is a file of its own, encrypted and authenticated together with the
// key that it is kept under, so that one file cannot stand for another. Names of
// files are keyed hashes: the folder tells neither values nor server names. Writers
// exclude each other with flock(2), which a shared volume must support; readers
// need no lock because files are replaced whole.
package statefolder

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/secrets"
)

// KeyLabel begins the line of a key file for such a folder: secrets.ReadKey, MakeKey.
const KeyLabel = "KEYWAY-STATE-KEY-1"

const (
	magic    = "keyway-state-1\n" // of each file
	keySize  = 32
	maxValue = 4 << 20
	suffix   = ".state"
	lockName = ".lock"
	checkKey = "/check" // no caller's key begins with a slash
)

// Folder is a certs.SharedState. Safe for concurrent use, also by many processes.
type Folder struct {
	dir string
	key []byte
}

// Open makes the folder where there is none, and refuses one that others than its
// owner may write or that was sealed with another key of 32 bytes.
func Open(ctx context.Context, dir string, key []byte) (*Folder, error) {
	if len(key) != keySize {
		return nil, fmt.Errorf("opening state folder %s: %w: it has %d bytes, %d are expected", dir, secrets.ErrKey, len(key), keySize)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening the state folder: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the state folder: %w", err)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("opening state folder %s: it has mode %v; expected one that only its owner may write: chmod 700 %s", dir, info.Mode().Perm(), dir)
	}
	f := &Folder{dir: dir, key: append([]byte(nil), key...)}
	if err := f.check(ctx); err != nil {
		return nil, fmt.Errorf("opening state folder %s: %w", dir, err)
	}
	return f, nil
}

// check holds the key against a value that the first Open of the folder left.
func (f *Folder) check(ctx context.Context) error {
	// Its name must not depend on the key that is in question.
	path := filepath.Join(f.dir, "check"+suffix)
	return f.exclusive(ctx, func() error {
		f.tidy()
		_, _, err := f.read(path, checkKey)
		if errors.Is(err, certs.ErrNoState) {
			_, err = f.write(path, checkKey, []byte("keyway"))
		}
		return err
	})
}

// tidy removes what writers left that were killed: no other one writes now.
func (f *Folder) tidy() {
	left, _ := filepath.Glob(filepath.Join(f.dir, ".*"+suffix+".*")) // the pattern is good
	for _, path := range left {
		_ = os.Remove(path) // in nobody's way
	}
}

// Load answers a value and its version.
func (f *Folder) Load(ctx context.Context, key string) ([]byte, string, error) {
	if err := usable(ctx, key); err != nil {
		return nil, "", err
	}
	return f.read(f.path(key), key)
}

// Swap replaces the value of one version.
func (f *Folder) Swap(ctx context.Context, key, old string, value []byte) (version string, err error) {
	if err := usable(ctx, key); err != nil {
		return "", err
	}
	if len(value) > maxValue {
		return "", fmt.Errorf("state %s has %d bytes, at most %d are expected", key, len(value), maxValue)
	}
	err = f.exclusive(ctx, func() error {
		_, now, err := f.read(f.path(key), key)
		if err != nil && !errors.Is(err, certs.ErrNoState) {
			return err
		}
		if now != old {
			return fmt.Errorf("%w: %s", certs.ErrConflict, key)
		}
		version, err = f.write(f.path(key), key, value)
		return err
	})
	return version, err
}

// Delete removes the value of one version.
func (f *Folder) Delete(ctx context.Context, key, version string) error {
	if err := usable(ctx, key); err != nil {
		return err
	}
	return f.exclusive(ctx, func() error {
		_, now, err := f.read(f.path(key), key)
		if err != nil {
			return err
		}
		if now != version {
			return fmt.Errorf("%w: %s", certs.ErrConflict, key)
		}
		if err := os.Remove(f.path(key)); err != nil {
			return fmt.Errorf("removing state %s: %w", key, err)
		}
		return nil
	})
}

func usable(ctx context.Context, key string) error {
	if err := certs.CheckStateKey(key); err != nil {
		return err
	}
	if key[0] == '/' {
		return fmt.Errorf("state key %q begins with a slash", key)
	}
	return ctx.Err()
}

// path is the file of a key.
func (f *Folder) path(key string) string {
	m := hmac.New(sha256.New, f.key)
	m.Write([]byte("name\x00" + key))
	return filepath.Join(f.dir, hex.EncodeToString(m.Sum(nil)[:20])+suffix)
}

func (f *Folder) read(path, key string) (value []byte, version string, err error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", fmt.Errorf("%w: %s", certs.ErrNoState, key)
	}
	if err != nil {
		return nil, "", fmt.Errorf("reading state %s: %w", key, err)
	}
	defer file.Close()
	box, err := io.ReadAll(io.LimitReader(file, maxValue+1024))
	if err != nil {
		return nil, "", fmt.Errorf("reading state %s: %w", key, err)
	}
	value, err = secrets.Unseal(f.key, magic, key, box)
	if err != nil {
		return nil, "", fmt.Errorf("reading state %s from %s: %w", key, path, err)
	}
	return value, versionOf(box), nil
}

func (f *Folder) write(path, key string, value []byte) (string, error) {
	box, err := secrets.Seal(f.key, magic, key, value)
	if err != nil {
		return "", fmt.Errorf("writing state %s: %w", key, err)
	}
	if err := secrets.ReplaceFile(path, box); err != nil {
		return "", fmt.Errorf("writing state %s: %w", key, err)
	}
	return versionOf(box), nil
}

// versionOf is different for every write.
func versionOf(box []byte) string { return hex.EncodeToString(secrets.SealVersion(magic, box)) }

// tryAgain is how often a lock that another process has is asked for. It is held
// for as long as one file takes to be written.
const tryAgain = 5 * time.Millisecond

// exclusive runs do while no other writer, here or in another process, runs.
func (f *Folder) exclusive(ctx context.Context, do func() error) error {
	file, err := os.OpenFile(filepath.Join(f.dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("locking the state folder: %w", err)
	}
	defer file.Close() // unlocks
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return do()
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return fmt.Errorf("locking state folder %s: %w; expected a file system with flock", f.dir, err)
		}
		wait := time.NewTimer(tryAgain)
		select {
		case <-ctx.Done():
			wait.Stop()
			return fmt.Errorf("locking state folder %s: %w", f.dir, ctx.Err())
		case <-wait.C:
		}
	}
}
