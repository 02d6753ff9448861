package integration

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// leads says whether a node tells that it writes.
func (g *gateway) leads() bool {
	_, text := g.read("/metrics")
	return strings.Contains(text, "\nkeyway_kube_leader 1\n")
}

// TestKubeReplicas kills the replica that writes statuses: another one takes that over, for
// Ingresses and for Gateways and their routes, and its traffic never notices. Started again
// with the API server away, it opens the ports of its Gateway, with their certificate.
func TestKubeReplicas(t *testing.T) {
	k, dns, roots := startKube(t), startDNS(t), newAuthority(t, "edge")
	dns.a["origin.shop.test."] = "127.0.0.1"
	k.defineGateway("standard")
	for _, ns := range []string{"shop", "infra"} {
		k.namespace(ns)
	}
	k.controller()
	cert, key := encode(t, roots.server(t, "a.test"))
	for _, ns := range []string{"shop", "infra"} {
		k.put(ns, "pair", map[string]string{"tls.crt": cert, "tls.key": key})
	}
	k.backend("web", saying(t, "web"))
	k.apply(ingressClass + ingressOf("i", "a.test", "web", ""))
	dies := kubeGateway(t, k, dns, nil, options{})
	poll(t, "the first replica leads", 30*time.Second, dies.leads)
	dir := filepath.Join(t.TempDir(), "data")
	g := kubeGateway(t, k, dns, nil, options{dir: dir})
	g.answers(roots, "a.test", "/", 200, "web")
	if g.leads() {
		t.Error("both replicas lead")
	}
	l := (&clients{g: g, roots: roots.pool(), names: []string{"a.test"}}).begin(1)
	dies.stop(syscall.SIGKILL)
	port := freePort(t) // of the Gateway, which one replica alone can open on one machine
	k.apply(ingressOf("j", "b.test", "web", "") + gatewayClass + gatewayOf("infra", "edge") + fmt.Sprintf(`
  - {name: secure, port: %d, protocol: HTTPS, hostname: a.test, tls: {certificateRefs: [{name: pair}]}, allowedRoutes: {namespaces: {from: All}}}
---
`, port) + httpRouteOf("r", `hostnames: [a.test], rules: [{matches: [{path: {value: /x}}], backendRefs: [{name: web, port: 80}]}]`))
	there := *g // the clients go on asking where they did
	there.tls = fmt.Sprintf("127.0.0.1:%d", port)
	there.answers(roots, "a.test", "/x", 200, "web /x")
	poll(t, "the other replica leads", 45*time.Second, g.leads)
	poll(t, "it writes the status of an Ingress", 20*time.Second, func() bool {
		return in(k.do(http.MethodGet, "/apis/networking.k8s.io/v1/namespaces/shop/ingresses/j", nil), "status.loadBalancer.ingress.0.ip") == "192.0.2.7"
	})
	k.says("gateways", "infra", "edge", cond("Programmed", "True", "Programmed"))
	k.says("httproutes", "shop", "r", cond("Accepted", "True", "Accepted"))
	l.end()
	if l.lost.Load()+l.failed.Load() > 0 || l.requests.Load() < 100 {
		t.Errorf("%d of %d requests lost, %d handshakes failed; first: %v", l.lost.Load(), l.requests.Load(), l.failed.Load(), l.first.Load())
	}

	k.stop()
	g.stop(syscall.SIGTERM)
	g = kubeGateway(t, k, dns, nil, options{dir: dir, patience: time.Minute})
	g.tls = fmt.Sprintf("127.0.0.1:%d", port)
	g.answers(roots, "a.test", "/x/kept", 200, "web /x/kept")
	if code, _ := g.asked(roots, "a.test", "/other"); code == 0 {
		t.Error("a request to the Gateway's port that no HTTPRoute takes has no answer")
	}
	_, status := g.read("/status")
	if !strings.Contains(status, "serving the last known good document") {
		t.Error("it is not told that this is what was served last")
	}
}
