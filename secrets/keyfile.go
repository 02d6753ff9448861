package secrets

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

const keySize = 32

// ErrKey says that a key file is missing, open to others, or holds no key, or
// another key than the one that made what is read with it.
var ErrKey = errors.New("the key cannot be used")

// ReadKey reads a key of 32 bytes from a file that only its owner can read. The
// label tells kinds of key apart, so that none is used in another's place.
func ReadKey(path, label string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%w: %s has mode %v; expected a file for its owner alone: chmod 600 %s", ErrKey, path, info.Mode(), path)
	}
	text := make([]byte, 256)
	n, err := f.Read(text)
	if err != nil {
		return nil, fmt.Errorf("%w: reading %s: %w", ErrKey, path, err)
	}
	encoded, ok := strings.CutPrefix(strings.TrimSpace(string(text[:n])), label+" ")
	key, err := base64.StdEncoding.DecodeString(encoded)
	if !ok || err != nil || len(key) != keySize {
		return nil, fmt.Errorf("%w: %s holds no such key; expected one line that begins with %s", ErrKey, path, label)
	}
	return key, nil
}

// MakeKey makes a key file where there is none, whole or not at all.
func MakeKey(path, label string) ([]byte, error) {
	key := make([]byte, keySize)
	rand.Read(key) // never fails
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s is in the way of a new key file", ErrKey, path)
	}
	if err := ReplaceFile(path, []byte(label+" "+base64.StdEncoding.EncodeToString(key)+"\n")); err != nil {
		return nil, fmt.Errorf("making a key file: %w", err)
	}
	return key, nil
}
