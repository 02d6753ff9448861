package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/keyway-edge/keyway/certs/statevault"
	"github.com/keyway-edge/keyway/edge/lastgood"
	"github.com/keyway-edge/keyway/secrets"
	"github.com/keyway-edge/keyway/secrets/vault"
)

// hcvPrefix begins the settings of the node's own Vault, which references name as
// {vault://hcv/...}: vault_hcv_address and so on.
const hcvPrefix = "vault_hcv_"

// hcvSettings are the settings of a vault entity of kind hcv as settings of the node.
func hcvSettings() []setting {
	life := []string{"ttl", "neg_ttl", "resurrect_ttl", "min_ttl", "max_ttl", "overlap"}
	var all []setting
	for _, name := range append(vault.Fields(), life...) {
		form, parse := "a text", func(v string) (any, error) { return v, nil }
		switch {
		case name == "base64_decode" || name == "approle_response_wrapping":
			form, parse = "true or false", func(v string) (any, error) { return strconv.ParseBool(v) }
		case name == "port" || name == "timeout" || slices.Contains(life, name):
			form, parse = "a number", func(v string) (any, error) { return strconv.ParseFloat(v, 64) }
		}
		all = append(all, setting{key: hcvPrefix + name, form: form, advanced: true, meaning: name + " of the vault hcv: see docs/credentials.md", apply: func(s *settings, v string) error {
			if v == "" {
				return nil
			}
			x, err := parse(v)
			if err != nil {
				return fmt.Errorf("%q is not", v) // only texts can be secret
			}
			if s.HCV == nil {
				s.HCV = map[string]any{}
			}
			s.HCV[name] = x
			return nil
		}})
	}
	return all
}

// hcvConfig checks the settings of the node's own Vault, false for none.
func (s *settings) hcvConfig() (vault.Config, bool, error) {
	if len(s.HCV) == 0 {
		return vault.Config{}, false, nil
	}
	_, rest, err := secrets.ParseLife(s.HCV)
	if err != nil {
		return vault.Config{}, true, err
	}
	c, err := vault.Parse(rest)
	return c, true, err
}

// agreeOnVault checks what the settings of the node's own Vault say together, and those
// that need it.
func (s *settings) agreeOnVault() []error {
	var errs []error
	_, have, err := s.hcvConfig()
	for _, f := range fieldErrors(err) {
		errs = append(errs, fmt.Errorf("setting %s%s: %s", hcvPrefix, f.Field, f.Message))
	}
	for name, v := range map[string]string{"shared_state": s.SharedState, "lastgood_key": s.LastGoodKey} {
		scheme, rest, ok := strings.Cut(v, ":")
		if !ok || scheme != "hcv" && scheme != "transit" {
			continue
		}
		if mount, path, ok := strings.Cut(rest, "/"); !ok || mount == "" || path == "" {
			errs = append(errs, fmt.Errorf("setting %s: %q; expected %s:<mount>/<name>", name, v, scheme))
		}
		if !have {
			errs = append(errs, fmt.Errorf("setting %s: it needs the node's own Vault; set %saddress and how to log in", name, hcvPrefix))
		}
	}
	return errs
}

// openVault makes the client of the node's own Vault, nil for none.
func (n *node) openVault() error {
	n.vaults = &vaults{fixed: []secrets.Vault{{Name: "env", Kind: "env"}, {Name: "sealed", Kind: "sealed", Config: map[string]any{"path": sealedPath(n.settings)}}}}
	c, have, err := n.settings.hcvConfig()
	if err != nil || !have {
		return err
	}
	n.hcv = vault.NewClient(c, n.vaults.deps(n))
	n.vaults.fixed = append(n.vaults.fixed, secrets.Vault{Name: "hcv", Kind: "hcv", Config: n.settings.HCV})
	return nil
}

// vaultState is the shared state in the node's own Vault, nil where the setting names
// a folder.
func (n *node) vaultState() *statevault.State {
	place, ok := strings.CutPrefix(n.settings.SharedState, "hcv:")
	if !ok || n.hcv == nil {
		return nil
	}
	mount, base, _ := strings.Cut(place, "/")
	return statevault.New(n.hcv, mount, base)
}

// transitKey is the key of the last known good state that Vault's transit engine
// keeps, nil where the setting names a file.
func (n *node) transitKey() lastgood.Keys {
	place, ok := strings.CutPrefix(n.settings.LastGoodKey, "transit:")
	if !ok || n.hcv == nil {
		return nil
	}
	mount, key, _ := strings.Cut(place, "/")
	return lastgood.Wrapped(vault.NewTransit(n.hcv, mount, key))
}
