package integration

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// tour is docs/credentials.md gone through beside real servers.
type tour struct {
	*gateway
	page string
	same options
	v    *vaultServer
}

// TestCredentialsTour goes through docs/credentials.md with the page's own document,
// beside a real Vault, PostgreSQL and Pebble: what the page says happens does, and
// its commands print tables of the columns that it shows.
func TestCredentialsTour(t *testing.T) {
	d := newTour(t)
	public, internal := x509.NewCertPool(), x509.NewCertPool()
	p, root := d.begin(t)
	public.AppendCertsFromPEM([]byte(p.root()))
	internal.AppendCertsFromPEM([]byte(root))
	d.key(t)
	d.users(t)

	awaitLeaf(t, d.gateway, "www.shop.test", public)
	first := awaitLeaf(t, d.gateway, "shop.test", internal)
	d.shows(t, "certs list", "issuer.public", "issuer.internal")

	d.outage(t)

	d.v.put("apps/billing", map[string]string{"token": "third-token"})
	d.sent(t, "third-token")
	d.v.put("apps/billing", map[string]string{"token": ""})
	ref := "{vault://team/apps/billing/token}"
	poll(t, "the empty token is refused", 20*time.Second, func() bool { return strings.Contains(d.prints("secrets", "list"), "an empty credential is never used") })
	d.shows(t, "secrets pin '"+ref+"' --version 2", "is pinned; the source has version 3")
	d.shows(t, "credentials uses '"+ref+"'", "its routes answer 503")
	d.shows(t, `certs revoke shop.test --reason "key was on a laptop"`, "shop.test")
	poll(t, "the issuer gives another", 30*time.Second, func() bool {
		next, err := shownLeaf(d.tls, "shop.test", internal)
		return err == nil && next.SerialNumber.Cmp(first.SerialNumber) != 0
	})

	if out := d.prints("audit", "verify"); !strings.Contains(out, "0 findings") {
		t.Errorf("audit verify: %s", out)
	}
	d.trace(t, ref)
}

// newTour starts the servers but Pebble, which has to know the node's ports.
func newTour(t *testing.T) *tour {
	t.Helper()
	page, err := os.ReadFile("../docs/credentials.md")
	if err != nil {
		t.Fatal(err)
	}
	d := &tour{page: string(page), v: startVault(t)}
	d.v.put("apps/billing", map[string]string{"token": "first-token"})
	d.v.put("keys/ann", map[string]string{"key": "ann-1"})
	return d
}

// begin starts the node with the page's document: other addresses, and nothing else.
func (d *tour) begin(t *testing.T) (p *pebble, root string) {
	t.Helper()
	db := startPostgres(t)
	d.v.database(db, "4s", "8s")
	root = d.v.pki("72h")
	proxy, secure := freePort(t), freePort(t)
	p = startPebble(t, proxy, secure)
	up := origin(t, func(w http.ResponseWriter, r *http.Request) {
		name, password, _ := r.BasicAuth()
		switch {
		case r.URL.Path != "/db":
			fmt.Fprintf(w, "%s asked with %s\n", r.URL.Path, r.Header.Get("Authorization"))
		case db.login(name, password) != nil:
			w.WriteHeader(http.StatusUnauthorized)
		default:
			fmt.Fprintf(w, "PostgreSQL says: %s\n", name)
		}
	})
	token := d.v.policy("tour", `
path "secret/data/*" { capabilities = ["read"] }
path "database/creds/app" { capabilities = ["read"] }
path "pki/sign/web" { capabilities = ["update"] }
path "pki/revoke" { capabilities = ["update"] }`, "1h")
	const acme = `["https://acme-v02.api.letsencrypt.org/directory"]`
	_, document, _ := strings.Cut(d.page, "```yaml\n")
	document, _, ok := strings.Cut(document, "```")
	if !ok || !strings.Contains(document, acme) {
		t.Fatal("docs/credentials.md has no document, or another one than this test knows")
	}
	dir := t.TempDir()
	document = strings.NewReplacer(
		"http://127.0.0.1:8200", d.v.addr, "/etc/keyway/vault-token", file(t, dir, "vault-token", token), "http://127.0.0.1:9000", "http://"+up,
		acme, fmt.Sprintf("[%q], ca_file: %q", p.directory, file(t, dir, "pebble.pem", p.ca)),
	).Replace(document)
	d.same = options{document: document, proxy: proxy, tls: secure, dir: dir + "/data", env: map[string]string{"KEYWAY_ACCESS_LOG": dir + "/access.log"}}
	d.gateway = start(t, d.same)
	d.shows(t, "status", "ready")
	return p, root
}

// ask is what a client gets.
func (d *tour) ask(path, key string) (int, string, string) {
	req, err := http.NewRequest(http.MethodGet, "http://"+d.proxy+path, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("Apikey", key)
	}
	c := &http.Client{Timeout: 10 * time.Second}
	resp, err := c.Do(req)
	if err != nil {
		return 0, "", ""
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), resp.Header.Get("X-Kong-Request-Id")
}

func (d *tour) prints(args ...string) string {
	d.t.Helper()
	out, err := d.run(args...)
	if err != nil {
		d.t.Errorf("keyway %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}

// shows runs a command of the page and compares the tables' columns with the page's;
// the output has to hold the texts too.
func (d *tour) shows(t *testing.T, command string, want ...string) {
	t.Helper()
	_, shown, ok := strings.Cut(d.page, "    $ keyway "+command+"\n")
	if !ok {
		t.Errorf("docs/credentials.md does not show %q", command)
		return
	}
	var args []string
	for _, m := range regexp.MustCompile(`'([^']*)'|"([^"]*)"|(\S+)`).FindAllStringSubmatch(command, -1) {
		args = append(args, m[1]+m[2]+m[3])
	}
	out := d.prints(args...)
	columns := regexp.MustCompile(`(?m)^ *([A-Z][A-Z-]+(?: +[A-Z][A-Z-]+)+) *$`)
	until := strings.IndexAny(shown, "$#`")
	for _, m := range columns.FindAllStringSubmatch(shown[:max(until, 0)], -1) {
		header := strings.Join(strings.Fields(m[1]), " ")
		found := false
		for line := range strings.Lines(out) {
			found = found || strings.Join(strings.Fields(line), " ") == header
		}
		if !found {
			t.Errorf("keyway %s has no table %q, which the page shows:\n%s", command, header, out)
		}
	}
	for _, w := range want {
		if !strings.Contains(out, w) {
			t.Errorf("keyway %s does not say %q:\n%s", command, w, out)
		}
	}
}

// key is section a: keys of consumers and of the node, rotated.
func (d *tour) key(t *testing.T) {
	t.Helper()
	if code, _, _ := d.ask("/keyed", "ann-1"); code != 200 {
		t.Errorf("the first key: %d", code)
	}
	if code, _, _ := d.ask("/keyed", "ann-2"); code != 401 {
		t.Errorf("a key to come: %d", code)
	}
	d.v.put("keys/ann", map[string]string{"key": "ann-2"})
	d.v.put("apps/billing", map[string]string{"token": "second-token"})
	poll(t, "the new key opens", 20*time.Second, func() bool { code, _, _ := d.ask("/keyed", "ann-2"); return code == 200 })
	if code, _, _ := d.ask("/keyed", "ann-1"); code != 200 {
		t.Errorf("the key before, within its overlap: %d", code)
	}
	d.shows(t, "secrets list --history", "active", "overlap")
	d.sent(t, "second-token")
}

// sent waits until the upstream is asked with a token.
func (d *tour) sent(t *testing.T, token string) {
	t.Helper()
	poll(t, token+" is sent", 20*time.Second, func() bool {
		_, body, _ := d.ask("/billing", "")
		return body == "/billing asked with Bearer "+token+"\n"
	})
}

// users is section b: users of PostgreSQL come and go.
func (d *tour) users(t *testing.T) {
	t.Helper()
	seen := map[string]bool{}
	poll(t, "a second user of the database", 30*time.Second, func() bool {
		code, body, _ := d.ask("/db", "")
		if code != 200 || !strings.HasPrefix(body, "PostgreSQL says: v-token-") {
			t.Fatalf("/db: %d %s", code, body)
		}
		seen[body] = true
		time.Sleep(50 * time.Millisecond)
		return len(seen) > 1
	})
}

// outage is section d: Vault is sealed, and the node killed and started meanwhile.
func (d *tour) outage(t *testing.T) {
	t.Helper()
	d.v.seal()
	poll(t, "the source is away", 20*time.Second, func() bool { return strings.Contains(d.prints("status"), "away") })
	d.shows(t, "status", "Vault is sealed")
	d.stop(syscall.SIGKILL)
	d.gateway = start(t, d.same)
	if code, body, _ := d.ask("/billing", ""); code != 200 || !strings.Contains(body, "second-token") {
		t.Errorf("started with Vault sealed: %d %s", code, body)
	}
	d.v.open()
	poll(t, "the database's route is open again", 60*time.Second, func() bool { code, _, _ := d.ask("/db", ""); return code == 200 })
}

// trace is section f: from an answer to the version that served it, and on to where
// that came from.
func (d *tour) trace(t *testing.T, ref string) {
	t.Helper()
	code, _, id := d.ask("/billing", "")
	if code != 200 || id == "" {
		t.Fatalf("/billing: %d, request id %q", code, id)
	}
	var line []byte
	poll(t, "the request is in the access log", 20*time.Second, func() bool {
		text, err := os.ReadFile(d.same.env["KEYWAY_ACCESS_LOG"])
		for l := range bytes.Lines(text) {
			if bytes.Contains(l, []byte(id)) {
				line = l
			}
		}
		return err == nil && line != nil
	})
	var entry struct {
		Used []string `json:"upstream_credentials"`
	}
	if err := json.Unmarshal(line, &entry); err != nil || len(entry.Used) != 1 || entry.Used[0] != ref+"@2" {
		t.Errorf("the access log says %v, %v; expected %s@2", entry.Used, err, ref)
	}
	out := d.prints("audit", "query", "--name", "apps/billing/token", "--version", "2", "--event", "activated")
	if !regexp.MustCompile(`origin [0-9a-f-]{36}`).MatchString(out) {
		t.Errorf("the ledger does not have Vault's request id: %s", out)
	}
}
