package vault

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/keyway-edge/keyway/secrets"
)

// Opener is the secrets.Opener of this kind.
func Opener(deps Deps) secrets.Opener {
	return func(config map[string]any) (secrets.Source, error) {
		c, err := Parse(config)
		if err != nil {
			return nil, err
		}
		return New(c, deps), nil
	}
}

// Source is one vault entity.
type Source struct {
	*Client
	changed chan struct{} // never used: Vault gives no hints

	mu   sync.Mutex // guards made
	made map[string]secrets.Lease
}

// New makes a Source. It does no I/O.
func New(cfg Config, deps Deps) *Source {
	return &Source{Client: NewClient(cfg, deps), changed: make(chan struct{}, 1), made: map[string]secrets.Lease{}}
}

// Changed never hints: Vault tells nobody of changes, so that KV is polled.
func (s *Source) Changed() <-chan struct{} { return s.changed }

// Timeout is that of one look: a login and a read.
func (s *Source) Timeout() time.Duration { return 2 * s.cfg.Timeout }

// Fetch reads a path: of the engine kv a secret beneath the mount, else what the
// API has there. The lease's value is a JSON object of the fields.
func (s *Source) Fetch(ctx context.Context, r secrets.Request) (secrets.Lease, error) {
	if err := clean(r.Resource); err != nil {
		return secrets.Lease{}, err
	}
	if s.cfg.Engine == "generic" {
		return s.generic(ctx, r)
	}
	for name := range r.Options {
		return secrets.Lease{}, fmt.Errorf("option %s is not one of this vault; expected none but ttl and its like", name)
	}
	if s.cfg.KV == "v2" {
		return s.kv2(ctx, r)
	}
	if r.Version > 1 {
		return secrets.Lease{}, fmt.Errorf("version %d of %s: %w: the engine kv v1 keeps one version", r.Version, r.Resource, secrets.ErrNotFound)
	}
	secret, err := s.Read(ctx, path.Join(s.cfg.Mount, r.Resource), nil)
	if err != nil {
		return secrets.Lease{}, err
	}
	return s.lease(secret, secret.Data)
}

// clean refuses paths that would lead elsewhere than they seem to.
func clean(resource string) error {
	if resource == "" || path.Clean("/"+resource) != "/"+strings.TrimSuffix(resource, "/") {
		return fmt.Errorf("path %q: %w: expected a clean path without empty, . or .. segments", resource, secrets.ErrNotFound)
	}
	return nil
}

// kv2 reads a secret that has versions; #n of a reference is Vault's own number.
func (s *Source) kv2(ctx context.Context, r secrets.Request) (secrets.Lease, error) {
	var query map[string][]string
	if r.Version > 0 {
		query = map[string][]string{"version": {fmt.Sprint(r.Version)}}
	}
	at := path.Join(s.cfg.Mount, "data", r.Resource)
	secret, err := s.Read(ctx, at, query)
	meta := metadata(secret)
	if err != nil {
		if errors.Is(err, secrets.ErrNotFound) && (meta.destroyed || meta.deleted != "") {
			how := "deleted at " + meta.deleted
			if meta.destroyed {
				how = "destroyed"
			}
			return secrets.Lease{}, fmt.Errorf("version %s of %s was %s: %w", meta.version, at, how, secrets.ErrRemoved)
		}
		return secrets.Lease{}, err
	}
	data, ok := secret.Data["data"].(map[string]any)
	if !ok {
		return secrets.Lease{}, fmt.Errorf("%s has no data: %w; is the engine at %s of version 2?", at, secrets.ErrNotFound, s.cfg.Mount)
	}
	lease, err := s.lease(secret, data)
	lease.Version, lease.Modified = meta.version, meta.created
	return lease, err
}

type meta struct {
	version   string
	created   time.Time
	deleted   string
	destroyed bool
}

func metadata(secret *api.Secret) (m meta) {
	if secret == nil {
		return m
	}
	data, _ := secret.Data["metadata"].(map[string]any)
	if n, ok := data["version"].(json.Number); ok {
		m.version = n.String()
	}
	if text, ok := data["created_time"].(string); ok {
		m.created, _ = time.Parse(time.RFC3339Nano, text)
	}
	m.deleted, _ = data["deletion_time"].(string)
	m.destroyed, _ = data["destroyed"].(bool)
	return m
}

// generic reads a path of the API, or with the option op=write sends the other
// options there. What such a call made for this node is answered again for more
// than half of its life, so that a reload does not make another.
func (s *Source) generic(ctx context.Context, r secrets.Request) (secrets.Lease, error) {
	key := r.Resource
	data := map[string]any{}
	for _, name := range slices.Sorted(keys(r.Options)) {
		key += "\x00" + name + "\x00" + r.Options[name]
		if name != "op" {
			data[name] = r.Options[name]
		}
	}
	op := r.Options["op"]
	switch {
	case op != "" && op != "read" && op != "write":
		return secrets.Lease{}, fmt.Errorf("option op=%s: expected read or write", op)
	case r.Version > 1:
		return secrets.Lease{}, fmt.Errorf("version %d of %s: %w: only the engine kv v2 keeps versions", r.Version, r.Resource, secrets.ErrNotFound)
	}
	if kept, ok := s.kept(key, r.Force); ok {
		return kept, nil
	}
	var secret *api.Secret
	var err error
	if op == "write" {
		secret, err = s.Write(ctx, r.Resource, data)
	} else {
		query := map[string][]string{}
		for name, v := range data {
			query[name] = []string{fmt.Sprint(v)}
		}
		secret, err = s.Read(ctx, r.Resource, query)
	}
	if err != nil {
		return secrets.Lease{}, err
	}
	lease, err := s.lease(secret, secret.Data)
	if err == nil && !lease.NotAfter.IsZero() {
		s.mu.Lock()
		s.made[key] = lease
		s.mu.Unlock()
	}
	return lease, err
}

func keys(m map[string]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// kept answers what was made before, while it is young. A renewable lease is not
// answered: the broker renews it and asks anew only for another one.
func (s *Source) kept(key string, force bool) (secrets.Lease, bool) {
	const young = 0.55
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.made[key]
	if !ok || force || l.Renewable || time.Until(l.NotAfter) < time.Duration(float64(l.TTL)*(1-young)) {
		delete(s.made, key)
		return secrets.Lease{}, false
	}
	l.TTL = time.Until(l.NotAfter)
	return l, true
}

// lease makes a lease of an answer.
func (s *Source) lease(secret *api.Secret, data map[string]any) (secrets.Lease, error) {
	if s.cfg.Base64 && s.cfg.Engine == "kv" {
		decoded := make(map[string]any, len(data))
		for name, v := range data {
			if text, ok := v.(string); ok {
				b, err := base64.StdEncoding.DecodeString(text)
				if err != nil {
					return secrets.Lease{}, fmt.Errorf("field %s is not base64, which base64_decode expects", name)
				}
				v = string(b)
			}
			decoded[name] = v
		}
		data = decoded
	}
	if len(data) == 0 {
		return secrets.Lease{}, fmt.Errorf("the answer has no fields: %w", secrets.ErrNotFound)
	}
	value, err := json.Marshal(data)
	if err != nil {
		return secrets.Lease{}, errors.New("the answer's fields cannot be written as JSON")
	}
	l := secrets.Lease{Value: secrets.NewValue(value), Origin: secret.RequestID}
	now := time.Now()
	switch {
	case secret.LeaseID != "":
		l.ID, l.Renewable, l.TTL = secret.LeaseID, secret.Renewable, time.Duration(secret.LeaseDuration)*time.Second
		l.NotAfter = now.Add(l.TTL)
	case s.cfg.Engine == "generic":
		// A certificate has an end without being a lease.
		if n, ok := data["expiration"].(json.Number); ok {
			if at, err := n.Int64(); err == nil {
				l.NotAfter = time.Unix(at, 0)
				l.TTL = max(l.NotAfter.Sub(now), time.Second)
			}
		}
	}
	if s.cfg.Engine == "kv" && l.ID == "" && secret.LeaseDuration > 0 && s.cfg.KV == "v1" {
		// What kv v1 answers is advice of how often to look, 32 days by default: with no
		// ttl of its own in the secret the broker's ttl stands.
		if _, own := data["ttl"]; own {
			l.TTL = time.Duration(secret.LeaseDuration) * time.Second
		}
	}
	return l, nil
}

// Renew extends a lease.
func (s *Source) Renew(ctx context.Context, l secrets.Lease) (secrets.Lease, error) {
	secret, err := s.Write(ctx, "sys/leases/renew", map[string]any{"lease_id": l.ID})
	if err != nil {
		return secrets.Lease{}, err
	}
	l.TTL, l.Renewable = time.Duration(secret.LeaseDuration)*time.Second, secret.Renewable
	l.NotAfter = time.Now().Add(l.TTL)
	if l.TTL <= 0 {
		return secrets.Lease{}, errors.New("the lease cannot be extended any more")
	}
	l.Value = secrets.Value{}
	return l, nil
}

// Revoke ends a lease. Whatever becomes of the call, it is not answered any more.
func (s *Source) Revoke(ctx context.Context, l secrets.Lease) error {
	s.mu.Lock()
	maps.DeleteFunc(s.made, func(_ string, x secrets.Lease) bool { return x.ID != "" && x.ID == l.ID })
	s.mu.Unlock()
	_, err := s.Write(ctx, "sys/leases/revoke", map[string]any{"lease_id": l.ID})
	return err
}
