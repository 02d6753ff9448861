package integration

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/certs/certtest"
	"github.com/keyway-edge/keyway/certs/statevault"
	"github.com/keyway-edge/keyway/secrets/vault"
)

// TestStateInVault holds the shared state in a real Vault to the contract of all.
func TestStateInVault(t *testing.T) {
	v := startVault(t)
	certtest.SharedState(t, func(t *testing.T) certs.SharedState {
		c, err := vault.Parse(map[string]any{"address": v.addr, "token": v.token})
		if err != nil {
			t.Fatal(err)
		}
		client := vault.NewClient(c, vault.Deps{})
		t.Cleanup(func() { _ = client.Close() })
		return statevault.New(client, "secret", "keyway/replicas")
	})
}

// TestNodeOwnVault gives a node a Vault of its own by its settings: references name
// it hcv, it keeps the shared state, and its transit engine the key of the last known
// good state.
func TestNodeOwnVault(t *testing.T) {
	v := startVault(t)
	v.do("POST", "sys/mounts/transit", map[string]any{"type": "transit"})
	v.do("POST", "transit/keys/edge", nil)
	v.put("keys/ann", map[string]string{"key": "canary-own-key"})
	o := tattle(t, nil)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(v.token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	opts := options{
		document: `_format_version: "3.0"
services: [{name: s, url: "http://` + o.addr + `", routes: [{name: r, paths: [/], plugins: [{name: key-auth}]}]}]
consumers: [{username: ann, keyauth_credentials: [{key: "{vault://hcv/keys/ann/key}"}]}]
`,
		env: map[string]string{
			"KEYWAY_VAULT_HCV_ADDRESS": v.addr, "KEYWAY_VAULT_HCV_TOKEN_FILE": token, "KEYWAY_VAULT_HCV_KV": "v2",
			"KEYWAY_SHARED_STATE": "hcv:secret/keyway", "KEYWAY_LASTGOOD_KEY": "transit:transit/edge",
		},
	}
	g := start(t, opts)
	ask := func(g *gateway) int { return keyed(t, "http://"+g.proxy+"/", "canary-own-key") }
	poll(t, "the key opens", 20*time.Second, func() bool { return ask(g) == 200 })
	poll(t, "replicas share through Vault", 20*time.Second, func() bool {
		code, _ := v.try("LIST", "secret/metadata/keyway", nil)
		return code == 200
	})
	poll(t, "the last known good state is written", 20*time.Second, func() bool {
		files, err := os.ReadDir(filepath.Join(g.dir, "last-good"))
		return err == nil && len(files) > 0
	})
	if _, err := os.Stat(filepath.Join(g.dir, "last-good.key")); err == nil {
		t.Error("there is a key of the state on this disk")
	}
	if code := g.stop(syscall.SIGTERM); code != 0 {
		t.Errorf("stopped with %d", code)
	}
	// What the transit engine wraps is read again by a node that may ask it: with the
	// documents spoilt, the node serves what it served.
	opts.dir, opts.document = g.dir, "_format_version: \"3.0\"\nnothing: right\n"
	g = start(t, opts)
	poll(t, "the key opens after a restart", 20*time.Second, func() bool { return ask(g) == 200 })
	if strings.Contains(g.log.String(), "canary") {
		t.Error("a secret is in the log")
	}
}

// keyed asks with an API key and answers the status, 0 for no answer.
func keyed(t *testing.T, url, key string) int {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
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
