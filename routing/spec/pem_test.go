package spec

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"
)

// mint makes a self-signed pair in PEM.
func mint(t *testing.T, key crypto.Signer, ca bool, end time.Time) (certPEM, keyPEM string) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: end,
		IsCA: ca, BasicConstraintsValid: true, DNSNames: []string{"a.test"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}

func TestCertificates(t *testing.T) {
	soon := time.Now().Add(time.Hour)
	ec1, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ec2, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	rsa1, _ := rsa.GenerateKey(rand.Reader, 2048)
	cert1, key1 := mint(t, ec1, false, soon)
	cert2, key2 := mint(t, ec2, false, soon)
	certR, keyR := mint(t, rsa1, false, time.Now().Add(-time.Hour)) // expired pairs load: another one may be on its way
	ca, _ := mint(t, ec1, true, soon)
	oldCA, _ := mint(t, ec1, true, time.Now().Add(-time.Hour))
	hiddenPart := strings.Split(key2, "\n")[1]

	f := func(kind string, entity map[string]any, want string) {
		t.Helper()
		text, err := json.Marshal(map[string]any{"_format_version": "3.0", kind: []any{entity}})
		if err != nil {
			t.Fatal(err)
		}
		d, problems := Load([]Source{{Name: "f.json", Data: text}}, nil)
		got := problems.Error()
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q", kind, got, want)
		}
		if strings.Contains(got, hiddenPart) {
			t.Errorf("a key is shown in %q", got)
		}
		if d != nil {
			roundTrip(t, d, nil)
			shown, _ := d.Redacted()
			if bytes.Contains(shown, []byte("BEGIN PRIVATE KEY")) {
				t.Error("a key is shown in a dump")
			}
		}
	}
	f("certificates", map[string]any{"cert": cert1, "key": key1}, "")
	f("certificates", map[string]any{"cert": cert1 + ca, "key": key1}, "")
	f("certificates", map[string]any{"cert": cert1, "key": key1, "cert_alt": certR, "key_alt": keyR}, "")
	f("certificates", map[string]any{"cert": "{vault://env/c}", "key": key2}, "")
	f("certificates", map[string]any{"cert": cert1, "key": "{vault://env/k}", "cert_alt": certR, "key_alt": keyR}, "")
	f("certificates", map[string]any{"cert": cert1, "key": key2}, "@entity: certificate does not match key")
	f("certificates", map[string]any{"cert": cert1, "key": key1, "cert_alt": certR}, "all or none of these fields must be set: 'cert_alt', 'key_alt'")
	f("certificates", map[string]any{"cert": cert1, "key": key1, "cert_alt": cert2, "key_alt": key2}, "need to have different type")
	f("certificates", map[string]any{"cert": "x", "key": hiddenPart}, "cert: invalid certificate: expected PEM")
	f("certificates", map[string]any{"cert": cert1, "key": hiddenPart}, "key: invalid key: expected PEM")
	broken := "-----BEGIN PRIVATE KEY-----\n" + hiddenPart + "\n-----END PRIVATE KEY-----\n"
	f("certificates", map[string]any{"cert": cert1, "key": broken}, "key: invalid key: expected an RSA, ECDSA or Ed25519 key")
	f("certificates", map[string]any{"cert": cert1, "key": keyR}, "@entity: certificate does not match key")
	f("certificates", map[string]any{"cert": cert1, "key": 5}, "key: expected a string")
	f("ca_certificates", map[string]any{"cert": ca}, "")
	f("ca_certificates", map[string]any{"cert": "{vault://env/ca}"}, "")
	f("ca_certificates", map[string]any{"cert": ca + ca}, "please submit only one certificate at a time")
	f("ca_certificates", map[string]any{"cert": cert1}, "does not appear to be a CA")
	f("ca_certificates", map[string]any{"cert": oldCA}, `certificate expired, "Not After" time is in the past`)
	f("ca_certificates", map[string]any{"cert": ca, "cert_digest": "00"}, "cert_digest: expected ")
}
