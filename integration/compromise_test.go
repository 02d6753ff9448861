package integration

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
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
		check(t, g, "lost.test", roots, v.revoked)
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
