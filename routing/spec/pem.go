package spec

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"
)

var errNotCertificate = errors.New("expected PEM text with one or more CERTIFICATE blocks")

// pemCertificates parses every certificate of a PEM text.
func pemCertificates(text []byte) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for len(text) > 0 {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parsing block %d: %w", len(all)+1, err)
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, errNotCertificate
	}
	return all, nil
}

// judgeCertificate checks what can be checked of pairs written as literals. A
// pair with a reference is checked when its value is known.
func (o *object) judgeCertificate(c *Certificate) {
	if c.Issuer != "" {
		for _, name := range []string{"cert", "key", "cert_alt", "key_alt"} {
			if o.given(name) {
				o.conflict(name, "expected nothing, since 'x_keyway_issuer' makes the pair; remove one of the two")
			}
		}
		if c.KeyType == "" {
			c.KeyType = "ecdsa-p256"
		}
		return
	}
	if c.KeyType != "" {
		o.conflict("x_keyway_key_type", "expected nothing, since there is no 'x_keyway_issuer'")
	}
	for _, name := range []string{"cert", "key"} {
		if !o.given(name) {
			o.bad(o.at(name), name, ReasonRequired, "required field missing")
		}
	}
	if !o.given("cert") || !o.given("key") {
		return
	}
	if c.CertAlt.IsZero() != c.KeyAlt.IsZero() {
		o.conflict(onEntity, "all or none of these fields must be set: 'cert_alt', 'key_alt'")
		return
	}
	first := o.pair("cert", "key", c.Cert, c.Key)
	second := o.pair("cert_alt", "key_alt", c.CertAlt, c.KeyAlt)
	if first != x509.UnknownPublicKeyAlgorithm && first == second {
		o.conflict(onEntity, "certificate and alternative certificate need to have different type (e.g. RSA and ECDSA), the provided certificates were both of the same type: "+first.String())
	}
}

// pair checks one pair and answers the kind of its key, unknown if it cannot tell.
func (o *object) pair(certField, keyField string, cert, key Secret) x509.PublicKeyAlgorithm {
	kind := x509.UnknownPublicKeyAlgorithm
	if !cert.Value.IsZero() {
		chain, err := pemCertificates(cert.Value.Reveal())
		if err != nil {
			o.bad(o.at(certField), certField, ReasonCredential, "invalid certificate: "+err.Error())
			return kind
		}
		kind = chain[0].PublicKeyAlgorithm
	}
	if key.Value.IsZero() {
		return kind
	}
	block := keyBlock(key.Value.Reveal())
	if block == nil {
		o.bad(o.at(keyField), keyField, ReasonCredential, "invalid key: expected PEM text with a PRIVATE KEY block that is not encrypted")
		return kind
	}
	if cert.Value.IsZero() {
		return kind
	}
	// Why not the error itself: it is about a key, and what it quotes is not ours to promise.
	switch _, err := tls.X509KeyPair(cert.Value.Reveal(), key.Value.Reveal()); {
	case err == nil:
		return kind
	case strings.Contains(err.Error(), "match"):
		o.conflict(onEntity, "certificate does not match key")
	default:
		o.bad(o.at(keyField), keyField, ReasonCredential, "invalid key: expected an RSA, ECDSA or Ed25519 key in PKCS #8, PKCS #1 or SEC 1 form that is not encrypted")
	}
	return x509.UnknownPublicKeyAlgorithm
}

func keyBlock(text []byte) *pem.Block {
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			return nil
		}
		switch block.Type {
		case "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY":
			return block
		}
		text = rest
	}
}

func (o *object) judgeAuthority(c *CACertificate) {
	if c.Cert.Value.IsZero() {
		return
	}
	text := c.Cert.Value.Reveal()
	all, err := pemCertificates(text)
	switch {
	case err != nil:
		o.bad(o.at("cert"), "cert", ReasonCredential, "invalid certificate: "+err.Error())
		return
	case len(all) != 1:
		o.bad(o.at("cert"), "cert", ReasonCredential, "please submit only one certificate at a time")
		return
	case !all[0].IsCA:
		o.bad(o.at("cert"), "cert", ReasonCredential, `certificate does not appear to be a CA because it is missing the "CA" basic constraint`)
	case time.Now().After(all[0].NotAfter):
		o.bad(o.at("cert"), "cert", ReasonCredential, `certificate expired, "Not After" time is in the past`)
	}
	sum := sha256.Sum256(all[0].Raw)
	digest := hex.EncodeToString(sum[:])
	if c.CertDigest != "" && c.CertDigest != digest {
		o.bad(o.at("cert_digest"), "cert_digest", ReasonConflict, "expected "+digest+", the digest of this certificate, or nothing")
	}
	c.CertDigest = digest
}
