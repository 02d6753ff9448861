package certs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Sentinels of a SharedState.
var (
	// ErrNoState: there is nothing under the key.
	ErrNoState = errors.New("there is no such state")
	// ErrConflict: what is under the key is of another version than was named.
	ErrConflict = errors.New("the state was changed by another node")
	// ErrHeld: another holder has the lock.
	ErrHeld = errors.New("the lock is held by another node")
)

// SharedState is what replicas share: issued pairs, orders in progress, ticket and
// ECH keys. It is compare and swap and nothing else, so that a folder, Vault or a
// database can be one. An implementation seals the values: they are secrets. It is
// safe for concurrent use and honours ctx.
//
// Keys are made of letters, digits and ._-/ and have at most 512 bytes.
type SharedState interface {
	// Load answers a value and its version; an error that wraps ErrNoState when
	// there is none.
	Load(ctx context.Context, key string) (value []byte, version string, err error)
	// Swap replaces the value of version old, "" for a key that must not exist, and
	// answers the new version; an error that wraps ErrConflict when old is not the
	// version that is there.
	Swap(ctx context.Context, key, old string, value []byte) (version string, err error)
	// Delete removes the value of a version; ErrConflict as for Swap, and
	// ErrNoState when there is nothing.
	Delete(ctx context.Context, key, version string) error
}

// CheckStateKey answers an error for a key that no SharedState has to take.
func CheckStateKey(key string) error {
	if key == "" || len(key) > 512 {
		return fmt.Errorf("state key of %d bytes, 1 to 512 are expected", len(key))
	}
	for i := range len(key) {
		switch c := key[i]; {
		case 'a' <= c|0x20 && c|0x20 <= 'z', '0' <= c && c <= '9', c == '.', c == '_', c == '-', c == '/':
		default:
			return fmt.Errorf("state key %q: letters, digits and ._-/ are expected", key)
		}
	}
	return nil
}

// Held is a lock that this node has for a while.
type Held struct {
	state       SharedState
	key, holder string
	version     string
	until       time.Time
}

// held is the lock as it is kept.
type held struct {
	Holder string    `json:"holder"`
	Until  time.Time `json:"until"`
}

// Lock takes the lock of a key for ttl, or answers at once an error that wraps
// ErrHeld and says who has it and until when. Nobody is waited for: whoever needs
// the lock has a loop of its own.
//
// The lock is a lease: that of a node that was killed is anybody's after ttl, by
// the wall clock. holder names one worker of one node, the same after a restart:
// it gets its own lock again at once. A clock that is wrong makes two holders, so
// what is done under a lock is written with Swap and stays whole even then.
func Lock(ctx context.Context, state SharedState, key, holder string, ttl time.Duration) (*Held, error) {
	h := &Held{state: state, key: key, holder: holder}
	value, version, err := state.Load(ctx, key)
	switch {
	case errors.Is(err, ErrNoState):
	case err != nil:
		return nil, fmt.Errorf("taking the lock %s: %w", key, err)
	default:
		var other held
		// What cannot be read is of no holder that this program knows.
		if json.Unmarshal(value, &other) == nil && other.Holder != holder && time.Now().Before(other.Until) {
			return nil, fmt.Errorf("%w: %s has %s until %s", ErrHeld, other.Holder, key, other.Until.UTC().Format(time.RFC3339))
		}
		h.version = version
	}
	if err := h.Extend(ctx, ttl); err != nil {
		return nil, err
	}
	return h, nil
}

// Until is when the lock becomes anybody's.
func (h *Held) Until() time.Time { return h.until }

// Extend makes the lock last for ttl from now. An error that wraps ErrHeld means
// that another node has it: the work under it must stop.
func (h *Held) Extend(ctx context.Context, ttl time.Duration) error {
	until := time.Now().Add(ttl)
	value, err := json.Marshal(held{h.holder, until.UTC()})
	if err != nil {
		return fmt.Errorf("taking the lock %s: %w", h.key, err)
	}
	version, err := h.state.Swap(ctx, h.key, h.version, value)
	switch {
	case errors.Is(err, ErrConflict):
		return fmt.Errorf("%w: %s was taken in between", ErrHeld, h.key)
	case err != nil:
		return fmt.Errorf("taking the lock %s: %w", h.key, err)
	}
	h.version, h.until = version, until
	return nil
}

// Release gives the lock back. One that another node has meanwhile is left to it.
func (h *Held) Release(ctx context.Context) error {
	err := h.state.Delete(ctx, h.key, h.version)
	if err == nil || errors.Is(err, ErrConflict) || errors.Is(err, ErrNoState) {
		return nil
	}
	return fmt.Errorf("giving the lock %s back: %w", h.key, err)
}
