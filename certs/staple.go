package certs

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"sync/atomic"
	"time"
)

// stapled is a staple and the pair that shows it, made when a handshake first does.
type stapled struct {
	der  []byte
	cert atomic.Pointer[tls.Certificate]
}

// with answers the pair with its staple.
func (s *stapled) with(plain *tls.Certificate) *tls.Certificate {
	if c := s.cert.Load(); c != nil {
		return c
	}
	c := *plain
	c.OCSPStaple = s.der
	s.cert.Store(&c)
	return &c
}

// SetStaple makes the handshakes that begin from now on show an OCSP response, or
// none again with nil. The caller has verified it.
func (b *Bundle) SetStaple(der []byte) {
	if len(der) == 0 {
		b.staple.Store(nil)
		return
	}
	if s := b.staple.Load(); s == nil || !slices.Equal(s.der, der) {
		b.staple.Store(&stapled{der: der})
	}
}

// Responder is the URL of the leaf's OCSP responder, "" for a leaf that names none
// or comes without its issuer, which a request needs.
func (b *Bundle) Responder() string { return b.responder }

// MustStaple says that clients refuse the leaf without a staple: RFC 7633.
func (b *Bundle) MustStaple() bool { return b.mustStaple }

var errNoIssuer = errors.New("the chain has no issuer")

// Parents parses the leaf and its issuer.
func (b *Bundle) Parents() (leaf, issuer *x509.Certificate, err error) {
	if len(b.chain) < 2 {
		return nil, nil, fmt.Errorf("certificate %s: %w", b.Serial, errNoIssuer)
	}
	if leaf, err = x509.ParseCertificate(b.chain[0]); err == nil {
		issuer, err = x509.ParseCertificate(b.chain[1])
	}
	if err != nil {
		return nil, nil, fmt.Errorf("parsing certificate %s: %w", b.Serial, err)
	}
	return leaf, issuer, nil
}

// stapling notes what the leaf says of stapling.
func (b *Bundle) stapling(leaf *x509.Certificate) {
	const statusRequest = 5 // of RFC 7633, the number of TLS's extension
	feature := asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}
	for _, e := range leaf.Extensions {
		var features []int
		if e.Id.Equal(feature) {
			_, err := asn1.Unmarshal(e.Value, &features)
			b.mustStaple = err != nil || slices.Contains(features, statusRequest)
		}
	}
	if len(b.chain) < 2 {
		return
	}
	for _, text := range leaf.OCSPServer {
		if u, err := url.Parse(text); err == nil && u.Host != "" && (u.Scheme == "http" || u.Scheme == "https") {
			b.responder = text
			return
		}
	}
}

// lastHour is when the end of what serves is near enough to take what is merely
// suspect instead.
const lastHour = time.Hour

// checkStaple keeps out what strict clients would refuse: a leaf that must have a
// staple and can't get one, or has none yet while another version serves.
func checkStaple(c *Candidate, active, b *Bundle, now time.Time) finding {
	switch {
	case !b.mustStaple:
		return finding{}
	case b.responder == "":
		return finding{
			refusal: refuse(CheckStaple, "certificate %s must be stapled, and names no OCSP responder or comes without its issuer; have it issued without must-staple, or add the intermediate", b.Serial),
			no:      active != nil && active.mustStaple && active.responder == "",
		}
	case c.Stapled == nil || c.Stapled(b.Fingerprint) || active != nil && active.Fingerprint == b.Fingerprint:
		return finding{}
	}
	r := refuse(CheckStaple, "certificate %s must be stapled, and %s has not answered yet; it is taken then", b.Serial, b.responder)
	r.bundles = []*Bundle{b}
	if active == nil {
		return finding{refusal: r}
	}
	r.retry = active.NotAfter.Add(-lastHour)
	return finding{refusal: r, no: !now.Before(r.retry)}
}

// Wanted answers the pairs whose status is of interest: those that serve, those
// that may serve again, and those that wait for a staple or are kept out by what is
// known of them: forgotten, they would come back.
func (s *Slot) Wanted() []*Bundle {
	if s == nil {
		return nil
	}
	all := slices.Clone(s.Active)
	for _, k := range s.kept {
		all = append(all, k.bundles...)
	}
	if s.Refused != nil {
		all = append(all, s.Refused.bundles...)
	}
	return all
}
