package edge

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/certs/certtest"
	"github.com/keyway-edge/keyway/routing"
)

// TestRevocationListsAreHotAndFailClosed swaps the list of one policy beside a name
// that has none.
func TestRevocationListsAreHotAndFailClosed(t *testing.T) {
	ca := certtest.NewCA(t, "partners")
	server := ca.Issue(certtest.Leaf{Names: []string{"open.test", "closed.test"}})
	mine := ca.Issue(certtest.Leaf{Names: []string{"client.test"}})
	client, err := tls.X509KeyPair(mine.Cert.Reveal(), mine.Key.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	authority := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Cert.Raw}))
	document := func(crl string) string {
		text := strings.NewReplacer("%CERT", quoted(string(server.Cert.Reveal())), "%KEY", quoted(string(server.Key.Reveal())), "%CA", quoted(authority)).Replace(partners)
		if crl == "" {
			return text
		}
		return strings.Replace(text, "client_auth: required,", "client_auth: required, crl_required: true, crls: ["+quoted(crl)+"],", 1)
	}
	list := func() string {
		now := time.Now()
		return string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: ca.CRL(now.Add(-time.Hour), now.Add(time.Hour))}))
	}
	h := serve(t, document(""), nil)
	f := func(what string, good bool) {
		t.Helper()
		_, err := h.shake(&tls.Config{ServerName: "closed.test", RootCAs: ca.Pool(), Certificates: []tls.Certificate{client}})
		if (err == nil) != good {
			t.Errorf("%s: %v, want let in %v", what, err, good)
		}
		if _, err := h.shake(&tls.Config{ServerName: "open.test", RootCAs: ca.Pool()}); err != nil {
			t.Errorf("%s: a name of another policy: %v", what, err)
		}
	}
	f("no list", true)
	h.use(document(list()), nil)
	f("a list without the client", true)
	leaf, err := x509.ParseCertificate(client.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	ca.Revoke(leaf, 1)
	h.use(document(list()), nil)
	f("a list with the client", false)
	h.use(document(""), nil)
	f("no list again", true)
	broken := pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: []byte("garbage")})
	if snap := h.use(document(string(broken)), nil); len(snap.Problems) != 1 || snap.Problems[0].Field != "crls" {
		t.Errorf("%v", snap.Problems)
	}
	f("a list that cannot be read", false)
}

// TestRevocationListsHoldForOpenConnections is about clients that are connected when
// their certificate is revoked, and about two policies that differ in their lists alone.
func TestRevocationListsHoldForOpenConnections(t *testing.T) {
	ca := certtest.NewCA(t, "partners")
	server := ca.Issue(certtest.Leaf{Names: []string{"listed.test", "free.test"}})
	mine := certtest.Certificate(t, ca.Issue(certtest.Leaf{Names: []string{"client.test"}}))
	list := func() string {
		now := time.Now()
		return string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: ca.CRL(now.Add(-time.Hour), now.Add(time.Hour))}))
	}
	o := newOrigin(t, nil)
	document := func() string {
		return strings.NewReplacer("%CERT", quoted(string(server.Cert.Reveal())), "%KEY", quoted(string(server.Key.Reveal())),
			"%CA", quoted(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Cert.Raw}))), "%CRL", quoted(list())).Replace(`
x_keyway_tls_policies:
- {name: listed, client_auth: required, ca_certificates: [4f5a5c8e-0000-4000-8000-00000000000a], crls: [%CRL]}
- {name: free, client_auth: required, ca_certificates: [4f5a5c8e-0000-4000-8000-00000000000a]}
ca_certificates:
- {id: 4f5a5c8e-0000-4000-8000-00000000000a, cert: %CA}
certificates:
- {cert: %CERT, key: %KEY, snis: [{name: listed.test, x_keyway_tls_policy: listed}, {name: free.test, x_keyway_tls_policy: free}]}
`) + site(o, "{name: r, paths: [/]}")
	}
	r := newRig(t, &Config{}, document())
	connect := func(name string) func(host string) int {
		facts := &tlsFacts{policy: r.publisher.Current().Certs.Find(name).Policy}
		state := &tls.ConnectionState{ServerName: name, PeerCertificates: []*x509.Certificate{mine}, VerifiedChains: [][]*x509.Certificate{{mine, ca.Cert}}}
		return func(host string) int {
			x := ask(t, "GET", host, "/")
			info := r.config.newConnInfo(x.Conn, routing.Strict)
			info.tls, x.Conn.Policy, x.Conn.TLS, x.Request.Scheme = facts, info, state, "https"
			r.do(x)
			return x.Response.Status
		}
	}
	listed, free := connect("listed.test"), connect("free.test")
	f := func(what string, ask func(string) int, host string, want int) {
		t.Helper()
		if got := ask(host); got != want {
			t.Errorf("%s, asked %s: answered %d, want %d", what, host, got, want)
		}
	}
	f("a good client", listed, "listed.test", 200)
	f("a good client", free, "listed.test", 200) // the rules are the same
	ca.Revoke(mine, 1)
	r.use(document(), nil)
	for range 2 {
		f("a client that was revoked", listed, "listed.test", 421)
		f("a client that was revoked, by another name", free, "listed.test", 421)
		f("a name without a list", free, "free.test", 200)
	}
}
