package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// tool is a program that `make setup` builds or installs, by its name in the cache
// or on the path; without it the test is skipped, loudly.
func tool(t testing.TB, name string) string {
	t.Helper()
	cache := os.Getenv("KEYWAY_CACHE")
	if cache == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			t.Fatal(err)
		}
		cache = filepath.Join(home, ".cache", "keyway")
	}
	if path := filepath.Join(cache, "bin", name); executable(path) {
		return path
	}
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	skip(t, name+" is not there; run make setup")
	return ""
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// process starts a server that ends with the test.
func process(t testing.TB, dir string, env []string, path string, args ...string) *lockedBuffer {
	t.Helper()
	out := &lockedBuffer{}
	cmd := exec.Command(path, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, out
	cmd.Env = append(os.Environ(), env...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Kill()
			<-done
		}
	})
	return out
}

// vaultServer is a real Vault in memory.
type vaultServer struct {
	t      testing.TB
	addr   string // base URL
	port   int
	token  string // the root token
	unseal string
}

// startVault runs vaultdev: KV v2 at secret/, v1 at kv1/, nothing else until a test
// mounts it.
func startVault(t testing.TB) *vaultServer {
	t.Helper()
	v := &vaultServer{t: t, port: freePort(t), token: "canary-root-token"}
	v.addr = fmt.Sprintf("http://127.0.0.1:%d", v.port)
	out := process(t, t.TempDir(), nil, tool(t, "vaultdev"), "-listen", fmt.Sprintf("127.0.0.1:%d", v.port), "-token", v.token, "-log-level", "error")
	ready := regexp.MustCompile(`ready \S+ unseal-key=([0-9a-f]+)`)
	poll(t, "vaultdev is ready", 30*time.Second, func() bool {
		m := ready.FindStringSubmatch(out.String())
		if m == nil {
			return false
		}
		v.unseal = m[1]
		code, _ := v.try("GET", "sys/health", nil)
		return code == http.StatusOK
	})
	v.do("POST", "sys/mounts/secret", map[string]any{"type": "kv", "options": map[string]string{"version": "2"}})
	v.do("POST", "sys/mounts/kv1", map[string]any{"type": "kv"})
	poll(t, "the engine kv v2 is upgraded", 20*time.Second, func() bool {
		code, _ := v.try("POST", "secret/data/rig", map[string]any{"data": map[string]string{"ready": "yes"}})
		return code < 300
	})
	return v
}

// try calls the API and answers the status and the body's object.
func (v *vaultServer) try(method, path string, body any) (int, map[string]any) {
	v.t.Helper()
	var r io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			v.t.Fatal(err)
		}
		r = bytes.NewReader(text)
	}
	req, err := http.NewRequest(method, v.addr+"/v1/"+path, r)
	if err != nil {
		v.t.Fatal(err)
	}
	req.Header.Set("X-Vault-Token", v.token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil
	}
	defer func() { _ = resp.Body.Close() }()
	var out map[string]any
	_ = json.NewDecoder(resp.Body).Decode(&out)
	return resp.StatusCode, out
}

// do calls the API and fails the test when it refuses.
func (v *vaultServer) do(method, path string, body any) map[string]any {
	v.t.Helper()
	code, out := v.try(method, path, body)
	if code == 0 || code > 299 {
		v.t.Fatalf("vault: %s %s: %d %v", method, path, code, out["errors"])
	}
	return out
}

// put writes a secret of the engine kv v2 and answers its version.
func (v *vaultServer) put(name string, fields map[string]string) int {
	v.t.Helper()
	out := v.do("POST", "secret/data/"+name, map[string]any{"data": fields})
	data, _ := out["data"].(map[string]any)
	n, _ := data["version"].(float64)
	return int(n)
}

// policy writes a policy and answers a token that has it, periodic, so that it lives
// as long as it is renewed.
func (v *vaultServer) policy(name, rules, period string) string {
	v.t.Helper()
	v.do("PUT", "sys/policies/acl/"+name, map[string]string{"policy": rules})
	out := v.do("POST", "auth/token/create", map[string]any{"policies": []string{name}, "period": period, "no_parent": true})
	auth, _ := out["auth"].(map[string]any)
	token, _ := auth["client_token"].(string)
	return token
}

// seal and open are an operator's outage.
func (v *vaultServer) seal() { v.t.Helper(); v.do("PUT", "sys/seal", nil) }

func (v *vaultServer) open() {
	v.t.Helper()
	v.do("PUT", "sys/unseal", map[string]string{"key": v.unseal})
	poll(v.t, "vault is unsealed and active", 20*time.Second, func() bool {
		code, _ := v.try("GET", "sys/health", nil)
		return code == http.StatusOK
	})
}

// leases counts the leases beneath a prefix, such as database/creds/app.
func (v *vaultServer) leases(prefix string) int {
	v.t.Helper()
	code, out := v.try("LIST", "sys/leases/lookup/"+prefix, nil)
	if code == http.StatusNotFound {
		return 0
	}
	data, _ := out["data"].(map[string]any)
	keys, _ := data["keys"].([]any)
	return len(keys)
}

// database mounts the engine database with a role app on a PostgreSQL.
func (v *vaultServer) database(p *postgres, ttl, maxTTL string) {
	v.t.Helper()
	v.do("POST", "sys/mounts/database", map[string]any{"type": "database"})
	v.do("POST", "database/config/pg", map[string]any{
		"plugin_name": "postgresql-database-plugin", "allowed_roles": "app", "username": "postgres", "password": "unused",
		"connection_url": fmt.Sprintf("postgresql://{{username}}:{{password}}@127.0.0.1:%d/postgres?sslmode=disable", p.port),
	})
	v.do("POST", "database/roles/app", map[string]any{
		"db_name": "pg", "default_ttl": ttl, "max_ttl": maxTTL,
		"creation_statements":   []string{`CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';`},
		"revocation_statements": []string{`DROP ROLE IF EXISTS "{{name}}";`},
	})
}

// pki mounts the engine pki with a root and, for names beneath test, the role web
// that issues and the role signed that signs requests. It answers the root in PEM.
func (v *vaultServer) pki(maxTTL string) string {
	v.t.Helper()
	v.do("POST", "sys/mounts/pki", map[string]any{"type": "pki", "config": map[string]string{"max_lease_ttl": "8760h"}})
	out := v.do("POST", "pki/root/generate/internal", map[string]any{"common_name": "rig root", "ttl": "8000h", "key_type": "ec", "key_bits": 256})
	// Vault refuses to make keys for a role of any key type: that one is for signing.
	for role, key := range map[string]string{"web": "ec", "signed": "any"} {
		v.do("POST", "pki/roles/"+role, map[string]any{"allowed_domains": "test", "allow_subdomains": true, "max_ttl": maxTTL, "ttl": maxTTL, "key_type": key, "generate_lease": true})
	}
	data, _ := out["data"].(map[string]any)
	root, _ := data["certificate"].(string)
	return root
}

// postgres is a real PostgreSQL that checks passwords of all but its superuser's.
type postgres struct {
	t    testing.TB
	port int
}

// startPostgres runs a server in a folder of its own as the user postgres.
func startPostgres(t testing.TB) *postgres {
	t.Helper()
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(bins) == 0 {
		skip(t, "postgresql is not installed; run make setup")
	}
	bin := filepath.Dir(bins[len(bins)-1])
	// Test folders are closed to other users; the server refuses to be root.
	dir, err := os.MkdirTemp("/tmp", "keyway-pg-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	as := func(name string, args ...string) *exec.Cmd { return exec.Command(filepath.Join(bin, name), args...) }
	if os.Geteuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			skip(t, "there is no user postgres")
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
		as = func(name string, args ...string) *exec.Cmd {
			return exec.Command("runuser", append([]string{"-u", "postgres", "--", filepath.Join(bin, name)}, args...)...)
		}
	}
	run := func(name string, args ...string) {
		t.Helper()
		cmd := as(name, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil && name != "pg_ctl" {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
	}
	p := &postgres{t: t, port: freePort(t)}
	data := filepath.Join(dir, "data")
	run("initdb", "-D", data, "-A", "trust", "-U", "postgres", "--no-sync")
	rules := "local all all trust\nhost all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 password\n"
	if err := os.WriteFile(filepath.Join(data, "pg_hba.conf"), []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	start := as("pg_ctl", "-D", data, "-l", filepath.Join(dir, "log"), "-o", fmt.Sprintf("-p %d -k %s -c listen_addresses=127.0.0.1 -c fsync=off", p.port, dir), "-w", "start")
	start.Dir = dir
	if err := start.Run(); err != nil {
		text, _ := os.ReadFile(filepath.Join(dir, "log"))
		t.Fatalf("postgres does not start: %v\n%s", err, text)
	}
	t.Cleanup(func() { run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop") })
	return p
}

// users are the roles that may log in, but for the superuser.
func (p *postgres) users() []string {
	p.t.Helper()
	cmd := exec.Command("psql", "-h", "127.0.0.1", "-p", strconv.Itoa(p.port), "-U", "postgres", "-d", "postgres", "-w", "-tAc", "select rolname from pg_roles where rolcanlogin and rolname <> 'postgres' order by 1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		p.t.Fatalf("psql: %v: %s", err, out)
	}
	return strings.Fields(string(out))
}
