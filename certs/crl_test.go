package certs_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/certs/certtest"
)

// clients is a house that asks for client certificates.
type clients struct {
	t            *testing.T
	root, middle *certtest.CA
	base         certs.Base
	pair         tls.Certificate
	leaf         *x509.Certificate
}

func newClients(t *testing.T) *clients {
	root := certtest.NewCA(t, "root")
	c := &clients{t: t, root: root, middle: root.Intermediate("middle")}
	slot, _ := certs.Advance(nil, offer("one", nil, root.Issue(certtest.Leaf{Names: []string{"a.test"}})), time.Now())
	c.base = certs.Base{Tickets: certs.NewTickets(), GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		cert, _, err := slot.Certificate(h)
		return cert, err
	}}
	p := c.middle.Issue(certtest.Leaf{Names: []string{"client"}})
	var err error
	if c.pair, err = tls.X509KeyPair(p.Cert.Reveal(), p.Key.Reveal()); err != nil {
		t.Fatal(err)
	}
	c.leaf = certtest.Certificate(t, p)
	return c
}

func (c *clients) policy(required bool, lists ...[]byte) *certs.Policy {
	c.t.Helper()
	return mustPolicy(c.t, certs.PolicySpec{ClientAuth: "required", Roots: [][]byte{c.root.Cert.Raw}, VerifyDepth: 2, CRLs: lists, CRLRequired: required})
}

func (c *clients) config() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, ServerName: "a.test", Certificates: []tls.Certificate{c.pair}, ClientSessionCache: tls.NewLRUClientSessionCache(4)}
}

func TestRevocationListsJudgeClients(t *testing.T) {
	c := newClients(t)
	now := time.Now()
	list := func(ca *certtest.CA) []byte { return ca.CRL(now.Add(-time.Hour), now.Add(time.Hour)) }
	old := func(ca *certtest.CA) []byte { return ca.CRL(now.Add(-2*time.Hour), now.Add(-time.Hour)) }
	soon := func(ca *certtest.CA) []byte { return ca.CRL(now.Add(time.Hour), now.Add(2*time.Hour)) }
	stranger := certtest.NewCA(t, "root").Intermediate("middle") // of the same names
	f := func(what string, good bool, required bool, lists ...[]byte) {
		t.Helper()
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			config := c.config()
			config.MaxVersion = version
			if _, err := handshakeWith(t, c.policy(required, lists...), c.base, config); (err == nil) != good {
				t.Errorf("%s (required %v): %v, want let in %v", what, required, err, good)
			}
		}
	}
	f("no list", true, false)
	f("no list", false, true)
	f("lists of both", true, true, list(c.root), list(c.middle))
	f("the root's alone", true, false, list(c.root))
	f("the root's alone", false, true, list(c.root))
	f("the leaf's issuer's alone", false, true, list(c.middle))
	f("one that has ended", true, false, list(c.root), old(c.middle))
	f("one that has ended", false, true, list(c.root), old(c.middle))
	f("a newer one beside it", true, true, list(c.root), old(c.middle), list(c.middle))
	f("one of tomorrow", false, true, list(c.root), soon(c.middle))
	f("a stranger's by the same name", false, true, list(c.root), list(stranger))
	stranger.Revoke(c.leaf, 1)
	f("a stranger who revokes", true, true, list(c.root), list(c.middle), list(stranger))
	ended := old(c.middle)
	c.middle.Revoke(c.leaf, 1)
	f("revoked", false, false, list(c.middle))
	f("revoked", false, true, list(c.root), list(c.middle))
	f("revoked in a list that has ended", false, false, old(c.middle))
	f("revoked in one, not in another", false, false, ended, list(c.middle))
	c = newClients(t)
	c.root.Revoke(c.middle.Cert, 2)
	f("its issuer is revoked", false, false, list(c.root))
}

func TestASessionEndsWithItsCertificate(t *testing.T) {
	c := newClients(t)
	now := time.Now()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		before := c.policy(false, c.middle.CRL(now.Add(-time.Hour), now.Add(time.Hour)))
		config := c.config()
		config.MaxVersion = version
		for range 2 {
			if _, err := handshakeWith(t, before, c.base, config); err != nil {
				t.Fatal(err)
			}
		}
		same := c.policy(false, c.middle.CRL(now.Add(-time.Minute), now.Add(time.Hour)))
		if same.Fingerprint != before.Fingerprint || same.Same(before) || !same.Same(same) {
			t.Error("a new list makes the same rules and another policy")
		}
		state, err := handshakeWith(t, same, c.base, config)
		if err != nil || !state.DidResume {
			t.Errorf("a new list without the client costs its session: %v %v", state.DidResume, err)
		}
		c.middle.Revoke(c.leaf, 1)
		after := c.policy(false, c.middle.CRL(now.Add(-time.Minute), now.Add(time.Hour)))
		if _, err := handshakeWith(t, after, c.base, config); err == nil {
			t.Error("a revoked client resumes its session")
		}
		c = newClients(t)
	}
}

func TestVerifyIsForConnectionsThatAreThere(t *testing.T) {
	c := newClients(t)
	now := time.Now()
	chain := tls.ConnectionState{PeerCertificates: []*x509.Certificate{c.leaf}, VerifiedChains: [][]*x509.Certificate{{c.leaf, c.middle.Cert, c.root.Cert}}}
	if err := c.policy(false).Verify(chain); err != nil {
		t.Error(err)
	}
	c.middle.Revoke(c.leaf, 1)
	p := c.policy(false, c.middle.CRL(now.Add(-time.Hour), now.Add(time.Hour)))
	if err := p.Verify(chain); err == nil {
		t.Error("a connection of a revoked client goes on")
	}
	if err := mustPolicy(t, certs.PolicySpec{}).Verify(chain); err != nil {
		t.Errorf("a policy that asks for nothing: %v", err)
	}
	if end := p.CRLEnd(); end.Sub(now) > time.Hour || end.Sub(now) < 59*time.Minute {
		t.Errorf("the list ends at %v", end)
	}
	if n := testing.AllocsPerRun(100, func() { _ = p.Verify(chain) }); n > 2 { // the serial numbers
		t.Errorf("holding a chain against lists allocates %v times", n)
	}
}

func TestListsThatCannotBeUsed(t *testing.T) {
	c := newClients(t)
	now := time.Now()
	good := c.root.CRL(now.Add(-time.Hour), now.Add(time.Hour))
	text := pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: good})
	flipped := bytes.Clone(good)
	flipped[len(flipped)-4] ^= 1
	for what, text := range map[string][]byte{
		"nothing": {}, "garbage": []byte("x"), "a certificate": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.root.Cert.Raw}),
		"cut off": append(bytes.Clone(text), text[:len(text)/2]...), "garbage in PEM": pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: []byte{1}}),
		"too long": make([]byte, 17<<20),
	} {
		if _, err := certs.ParseCRLs(text); err == nil {
			t.Errorf("%s is taken", what)
		}
	}
	for _, in := range [][]byte{text, good, append(bytes.Clone(text), text...)} {
		if lists, err := certs.ParseCRLs(in); err != nil || !bytes.Equal(lists[0], good) {
			t.Errorf("%v", err)
		}
	}
	for what, list := range map[string][]byte{"garbage": {1, 2}, "a flipped bit": flipped, "another's by the same name": certtest.NewCA(t, "root").CRL(now, now.Add(time.Hour))} {
		_, err := certs.NewPolicy(certs.PolicySpec{ClientAuth: "required", Roots: [][]byte{c.root.Cert.Raw}, CRLs: [][]byte{list}})
		if err == nil || !strings.HasPrefix(err.Error(), "revocation list 1") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func FuzzParseCRLs(f *testing.F) {
	ca := certtest.NewCA(f, "root")
	leaf := certtest.Certificate(f, ca.Issue(certtest.Leaf{Names: []string{"client"}}))
	ca.Revoke(leaf, 1)
	now := time.Now()
	der := ca.CRL(now.Add(-time.Hour), now.Add(time.Hour))
	f.Add(der)
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
	chain := tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: [][]*x509.Certificate{{leaf, ca.Cert}}}
	f.Fuzz(func(t *testing.T, text []byte) {
		lists, err := certs.ParseCRLs(text)
		if err != nil {
			return
		}
		p, err := certs.NewPolicy(certs.PolicySpec{ClientAuth: "required", Roots: [][]byte{ca.Cert.Raw}, CRLs: lists, CRLRequired: true})
		if err == nil && p.Verify(chain) == nil {
			t.Fatal("a list that the CA never made lets a revoked client in")
		}
	})
}

// TestPartsOfAListAreAboutTheirCertificates has a CA whose list comes in parts with URLs
// that begin alike: only the part that a certificate names is about it.
func TestPartsOfAListAreAboutTheirCertificates(t *testing.T) {
	ca := certtest.NewCA(t, "root")
	now := time.Now()
	part := func(url string) []byte {
		name := append([]byte{0x86, byte(len(url))}, url...) // uniformResourceIdentifier
		full := append([]byte{0xa0, byte(len(name))}, name...)
		point := append([]byte{0xa0, byte(len(full))}, full...)
		der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
			Number: big.NewInt(1), ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(time.Hour),
			ExtraExtensions: []pkix.Extension{{Id: []int{2, 5, 29, 28}, Critical: true, Value: append([]byte{0x30, byte(len(point))}, point...)}},
		}, ca.Cert, ca.Key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "client"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		CRLDistributionPoints: []string{"http://crl.test/1"},
	}, ca.Cert, key.Public(), ca.Key)
	if err != nil {
		t.Fatal(err)
	}
	client, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	for url, good := range map[string]bool{"http://crl.test/1": true, "http://crl.test/12": false, "http://crl.test/2": false} {
		p := mustPolicy(t, certs.PolicySpec{ClientAuth: "required", Roots: [][]byte{ca.Cert.Raw}, CRLs: [][]byte{part(url)}, CRLRequired: true})
		err := p.Verify(tls.ConnectionState{PeerCertificates: []*x509.Certificate{client}, VerifiedChains: [][]*x509.Certificate{{client, ca.Cert}}})
		if (err == nil) != good {
			t.Errorf("a list of the part %s: %v, want let in %v", url, err, good)
		}
	}
}
