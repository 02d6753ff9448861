package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/secrets"
)

// settingsVault is the vault under which the files of tls_cert and tls_key are
// watched; no document can name it, since prefixes have no dot.
const settingsVault = "node.settings"

// vaults turns documents and settings into what the broker has to fetch.
type vaults struct {
	always  []secrets.Ref   // of the settings
	fixed   []secrets.Vault // without a document
	planned atomic.Pointer[[]secrets.Vault]
}

// credentials makes the broker with the sources of this build.
func (n *node) credentials() error {
	versions, err := secrets.Versions(ledgerDir(n.settings))
	if err != nil {
		return fmt.Errorf("reading the versions of credentials from the ledger: %w", err)
	}
	deps := n.vaults.deps(n)
	config := secrets.Config{
		Log:      n.log,
		Openers:  openers(deps, n.issuing()),
		Events:   n.event,
		Trial:    secrets.TrialRule{Window: n.settings.CanaryWindow, Failures: n.settings.CanaryFailures},
		Versions: versions,
		Kept:     n.kept(),
		Vaults:   slices.Clone(n.vaults.fixed),

		RevokeAtStop: n.settings.RevokeAtStop,
	}
	dir, err := n.vaults.pairDir(n.settings)
	if err != nil {
		return err
	}
	if dir != "" {
		config.Vaults = append(config.Vaults, secrets.Vault{Name: settingsVault, Kind: "file", Config: map[string]any{"root": dir}})
	}
	n.vaults.fixed = config.Vaults
	n.broker = secrets.NewBroker(config)
	return nil
}

// sealedPath is the node's own sealed store.
func sealedPath(s *settings) string {
	abs, err := filepath.Abs(filepath.Join(s.DataDir, "sealed", "secrets"))
	if err != nil {
		return filepath.Join(s.DataDir, "sealed", "secrets")
	}
	return abs
}

// plan lists what a document needs of the broker.
func (v *vaults) plan(doc *spec.Document) secrets.Plan {
	p := secrets.Plan{Refs: append([]secrets.Ref(nil), v.always...)}
	for _, x := range doc.Vaults {
		p.Vaults = append(p.Vaults, secrets.Vault{Name: x.Prefix, Kind: x.Name, Config: x.Config})
	}
	for _, x := range doc.Issuers {
		p.Vaults = append(p.Vaults, secrets.Vault{Name: x.IssuerVault(), Kind: x.Type, Config: issuerConfig(doc, x)})
	}
	v.planned.Store(&p.Vaults)
	for ref := range doc.Refs() {
		p.Refs = append(p.Refs, ref)
	}
	return p
}

// pairDir is the folder that holds the files of tls_cert and tls_key: the deepest
// one common to both. It is "" when neither is a file.
func (v *vaults) pairDir(s *settings) (string, error) {
	if (s.TLSCert == "") != (s.TLSKey == "") {
		return "", errors.New("tls_cert and tls_key go together: set both or neither")
	}
	if s.TLSCert == "" || !isFile(s.TLSCert) || !isFile(s.TLSKey) {
		return "", nil
	}
	a, err := filepath.Abs(s.TLSCert)
	if err != nil {
		return "", fmt.Errorf("finding tls_cert: %w", err)
	}
	b, err := filepath.Abs(s.TLSKey)
	if err != nil {
		return "", fmt.Errorf("finding tls_key: %w", err)
	}
	for dir := filepath.Dir(a); ; dir = filepath.Dir(dir) {
		if rel, err := filepath.Rel(dir, b); err == nil && !strings.HasPrefix(rel, "..") {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return dir, nil
		}
	}
}

// isFile tells the path of a file from PEM text and from a reference.
func isFile(s string) bool {
	return !secrets.IsRef(s) && !strings.Contains(s, "-----BEGIN")
}

// defaultPair is the default slot's pair as the builder takes it: files become
// references, so that they are watched and swapped like every other credential.
func (v *vaults) defaultPair(s *settings) (cert, key spec.Secret, err error) {
	if s.TLSCert == "" {
		return cert, key, nil
	}
	dir, err := v.pairDir(s)
	if err != nil {
		return cert, key, err
	}
	if cert, err = v.secret("tls_cert", s.TLSCert, dir); err != nil {
		return cert, key, err
	}
	key, err = v.secret("tls_key", s.TLSKey, dir)
	return cert, key, err
}

func (v *vaults) secret(name, text, dir string) (spec.Secret, error) {
	switch {
	case secrets.IsRef(text):
	case !isFile(text):
		return spec.Secret{Value: secrets.NewValue([]byte(text))}, nil
	default:
		abs, err := filepath.Abs(text)
		if err != nil {
			return spec.Secret{}, fmt.Errorf("finding %s: %w", name, err)
		}
		if _, err := os.Stat(abs); err != nil {
			// Not the path: what is no file may be a key that was pasted without its first line.
			var path *fs.PathError
			if errors.As(err, &path) {
				err = path.Err
			}
			return spec.Secret{}, fmt.Errorf("setting %s: finding its file: %w; expected a file, PEM, or a {vault://...} reference", name, err)
		}
		rel, err := filepath.Rel(dir, abs)
		if err != nil {
			return spec.Secret{}, fmt.Errorf("finding %s: %w", name, err)
		}
		// The trailing slash makes the whole path the resource, with no key.
		text = "{vault://" + settingsVault + "/" + escapePath(rel) + "/}"
	}
	ref, err := secrets.ParseRef(text)
	if err != nil {
		return spec.Secret{}, fmt.Errorf("setting %s: %w", name, err)
	}
	v.always = append(v.always, ref)
	return spec.Secret{Ref: ref}, nil
}

// escapePath percent-encodes what would end a reference.
func escapePath(p string) string {
	return strings.NewReplacer("%", "%25", "?", "%3F", "#", "%23", "{", "%7B", "}", "%7D").Replace(filepath.ToSlash(p))
}
