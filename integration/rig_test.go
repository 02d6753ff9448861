package integration

import (
	"net/http"
	"testing"
	"time"
)

// TestRigVault tries the real Vault with its engines, PostgreSQL, and the proxy that
// makes it fail: what other tests rest on.
func TestRigVault(t *testing.T) {
	p := startPostgres(t)
	v := startVault(t)
	if n := v.put("app", map[string]string{"key": "one"}) + v.put("app", map[string]string{"key": "two"}); n != 3 {
		t.Errorf("versions 1 and 2 sum to %d", n)
	}
	v.database(p, "1m", "10m")
	out := v.do("GET", "database/creds/app", nil)
	data, _ := out["data"].(map[string]any)
	name, _ := data["username"].(string)
	password, _ := data["password"].(string)
	if err := p.login(name, password); err != nil {
		t.Error(err)
	}
	if err := p.login(name, "wrong"); err == nil {
		t.Error("PostgreSQL takes a wrong password: it checks nothing")
	}
	if n := v.leases("database/creds/app"); n != 1 || len(p.users()) != 1 {
		t.Errorf("%d leases, users %v", n, p.users())
	}
	v.do("PUT", "sys/leases/revoke", map[string]any{"lease_id": out["lease_id"], "sync": true})
	if len(p.users()) != 0 {
		t.Errorf("users %v outlive their lease", p.users())
	}
	v.pki("24h")
	v.do("POST", "pki/issue/web", map[string]any{"common_name": "a.test"})

	f := faultProxy(t, v.addr, nil, nil)
	patience := 20 * time.Second
	ask := func() (int, string) {
		c := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := c.Get("http://" + f.addr + "/v1/sys/health")
		if err != nil {
			return 0, ""
		}
		_ = resp.Body.Close()
		return resp.StatusCode, resp.Header.Get("Retry-After")
	}
	began := time.Now()
	expect := func(what string, want int) {
		t.Helper()
		if got, _ := ask(); got != want {
			t.Errorf("%s: %d, want %d", what, got, want)
		}
	}
	expect("passing", 200)
	f.set(t, faultRefuse)
	expect("refusing", 0)
	f.set(t, faultBlackHole)
	patience = time.Second
	expect("black hole", 0)
	patience = 20 * time.Second
	f.throttle(t, 7*time.Second)
	if got, after := ask(); got != 429 || after != "7" {
		t.Errorf("429: %d, Retry-After %q", got, after)
	}
	f.set(t, faultDown)
	expect("down", 503)
	f.slow(t, 300*time.Millisecond)
	at := time.Now()
	if expect("slow", 200); time.Since(at) < 300*time.Millisecond {
		t.Error("slow was fast")
	}
	f.set(t, faultNone)
	v.seal()
	expect("sealed", 503)
	v.open()
	expect("unsealed", 200)
	if n := len(f.since(began, "sys/health")); n != 7 { // a refused call reaches nobody
		t.Errorf("%d calls are counted, want 7", n)
	}
}

// TestRigPebble asks Pebble for its directory and its root.
func TestRigPebble(t *testing.T) {
	p := startPebble(t, freePort(t), freePort(t))
	if root := p.root(); len(root) < 100 {
		t.Errorf("root %q", root)
	}
}
