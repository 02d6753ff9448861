package certs_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/certs/certtest"
	"github.com/keyway-edge/keyway/secrets"
)

// FuzzIntake offers what may be a pair to a slot that serves. What is taken must
// shake hands; what is refused must leave the slot as it was; both soon.
// (Handshakes are never twice the same: fuzz it with -fuzzminimizetime 5x.)
func FuzzIntake(f *testing.F) {
	ca := certtest.NewCA(f, "root").Intermediate("middle")
	now := time.Now()
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	for _, l := range []certtest.Leaf{
		{},
		{KeyType: "ecdsa-p384"},
		{KeyType: "rsa-2048"},
		{Key: ed},
		{SelfSigned: true},
		{MustStaple: true},
		{MustStaple: true, OCSP: "http://ocsp.test"},
		{NotBefore: now.Add(-2 * time.Hour), NotAfter: now.Add(-time.Hour)},
		{NotBefore: now.Add(time.Hour)},
		{Usage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
	} {
		l.Names = []string{"a.test"}
		p := ca.Issue(l)
		f.Add(p.Cert.Reveal(), p.Key.Reveal(), uint16(0), byte(0))
		f.Add(p.Cert.Reveal(), p.Key.Reveal(), uint16(300), byte(1))
		f.Add(p.Key.Reveal(), p.Cert.Reveal(), uint16(0), byte(0))
		f.Add(p.Cert.Reveal()[:len(p.Cert.Reveal())/2], p.Key.Reveal(), uint16(0), byte(0))
	}
	first := certs.Candidate{Name: "slot", Source: "one", Names: []string{"a.test"}, Pairs: []certs.Pair{ca.Issue(certtest.Leaf{Names: []string{"a.test"}})}}
	f.Fuzz(func(t *testing.T, cert, key []byte, at uint16, flip byte) {
		cert, key = bytes.Clone(cert), bytes.Clone(key)
		if len(cert) > 0 {
			cert[int(at)%len(cert)] ^= flip
		}
		serving, _ := certs.Advance(nil, first, now)
		began := time.Now()
		for _, prev := range []*certs.Slot{nil, serving} {
			c := first
			c.Pairs = []certs.Pair{{Cert: secrets.NewValue(cert), Key: secrets.NewValue(key)}}
			next, outcome := certs.Advance(prev, c, now)
			if outcome == certs.Refused {
				if next.Fingerprint() != prev.Fingerprint() || prev != nil && next.Active[0] != prev.Active[0] || next.Refused == nil {
					t.Fatal("a pair that was refused changed what serves")
				}
			}
			if len(next.Active) == 0 {
				continue
			}
			if _, err := shake(t, &tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
				c, _, err := next.Certificate(h)
				return c, err
			}}, &tls.Config{InsecureSkipVerify: true, ServerName: "a.test"}); err != nil {
				t.Fatalf("%s: what serves cannot shake hands: %v", outcome, err)
			}
			if _, err := certs.Rollback(next, 0, "fuzz", now); err == nil && len(next.History(now)) < 2 {
				t.Fatal("rolled back to nothing")
			}
			certs.Rehearse(next, c, now)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Fatalf("took %v", took)
		}
	})
}
