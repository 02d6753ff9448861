package lastgood

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/keyway-edge/keyway/secrets"
)

// KeyLabel begins the line of a key file: secrets.ReadKey, secrets.MakeKey.
const KeyLabel = "KEYWAY-LASTGOOD-KEY-1"

const keySize = 32

// Keys gives the key that states are sealed with.
type Keys interface {
	// New answers a key to seal with, and what the head of the file has to keep so
	// that Open finds it again.
	New(ctx context.Context) (key, wrapped []byte, err error)
	// Open answers the key of a file whose head kept wrapped.
	Open(ctx context.Context, wrapped []byte) (key []byte, err error)
}

// KeyWrapper encrypts small keys, as Vault's transit engine does.
type KeyWrapper interface {
	Wrap(ctx context.Context, key []byte) (wrapped []byte, err error)
	Unwrap(ctx context.Context, wrapped []byte) (key []byte, err error)
}

// FileKey is a key in a file. It is read for each use: one that is away now may be
// there later.
type FileKey struct {
	Path string
	Make bool // make the file where there is none
}

// New reads the key, or makes it.
func (k FileKey) New(ctx context.Context) (key, wrapped []byte, err error) {
	key, err = k.Open(ctx, nil)
	if k.Make && errors.Is(err, fs.ErrNotExist) {
		key, err = secrets.MakeKey(k.Path, KeyLabel)
	}
	return key, nil, err
}

// Open reads the key.
func (k FileKey) Open(_ context.Context, wrapped []byte) ([]byte, error) {
	if len(wrapped) > 0 {
		return nil, fmt.Errorf("%w: it was sealed with a wrapped key; expected one that was sealed with the key file %s", secrets.ErrKey, k.Path)
	}
	return secrets.ReadKey(k.Path, KeyLabel)
}

// WrappedKey is a key of this process that a KeyWrapper keeps. Make one with Wrapped.
type WrappedKey struct {
	by KeyWrapper

	mu           sync.Mutex // guards the group below
	key, wrapped []byte     // the last one that was made or opened
}

// Wrapped makes a WrappedKey. The wrapper is asked once for each process that
// writes and once for each that reads.
func Wrapped(by KeyWrapper) *WrappedKey { return &WrappedKey{by: by} }

// New makes a key and has it wrapped.
func (k *WrappedKey) New(ctx context.Context) (key, wrapped []byte, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.key != nil {
		return k.key, k.wrapped, nil
	}
	key = make([]byte, keySize)
	rand.Read(key) // never fails
	if wrapped, err = k.by.Wrap(ctx, key); err != nil {
		return nil, nil, fmt.Errorf("wrapping the key: %w", err)
	}
	k.key, k.wrapped = key, wrapped
	return key, wrapped, nil
}

// Open has a key unwrapped.
func (k *WrappedKey) Open(ctx context.Context, wrapped []byte) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.key != nil && bytes.Equal(wrapped, k.wrapped) {
		return k.key, nil
	}
	if len(wrapped) == 0 {
		return nil, fmt.Errorf("%w: it was sealed with a key file; expected one that was sealed with a wrapped key", secrets.ErrKey)
	}
	key, err := k.by.Unwrap(ctx, wrapped)
	if err != nil {
		return nil, fmt.Errorf("unwrapping the key: %w", err)
	}
	if len(key) != keySize {
		return nil, fmt.Errorf("%w: what was unwrapped has %d bytes, %d are expected", secrets.ErrKey, len(key), keySize)
	}
	k.key, k.wrapped = key, wrapped
	return key, nil
}
