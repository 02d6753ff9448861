package integration

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// acmeDocument is a document with an issuer and one certificate for names.
func acmeDocument(t *testing.T, p *pebble, config, keyType string, names ...string) string {
	t.Helper()
	ca := file(t, t.TempDir(), "pebble.pem", p.ca)
	return fmt.Sprintf(`_format_version: "3.0"
x_keyway_issuers:
- name: pebble
  type: acme
  config: {directories: [%q], ca_file: %q, email: ops@example.com, terms_agreed: true%s}
certificates:
- {x_keyway_issuer: pebble, x_keyway_key_type: %s, snis: [%s]}
routes: [{name: r, paths: [/], hosts: [%s], protocols: [https]}]
`, p.directory, ca, config, keyType, strings.Join(names, ", "), strings.Join(names, ", "))
}

// shownLeaf is the certificate that a node shows for a name to a strict client.
func shownLeaf(address, name string, roots *x509.CertPool) (*x509.Certificate, error) {
	d := &tls.Dialer{Config: &tls.Config{ServerName: name, RootCAs: roots}}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	return c.(*tls.Conn).ConnectionState().PeerCertificates[0], nil
}

func (p *pebble) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(p.root()))
	return pool
}

// issued counts the certificates that Pebble has signed.
func (p *pebble) issued() int { return strings.Count(p.out.String(), "Issued certificate serial") }

// awaitLeaf waits until a node shows a trusted certificate for a name.
func awaitLeaf(t *testing.T, g *gateway, name string, roots *x509.CertPool) *x509.Certificate {
	t.Helper()
	var got *x509.Certificate
	poll(t, "a trusted certificate for "+name, 60*time.Second, func() bool {
		var err error
		got, err = shownLeaf(g.tls, name, roots)
		if err != nil {
			time.Sleep(100 * time.Millisecond)
		}
		return err == nil
	})
	return got
}

// TestACMEIssues has Pebble, which refuses a third of all nonces, issue certificates of
// each kind of challenge over the ports of the traffic, and looks for their keys on disk.
func TestACMEIssues(t *testing.T) {
	for _, c := range []struct {
		challenge, keyType string
		algorithm          x509.PublicKeyAlgorithm
	}{
		{"tls-alpn-01", "ecdsa-p256", x509.ECDSA},
		{"http-01", "rsa-2048", x509.RSA},
	} {
		t.Run(c.challenge, func(t *testing.T) {
			httpPort, tlsPort := freePort(t), freePort(t)
			p := startPebble(t, httpPort, tlsPort, "PEBBLE_WFE_NONCEREJECT=33")
			g := start(t, options{
				document: acmeDocument(t, p, ", challenges: ["+c.challenge+"]", c.keyType, "a.example.com", "b.example.com"),
				proxy:    httpPort, tls: tlsPort, env: map[string]string{"KEYWAY_LOG_LEVEL": "debug"},
			})
			if _, err := shownLeaf(g.tls, "a.example.com", nil); err == nil {
				t.Error("there is a certificate before one was issued")
			}
			got := awaitLeaf(t, g, "b.example.com", p.pool())
			if got.PublicKeyAlgorithm != c.algorithm || got.VerifyHostname("a.example.com") != nil {
				t.Errorf("the certificate has a key of %v and names %v", got.PublicKeyAlgorithm, got.DNSNames)
			}
			if n := p.issued(); n != 1 {
				t.Errorf("%d certificates were issued", n)
			}
			// Nothing answers a challenge that is over.
			conn, err := tls.Dial("tcp", g.tls, &tls.Config{ServerName: "a.example.com", NextProtos: []string{"acme-tls/1"}, InsecureSkipVerify: true})
			if err == nil {
				_ = conn.Close()
				t.Error("acme-tls/1 is negotiated when no challenge is in progress")
			}
			scanFor(t, g, "PRIVATE KEY")

			// A restart uses what there is.
			g.stop(syscall.SIGTERM)
			g = start(t, options{document: acmeDocument(t, p, ", challenges: ["+c.challenge+"]", c.keyType, "a.example.com", "b.example.com"), proxy: httpPort, tls: tlsPort, dir: g.dir})
			if again := awaitLeaf(t, g, "a.example.com", p.pool()); !again.Equal(got) || p.issued() != 1 {
				t.Errorf("after a restart there are %d certificates", p.issued())
			}
		})
	}
}

// scanFor looks for text in all that a node wrote but its own PEM files of keys.
func scanFor(t *testing.T, g *gateway, text string) {
	t.Helper()
	if strings.Contains(g.log.String(), text) {
		t.Errorf("%q is in the log", text)
	}
	err := filepath.WalkDir(g.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if bytes.Contains(content, []byte(text)) {
			t.Errorf("%q is in %s", text, path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestACMEUnknownToken shows that a challenge passes where everything else is redirected,
// and that a token of nobody does not.
func TestACMEUnknownToken(t *testing.T) {
	httpPort, tlsPort := freePort(t), freePort(t)
	p := startPebble(t, httpPort, tlsPort)
	g := start(t, options{document: acmeDocument(t, p, ", challenges: [http-01]", "ecdsa-p256", "a.example.com"), proxy: httpPort, tls: tlsPort})
	awaitLeaf(t, g, "a.example.com", p.pool())
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+g.proxy+"/.well-known/acme-challenge/nobodys", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "a.example.com"
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("a token of nobody gets %s %q", resp.Status, body)
	}
}
