package issue_test

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/certs/devca"
	"github.com/keyway-edge/keyway/certs/issue"
	"github.com/keyway-edge/keyway/secrets"
)

func TestKeysAreOfTheirType(t *testing.T) {
	for _, name := range append(issue.KeyTypes(), "") {
		key, text, err := issue.NewKey(name)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got := ""
		switch k := key.Public().(type) {
		case *ecdsa.PublicKey:
			got = "ecdsa-p" + fmt.Sprint(k.Curve.Params().BitSize)
		case *rsa.PublicKey:
			got = "rsa-" + fmt.Sprint(k.N.BitLen())
		}
		if want := name; got != want && (want != "" || got != issue.DefaultKeyType) {
			t.Errorf("%q made %s", name, got)
		}
		if !strings.HasPrefix(string(text.Reveal()), "-----BEGIN PRIVATE KEY-----\n") {
			t.Errorf("%s is no PKCS#8 in PEM", name)
		}
	}
	if _, _, err := issue.NewKey("rsa-1024"); err == nil || !strings.Contains(err.Error(), "rsa-2048") {
		t.Errorf("%v", err)
	}
}

func TestARequestNamesWhatItIsFor(t *testing.T) {
	key, _, err := issue.NewKey("")
	if err != nil {
		t.Fatal(err)
	}
	der, err := issue.CSR(key, []string{"a.test", "*.b.test", "10.0.0.1", "::1"})
	if err != nil {
		t.Fatal(err)
	}
	r, err := x509.ParseCertificateRequest(der)
	if err != nil || r.CheckSignature() != nil {
		t.Fatal(err)
	}
	if strings.Join(r.DNSNames, " ") != "a.test *.b.test" || len(r.IPAddresses) != 2 || r.Subject.CommonName != "" {
		t.Errorf("%v %v %q", r.DNSNames, r.IPAddresses, r.Subject.CommonName)
	}
	if _, err := issue.CSR(key, nil); err == nil {
		t.Error("a request for no name is made")
	}
}

func TestAPairGoesThereAndBack(t *testing.T) {
	ca, err := devca.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Issue("a.test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	v, err := issue.Encode(pair)
	if err != nil {
		t.Fatal(err)
	}
	back, err := issue.Decode(v)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tls.X509KeyPair(back.Cert.Reveal(), back.Key.Reveal()); err != nil {
		t.Error(err)
	}
	if _, refusal := certs.ParseBundle(back); refusal != nil {
		t.Error(refusal)
	}
	const canary = "CANARY-of-a-pair"
	for _, bad := range []string{"", canary, `{"cert":"` + canary + `"}`, `{"key":"` + canary + `"}`, `{"cert":1,"key":"` + canary + `"}`, `["` + canary + `"]`} {
		if _, err := issue.Decode(secrets.NewValue([]byte(bad))); err == nil || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	b, refusal := certs.ParseBundle(pair)
	if refusal != nil {
		t.Fatal(refusal)
	}
	c, err := b.TLS()
	if err != nil {
		t.Fatal(err)
	}
	if text := issue.Chain(c.Certificate...); string(text) != string(pair.Cert.Reveal()) {
		t.Errorf("a chain is written as\n%s", text)
	}
}
