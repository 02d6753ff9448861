package ocsp

import (
	"crypto/x509"
	"time"
)

// Read is read, for the fuzzer.
func Read(der []byte, leaf, issuer *x509.Certificate, now time.Time) (status string, ok bool) {
	a, err := read(der, leaf, issuer, now)
	if err != nil {
		return "", false
	}
	return []string{"good", "revoked", "unknown"}[a.status], true
}
