package statefolder

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/keyway-edge/keyway/secrets"
)

const (
	magic    = "keyway-state-1\n"
	saltSize = 32
)

// seal encrypts value and authenticates it together with the key that it is kept
// under. Each call has its own salt and so its own encryption key, which is why
// the nonce may come from the same derivation and never repeats. The salt is the
// version: no two writes have the same, whatever they write.
func seal(master []byte, name string, value []byte) (box []byte, version string, err error) {
	salt := make([]byte, saltSize)
	rand.Read(salt) // never fails
	aead, nonce, err := derive(master, salt)
	if err != nil {
		return nil, "", err
	}
	return aead.Seal(append([]byte(magic), salt...), nonce, value, []byte(magic+name)), versionOf(salt), nil
}

func unseal(master []byte, name string, box []byte) (value []byte, version string, err error) {
	body, ok := bytes.CutPrefix(box, []byte(magic))
	if !ok || len(body) < saltSize {
		return nil, "", errors.New("it is no state of this version; expected a file that this program wrote")
	}
	aead, nonce, err := derive(master, body[:saltSize])
	if err != nil {
		return nil, "", err
	}
	value, err = aead.Open(nil, nonce, body[saltSize:], []byte(magic+name))
	if err != nil {
		return nil, "", fmt.Errorf("%w: the file was changed, or was sealed with another key; expected the key that the folder was made with", secrets.ErrKey)
	}
	return value, versionOf(body[:saltSize]), nil
}

func versionOf(salt []byte) string { return hex.EncodeToString(salt[:16]) }

func derive(master, salt []byte) (cipher.AEAD, []byte, error) {
	const nonceSize = 12
	material, err := hkdf.Key(sha256.New, master, salt, magic, keySize+nonceSize)
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
