package integration

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// keptDocument is a node whose credentials come from a Vault: a pair, a key of a
// consumer, one for the upstream, and another that may be used for three seconds without its source.
func keptDocument(t testing.TB, vault, token, origin string) string {
	t.Helper()
	return fmt.Sprintf(`
_format_version: "3.0"
vaults: [{name: hcv, prefix: hv, config: {address: %q, kv: v2, token_file: %q, ttl: 1}}]
certificates: [{cert: "{vault://hv/pair/cert}", key: "{vault://hv/pair/key}", snis: [{name: shop.test}]}]
services: [{name: shop, url: "http://%s", x_keyway_upstream_auth: {type: bearer, value: "{vault://hv/api/upstream}"}, routes: [{name: keyed, paths: [/keyed], plugins: [{name: key-auth}]}]}]
consumers: [{username: c, keyauth_credentials: [{key: "{vault://hv/api/key}"}, {key: "{vault://hv/api/short?resurrect_ttl=3}"}]}]
`, vault, token, origin)
}

// holds lists the files beneath a folder in which a text stands.
func holds(t testing.TB, dir string, texts ...string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, text := range texts {
			if bytes.Contains(data, []byte(text)) {
				found = append(found, path)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// traces are the forms in which a private key in PEM could stand in a file.
func traces(t testing.TB, key string) []string {
	t.Helper()
	block, _ := pem.Decode([]byte(key))
	if block == nil {
		t.Fatal("no PEM")
	}
	list := []string{string(block.Bytes), base64.StdEncoding.EncodeToString(block.Bytes)}
	for line := range strings.Lines(key) {
		if !strings.HasPrefix(line, "-----") {
			list = append(list, strings.TrimSpace(line))
		}
	}
	return list
}

func servedSerial(t testing.TB, addr, name string) string {
	t.Helper()
	c, err := tls.Dial("tcp", addr, &tls.Config{ServerName: name, InsecureSkipVerify: true})
	if err != nil {
		return err.Error()
	}
	defer func() { _ = c.Close() }()
	return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

// TestARestartWithEverySourceAway kills a node while its Vault is away and its
// document is spoilt: it serves again within five seconds, from what it kept.
func TestARestartWithEverySourceAway(t *testing.T) {
	v := startVault(t)
	for _, away := range []faultMode{faultRefuse, faultBlackHole} {
		t.Run(string(away), func(t *testing.T) { restartWithout(t, v, away) })
	}
}

func restartWithout(t *testing.T, v *vaultServer, away faultMode) {
	t.Helper()
	front := faultProxy(t, v.addr, nil, nil)
	cert, key := pair(t, "shop.test", "shop.test")
	v.put("pair", map[string]string{"cert": cert, "key": key})
	v.put("api", map[string]string{"key": "canary-api-key", "short": "canary-short-key", "upstream": "canary-upstream"})
	var sent atomic.Value // the last credential that the upstream got
	a := origin(t, func(_ http.ResponseWriter, r *http.Request) { sent.Store(r.Header.Get("Authorization")) })
	token := file(t, t.TempDir(), "token", v.token)
	doc := keptDocument(t, "http://"+front.addr, token, a)
	s := &shop{gateway: start(t, options{document: doc})}
	ask := func(key string, want int) {
		t.Helper()
		if code, err := s.ask(s.client(false), "/keyed", key); code != want {
			t.Fatalf("%d %v; expected %d", code, err, want)
		}
	}
	ask("canary-api-key", http.StatusOK)
	ask("canary-short-key", http.StatusOK)
	ask("another", http.StatusUnauthorized)
	kept := filepath.Join(s.dir, "last-good", "last-good.sealed")
	poll(t, "the state is kept", 20*time.Second, func() bool { _, err := os.Stat(kept); return err == nil })
	if serial := servedSerial(t, s.tls, "shop.test"); serial != serialOf(t, cert) {
		t.Fatalf("serves %s", serial)
	}

	front.set(t, away)
	s.stop(syscall.SIGKILL)
	time.Sleep(3 * time.Second) // the other key's time without its source
	s.write("spoilt")
	began := time.Now()
	next := &shop{gateway: start(t, options{dir: s.dir, env: map[string]string{"KEYWAY_DOCUMENTS": s.doc}})}
	took := time.Since(began)
	next.doc = s.doc
	s = next
	t.Logf("ready after %s", took.Round(time.Millisecond))
	if took > 5*time.Second {
		t.Errorf("ready after %s; expected within 5 s", took)
	}
	if serial := servedSerial(t, s.tls, "shop.test"); serial != serialOf(t, cert) {
		t.Errorf("serves %s; expected the pair that was kept", serial)
	}
	ask("canary-api-key", http.StatusOK)
	if sent.Load() != "Bearer canary-upstream" {
		t.Errorf("the upstream got %v", sent.Load())
	}
	ask("canary-short-key", http.StatusUnauthorized) // a hard end stays one
	ask("another", http.StatusUnauthorized)
	if _, body := s.read("/status"); !strings.Contains(body, "serving the last known good document") || !strings.Contains(body, `"ready": true`) {
		t.Errorf("/status does not say what is served:\n%s", body)
	}
	if found := holds(t, s.dir, append(traces(t, key), "canary-", v.token)...); len(found) > 0 {
		t.Errorf("secrets in clear: %v", found)
	}

	// All is well again: the document is taken, and what the source says now.
	front.set(t, faultNone)
	s.write(doc)
	v.put("api", map[string]string{"key": "canary-next-key", "short": "canary-short-key", "upstream": "canary-next-upstream"})
	for _, key := range []string{"canary-next-key", "canary-short-key"} {
		poll(t, "the key is taken", 70*time.Second, func() bool {
			code, err := s.ask(s.client(false), "/keyed", key)
			return err == nil && code == http.StatusOK
		})
	}
	if sent.Load() != "Bearer canary-next-upstream" {
		t.Errorf("the upstream got %v", sent.Load())
	}
	poll(t, "the document is taken", 20*time.Second, func() bool {
		_, body := s.read("/status")
		return !strings.Contains(body, "serving the last known good document")
	})
}

// TestAStateThatCannotBeTrustedIsNoReasonNotToServe spoils the file: with a good
// document the node starts and says so, with a bad one it says both.
func TestAStateThatCannotBeTrustedIsNoReasonNotToServe(t *testing.T) {
	doc := "_format_version: \"3.0\"\nconsumers: [{username: c, keyauth_credentials: [{key: k}]}]\n"
	g := start(t, options{document: doc})
	kept := filepath.Join(g.dir, "last-good", "last-good.sealed")
	poll(t, "the state is kept", 20*time.Second, func() bool { _, err := os.Stat(kept); return err == nil })
	g.stop(syscall.SIGKILL)
	data, err := os.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)-20] ^= 1
	if err := os.WriteFile(kept, data, 0o600); err != nil {
		t.Fatal(err)
	}
	bad := file(t, t.TempDir(), "bad.yaml", "spoilt")
	if out, code := failing(t, map[string]string{"KEYWAY_DATA_DIR": g.dir, "KEYWAY_DOCUMENTS": bad}); code != 1 || !strings.Contains(out, "is refused") || !strings.Contains(out, "cannot be served") {
		t.Errorf("exit %d: %s", code, out)
	}
	again := start(t, options{document: doc, dir: g.dir})
	if _, body := again.read("/status"); !strings.Contains(body, "is refused") {
		t.Errorf("/status does not say that the state was refused:\n%s", body)
	}
	if out, err := again.run("audit", "verify"); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// TestKillsOfANodeLeaveAStateToStartFrom kills a node again and again while its
// document changes; each time it starts from what it kept, documents being spoilt.
func TestKillsOfANodeLeaveAStateToStartFrom(t *testing.T) {
	text := func(i int) string {
		return fmt.Sprintf("_format_version: \"3.0\"\nconsumers: [{username: c%d}]\n", i)
	}
	good := start(t, options{document: text(0)})
	dir, doc := good.dir, good.doc
	kept := filepath.Join(dir, "last-good", "last-good.sealed")
	poll(t, "the state is kept", 20*time.Second, func() bool { _, err := os.Stat(kept); return err == nil })
	g := good
	for i := range 10 {
		g.doc = doc
		g.write(text(i + 1))
		time.Sleep(time.Second + time.Duration(i)*20*time.Millisecond) // about when it is written
		g.stop(syscall.SIGKILL)
		g.write("spoilt")
		g = start(t, options{dir: dir, env: map[string]string{"KEYWAY_DOCUMENTS": doc}})
		if _, body := g.read("/status"); !strings.Contains(body, "serving the last known good document") {
			t.Fatalf("after kill %d:\n%s", i+1, body)
		}
	}
}
