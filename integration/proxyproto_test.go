package integration

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// from dials from an address of loopback, as another machine would.
func from(t testing.TB, source, address string) net.Conn {
	t.Helper()
	d := net.Dialer{Timeout: 20 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	c, err := d.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	return c
}

// asked sends a request on a connection and answers what came back, to its end.
func asked(t testing.TB, c net.Conn, before string) string {
	t.Helper()
	_, err := io.WriteString(c, before+"GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 203.0.113.9\r\nX-Real-IP: 203.0.113.9\r\nConnection: close\r\n\r\n")
	if err != nil {
		return ""
	}
	answer, err := io.ReadAll(c)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("reading the answer: %v", err)
	}
	return string(answer)
}

// TestProxyProtocol has a real HAProxy pass connections on with headers of both
// versions, in clear and over TLS: the origin is told the client, and nothing that the
// client claims. Peers that are not trusted introduce nobody; trusted ones must.
func TestProxyProtocol(t *testing.T) {
	haproxy, err := exec.LookPath("haproxy")
	if err != nil {
		skip(t, "haproxy is not installed; run make setup")
	}
	o := origin(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "forwarded for %s, real %s", strings.Join(r.Header.Values("X-Forwarded-For"), "+"), r.Header.Get("X-Real-IP"))
	})
	cert, key := pair(t, "a.test", "a.test")
	g := start(t, options{
		document: fmt.Sprintf("_format_version: \"3.0\"\ncertificates: [{cert: %q, key: %q, snis: [a.test]}]\nservices: [{name: a, url: \"http://%s\", routes: [{paths: [/]}]}]\n", cert, key, o),
		env:      map[string]string{"KEYWAY_PROXY_PROTOCOL": "all", "KEYWAY_TRUSTED_IPS": "127.0.0.1/32"},
	})
	var conf strings.Builder
	conf.WriteString("defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n")
	fronts := map[string]string{}
	for name, send := range map[string]string{"v1": "send-proxy", "v2": "send-proxy-v2", "v2-crc": "send-proxy-v2 proxy-v2-options crc32c,unique-id"} {
		for port, address := range map[string]string{"clear": g.proxy, "tls": g.tls} {
			front := fmt.Sprintf("127.0.0.1:%d", freePort(t))
			fronts[name+" "+port] = front
			fmt.Fprintf(&conf, "listen %s-%s\n  bind %s\n  server node %s %s source 127.0.0.1\n", name, port, front, address, send)
		}
	}
	process(t, t.TempDir(), nil, haproxy, "-db", "-f", file(t, t.TempDir(), "haproxy.cfg", conf.String()))
	const want = "forwarded for 127.0.0.9, real 127.0.0.9"
	for name, front := range fronts {
		poll(t, "HAProxy listens", 20*time.Second, func() bool {
			c, err := net.Dial("tcp", front)
			if err == nil {
				_ = c.Close()
			}
			return err == nil
		})
		c := from(t, "127.0.0.9", front)
		if strings.HasSuffix(name, "tls") {
			c = tls.Client(c, &tls.Config{ServerName: "a.test", InsecureSkipVerify: true})
		}
		if got := asked(t, c, ""); !strings.HasSuffix(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	// One that is not trusted is a client, whatever it says.
	if got := asked(t, from(t, "127.0.0.5", g.proxy), ""); !strings.HasSuffix(got, "forwarded for 127.0.0.5, real 127.0.0.5") {
		t.Errorf("directly: %q", got)
	}
	const forged = "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"
	if got := asked(t, from(t, "127.0.0.5", g.proxy), forged); !strings.HasPrefix(got, "HTTP/1.1 400 ") {
		t.Errorf("a header of a peer that is not trusted: %q", got)
	}
	// A trusted peer has to introduce its client.
	for name, before := range map[string]string{"none": "", "half of one": "PROXY TCP4 192.0.2.1\r\n", "two": forged + forged} {
		if got := asked(t, from(t, "127.0.0.1", g.proxy), before); strings.Contains(got, " 200 ") {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := asked(t, from(t, "127.0.0.1", g.proxy), "PROXY UNKNOWN\r\n"); !strings.Contains(got, "forwarded for 203.0.113.9, 127.0.0.1") && !strings.Contains(got, " 200 ") {
		t.Errorf("its own connection: %q", got)
	}
	if log := g.log.String(); !strings.Contains(log, "proxy_protocol") || strings.Count(log, "proxy_protocol") > 8 {
		t.Errorf("the log says it %d times", strings.Count(log, "proxy_protocol"))
	}
}
