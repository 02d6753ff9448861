package integration

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestStreamUDPHeals has a target of two refuse datagrams: a client that asks again is
// answered, and the target is left alone after that.
func TestStreamUDPHeals(t *testing.T) {
	echo, _ := udpEcho(t)
	address := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	g := start(t, options{
		document: fmt.Sprintf(`{_format_version: "3.0", upstreams: [{name: up, healthchecks: {passive: {type: tcp, unhealthy: {tcp_failures: 1}}}, targets: [{target: "127.0.0.1:%d"}, {target: %q}]}],
		services: [{name: s, protocol: udp, host: up, port: 1, routes: [{name: r, protocols: [udp], sources: [{ip: 127.0.0.0/8}]}]}]}`, freePort(t), echo),
		env: map[string]string{"KEYWAY_STREAM_LISTEN": address + " udp"},
	})
	for i := range 20 {
		c, err := net.Dial("udp", address)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := asksUDP(c, []byte("hello")); err != nil || string(got) != "hello" {
			t.Errorf("client %d: %q, %v", i, got, err)
		}
		_ = c.Close()
	}
	if n := g.counter(t, `keyway_stream_sessions_total{protocol="udp",result="broken"}`); n != 1 {
		t.Errorf("%v sessions met the dead target, want 1", n)
	}
}

// TestStreamGuards holds what guards listeners: limits for one client, the time for a
// ClientHello, introductions by a trusted load balancer, and documents that mistake
// what a service is for.
func TestStreamGuards(t *testing.T) {
	told, echo := haproxyTold(t), tcpEcho(t, "")
	inClear, secure, proxied := fmt.Sprintf("127.0.0.1:%d", freePort(t)), fmt.Sprintf("127.0.0.1:%d", freePort(t)), fmt.Sprintf("127.0.0.1:%d", freePort(t))
	cert, key := pair(t, "a.test", "a.test")
	g := start(t, options{
		document: fmt.Sprintf(`{_format_version: "3.0", certificates: [{cert: %q, key: %q, snis: [{name: a.test}]}], services: [
		{name: echo, protocol: tcp, url: "tcp://%s", read_timeout: 1500, routes: [{name: echo, protocols: [tcp], destinations: [{port: %s}]}, {name: web, paths: [/]}]},
		{name: told, protocol: tcp, url: "tcp://%s", x_keyway_proxy_protocol: v2, routes: [{name: told, protocols: [tcp], sources: [{ip: 192.0.2.0/24}], destinations: [{port: %s}]}]},
		{name: http, url: "http://%s", routes: [{name: wrong, protocols: [tls], snis: [a.test]}]}]}`, cert, key, echo.Addr(), portOf(inClear), told, portOf(proxied), told),
		env: map[string]string{
			"KEYWAY_STREAM_LISTEN": inClear + ", " + secure + " ssl, " + proxied + " proxy_protocol", "KEYWAY_TRUSTED_IPS": "127.0.0.9/32",
			"KEYWAY_MAX_CONNECTIONS_PER_CLIENT": "2", "KEYWAY_HANDSHAKE_TIMEOUT": "2s",
		},
	})
	gone := func(c net.Conn) bool {
		b, err := io.ReadAll(c)
		return len(b) == 0 && (err == nil || errors.Is(err, syscall.ECONNRESET))
	}
	// Idle streams end, and a third one of a client is refused meanwhile.
	began := time.Now()
	one, two := from(t, "127.0.0.2", inClear), from(t, "127.0.0.2", inClear)
	for _, c := range []net.Conn{one, two} {
		if _, err := io.WriteString(c, "x"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	third, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).Dial("tcp", inClear)
	if err == nil { // it may be refused before it knows that it is connected
		defer func() { _ = third.Close() }()
	}
	if err == nil && !gone(third) {
		t.Error("a third connection of one client is served")
	}
	counts := func(series string, want float64) {
		t.Helper()
		poll(t, fmt.Sprintf("%s is %v", series, want), 20*time.Second, func() bool { return g.counter(t, series) == want })
	}
	counts(`keyway_connections_refused_total{listener="stream",reason="max_connections_per_client"}`, 1)
	if !gone(one) || !gone(two) || time.Since(began) < 1400*time.Millisecond {
		t.Errorf("idle streams ended after %v", time.Since(began))
	}
	// A ClientHello that never ends.
	slow := from(t, "127.0.0.3", secure)
	if _, err := slow.Write([]byte{22, 3, 1, 1, 0, 1}); err != nil {
		t.Fatal(err)
	}
	if began = time.Now(); !gone(slow) || time.Since(began) > 20*time.Second {
		t.Errorf("half a ClientHello was waited for %v", time.Since(began))
	}
	// The load balancer's client is the client: routes, limits and the target know it.
	introduced := func(header string) string { return asked(t, from(t, "127.0.0.9", proxied), header) }
	if got := introduced("PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n"); !strings.HasSuffix(got, "192.0.2.7 "+portOf(proxied)+" ") {
		t.Errorf("introduced: %q", got)
	}
	if got := introduced("PROXY TCP4 203.0.113.7 198.51.100.1 4711 443\r\n"); got != "" {
		t.Errorf("introduced from elsewhere: %q", got)
	}
	// A service of HTTP takes no streams, one of TCP no requests.
	tc := tls.Client(from(t, "127.0.0.4", secure), &tls.Config{ServerName: "a.test", InsecureSkipVerify: true})
	if err := tc.Handshake(); err != nil {
		t.Error(err)
	}
	if b, err := io.ReadAll(tc); len(b) > 0 {
		t.Errorf("a closed route: %q, %v", b, err)
	}
	if got := asked(t, from(t, "127.0.0.4", g.proxy), ""); !strings.HasPrefix(got, "HTTP/1.1 503 ") {
		t.Errorf("a request for a service of TCP: %q", got)
	}
	for _, want := range []string{"takes requests, not streams", "which takes streams"} {
		poll(t, "the log says "+want, 20*time.Second, func() bool { return strings.Contains(g.log.String(), want) })
	}
	for series, want := range map[string]float64{`protocol="tcp",result="idle"`: 2, `protocol="tcp",result="no_route"`: 1, `protocol="tls",result="no_hello"`: 1, `protocol="tls",result="unavailable"`: 1} {
		counts("keyway_stream_sessions_total{"+series+"}", want)
	}
}

// TestStreamUpstreamTLS verifies targets that are spoken to over TLS.
func TestStreamUpstreamTLS(t *testing.T) {
	a, other := newAuthority(t, "right"), newAuthority(t, "wrong")
	leaf := a.server(t, "localhost")
	l := accepting(t, "127.0.0.1:0", func(c net.Conn) {
		s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{leaf}})
		_, _ = io.Copy(s, s)
		_ = s.Close()
	})
	good, bad := fmt.Sprintf("127.0.0.1:%d", freePort(t)), fmt.Sprintf("127.0.0.1:%d", freePort(t))
	service := func(name, ca, listener string) string {
		return fmt.Sprintf(`{name: %s, protocol: tls, host: localhost, port: %s, retries: 0, tls_verify: true, ca_certificates: [%s], routes: [{name: %s, protocols: [tcp], destinations: [{port: %s}]}]}`, name, portOf(l.Addr().String()), ca, name, portOf(listener))
	}
	const first, second = "1e4f5f4e-3f0a-4f0e-9d1c-00000000000a", "1e4f5f4e-3f0a-4f0e-9d1c-00000000000b"
	g := start(t, options{
		document: fmt.Sprintf(`{_format_version: "3.0", ca_certificates: [{id: %s, cert: %q}, {id: %s, cert: %q}], services: [%s, %s]}`,
			first, a.pem, second, other.pem, service("good", first, good), service("bad", second, bad)),
		env: map[string]string{"KEYWAY_STREAM_LISTEN": good + ", " + bad, "KEYWAY_ACCESS_LOG": "stdout"},
	})
	text := bytes.Repeat([]byte("0123456789"), 50_000)
	if got, err := echoed(connect(t, good), text); err != nil || !bytes.Equal(got, text) {
		t.Errorf("%d bytes came back of %d: %v", len(got), len(text), err)
	}
	if got, err := echoed(connect(t, bad), []byte("secret")); len(got) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a target that nobody vouches for: %q, %v", got, err)
	}
	poll(t, "the access log says why", 20*time.Second, func() bool {
		return strings.Contains(g.log.String(), "certificate signed by unknown authority") && strings.Contains(g.log.String(), `"result":"no_target"`)
	})
}

// TestStreamRevoked ends the streams of a certificate that is revoked, and no others.
func TestStreamRevoked(t *testing.T) {
	echo := tcpEcho(t, "")
	address := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	var entries []string
	for _, name := range []string{"a.test", "b.test"} {
		cert, key := pair(t, name, name)
		entries = append(entries, fmt.Sprintf("{cert: %q, key: %q, snis: [{name: %s}]}", cert, key, name))
	}
	g := start(t, options{
		document: fmt.Sprintf(`{_format_version: "3.0", certificates: [%s], services: [{name: s, protocol: tcp, url: "tcp://%s", routes: [{name: r, protocols: [tls], snis: [a.test, b.test]}]}]}`, strings.Join(entries, ", "), echo.Addr()),
		env:      map[string]string{"KEYWAY_STREAM_LISTEN": address + " ssl"},
	})
	open := func(name string) *tls.Conn {
		c := tls.Client(connect(t, address), &tls.Config{ServerName: name, InsecureSkipVerify: true})
		if _, err := io.WriteString(c, "x"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		return c
	}
	revoked, kept := open("a.test"), open("b.test")
	g.rule(t, "revoke", "a.test", "--reason", "the key was seen")
	if _, err := io.ReadAll(revoked); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the stream of a revoked certificate goes on")
	}
	if got, err := echoed(kept, []byte("still here")); err != nil || string(got) != "still here" {
		t.Errorf("another certificate's stream: %q, %v", got, err)
	}
}
