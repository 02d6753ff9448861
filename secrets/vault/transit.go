package vault

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
)

// Transit wraps small keys with a key that never leaves Vault's transit engine.
type Transit struct {
	client *Client
	mount  string
	key    string
}

// NewTransit makes a Transit for a key of the transit engine at mount. It does no I/O.
func NewTransit(c *Client, mount, key string) *Transit {
	return &Transit{client: c, mount: mount, key: key}
}

var errTransit = errors.New("the answer has not what was asked for")

// Wrap encrypts a key.
func (t *Transit) Wrap(ctx context.Context, key []byte) ([]byte, error) {
	path := t.mount + "/encrypt/" + t.key
	secret, err := t.client.Write(ctx, path, map[string]any{"plaintext": base64.StdEncoding.EncodeToString(key)})
	if err != nil {
		return nil, err
	}
	text, _ := secret.Data["ciphertext"].(string)
	if text == "" {
		return nil, fmt.Errorf("%s: %w", path, errTransit)
	}
	return []byte(text), nil
}

// Unwrap decrypts a key.
func (t *Transit) Unwrap(ctx context.Context, wrapped []byte) ([]byte, error) {
	path := t.mount + "/decrypt/" + t.key
	secret, err := t.client.Write(ctx, path, map[string]any{"ciphertext": string(wrapped)})
	if err != nil {
		return nil, err
	}
	text, _ := secret.Data["plaintext"].(string)
	key, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(key) == 0 {
		return nil, fmt.Errorf("%s: %w", path, errTransit)
	}
	return key, nil
}
