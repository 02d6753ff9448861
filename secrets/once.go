package secrets

import (
	"context"
	"fmt"
)

// FetchOnce answers what a reference says now, past the broker: for the settings of
// sources themselves.
func FetchOnce(ctx context.Context, open Opener, v Vault, r Ref) (Value, error) {
	life, rest, err := ParseLife(v.Config)
	if err != nil {
		return Value{}, fmt.Errorf("opening vault %s: %w", v.Name, err)
	}
	source, err := open(rest)
	if err != nil {
		return Value{}, fmt.Errorf("opening vault %s: %w", v.Name, err)
	}
	_, options, err := r.overrides(life)
	if err != nil {
		return Value{}, err
	}
	lease, err := source.Fetch(ctx, Request{Resource: r.Resource, Version: r.Version, Options: options})
	if err != nil {
		return Value{}, fmt.Errorf("fetching %s: %w", r, err)
	}
	value, err := field(lease.Value, r.Key)
	if err != nil {
		return Value{}, fmt.Errorf("fetching %s: %w", r, err)
	}
	return value, nil
}
