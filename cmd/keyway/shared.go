package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/certs/statefolder"
	"github.com/keyway-edge/keyway/secrets"
)

// openShared opens what this node shares with its replicas. By default that is a
// folder of its own, sealed with a key of its own.
func openShared(ctx context.Context, s *settings) (certs.SharedState, error) {
	dir, keyFile := s.SharedState, s.SharedStateKey
	if dir == "" {
		dir = filepath.Join(s.DataDir, "shared")
	}
	if keyFile == "" {
		keyFile = filepath.Join(s.DataDir, "shared.key")
	}
	key, err := secrets.ReadKey(keyFile, statefolder.KeyLabel)
	if errors.Is(err, fs.ErrNotExist) && s.SharedStateKey == "" {
		key, err = secrets.MakeKey(keyFile, statefolder.KeyLabel)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the shared state: %w", err)
	}
	state, err := statefolder.Open(ctx, dir, key)
	if err != nil {
		return nil, fmt.Errorf("opening the shared state: %w", err)
	}
	return state, nil
}

// keys makes the keys of sessions and of Encrypted Client Hello, those of the
// replicas where there are any.
func (n *node) keys(ctx context.Context) error {
	var err error
	if state := n.vaultState(); state != nil {
		n.shared = state
	} else if n.shared, err = openShared(ctx, n.settings); err != nil {
		return err
	}
	n.tickets = certs.NewSharedTickets(n.shared)
	if n.settings.ECHPublicName != "" {
		if n.ech, err = certs.NewECH(n.settings.ECHPublicName, n.shared); err != nil {
			return fmt.Errorf("tls_ech_public_name: %w", err)
		}
	}
	const patience = 2 * time.Second
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err = n.tickets.Sync(wait); err == nil && n.ech != nil {
		err = n.ech.Sync(wait)
	}
	if err != nil {
		n.log.Warn("the keys of replicas cannot be read yet: sessions are this node's alone", slog.Any("error", err))
	}
	return nil
}
