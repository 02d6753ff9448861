package integration

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/secrets"
	"github.com/keyway-edge/keyway/secrets/secrettest"
	"github.com/keyway-edge/keyway/secrets/vault"
)

// said is what a command of the binary prints about this node.
func (g *gateway) said(args ...string) string {
	g.t.Helper()
	out, err := g.run(args...)
	if err != nil {
		g.t.Errorf("keyway %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// heard keeps the events of sources.
type heard struct {
	mu   sync.Mutex
	list []secrets.Event
}

func (h *heard) add(e secrets.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.list = append(h.list, e)
}

func (h *heard) count(kind, result string) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.list {
		if e.Kind == kind && e.Result == result {
			n++
		}
	}
	return n
}

// source opens a vault entity's source as a node does.
func (v *vaultServer) source(config map[string]any, events func(secrets.Event)) *vault.Source {
	v.t.Helper()
	if config["address"] == nil {
		config["address"] = v.addr
	}
	if config["auth_method"] == nil && config["token"] == nil {
		config["token"] = v.token
	}
	c, err := vault.Parse(config)
	if err != nil {
		v.t.Fatal(err)
	}
	s := vault.New(c, vault.Deps{Events: events})
	v.t.Cleanup(func() { _ = s.Close() })
	return s
}

func read(t *testing.T, s secrets.Source, r secrets.Request) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	l, err := s.Fetch(ctx, r)
	return string(l.Value.Reveal()), err
}

// TestVaultContract runs the suite that every source passes against a real Vault.
func TestVaultContract(t *testing.T) {
	v := startVault(t)
	f := faultProxy(t, v.addr, nil, nil)
	for _, kv := range []string{"v1", "v2"} {
		t.Run("kv "+kv, func(t *testing.T) {
			mount := map[string]string{"v1": "kv1", "v2": "secret"}[kv]
			secrettest.Contract(t, func(t *testing.T) secrettest.Subject {
				f.set(t, faultNone)
				at := func(name string) string {
					if kv == "v2" {
						return mount + "/data/" + name
					}
					return mount + "/" + name
				}
				body := func(value string) any {
					var fields map[string]any
					if json.Unmarshal([]byte(value), &fields) != nil {
						fields = map[string]any{"value": value}
					}
					if kv == "v2" {
						return map[string]any{"data": fields}
					}
					return fields
				}
				for _, name := range []string{"one", "two", "never"} {
					v.try("DELETE", strings.Replace(at(name), "/data/", "/metadata/", 1), nil)
				}
				token := v.policy("reader-"+kv, `path "`+mount+`/*" { capabilities = ["read"] }`+"\n"+`path "`+at("denied")+`" { capabilities = ["deny"] }`, "1h")
				return secrettest.Subject{
					Source: plainValues{v.source(map[string]any{"address": "http://" + f.addr, "token": token, "kv": kv, "mount": mount, "timeout": 2}, nil)},
					Put:    func(_ *testing.T, name, value string) { v.do("POST", at(name), body(value)) },
					Remove: func(_ *testing.T, name string) {
						v.try("DELETE", strings.Replace(at(name), "/data/", "/metadata/", 1), nil)
					},
					Deny: func(t *testing.T, name string) {
						v.do("POST", at(name), body("x"))
						v.do("PUT", "sys/policies/acl/reader-"+kv, map[string]string{"policy": `path "` + mount + `/*" { capabilities = ["read"] }` + "\n" + `path "` + at(name) + `" { capabilities = ["deny"] }`})
					},
					Break: func(t *testing.T) func() {
						f.set(t, faultRefuse)
						return func() { f.set(t, faultNone) }
					},
					Hang: func(t *testing.T) func() {
						f.set(t, faultBlackHole)
						return func() { f.set(t, faultNone) }
					},
					Fixed: true,
				}
			})
		})
	}
}

// plainValues answers the one field "value" of a secret as the whole: Vault's secrets
// are objects, and the suite puts plain texts too.
type plainValues struct{ *vault.Source }

func (s plainValues) Fetch(ctx context.Context, r secrets.Request) (secrets.Lease, error) {
	l, err := s.Source.Fetch(ctx, r)
	var fields map[string]string
	if err == nil && json.Unmarshal(l.Value.Reveal(), &fields) == nil && len(fields) == 1 {
		if text, ok := fields["value"]; ok {
			l.Value = secrets.NewValue([]byte(text))
		}
	}
	return l, err
}

// TestVaultLogins logs in with every method that the real server has.
func TestVaultLogins(t *testing.T) {
	v := startVault(t)
	v.put("app", map[string]string{"key": "canary-value"})
	v.do("PUT", "sys/policies/acl/app", map[string]string{"policy": `path "secret/data/app" { capabilities = ["read"] }`})
	base := func(more ...any) map[string]any {
		c := map[string]any{"kv": "v2"}
		for i := 0; i < len(more); i += 2 {
			c[more[i].(string)] = more[i+1]
		}
		return c
	}
	f := func(name string, config map[string]any, told *heard) {
		t.Helper()
		if got, err := read(t, v.source(config, told.add), secrets.Request{Resource: "app"}); err != nil || got != `{"key":"canary-value"}` {
			t.Errorf("%s: %v", name, err)
		}
		if told.count("source", "login") != 1 {
			t.Errorf("%s: no login is told", name)
		}
	}
	f("token", base("token", v.policy("app2", `path "secret/data/app" { capabilities = ["read"] }`, "1h")), &heard{})

	v.do("POST", "sys/auth/approle", map[string]any{"type": "approle"})
	v.do("POST", "auth/approle/role/edge", map[string]any{"token_policies": "app", "token_ttl": "1h", "secret_id_num_uses": 0})
	role := v.do("GET", "auth/approle/role/edge/role-id", nil)["data"].(map[string]any)["role_id"].(string)
	secretID := func() string {
		return v.do("POST", "auth/approle/role/edge/secret-id", nil)["data"].(map[string]any)["secret_id"].(string)
	}
	file := filepath.Join(t.TempDir(), "secret-id")
	if err := os.WriteFile(file, []byte(secretID()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f("approle", base("auth_method", "approle", "approle_role_id", role, "approle_secret_id", secretID()), &heard{})
	f("approle, secret-id from a file", base("auth_method", "approle", "approle_role_id", role, "approle_secret_id_file", file), &heard{})

	wrapped := v.wrapped("auth/approle/role/edge/secret-id")
	told := &heard{}
	config := func() map[string]any {
		return base("auth_method", "approle", "approle_role_id", role, "approle_secret_id", wrapped, "approle_response_wrapping", true)
	}
	f("approle, wrapped", config(), told)
	if told.count("security", "wrapping_token_used") != 0 {
		t.Error("an alarm without a cause")
	}
	// A second one with the same wrapping token, as a thief would be.
	if _, err := read(t, v.source(config(), told.add), secrets.Request{Resource: "app"}); !errors.Is(err, secrets.ErrUnavailable) {
		t.Errorf("a wrapping token was used twice: %v", err)
	}
	if told.count("security", "wrapping_token_used") != 1 {
		t.Error("a wrapping token that was used twice is no security event")
	}
	// A token that somebody revokes is replaced by a new login.
	told = &heard{}
	s := v.source(base("auth_method", "approle", "approle_role_id", role, "approle_secret_id", secretID()), told.add)
	if _, err := read(t, s, secrets.Request{Resource: "app"}); err != nil {
		t.Fatal(err)
	}
	for _, a := range v.do("LIST", "auth/token/accessors", nil)["data"].(map[string]any)["keys"].([]any) {
		if a != v.accessor() {
			v.do("POST", "auth/token/revoke-accessor", map[string]any{"accessor": a})
		}
	}
	if _, err := read(t, s, secrets.Request{Resource: "app"}); err != nil || told.count("source", "login") != 2 {
		t.Errorf("after the token was revoked: %v, %d logins", err, told.count("source", "login"))
	}
}

// wrapped calls a path and answers the wrapping token of its answer.
func (v *vaultServer) wrapped(path string) string {
	v.t.Helper()
	req, err := http.NewRequest(http.MethodPost, v.addr+"/v1/"+path, strings.NewReader("{}"))
	if err != nil {
		v.t.Fatal(err)
	}
	req.Header.Set("X-Vault-Token", v.token)
	req.Header.Set("X-Vault-Wrap-TTL", "300s")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		v.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var out struct {
		Wrap struct {
			Token string `json:"token"`
		} `json:"wrap_info"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil || out.Wrap.Token == "" {
		v.t.Fatalf("no wrapping token: %v", err)
	}
	return out.Wrap.Token
}

// accessor is that of the root token.
func (v *vaultServer) accessor() any {
	return v.do("GET", "auth/token/lookup-self", nil)["data"].(map[string]any)["accessor"]
}

// TestVaultVersions pins, deletes and destroys versions of the engine kv v2.
func TestVaultVersions(t *testing.T) {
	v := startVault(t)
	for _, s := range []string{"one", "two", "three"} {
		v.put("app", map[string]string{"key": s})
	}
	s := v.source(map[string]any{"kv": "v2"}, nil)
	f := func(version int, want string, fails error) {
		t.Helper()
		got, err := read(t, s, secrets.Request{Resource: "app", Version: version})
		if fails == nil && (err != nil || got != `{"key":"`+want+`"}`) || fails != nil && !errors.Is(err, fails) {
			t.Errorf("version %d: %q, %v", version, got, err)
		}
	}
	f(0, "three", nil)
	f(1, "one", nil)
	f(2, "two", nil)
	f(9, "", secrets.ErrNotFound)
	v.do("POST", "secret/destroy/app", map[string]any{"versions": []int{1}})
	v.do("POST", "secret/delete/app", map[string]any{"versions": []int{2}})
	f(1, "", secrets.ErrRemoved)
	f(2, "", secrets.ErrRemoved)
	v.do("POST", "secret/undelete/app", map[string]any{"versions": []int{2}})
	f(2, "two", nil)
	v.do("DELETE", "secret/data/app", nil)
	f(0, "", secrets.ErrRemoved)
}

func (v *vaultServer) entity(prefix string, more string) string {
	return fmt.Sprintf("- {name: hcv, prefix: %s, config: {address: %q, token: %q, %s}}\n", prefix, v.addr, v.token, more)
}

// TestVaultConsumerKey rotates an API key at a Vault path: the new one is taken
// soon, the old one for the overlap, a removed one ends.
func TestVaultConsumerKey(t *testing.T) {
	v := startVault(t)
	v.put("keys/ann", map[string]string{"key": "canary-key-1"})
	o := tattle(t, nil)
	g := start(t, options{document: `_format_version: "3.0"
vaults:
` + v.entity("team", "kv: v2, ttl: 1, overlap: 4") + `
services: [{name: s, url: "http://` + o.addr + `", routes: [{name: r, paths: [/], plugins: [{name: key-auth}]}]}]
consumers: [{username: ann, keyauth_credentials: [{key: "{vault://team/keys/ann/key}"}]}]
`})
	ask := func(key string) int {
		req, err := http.NewRequest(http.MethodGet, "http://"+g.proxy+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("apikey", key)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	poll(t, "the first key opens", 20*time.Second, func() bool { return ask("canary-key-1") == 200 })
	v.put("keys/ann", map[string]string{"key": "canary-key-2"})
	began := time.Now()
	poll(t, "the new key opens", 20*time.Second, func() bool { return ask("canary-key-2") == 200 })
	if status := ask("canary-key-1"); status != 200 {
		t.Errorf("within its overlap the old key gets %d", status)
	}
	poll(t, "the old key ends", 20*time.Second, func() bool { return ask("canary-key-1") == 401 })
	if took := time.Since(began); took < 3*time.Second {
		t.Errorf("the overlap of 4 s took %s", took)
	}
	if ask("canary-key-2") != 200 {
		t.Error("the new key ended with the old one")
	}
	v.do("DELETE", "secret/data/keys/ann", nil)
	poll(t, "a removed key ends", 20*time.Second, func() bool { return ask("canary-key-2") == 401 })
	if log := g.log.String(); strings.Contains(log, "canary") {
		t.Error("a key or a token is in the log")
	}
	out := g.said("audit", "query", "--event", "overlap_ended")
	if !strings.Contains(out, "{vault://team/keys/ann/key}") {
		t.Errorf("the ledger does not tell the end of the overlap:\n%s", out)
	}
}

// TestVaultDatabase gives a service dynamic users of a real PostgreSQL, whose origin
// logs in with what each request carries: over renewals and past the end of what a
// lease may be extended to, no request meets a user that is gone.
func TestVaultDatabase(t *testing.T) {
	p := startPostgres(t)
	v := startVault(t)
	v.database(p, "4s", "9s")
	var mu sync.Mutex
	users := map[string]bool{}
	var bad atomic.Int64
	o := tattle(t, func(r *http.Request) (int, string) {
		text, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(r.Header.Get("Authorization"), "Basic "))
		name, password, _ := strings.Cut(string(text), ":")
		if err := p.login(name, password); err != nil {
			bad.Add(1)
			return http.StatusUnauthorized, err.Error()
		}
		mu.Lock()
		users[name] = true
		mu.Unlock()
		return http.StatusOK, name
	})
	g := start(t, options{document: `_format_version: "3.0"
vaults:
` + v.entity("db", "engine: generic, overlap: 2") + `
services:
- name: s
  url: "http://` + o.addr + `"
  x_keyway_upstream_auth: {type: basic, username: "{vault://db/database/creds/app/username}", password: "{vault://db/database/creds/app/password}"}
  routes: [{name: r, paths: [/]}]
`})
	count, lost := 0, 0
	for end := time.Now().Add(25 * time.Second); time.Now().Before(end); count++ {
		resp, err := http.Get("http://" + g.proxy + "/")
		if err != nil {
			lost++
			continue
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != 200 {
			lost++
			t.Logf("request %d: %d %s", count, resp.StatusCode, body)
		}
	}
	mu.Lock()
	seen := len(users)
	mu.Unlock()
	t.Logf("%d requests, %d lost, %d refused by PostgreSQL, %d users", count, lost, bad.Load(), seen)
	if lost > 0 || bad.Load() > 0 || seen < 2 || seen > 12 {
		t.Error("expected no request lost, and some users one after the other")
	}
	if n := v.leases("database/creds/app"); n < 1 || n > 3 {
		t.Errorf("%d leases are held; replaced ones are revoked after their overlap", n)
	}
	if list := p.users(); len(list) > 3 {
		t.Errorf("PostgreSQL still has %v", list)
	}
	if out := g.said("secrets", "list", "--json"); !strings.Contains(out, `"ttl_seconds"`) || strings.Contains(out, "password\":") {
		t.Errorf("secrets list:\n%s", out)
	}
}

// revoked says whether the engine pki counts a certificate as revoked.
func (v *vaultServer) revoked(c *x509.Certificate) bool {
	v.t.Helper()
	var parts []string
	for _, b := range c.SerialNumber.Bytes() {
		parts = append(parts, fmt.Sprintf("%02x", b))
	}
	data, _ := v.do("GET", "pki/cert/"+strings.Join(parts, ":"), nil)["data"].(map[string]any)
	at, _ := data["revocation_time"].(float64)
	if at == 0 {
		v.t.Logf("Vault says of certificate %x, which ends at %s: revocation time %v", c.SerialNumber, c.NotAfter.Format(time.RFC3339), data["revocation_time"])
	}
	return at > 0
}

// TestVaultPKI has certificates signed and issued, renews them before their end, and
// revokes the replaced ones where that is asked for.
func TestVaultPKI(t *testing.T) {
	v := startVault(t)
	root := v.pki("30s")
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(root))
	g := start(t, options{document: `_format_version: "3.0"
vaults:
` + v.entity("pki", "engine: generic, overlap: 2") + `
x_keyway_issuers:
- {name: signing, type: vault_pki, config: {vault: pki, role: signed, certificate_ttl: 15, revoke_on_release: true, overlap: 1}}
- {name: issuing, type: vault_pki, config: {vault: pki, role: web, mode: issue, certificate_ttl: 30}}
certificates:
- {x_keyway_issuer: signing, snis: [sign.test, also.sign.test]}
- {x_keyway_issuer: issuing, snis: [issue.test]}
`, env: map[string]string{"KEYWAY_CANARY_FAILURES": "0"}}) // what is on trial keeps the one before it from being revoked
	shown := func(name string) *x509.Certificate {
		c, err := shownLeaf(g.tls, name, pool)
		if err != nil {
			return nil
		}
		return c
	}
	var first *x509.Certificate
	poll(t, "a signed certificate is served", 20*time.Second, func() bool { first = shown("sign.test"); return first != nil })
	if !slices.Contains(first.DNSNames, "also.sign.test") || shown("also.sign.test") == nil {
		t.Errorf("names %v", first.DNSNames)
	}
	poll(t, "an issued certificate is served", 20*time.Second, func() bool { return shown("issue.test") != nil })
	renewed := 0
	last := first
	// Vault revokes nothing that ends within two seconds: the life leaves as much after
	// the latest renewal and its overlap. Two renewals come within 22 s.
	for end := time.Now().Add(25 * time.Second); time.Now().Before(end); {
		c := shown("sign.test")
		if c == nil {
			t.Fatalf("no valid certificate is served; %d renewals", renewed)
		}
		if c.SerialNumber.Cmp(last.SerialNumber) != 0 {
			renewed, last = renewed+1, c
		}
		time.Sleep(20 * time.Millisecond)
	}
	if renewed < 2 || renewed > 3 {
		t.Errorf("%d renewals of a certificate of 15 s in 25 s", renewed)
	}
	if !v.revoked(first) {
		t.Errorf("certificate %x was replaced and not revoked, which revoke_on_release asks for:\n%s", first.SerialNumber, g.said("audit", "query", "--since", "1m"))
	}
	if block, _ := pem.Decode([]byte(root)); block == nil || strings.Contains(g.log.String(), "PRIVATE KEY") {
		t.Error("a key is in the log")
	}
	if out := g.said("audit", "query", "--kind", "certificate", "--event", "activated"); !strings.Contains(out, "sign.test") {
		t.Errorf("the ledger:\n%s", out)
	}
}
