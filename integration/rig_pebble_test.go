package integration

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"testing"
	"time"
)

// pebble is a real ACME server for tests, whose names all lead to 127.0.0.1.
type pebble struct {
	t         testing.TB
	directory string          // URL
	ca        string          // PEM of the authority of its own TLS
	front     tls.Certificate // its own certificate, for a proxy in front
	trust     *x509.CertPool  // of the same
	manage    string          // URL of its management
	challenge string          // URL of the management of its name server
	out       *lockedBuffer
}

// startPebble runs Pebble and its name server. It validates against these ports: the
// gateway's. env switches its faults on, such as PEBBLE_WFE_NONCEREJECT=50.
func startPebble(t testing.TB, httpPort, tlsPort int, env ...string) *pebble {
	t.Helper()
	return startPebbleWith(t, httpPort, tlsPort, nil, env...)
}

// startPebbleWith overrides settings of its configuration.
func startPebbleWith(t testing.TB, httpPort, tlsPort int, settings map[string]any, env ...string) *pebble {
	t.Helper()
	server, challtest := tool(t, "pebble"), tool(t, "pebble-challtestsrv")
	dir := t.TempDir()
	a := newAuthority(t, "pebble's own")
	front := a.server(t, "localhost")
	cert, key := encode(t, front)
	api, manage, names, challenge := freePort(t), freePort(t), freePort(t), freePort(t)
	inner := map[string]any{
		"listenAddress": fmt.Sprintf("127.0.0.1:%d", api), "managementListenAddress": fmt.Sprintf("127.0.0.1:%d", manage),
		"certificate": file(t, dir, "cert.pem", cert), "privateKey": file(t, dir, "key.pem", key),
		"httpPort": httpPort, "tlsPort": tlsPort, "ocspResponderURL": "", "externalAccountBindingRequired": false,
		"retryAfter": map[string]int{"authz": 1, "order": 1},
		"profiles":   map[string]any{"default": map[string]any{"description": "for tests", "validityPeriod": 7776000}},
	}
	maps.Copy(inner, settings)
	config, err := json.Marshal(map[string]any{"pebble": inner})
	if err != nil {
		t.Fatal(err)
	}
	process(t, dir, nil, challtest, "-dnsserver", fmt.Sprintf("127.0.0.1:%d", names), "-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "",
		"-management", fmt.Sprintf("127.0.0.1:%d", challenge), "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "")
	p := &pebble{
		t: t, directory: fmt.Sprintf("https://localhost:%d/dir", api), ca: a.pem, front: front, trust: x509.NewCertPool(),
		manage: fmt.Sprintf("https://localhost:%d", manage), challenge: fmt.Sprintf("http://127.0.0.1:%d", challenge),
	}
	p.trust.AddCert(a.cert)
	p.out = process(t, dir, append([]string{"PEBBLE_VA_NOSLEEP=1"}, env...), server, "-config", file(t, dir, "pebble.json", string(config)), "-dnsserver", fmt.Sprintf("127.0.0.1:%d", names))
	poll(t, "pebble answers", 20*time.Second, func() bool { _, err := p.get(p.directory); return err == nil })
	return p
}

// root is the authority that signs what Pebble issues, in PEM.
func (p *pebble) root() string {
	p.t.Helper()
	text, err := p.get(p.manage + "/roots/0")
	if err != nil {
		p.t.Fatal(err)
	}
	return text
}

func (p *pebble) get(url string) (string, error) {
	c := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: p.trust}}}
	resp, err := c.Get(url)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	return string(text), err
}
