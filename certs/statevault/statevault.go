// Package statevault keeps what replicas share in Vault's engine kv, version 2.
//
// The engine's check-and-set is the compare-and-swap of [certs.SharedState], its
// version number the version, and its encryption the seal. It has no conditional
// delete: what is deleted is replaced by a mark, which counts as nothing.
package statevault

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/hashicorp/vault/api"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/secrets"
	"github.com/keyway-edge/keyway/secrets/vault"
)

// State is a shared state beneath one path of one mount. Safe for concurrent use.
type State struct {
	client *vault.Client
	mount  string
	base   string
}

// New makes a State over a client that may read and write beneath base of the kv v2
// engine at mount. It does no I/O.
func New(client *vault.Client, mount, base string) *State {
	return &State{client: client, mount: strings.Trim(mount, "/"), base: strings.Trim(base, "/")}
}

// The fields of a secret.
const (
	fieldValue = "value" // base64
	fieldGone  = "gone"  // the mark of a deletion
)

// path is where a key is kept. Dots are written out: a path must not climb.
func (s *State) path(kind, key string) string {
	at := s.mount + "/" + kind + "/"
	if s.base != "" {
		at += s.base + "/"
	}
	return at + strings.ReplaceAll(key, ".", "=2e")
}

// entry is what is under a key; version 0 for nothing ever.
type entry struct {
	value   []byte
	version int
	gone    bool
}

func (s *State) read(ctx context.Context, key string) (entry, error) {
	if err := certs.CheckStateKey(key); err != nil {
		return entry{}, err
	}
	secret, err := s.client.Read(ctx, s.path("data", key), nil)
	if err != nil && !errors.Is(err, secrets.ErrNotFound) {
		return entry{}, fmt.Errorf("reading shared state %s: %w", key, err)
	}
	e := entry{version: versionOf(secret), gone: err != nil}
	if e.gone {
		return e, nil // never written, or deleted by hand
	}
	data, _ := secret.Data["data"].(map[string]any)
	if gone, _ := data[fieldGone].(bool); gone {
		e.gone = true
		return e, nil
	}
	text, _ := data[fieldValue].(string)
	if e.value, err = base64.StdEncoding.DecodeString(text); err != nil {
		return entry{}, fmt.Errorf("reading shared state %s: it is not in the form that nodes write; expected nobody else to write there", key)
	}
	return e, nil
}

func versionOf(secret *api.Secret) int {
	if secret == nil {
		return 0
	}
	meta := secret.Data
	if inner, ok := meta["metadata"].(map[string]any); ok {
		meta = inner
	}
	n, ok := meta["version"].(json.Number)
	if !ok {
		return 0
	}
	v, err := strconv.Atoi(n.String())
	if err != nil {
		return 0
	}
	return v
}

// Load answers a value and its version.
func (s *State) Load(ctx context.Context, key string) ([]byte, string, error) {
	e, err := s.read(ctx, key)
	switch {
	case err != nil:
		return nil, "", err
	case e.gone:
		return nil, "", fmt.Errorf("shared state %s: %w", key, certs.ErrNoState)
	}
	return e.value, strconv.Itoa(e.version), nil
}

// Swap replaces the value of a version, "" for a key that must not exist.
func (s *State) Swap(ctx context.Context, key, old string, value []byte) (string, error) {
	if err := certs.CheckStateKey(key); err != nil {
		return "", err
	}
	fields := map[string]any{fieldValue: base64.StdEncoding.EncodeToString(value)}
	if old != "" {
		n, err := strconv.Atoi(old)
		if err != nil || n < 1 {
			return "", fmt.Errorf("shared state %s: version %q: %w", key, old, certs.ErrConflict)
		}
		// A version that is the mark of a deletion was never given to anybody.
		return s.write(ctx, key, n, fields)
	}
	e, err := s.read(ctx, key)
	if err != nil {
		return "", err
	}
	if !e.gone {
		return "", fmt.Errorf("shared state %s: %w", key, certs.ErrConflict)
	}
	version, err := s.write(ctx, key, e.version, fields)
	if err == nil && e.version == 0 {
		// Old versions hold old keys; a role that may not say so leaves the engine's own bound.
		_, _ = s.client.Write(ctx, s.path("metadata", key), map[string]any{"max_versions": 1})
	}
	return version, err
}

func (s *State) write(ctx context.Context, key string, cas int, fields map[string]any) (string, error) {
	secret, err := s.client.Write(ctx, s.path("data", key), map[string]any{"data": fields, "options": map[string]any{"cas": cas}})
	switch {
	case err != nil && strings.Contains(err.Error(), "check-and-set"):
		return "", fmt.Errorf("shared state %s: %w", key, certs.ErrConflict)
	case err != nil:
		return "", fmt.Errorf("writing shared state %s: %w", key, err)
	}
	n := versionOf(secret)
	if n == 0 {
		return "", fmt.Errorf("writing shared state %s: Vault answered without a version; is the engine at %s kv of version 2?", key, s.mount)
	}
	return strconv.Itoa(n), nil
}

// Delete removes the value of a version.
func (s *State) Delete(ctx context.Context, key, version string) error {
	e, err := s.read(ctx, key)
	switch {
	case err != nil:
		return err
	case e.gone:
		return fmt.Errorf("shared state %s: %w", key, certs.ErrNoState)
	case strconv.Itoa(e.version) != version:
		return fmt.Errorf("shared state %s: %w", key, certs.ErrConflict)
	}
	_, err = s.write(ctx, key, e.version, map[string]any{fieldGone: true})
	return err
}
