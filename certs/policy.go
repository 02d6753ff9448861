package certs

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// PolicySpec says how a server name does TLS.
type PolicySpec struct {
	ID, Name    string
	MinVersion  string   // "1.2" or "1.3"; "" for 1.2
	ClientAuth  string   // "off", "optional" or "required"; "" for off
	Roots       [][]byte // DER of the CAs that client certificates are judged by
	VerifyDepth int      // most intermediate certificates between a client's and its root; 0 for none
	CRLs        [][]byte // DER of revocation lists that client certificates are held against
	CRLRequired bool     // take no client certificate without a current list of each of its issuers
}

// Policy is a checked PolicySpec with the one server configuration that all its
// handshakes share. Immutable.
type Policy struct {
	Name        string
	Fingerprint string // of the rules: everything but the revocation lists, which change under the same rules

	crls        []*crl
	crlRequired bool
	content     [32]byte // of rules and lists

	min    uint16
	auth   tls.ClientAuthType
	pool   *x509.CertPool
	depth  int
	once   sync.Once
	config *tls.Config
}

// NewPolicy checks a spec. A policy that asks for client certificates and knows
// no CA to judge them by is closed: it takes none.
func NewPolicy(s PolicySpec) (*Policy, error) {
	p := &Policy{Name: s.Name, min: tls.VersionTLS12, depth: s.VerifyDepth}
	switch s.MinVersion {
	case "", "1.2":
	case "1.3":
		p.min = tls.VersionTLS13
	default:
		return nil, fmt.Errorf("min_version %q is neither 1.2 nor 1.3", s.MinVersion)
	}
	switch s.ClientAuth {
	case "", "off":
	case "optional":
		p.auth = tls.VerifyClientCertIfGiven
	case "required":
		p.auth = tls.RequireAndVerifyClientCert
	default:
		return nil, fmt.Errorf("client_auth %q is none of off, optional, required", s.ClientAuth)
	}
	p.pool = x509.NewCertPool()
	prints := make([]string, 0, len(s.Roots))
	for i, der := range s.Roots {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("CA certificate %d: %w", i+1, err)
		}
		p.pool.AddCert(c)
		sum := sha256.Sum256(der)
		prints = append(prints, hex.EncodeToString(sum[:]))
	}
	slices.Sort(prints)
	p.crlRequired = s.CRLRequired && p.auth != tls.NoClientCert
	sum := sha256.Sum256([]byte(fmt.Sprintf("%d %d %d %t %s", p.min, p.auth, p.depth, p.crlRequired, strings.Join(slices.Compact(prints), " "))))
	p.Fingerprint = hex.EncodeToString(sum[:16])
	if err := p.lists(s); err != nil {
		return nil, err
	}
	return p, nil
}

// lists reads the revocation lists. One in the name of a CA that the policy trusts
// must be signed by it; others may be of intermediates, which clients bring along.
func (p *Policy) lists(s PolicySpec) error {
	all := sha256.New()
	all.Write([]byte(p.Fingerprint))
	for i, der := range s.CRLs {
		c, err := parseCRL(der)
		if err != nil {
			return fmt.Errorf("revocation list %d: %w", i+1, err)
		}
		named, signed := false, false
		for _, der := range s.Roots {
			if ca, err := x509.ParseCertificate(der); err == nil && bytes.Equal(ca.RawSubject, c.list.RawIssuer) {
				named, signed = true, signed || c.by(ca)
			}
		}
		if named && !signed {
			return fmt.Errorf("revocation list %d: it names %s as its issuer and is not signed by it", i+1, c.list.Issuer)
		}
		p.crls = append(p.crls, c)
		all.Write(c.sum[:])
	}
	all.Sum(p.content[:0])
	return nil
}

// Same says that two policies are the same in rules and lists, so that the older one
// can stay with all that was made for it.
func (p *Policy) Same(o *Policy) bool {
	return p != nil && o != nil && p.Fingerprint == o.Fingerprint && p.content == o.content
}

// Closed is the policy that stands for one that is wrong: it lets nobody in.
func Closed(s PolicySpec) *Policy {
	p := &Policy{Name: s.Name, min: tls.VersionTLS13, auth: tls.RequireAndVerifyClientCert, pool: x509.NewCertPool()}
	p.Fingerprint = "closed-" + s.ID
	return p
}

// NeedsTLS says that requests for names of this policy must not come in clear: it
// asks for client certificates.
func (p *Policy) NeedsTLS() bool { return p.auth != tls.NoClientCert }

// Base is what every policy's configuration has in common.
type Base struct {
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	NextProtos     []string
	Curves         []tls.CurveID // nil for the library's safe default
	Tickets        *Tickets      // nil for no resumption
	ECH            *ECH          // nil for no Encrypted Client Hello
}

var (
	errNoCertificate = errors.New("the policy needs a client certificate")
	errDepth         = errors.New("the client certificate's chain is longer than the policy's depth")
)

// Config is the server configuration of the policy, made at first use with base
// (the same one each time) and shared by all handshakes: nothing in it changes.
//
// Policies that differ have ticket keys that differ: a session of one cannot be
// resumed under another. TLS 1.3 suites are not choosable in crypto/tls; for TLS 1.2 the
// six ECDHE suites with AEAD are offered.
func (p *Policy) Config(base Base) *tls.Config {
	p.once.Do(func() {
		c := &tls.Config{
			MinVersion: p.min, ClientAuth: p.auth, NextProtos: base.NextProtos, GetCertificate: base.GetCertificate, CurvePreferences: base.Curves,
			CipherSuites: []uint16{
				tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
				tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
				tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
			},
		}
		if p.auth != tls.NoClientCert {
			c.ClientCAs = p.pool
			// Runs at resumption too, unlike VerifyPeerCertificate.
			c.VerifyConnection = p.Verify
		}
		if base.ECH != nil {
			// The keys that open a hello are those of the configuration that the
			// listener has; these are what a client with an old one is sent.
			c.GetEncryptedClientHelloKeys = base.ECH.Keys
		}
		if base.Tickets == nil {
			// Else crypto/tls would use the keys of the listener's own
			// configuration, the same for all policies.
			c.SessionTicketsDisabled = true
		} else {
			s := &sealer{tickets: base.Tickets, domain: p.Fingerprint}
			c.WrapSession, c.UnwrapSession = s.wrap, s.unwrap
		}
		p.config = c
	})
	return p.config
}

// Verify says why a connection must not be, or go on, under the policy; nil when it
// may. It holds for resumed ones, and for those made before the lists changed.
func (p *Policy) Verify(state tls.ConnectionState) error {
	if p.auth == tls.NoClientCert {
		return nil
	}
	if len(state.PeerCertificates) == 0 {
		if p.auth == tls.RequireAndVerifyClientCert {
			return errNoCertificate
		}
		return nil
	}
	err := errDepth
	now := time.Now()
	for _, chain := range state.VerifiedChains {
		if len(chain)-2 > p.depth {
			continue
		}
		if err = p.unrevoked(chain, now); err == nil {
			return nil
		}
	}
	return err
}
