package integration

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestRevokeTellsTheIssuer revokes certificates of Vault and of an ACME authority
// by the command: the issuer is told, and another certificate serves.
func TestRevokeTellsTheIssuer(t *testing.T) {
	check := func(t *testing.T, g *gateway, name string, roots *x509.CertPool, told func(*x509.Certificate) bool) {
		t.Helper()
		old := awaitLeaf(t, g, name, roots)
		if out := g.said("certs", "revoke", name, "--reason", "lost"); !strings.Contains(out, name) || strings.Contains(out, "not told") {
			t.Errorf("certs revoke:\n%s", out)
		}
		if !told(old) {
			t.Error("the issuer does not count the certificate as revoked")
		}
		poll(t, "another certificate serves", 60*time.Second, func() bool {
			c, err := shownLeaf(g.tls, name, roots)
			return err == nil && c.SerialNumber.Cmp(old.SerialNumber) != 0
		})
		if out := g.said("audit", "query", "--event", "revoked"); !strings.Contains(out, "compromised") {
			t.Errorf("the ledger does not tell it:\n%s", out)
		}
	}
	t.Run("vault_pki", func(t *testing.T) {
		v := startVault(t)
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM([]byte(v.pki("1h")))
		g := start(t, options{document: `_format_version: "3.0"
vaults:
` + v.entity("pki", "engine: generic") + `
x_keyway_issuers: [{name: own, type: vault_pki, config: {vault: pki, role: signed}}]
certificates: [{x_keyway_issuer: own, snis: [lost.test]}]
`})
		first := awaitLeaf(t, g, "lost.test", roots)
		g.said("certs", "renew", "lost.test")
		second := awaitLeaf(t, g, "lost.test", roots)
		if out := g.said("certs", "revoke", "lost.test", "--version", "1"); strings.Contains(out, "issuer") {
			t.Errorf("certs revoke --version 1:\n%s", out)
		}
		if third, err := shownLeaf(g.tls, "lost.test", roots); err != nil || third.SerialNumber.Cmp(second.SerialNumber) != 0 || v.revoked(second) {
			t.Errorf("version 1 was revoked, and it hit version 2: %v", err)
		}
		if !v.revoked(first) {
			t.Error("the issuer does not count version 1 as revoked")
		}
		check(t, g, "lost.test", roots, v.revoked)
	})
	t.Run("vault_pki_sealed", func(t *testing.T) {
		v := startVault(t)
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM([]byte(v.pki("1h")))
		g := start(t, options{document: `_format_version: "3.0"
vaults:
` + v.entity("pki", "engine: generic") + `
x_keyway_issuers: [{name: own, type: vault_pki, config: {vault: pki, role: signed}}]
certificates: [{x_keyway_issuer: own, snis: [lost.test]}]
`})
		old := awaitLeaf(t, g, "lost.test", roots)
		v.seal()
		if out := g.said("certs", "revoke", "lost.test", "--reason", "lost"); !strings.Contains(out, "not told yet") {
			t.Errorf("certs revoke:\n%s", out)
		}
		v.open()
		poll(t, "another certificate serves", 60*time.Second, func() bool {
			c, err := shownLeaf(g.tls, "lost.test", roots)
			return err == nil && c.SerialNumber.Cmp(old.SerialNumber) != 0
		})
		poll(t, "the issuer is told", 60*time.Second, func() bool { return v.revoked(old) })
	})
	t.Run("acme", func(t *testing.T) {
		clear, secure := freePort(t), freePort(t)
		p := startPebble(t, clear, secure)
		g := start(t, options{document: acmeDocument(t, p, "", "ecdsa-p256", "lost.test"), proxy: clear, tls: secure})
		check(t, g, "lost.test", p.pool(), func(c *x509.Certificate) bool {
			text, err := p.get(fmt.Sprintf("%s/cert-status-by-serial/%x", p.manage, c.SerialNumber))
			var status struct{ Status string }
			return err == nil && json.Unmarshal([]byte(text), &status) == nil && status.Status == "Revoked"
		})
	})
}

// TestCertificateCommands checks, renews and asks for the ECH configuration by command.
func TestCertificateCommands(t *testing.T) {
	v := startVault(t)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(v.pki("1h")))
	dir := t.TempDir()
	cert, key := pair(t, "pair.test", "pair.test")
	file(t, dir, "tls.crt", cert)
	file(t, dir, "tls.key", key)
	g := start(t, options{document: `_format_version: "3.0"
vaults:
- {name: file, prefix: pair, config: {root: ` + dir + `}}
` + v.entity("pki", "engine: generic") + `
x_keyway_issuers: [{name: own, type: vault_pki, config: {vault: pki, role: signed}}]
certificates:
- {x_keyway_issuer: own, snis: [issued.test]}
- {cert: "{vault://pair/tls.crt/}", key: "{vault://pair/tls.key/}", snis: [pair.test]}
`, env: map[string]string{"KEYWAY_TLS_ECH_PUBLIC_NAME": "public.test"}})
	old := awaitLeaf(t, g, "issued.test", roots)
	if out := g.said("certs", "renew", "issued.test"); !strings.Contains(out, "issued.test  1       2") {
		t.Errorf("certs renew:\n%s", out)
	}
	if c, err := shownLeaf(g.tls, "issued.test", roots); err != nil || c.SerialNumber.Cmp(old.SerialNumber) == 0 {
		t.Errorf("the command is done, and the old certificate serves: %v", err)
	}
	for _, name := range []string{"issued.test", "pair.test"} {
		if out := g.said("certs", "check", name); !strings.Contains(out, "handshake") || strings.Contains(out, "failed") {
			t.Errorf("certs check %s:\n%s", name, out)
		}
	}
	other, _ := pair(t, "else.test", "else.test")
	bad, good := file(t, dir, "bad.pem", other), file(t, dir, "good.pem", cert)
	out, err := g.run("certs", "check", bad, "--key", filepath.Join(dir, "tls.key"), "--for", "pair.test")
	if err == nil || !strings.Contains(out, "key_mismatch") || !strings.Contains(out, "failed") {
		t.Errorf("a pair that is none: %v\n%s", err, out)
	}
	if out, err = g.run("certs", "check", good, "--key", filepath.Join(dir, "tls.key"), "--for", "issued.test"); err == nil || !strings.Contains(out, "names") {
		t.Errorf("a pair for other names: %v\n%s", err, out)
	}
	if out := g.said("certs", "list"); !strings.Contains(out, "pair.test") || strings.Contains(out, "refused") {
		t.Errorf("a check changed something:\n%s", out)
	}
	if out := g.said("certs", "ech"); !strings.Contains(out, "public.test") || len(strings.Fields(out)) != 4 {
		t.Errorf("certs ech:\n%s", out)
	}
	sessions := tls.NewLRUClientSessionCache(4)
	resumes := func() bool {
		c, err := tls.Dial("tcp", g.tls, &tls.Config{ServerName: "issued.test", RootCAs: roots, ClientSessionCache: sessions, MaxVersion: tls.VersionTLS12})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		return c.ConnectionState().DidResume
	}
	if resumes(); !resumes() {
		t.Error("sessions are not resumed; the next shows nothing")
	}
	before := g.said("certs", "ech")
	for _, use := range []string{"tickets", "ech"} {
		if out := g.said("certs", "rotate-keys", use, "--reason", "seen"); !strings.Contains(out, use) || strings.Contains(out, "not told") {
			t.Errorf("certs rotate-keys %s:\n%s", use, out)
		}
	}
	if resumes() {
		t.Error("a session is resumed after its keys were replaced")
	}
	if after := g.said("certs", "ech"); after == before {
		t.Error("the ECH configuration is the same after its keys were replaced")
	}
	if out, err := g.run("certs", "rotate-keys", "others"); err == nil || !strings.Contains(out, "expected tickets or ech") {
		t.Errorf("keys of another use: %v\n%s", err, out)
	}
	if out := g.said("audit", "query", "--kind", "admin"); strings.Count(out, "rotate") < 2 || strings.Count(out, "check") < 4 || !strings.Contains(out, "renew") {
		t.Errorf("the ledger:\n%s", out)
	}
}
