package certs

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
)

// maxCRL bounds what is looked at: some hundred thousand entries.
const maxCRL = 16 << 20

// ParseCRLs answers the DER of every revocation list in PEM text, or of the one that
// text is in DER; an error when there is none or one cannot be used.
func ParseCRLs(text []byte) ([][]byte, error) {
	if len(text) > maxCRL {
		return nil, fmt.Errorf("reading revocation lists: %d bytes, at most %d are expected", len(text), maxCRL)
	}
	var lists [][]byte
	rest := text
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type == "X509 CRL" {
			lists = append(lists, block.Bytes)
		}
	}
	switch {
	case bytes.Contains(rest, []byte("-----BEGIN X509 CRL-----")):
		return nil, fmt.Errorf("reading revocation lists: list %d is cut off; write files aside and rename them", len(lists)+1)
	case len(lists) == 0 && len(text) > 0 && text[0] == 0x30:
		lists = append(lists, text)
	case len(lists) == 0:
		return nil, errors.New("reading revocation lists: there is none; expected PEM (X509 CRL) or DER")
	}
	for i, der := range lists {
		if _, err := parseCRL(der); err != nil {
			return nil, fmt.Errorf("revocation list %d: %w", i+1, err)
		}
	}
	return lists, nil
}

// crl is one revocation list. What of it depends on its issuer is found out once.
type crl struct {
	sum     [32]byte
	list    *x509.RevocationList // without its entries
	revoked map[string]int       // reason by serial number
	scope   scope
	points  []string                         // URLs of the part that the list is
	issuer  atomic.Pointer[x509.Certificate] // the one that was seen to have signed it
}

// scope is the issuingDistributionPoint extension: what the list is about.
type scope struct {
	Point     asn1.RawValue  `asn1:"optional,tag:0"`
	OnlyUser  bool           `asn1:"optional,tag:1"`
	OnlyCA    bool           `asn1:"optional,tag:2"`
	Reasons   asn1.BitString `asn1:"optional,tag:3"`
	Indirect  bool           `asn1:"optional,tag:4"`
	OnlyAttrs bool           `asn1:"optional,tag:5"`
}

var (
	errDelta = errors.New("it lists changes only (delta CRL); expected a whole list")
	errScope = errors.New("it is for other issuers, some reasons or attribute certificates only; expected a list of an issuer's certificates")
)

func parseCRL(der []byte) (*crl, error) {
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, fmt.Errorf("it cannot be parsed: %w", err)
	}
	c := &crl{sum: sha256.Sum256(der), revoked: make(map[string]int, len(list.RevokedCertificateEntries))}
	for _, e := range list.Extensions {
		switch {
		case e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 27}):
			return nil, errDelta
		case e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 28}):
			if _, err := asn1.Unmarshal(e.Value, &c.scope); err != nil {
				return nil, fmt.Errorf("its scope cannot be parsed: %w", err)
			}
			if c.scope.Indirect || c.scope.OnlyAttrs || c.scope.Reasons.BitLength > 0 {
				return nil, errScope
			}
			c.points = urls(c.scope.Point)
		case e.Critical:
			return nil, fmt.Errorf("it has a critical extension %s that is not understood", e.Id)
		}
	}
	for _, e := range list.RevokedCertificateEntries {
		c.revoked[string(e.SerialNumber.Bytes())] = e.ReasonCode
	}
	// Without the entries, which take several times what the map above takes.
	c.list = &x509.RevocationList{
		RawTBSRevocationList: list.RawTBSRevocationList, RawIssuer: list.RawIssuer, Issuer: list.Issuer, Signature: list.Signature,
		SignatureAlgorithm: list.SignatureAlgorithm, ThisUpdate: list.ThisUpdate, NextUpdate: list.NextUpdate,
	}
	return c, nil
}

// by says whether issuer has signed the list.
func (c *crl) by(issuer *x509.Certificate) bool {
	if seen := c.issuer.Load(); seen != nil && seen.Equal(issuer) {
		return true
	}
	if !bytes.Equal(issuer.RawSubject, c.list.RawIssuer) || c.list.CheckSignatureFrom(issuer) != nil {
		return false
	}
	c.issuer.Store(issuer)
	return true
}

const crlSkew = 5 * time.Minute // that clocks of issuers may be ahead

// current says whether the list is of this moment. RFC 5280 wants every list to
// name its end.
func (c *crl) current(now time.Time) bool {
	return !c.list.ThisUpdate.After(now.Add(crlSkew)) && now.Before(c.list.NextUpdate)
}

// about says whether the list would name cert, were it revoked.
func (c *crl) about(cert *x509.Certificate) bool {
	if cert.IsCA && c.scope.OnlyUser || !cert.IsCA && c.scope.OnlyCA {
		return false
	}
	// One part of a list in parts is about the certificates that name it.
	return len(c.scope.Point.FullBytes) == 0 || slices.ContainsFunc(cert.CRLDistributionPoints, func(url string) bool { return slices.Contains(c.points, url) })
}

// urls answers the URLs of a distribution point that has its full name: RFC 5280,
// sections 4.2.1.6 and 4.2.1.13. Others have none, and are about no certificate here.
func urls(point asn1.RawValue) []string {
	const fullName, uri = 0, 6
	var names, name asn1.RawValue
	if _, err := asn1.Unmarshal(point.Bytes, &names); err != nil || names.Class != asn1.ClassContextSpecific || names.Tag != fullName {
		return nil
	}
	var all []string
	for rest := names.Bytes; len(rest) > 0; {
		var err error
		if rest, err = asn1.Unmarshal(rest, &name); err != nil {
			return nil
		}
		if name.Class == asn1.ClassContextSpecific && name.Tag == uri {
			all = append(all, string(name.Bytes))
		}
	}
	return all
}

var (
	errRevoked = errors.New("the client certificate, or one that it is signed with, was revoked")
	errNoCRL   = errors.New("the policy needs a current revocation list of every issuer, and there is none")
)

// unrevoked holds one verified chain against the lists. That something was revoked
// holds after the end of the list that says so.
func (p *Policy) unrevoked(chain []*x509.Certificate, now time.Time) error {
	for i := 0; i+1 < len(chain); i++ {
		cert, known := chain[i], false
		for _, c := range p.crls {
			if !bytes.Equal(c.list.RawIssuer, cert.RawIssuer) || !c.by(chain[i+1]) {
				continue
			}
			if _, yes := c.revoked[string(cert.SerialNumber.Bytes())]; yes {
				return errRevoked
			}
			known = known || c.current(now) && c.about(cert)
		}
		if p.crlRequired && !known {
			return errNoCRL
		}
	}
	return nil
}

// CRLEnd is the first end of the policy's revocation lists, zero for none.
func (p *Policy) CRLEnd() time.Time {
	var first time.Time
	for _, c := range p.crls {
		if first.IsZero() || c.list.NextUpdate.Before(first) {
			first = c.list.NextUpdate
		}
	}
	return first
}
