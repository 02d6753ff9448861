package integration

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestALoginThatEnds is case S-08 with a real Vault: the token of an AppRole is revoked.
// One read meets that, then there is a new login; when that is refused too the values
// that were read last are used on, no dead token reads twice, and the value that was
// written meanwhile is in use soon after a login is possible again.
func TestALoginThatEnds(t *testing.T) {
	v := startVault(t)
	f := faultProxy(t, v.addr, nil, nil)
	v.put("up", map[string]string{"key": "first"})
	v.do("PUT", "sys/policies/acl/app", map[string]string{"policy": `path "secret/data/up" { capabilities = ["read"] }`})
	v.do("POST", "sys/auth/approle", map[string]any{"type": "approle"})
	// Five refused logins would lock the role out for fifteen minutes: they don't come.
	v.do("POST", "auth/approle/role/edge", map[string]any{"token_policies": "app", "token_ttl": "1h", "secret_id_num_uses": 0})
	role := v.do("GET", "auth/approle/role/edge/role-id", nil)["data"].(map[string]any)["role_id"].(string)
	path := filepath.Join(t.TempDir(), "secret-id")
	login := func() {
		t.Helper()
		id := v.do("POST", "auth/approle/role/edge/secret-id", nil)["data"].(map[string]any)["secret_id"].(string)
		if err := os.WriteFile(path, []byte(id), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	login()
	up := &guard{}
	up.accept(func() {}, "first", "second", "third")
	o := tattle(t, up.check)
	g := start(t, options{document: fmt.Sprintf(`
_format_version: "3.0"
vaults: [{name: hcv, prefix: hv, config: {address: "http://%s", auth_method: approle, approle_role_id: %q, approle_secret_id_file: %q, kv: v2, ttl: 1}}]
services: [{name: a, url: "http://%s", routes: [{paths: [/]}], x_keyway_upstream_auth: {type: header, name: X-Upstream-Key, value: "{vault://hv/up/key}"}}]
`, f.addr, role, path, o.addr)})
	lost := 0
	uses := func(key string) func() bool {
		return func() bool {
			resp, err := http.Get("http://" + g.proxy + "/")
			if err != nil {
				lost++
				return false
			}
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				lost++
			}
			last, _ := up.state()
			return last == key
		}
	}
	poll(t, "the first key is used", 20*time.Second, uses("first"))
	lost = 0
	revoke := func() {
		t.Helper()
		for _, a := range v.do("LIST", "auth/token/accessors", nil)["data"].(map[string]any)["keys"].([]any) {
			if a != v.accessor() {
				v.do("POST", "auth/token/revoke-accessor", map[string]any{"accessor": a})
			}
		}
	}
	logins := func() float64 { return g.counter(t, `keyway_events_total{kind="source",result="login"}`) }

	// Revoked while a login is possible.
	began, before := time.Now(), logins()
	revoke()
	v.put("up", map[string]string{"key": "second"})
	poll(t, "the second key is used", 20*time.Second, uses("second"))
	if n := logins() - before; n != 1 {
		t.Errorf("%v logins for one token that was revoked", n)
	}

	// Revoked, and the role takes no login.
	v.do("POST", "auth/approle/role/edge/secret-id/destroy", map[string]any{"secret_id": secretIn(t, path)})
	revoke()
	v.put("up", map[string]string{"key": "third"})
	for end := time.Now().Add(8 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if !uses("second")() {
			t.Fatal("the key that was read last is not used on")
		}
	}
	if n := busiest(f.since(began, "/login"), 10*time.Second); n > 4 {
		t.Errorf("%d logins within 10 s", n)
	}
	login()
	poll(t, "the third key is used", 65*time.Second, uses("third"))
	if lost > 0 {
		t.Errorf("%d requests lost", lost)
	}
	dead := map[string]int{}
	for _, c := range f.since(began, "secret/data/up") {
		if c.status == http.StatusForbidden {
			dead[c.header.Get("X-Vault-Token")]++
		}
	}
	for _, n := range dead {
		if n > 1 {
			t.Errorf("a dead token was used for %d reads", n)
		}
	}
	if len(dead) != 2 {
		t.Errorf("%d tokens died, of 2", len(dead))
	}
}

func secretIn(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
