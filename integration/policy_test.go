package integration

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"
)

// authority is a CA for client certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

// client issues a client certificate.
func (a *authority) client(t testing.TB) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "client"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// anySession offers the last session for whatever name: what a careful client never does.
type anySession struct{ last *tls.ClientSessionState }

func (s *anySession) Get(string) (*tls.ClientSessionState, bool) { return s.last, s.last != nil }
func (s *anySession) Put(_ string, c *tls.ClientSessionState)    { s.last = c }

// TestTLSPolicies has an open name and two that want client certificates on one
// port: no way of naming leads around the certificate.
func TestTLSPolicies(t *testing.T) {
	o := origin(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Host) })
	host, port, _ := strings.Cut(o, ":")
	partners, others := newAuthority(t, "partners"), newAuthority(t, "others")
	cert, key := pair(t, "all.test", "open.test", "closed.test", "*.closed.test", "modern.test")
	// The default slot, as PEM text, is for those who name no server.
	g := start(t, options{env: map[string]string{"KEYWAY_TLS_CERT": cert, "KEYWAY_TLS_KEY": key}, document: fmt.Sprintf(`
_format_version: "3.0"
services: [{name: a, host: %s, port: %s, routes: [{paths: [/], preserve_host: true}]}]
ca_certificates: [{id: 0e7c8e4e-0000-4000-8000-000000000001, cert: %q}]
x_keyway_tls_policies:
- {name: partners, client_auth: required, ca_certificates: [0e7c8e4e-0000-4000-8000-000000000001]}
- {name: modern, min_version: "1.3"}
certificates:
- cert: %q
  key: %q
  snis: [open.test, {name: closed.test, x_keyway_tls_policy: partners}, {name: "*.closed.test", x_keyway_tls_policy: partners}, {name: modern.test, x_keyway_tls_policy: modern}]
`, host, port, partners.pem, cert, key)})
	member, stranger := partners.client(t), others.client(t)
	// ask makes a connection of its own and answers the status, 0 when there is none.
	ask := func(c *tls.Config, host string, h2 bool) (int, *tls.ConnectionState) {
		c.InsecureSkipVerify = true
		client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: c, ForceAttemptHTTP2: h2, DisableKeepAlives: true}}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+g.tls+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		resp, err := client.Do(req)
		if err != nil {
			return 0, nil
		}
		defer func() { _ = resp.Body.Close() }()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode, resp.TLS
	}
	with := func(name string, cert *tls.Certificate) *tls.Config {
		c := &tls.Config{ServerName: name}
		if cert != nil {
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil } // whatever CAs are asked for
		}
		return c
	}
	for _, h2 := range []bool{false, true} {
		for _, c := range []struct {
			what, sni, host string
			cert            *tls.Certificate
			want            int
		}{
			{"the open name", "open.test", "open.test", nil, 200},
			{"a name that nobody configured, on the open one's connection", "open.test", "else.test", nil, 200},
			{"the closed name without a certificate", "closed.test", "closed.test", nil, 0},
			{"the closed name with another CA's", "closed.test", "closed.test", stranger, 0},
			{"the closed name with a member's", "closed.test", "closed.test", member, 200},
			{"the wildcard without", "a.closed.test", "a.closed.test", nil, 0},
			{"the wildcard with", "a.closed.test", "a.closed.test", member, 200},
			{"two names of one policy", "a.closed.test", "closed.test", member, 200},
			{"closed by Host", "open.test", "closed.test", nil, 421},
			{"closed by Host in capitals", "open.test", "CLOSED.Test", nil, 421},
			{"closed by Host with a dot", "open.test", "closed.test.", nil, 421},
			{"closed by Host with a port", "open.test", "closed.test:8443", nil, 421},
			{"closed by Host below the wildcard", "open.test", "x.closed.test", nil, 421},
			{"closed by Host with no name in the handshake", "", "closed.test", nil, 421},
			{"a member who asks for the open name", "closed.test", "open.test", member, 421},
			{"modern by Host", "open.test", "modern.test", nil, 421},
		} {
			if got, _ := ask(with(c.sni, c.cert), c.host, h2); got != c.want {
				t.Errorf("%s (HTTP/2 %v): %d, want %d", c.what, h2, got, c.want)
			}
		}
	}
	// In clear there is no certificate at all.
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+g.proxy+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]int{"closed.test": 421, "x.closed.test": 421, "open.test": 200} {
		req.Host = host
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("in clear for %s: %d, want %d", host, resp.StatusCode, want)
		}
	}
	// A session of the open name is no way into the closed one, nor a member's of one policy into another's.
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		sessions := &anySession{}
		for range 2 {
			c := with("open.test", nil)
			c.ClientSessionCache, c.MaxVersion = sessions, version
			if got, state := ask(c, "open.test", false); got != 200 || state == nil {
				t.Fatalf("version %x: the open name: %d", version, got)
			}
		}
		if sessions.last == nil {
			t.Fatal("no session was kept: this test would show nothing")
		}
		c := with("closed.test", nil)
		c.ClientSessionCache, c.MaxVersion = sessions, version
		if got, _ := ask(c, "closed.test", false); got != 0 {
			t.Errorf("version %x: resumed into the closed name: %d", version, got)
		}
	}
	old := with("modern.test", nil)
	old.MaxVersion = tls.VersionTLS12
	if got, _ := ask(old, "modern.test", false); got != 0 {
		t.Errorf("TLS 1.2 for a name that wants 1.3: %d", got)
	}
	if got, state := ask(with("modern.test", nil), "modern.test", false); got != 200 || state.Version != tls.VersionTLS13 {
		t.Errorf("TLS 1.3 for a name that wants it: %d", got)
	}
}
