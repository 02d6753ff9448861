package sealed

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/keyway-edge/keyway/secrets"
)

const (
	keySize  = 32
	saltSize = 32
	magic    = "keyway-sealed-1\n" // of the store; authenticated with the content
	keyLabel = "KEYWAY-SEALED-KEY-1"
)

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
		return nil, fmt.Errorf("%w: the store was changed or was sealed with another key; expected the key file it was made with", secrets.ErrKey)
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
