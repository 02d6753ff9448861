package certs_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/certs"
)

// certificateOf signs what change makes of a good leaf for a.test, with any public key.
func (a *authority) certificateOf(public crypto.PublicKey, change func(*x509.Certificate)) string {
	a.t.Helper()
	tmpl := &x509.Certificate{
		SerialNumber: number(a.t), DNSNames: []string{"a.test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if change != nil {
		change(tmpl)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, public, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// inForms writes a key in each form that it has, by the type of the PEM block.
func inForms(t *testing.T, key crypto.Signer) map[string]string {
	t.Helper()
	write := func(kind string, der []byte, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	forms := map[string]string{"PRIVATE KEY": write("PRIVATE KEY", der, err)}
	switch k := key.(type) {
	case *rsa.PrivateKey:
		forms["RSA PRIVATE KEY"] = write("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(k), nil)
	case *ecdsa.PrivateKey:
		der, err := x509.MarshalECPrivateKey(k)
		forms["EC PRIVATE KEY"] = write("EC PRIVATE KEY", der, err)
		// As OpenSSL writes it, the curve in a block of its own before the key.
		forms["EC PARAMETERS"] = write("EC PARAMETERS", []byte{6, 8, 42, 134, 72, 206, 61, 3, 1, 7}, nil) + forms["EC PRIVATE KEY"]
	}
	return forms
}

func rsaKey(t *testing.T, bits int) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func ecKey(t *testing.T, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// public is an RSA key of so many bits that nobody has the private half of: to make
// a real one of 16384 bits takes minutes.
func public(t *testing.T, bits int) *rsa.PublicKey {
	t.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), uint(bits-1)))
	if err != nil {
		t.Fatal(err)
	}
	n.SetBit(n, bits-1, 1)
	return &rsa.PublicKey{N: n.SetBit(n, 0, 1), E: 65537}
}

// judged is what becomes of a pair where nothing serves, and beside one that does.
func judged(t *testing.T, ca *authority, p ...certs.Pair) (alone, beside *certs.Slot) {
	t.Helper()
	now := time.Now()
	alone, _ = certs.Advance(nil, offer("one", []string{"a.test"}, p...), now)
	serving, _ := certs.Advance(nil, offer("one", []string{"a.test"}, ca.leaf(leafOf{from: now.Add(-2 * time.Hour), to: now.Add(30 * time.Minute)}, "a.test")), now)
	beside, _ = certs.Advance(serving, offer("one", []string{"a.test"}, p...), now)
	if beside.Refused != nil && beside.Fingerprint() != serving.Fingerprint() {
		t.Error("a pair that was refused changed what serves")
	}
	return alone, beside
}

// dsaCertificate is a certificate with a DSA key, which Go can read and not make.
const dsaCertificate = `-----BEGIN CERTIFICATE-----
MIIC7DCCApmgAwIBAgIUBv7Gx9x9sS8rCVoS4hn2037otQcwCwYJYIZIAWUDBAMC
MBExDzANBgNVBAMMBmEudGVzdDAeFw0yNjExMjMwOTM0MjBaFw0zNjExMjAwOTM0
MjBaMBExDzANBgNVBAMMBmEudGVzdDCCAb8wggEzBgcqhkjOOAQBMIIBJgKBgQCg
WUHoPqT42b9hy8meGqalmrkifQr1yGYxecyBT430gs8y+ZoYiA+Rwu4I65RG1rDC
Ryd5noh0zaI/pTma9P6NXkmsZ33vhwK5XCgtAEl0boVmlIgm2A3NNAyYKtDIMxIp
Hyety2mDIDqo1eIC9vrj+z6nMZIOwx1z4zDpiPC3nwIdAP6OdhkEvZ/YIPG7F0vb
Tf3Nj1qvz6HVid40ZNkCgYALEFymtsRaNbtdIUYBlFOZsRNsDc7PdFxbLU8imZgh
yx5pcZohxk0FmkPfBkNaNoksA9Qyw5G0kB90+vkAsdDKKHJlSN78D2VKiwCIUD3F
DCi4qcXrrZznWKq4u9XxbxEj8uZwnN2vTxqHnQz+95U28jatJMKZRcinf9Jp31e0
HQOBhQACgYEAkP60+85nsUDwM1K88kKvPC+XCkuKsdK9SdE9IPc/4G4GwGJ5nKVy
26l4ID4d6ao8sNl5ZYInORAA8FiVGMv8zLjZJ/BgLkWZzygHl/w7FTT08ubgayIb
1hEt2AYZSmLW9rWJMkxrLIp+7Qj/TxIidcuheZXOqztDpi8KDTBVRLKjZjBkMB0G
A1UdDgQWBBQPKIn9GWDaY2yJ39J9M55ilGQPhzAfBgNVHSMEGDAWgBQPKIn9GWDa
Y2yJ39J9M55ilGQPhzAPBgNVHRMBAf8EBTADAQH/MBEGA1UdEQQKMAiCBmEudGVz
dDALBglghkgBZQMEAwIDQAAwPQIcVBWuC17AZ2Bh+T788yJ++s8pE8xJgnmTl7jo
2QIdAImzNZ/eY3lVX7/DF/COX45GAerjlBY2ba1FD0E=
-----END CERTIFICATE-----
`

// TestKeysThatAreTooWeakOrTooStrange runs T-06.
func TestKeysThatAreTooWeakOrTooStrange(t *testing.T) {
	ca := newAuthority(t)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	some := value(inForms(t, ecKey(t, elliptic.P256()))["PRIVATE KEY"])
	keyed := func(k crypto.Signer) certs.Pair {
		return certs.Pair{Cert: value(ca.certificateOf(k.Public(), nil)), Key: value(inForms(t, k)["PRIVATE KEY"])}
	}
	for name, p := range map[string]certs.Pair{
		"RSA 1024":  keyed(rsaKey(t, 1024)),
		"RSA 2047":  {Cert: value(ca.certificateOf(public(t, 2047), nil)), Key: some},
		"RSA 8200":  {Cert: value(ca.certificateOf(public(t, 8200), nil)), Key: some},
		"RSA 16384": {Cert: value(ca.certificateOf(public(t, 16384), nil)), Key: some},
		"P-224":     keyed(ecKey(t, elliptic.P224())),
		"DSA":       {Cert: value(dsaCertificate), Key: some},
	} {
		var alone, beside *certs.Slot
		took := time.Hour
		for range 3 {
			began := time.Now()
			alone, beside = judged(t, ca, p)
			if took = min(took, time.Since(began)); took < time.Second {
				break // one that waits for a processor says nothing of the others
			}
		}
		if took > time.Second {
			t.Errorf("%s: judged after %v at the least", name, took)
		}
		for _, s := range []*certs.Slot{alone, beside} {
			if s.Refused == nil || s.Refused.Check != certs.CheckStrength {
				t.Errorf("%s: %+v; expected it refused by %s", name, s.Refused, certs.CheckStrength)
			}
		}
	}
	for name, p := range map[string]certs.Pair{
		"RSA 2048": keyed(rsaKey(t, 2048)), "P-256": keyed(ecKey(t, elliptic.P256())), "P-384": keyed(ecKey(t, elliptic.P384())), "P-521": keyed(ecKey(t, elliptic.P521())),
	} {
		if alone, beside := judged(t, ca, p); alone.Refused != nil || beside.Refused != nil || len(alone.Warnings) > 0 {
			t.Errorf("%s: refused %v, %v, warnings %q", name, alone.Refused, beside.Refused, alone.Warnings)
		}
	}
	// Ed25519 has its place beside another type.
	alone, beside := judged(t, ca, keyed(ed))
	if len(alone.Warnings) != 1 || beside.Refused == nil || beside.Refused.Check != certs.CheckStrength {
		t.Errorf("Ed25519 alone: warnings %q, beside a good one %+v", alone.Warnings, beside.Refused)
	}
	if alone, beside := judged(t, ca, keyed(ed), keyed(rsaKey(t, 2048))); alone.Refused != nil || beside.Refused != nil || len(beside.Active) != 2 {
		t.Errorf("Ed25519 beside RSA: %v, %v", alone.Refused, beside.Refused)
	}
}

// TestFormsOfKeys runs T-07.
func TestFormsOfKeys(t *testing.T) {
	ca := newAuthority(t)
	for _, key := range []crypto.Signer{rsaKey(t, 2048), ecKey(t, elliptic.P256())} {
		cert := value(ca.certificateOf(key.Public(), nil))
		forms := inForms(t, key)
		if len(forms) < 2 {
			t.Fatalf("forms %v", len(forms))
		}
		for form, text := range forms {
			if alone, beside := judged(t, ca, certs.Pair{Cert: cert, Key: value(text)}); alone.Refused != nil || beside.Refused != nil || len(alone.Active) != 1 {
				t.Errorf("%s: refused %v, %v", form, alone.Refused, beside.Refused)
			}
		}
		block, _ := pem.Decode([]byte(forms["PRIVATE KEY"]))
		for form, text := range map[string]string{
			"PKCS#8": string(pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: block.Bytes})),
			"of old": string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-256-CBC,00112233445566778899AABBCCDDEEFF"}, Bytes: block.Bytes})),
		} {
			alone, beside := judged(t, ca, certs.Pair{Cert: cert, Key: value(text)})
			for _, s := range []*certs.Slot{alone, beside} {
				if s.Refused == nil || s.Refused.Check != certs.CheckEncrypted || !strings.Contains(s.Refused.Message, "decrypt it") {
					t.Errorf("encrypted, %s: %+v", form, s.Refused)
				}
			}
		}
	}
}

// TestLeavesThatAreNoServers runs T-08: refused beside a better one, and with a warning
// where there is no other, for names without a certificate are served to nobody.
func TestLeavesThatAreNoServers(t *testing.T) {
	ca := newAuthority(t)
	for name, c := range map[string]struct {
		change func(*x509.Certificate)
		why    string
	}{
		"an authority":        {func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }, "CA=true"},
		"for clients":         {func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, "serverAuth"},
		"no digitalSignature": {func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }, "digitalSignature"},
		"without any usage":   {func(c *x509.Certificate) { c.KeyUsage, c.ExtKeyUsage = 0, nil }, ""},
		"for any usage":       {func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }, ""},
	} {
		key := ecKey(t, elliptic.P256())
		alone, beside := judged(t, ca, certs.Pair{Cert: value(ca.certificateOf(key.Public(), c.change)), Key: value(inForms(t, key)["PRIVATE KEY"])})
		if c.why == "" {
			if alone.Refused != nil || len(alone.Warnings) > 0 || beside.Refused != nil {
				t.Errorf("%s: refused %v, warnings %q", name, alone.Refused, alone.Warnings)
			}
			continue
		}
		if alone.Refused != nil || len(alone.Warnings) != 1 || !strings.Contains(alone.Warnings[0], c.why) {
			t.Errorf("%s, alone: refused %v, warnings %q", name, alone.Refused, alone.Warnings)
		}
		if beside.Refused == nil || beside.Refused.Check != certs.CheckUsage || !strings.Contains(beside.Refused.Message, c.why) {
			t.Errorf("%s, beside a good one: %+v", name, beside.Refused)
		}
	}
}

// TestExpiredBesideGoodAndBesideExpired runs T-02.
func TestExpiredBesideGoodAndBesideExpired(t *testing.T) {
	ca, now := newAuthority(t), time.Now()
	ended := func(ago time.Duration) certs.Candidate {
		return offer("one", []string{"a.test"}, ca.leaf(leafOf{from: now.Add(-48 * time.Hour), to: now.Add(-ago)}, "a.test"))
	}
	good, _ := certs.Advance(nil, offer("one", []string{"a.test"}, ca.leaf(leafOf{}, "a.test")), now)
	if next, _ := certs.Advance(good, ended(time.Hour), now); next.Refused == nil || next.Refused.Check != certs.CheckExpired || next.Fingerprint() != good.Fingerprint() {
		t.Errorf("beside a good one: %+v", next.Refused)
	}
	first, outcome := certs.Advance(nil, ended(2*time.Hour), now)
	if outcome != certs.Warned || len(first.Active) != 1 {
		t.Fatalf("where nothing serves: %s, %v", outcome, first.Refused)
	}
	later, outcome := certs.Advance(first, ended(time.Hour), now)
	if outcome != certs.Warned || later.Fingerprint() == first.Fingerprint() || len(later.Warnings) == 0 {
		t.Errorf("a later end beside one that ended: %s, %v, warnings %q", outcome, later.Refused, later.Warnings)
	}
	if back, _ := certs.Advance(later, ended(3*time.Hour), now); back.Fingerprint() != later.Fingerprint() {
		t.Error("an earlier end took the place of a later one")
	}
}
