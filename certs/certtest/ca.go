package certtest

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/certs/issue"
	"github.com/keyway-edge/keyway/secrets"
)

// CA is a certificate authority in memory. Safe for concurrent use.
type CA struct {
	Cert *x509.Certificate
	Key  crypto.Signer

	t      testing.TB
	parent *CA

	mu      sync.Mutex
	revoked []x509.RevocationListEntry
	number  int64 // of the last list
}

// NewCA makes a root that is valid from long ago for long.
func NewCA(t testing.TB, name string) *CA {
	t.Helper()
	return newCA(t, name, nil)
}

// Intermediate makes an authority that ca signs.
func (ca *CA) Intermediate(name string) *CA {
	ca.t.Helper()
	return newCA(ca.t, name, ca)
}

func newCA(t testing.TB, name string, parent *CA) *CA {
	t.Helper()
	key := newKey(t, "")
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-5 * 365 * 24 * time.Hour), NotAfter: now.Add(20 * 365 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	ca := &CA{t: t, Key: key, parent: parent}
	signer, signerCert := crypto.Signer(key), tmpl
	if parent != nil {
		signer, signerCert = parent.Key, parent.Cert
	}
	ca.Cert = create(t, tmpl, signerCert, key, signer)
	return ca
}

func newKey(t testing.TB, keyType string) crypto.Signer {
	t.Helper()
	key, _, err := issue.NewKey(keyType)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newSerial() *big.Int {
	b := make([]byte, 16)
	rand.Read(b) // never fails
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b)
}

func create(t testing.TB, tmpl, parent *x509.Certificate, key, signer crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// Leaf says what a leaf is to be. The zero one is of ECDSA P-256, valid from an
// hour ago for 30 days, for servers and clients.
type Leaf struct {
	Names      []string
	Key        crypto.Signer // nil for a new one of KeyType
	KeyType    string        // of issue.KeyTypes
	NotBefore  time.Time
	NotAfter   time.Time
	OCSP       string // URL of the responder
	MustStaple bool
	SelfSigned bool
	Usage      []x509.ExtKeyUsage
}

// Issue signs a leaf. Its chain has every intermediate, and the root when the root
// signed it.
func (ca *CA) Issue(o Leaf) certs.Pair {
	ca.t.Helper()
	if o.Key == nil {
		o.Key = newKey(ca.t, o.KeyType)
	}
	now := time.Now()
	if o.NotBefore.IsZero() {
		o.NotBefore = now.Add(-time.Hour)
	}
	if o.NotAfter.IsZero() {
		o.NotAfter = now.Add(30 * 24 * time.Hour)
	}
	if o.Usage == nil {
		o.Usage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	tmpl := &x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{CommonName: strings.Join(o.Names, " ")}, DNSNames: o.Names,
		NotBefore: o.NotBefore, NotAfter: o.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: o.Usage,
	}
	if o.OCSP != "" {
		tmpl.OCSPServer = []string{o.OCSP}
	}
	if o.MustStaple {
		// RFC 7633: the feature status_request, as a sequence of one integer.
		tmpl.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}, Value: []byte{0x30, 3, 2, 1, 5}}}
	}
	var chain [][]byte
	if o.SelfSigned {
		chain = append(chain, create(ca.t, tmpl, tmpl, o.Key, o.Key).Raw)
	} else {
		chain = append(chain, create(ca.t, tmpl, ca.Cert, o.Key, ca.Key).Raw, ca.Cert.Raw)
		for up := ca; up.parent != nil && up.parent.parent != nil; up = up.parent {
			chain = append(chain, up.parent.Cert.Raw)
		}
	}
	key, err := issue.EncodeKey(o.Key)
	if err != nil {
		ca.t.Fatal(err)
	}
	return certs.Pair{Cert: secrets.NewValue(issue.Chain(chain...)), Key: key}
}

// Certificate answers the leaf of a pair.
func Certificate(t testing.TB, p certs.Pair) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(p.Cert.Reveal())
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// Pool trusts the root above ca.
func (ca *CA) Pool() *x509.CertPool {
	for ca.parent != nil {
		ca = ca.parent
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca.Cert)
	return pool
}

// Revoke takes a certificate back: OCSP and the next list tell so. The reason is
// one of RFC 5280, section 5.3.1.
func (ca *CA) Revoke(cert *x509.Certificate, reason int) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	ca.revoked = append(ca.revoked, x509.RevocationListEntry{SerialNumber: cert.SerialNumber, RevocationTime: time.Now(), ReasonCode: reason})
}

// CRL answers a list, DER, of what was revoked so far.
func (ca *CA) CRL(thisUpdate, nextUpdate time.Time) []byte {
	ca.t.Helper()
	ca.mu.Lock()
	defer ca.mu.Unlock()
	ca.number++
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		RevokedCertificateEntries: ca.revoked, Number: big.NewInt(ca.number), ThisUpdate: thisUpdate, NextUpdate: nextUpdate,
	}, ca.Cert, ca.Key)
	if err != nil {
		ca.t.Fatal(err)
	}
	return der
}
