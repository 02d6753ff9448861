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

// portsOfGateways has another Gateway open ports, with routes that filter, share and carry.
func (g *gateway) portsOfGateways(t *testing.T, k *kubeServer) {
	web, carried := fmt.Sprint(freePort(t)), fmt.Sprint(freePort(t))
	k.apply(gatewayOf("infra", "ports") + fmt.Sprintf(`
  - {name: web, port: %s, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}
  - {name: carried, port: %s, protocol: TCP, allowedRoutes: {namespaces: {from: All}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: carried, namespace: shop}
spec: {parentRefs: [{name: ports, namespace: infra}], rules: [{backendRefs: [{name: second, port: 80}]}]}
---
`, web, carried) + strings.Replace(httpRouteOf("ports", `rules: [
  {matches: [{path: {value: /old}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}, {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Consumer-Username, value: somebody}]}}], backendRefs: [{name: first, port: 80}]},
  {matches: [{path: {value: /moved}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: other.test, statusCode: 301}}]},
  {matches: [{path: {value: /none}}], backendRefs: [{name: none, port: 80}]},
  {matches: [{path: {value: /both}}], backendRefs: [{name: first, port: 80}, {name: second, port: 80}]}]`), "name: edge", "name: ports", 1))
	main := g.proxy
	g.t, g.proxy = t, "127.0.0.1:"+web
	defer func() { g.proxy = main }()
	g.answers(nil, "any.test", "/old/x", 200, "first /new/x for somebody")
	g.answers(nil, "any.test", "/none", 500, "")
	g.answers(nil, "any.test", "/both", 200, "first")
	g.answers(nil, "any.test", "/both", 200, "second")
	req, err := http.NewRequest(http.MethodGet, "http://"+g.proxy+"/moved/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if got := resp.Header.Get("Location"); resp.StatusCode != 301 || !strings.HasPrefix(got, "http://other.test") || !strings.HasSuffix(got, "/moved/x") {
		t.Errorf("%d to %s", resp.StatusCode, got)
	}
	clear := &http.Transport{Protocols: new(http.Protocols)} // as clients of gRPC do
	clear.Protocols.SetUnencryptedHTTP2(true)
	defer clear.CloseIdleConnections()
	resp, err = (&http.Client{Transport: clear, Timeout: 20 * time.Second}).Get("http://" + g.proxy + "/old/x")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.ProtoMajor != 2 || resp.StatusCode != 200 {
		t.Errorf("HTTP/2 in clear: %s %d", resp.Proto, resp.StatusCode)
	}
	// Nobody reaches it through another port by naming this one.
	g.proxy = main
	if code, body := g.asked(nil, "any.test:"+web, "/both"); code != 404 {
		t.Errorf("through another port: %d %s", code, body)
	}
	g.proxy = "127.0.0.1:" + carried
	g.answers(nil, "any.test", "/tcp", 200, "second /tcp")
	k.says("gateways", "infra", "ports", cond("Programmed", "True", "Programmed"))
	k.unapply("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: ports, namespace: infra}")
	poll(t, "its ports are closed", 20*time.Second, func() bool {
		c, err := net.DialTimeout("tcp", "127.0.0.1:"+web, time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
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
	k.apply(gatewayClass + gatewayOf("infra", "edge") + fmt.Sprintf(`
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
	t.Run("ports of its own", func(t *testing.T) {
		k.t = t
		g.portsOfGateways(t, k)
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
