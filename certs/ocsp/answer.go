package ocsp

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/ocsp"
)

// answer is a responder's word, verified.
type answer struct {
	der     []byte
	status  int // of x/crypto/ocsp: Good, Revoked, Unknown
	reason  string
	revoked time.Time
	from    time.Time
	until   time.Time
}

const (
	skew     = 5 * time.Minute // that clocks of responders may be ahead
	noUpdate = time.Hour       // how long an answer holds that says no end
)

// read verifies a response for leaf: signed by its issuer, or by a responder that
// the issuer made for that, and of this moment. RFC 6960, sections 3.2 and 4.2.2.2;
// what x/crypto/ocsp leaves to its caller is done here.
func read(der []byte, leaf, issuer *x509.Certificate, now time.Time) (answer, error) {
	// Without an issuer it only parses: with one, it takes every certificate that
	// the issuer signed for a responder (golang/go#40017), and refuses issuers that
	// send themselves along (golang/go#81395).
	r, err := ocsp.ParseResponseForCert(der, leaf, nil)
	if err != nil {
		var says ocsp.ResponseError
		if errors.As(err, &says) && says.Status == ocsp.Unauthorized {
			return answer{}, errUnauthorized
		}
		return answer{}, fmt.Errorf("%w: %w", errAway, err)
	}
	if err := authorised(r, issuer, now); err != nil {
		return answer{}, err
	}
	a := answer{der: der, status: r.Status, from: r.ThisUpdate, until: r.NextUpdate}
	if a.until.IsZero() {
		a.until = now.Add(noUpdate)
	}
	switch {
	case a.from.After(now.Add(skew)):
		return answer{}, fmt.Errorf("the response is of %s, which is to come; expected one of this moment: compare the clocks", a.from.UTC().Format(time.RFC3339))
	case !a.until.After(now):
		return answer{}, fmt.Errorf("the response ended at %s; expected one of this moment", a.until.UTC().Format(time.RFC3339))
	}
	if r.Status == ocsp.Revoked {
		a.revoked, a.reason = r.RevokedAt, reasonText(r.RevocationReason)
	}
	return a, nil
}

var (
	// The others of RFC 6960, 2.3 tell of the responder, this one of the certificate.
	errUnauthorized = errors.New("the responder knows nothing of this certificate (unauthorized)")

	errDelegate = errors.New("the response is signed by a certificate that is no OCSP responder: extended key usage OCSPSigning, and no authority, is expected")
	errTime     = errors.New("the response is signed by a responder whose certificate is not in its time")
)

func authorised(r *ocsp.Response, issuer *x509.Certificate, now time.Time) error {
	signer := r.Certificate
	if signer == nil || bytes.Equal(signer.RawSubjectPublicKeyInfo, issuer.RawSubjectPublicKeyInfo) {
		if err := r.CheckSignatureFrom(issuer); err != nil {
			return fmt.Errorf("the response is not signed by the issuer: %w", err)
		}
		return nil
	}
	// That the response is the signer's was checked when it was parsed.
	if err := issuer.CheckSignature(signer.SignatureAlgorithm, signer.RawTBSCertificate, signer.Signature); err != nil {
		return fmt.Errorf("the response's signer is not signed by the issuer: %w", err)
	}
	if signer.IsCA || !slices.Contains(signer.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning) {
		return errDelegate
	}
	if now.Before(signer.NotBefore) || now.After(signer.NotAfter) {
		return errTime
	}
	return nil
}

// reasonText names a reason of RFC 5280, section 5.3.1.
func reasonText(code int) string {
	names := []string{
		"unspecified", "key compromise", "CA compromise", "affiliation changed", "superseded", "cessation of operation",
		"certificate hold", "", "removed from CRL", "privilege withdrawn", "AA compromise",
	}
	if code < 0 || code >= len(names) || names[code] == "" {
		return fmt.Sprintf("reason %d", code)
	}
	return names[code]
}
