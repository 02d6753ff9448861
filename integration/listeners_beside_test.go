package integration

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// TestListenersOfOnePort has requests over TLS and streams on one port, told apart by the
// server name: a name that a route of streams has is a stream, passed on undecrypted or
// not, and any other is one of requests.
func TestListenersOfOnePort(t *testing.T) {
	web := origin(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "web over "+r.Proto) })
	inner := tcpEcho(t, "stream ")
	cert, key := pair(t, "edge", "web.test", "term.test")
	own, ownKey := pair(t, "own", "raw.test")
	pass := tlsEcho(t, own, ownKey)
	port := freePort(t)
	g := start(t, options{document: fmt.Sprintf(`{_format_version: "3.0",
	x_keyway_listeners: [{name: requests, protocol: https, port: %d}, {name: streams, protocol: tls, port: %[1]d}],
	certificates: [{cert: %q, key: %q, snis: [{name: web.test}, {name: term.test}]}],
	services: [
	{name: web, url: "http://%s", routes: [{name: web, hosts: [web.test]}]},
	{name: inner, protocol: tcp, url: "tcp://%s", routes: [{name: term, protocols: [tls], snis: [term.test]}]},
	{name: pass, protocol: tcp, url: "tcp://%s", routes: [{name: raw, protocols: [tls_passthrough], snis: [raw.test]}]}]}`, port, cert, key, web, inner.Addr(), pass)})
	address := fmt.Sprintf("127.0.0.1:%d", port)
	poll(t, "the port is open", 20*time.Second, func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})

	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		tr := &http.Transport{ForceAttemptHTTP2: proto == "HTTP/2.0", TLSClientConfig: &tls.Config{ServerName: "web.test", InsecureSkipVerify: true}}
		req, err := http.NewRequest(http.MethodGet, "https://"+address, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "web.test"
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatalf("%s: %v", proto, err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		tr.CloseIdleConnections()
		if resp.StatusCode != http.StatusOK || resp.Proto != proto || !bytes.HasPrefix(body, []byte("web over")) {
			t.Errorf("%s: %d over %s, %q", proto, resp.StatusCode, resp.Proto, body)
		}
	}
	for name, want := range map[string]struct{ said, cn string }{"term.test": {"stream hello", "edge"}, "raw.test": {"own hello", "own"}} {
		c := tls.Client(connect(t, address), &tls.Config{ServerName: name, InsecureSkipVerify: true})
		got, err := echoed(c, []byte("hello"))
		if err != nil || string(got) != want.said || c.ConnectionState().PeerCertificates[0].Subject.CommonName != want.cn {
			t.Errorf("%s: %q from %v, %v; want %q from %s", name, got, c.ConnectionState().PeerCertificates, err, want.said, want.cn)
		}
	}
	// Who forgets the s of https has the answer that ports of requests give.
	clear, err := echoed(connect(t, address), []byte("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n"))
	if !bytes.Contains(clear, []byte("400 Bad Request")) {
		t.Errorf("in clear: %q, %v", clear, err)
	}
	if _, status := g.read("/status"); bytes.Contains([]byte(status), []byte("is not served")) {
		t.Errorf("status: %s", status)
	}
}
