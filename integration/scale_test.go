package integration

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const (
	manyPairs  = 10000
	manyLeases = 1000
)

// manyOfVault answers like a Vault that has pairs at pairs/<n> and a lease for each
// reading of db/creds/<n>.
type manyOfVault struct {
	pairs [][2]string
	made  atomic.Int64
	calls atomic.Int64
}

func (v *manyOfVault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.calls.Add(1)
	answer := func(x map[string]any) {
		x["request_id"] = "00000000-0000-0000-0000-000000000000"
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(x)
	}
	var i int
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	switch {
	case path == "auth/token/lookup-self":
		answer(map[string]any{"data": map[string]any{"ttl": 0, "renewable": false}})
	case strings.HasPrefix(path, "secret/pairs/"):
		if _, err := fmt.Sscanf(path, "secret/pairs/%d", &i); err != nil || i >= len(v.pairs) {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		answer(map[string]any{"data": map[string]any{"cert": v.pairs[i][0], "key": v.pairs[i][1]}})
	case strings.HasPrefix(path, "db/creds/"):
		n := v.made.Add(1)
		answer(map[string]any{"lease_id": fmt.Sprintf("%s/%d", path, n), "lease_duration": 3600, "renewable": true, "data": map[string]any{"username": fmt.Sprintf("u%d", n), "password": "p"}})
	case path == "sys/leases/renew":
		answer(map[string]any{"lease_id": "renewed", "lease_duration": 3600, "renewable": true})
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// manyNames makes self-signed pairs, each with a key of its own.
func manyNames(t testing.TB, n int) [][2]string {
	t.Helper()
	list := make([][2]string, n)
	for i := range list {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("n%d.many.test", i)
		tmpl := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i) + 1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		kd, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		list[i] = [2]string{string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kd}))}
	}
	return list
}

func manyDocument(vault, token string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "_format_version: \"3.0\"\nvaults:\n- {name: hcv, prefix: pairs, config: {address: %q, kv: v1, token_file: %q, ttl: 3600}}\n- {name: hcv, prefix: leases, config: {address: %q, engine: generic, token_file: %q}}\ncertificates:\n", vault, token, vault, token)
	for i := range manyPairs {
		fmt.Fprintf(&b, "- {cert: \"{vault://pairs/pairs/%d/cert}\", key: \"{vault://pairs/pairs/%d/key}\", snis: [{name: n%d.many.test}]}\n", i, i, i)
	}
	b.WriteString("services:\n")
	for i := range manyLeases {
		fmt.Fprintf(&b, "- {name: s%d, url: \"http://127.0.0.1:9\", x_keyway_upstream_auth: {type: basic, username: \"{vault://leases/db/creds/%d/username}\", password: \"{vault://leases/db/creds/%d/password}\"}, routes: [{name: r%d, paths: [/s%d]}]}\n", i, i, i, i, i)
	}
	return b.String()
}

// busy is the processor time that a node has used.
func (g *gateway) busy() time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", g.cmd.Process.Pid))
	if err != nil {
		g.t.Fatal(err)
	}
	f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	user, uerr := strconv.Atoi(f[11]) // utime and stime of proc(5), in hundredths
	system, serr := strconv.Atoi(f[12])
	if err := errors.Join(uerr, serr); err != nil {
		g.t.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

// TestTenThousandCertificatesAndAThousandLeases starts a node with as many, with
// and without their source, and holds it to 10 s and 400 MiB. On a machine that
// others use too the node's own processor time counts, of two processors.
func TestTenThousandCertificatesAndAThousandLeases(t *testing.T) {
	if testing.Short() {
		t.Skip("ten thousand key pairs")
	}
	source := &manyOfVault{pairs: manyNames(t, manyPairs)}
	l := origin(t, source.ServeHTTP)
	doc := manyDocument("http://"+l, file(t, t.TempDir(), "token", "root"))
	served := func(g *gateway, began time.Time, what string) {
		t.Helper()
		poll(t, "every certificate is there", time.Minute, func() bool {
			_, body := g.read("/metrics")
			return strings.Contains(body, fmt.Sprintf("keyway_credentials{state=\"%s\"} %d", what, 2*manyPairs+2*manyLeases))
		})
		took, own := time.Since(began), g.busy()
		for _, i := range []int{0, 17, manyPairs - 1} {
			if is := servedSerial(t, g.tls, fmt.Sprintf("n%d.many.test", i)); is != fmt.Sprint(i+1) {
				t.Errorf("name %d has serial %s", i, is)
			}
		}
		poll(t, "the state is written", time.Minute, func() bool {
			_, err := os.Stat(filepath.Join(g.dir, "last-good", "last-good.sealed"))
			return err == nil
		})
		time.Sleep(4 * time.Second) // or written again
		t.Logf("%s: all there after %s, %s of CPU, %d calls, at most %d MiB resident", what, took.Round(time.Millisecond), own, source.calls.Load(), g.peak()>>20)
		if took > 10*time.Second && own > 20*time.Second { // who shares processors takes up to twice as much of them
			t.Errorf("%s: all there after %s; expected within 10 s", what, took)
		}
		if g.peak() > 400<<20 {
			t.Errorf("%s: %d MiB were resident; expected at most 400", what, g.peak()>>20)
		}
	}
	began := time.Now()
	g := start(t, options{document: doc, patience: time.Minute})
	t.Logf("ready after %s", time.Since(began).Round(time.Millisecond))
	served(g, began, "active")
	info, err := os.Stat(filepath.Join(g.dir, "last-good", "last-good.sealed"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the state has %d KiB", info.Size()>>10)
	g.stop(syscall.SIGKILL)

	// The same without a source: nobody listens at the port any more.
	gone := strings.ReplaceAll(doc, l, fmt.Sprintf("127.0.0.1:%d", freePort(t)))
	if err := os.WriteFile(g.doc, []byte(gone), 0o600); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	again := start(t, options{patience: time.Minute, dir: g.dir, env: map[string]string{"KEYWAY_DOCUMENTS": g.doc}})
	t.Logf("without a source ready after %s", time.Since(began).Round(time.Millisecond))
	served(again, began, "stale")
}
