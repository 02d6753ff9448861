package sealed

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

const (
	keySize  = 32
	saltSize = 32
	magic    = "keyway-sealed-1\n" // of the store; authenticated with the content
	keyLine  = "KEYWAY-SEALED-KEY-1 "
)

// ErrKey says that the key file is missing, too open, no key, or not the key of this store.
var ErrKey = errors.New("the key of the sealed store cannot be used")

// seal encrypts and authenticates. Each call has its own salt and so its own key,
// which is why the nonce may come from the same derivation and never repeats.
func seal(key, plain []byte) ([]byte, error) {
	salt := make([]byte, saltSize)
	rand.Read(salt) // never fails
	aead, nonce, err := derive(key, salt)
	if err != nil {
		return nil, err
	}
	head := append([]byte(magic), salt...)
	return aead.Seal(head, nonce, plain, []byte(magic)), nil
}

// unseal is the inverse of seal. What was changed in any bit, cut short or made
// with another key is an error.
func unseal(key, box []byte) ([]byte, error) {
	body, ok := bytes.CutPrefix(box, []byte(magic))
	if !ok || len(body) < saltSize {
		return nil, errors.New("it is no sealed store of this version; expected a file that this program wrote")
	}
	aead, nonce, err := derive(key, body[:saltSize])
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, nonce, body[saltSize:], []byte(magic))
	if err != nil {
		return nil, fmt.Errorf("%w: the store was changed or was sealed with another key; expected the key file it was made with", ErrKey)
	}
	return plain, nil
}

func derive(key, salt []byte) (cipher.AEAD, []byte, error) {
	const nonceSize = 12
	material, err := hkdf.Key(sha256.New, key, salt, magic, keySize+nonceSize)
	if err != nil {
		return nil, nil, fmt.Errorf("deriving the key: %w", err)
	}
	block, err := aes.NewCipher(material[:keySize])
	if err != nil {
		return nil, nil, fmt.Errorf("deriving the key: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, nil, fmt.Errorf("deriving the key: %w", err)
	}
	return aead, material[keySize:], nil
}

// readKey reads a key file that only its owner can read.
func readKey(path string) ([]byte, error) {
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
	encoded, ok := strings.CutPrefix(strings.TrimSpace(string(text[:n])), keyLine)
	key, err := base64.StdEncoding.DecodeString(encoded)
	if !ok || err != nil || len(key) != keySize {
		return nil, fmt.Errorf("%w: %s holds no key; expected one line that begins with %s", ErrKey, path, strings.TrimSpace(keyLine))
	}
	return key, nil
}

// makeKey makes a key file where there is none.
func makeKey(path string) ([]byte, error) {
	key := make([]byte, keySize)
	rand.Read(key) // never fails
	text := keyLine + base64.StdEncoding.EncodeToString(key) + "\n"
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s is in the way", ErrKey, path)
	}
	if err := replace(path, []byte(text)); err != nil {
		return nil, fmt.Errorf("making the key file: %w", err)
	}
	return key, nil
}
