package edge

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/certs/certtest"
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
