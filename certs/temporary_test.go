package certs_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/secrets"
)

// TestTemporary tells what cert-manager makes for the time being, in the form of its
// version 1.21, from what an authority that is called alike has issued.
func TestTemporary(t *testing.T) {
	for _, c := range []struct {
		issuer    pkix.Name
		curve     elliptic.Curve
		temporary bool
	}{
		{pkix.Name{CommonName: "cert-manager.local"}, elliptic.P521(), true},
		{pkix.Name{CommonName: "cert-manager.local"}, elliptic.P256(), false},
		{pkix.Name{CommonName: "cert-manager.local", Organization: []string{"shop"}}, elliptic.P521(), false},
		{pkix.Name{CommonName: "ca"}, elliptic.P521(), false},
	} {
		authority, err := ecdsa.GenerateKey(c.curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		leaf := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"a.test"}, NotBefore: now, NotAfter: now.Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, leaf, &x509.Certificate{Subject: c.issuer}, &key.PublicKey, authority)
		if err != nil {
			t.Fatal(err)
		}
		private, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		b, refusal := certs.ParseBundle(certs.Pair{
			Cert: secrets.NewValue(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
			Key:  secrets.NewValue(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})),
		})
		if refusal != nil {
			t.Fatal(refusal)
		}
		if b.Temporary != c.temporary {
			t.Errorf("of %s with %s: temporary %v", c.issuer, c.curve.Params().Name, b.Temporary)
		}
	}
}
