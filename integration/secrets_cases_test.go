package integration

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// answered sends bytes to a node and answers all that it says, until it closes or is silent.
func (g *gateway) answered(t testing.TB, text string) string {
	t.Helper()
	c, err := net.Dial("tcp", g.proxy)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	_ = c.(*net.TCPConn).CloseWrite()
	out, _ := io.ReadAll(bufio.NewReader(c))
	return string(out)
}

// TestPluginsThatFailTellNothing is case S-16: bad requests make each plugin, and the
// proxy itself, fail while a credential is in hand; no answer and no output has it.
func TestPluginsThatFailTellNothing(t *testing.T) {
	var secret canaries
	canary := func(what string) string {
		v := "canary-" + what + "-9d41f7"
		secret.add(v)
		return v
	}
	o := origin(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		switch r.URL.Path {
		case "/refused":
			w.WriteHeader(http.StatusUnauthorized)
		case "/broken":
			c, _, _ := w.(http.Hijacker).Hijack()
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 999\r\nX-Bad header: 1\r\n\r\n{")
			_ = c.Close()
		default:
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"a":`)
		}
	})
	dir := filepath.Join(t.TempDir(), "data")
	key, upstream := canary("sealed-key"), canary("upstream")
	keep(t, dir, "key", key)
	keep(t, dir, "upstream", upstream)
	plugins := map[string]string{
		"request-transformer":   `{name: request-transformer, config: {add: {headers: ["X-Key:` + canary("added") + `"], body: ["k:` + canary("added-body") + `"]}, replace: {headers: ["Cookie:` + canary("cookie") + `"]}}}`,
		"response-transformer":  `{name: response-transformer, config: {add: {json: ["k:` + canary("response") + `"]}, remove: {headers: [X-Secret]}}}`,
		"key-auth":              `{name: key-auth, config: {key_in_body: true, hide_credentials: true}}`,
		"acl":                   `{name: acl, config: {allow: [` + canary("group") + `]}}`,
		"rate-limiting":         `{name: rate-limiting, config: {minute: 1, policy: local, limit_by: header, header_name: X-Session, redis: {password: ` + canary("redis") + `}}}`,
		"request-size-limiting": `{name: request-size-limiting, config: {allowed_payload_size: 1, size_unit: bytes}}`,
		"ip-restriction":        `{name: ip-restriction, config: {deny: [127.0.0.0/8]}}`,
		"correlation-id":        `{name: correlation-id, config: {header_name: X-Correlation, echo_downstream: false}}`,
		"cors":                  `{name: cors, config: {origins: [https://a.test]}}`,
		"prometheus":            `{name: prometheus, config: {per_consumer: true}}`,
	}
	names := make([]string, 0, len(plugins))
	for name := range plugins {
		names = append(names, name)
	}
	slices.Sort(names)
	var routes strings.Builder
	for _, name := range names {
		with := plugins[name]
		if name == "acl" || name == "prometheus" { // they need to know who it is
			with = "{name: key-auth}, " + with
		}
		fmt.Fprintf(&routes, "  - {name: %s, paths: [/%s], plugins: [%s]}\n", name, name, with)
	}
	g := start(t, options{dir: dir, env: debug(nil), document: fmt.Sprintf(`
_format_version: "3.0"
services:
- name: all
  url: "http://%s"
  x_keyway_upstream_auth: {type: bearer, value: "{vault://sealed/upstream}"}
  routes:
%s- name: nowhere
  url: "http://127.0.0.1:9"
  x_keyway_upstream_auth: {type: query, name: token, value: "{vault://sealed/upstream}"}
  routes: [{name: nowhere, paths: [/nowhere]}]
consumers: [{username: ann, keyauth_credentials: [{key: "{vault://sealed/key}"}]}]
`, o, routes.String())})
	hidden := func(what, answer string) {
		t.Helper()
		if answer == "" {
			t.Errorf("%s: no answer at all", what)
		}
		for _, s := range secret {
			if strings.Contains(answer, s) {
				t.Errorf("%s: the answer has a secret: %.300q", what, answer)
			}
		}
	}
	codes := map[string]bool{}
	for _, name := range append(names, "nowhere") {
		for _, request := range []string{
			"GET /%s HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\napikey: " + key + "\r\nX-Session: " + key + "\r\n\r\n",
			"GET /%s/refused HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\napikey: wrong-" + key + "\r\nX-Session: " + key + "\r\n\r\n",
			"GET /%s/broken?apikey=" + key + " HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\napikey: " + key + "\r\n\r\n",
			"POST /%s HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\napikey: " + key + "\r\nContent-Type: application/json\r\nContent-Length: 60\r\n\r\n{\"apikey\":\"" + key + "\"",
			"POST /%s HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\napikey: " + key + "\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + key + "\r\n",
			"GET /%s HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\napikey : " + key + "\r\n\r\n",
			"GET /%s HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\napikey: " + key + "\r\napikey: \x01" + key + "\r\n\r\n",
			"OPTIONS /%s HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\nOrigin: https://" + key + "\r\nAccess-Control-Request-Method: GET\r\n\r\n",
		} {
			answer := g.answered(t, fmt.Sprintf(request, name))
			codes[strings.SplitN(answer+"   ", " ", 3)[1]] = true
			if name == "response-transformer" {
				// What it adds is for the client to see; nothing else is.
				answer = strings.ReplaceAll(answer, secret[slices.IndexFunc(secret, func(s string) bool { return strings.HasPrefix(s, "canary-response") })], "")
			}
			hidden(name, answer)
		}
	}
	for _, code := range []string{"400", "401", "403", "413", "429", "502"} {
		if !codes[code] {
			t.Errorf("no request was answered %s: the plugins did not fail as they should, only %v", code, codes)
		}
	}
	if n := secret.scan(t, g); n > 0 {
		t.Errorf("%d hits in what the node said and left", n)
	}
}

// TestProcessListAndEnvironment is case S-19: a node whose secrets come by files has
// none of them in its command line, environment or open files' names, nor has the
// command that puts one, which takes no value as an argument.
func TestProcessListAndEnvironment(t *testing.T) {
	var secret canaries
	dir, pairs := filepath.Join(t.TempDir(), "data"), t.TempDir()
	cert, key := pair(t, "shop.test", "shop.test")
	file(t, pairs, "tls.crt", cert)
	file(t, pairs, "tls.key", key)
	file(t, pairs, "api", "canary-file-51ab")
	token := file(t, t.TempDir(), "token", "canary-token-51ab")
	secret.add(key, "canary-file-51ab", "canary-token-51ab", "canary-sealed-51ab")
	keep(t, dir, "k", "canary-sealed-51ab")
	g := start(t, options{dir: dir, env: map[string]string{"KEYWAY_TLS_CERT": filepath.Join(pairs, "tls.crt"), "KEYWAY_TLS_KEY": filepath.Join(pairs, "tls.key")}, document: fmt.Sprintf(`
_format_version: "3.0"
vaults: [{name: file, prefix: pairs, config: {root: %s}}, {name: hcv, prefix: hv, config: {address: "http://127.0.0.1:9", token_file: %q}}]
certificates: [{cert: "{vault://pairs/tls.crt/}", key: "{vault://pairs/tls.key/}", snis: [shop.test]}]
services: [{name: a, url: "http://127.0.0.1:9", routes: [{paths: [/], plugins: [{name: key-auth}]}]}]
consumers: [{username: c, keyauth_credentials: [{key: "{vault://sealed/k}"}, {key: "{vault://pairs/api/}"}, {key: "{vault://hv/x/key}"}]}]
`, pairs, token)})
	if g.answered(t, "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\napikey: canary-sealed-51ab\r\n\r\n") == "" {
		t.Error("no answer")
	}
	clean := func(what string, pid int) {
		t.Helper()
		places := map[string]string{}
		for _, name := range []string{"cmdline", "environ", "comm", "maps"} {
			var text []byte
			poll(t, name+" can be read", 20*time.Second, func() bool { // it is empty while the process is begun
				var err error
				text, err = os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
				return err == nil && len(text) > 0
			})
			places[name] = string(text)
		}
		links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		if err != nil || len(links) == 0 {
			t.Fatalf("%d open files, %v", len(links), err)
		}
		for _, l := range links {
			to, _ := os.Readlink(l)
			places["open files"] += to + "\n"
		}
		for place, text := range places {
			for _, s := range secret {
				for _, form := range forms(s) {
					if strings.Contains(text, form) {
						t.Errorf("%s of %s has a secret (as %.6s...)", place, what, form)
					}
				}
			}
		}
	}
	clean("the node", g.cmd.Process.Pid)
	put := g.command("secrets", "put", "later")
	in, err := put.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := put.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(in, "canary-sealed-51ab"); err != nil {
		t.Fatal(err)
	}
	clean("secrets put", put.Process.Pid)
	_ = in.Close()
	if err := put.Wait(); err != nil {
		t.Error(err)
	}
	if out, err := g.run("secrets", "put", "later", "canary-sealed-51ab"); err == nil {
		t.Errorf("a value was taken from the command line: %s", out)
	}
}

// TestNothingBreaksALine is case S-21: line breaks, escapes of terminals and the line
// separators of Unicode in all that strangers send and that files are named. One event is
// one line, of valid JSON, with no control byte in it.
func TestNothingBreaksALine(t *testing.T) {
	const evil = "x\u2028y\u2029z\u0085\u001b[2J"
	o := origin(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "ok") })
	g := start(t, options{env: debug(nil), document: `
_format_version: "3.0"
services: [{name: a, url: "http://` + o + `", routes: [{name: keyed, paths: [/keyed], plugins: [{name: key-auth}]}, {name: open, paths: [/]}]}]
consumers: [{username: "eve\u2028\u001b[31m\r\nroot", keyauth_credentials: [{key: evekey}]}]
`})
	sent := 0
	forged := `{"level":"INFO","msg":"forged"}`
	for _, request := range []string{
		"GET /a HTTP/1.1\r\nHost: a.test\r\nUser-Agent: " + evil + "\r\nX-Forwarded-For: 1\u20282\r\nReferer: \u2028" + forged + "\r\n",
		"GET /keyed HTTP/1.1\r\nHost: a.test\r\napikey: evekey\r\nX-Kong-Request-Id: a\u2028b\r\n",
		"GET /keyed HTTP/1.1\r\nHost: a.test\r\napikey: no\u2028\x1b[31m\r\n",
		"GET /a%0d%0a" + strings.ReplaceAll(forged, `"`, "%22") + "%1b[2J%e2%80%a8 HTTP/1.1\r\nHost: a.test\r\n",
		"GET /a\u2028b HTTP/1.1\r\nHost: a.test\r\n",
		"GET /?q=%0a\u2028 HTTP/1.1\r\nHost: a.test\r\n",
		"GET / HTTP/1.1\r\nHost: a\x1b[31m.test\r\n",
		"G\x1bT / HTTP/1.1\r\nHost: a.test\r\n",
		"GET / HTTP/1.1\r\nHost: a.test\r\nX: a\rb\r\n",
		"GET / HTTP/1.1\r\nHost: a.test\r\nX: a\n" + forged + "\r\n",
	} {
		if g.answered(t, request+"Connection: close\r\n\r\n") == "" {
			t.Errorf("no answer to %q", request)
		}
		sent++
	}
	for _, name := range []string{"a\r\n" + forged, "\u2028\u001b[2J.test", "a\x00b.test", strings.Repeat("\n", 200)} {
		if c, err := tls.Dial("tcp", g.tls, &tls.Config{ServerName: name, InsecureSkipVerify: true}); err == nil {
			_ = c.Close()
		}
	}
	// Names of files and texts of documents are strangers' too.
	broken := "_format_version: \"3.0\"\nservices: [{name: \"b\\u2028\\u001b[2J\\n" + strings.ReplaceAll(forged, `"`, `\"`) + "\", url: \"\\u2028\"}]\n\"k\\u2028\\n\": 1\n"
	g.write(broken)
	reload, err := g.run("reload")
	if err == nil {
		t.Error("a bad document is taken")
	}
	if out, err := g.run("secrets", "check", "{vault://file/a\u2028\x1b[2J\nb}"); err == nil {
		t.Errorf("checked: %s", out)
	}
	listed := ""
	for _, args := range [][]string{{"status"}, {"secrets", "list"}, {"certs", "list"}, {"audit", "tail"}, {"credentials", "uses", "evil\u2028"}} {
		out, _ := g.run(args...)
		listed += out
	}
	for what, text := range map[string]string{"reload": reload, "commands": listed} {
		if strings.ContainsAny(text, "\x1b\u2028\u2029\u0085\r") {
			t.Errorf("the output of %s has escapes: %q", what, text)
		}
	}
	g.stop(syscall.SIGTERM)
	access := 0
	for line := range strings.Lines(g.log.String()) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Errorf("a line is no event: %v: %q", err, line)
			continue
		}
		if fields["msg"] == "forged" {
			t.Errorf("a stranger wrote a line: %q", line)
		}
		if fields["msg"] == "request" {
			access++
		}
		if strings.ContainsAny(strings.TrimSuffix(line, "\n"), "\x00\x1b\r\n\u2028\u2029\u0085") {
			t.Errorf("a line has bytes that a terminal or a reader takes for more: %q", line)
		}
	}
	if access < 5 || access > sent {
		t.Errorf("%d lines for %d requests", access, sent)
	}
}
