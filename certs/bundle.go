package certs

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyway-edge/keyway/secrets"
)

// Pair is a certificate chain, leaf first, and its private key, both PEM. A leaf
// is public, but what calls itself one may be anything: both are kept as secrets
// until they are parsed.
type Pair struct {
	Cert, Key secrets.Value
}

// Bundle is one checked pair. Immutable but for its staple; an idle one keeps DER
// only, the private key is parsed when a handshake first needs it.
type Bundle struct {
	Serial      string // hexadecimal
	Issuer      string
	DNSNames    []string
	NotBefore   time.Time
	NotAfter    time.Time
	KeyType     string // "ECDSA", "RSA" or "Ed25519"
	Fingerprint string // SHA-256 of the leaf's DER, hexadecimal
	SelfSigned  bool
	Temporary   bool // cert-manager made it, until the issuer has answered

	standIn bool   // self-signed or temporary
	usage   string // why the leaf should not serve names, "" for nothing
	chain   [][]byte
	key     secrets.Value // DER, as it stood in the PEM block
	kind    string        // of that block

	responder  string // URL for OCSP
	mustStaple bool
	staple     atomic.Pointer[stapled]

	once sync.Once
	cert *tls.Certificate
	err  error
}

// TLS is the pair in the form of crypto/tls, parsed once, with its staple; the
// caller must not change it.
func (b *Bundle) TLS() (*tls.Certificate, error) {
	b.once.Do(func() {
		key, err := parseKey(b.kind, b.key.Reveal())
		if err != nil {
			b.err = fmt.Errorf("parsing the private key of certificate %s: %w", b.Serial, err)
			return
		}
		leaf, err := x509.ParseCertificate(b.chain[0])
		if err != nil {
			b.err = fmt.Errorf("parsing certificate %s: %w", b.Serial, err)
			return
		}
		b.cert = &tls.Certificate{Certificate: b.chain, PrivateKey: key, Leaf: leaf}
	})
	if s := b.staple.Load(); s != nil && b.err == nil {
		return s.with(b.cert), nil
	}
	return b.cert, b.err
}

// idle is the bundle with nothing parsed.
func (b *Bundle) idle() *Bundle {
	return &Bundle{
		Serial: b.Serial, Issuer: b.Issuer, DNSNames: b.DNSNames, NotBefore: b.NotBefore, NotAfter: b.NotAfter, KeyType: b.KeyType,
		Fingerprint: b.Fingerprint, SelfSigned: b.SelfSigned, Temporary: b.Temporary, standIn: b.standIn, usage: b.usage, chain: b.chain, key: b.key, kind: b.kind,
		responder: b.responder, mustStaple: b.mustStaple,
	}
}

// share makes the chain share memory with those of other bundles where they are
// the same: most renewals come with the intermediates of the version before.
func (b *Bundle) share(others []*Bundle) {
	for i, der := range b.chain {
		for _, o := range others {
			if j := slices.IndexFunc(o.chain, func(d []byte) bool { return bytes.Equal(d, der) }); j >= 0 {
				b.chain[i] = o.chain[j]
			}
		}
	}
}

// ParseBundle reads a pair and checks what can be checked of it alone: that the
// key is the leaf's, strong enough, and that the chain builds. It judges neither
// time nor names.
func ParseBundle(p Pair) (*Bundle, *Refusal) {
	b, _, refusal := parse(p)
	return b, refusal
}

// parse answers the bundle, and once more its parsed form: whoever checks
// thousands of pairs needs it for a moment only.
func parse(p Pair) (*Bundle, *tls.Certificate, *Refusal) {
	chain, refusal := decodeChain(p.Cert.Reveal())
	if refusal != nil {
		return nil, nil, refusal
	}
	certs := make([]*x509.Certificate, len(chain))
	for i, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, nil, refuse(CheckParse, "certificate %d of the chain cannot be parsed: %v", i+1, err)
		}
		certs[i] = c
	}
	leaf := certs[0]
	// Before the key is touched: to load one of 16,384 bits is work already.
	keyType, refusal := strength(leaf)
	if refusal != nil {
		return nil, nil, refusal
	}
	kind, der, refusal := decodeKey(p.Key.Reveal())
	if refusal != nil {
		return nil, nil, refusal
	}
	key, err := parseKey(kind, der)
	if err != nil {
		return nil, nil, refuse(CheckParse, "the private key cannot be parsed; expected PKCS#8, PKCS#1 or SEC 1 in PEM")
	}
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(leaf.PublicKey) {
		return nil, nil, refuse(CheckMismatch, "the private key is not the key of certificate %s; replace both together", serial(leaf))
	}
	for i := 0; i+1 < len(certs); i++ {
		if err := certs[i].CheckSignatureFrom(certs[i+1]); err != nil {
			return nil, nil, refuse(CheckChain, "certificate %d of the chain is not signed by the one behind it; expected leaf first, each followed by its issuer", i+1)
		}
	}
	sum := sha256.Sum256(leaf.Raw)
	b := &Bundle{
		Serial: serial(leaf), Issuer: leaf.Issuer.String(), DNSNames: leaf.DNSNames, NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter,
		KeyType: keyType, Fingerprint: hex.EncodeToString(sum[:]), SelfSigned: selfSigned(leaf), Temporary: temporary(leaf),
		chain: chain, key: secrets.NewValue(der), kind: kind,
	}
	b.standIn = b.SelfSigned || b.Temporary
	b.usage = usage(leaf, b.SelfSigned)
	b.stapling(leaf)
	return b, &tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf}, nil
}

func serial(c *x509.Certificate) string { return c.SerialNumber.Text(16) }

func selfSigned(leaf *x509.Certificate) bool {
	return bytes.Equal(leaf.RawIssuer, leaf.RawSubject) && leaf.CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate, leaf.Signature) == nil
}

// temporary recognises what cert-manager puts in a Secret until the true issuer has
// answered: a leaf of an authority of P-521 that is thrown away at once. That it means to
// put a fixed serial number into the subject does not help: what it signs has the subject
// of the request.
func temporary(leaf *x509.Certificate) bool {
	return leaf.Issuer.CommonName == "cert-manager.local" && len(leaf.Issuer.Names) == 1 && leaf.SignatureAlgorithm == x509.ECDSAWithSHA512
}

// usage says why clients may refuse the leaf as a server's: RFC 5280, sections
// 4.2.1.3, 4.2.1.9 and 4.2.1.12. What signs itself is an authority by custom.
func usage(leaf *x509.Certificate, self bool) string {
	switch {
	case len(leaf.ExtKeyUsage)+len(leaf.UnknownExtKeyUsage) > 0 && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny):
		return "its extended key usage lacks serverAuth"
	case leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 && !self:
		return "its key usage lacks digitalSignature"
	case leaf.IsCA && !self:
		return "it is the certificate of an authority (basicConstraints CA=true)"
	}
	return ""
}

// maxPEM bounds what is looked at: a chain is never that long.
const maxPEM = 1 << 20

// decodeChain answers the DER of every certificate in text.
func decodeChain(text []byte) ([][]byte, *Refusal) {
	if len(text) > maxPEM {
		return nil, refuse(CheckParse, "the certificate has %d bytes, at most %d are expected", len(text), maxPEM)
	}
	var chain [][]byte
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		if block.Type == "CERTIFICATE" {
			chain = append(chain, block.Bytes)
		}
		text = rest
	}
	if len(chain) == 0 {
		return nil, refuse(CheckParse, "there is no CERTIFICATE block; expected a PEM chain, leaf first (is the file cut off?)")
	}
	// What is left begins a block that never ends: the file was read while it was written.
	if bytes.Contains(text, []byte("-----BEGIN CERTIFICATE-----")) {
		return nil, refuse(CheckParse, "certificate %d of the chain is cut off; write files aside and rename them", len(chain)+1)
	}
	return chain, nil
}

// decodeKey answers the first private key block.
func decodeKey(text []byte) (kind string, der []byte, refusal *Refusal) {
	if len(text) > maxPEM {
		return "", nil, refuse(CheckParse, "the private key has %d bytes, at most %d are expected", len(text), maxPEM)
	}
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			return "", nil, refuse(CheckParse, "there is no PRIVATE KEY block; expected a PEM key (is the file cut off?)")
		}
		switch block.Type {
		case "ENCRYPTED PRIVATE KEY":
			return "", nil, refuse(CheckEncrypted, "the private key is encrypted; decrypt it, and keep it in a vault or a file of mode 0600")
		case "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY":
			if block.Headers["DEK-Info"] != "" {
				return "", nil, refuse(CheckEncrypted, "the private key is encrypted; decrypt it, and keep it in a vault or a file of mode 0600")
			}
			return block.Type, block.Bytes, nil
		}
		text = rest
	}
}

var errKeyKind = errors.New("the key cannot sign")

func parseKey(kind string, der []byte) (crypto.Signer, error) {
	var key any
	var err error
	switch kind {
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(der)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(der)
	default:
		key, err = x509.ParsePKCS8PrivateKey(der)
	}
	if err != nil {
		return nil, err
	}
	s, ok := key.(crypto.Signer)
	if !ok {
		return nil, errKeyKind
	}
	return s, nil
}

// strength names the key's type, or refuses it: too short breaks, too long lets a
// handshake be made expensive.
func strength(leaf *x509.Certificate) (string, *Refusal) {
	switch k := leaf.PublicKey.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < 2048 || n > 8192 {
			return "", refuse(CheckStrength, "the RSA key has %d bits, expected 2048 to 8192", n)
		}
		return "RSA", nil
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P224() {
			return "", refuse(CheckStrength, "the ECDSA key is on P-224, expected P-256, P-384 or P-521")
		}
		return "ECDSA", nil
	case ed25519.PublicKey:
		return "Ed25519", nil
	}
	return "", refuse(CheckStrength, "the key is of a type that TLS does not use here; expected ECDSA, RSA or Ed25519")
}

// ParseCAs answers the DER of every CA certificate in PEM text; an error when there is none or one is no CA.
func ParseCAs(text []byte) ([][]byte, error) {
	chain, refusal := decodeChain(text)
	if refusal != nil {
		return nil, fmt.Errorf("reading CA certificates: %w", refusal)
	}
	for i, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("parsing CA certificate %d: %w", i+1, err)
		}
		if !c.IsCA {
			return nil, fmt.Errorf("certificate %d is no CA certificate: basicConstraints CA=true is expected", i+1)
		}
	}
	return chain, nil
}
