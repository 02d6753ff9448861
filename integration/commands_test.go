package integration

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// alone runs a command that needs no node; it answers its output and exit status.
func alone(t testing.TB, args ...string) (string, int) {
	t.Helper()
	cmd := exec.Command(binary(t), args...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// TestSettingsAgree reads the settings from the three places that show them.
func TestSettingsAgree(t *testing.T) {
	inJSON, _ := alone(t, "config", "settings", "--json")
	var rows []struct{ Key, Env, Flag, Default, Form, Meaning string }
	if err := json.Unmarshal([]byte(inJSON), &rows); err != nil {
		t.Fatalf("%v: %s", err, inJSON)
	}
	table, _ := alone(t, "config", "settings")
	help, _ := alone(t, "serve", "--help")
	for _, r := range rows {
		if r.Env != "KEYWAY_"+strings.ToUpper(r.Key) || r.Form == "" || r.Meaning == "" {
			t.Errorf("%+v", r)
		}
		if !strings.Contains(help, r.Flag+" ") || !strings.Contains(help, r.Env) || !strings.Contains(help, r.Meaning) {
			t.Errorf("serve --help does not tell %s with its meaning", r.Key)
		}
		if !strings.Contains(table, r.Env) || !strings.Contains(table, r.Meaning) {
			t.Errorf("config settings does not tell %s", r.Key)
		}
	}
	for _, name := range []string{
		"PROXY_LISTEN", "PROXY_TLS_LISTEN", "ADMIN_LISTEN", "MANAGER_LISTEN", "STATUS_LISTEN", "DATA_DIR", "DOCUMENTS", "TRUSTED_IPS", "REAL_IP_HEADER",
		"REAL_IP_RECURSIVE", "HEADERS", "HEADERS_UPSTREAM", "ALLOW_DEBUG_HEADER", "TLS_CERT", "TLS_KEY", "REQUEST_POLICY",
	} {
		if !slices.ContainsFunc(rows, func(r struct{ Key, Env, Flag, Default, Form, Meaning string }) bool { return r.Env == "KEYWAY_"+name }) {
			t.Errorf("there is no setting KEYWAY_%s", name)
		}
	}
	for key, want := range map[string]string{"proxy_listen": ":8000", "proxy_tls_listen": ":8443", "admin_listen": "127.0.0.1:8001", "manager_listen": "127.0.0.1:8002", "status_listen": "127.0.0.1:8100"} {
		for _, r := range rows {
			if r.Key == key && r.Default != want {
				t.Errorf("the default of %s is %s, want %s", key, r.Default, want)
			}
		}
	}
}

// TestSettingsPrecedence sets one setting in each place: the flag wins over the
// environment, which wins over the file.
func TestSettingsPrecedence(t *testing.T) {
	dir := t.TempDir()
	ports := []int{freePort(t), freePort(t), freePort(t)}
	at := func(i int) string { return fmt.Sprintf("127.0.0.1:%d", ports[i]) }
	settings := file(t, dir, "keyway.yaml", fmt.Sprintf("status_listen: [%q]\nproxy_tls_listen: off\nadmin_listen: off\nmanager_listen: off\nproxy_listen: %q\ndata_dir: %s\nlog_level: warn\n", at(0), at(1), filepath.Join(dir, "data")))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary(t), "serve", "--settings", settings, "--status-listen", at(2), "--echo-listen", "off")
	cmd.Env = append(os.Environ(), "KEYWAY_STATUS_LISTEN="+at(1)+"1", "KEYWAY_PROXY_LISTEN="+at(0))
	var out lockedBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	poll(t, "the status listener is where the flag says", 20*time.Second, func() bool {
		resp, err := http.Get("http://" + at(2) + "/status/ready")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == 200
	})
	if refusesConnections(at(0)) || !refusesConnections(at(1)) {
		t.Errorf("the proxy must listen where the environment says, not where the file does:\n%s", out.String())
	}
}

// TestCommands asks a running node by every command, for people and as JSON.
func TestCommands(t *testing.T) {
	cert, key := pair(t, "shop.test", "shop.test", "*.shop.test")
	dir := filepath.Join(t.TempDir(), "data")
	keep(t, dir, "commands-key", "value-that-nobody-sees")
	g := start(t, options{dir: dir, document: fmt.Sprintf(`
_format_version: "3.0"
certificates: [{cert: %q, key: %q, snis: [shop.test, "*.shop.test"]}]
upstreams: [{name: shop.up, targets: [{target: "127.0.0.1:1001", weight: 70}, {target: "127.0.0.1:1002", weight: 30}]}]
services:
- {name: shop, host: shop.up, path: /v1, routes: [
  {name: wide, hosts: [shop.test], paths: [/orders]},
  {name: narrow, hosts: [shop.test], paths: [/orders/new], methods: [POST], plugins: [{name: key-auth}, {name: rate-limiting, config: {minute: 5, policy: local}}]}]}
consumers: [{username: c, keyauth_credentials: [{key: "{vault://sealed/commands-key}"}]}]
plugins: [{name: correlation-id}]
`, cert, key)})
	// asked runs a command and its --json form, which must decode.
	asked := func(into any, args ...string) string {
		t.Helper()
		text, err := g.run(args...)
		if err != nil {
			t.Errorf("%v: %v\n%s", args, err, text)
		}
		inJSON, err := g.run(append(args, "--json")...)
		if err != nil {
			t.Errorf("%v --json: %v", args, err)
		}
		if err := json.Unmarshal([]byte(inJSON), into); err != nil {
			t.Fatalf("%v --json: %v\n%s", args, err, inJSON)
		}
		return text
	}
	var certs []struct {
		Name, State string
		Version     int
		Bundles     []struct{ Serial string }
	}
	if text := asked(&certs, "certs", "list"); len(certs) != 1 || certs[0].State != "active" || !strings.Contains(text, "shop.test") || !strings.Contains(text, "29d") {
		t.Errorf("certs list: %+v\n%s", certs, text)
	}
	var one struct{ Names []string }
	if text := asked(&one, "certs", "show", "shop.test"); len(one.Names) != 2 || !strings.Contains(text, "sha256") {
		t.Errorf("certs show: %+v\n%s", one, text)
	}
	if out, err := g.run("certs", "show", "nobody.test"); err == nil || !strings.Contains(out, "nobody.test") {
		t.Errorf("certs show of a name that is not there: %v %s", err, out)
	}
	var secrets []struct {
		Reference, State string
		Version          int
	}
	if text := asked(&secrets, "secrets", "list"); len(secrets) != 1 || secrets[0].Version != 1 || !strings.Contains(text, "{vault://sealed/commands-key}") || strings.Contains(text, "nobody-sees") {
		t.Errorf("secrets list: %+v\n%s", secrets, text)
	}
	var why struct {
		Certificate    struct{ Name, Pattern string }
		Route, Service string
		UpstreamPath   string   `json:"upstream_path"`
		Targets        []string `json:"targets"`
		Plugins        []struct{ Plugin, Scope string }
		Candidates     []struct {
			Route   string
			Matches bool
			Reason  string
		}
	}
	text := asked(&why, "explain", "--method", "POST", "--header", "X-A: b", "https://shop.test/orders/new/1")
	if why.Route != "narrow" || why.Service != "shop" || why.Certificate.Pattern != "shop.test" || len(why.Targets) != 2 || why.UpstreamPath != "/v1/1" {
		t.Errorf("explain: %+v\n%s", why, text)
	}
	var chain []string
	for _, p := range why.Plugins {
		chain = append(chain, p.Plugin)
	}
	if !slices.Equal(chain, []string{"key-auth", "rate-limiting", "correlation-id"}) && !slices.Equal(chain, []string{"correlation-id", "key-auth", "rate-limiting"}) {
		t.Errorf("the plugins in order: %v", chain)
	}
	if len(why.Candidates) != 2 || why.Candidates[0].Route != "narrow" || why.Candidates[0].Reason == "" || why.Candidates[1].Reason == "" {
		t.Errorf("each candidate with its reason: %+v", why.Candidates)
	}
	if text, err := g.run("explain", "https://a.shop.test/none"); err != nil || !strings.Contains(text, "404") || !strings.Contains(text, "shop.test@1") {
		t.Errorf("explain of what has no route: %v\n%s", err, text)
	}
	if text, err := g.run("explain", "--sni", "else.test", "https://shop.test/orders"); err != nil || !strings.Contains(text, "unrecognized_name") {
		t.Errorf("explain with another server name: %v\n%s", err, text)
	}
	var v struct{ Version, Go string }
	if text := asked(&v, "version"); v.Version == "" || !strings.Contains(text, "keyway "+v.Version) {
		t.Errorf("version: %+v %s", v, text)
	}
	var events []struct{ Kind, Subject, Result string }
	if text := asked(&events, "audit", "tail"); len(events) < 3 || !strings.Contains(text, "activated") {
		t.Errorf("audit tail: %+v\n%s", events, text)
	}
	var reloaded struct{ Problems []string }
	if text := asked(&reloaded, "reload"); len(reloaded.Problems) != 0 || !strings.Contains(text, "reloaded") {
		t.Errorf("reload: %s", text)
	}
	var report struct{ Findings []any }
	if text := asked(&report, "audit", "verify"); len(report.Findings) != 0 || !strings.Contains(text, "0 findings") {
		t.Errorf("audit verify: %s", text)
	}
	// Without a node the commands say where they looked.
	if out, code := alone(t, "certs", "list", "--data-dir", t.TempDir()); code != 1 || !strings.Contains(out, "control.sock") || !strings.Contains(out, "--data-dir") {
		t.Errorf("certs list without a node: %d %s", code, out)
	}
}

// TestAuditVerify forges the ledger of a real node: each kind of change is found,
// and the line is named. Without the key it says what it cannot show.
func TestAuditVerify(t *testing.T) {
	g := start(t, options{document: "_format_version: \"3.0\"\nservices: []\n"})
	for i := range 6 {
		g.write(fmt.Sprintf("_format_version: \"3.0\"\nservices: [{name: s%d, host: a.test}]\n", i))
		if out, err := g.run("reload"); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		poll(t, "it is in the ledger", 20*time.Second, func() bool {
			out, _ := g.run("audit", "tail", "-n", "100")
			return strings.Count(out, "document") >= i+2
		})
	}
	if code := g.stop(os.Interrupt); code != 0 {
		t.Errorf("exit status %d", code)
	}
	ledger := filepath.Join(g.dir, "ledger")
	text, err := os.ReadFile(filepath.Join(ledger, "ledger.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(bytes.TrimSuffix(text, []byte("\n")), []byte("\n"))
	if len(lines) < 6 {
		t.Fatalf("%d lines", len(lines))
	}
	lines[len(lines)-1] = append(slices.Clone(lines[len(lines)-1]), '\n')
	join := func(parts ...[][]byte) []byte { return bytes.Join(slices.Concat(parts...), nil) }
	swapped := slices.Clone(lines)
	swapped[2], swapped[3] = swapped[3], swapped[2]
	changed := slices.Clone(lines)
	changed[3] = bytes.Replace(slices.Clone(changed[3]), []byte(`"result":"`), []byte(`"result":"x`), 1)
	twice := slices.Insert(slices.Clone(lines), 3, lines[2])
	for _, c := range []struct {
		name  string
		bytes []byte
		line  string // where, "" for anywhere
	}{
		{"a changed line", join(changed), ":4:"},
		{"a removed line", join(lines[:2], lines[3:]), ":3:"},
		{"swapped lines", join(swapped), ":3:"},
		{"a doubled line", join(twice), ":4:"},
		{"the last line cut off", join(lines[:len(lines)-1]), ""},
		{"half a line", text[:len(text)-20], ""},
		{"a line of another hand", append(slices.Clone(text), `{"seq":99,"event":{"kind":"admin"}}`+"\n"...), ""},
		{"nothing left", nil, ""},
	} {
		dir := filepath.Join(t.TempDir(), "data")
		if err := os.CopyFS(filepath.Join(dir, "ledger"), os.DirFS(ledger)); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"ledger.jsonl", "ledger.key", "ledger.head"} { // CopyFS gives them its own modes
			if err := os.Chmod(filepath.Join(dir, "ledger", name), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "ledger", "ledger.jsonl"), c.bytes, 0o600); err != nil {
			t.Fatal(err)
		}
		out, code := alone(t, "audit", "verify", "--data-dir", dir)
		if code != 1 || !strings.Contains(out, c.line) {
			t.Errorf("%s: exit status %d, want 1 and %q:\n%s", c.name, code, c.line, out)
		}
	}
	// Older files may be archived elsewhere, so a missing begin is told and no finding.
	short := file(t, t.TempDir(), "ledger.jsonl", string(join(lines[1:])))
	if out, _ := alone(t, "audit", "verify", "--key", filepath.Join(ledger, "ledger.key"), short); !strings.Contains(out, "lines 1 to 1") {
		t.Errorf("the first line cut off: it is not told\n%s", out)
	}
	if out, code := alone(t, "audit", "verify", "--data-dir", g.dir); code != 0 {
		t.Errorf("the ledger as it was: %d\n%s", code, out)
	}
	copied := file(t, t.TempDir(), "ledger.jsonl", string(text))
	if out, code := alone(t, "audit", "verify", copied); code != 0 || !strings.Contains(out, "not shown: ") {
		t.Errorf("without the key: %d, want 0 and what is not shown:\n%s", code, out)
	}
	if out, code := alone(t, "audit", "verify", "--key", filepath.Join(ledger, "ledger.key"), copied); code != 0 {
		t.Errorf("with the key: %d\n%s", code, out)
	}
}

// TestNoSecretIsTold puts secrets everywhere they may be, has each of them used,
// missed, refused and replaced, and looks for them everywhere else.
func TestNoSecretIsTold(t *testing.T) {
	canary := func(what string) string { return "CANARY-" + what + "-7f3a9c" }
	dir, pairs := filepath.Join(t.TempDir(), "data"), t.TempDir()
	cert, key := pair(t, "shop.test", "shop.test")
	inline, inlineKey := pair(t, "inline.test", "inline.test")
	file(t, pairs, "tls.crt", cert)
	file(t, pairs, "tls.key", key)
	file(t, pairs, "apikey", canary("file"))
	keep(t, dir, "k", canary("sealed"))
	o := origin(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Header.Get("apikey")) })
	host, port, _ := strings.Cut(o, ":")
	document := fmt.Sprintf(`
_format_version: "3.0"
vaults: [{name: file, prefix: pairs, config: {root: %s}}]
certificates:
- {cert: "{vault://pairs/tls.crt/}", key: "{vault://pairs/tls.key/}", snis: [shop.test]}
- {cert: %q, key: %q, snis: [inline.test]}
services: [{name: a, host: %s, port: %s, routes: [{paths: [/], plugins: [{name: key-auth, config: {hide_credentials: true}}]}]}]
consumers:
- username: c
  keyauth_credentials: [{key: "{vault://sealed/k}"}, {key: "{vault://pairs/apikey/}"}, {key: "{vault://env/MY_TEST_VALUE}"}, {key: %s}]
`, pairs, inline, inlineKey, host, port, canary("literal"))
	admin, manager := fmt.Sprintf("127.0.0.1:%d", freePort(t)), fmt.Sprintf("127.0.0.1:%d", freePort(t))
	g := start(t, options{dir: dir, document: document, env: map[string]string{
		"MY_TEST_VALUE": canary("env"), "KEYWAY_ACCESS_LOG": "stdout", "KEYWAY_LOG_LEVEL": "debug", "KEYWAY_ADMIN_LISTEN": admin, "KEYWAY_MANAGER_LISTEN": manager,
	}})
	use := func(key string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+g.tls+"/?apikey="+key, nil)
		if err != nil {
			t.Fatal(err)
		}
		c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{ServerName: "shop.test", InsecureSkipVerify: true}}}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		if text, err := io.ReadAll(resp.Body); err != nil || strings.Contains(string(text), "CANARY") {
			t.Errorf("a response has %s, %v", text, err)
		}
		return resp.StatusCode
	}
	for _, from := range []string{"sealed", "file", "env", "literal"} {
		if code := use(canary(from)); code != 200 {
			t.Errorf("the key from %s: %d", from, code)
		}
	}
	if code := use("wrong-" + canary("sealed")); code != 401 {
		t.Errorf("a wrong key: %d", code)
	}
	keep(t, dir, "k", canary("second"))
	poll(t, "the second one opens", 20*time.Second, func() bool { return use(canary("second")) == 200 })
	// A refusal with the secrets in hand: a key as the certificate, a certificate that is no PEM, documents with errors beside literals.
	file(t, pairs, "tls.crt", key)
	poll(t, "it is refused", 20*time.Second, func() bool { return g.counter(t, `keyway_credential_rejected_total{check="parse"}`) > 0 })
	g.write(document + "- {username: c, keyauth_credentials: [{key: [" + canary("list") + "]}, {kye: " + canary("field") + "}]}\n- {username: " + strings.Repeat("x", 3) + ", keyauth_credentials: [{key: " + canary("literal") + "}]}\n")
	reload, err := g.run("reload")
	if err == nil {
		t.Error("the bad document is taken")
	}
	checked, err := g.run("validate", g.doc)
	if err == nil {
		t.Error("the bad document is valid")
	}

	told := map[string]string{"reload": reload, "validate": checked}
	for _, args := range [][]string{{"secrets", "list"}, {"secrets", "list", "--json"}, {"certs", "list", "--json"}, {"certs", "show", "shop.test", "--json"}, {"audit", "tail", "-n", "1000", "--json"}, {"explain", "https://shop.test/?apikey=x", "--json"}} {
		told[strings.Join(args, " ")], err = g.run(args...)
		if err != nil {
			t.Errorf("%v: %v", args, err)
		}
	}
	for _, url := range []string{g.status + "/status", g.status + "/metrics", "http://" + admin + "/", "http://" + admin + "/consumers", "http://" + admin + "/certificates", "http://" + admin + "/key-auths", "http://" + manager + "/"} {
		_, told[url] = call(t, http.DefaultClient, http.MethodGet, url, nil)
	}
	socket := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(dir, "control.sock"))
	}}}
	for _, what := range []string{"status", "certificates", "secrets"} {
		_, told["control "+what] = call(t, socket, http.MethodGet, "http://node/v1/"+what, nil)
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", g.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	told["the command line"] = string(line)
	if code := g.stop(os.Interrupt); code != 0 {
		t.Errorf("exit status %d", code)
	}
	told["the log"] = g.log.String()
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			var text []byte
			text, err = os.ReadFile(path)
			told["file "+path] = string(text)
			if info, e := d.Info(); e == nil && info.Mode().Perm()&0o077 != 0 && filepath.Ext(path) != ".crt" {
				t.Errorf("%s has mode %v", path, info.Mode())
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	body := func(pem string) string { return strings.Split(pem, "\n")[1] }
	leak := regexp.MustCompile(`CANARY|` + regexp.QuoteMeta(body(key)) + "|" + regexp.QuoteMeta(body(inlineKey)) + "|PRIVATE KEY-----")
	for place, text := range told {
		if at := leak.FindStringIndex(text); at != nil {
			t.Errorf("%s tells a secret: ...%s...", place, text[max(0, at[0]-120):min(len(text), at[1]+20)])
		}
		if text == "" && !strings.HasPrefix(place, "file") {
			t.Errorf("%s says nothing: this test would show nothing", place)
		}
	}
}
