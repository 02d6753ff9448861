package integration

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// leafOf signs what change makes of a good server certificate for 127.0.0.1.
func (a *authority) leafOf(t testing.TB, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "origin"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	change(tmpl)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestUpstreamCertificatesThatAreNotGood runs T-18: verification is on by default, a
// bad certificate is a 502 that tells the client nothing and the operator why.
func TestUpstreamCertificatesThatAreNotGood(t *testing.T) {
	a, stranger := newAuthority(t, "upstreams"), newAuthority(t, "stranger")
	ok := func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "good") }
	cases := []struct {
		name   string
		pair   tls.Certificate
		url    string // of the service; %s is host:port
		fields string
		status int
		why    string // in the log
	}{
		{"good", a.leafOf(t, func(*x509.Certificate) {}), "https://%s", "", 200, ""},
		{"expired", a.leafOf(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), "https://%s", "", 502, "expired"},
		{"to-come", a.leafOf(t, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), "https://%s", "", 502, "not yet valid"},
		{"name", a.leafOf(t, func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"other.test"} }), "https://%s", "", 502, "127.0.0.1"},
		{"no-name", a.leafOf(t, func(c *x509.Certificate) { c.IPAddresses, c.Subject.CommonName = nil, "127.0.0.1" }), "https://%s", "", 502, "127.0.0.1"},
		{"authority", stranger.leafOf(t, func(*x509.Certificate) {}), "https://%s", "", 502, "unknown authority"},
		{"use", a.leafOf(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), "https://%s", "", 502, "usage"},
		{"unverified", stranger.leafOf(t, func(*x509.Certificate) {}), "https://%s", "tls_verify: false, ", 200, ""},
	}
	var doc strings.Builder
	fmt.Fprintf(&doc, "_format_version: \"3.0\"\nca_certificates: [{id: 0e7c8e4e-0000-4000-8000-000000000001, cert: %q}]\nservices:\n", a.pem)
	for _, c := range cases {
		address := secureOrigin(t, &tls.Config{Certificates: []tls.Certificate{c.pair}}, ok)
		fmt.Fprintf(&doc, "- {name: %s, url: \"%s\", ca_certificates: [0e7c8e4e-0000-4000-8000-000000000001], %sroutes: [{paths: [/%s]}]}\n", c.name, fmt.Sprintf(c.url, address), c.fields, c.name)
	}
	// One that speaks no TLS at all.
	plain := origin(t, ok)
	fmt.Fprintf(&doc, "- {name: plain, url: \"https://%s\", routes: [{paths: [/plain]}]}\n", plain)
	g := start(t, options{document: doc.String(), env: debug(nil)})
	all := append(cases[:len(cases):len(cases)], cases[0])
	all[len(cases)].name, all[len(cases)].status, all[len(cases)].why = "plain", 502, "does not look like a TLS handshake"
	for _, c := range all {
		resp, err := http.Get("http://" + g.proxy + "/" + c.name)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != c.status {
			t.Errorf("%s: %d, want %d", c.name, resp.StatusCode, c.status)
		}
		for _, tells := range []string{"x509", "certificate", "expired", "authority", "127.0.0.1", "tls:"} {
			if c.status == 502 && strings.Contains(string(body)+fmt.Sprint(resp.Header), tells) {
				t.Errorf("%s: the client is told %q: %s", c.name, tells, body)
			}
		}
	}
	for _, c := range all { // the log is written a moment later
		if c.why != "" {
			poll(t, c.name+": the log says why", 20*time.Second, func() bool {
				for line := range strings.Lines(g.log.String()) {
					if strings.Contains(line, `/`+c.name+`"`) && strings.Contains(line, c.why) {
						return true
					}
				}
				return false
			})
		}
	}
}

// TestUpstreamClientCertificateUnderLoad runs T-19: the pair that the node shows to an
// upstream is replaced 100 times under load. No request is lost, and none that begins
// after the new pair was shown rides a connection of the old one, which is within a second.
func TestUpstreamClientCertificateUnderLoad(t *testing.T) {
	a := newAuthority(t, "clients")
	var secret canaries
	pairs := &fleet{dir: t.TempDir(), known: map[string][]version{}}
	pairs.issue = func(string) (string, string) {
		c := a.leafOf(t, func(c *x509.Certificate) {
			c.IPAddresses, c.ExtKeyUsage = nil, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		})
		cert, key := encode(t, c)
		secret.add(key)
		return cert, key
	}
	pairs.rotate(t, 1) // an odd one changes certificate and key at once
	var bare, total atomic.Int64
	l := &clients{roots: a.pool(), names: []string{"kept.test"}}
	var mu sync.Mutex // guards met
	var met []meeting
	server := a.leafOf(t, func(*x509.Certificate) {})
	up := secureOrigin(t, &tls.Config{Certificates: []tls.Certificate{server}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: a.pool()}, func(w http.ResponseWriter, r *http.Request) {
		total.Add(1)
		if len(r.TLS.PeerCertificates) == 0 {
			bare.Add(1)
			return
		}
		began := time.Now()
		v, ok := pairs.version(pairs.name(1), r.TLS.PeerCertificates[0].SerialNumber.String())
		n, err := strconv.ParseInt(r.Header.Get("X-Number"), 10, 64)
		if ok && err == nil {
			mu.Lock()
			met = append(met, meeting{v, n, l.number.Load(), began})
			mu.Unlock()
		}
	})
	front, frontKey := encode(t, a.server(t, "kept.test"))
	dir := t.TempDir()
	file(t, dir, "cert", front)
	file(t, dir, "key", frontKey)
	g := start(t, options{env: debug(nil), document: fmt.Sprintf(`
_format_version: "3.0"
vaults: [{name: file, prefix: pairs, config: {root: %s}}, {name: file, prefix: front, config: {root: %s}}]
ca_certificates: [{id: 0e7c8e4e-0000-4000-8000-000000000001, cert: %q}]
certificates: [{cert: "{vault://front/cert/}", key: "{vault://front/key/}", snis: [kept.test]}]
services:
- {name: a, url: "https://%s", ca_certificates: [0e7c8e4e-0000-4000-8000-000000000001], x_keyway_upstream_auth: {type: client_certificate, cert: "{vault://pairs/n1/tls.crt}", key: "{vault://pairs/n1/tls.key}"}, routes: [{paths: [/]}]}
`, pairs.dir, dir, a.pem, up)})
	l.g = g
	l.begin(3)
	for range 100 {
		pairs.rotate(t, 1)
		time.Sleep(100 * time.Millisecond)
	}
	poll(t, "the newest pair is shown", 20*time.Second, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return slices.ContainsFunc(met, func(m meeting) bool { return m.version == 100 })
	})
	l.end()
	var came []time.Time
	for _, v := range pairs.known[pairs.name(1)] {
		came = append(came, v.at)
	}
	back, late := succession(came, met)
	t.Logf("%d requests at the upstream, 100 rotations, an old pair was shown for %s after half of them", total.Load(), late.Round(time.Millisecond))
	if l.requests.Load() == 0 || l.lost.Load() > 0 {
		t.Errorf("%d of %d requests were lost, the first: %v", l.lost.Load(), l.requests.Load(), l.first.Load())
	}
	if back > 0 || late > time.Second || bare.Load() > 0 {
		t.Errorf("%d requests came with an old pair after the new one, for %s after half of the rotations, %d with none", back, late, bare.Load())
	}
	secret.scan(t, g)
}

// TestUpstreamSessionsAreNotMixed runs T-20: sessions with upstreams are resumed, and
// never at another target, under another name, or with another client certificate.
func TestUpstreamSessionsAreNotMixed(t *testing.T) {
	a := newAuthority(t, "upstreams")
	pair := a.leafOf(t, func(c *x509.Certificate) { c.DNSNames = []string{"one.test", "two.test"} })
	var mu sync.Mutex
	var mixed []string
	resumed := 0
	var key [32]byte // of tickets, the same at both: each could open the other's
	target := func(name string) string {
		identity := func(st tls.ConnectionState) string {
			client := "nobody"
			if len(st.PeerCertificates) > 0 {
				client = st.PeerCertificates[0].SerialNumber.String()
			}
			return name + " " + st.ServerName + " " + client
		}
		c := &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequestClientCert}
		c.SetSessionTicketKeys([][32]byte{key})
		c.WrapSession = func(st tls.ConnectionState, ss *tls.SessionState) ([]byte, error) {
			ss.Extra = append(ss.Extra, []byte("made for "+identity(st)))
			return c.EncryptTicket(st, ss)
		}
		c.UnwrapSession = func(ticket []byte, st tls.ConnectionState) (*tls.SessionState, error) {
			ss, err := c.DecryptTicket(ticket, st)
			if err != nil || ss == nil {
				return ss, err
			}
			mu.Lock()
			defer mu.Unlock()
			resumed++
			made := strings.Fields(strings.TrimPrefix(string(ss.Extra[len(ss.Extra)-1]), "made for "))
			if made[0] != name || made[1] != st.ServerName {
				mixed = append(mixed, fmt.Sprintf("%q at %s as %s", made, name, st.ServerName))
			}
			return ss, nil
		}
		return secureOrigin(t, c, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Connection", "close") // so that the next request needs a handshake
			client := "nobody"
			if len(r.TLS.PeerCertificates) > 0 {
				client = r.TLS.PeerCertificates[0].SerialNumber.String()
			}
			_, _ = fmt.Fprintf(w, "%s %v", client, r.TLS.DidResume)
		})
	}
	dir := t.TempDir()
	serial := map[string]string{}
	rotate := func(name string) {
		cert, key := encode(t, a.leafOf(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }))
		serial[name] = serialOf(t, cert)
		next := filepath.Join(dir, name+".json.new")
		file(t, dir, name+".json.new", fmt.Sprintf(`{"cert":%q,"key":%q}`, cert, key))
		if err := os.Rename(next, filepath.Join(dir, name+".json")); err != nil {
			t.Fatal(err)
		}
	}
	rotate("pair")
	g := start(t, options{document: fmt.Sprintf(`
_format_version: "3.0"
vaults: [{name: file, prefix: pairs, config: {root: %s}}]
ca_certificates: [{id: 0e7c8e4e-0000-4000-8000-000000000001, cert: %q}]
upstreams: [{name: both, targets: [{target: "%s"}, {target: "%s"}]}]
services:
- {name: open, url: "https://both", ca_certificates: [0e7c8e4e-0000-4000-8000-000000000001], routes: [{paths: [/open], preserve_host: true}]}
- {name: shown, url: "https://both", ca_certificates: [0e7c8e4e-0000-4000-8000-000000000001], x_keyway_upstream_auth: {type: client_certificate, cert: "{vault://pairs/pair.json/cert}", key: "{vault://pairs/pair.json/key}"}, routes: [{paths: [/shown], preserve_host: true}]}
`, dir, a.pem, target("first"), target("second"))})
	ask := func(path, host string) string {
		t.Helper()
		req, err := http.NewRequest(http.MethodGet, "http://"+g.proxy+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != 200 {
			t.Errorf("%s of %s: %d %s", path, host, resp.StatusCode, body)
		}
		return string(body)
	}
	rounds := func() {
		t.Helper()
		for i := range 32 {
			for _, host := range []string{"one.test", "two.test"} {
				if got := ask("/open", host); !strings.HasPrefix(got, "nobody ") {
					t.Errorf("round %d: a service without a pair is somebody at the upstream: %s", i, got)
				}
				if got := ask("/shown", host); !strings.HasPrefix(got, serial["pair"]+" ") {
					t.Errorf("round %d: the upstream sees %s, want %s", i, got, serial["pair"])
				}
			}
		}
	}
	rounds()
	rotate("pair")
	poll(t, "the new pair is shown", 20*time.Second, func() bool { return strings.HasPrefix(ask("/shown", "one.test"), serial["pair"]+" ") })
	rounds()
	mu.Lock()
	defer mu.Unlock()
	t.Logf("%d sessions were resumed", resumed)
	if resumed < 20 {
		t.Errorf("%d sessions were resumed only: the test shows little", resumed)
	}
	if len(mixed) > 0 {
		t.Errorf("%d sessions were resumed elsewhere than where they were made, the first: %s", len(mixed), mixed[0])
	}
}
