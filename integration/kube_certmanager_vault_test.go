package integration

import (
	"fmt"
	"strings"
	"time"
)

// intermediate mounts at pki_int an authority that the root of pki signed, with the role
// shop that signs requests for names beneath shop.test. It answers the root in PEM.
func (v *vaultServer) intermediate() string {
	v.t.Helper()
	root := v.pki("1h")
	v.do("POST", "sys/mounts/pki_int", map[string]any{"type": "pki", "config": map[string]string{"max_lease_ttl": "8000h"}})
	of := func(path string, body map[string]any) map[string]any {
		data, _ := v.do("POST", path, body)["data"].(map[string]any)
		return data
	}
	csr := of("pki_int/intermediate/generate/internal", map[string]any{"common_name": "rig intermediate", "key_type": "ec", "key_bits": 256})["csr"]
	cert := of("pki/root/sign-intermediate", map[string]any{"csr": csr, "common_name": "rig intermediate", "ttl": "7000h"})["certificate"]
	v.do("POST", "pki_int/intermediate/set-signed", map[string]any{"certificate": cert})
	// cert-manager asks for no common name where nothing says one.
	v.do("POST", "pki_int/roles/shop", map[string]any{"allowed_domains": "shop.test", "allow_subdomains": true, "require_cn": false, "key_type": "any", "max_ttl": "2h"})
	return root
}

// approle makes a login with an AppRole that has a policy, and answers its role and secret.
func (v *vaultServer) approle(name, policy string) (role, secret string) {
	v.t.Helper()
	v.do("POST", "sys/auth/approle", map[string]any{"type": "approle"})
	v.do("POST", "auth/approle/role/"+name, map[string]any{"token_policies": policy, "token_ttl": "1h"})
	data, _ := v.do("GET", "auth/approle/role/"+name+"/role-id", nil)["data"].(map[string]any)
	role, _ = data["role_id"].(string)
	data, _ = v.do("POST", "auth/approle/role/"+name+"/secret-id", nil)["data"].(map[string]any)
	secret, _ = data["secret_id"].(string)
	return role, secret
}

// vault has an intermediate authority of a real Vault sign what cert-manager asks for an
// Ingress, logged in with an AppRole. The clients know the root alone.
func (x *certManaged) vault() {
	v := startVault(x.t)
	x.roots = authorityOf(x.t, v.intermediate())
	const signs = `path "pki_int/sign/shop" { capabilities = ["create", "update"] }`
	v.do("PUT", "sys/policies/acl/shop", map[string]string{"policy": signs})
	role, secret := v.approle("shop", "shop")
	x.put("shop", "approle", map[string]string{"secret": secret})
	x.apply(fmt.Sprintf(`
apiVersion: cert-manager.io/v1
kind: Issuer
metadata: {name: vault, namespace: shop}
spec: {vault: {server: %q, path: pki_int/sign/shop, auth: {appRole: {path: approle, roleId: %q, secretRef: {name: approle, key: secret}}}}}
`, v.addr, role))

	const host, by = "vault.shop.test", "cert-manager.io/issuer: vault, cert-manager.io/duration: 1h, cert-manager.io/renew-before: 59m55s"
	began := time.Now()
	x.apply(issuedIngress("vault", by, host))
	x.g.answers(x.roots, host, "/hello", 200, "web /hello")
	x.t.Logf("served %v after the Ingress was written", time.Since(began).Round(time.Millisecond))
	x.becomes(host, "issued")
	if c := x.shown(host); c.Owner.Certificate != "shop/vault-tls" || c.Owner.Issuer != "Issuer vault" {
		x.t.Errorf("cert-manager's part: %+v", c.Owner)
	}
	first := x.serial(host)
	end := x.shaking(host)
	_, took := x.another(host, first, 40*time.Second)
	x.t.Logf("renewed by its time after %v", took.Round(time.Millisecond))

	// A policy that allows nothing more: what serves goes on, and the command says why.
	v.do("PUT", "sys/policies/acl/shop", map[string]string{"policy": `path "pki_int/sign/other" { capabilities = ["update"] }`})
	x.becomes(host, "failing")
	if c := x.shown(host); !strings.Contains(c.Owner.Reason, "403") {
		x.t.Errorf("cert-manager's part: %+v", c.Owner)
	}
	v.do("PUT", "sys/policies/acl/shop", map[string]string{"policy": signs})
	last := x.serial(host)
	if out, err := x.g.run("certs", "renew", host); err != nil {
		x.t.Errorf("certs renew: %v: %s", err, out)
	}
	x.another(host, last, 30*time.Second)
	if all, failed := end(); failed > 0 || all < 20 {
		x.t.Errorf("%d of %d handshakes failed", failed, all)
	} else {
		x.t.Logf("%d handshakes, none failed", all)
	}
}
