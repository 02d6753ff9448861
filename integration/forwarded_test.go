package integration

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestForwardedThroughTwoHops has a node before a node, and HAProxy before the second one,
// tell of clients by Forwarded (RFC 7239): the origin is told the whole way and the client,
// and nothing that the client or a stranger claims.
func TestForwardedThroughTwoHops(t *testing.T) {
	o := origin(t, func(w http.ResponseWriter, r *http.Request) {
		h := r.Header
		_, _ = fmt.Fprintf(w, "%s / %s / %s://%s:%s / %s", strings.Join(h.Values("Forwarded"), "+"), h.Get("X-Forwarded-For"),
			h.Get("X-Forwarded-Proto"), h.Get("X-Forwarded-Host"), h.Get("X-Forwarded-Port"), h.Get("X-Real-IP"))
	})
	// The second node's own policies are held to what it believes too.
	second := start(t, options{
		document: fmt.Sprintf(`_format_version: "3.0"
services:
- {name: a, url: "http://%s", routes: [{name: open, paths: [/], preserve_host: true}, {name: secure, paths: [/secure], preserve_host: true, protocols: [https]}]}
plugins: [{name: ip-restriction, config: {deny: [127.0.0.13]}}]
`, o),
		env: map[string]string{"KEYWAY_TRUSTED_IPS": "127.0.0.1/32", "KEYWAY_REAL_IP_HEADER": "Forwarded", "KEYWAY_FORWARDED": "on"},
	})
	cert, key := pair(t, "a.test", "a.test")
	first := start(t, options{
		document: fmt.Sprintf("_format_version: \"3.0\"\ncertificates: [{cert: %q, key: %q, snis: [a.test]}]\nservices: [{name: a, url: \"http://%s\", routes: [{paths: [/], strip_path: false, preserve_host: true}]}]\n", cert, key, second.proxy),
		env:      map[string]string{"KEYWAY_FORWARDED": "on"},
	})
	ask := func(source, address, target string) string {
		t.Helper()
		c := from(t, source, address)
		if address == first.tls {
			c = tls.Client(c, &tls.Config{ServerName: "a.test", InsecureSkipVerify: true})
		}
		_, err := io.WriteString(c, "GET "+target+" HTTP/1.1\r\nHost: a.test\r\nForwarded: for=9.9.9.9;proto=https;host=evil\r\nX-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\nX-Real-IP: 9.9.9.9\r\nConnection: close\r\n\r\n")
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(c)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for _, c := range []struct{ what, source, address, target, want string }{
		{
			"by TLS, through both", "127.0.0.9", first.tls, "/secure",
			"for=127.0.0.9;proto=https;host=a.test, for=127.0.0.1;proto=http;host=a.test / 127.0.0.9, 127.0.0.1 / https://a.test:443 / 127.0.0.9",
		},
		{
			"in clear, through both", "127.0.0.9", first.proxy, "/",
			"for=127.0.0.9;proto=http;host=a.test, for=127.0.0.1;proto=http;host=a.test / 127.0.0.9, 127.0.0.1 / http://a.test:80 / 127.0.0.9",
		},
		{"a stranger at the second", "127.0.0.9", second.proxy, "/", "for=127.0.0.9;proto=http;host=a.test / 127.0.0.9 / http://a.test:" + strings.TrimPrefix(second.proxy, "127.0.0.1:") + " / 127.0.0.9"},
		{"in clear, where TLS is wanted", "127.0.0.9", first.proxy, "/secure", "HTTP/1.1 426 "},
		{"a stranger, where TLS is wanted", "127.0.0.9", second.proxy, "/secure", "HTTP/1.1 426 "},
		{"who is kept out, through both", "127.0.0.13", first.proxy, "/", "HTTP/1.1 403 "},
	} {
		if got := ask(c.source, c.address, c.target); !strings.HasPrefix(got, c.want) && !strings.HasSuffix(got, "\r\n\r\n"+c.want) {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
	haproxy, err := exec.LookPath("haproxy")
	if err != nil {
		skip(t, "haproxy is not installed; run make setup")
	}
	front := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	process(t, t.TempDir(), nil, haproxy, "-db", "-f", file(t, t.TempDir(), "haproxy.cfg", fmt.Sprintf(
		"defaults\n  mode http\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\nlisten a\n  bind %s\n  http-request set-header Forwarded for=%%[src];proto=http;host=%%[req.hdr(host)]\n  server node %s source 127.0.0.1\n", front, second.proxy)))
	poll(t, "HAProxy listens", 20*time.Second, func() bool {
		c, err := net.Dial("tcp", front)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	if got := ask("127.0.0.9", front, "/"); !strings.HasSuffix(got, "\r\n\r\nfor=127.0.0.9;proto=http;host=a.test, for=127.0.0.1;proto=http;host=a.test / 127.0.0.9, 127.0.0.1 / http://a.test:80 / 127.0.0.9") {
		t.Errorf("behind HAProxy: %q", got)
	}
}
