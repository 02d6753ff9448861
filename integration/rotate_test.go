package integration

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// fleet is a folder of pairs, one for each name, as issuers and kubelet leave them.
type fleet struct {
	dir   string
	mu    sync.Mutex // guards known
	known map[string][]version
	issue func(name string) (cert, key string) // nil: each signs itself
}

// version is one certificate of a name and when it was in its place.
type version struct {
	serial string
	at     time.Time
}

func (f *fleet) name(i int) string { return fmt.Sprintf("n%d.fleet.test", i) }

// rotate gives name i a new pair: by new files moved over the old ones or, for odd
// ones, by kubelet's swap of the link ..data, which changes both files at once.
func (f *fleet) rotate(t testing.TB, i int) {
	t.Helper()
	name := f.name(i)
	issue := f.issue
	if issue == nil {
		issue = func(name string) (string, string) { return pair(t, name, name) }
	}
	cert, key := issue(name)
	serial := serialOf(t, cert)
	dir := filepath.Join(f.dir, fmt.Sprintf("n%d", i))
	if i%2 == 0 {
		file(t, dir, ".crt.new", cert)
		file(t, dir, ".key.new", key)
		for _, x := range [][2]string{{".crt.new", "tls.crt"}, {".key.new", "tls.key"}} {
			if err := os.Rename(filepath.Join(dir, x[0]), filepath.Join(dir, x[1])); err != nil {
				t.Fatal(err)
			}
		}
	} else {
		generation := "..gen-" + serial
		file(t, filepath.Join(dir, generation), "tls.crt", cert)
		file(t, filepath.Join(dir, generation), "tls.key", key)
		old, _ := os.Readlink(filepath.Join(dir, "..data"))
		if err := errors.Join(os.Symlink(generation, filepath.Join(dir, "..data_tmp")), os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data"))); err != nil {
			t.Fatal(err)
		}
		for _, x := range []string{"tls.crt", "tls.key"} {
			if err := os.Symlink("..data/"+x, filepath.Join(dir, x)); err != nil && !os.IsExist(err) {
				t.Fatal(err)
			}
		}
		if old != "" {
			if err := os.RemoveAll(filepath.Join(dir, old)); err != nil {
				t.Fatal(err)
			}
		}
	}
	f.mu.Lock()
	f.known[name] = append(f.known[name], version{serial, time.Now()})
	f.mu.Unlock()
}

// stale says whether a serial was served to a handshake that began more than a
// second after a newer one had come; unknown serials are the worst staleness.
func (f *fleet) stale(name, serial string, began time.Time) (time.Duration, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := f.known[name]
	for i, v := range list {
		if v.serial == serial {
			if i+1 == len(list) {
				return 0, false
			}
			late := began.Sub(list[i+1].at)
			return max(late, 0), late > time.Second
		}
	}
	// Files are in place an instant before they are noted.
	return 0, false
}

// version answers which one of a name has a serial, from 0. Files are in place an instant
// before they are noted: a version may not be known yet.
func (f *fleet) version(name, serial string) (int64, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := slices.IndexFunc(f.known[name], func(v version) bool { return v.serial == serial })
	return int64(i), i >= 0
}

// TestRotationOfAFleet rotates 20 names 240 times while clients make handshakes
// for all of them and others keep their connections: none fails, none is shown
// another name's certificate, none that begins after a new one was shown an old one,
// and that is within a second of a rotation.
func TestRotationOfAFleet(t *testing.T) {
	const names, rotations = 20, 240
	f := &fleet{dir: filepath.Join(t.TempDir(), "pairs"), known: map[string][]version{}}
	var doc strings.Builder
	o := origin(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	host, port, _ := strings.Cut(o, ":")
	fmt.Fprintf(&doc, "_format_version: \"3.0\"\nvaults: [{name: file, prefix: pairs, config: {root: %s}}]\nservices: [{name: a, host: %s, port: %s, routes: [{paths: [/]}]}]\ncertificates:\n", f.dir, host, port)
	for i := range names {
		f.rotate(t, i)
		fmt.Fprintf(&doc, "- {cert: \"{vault://pairs/n%d/tls.crt}\", key: \"{vault://pairs/n%d/tls.key}\", snis: [%s]}\n", i, i, f.name(i))
	}
	g := start(t, options{document: doc.String()})
	stop := make(chan struct{})
	var clients sync.WaitGroup
	var shakes, requests, failed, wrong atomic.Int64
	var first atomic.Value
	met := make([]map[string][]meeting, 4) // of each client, by name
	running := func() bool {
		select {
		case <-stop:
			return false
		default:
			return true
		}
	}
	for i := range met {
		met[i] = map[string][]meeting{}
		clients.Go(func() {
			for running() {
				name, number, began := f.name(mathrand.IntN(names)), shakes.Add(1), time.Now()
				c, err := tls.Dial("tcp", g.tls, &tls.Config{ServerName: name, InsecureSkipVerify: true})
				if err != nil {
					failed.Add(1)
					first.CompareAndSwap(nil, err.Error())
					continue
				}
				leaf := c.ConnectionState().PeerCertificates[0]
				_ = c.Close()
				if leaf.Subject.CommonName != name {
					wrong.Add(1)
				}
				if v, ok := f.version(name, leaf.SerialNumber.String()); ok {
					met[i][name] = append(met[i][name], meeting{v, number, shakes.Load(), began})
				}
			}
		})
	}
	for i := range 4 {
		tr := &http.Transport{ForceAttemptHTTP2: i%2 == 1, TLSClientConfig: &tls.Config{ServerName: f.name(i), InsecureSkipVerify: true}}
		c := &http.Client{Transport: tr, Timeout: 20 * time.Second}
		clients.Go(func() {
			defer tr.CloseIdleConnections()
			for running() {
				requests.Add(1)
				resp, err := c.Get("https://" + g.tls + "/")
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
				if err != nil || resp.StatusCode != 200 {
					failed.Add(1)
					first.CompareAndSwap(nil, fmt.Sprint(err))
				}
			}
		})
	}
	for i := range rotations {
		f.rotate(t, i%names)
		before := shakes.Load()
		poll(t, "a handshake was made", 20*time.Second, func() bool { return shakes.Load() > before+4 })
	}
	for i := range names { // each name ends on its last certificate
		poll(t, f.name(i)+" has its newest certificate", 20*time.Second, func() bool {
			c, err := tls.Dial("tcp", g.tls, &tls.Config{ServerName: f.name(i), InsecureSkipVerify: true})
			if err != nil {
				return false
			}
			defer func() { _ = c.Close() }()
			list := f.known[f.name(i)]
			return c.ConnectionState().PeerCertificates[0].SerialNumber.String() == list[len(list)-1].serial
		})
	}
	close(stop)
	clients.Wait()
	if failed.Load()+wrong.Load() > 0 {
		t.Errorf("of %d handshakes and %d requests %d failed (the first: %v), %d had another name's certificate", shakes.Load(), requests.Load(), failed.Load(), first.Load(), wrong.Load())
	}
	var longest time.Duration
	for name, list := range f.known {
		var came []time.Time
		for _, v := range list {
			came = append(came, v.at)
		}
		var all []meeting
		for _, m := range met {
			all = append(all, m[name]...)
		}
		back, late := succession(came, all)
		if longest = max(longest, late); back > 0 || late > time.Second {
			t.Errorf("%s: of %d handshakes %d had a certificate older than one that was shown before; after half of the rotations an old one was shown for %s", name, len(all), back, late)
		}
	}
	t.Logf("%d rotations of %d names: %d handshakes, %d requests, %d failed; after half of the rotations an old one was shown for %s at the most", rotations, names, shakes.Load(), requests.Load(), failed.Load(), longest.Round(time.Millisecond))
	if n := g.counter(t, `keyway_credential_rotations_total{kind="certificate",result="activated",source="pairs"}`); n < names {
		t.Errorf("%v rotations are counted, want at least one for each name", n)
	}
}

// TestRotationKeepsSessions resumes across rotations: tickets live on.
func TestRotationKeepsSessions(t *testing.T) {
	s := newShop(t, nil)
	config := &tls.Config{ServerName: "shop.test", InsecureSkipVerify: true, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: config}, Timeout: 10 * time.Second}
	resumed := 0
	for i := range 60 {
		if i%6 == 5 {
			cert, key := pair(t, "shop.test", "shop.test")
			s.replace(t, cert, key)
			poll(t, "the new certificate is served", 20*time.Second, func() bool { return s.serial(t) == serialOf(t, cert) })
		}
		resp, _ := call(t, c, http.MethodGet, "https://"+s.tls+"/", nil) // 404: the host is no route's
		if resp.TLS.DidResume {
			resumed++
		}
	}
	if resumed < 55 {
		t.Errorf("%d of 60 connections resumed across 10 rotations", resumed)
	}
}

// leaf makes a certificate by template for a key.
func leaf(t testing.TB, key any, public any, from, to time.Duration) (certPEM, keyPEM string) {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: "shop.test"}, DNSNames: []string{"shop.test"}, NotBefore: time.Now().Add(from), NotAfter: time.Now().Add(to), KeyUsage: x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, public, key)
	if err != nil {
		t.Fatal(err)
	}
	text, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text}))
}

// TestRotationRefusesMore offers what issuers and disks make in bad hours. The good
// pair serves on, and each refusal is told in five places.
func TestRotationRefusesMore(t *testing.T) {
	s := newShop(t, nil)
	good := s.serial(t)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	expired, expiredKey := leaf(t, ec, &ec.PublicKey, -48*time.Hour, -time.Hour)
	early, earlyKey := leaf(t, ec, &ec.PublicKey, 24*time.Hour, 48*time.Hour)
	short, shortKey := leaf(t, weak, &weak.PublicKey, -time.Hour, 48*time.Hour)
	sound, soundKey := leaf(t, ec, &ec.PublicKey, -time.Hour, 48*time.Hour)
	locked := "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n"
	for _, c := range []struct{ check, cert, key string }{
		{"expired", expired, expiredKey},
		{"not_yet_valid", early, earlyKey},
		{"key_strength", short, shortKey},
		{"key_encrypted", sound, locked},
		{"value", "", shortKey}, // an empty file is refused before it is a certificate
		{"parse", sound, soundKey[:60]},
		{"key_mismatch", sound, shortKey},
	} {
		series := `keyway_credential_rejected_total{check="` + c.check + `"}`
		before := s.counter(t, series)
		s.replace(t, c.cert, c.key)
		poll(t, c.check+" is refused and counted", 20*time.Second, func() bool { return s.counter(t, series) > before })
		if now := s.serial(t); now != good {
			t.Errorf("%s: another certificate is served", c.check)
		}
		if c.check == "value" {
			continue
		}
		shown, err := s.run("certs", "show", "shop.test", "--json")
		if err != nil || !strings.Contains(shown, `"refused": "`+c.check+": ") || !strings.Contains(shown, `"state": "active"`) {
			t.Errorf("%s: certs show says\n%s %v", c.check, shown, err)
		}
		told, err := s.run("audit", "tail")
		if err != nil || !strings.Contains(told, c.check+": ") {
			t.Errorf("%s: the ledger says\n%s %v", c.check, told, err)
		}
		if !strings.Contains(s.log.String(), `"result":"refused","check":"`+c.check+`"`) {
			t.Errorf("%s is not in the log", c.check)
		}
	}
	// Files that are gone: what was read last serves on, and a new pair is taken when it comes.
	for _, name := range []string{"tls.crt", "tls.key"} {
		if err := os.Remove(filepath.Join(s.pairDir, name)); err != nil {
			t.Fatal(err)
		}
	}
	poll(t, "the loss is noticed", 20*time.Second, func() bool {
		out, err := s.run("secrets", "list")
		return err == nil && !strings.Contains(out, "{vault://pair/tls.crt/}  active")
	})
	if now := s.serial(t); now != good {
		t.Errorf("without files another certificate is served")
	}
	cert, key := pair(t, "shop.test", "shop.test")
	s.replace(t, cert, key)
	poll(t, "the pair that came back is served", 20*time.Second, func() bool { return s.serial(t) == serialOf(t, cert) })
}

// TestDefaultSlot swaps the pair of tls_cert and tls_key, for names that nobody
// configured and for the status listener.
func TestDefaultSlot(t *testing.T) {
	dir := t.TempDir()
	put := func() string {
		cert, key := pair(t, "default.test", "default.test")
		for name, text := range map[string]string{"tls.crt": cert, "tls.key": key} {
			if err := os.Rename(file(t, dir, name+".new", text), filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		return serialOf(t, cert)
	}
	want := put()
	status := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	g := start(t, options{document: "_format_version: \"3.0\"\nservices: []\n", env: map[string]string{
		"KEYWAY_TLS_CERT": filepath.Join(dir, "tls.crt"), "KEYWAY_TLS_KEY": filepath.Join(dir, "tls.key"), "KEYWAY_STATUS_TLS_LISTEN": status,
	}})
	shows := func(addr, name string) string {
		c, err := tls.Dial("tcp", addr, &tls.Config{ServerName: name, InsecureSkipVerify: true})
		if err != nil {
			return err.Error()
		}
		defer func() { _ = c.Close() }()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	fastest := time.Minute
	for i := range 5 {
		began := time.Now()
		for _, at := range [][2]string{{g.tls, "unknown.test"}, {g.tls, ""}, {status, "unknown.test"}, {status, ""}} {
			poll(t, fmt.Sprintf("pair %d is served at %v", i, at), 20*time.Second, func() bool { return shows(at[0], at[1]) == want })
		}
		if i > 0 { // the first was there when the node began
			fastest = min(fastest, time.Since(began))
		}
		want = put()
	}
	if fastest > time.Second { // one that waits for a processor says nothing of the others
		t.Errorf("the fastest pair was served everywhere after %s", fastest)
	}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	if resp, _ := call(t, c, http.MethodGet, "https://"+status+"/status/ready", nil); resp.StatusCode != 200 {
		t.Errorf("status over TLS: %s", resp.Status)
	}
	// Without a default an unknown name meets no certificate at all.
	g = start(t, options{document: "_format_version: \"3.0\"\nservices: []\n"})
	if said := shows(g.tls, "unknown.test"); !strings.Contains(said, "unrecognized name") {
		t.Errorf("with no certificate: %s, want the alert unrecognized_name", said)
	}
}

// keep puts a secret into the sealed store of a data folder.
func keep(t testing.TB, dir, name, value string) {
	t.Helper()
	put := exec.Command(binary(t), "secrets", "put", name, "--data-dir", dir)
	put.Stdin = strings.NewReader(value)
	if out, err := put.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// TestSecretsThatEnd takes a secret away while it is in use, and refers to ones
// that never were: what needs them is closed, and an empty text opens nothing.
func TestSecretsThatEnd(t *testing.T) {
	o := origin(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	host, port, _ := strings.Cut(o, ":")
	dir := filepath.Join(t.TempDir(), "data")
	keep(t, dir, "mine", "sealed-key")
	g := start(t, options{dir: dir, env: map[string]string{"MY_TEST_KEY": "env-key"}, document: fmt.Sprintf(`
_format_version: "3.0"
services: [{name: a, host: %s, port: %s, routes: [
  {name: keyed, paths: [/keyed], plugins: [{name: key-auth}]},
  {name: open, paths: [/open]}]}]
consumers:
- {username: a, keyauth_credentials: [{key: "{vault://sealed/mine}"}]}
- {username: b, keyauth_credentials: [{key: "{vault://sealed/never}"}]}
- {username: c, keyauth_credentials: [{key: "{vault://env/MY_TEST_KEY}"}]}
- {username: d, keyauth_credentials: [{key: "{vault://env/MY_TEST_KEY_THAT_IS_NOT}"}]}
`, host, port)})
	is := func(path, key string, given bool) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+g.proxy+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if given {
			req.Header.Set("apikey", key)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	closed := func() {
		t.Helper()
		for _, key := range []string{"", " ", "{vault://sealed/never}", "{vault://sealed/mine}", "never"} {
			if code := is("/keyed", key, true); code != http.StatusUnauthorized {
				t.Errorf("the key %q answers %d", key, code)
			}
		}
		if code := is("/keyed", "", false); code != http.StatusUnauthorized {
			t.Errorf("no key answers %d", code)
		}
	}
	closed()
	if is("/keyed", "sealed-key", true) != 200 || is("/keyed", "env-key", true) != 200 || is("/open", "", false) != 200 {
		t.Error("what has its secrets must answer 200")
	}
	if _, text := g.read("/status"); !strings.Contains(text, "sealed/never") {
		t.Errorf("/status does not say what is missing: %s", text)
	}
	// Never a moment without the key while it is replaced over and over.
	for i := range 10 {
		keep(t, dir, "mine", fmt.Sprintf("sealed-%d", i))
		poll(t, "the new key opens", 20*time.Second, func() bool { return is("/keyed", fmt.Sprintf("sealed-%d", i), true) == 200 })
		if is("/keyed", "env-key", true) != 200 {
			t.Error("another key was lost")
		}
	}
	keep(t, dir, "never", "now-it-is")
	poll(t, "a secret that comes late opens", 20*time.Second, func() bool { return is("/keyed", "now-it-is", true) == 200 })
	for _, name := range []string{"mine", "never"} {
		if out, err := exec.Command(binary(t), "secrets", "rm", name, "--data-dir", dir).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	poll(t, "what was removed opens nothing", 20*time.Second, func() bool {
		return is("/keyed", "sealed-9", true) == http.StatusUnauthorized && is("/keyed", "now-it-is", true) == http.StatusUnauthorized
	})
	closed()
	if is("/keyed", "env-key", true) != 200 || is("/open", "", false) != 200 {
		t.Error("the rest was closed too")
	}
}
