// Package devca is the certificate authority of development mode: it lives in the
// data folder, signs leaves for local names at their first handshake, and is not
// for anything that matters.
package devca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/secrets"
)

// CertName is the CA certificate's file in the data folder.
const CertName = "dev-ca.crt"

const (
	keyName  = "dev-ca.key"
	leafLife = 7 * 24 * time.Hour
	caLife   = 5 * 365 * 24 * time.Hour
	maxNames = 1024 // leaves kept; more names than that are not development
)

// CA signs leaves. Safe for concurrent use.
type CA struct {
	cert *x509.Certificate
	pem  []byte
	key  crypto.Signer

	mu     sync.Mutex // guards issued; held while one leaf is made, so each is made once
	issued map[string]leaf
}

type leaf struct {
	pair certs.Pair
	end  time.Time
}

// Open loads the CA of a data folder, or makes one there: the key for its owner
// only, the certificate for everyone who is to trust it.
func Open(dir string) (*CA, error) {
	keyPEM, err := os.ReadFile(filepath.Join(dir, keyName))
	if errors.Is(err, fs.ErrNotExist) {
		return create(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the development CA: %w", err)
	}
	certPEM, err := os.ReadFile(filepath.Join(dir, CertName))
	if err != nil {
		return nil, fmt.Errorf("reading the development CA: %w; remove %s to have a new one made", err, keyName)
	}
	cb, _ := pem.Decode(certPEM)
	kb, _ := pem.Decode(keyPEM)
	if cb == nil || kb == nil {
		return nil, fmt.Errorf("reading the development CA: %s or %s is not PEM; remove both to have new ones made", CertName, keyName)
	}
	cert, err := x509.ParseCertificate(cb.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", CertName, err)
	}
	key, err := x509.ParsePKCS8PrivateKey(kb.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading %s: it is not a PKCS#8 key; remove it and %s to have new ones made", keyName, CertName)
	}
	signer, ok := key.(crypto.Signer)
	if !ok || time.Now().After(cert.NotAfter) {
		return create(dir)
	}
	return &CA{cert: cert, pem: certPEM, key: signer, issued: map[string]leaf{}}, nil
}

func create(dir string) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the development CA: %w", err)
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{CommonName: "Keyway development CA", Organization: []string{"for this machine only"}},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(caLife), IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making the development CA: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("making the development CA: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("making the development CA: %w", err)
	}
	ca := &CA{cert: cert, key: key, issued: map[string]leaf{}, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
	if err := os.WriteFile(filepath.Join(dir, keyName), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600); err != nil {
		return nil, fmt.Errorf("keeping the development CA: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, CertName), ca.pem, 0o644); err != nil {
		return nil, fmt.Errorf("keeping the development CA: %w", err)
	}
	return ca, nil
}

func newSerial() *big.Int {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails: crypto/rand ends the program instead
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b)
}

// Issue answers a leaf for name, the same one until half of its life has passed.
// Which names may have one is the caller's question.
func (ca *CA) Issue(name string, now time.Time) (certs.Pair, error) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	if l, ok := ca.issued[name]; ok && now.Add(leafLife/2).Before(l.end) {
		return l.pair, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return certs.Pair{}, fmt.Errorf("issuing a development certificate for %s: %w", name, err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(leafLife), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if name == "localhost" {
		tmpl.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, key.Public(), ca.key)
	if err != nil {
		return certs.Pair{}, fmt.Errorf("issuing a development certificate for %s: %w", name, err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return certs.Pair{}, fmt.Errorf("issuing a development certificate for %s: %w", name, err)
	}
	chain := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), ca.pem...)
	pair := certs.Pair{Cert: secrets.NewValue(chain), Key: secrets.NewValue(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))}
	if len(ca.issued) >= maxNames {
		clear(ca.issued)
	}
	ca.issued[name] = leaf{pair, now.Add(leafLife)}
	return pair, nil
}
