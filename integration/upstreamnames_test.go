package integration

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestUpstreamNames has targets whose certificates are for other names than that of their
// host: those that tls_sans has are right by every protocol, and once they are taken away
// the next request, tunnel and stream is refused, whatever connections there are.
func TestUpstreamNames(t *testing.T) {
	a := newAuthority(t, "upstreams")
	workload, err := url.Parse("spiffe://orders.test/web")
	if err != nil {
		t.Fatal(err)
	}
	of := func(change func(*x509.Certificate)) tls.Certificate {
		return a.leafOf(t, func(c *x509.Certificate) {
			c.IPAddresses = nil
			change(c)
		})
	}
	byName := of(func(c *x509.Certificate) { c.DNSNames = []string{"orders.test"} })
	byURI := of(func(c *x509.Certificate) { c.URIs = []*url.URL{workload} })
	byHost := a.leafOf(t, func(*x509.Certificate) {})
	says := func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) }
	on := func(pair tls.Certificate, h http.HandlerFunc, protos ...string) string {
		return secureOrigin(t, &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: protos}, h)
	}
	echo := accepting(t, "127.0.0.1:0", func(c net.Conn) {
		s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{byName}})
		_, _ = io.Copy(s, s)
		_ = s.Close()
	})
	stream := free(t)
	document := func(sans string) string {
		var doc strings.Builder
		fmt.Fprintf(&doc, "_format_version: \"3.0\"\nca_certificates: [{id: 0e7c8e4e-0000-4000-8000-000000000001, cert: %q}]\nservices:\n", a.pem)
		for name, s := range map[string]struct{ address, fields string }{
			"name": {on(byName, says), ""},
			"uri":  {on(byURI, says), ""},
			"host": {on(byHost, says), ""},
			"h2":   {on(byName, says, "h2"), "x_keyway_upstream_protocol: h2, "},
			"chat": {on(byName, echoFrames), ""},
		} {
			fmt.Fprintf(&doc, "- {name: %s, url: \"https://%s\", ca_certificates: [0e7c8e4e-0000-4000-8000-000000000001], tls_sans: %s, %sroutes: [{paths: [/%s]}]}\n", name, s.address, sans, s.fields, name)
		}
		fmt.Fprintf(&doc, "- {name: stream, url: \"tls://%s\", retries: 0, ca_certificates: [0e7c8e4e-0000-4000-8000-000000000001], tls_sans: %s, routes: [{protocols: [tcp], destinations: [{port: %s}]}]}\n", echo.Addr(), sans, portOf(stream))
		return doc.String()
	}
	const sans = "{dnsnames: [orders.test], uris: [\"spiffe://orders.test/web\"]}"
	right := document(sans)
	wrong := strings.ReplaceAll(right, sans, "{dnsnames: [else.test], uris: [\"spiffe://orders.test/other\"]}")
	g := start(t, options{document: right, env: debug(map[string]string{"KEYWAY_STREAM_LISTEN": stream})})
	ask := func(path string, status int, want string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+g.proxy+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if path == "/chat" {
			req.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}}
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var body []byte
		if resp.StatusCode != http.StatusSwitchingProtocols { // which has no end
			body, _ = io.ReadAll(resp.Body)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != status || status == 200 && string(body) != want {
			t.Errorf("%s: %d %q, want %d %q", path, resp.StatusCode, body, status, want)
		}
		for _, tells := range []string{"tls_sans", "certificate", "orders.test", "else.test"} {
			if strings.Contains(string(body)+fmt.Sprint(resp.Header), tells) {
				t.Errorf("%s: the client is told %q: %s", path, tells, body)
			}
		}
	}
	passes := func() {
		t.Helper()
		for range 2 { // the second over a connection of the first
			ask("/name", 200, "HTTP/1.1")
			ask("/uri", 200, "HTTP/1.1")
			ask("/host", 200, "HTTP/1.1")
			ask("/h2", 200, "HTTP/2.0")
		}
		chat := webSocket(t, g, "")
		hello := wsFrame{fin: true, opcode: 1, payload: []byte("hello")}
		chat.say(hello)
		chat.hear(hello)
		if got, err := echoed(connect(t, stream), []byte("hello")); err != nil || string(got) != "hello" {
			t.Errorf("the stream echoed %q, %v", got, err)
		}
	}
	passes()
	g.load(wrong)
	ask("/host", 200, "HTTP/1.1") // the host's name stays right
	for _, path := range []string{"/name", "/uri", "/h2", "/chat"} {
		ask(path, 502, "")
	}
	if got, err := echoed(connect(t, stream), []byte("secret")); len(got) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a target without a name that is wanted: %q, %v", got, err)
	}
	const wants = `tls_sans: expected a certificate for one of [\"127.0.0.1\" \"else.test\" \"spiffe://orders.test/other\"]; it is for [`
	for what, why := range map[string]string{
		`/name"`: wants + `\"orders.test\"]`, `/uri"`: wants + `\"spiffe://orders.test/web\"]`, `/h2"`: wants + `\"orders.test\"]`,
		`/chat"`: wants + `\"orders.test\"]`, `"no_target"`: wants + `\"orders.test\"]`,
	} {
		poll(t, "the log says of "+what+" "+why, 20*time.Second, func() bool {
			for line := range strings.Lines(g.log.String()) {
				if strings.Contains(line, what) && strings.Contains(line, why) {
					return true
				}
			}
			return false
		})
	}
	g.load(right)
	passes()
}
