// Package issue is what every source that has certificates issued has in common:
// a new key, a request to sign with it, and the form in which a pair travels
// through the broker.
package issue

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/secrets"
)

// DefaultKeyType is what "" stands for.
const DefaultKeyType = "ecdsa-p256"

// KeyTypes names the types that NewKey makes.
func KeyTypes() []string {
	return []string{"ecdsa-p256", "ecdsa-p384", "rsa-2048", "rsa-3072", "rsa-4096"}
}

// NewKey makes a private key and answers it also as PEM, PKCS#8. The type is one
// of KeyTypes, "" for the default.
func NewKey(keyType string) (crypto.Signer, secrets.Value, error) {
	var key crypto.Signer
	var err error
	switch keyType {
	case "", "ecdsa-p256":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ecdsa-p384":
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "rsa-2048":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "rsa-3072":
		key, err = rsa.GenerateKey(rand.Reader, 3072)
	case "rsa-4096":
		key, err = rsa.GenerateKey(rand.Reader, 4096)
	default:
		return nil, secrets.Value{}, fmt.Errorf("key type %q is none of %s", keyType, strings.Join(KeyTypes(), ", "))
	}
	if err != nil {
		return nil, secrets.Value{}, fmt.Errorf("making a private key: %w", err)
	}
	text, err := EncodeKey(key)
	return key, text, err
}

// EncodeKey answers a private key as PEM, PKCS#8.
func EncodeKey(key crypto.Signer) (secrets.Value, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return secrets.Value{}, fmt.Errorf("encoding a private key: %w", err)
	}
	return secrets.NewValue(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), nil
}

// CSR answers the DER of a request for a certificate for names (and addresses),
// signed with key. The names are in the subject's alternative names only: a common
// name has no meaning to clients any more.
func CSR(key crypto.Signer, names []string) ([]byte, error) {
	if len(names) == 0 {
		return nil, errors.New("requesting a certificate: no names are given, at least one is expected")
	}
	var request x509.CertificateRequest
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			request.IPAddresses = append(request.IPAddresses, ip)
			continue
		}
		request.DNSNames = append(request.DNSNames, n)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &request, key)
	if err != nil {
		return nil, fmt.Errorf("requesting a certificate for %s: %w", strings.Join(names, ", "), err)
	}
	return der, nil
}

// pair is the value of a lease: both halves are fields of one version, so that
// they are never taken from two.
type pair struct {
	Cert string `json:"cert"`
	Key  string `json:"key"`
}

// Encode makes the value of a lease of a pair.
func Encode(p certs.Pair) (secrets.Value, error) {
	text, err := json.Marshal(pair{string(p.Cert.Reveal()), string(p.Key.Reveal())})
	if err != nil {
		return secrets.Value{}, fmt.Errorf("encoding an issued pair: %w", err)
	}
	return secrets.NewValue(text), nil
}

// Decode is the inverse of Encode.
func Decode(v secrets.Value) (certs.Pair, error) {
	var p pair
	// The decoder's own message may quote the text.
	if json.Unmarshal(v.Reveal(), &p) != nil || p.Cert == "" || p.Key == "" {
		return certs.Pair{}, errors.New("decoding an issued pair: expected a JSON object with the strings cert and key")
	}
	return certs.Pair{Cert: secrets.NewValue([]byte(p.Cert)), Key: secrets.NewValue([]byte(p.Key))}, nil
}

// Chain answers DER certificates as PEM, in the order given: leaf first.
func Chain(der ...[]byte) []byte {
	var text []byte
	for _, d := range der {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d})...)
	}
	return text
}
