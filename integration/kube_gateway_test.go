package integration

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// httpRouteOf is an HTTPRoute shop/NAME at the Gateway infra/edge.
func httpRouteOf(name, spec string) string {
	return fmt.Sprintf(`
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %s, namespace: shop}
spec: {parentRefs: [{name: edge, namespace: infra}], %s}
---
`, name, spec)
}

// says waits until the status of an object of Gateway API has all of these texts.
func (k *kubeServer) says(plural, namespace, name string, texts ...string) {
	k.t.Helper()
	path := "/apis/gateway.networking.k8s.io/v1/"
	if namespace != "" {
		path += "namespaces/" + namespace + "/"
	}
	for _, want := range texts {
		var text []byte
		deadline := time.Now().Add(20 * time.Second)
		for {
			text, _ = json.Marshal(k.do(http.MethodGet, path+plural+"/"+name, nil)["status"])
			if strings.Contains(string(text), want) {
				break
			}
			if time.Now().After(deadline) {
				k.t.Fatalf("the status of %s %s/%s has no %s: %s", plural, namespace, name, want, text)
			}
			<-time.After(50 * time.Millisecond)
		}
	}
}

// cond is a condition as a status has it.
func cond(kind, status, reason string) string {
	return fmt.Sprintf(`"reason":%q,"status":%q,"type":%q`, reason, status, kind)
}

// TestKubeGateway serves a Gateway of a real API server and its routes, and says in their
// statuses how they stand.
func TestKubeGateway(t *testing.T) {
	k, dns, roots := startKube(t), startDNS(t), newAuthority(t, "edge")
	dns.a["origin.shop.test."] = "127.0.0.1"
	k.defineGateway("standard")
	for _, ns := range []string{"shop", "infra", "other"} {
		k.namespace(ns)
	}
	k.controller()
	k.backend("first", saying(t, "first"))
	k.backend("second", saying(t, "second"))
	g := kubeGateway(t, k, dns, nil, options{})
	_, clear, _ := net.SplitHostPort(g.proxy)
	_, secure, _ := net.SplitHostPort(g.tls)
	k.apply(fmt.Sprintf(`
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: keyway}
spec: {controllerName: keyway.dev/gateway}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: infra}
spec:
  gatewayClassName: keyway
  listeners:
  - {name: clear, port: %s, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: a}}}}}
  - {name: secure, port: %s, protocol: HTTPS, hostname: a.test, tls: {certificateRefs: [{name: pair}]}, allowedRoutes: {namespaces: {from: All}}}
---
`, clear, secure) + httpRouteOf("r", `hostnames: [a.test], rules: [{matches: [{path: {value: /x}}], backendRefs: [{name: first, port: 80}]}]`))
	k.says("gatewayclasses", "", "keyway", cond("Accepted", "True", "Accepted"), `{"name":"HTTPRoute"}`)

	t.Run("namespaces and certificates", func(t *testing.T) {
		g.t, k.t = t, t
		k.says("gateways", "infra", "edge", cond("ResolvedRefs", "False", "InvalidCertificateRef"), `{"type":"IPAddress","value":"192.0.2.7"}`)
		g.answers(nil, "a.test", "/x", 404, "") // the namespace has no label
		cert, key := encode(t, roots.server(t, "a.test"))
		k.put("infra", "pair", map[string]string{"tls.crt": cert, "tls.key": key})
		g.answers(roots, "a.test", "/x", 200, "first /x")
		k.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {team: a}}")
		g.answers(nil, "a.test", "/x/y", 200, "first /x/y")
		g.answers(nil, "a.test", "/xy", 404, "")
		k.says("httproutes", "shop", "r", cond("Accepted", "True", "Accepted"), cond("ResolvedRefs", "True", "ResolvedRefs"), `"controllerName":"keyway.dev/gateway"`)
		k.says("gateways", "infra", "edge", cond("Programmed", "True", "Programmed"), `"attachedRoutes":1`)
		poll(t, "the certificate is told to be there", 20*time.Second, func() bool {
			text, _ := json.Marshal(k.do(http.MethodGet, "/apis/gateway.networking.k8s.io/v1/namespaces/infra/gateways/edge", nil)["status"])
			return !strings.Contains(string(text), `"status":"False","type":"ResolvedRefs"`)
		})
	})
	t.Run("precedence", func(t *testing.T) {
		g.t, k.t = t, t
		k.apply(httpRouteOf("beta", `rules: [{matches: [{path: {value: /x}, headers: [{name: X-Beta, value: "on"}]}], backendRefs: [{name: second, port: 80}]}, {matches: [{path: {type: Exact, value: /x/exact}}], backendRefs: [{name: second, port: 80}]}]`))
		g.answers(nil, "b.test", "/x", 200, "second", "X-Beta", "on")
		g.answers(nil, "a.test", "/x", 200, "first", "X-Beta", "on") // the hostname goes before it
		g.answers(nil, "b.test", "/x/exact", 200, "second")
		g.answers(nil, "b.test", "/x", 404, "")
	})
	t.Run("another namespace's backend", func(t *testing.T) {
		g.t, k.t = t, t
		k.apply("apiVersion: v1\nkind: Service\nmetadata: {name: far, namespace: other}\nspec: {type: ExternalName, externalName: origin.shop.test, ports: [{port: 80}]}")
		k.apply(httpRouteOf("far", `hostnames: [far.test], rules: [{backendRefs: [{name: far, namespace: other, port: 80}]}]`))
		k.says("httproutes", "shop", "far", cond("Accepted", "True", "Accepted"), cond("ResolvedRefs", "False", "RefNotPermitted"))
		k.apply("apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: other}\nspec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}], to: [{group: '', kind: Service}]}")
		k.says("httproutes", "shop", "far", cond("ResolvedRefs", "True", "ResolvedRefs"))
	})
	t.Run("nothing is written where nothing changed", func(t *testing.T) {
		k.t = t
		versions := func() string {
			var list []string
			for _, path := range []string{"infra/gateways/edge", "shop/httproutes/r", "shop/httproutes/far"} {
				meta, _ := k.do(http.MethodGet, "/apis/gateway.networking.k8s.io/v1/namespaces/"+path, nil)["metadata"].(object)
				list = append(list, fmt.Sprint(meta["resourceVersion"]))
			}
			return strings.Join(list, " ")
		}
		k.says("gateways", "infra", "edge", `"attachedRoutes":3`) // the last that is to change
		before := versions()
		<-time.After(4 * time.Second) // the writer looks each second
		if now := versions(); now != before {
			t.Errorf("versions %s, then %s", before, now)
		}
	})
	t.Run("gone", func(t *testing.T) {
		g.t, k.t = t, t
		k.unapply(httpRouteOf("r", ""))
		g.answers(nil, "a.test", "/x", 404, "")
		k.says("gateways", "infra", "edge", `"attachedRoutes":2`)
	})
}
