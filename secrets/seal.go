package secrets

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
)

const saltSize = 32

// ErrForm says that what should be unsealed is not of the expected kind at all.
var ErrForm = errors.New("it is of no form that this version of the program writes")

// Seal encrypts plain for a file and authenticates it together with its kind, which
// the box begins with, and its name. Each call has its own salt and so its own
// encryption key, which is why the nonce may come from the same derivation and never
// repeats.
func Seal(key []byte, kind, name string, plain []byte) ([]byte, error) {
	salt := make([]byte, saltSize)
	rand.Read(salt) // never fails
	aead, nonce, err := deriveSeal(key, salt, kind)
	if err != nil {
		return nil, err
	}
	box := make([]byte, 0, len(kind)+saltSize+len(plain)+aead.Overhead())
	box = append(append(box, kind...), salt...)
	return aead.Seal(box, nonce, plain, []byte(kind+name)), nil
}

// Unseal is the inverse of Seal. ErrForm is for what is of another kind; ErrKey for
// what was changed in any bit, cut short, moved to another name, or sealed with
// another key, which nobody can tell apart.
func Unseal(key []byte, kind, name string, box []byte) ([]byte, error) {
	body, ok := bytes.CutPrefix(box, []byte(kind))
	if !ok || len(body) < saltSize {
		return nil, fmt.Errorf("%w; expected a file that begins with %q", ErrForm, kind)
	}
	aead, nonce, err := deriveSeal(key, body[:saltSize], kind)
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, nonce, body[saltSize:], []byte(kind+name))
	if err != nil {
		return nil, fmt.Errorf("%w: what it should open was changed, or was sealed with another key; expected the key that it was sealed with", ErrKey)
	}
	return plain, nil
}

// SealVersion names one write of a box: no two have the same, whatever they hold.
func SealVersion(kind string, box []byte) []byte {
	if len(box) < len(kind)+saltSize {
		return nil
	}
	return box[len(kind) : len(kind)+saltSize/2]
}

func deriveSeal(key, salt []byte, kind string) (cipher.AEAD, []byte, error) {
	const nonceSize = 12
	material, err := hkdf.Key(sha256.New, key, salt, kind, keySize+nonceSize)
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
