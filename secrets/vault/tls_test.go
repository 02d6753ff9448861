package vault

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/secrets"
)

// authority signs certificates for the tests of TLS.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	text, _ := a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	a.pem = text
	block, _ := pem.Decode([]byte(text))
	var err error
	if a.cert, err = x509.ParseCertificate(block.Bytes); err != nil {
		t.Fatal(err)
	}
	return a
}

// sign answers a pair in PEM.
func (a *authority) sign(c *x509.Certificate) (cert, key string) {
	a.t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer, a.key = c, k, k
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &k.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
}

func (a *authority) client() (cert, key string) {
	return a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "edge"}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
}

// A login by certificate shows the pair of that moment; a server that cannot be
// verified is told nothing.
func TestCertificateLogin(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	cert, key := a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "vault"}, DNSNames: []string{"vault.test"}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	v := &server{t: t, paths: map[string]func(*http.Request, map[string]any) (int, any){}, tokens: map[string]bool{"fresh": true}}
	v.Server = httptest.NewUnstartedServer(http.HandlerFunc(v.answer))
	clients := x509.NewCertPool()
	clients.AddCert(a.cert)
	v.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients}
	v.StartTLS()
	t.Cleanup(v.Close)
	var shown []string
	v.script("PUT auth/cert/login", func(q *http.Request, body map[string]any) (int, any) {
		shown = append(shown, q.TLS.PeerCertificates[0].SerialNumber.String()+" for "+body["name"].(string))
		return 200, map[string]any{"auth": map[string]any{"client_token": "fresh", "lease_duration": 3600}}
	})
	v.on("GET secret/x", 200, data{"a": "b"})
	config := func() map[string]any {
		mine, mineKey := a.client()
		return map[string]any{
			"auth_method": "cert", "cert_auth_cert": mine, "cert_auth_cert_key": mineKey, "cert_auth_role_name": "edge", "ca_cert": a.pem, "tls_server_name": "vault.test",
		}
	}
	s := v.open(config(), Deps{})
	fetch(t, s, secrets.Request{Resource: "x"})
	// The pair is replaced; the next login shows the new one.
	next, nextKey := a.client()
	s.cfg.Auth.Cert, s.cfg.Auth.CertKey = Text{Literal: secrets.NewValue([]byte(next))}, Text{Literal: secrets.NewValue([]byte(nextKey))}
	s.forget(s.now)
	fetch(t, s, secrets.Request{Resource: "x"})
	if len(shown) != 2 || shown[0] == shown[1] || !strings.HasSuffix(shown[0], " for edge") {
		t.Errorf("the logins were made with %v", shown)
	}
	f := func(why string, change func(c map[string]any), want string) {
		t.Helper()
		c := config()
		change(c)
		before := len(shown)
		_, err := v.open(c, Deps{}).Fetch(t.Context(), secrets.Request{Resource: "x"})
		if !errors.Is(err, secrets.ErrUnavailable) || !strings.Contains(err.Error(), want) || len(shown) != before || strings.Contains(err.Error(), "PRIVATE") {
			t.Errorf("%s: %v, %d logins", why, err, len(shown)-before)
		}
	}
	f("a server of another authority", func(c map[string]any) { c["ca_cert"] = other.pem }, "verifying the certificate of")
	f("a server of another name", func(c map[string]any) { c["tls_server_name"] = "else.test" }, "verifying the certificate of")
	f("a certificate of another authority", func(c map[string]any) { c["cert_auth_cert"], c["cert_auth_cert_key"] = other.client() }, "asking")
	f("a key of another certificate", func(c map[string]any) { _, c["cert_auth_cert_key"] = other.client() }, "are no pair")
}
