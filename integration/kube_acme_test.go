package integration

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// proving is a cluster in which cert-manager proves names to a real authority by way of
// a node.
type proving struct {
	*kubeServer
	g       *gateway
	p       *pebble
	solvers *kubelet
}

// startProving has the ClusterIssuer pebble solve challenges as it says, at Gateways or
// with Ingresses.
func startProving(t *testing.T, solver string, gateways bool) *proving {
	t.Helper()
	x := &proving{kubeServer: startKube(t)}
	dns := startDNS(t)
	dns.a["origin.shop.test."] = "127.0.0.1"
	if gateways {
		x.defineGateway("standard")
	}
	x.namespace("shop")
	x.controller()
	x.apply(ingressClass)
	x.backend("web", saying(t, "web"))
	x.g = kubeGateway(t, x.kubeServer, dns, nil, options{})
	port, err := strconv.Atoi(x.port(x.g.proxy))
	if err != nil {
		t.Fatal(err)
	}
	x.p = startPebble(t, port, freePort(t))
	// cert-manager asks port 80 before the authority may; with the node as its proxy it
	// needs no port that is kept for root.
	x.startCertManager([]string{"HTTP_PROXY=http://" + x.g.proxy}, fmt.Sprintf("-gateway-api=%v", gateways), fmt.Sprintf("-listener-sets=%v", gateways))
	x.solvers = x.startKubelet(t, "shop")
	x.apply(fmt.Sprintf(`
apiVersion: cert-manager.io/v1
kind: ClusterIssuer
metadata: {name: pebble}
spec:
  acme:
    server: %s
    caBundle: %s
    privateKeySecretRef: {name: account}
    solvers: [{http01: {%s}}]
`, x.p.directory, base64.StdEncoding.EncodeToString([]byte(x.p.ca)), solver))
	return x
}

func (x *proving) port(address string) string {
	x.t.Helper()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		x.t.Fatal(err)
	}
	return port
}

// proves watches a challenge for a host be answered in clear, while all else is sent to
// TLS, and lead to a certificate that serves. kind is where its route is; it answers which
// path that was.
func (x *proving) proves(host, kind string) (path string) {
	x.t.Helper()
	began := time.Now()
	var solver string // of the challenge, as the cluster has it
	poll(x.t, "the challenge is answered in clear, and all else is sent to TLS", time.Minute, func() bool {
		if solver = x.challenge(kind); solver == "" {
			return false
		}
		code, body := x.g.first(host, solver)
		other, _ := x.g.first(host, challenges+"x")
		return code == http.StatusOK && strings.HasPrefix(body, strings.TrimPrefix(solver, challenges)+".") && other == http.StatusFound
	})
	roots := authorityOf(x.t, x.p.root())
	poll(x.t, "the authority's certificate serves", time.Minute, func() bool {
		code, body := x.g.asked(roots, host, "/")
		return code == http.StatusOK && strings.Contains(body, "web /")
	})
	x.t.Logf("issued by the authority and served after %v; pods: %s", time.Since(began).Round(time.Millisecond), strings.Fields(x.solvers.solved.String()))
	return solver
}

const challenges = "/.well-known/acme-challenge/"

// challenge is the path of an object that answers one, "" for none.
func (x *proving) challenge(kind string) string {
	x.t.Helper()
	text, err := json.Marshal(x.do(http.MethodGet, "/apis/"+kind+"?labelSelector=acme.cert-manager.io/http01-solver%3Dtrue", nil))
	if err != nil {
		x.t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), `"`+challenges)
	token, _, _ := strings.Cut(rest, `"`)
	if !found {
		return ""
	}
	return challenges + token
}

// TestCertManagerHTTP01 has cert-manager prove a name to a real authority through the
// node: from the solver's Ingress by way of its Service to the solver's process, while
// another Ingress of the same host, with more conditions, sends everything to TLS.
func TestCertManagerHTTP01(t *testing.T) {
	x := startProving(t, "ingress: {ingressClassName: keyway}", false)
	x.apply(issuedIngress("acme", `cert-manager.io/cluster-issuer: pebble, ingress.kubernetes.io/force-ssl-redirect: "true", konghq.com/methods: "GET,HEAD"`, "acme.shop.test"))
	const kind = "networking.k8s.io/v1/namespaces/shop/ingresses"
	path := x.proves("acme.shop.test", kind)
	poll(t, "the challenge's route is taken away", 30*time.Second, func() bool {
		code, _ := x.g.first("acme.shop.test", path)
		return x.challenge(kind) == "" && code == http.StatusFound
	})
}

// TestCertManagerGateway does so for an annotated Gateway, through gateway-shim and the
// solver's HTTPRoute, while an Ingress of the same host sends everything to TLS. That
// route is left to the collector of garbage, which no test runs. Then a ListenerSet gets
// its certificate from another issuer.
func TestCertManagerGateway(t *testing.T) {
	x := startProving(t, "gatewayHTTPRoute: {parentRefs: [{name: edge, namespace: shop, kind: Gateway}]}", true)
	x.apply(gatewayClass + fmt.Sprintf(`
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop, annotations: {cert-manager.io/cluster-issuer: pebble}}
spec:
  gatewayClassName: keyway
  allowedListeners: {namespaces: {from: Same}}
  listeners:
  - {name: clear, port: %s, protocol: HTTP}
  - {name: secure, port: %s, protocol: HTTPS, hostname: gw.shop.test, tls: {certificateRefs: [{name: gw-tls}]}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: all, namespace: shop, annotations: {ingress.kubernetes.io/force-ssl-redirect: "true"}}
spec:
  ingressClassName: keyway
  rules: [{host: gw.shop.test, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {name: http}}}}]}}]
`, x.port(x.g.proxy), x.port(x.g.tls)))
	x.proves("gw.shop.test", "gateway.networking.k8s.io/v1/namespaces/shop/httproutes")
	x.listenerSet()
}

// listenerSet has a ListenerSet of the same Gateway name an issuer of its own.
func (x *proving) listenerSet() {
	c := &certManaged{kubeServer: x.kubeServer, g: x.g, roots: newAuthority(x.t, "ca")}
	x.caIssuer("ca", c.roots)
	x.apply(fmt.Sprintf(`
apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: {name: more, namespace: shop, annotations: {%s}}
spec:
  parentRef: {name: edge}
  listeners: [{name: secure, port: %s, protocol: HTTPS, hostname: more.shop.test, tls: {certificateRefs: [{name: more-tls}]}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: more, namespace: shop}
spec: {parentRefs: [{kind: ListenerSet, name: more}], rules: [{backendRefs: [{name: web, port: 80}]}]}
`, byCA, x.port(x.g.tls)))
	x.g.answers(c.roots, "more.shop.test", "/hello", 200, "web /hello")
	c.becomes("more.shop.test", "issued")
	if s := c.shown("more.shop.test"); s.Owner.Certificate != "shop/more-tls" || s.Owner.Issuer != "ClusterIssuer ca" {
		x.t.Errorf("cert-manager's part: %+v", s.Owner)
	}
	before := c.serial("more.shop.test")
	if out, err := x.g.run("certs", "renew", "more.shop.test"); err != nil {
		x.t.Errorf("certs renew: %v: %s", err, out)
	}
	c.another("more.shop.test", before, 30*time.Second)
}

// first is the first answer to a request in clear, be it that it sends elsewhere.
func (g *gateway) first(host, path string) (int, string) {
	g.t.Helper()
	req, err := http.NewRequest(http.MethodGet, "http://"+g.proxy+path, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	req.Host = host
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

// authorityOf is one that the test has no key of.
func authorityOf(t testing.TB, text string) *authority {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatal("no certificate in the authority's PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert: cert, pem: text}
}
