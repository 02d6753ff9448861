package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"

	"github.com/keyway-edge/keyway/certs/acme"
	"github.com/keyway-edge/keyway/certs/vaultpki"
	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/secrets"
	"github.com/keyway-edge/keyway/secrets/env"
	"github.com/keyway-edge/keyway/secrets/file"
	"github.com/keyway-edge/keyway/secrets/kube"
	"github.com/keyway-edge/keyway/secrets/sealed"
	"github.com/keyway-edge/keyway/secrets/vault"
)

// openers are the kinds of vaults and types of issuers of this build.
func openers(deps vault.Deps, issuing acme.Deps) map[string]secrets.Opener {
	return map[string]secrets.Opener{
		"env": env.Open, "file": file.Open, "sealed": sealed.Open, "hcv": vault.Opener(deps), "kube": kube.Open,
		"vault_pki": vaultpki.Opener(deps), "acme": acme.Opener(issuing),
	}
}

// sourceSchemas judge the configs of vaults and issuers when a document is read.
func sourceSchemas() spec.Schemas {
	verify := func(kind string, parse func(map[string]any) error) spec.PluginSchema {
		return spec.PluginSchema{Name: kind, Verify: func(config map[string]any) []spec.FieldError {
			_, rest, err := secrets.ParseLife(config)
			if err == nil {
				err = parse(rest)
			}
			return fieldErrors(err)
		}}
	}
	open := func(o secrets.Opener) func(map[string]any) error {
		return func(config map[string]any) error {
			_, err := o(config)
			return err
		}
	}
	return spec.Schemas{
		"vaults/env":    verify("env", open(env.Open)),
		"vaults/file":   verify("file", open(file.Open)),
		"vaults/sealed": verify("sealed", open(sealed.Open)),
		"vaults/kube":   verify("kube", func(c map[string]any) error { _, err := kube.Parse(c); return err }),
		"vaults/hcv":    verify("hcv", func(c map[string]any) error { _, err := vault.Parse(c); return err }),
		"x_keyway_issuers/vault_pki": verify("vault_pki", func(c map[string]any) error {
			_, err := vaultpki.Parse(c)
			return err
		}),
		"x_keyway_issuers/acme": verify("acme", func(c map[string]any) error { _, err := acme.Parse(c); return err }),
	}
}

// fieldErrors takes an error of a parser apart.
func fieldErrors(err error) []spec.FieldError {
	if err == nil {
		return nil
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // joined errors are taken one by one
		var list []spec.FieldError
		for _, e := range many.Unwrap() {
			list = append(list, fieldErrors(e)...)
		}
		return list
	}
	var one *vault.FieldError
	if errors.As(err, &one) {
		return []spec.FieldError{{Field: one.Field, Message: one.Err.Error()}}
	}
	var other *acme.FieldError
	if errors.As(err, &other) {
		return []spec.FieldError{{Field: other.Field, Message: other.Err.Error()}}
	}
	return []spec.FieldError{{Message: err.Error()}}
}

// issuerConfig gives an issuer that shares a vault's login the config of that vault,
// and one that keeps what it issued its name.
func issuerConfig(doc *spec.Document, x *spec.Issuer) map[string]any {
	if x.Type == "acme" {
		config := maps.Clone(x.Config)
		config[acme.Name] = x.Name
		return config
	}
	prefix, ok := x.Config["vault"].(string)
	if !ok {
		return x.Config
	}
	config := maps.Clone(x.Config)
	for _, v := range doc.Vaults {
		if v.Prefix == prefix && v.Name == "hcv" {
			config[vaultpki.Connection] = v.Config
		}
	}
	return config
}

// deps is what sources that log in somewhere need of the node.
func (v *vaults) deps(n *node) vault.Deps {
	return vault.Deps{Events: n.event, Lookup: v.lookup}
}

// event notes what happened to a source or to a version beside activations.
func (n *node) event(e secrets.Event) {
	say := n.log.Info
	if e.Kind == "security" {
		say = n.log.Error
	}
	say("broker event", slog.String("kind", e.Kind), slog.String("name", e.Subject), slog.String("source", e.Source), slog.String("result", e.Result),
		slog.String("reason", e.Reason), slog.Int("old_version", e.OldVersion), slog.Int("new_version", e.NewVersion), slog.String("origin", e.Origin))
	n.record(e)
}

// record writes an event to the ledger and counts it.
func (n *node) record(e secrets.Event) {
	err := n.ledger.Append(e)
	n.events.Add(e, err != nil)
	if err != nil {
		n.log.Error("writing to the ledger failed", slog.Any("error", err))
	}
}

// lookup answers a reference that stands in the settings of a source: a login's own
// secret. Only sources of this machine are asked, or two could wait for each other.
func (v *vaults) lookup(ctx context.Context, r secrets.Ref) (secrets.Value, error) {
	all := v.fixed
	if planned := v.planned.Load(); planned != nil {
		all = append(all[:len(all):len(all)], *planned...)
	}
	local := map[string]secrets.Opener{"env": env.Open, "file": file.Open, "sealed": sealed.Open}
	for _, x := range all {
		if x.Name != r.Vault {
			continue
		}
		open := local[x.Kind]
		if open == nil {
			return secrets.Value{}, fmt.Errorf("vault %s is of kind %s; expected env, file or sealed, since a login cannot need another server", x.Name, x.Kind)
		}
		return secrets.FetchOnce(ctx, open, x, r)
	}
	return secrets.Value{}, fmt.Errorf("there is no vault named %q", r.Vault)
}
