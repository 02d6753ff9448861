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

// TestCertManagerHTTP01 has cert-manager prove a name to a real authority through the
// node: from the solver's Ingress by way of its Service to the solver's process, while
// another Ingress of the same host, with more conditions, sends everything to TLS.
func TestCertManagerHTTP01(t *testing.T) {
	k, dns := startKube(t), startDNS(t)
	dns.a["origin.shop.test."] = "127.0.0.1"
	k.namespace("shop")
	k.controller()
	k.apply(ingressClass)
	k.backend("web", saying(t, "web"))
	g := kubeGateway(t, k, dns, nil, options{})
	_, text, err := net.SplitHostPort(g.proxy)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	p := startPebble(t, port, freePort(t))
	// cert-manager asks port 80 before the authority may; with the node as its proxy it
	// needs no port that is kept for root.
	k.startCertManager([]string{"HTTP_PROXY=http://" + g.proxy})
	solvers := k.startKubelet(t, "shop")
	k.apply(fmt.Sprintf(`
apiVersion: cert-manager.io/v1
kind: ClusterIssuer
metadata: {name: pebble}
spec:
  acme:
    server: %s
    caBundle: %s
    privateKeySecretRef: {name: account}
    solvers: [{http01: {ingress: {ingressClassName: keyway}}}]
`, p.directory, base64.StdEncoding.EncodeToString([]byte(p.ca))))
	began := time.Now()
	k.apply(issuedIngress("acme", `cert-manager.io/cluster-issuer: pebble, ingress.kubernetes.io/force-ssl-redirect: "true", konghq.com/methods: "GET,HEAD"`, "acme.shop.test"))

	var solver string // of the challenge, as the cluster has it
	poll(t, "the challenge is answered in clear, and all else is sent to TLS", time.Minute, func() bool {
		solver = pathOfSolver(k)
		if solver == "" {
			return false
		}
		code, body := g.first("acme.shop.test", solver)
		other, _ := g.first("acme.shop.test", "/.well-known/acme-challenge/x")
		return code == http.StatusOK && strings.HasPrefix(body, strings.TrimPrefix(solver, "/.well-known/acme-challenge/")+".") && other == http.StatusFound
	})
	roots := authorityOf(t, p.root())
	poll(t, "the authority's certificate serves", time.Minute, func() bool {
		code, body := g.asked(roots, "acme.shop.test", "/")
		return code == http.StatusOK && strings.Contains(body, "web /")
	})
	t.Logf("issued by the authority and served %v after the Ingress was written; pods: %s", time.Since(began).Round(time.Millisecond), strings.Fields(solvers.solved.String()))
	poll(t, "the challenge's route is taken away", 30*time.Second, func() bool {
		code, _ := g.first("acme.shop.test", solver)
		return pathOfSolver(k) == "" && code == http.StatusFound
	})
}

// pathOfSolver is the path of an Ingress that answers a challenge, "" for none.
func pathOfSolver(k *kubeServer) string {
	k.t.Helper()
	text, err := json.Marshal(k.do(http.MethodGet, "/apis/networking.k8s.io/v1/namespaces/shop/ingresses?labelSelector=acme.cert-manager.io/http01-solver%3Dtrue", nil))
	if err != nil {
		k.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), `"path":"`)
	path, _, _ := strings.Cut(rest, `"`)
	return path
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
