// Package vaultpki is Vault's PKI engine as an issuer of certificates.
//
// By default the key is made here and only a request for its certificate leaves
// the node (mode sign); with mode issue Vault makes both. What was issued is
// answered again for more than half of its life, so that the broker, which looks
// at two thirds, gets a successor in time and a reload makes none.
package vaultpki

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/certs/issue"
	"github.com/keyway-edge/keyway/secrets"
	"github.com/keyway-edge/keyway/secrets/vault"
)

// Connection is the key in an issuer's config under which its opener is given the
// config of the vault entity whose server and login it shares.
const Connection = "connection"

// Config is the settings of an issuer of type vault_pki.
type Config struct {
	Vault  string        // prefix of the vault entity whose server and login are used
	Mount  string        // of the PKI engine; "" for pki
	Role   string        // that signs
	Sign   bool          // the key is made here
	TTL    time.Duration // certificate_ttl: the life that is asked for; 0 for the role's own
	Revoke bool          // revoke_on_release: a certificate that was replaced is revoked after its overlap
}

// Parse reads the settings of an issuer. Its error is a *vault.FieldError, or several joined.
func Parse(config map[string]any) (Config, error) {
	c := Config{Mount: "pki", Sign: true}
	var errs []error
	bad := func(field, what string) { errs = append(errs, &vault.FieldError{Field: field, Err: errors.New(what)}) }
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for k := range config {
			if !yield(k) {
				return
			}
		}
	}) {
		text, isText := config[name].(string)
		switch name {
		case Connection:
		case "vault", "mount", "role":
			if !isText || text == "" || strings.ContainsAny(text, " ?#") {
				bad(name, "expected a name")
				continue
			}
			*map[string]*string{"vault": &c.Vault, "mount": &c.Mount, "role": &c.Role}[name] = text
		case "mode":
			if text != "sign" && text != "issue" {
				bad(name, "expected one of: sign, issue")
			}
			c.Sign = text != "issue"
		case "certificate_ttl":
			n, ok := config[name].(float64)
			if i, isInt := config[name].(int); isInt {
				n, ok = float64(i), true
			}
			if !ok || n < 1 || n > 1e9 {
				bad(name, "expected a number of seconds")
			}
			c.TTL = time.Duration(n) * time.Second
		case "revoke_on_release":
			on, ok := config[name].(bool)
			if !ok {
				bad(name, "expected true or false")
			}
			c.Revoke = on
		default:
			bad(name, "unknown field; expected one of: vault, mount, role, mode, certificate_ttl, revoke_on_release")
		}
	}
	if c.Vault == "" {
		bad("vault", "it is missing; expected the prefix of a vault entity of kind hcv")
	}
	if c.Role == "" {
		bad("role", "it is missing; expected the name of a role of the PKI engine")
	}
	return c, errors.Join(errs...)
}

// Opener is the secrets.Opener of this type. The config of the vault entity stands
// in the issuer's under Connection.
func Opener(deps vault.Deps) secrets.Opener {
	return func(config map[string]any) (secrets.Source, error) {
		c, err := Parse(config)
		if err != nil {
			return nil, err
		}
		connection, ok := config[Connection].(map[string]any)
		if !ok {
			return nil, &vault.FieldError{Field: "vault", Err: fmt.Errorf("there is no vault entity with prefix %q of kind hcv", c.Vault)}
		}
		_, rest, err := secrets.ParseLife(connection)
		if err != nil {
			return nil, err
		}
		v, err := vault.Parse(rest)
		if err != nil {
			return nil, fmt.Errorf("vault %s: %w", c.Vault, err)
		}
		s := &Source{cfg: c, Client: vault.NewClient(v, deps), changed: make(chan struct{}, 1), made: map[string]secrets.Lease{}}
		if c.Revoke {
			return revoking{s}, nil
		}
		return s, nil
	}
}

// Source is one issuer.
type Source struct {
	*vault.Client
	cfg     Config
	changed chan struct{}

	mu   sync.Mutex // guards made
	made map[string]secrets.Lease
}

// revoking is an issuer that gives certificates back.
type revoking struct{ *Source }

// Changed never hints.
func (s *Source) Changed() <-chan struct{} { return s.changed }

// Timeout is that of making a key, logging in and having it signed.
func (s *Source) Timeout() time.Duration { return 20 * time.Second }

// young is the share of its life for which a certificate is answered again.
const young = 0.55

// Fetch answers the pair of a certificate entity: the resource is its id, the
// options are names, a comma list, and key_type.
func (s *Source) Fetch(ctx context.Context, r secrets.Request) (secrets.Lease, error) {
	names := strings.Split(r.Options["names"], ",")
	if r.Options["names"] == "" {
		return secrets.Lease{}, fmt.Errorf("certificate %s: %w: no name is bound to it; give it an SNI", r.Resource, secrets.ErrNotFound)
	}
	key := r.Resource + "\x00" + r.Options["names"] + "\x00" + r.Options["key_type"]
	s.mu.Lock()
	kept, ok := s.made[key]
	s.mu.Unlock()
	if ok && !r.Force && time.Until(kept.NotAfter) > time.Duration(float64(kept.TTL)*(1-young)) {
		kept.TTL = time.Until(kept.NotAfter)
		return kept, nil
	}
	lease, err := s.issue(ctx, names, r.Options["key_type"])
	if err != nil {
		return secrets.Lease{}, fmt.Errorf("issuing certificate %s for %s: %w", r.Resource, r.Options["names"], err)
	}
	s.mu.Lock()
	// Names that nobody wants any more go with their certificates.
	maps.DeleteFunc(s.made, func(_ string, l secrets.Lease) bool { return time.Now().After(l.NotAfter) })
	s.made[key] = lease
	s.mu.Unlock()
	return lease, nil
}

func (s *Source) issue(ctx context.Context, names []string, keyType string) (secrets.Lease, error) {
	data := map[string]any{"common_name": names[0], "alt_names": strings.Join(names[1:], ","), "format": "pem"}
	if s.cfg.TTL > 0 {
		data["ttl"] = fmt.Sprintf("%ds", int(s.cfg.TTL.Seconds()))
	}
	path := s.cfg.Mount + "/issue/" + s.cfg.Role
	var own secrets.Value
	if s.cfg.Sign {
		signer, text, err := issue.NewKey(keyType)
		if err != nil {
			return secrets.Lease{}, err
		}
		csr, err := issue.CSR(signer, names)
		if err != nil {
			return secrets.Lease{}, err
		}
		own, path = text, s.cfg.Mount+"/sign/"+s.cfg.Role
		data["csr"] = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}))
	}
	secret, err := s.Write(ctx, path, data)
	if err != nil {
		return secrets.Lease{}, err
	}
	text := func(name string) string {
		t, _ := secret.Data[name].(string)
		return strings.TrimSpace(t)
	}
	chain := []string{text("certificate")}
	authorities, _ := secret.Data["ca_chain"].([]any)
	if authorities == nil {
		authorities = []any{secret.Data["issuing_ca"]}
	}
	for _, c := range authorities {
		if t, ok := c.(string); ok && !root(t) {
			chain = append(chain, strings.TrimSpace(t))
		}
	}
	if !s.cfg.Sign {
		own = secrets.NewValue([]byte(text("private_key") + "\n"))
	}
	end, err := expiration(secret.Data["expiration"])
	if chain[0] == "" || len(own.Reveal()) < 2 || err != nil {
		return secrets.Lease{}, fmt.Errorf("%s answered without a certificate, its key or its expiration", path)
	}
	value, err := issue.Encode(certs.Pair{Cert: secrets.NewValue([]byte(strings.Join(chain, "\n") + "\n")), Key: own})
	if err != nil {
		return secrets.Lease{}, err
	}
	now := time.Now()
	return secrets.Lease{Value: value, ID: text("serial_number"), Version: text("serial_number"), Modified: now, TTL: max(end.Sub(now), time.Second), NotAfter: end, Origin: secret.RequestID}, nil
}

// root says that a certificate signs itself: clients have it, or do not trust it.
func root(text string) bool {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return true // nothing that a client could use
	}
	c, err := x509.ParseCertificate(block.Bytes)
	return err != nil || bytes.Equal(c.RawIssuer, c.RawSubject)
}

func expiration(v any) (time.Time, error) {
	n, ok := v.(json.Number)
	if !ok {
		return time.Time{}, errors.New("expiration is no number")
	}
	at, err := n.Int64()
	return time.Unix(at, 0), err
}

// Condemn revokes a certificate whose key was compromised. It is not answered again,
// even if Vault cannot be told.
func (s *Source) Condemn(ctx context.Context, l secrets.Lease) error {
	s.mu.Lock()
	maps.DeleteFunc(s.made, func(_ string, made secrets.Lease) bool { return made.ID == l.ID })
	s.mu.Unlock()
	_, err := s.Write(ctx, s.cfg.Mount+"/revoke", map[string]any{"serial_number": l.ID})
	return err
}

// Revoke revokes a certificate that is not used any more.
func (s revoking) Revoke(ctx context.Context, l secrets.Lease) error { return s.Condemn(ctx, l) }
