package integration

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"
)

// hostnamesListeners are those of one Gateway that share a port over TLS, some for requests
// and some for streams, and a second port (that of the settings) for requests alone.
const hostnamesListeners = `
  - {name: wild, port: %[1]d, protocol: HTTPS, hostname: "*.web.test", tls: {certificateRefs: [{name: pair}]}}
  - {name: one, port: %[1]d, protocol: HTTPS, hostname: one.web.test, tls: {certificateRefs: [{name: pair}]}}
  - {name: term, port: %[1]d, protocol: TLS, hostname: term.web.test, tls: {mode: Terminate, certificateRefs: [{name: pair}]}}
  - {name: raw, port: %[1]d, protocol: TLS, hostname: "*.raw.test", tls: {mode: Passthrough}}
  - {name: quiet, port: %[1]d, protocol: TLS, hostname: quiet.raw.test, tls: {mode: Terminate, certificateRefs: [{name: pair}]}}
  - {name: inner, port: %[1]d, protocol: HTTPS, hostname: inner.raw.test, tls: {certificateRefs: [{name: pair}]}}
  - {name: wild-set, port: %[2]s, protocol: HTTPS, hostname: "*.web.test", tls: {certificateRefs: [{name: pair}]}}
  - {name: one-set, port: %[2]s, protocol: HTTPS, hostname: one.web.test, tls: {certificateRefs: [{name: pair}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: wild, namespace: shop}
spec: {parentRefs: [{name: edge, sectionName: wild}, {name: edge, sectionName: wild-set}], rules: [{backendRefs: [{name: wild, port: 80}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: one, namespace: shop}
spec: {parentRefs: [{name: edge, sectionName: one}, {name: edge, sectionName: one-set}, {name: edge, sectionName: inner}], rules: [{backendRefs: [{name: one, port: 80}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: raw, namespace: shop}
spec: {parentRefs: [{name: edge, sectionName: raw}], hostnames: ["*.raw.test"], rules: [{backendRefs: [{name: raw, port: 80}]}]}
---
`

const termRoute = `
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: term, namespace: shop}
spec: {parentRefs: [{name: edge, sectionName: term}], hostnames: [term.web.test], rules: [{backendRefs: [{name: term, port: 80}]}]}
`

// TestKubeGatewayHostnames: the listeners of one Gateway on one port are told apart by the
// server name, requests and streams over TLS beside each other, and a connection for one
// of them cannot be used for a host of another.
func TestKubeGatewayHostnames(t *testing.T) {
	k, dns, roots := startKube(t), startDNS(t), newAuthority(t, "edge")
	dns.a["origin.shop.test."] = "127.0.0.1"
	k.defineGateway("standard")
	k.namespace("shop")
	k.controller()
	cert, key := encode(t, roots.server(t, "*.web.test", "inner.raw.test"))
	k.put("shop", "pair", map[string]string{"tls.crt": cert, "tls.key": key})
	own, ownKey := pair(t, "own", "x.raw.test")
	k.backend("wild", saying(t, "wild"))
	k.backend("one", saying(t, "one"))
	k.backend("term", tcpEcho(t, "term ").Addr().String())
	k.backend("raw", tlsEcho(t, own, ownKey))
	g := kubeGateway(t, k, dns, overHTTP3(), options{})
	port, settings := freePort(t), g.tls
	k.apply(gatewayClass + gatewayOf("shop", "edge") + fmt.Sprintf(hostnamesListeners, port, portOf(settings)) + termRoute)
	g.tls = fmt.Sprintf("127.0.0.1:%d", port)
	for host, want := range map[string]string{"x.web.test": "wild /", "one.web.test": "one /", "inner.raw.test": "one /"} {
		g.answers(roots, host, "/", 200, want)
	}
	stream := func(name string) (said, cn string) {
		c := tls.Client(connect(t, g.tls), &tls.Config{ServerName: name, InsecureSkipVerify: true})
		defer func() { _ = c.Close() }()
		got, err := echoed(c, []byte("hello"))
		if err != nil || len(c.ConnectionState().PeerCertificates) == 0 {
			return "", ""
		}
		return string(got), c.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	for name, want := range map[string][2]string{"term.web.test": {"term hello", "*.web.test"}, "x.raw.test": {"own hello", "own"}} {
		poll(t, name+" is a stream", 20*time.Second, func() bool {
			said, cn := stream(name)
			return [2]string{said, cn} == want
		})
	}
	// A name of a more specific listener is not the wildcard's, which would pass it on.
	if said, cn := stream("quiet.raw.test"); said != "" {
		t.Errorf("the route of a wildcard takes a name of another listener: %q as %s", said, cn)
	}
	quiet := strings.NewReplacer("name: term, namespace", "name: quiet, namespace", "sectionName: term", "sectionName: quiet", "term.web.test", "quiet.raw.test").Replace(termRoute)
	k.apply(quiet)
	poll(t, "its own route has it", 20*time.Second, func() bool {
		said, cn := stream("quiet.raw.test")
		return said == "term hello" && cn == "*.web.test"
	})
	t.Run("misdirected", func(t *testing.T) {
		for _, speak := range []struct {
			address string
			client  func(t *testing.T, roots *authority, name string) http.RoundTripper
		}{{g.tls, named(false)}, {g.tls, named(true)}, {settings, named(true)}, {settings, named3}} {
			misdirected(t, roots, speak.address, speak.client)
		}
	})
	// A name of streams is never one of requests, not even where no stream is for it.
	k.unapply(termRoute)
	poll(t, "the stream is no more", 20*time.Second, func() bool { said, _ := stream("term.web.test"); return said == "" })
	if code, body := g.asked(roots, "term.web.test", "/"); code != 0 {
		t.Errorf("a name of streams is served requests: %d %s", code, body)
	}
	g.answers(roots, "x.web.test", "/", 200, "wild /")
	k.says("gateways", "shop", "edge", cond("Programmed", "True", "Programmed"))
}

// named is a client over HTTP/1.1 or HTTP/2 that names a server in its handshake.
func named(h2 bool) func(t *testing.T, roots *authority, name string) http.RoundTripper {
	return func(t *testing.T, roots *authority, name string) http.RoundTripper {
		tr := &http.Transport{ForceAttemptHTTP2: h2, TLSClientConfig: &tls.Config{ServerName: name, RootCAs: roots.pool(), MinVersion: tls.VersionTLS12}}
		t.Cleanup(tr.CloseIdleConnections)
		return tr
	}
}

func named3(t *testing.T, roots *authority, name string) http.RoundTripper {
	tr := &http3.Transport{QUICConfig: patient(), TLSClientConfig: &tls.Config{ServerName: name, RootCAs: roots.pool(), MinVersion: tls.VersionTLS13}}
	t.Cleanup(func() { _ = tr.Close() })
	return tr
}

// misdirected asks for hosts on connections that were made for names.
func misdirected(t *testing.T, roots *authority, address string, client func(t *testing.T, roots *authority, name string) http.RoundTripper) {
	t.Helper()
	for name, asks := range map[string]map[string]int{
		"x.web.test":   {"x.web.test": 200, "y.web.test": 200, "one.web.test": 421, "ONE.web.test.": 421, "nobody.test": 404},
		"one.web.test": {"x.web.test": 421, "one.web.test": 200, "one.web.test:443": 200, "nobody.test": 404},
	} {
		tr := client(t, roots, name)
		for host, want := range asks {
			req, err := http.NewRequest(http.MethodGet, "https://"+address+"/", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = host
			resp, err := tr.RoundTrip(req)
			if err != nil {
				t.Fatalf("%s as %s, asking %s: %v", address, name, host, err)
			}
			body, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != want {
				t.Errorf("%s over %s as %s, asking %s: %d %s, want %d", address, resp.Proto, name, host, resp.StatusCode, body, want)
			}
		}
	}
}
