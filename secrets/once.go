package secrets

import (
	"context"
	"fmt"
	"io"
	"time"
)

// giveBackWait is how long a lease that was read past the broker may take to be given back.
const giveBackWait = 5 * time.Second

// FetchOnce answers what a reference says now, past the broker: for the settings of
// sources themselves. What comes with a lease is not for use: see FetchTogether.
func FetchOnce(ctx context.Context, open Opener, v Vault, r Ref) (Value, error) {
	values, err := FetchTogether(ctx, open, v, r)
	if err != nil {
		return Value{}, err
	}
	return values[0], nil
}

// FetchTogether answers what references to one vault say now, past the broker. Those
// that differ only in their key are answered from one read, so that a certificate and
// its key are of one version. A lease that this made is given back: values are to be
// judged, not used.
func FetchTogether(ctx context.Context, open Opener, v Vault, refs ...Ref) ([]Value, error) {
	life, rest, err := ParseLife(v.Config)
	if err != nil {
		return nil, fmt.Errorf("opening vault %s: %w", v.Name, err)
	}
	source, err := open(rest)
	if err != nil {
		return nil, fmt.Errorf("opening vault %s: %w", v.Name, err)
	}
	if c, ok := source.(io.Closer); ok {
		defer func() { _ = c.Close() }() // nothing is lost
	}
	reads := make(map[entryKey]Lease)
	defer func() { giveBackAll(ctx, source, reads) }()
	values := make([]Value, 0, len(refs))
	for _, r := range refs {
		_, options, err := r.overrides(life)
		if err != nil {
			return nil, err
		}
		lease, ok := reads[keyOf(r)]
		if !ok {
			if lease, err = source.Fetch(ctx, Request{Resource: r.Resource, Version: r.Version, Options: options}); err != nil {
				return nil, fmt.Errorf("fetching %s: %w", r, err)
			}
			reads[keyOf(r)] = lease
		}
		value, err := field(lease.Value, r.Key)
		if err != nil {
			return nil, fmt.Errorf("fetching %s: %w", r, err)
		}
		values = append(values, value)
	}
	return values, nil
}

// giveBackAll gives leases back, whatever became of ctx; one that stays ends by itself.
func giveBackAll(ctx context.Context, source Source, reads map[entryKey]Lease) {
	revoker, ok := source.(Revoker)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveBackWait)
	defer cancel()
	for _, lease := range reads {
		if lease.ID != "" {
			_ = revoker.Revoke(ctx, lease)
		}
	}
}
