package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

const ingressClass = `
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: keyway}
spec: {controller: keyway.dev/ingress}
---
`

// ingressOf is an Ingress shop/NAME for a host, with a Service and annotations.
func ingressOf(name, host, service, annotations string) string {
	return fmt.Sprintf(`
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: %s, namespace: shop, annotations: {%s}}
spec:
  ingressClassName: keyway
  tls: [{hosts: [%s], secretName: pair}]
  rules: [{host: %s, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: %s, port: {name: http}}}}]}}]
---
`, name, annotations, host, host, service)
}

// TestKubeIngress serves an Ingress of a real API server over HTTPS while everything
// around it changes, is wrong, dies and comes back.
func TestKubeIngress(t *testing.T) {
	k, dns, roots := startKube(t), startDNS(t), newAuthority(t, "edge")
	dns.a["origin.shop.test."] = "127.0.0.1"
	k.namespace("shop")
	k.controller()
	first, second := saying(t, "first"), saying(t, "second")
	cert, key := encode(t, roots.server(t, "a.test", "b.test", "c.test"))
	k.put("shop", "pair", map[string]string{"tls.crt": cert, "tls.key": key})
	k.backend("web", first)
	k.apply(ingressClass + ingressOf("i", "a.test", "web", ""))
	dir := filepath.Join(t.TempDir(), "data")
	g := kubeGateway(t, k, dns, nil, options{dir: dir})
	g.answers(roots, "a.test", "/x", 200, "first /x")
	g.answers(roots, "a.test", "/x", 200, "first /x")

	t.Run("changes", func(t *testing.T) {
		g.t = t
		k.backend("web", second)
		g.answers(roots, "a.test", "/", 200, "second")
		k.apply(ingressOf("i", "b.test", "web", ""))
		g.answers(roots, "b.test", "/", 200, "second")
		g.answers(nil, "a.test", "/", 404, "")
		k.apply(ingressOf("i", "a.test", "web", `ingress.kubernetes.io/force-ssl-redirect: "true"`))
		g.answers(roots, "a.test", "/", 200, "second")
		g.asksForTLS(t)
	})
	t.Run("bad objects", func(t *testing.T) {
		g.t = t
		k.apply(ingressOf("i", "a.test", "web", `konghq.com/protocols: htps`) + ingressOf("new", "c.test", "web", `konghq.com/methods: "G-T"`))
		g.answers(roots, "c.test", "/", 503, "") // it never was right
		g.answers(roots, "a.test", "/", 200, "second")
		g.asksForTLS(t) // its last good form
		poll(t, "the problem is told", 20*time.Second, func() bool {
			_, status := g.read("/status")
			return strings.Contains(status, "metadata.annotations[konghq.com/protocols]") && strings.Contains(status, "shop/new")
		})
		poll(t, "the events are told", 20*time.Second, func() bool {
			events, _ := json.Marshal(k.do(http.MethodGet, "/api/v1/namespaces/shop/events", nil))
			return strings.Contains(string(events), "KongConfigurationTranslationFailed") && strings.Contains(string(events), "metadata.annotations[konghq.com/methods]")
		})
		k.unapply(ingressOf("new", "c.test", "web", ""))
		k.apply(ingressOf("i", "a.test", "web", ""))
		g.answers(nil, "c.test", "/", 404, "")
		g.answers(nil, "a.test", "/", 200, "second")
	})
	t.Run("status", func(t *testing.T) {
		poll(t, "the status has the addresses", 20*time.Second, func() bool {
			text, _ := json.Marshal(k.do(http.MethodGet, "/apis/networking.k8s.io/v1/namespaces/shop/ingresses/i", nil)["status"])
			return string(text) == `{"loadBalancer":{"ingress":[{"ip":"192.0.2.7"},{"hostname":"edge.test"}]}}`
		})
	})
	t.Run("without the API server", func(t *testing.T) {
		g.t = t
		k.stop()
		poll(t, "that it is away is told", 20*time.Second, func() bool {
			_, status := g.read("/status")
			return strings.Contains(status, "cannot be read from the API server")
		})
		g.answers(roots, "a.test", "/", 200, "second")
		g.stop(syscall.SIGTERM)
		g = kubeGateway(t, k, dns, nil, options{dir: dir, patience: 40 * time.Second})
		g.answers(roots, "a.test", "/kept", 200, "second /kept")
		k.t = t
		k.start()
		k.apply(ingressOf("i", "b.test", "web", ""))
		deadline := time.Now().Add(20 * time.Second)
		for code := 0; code != 200; code, _ = g.asked(roots, "b.test", "/") {
			if time.Now().After(deadline) {
				t.Fatal("what changed after the return is not served")
			}
			<-time.After(50 * time.Millisecond)
		}
	})
}

// asksForTLS expects that a request in clear for a.test is sent to TLS.
func (g *gateway) asksForTLS(t *testing.T) {
	t.Helper()
	poll(t, "a request in clear is sent to TLS", 20*time.Second, func() bool {
		req, err := http.NewRequest(http.MethodGet, "http://"+g.proxy+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "a.test"
		resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusFound && strings.HasPrefix(resp.Header.Get("Location"), "https://a.test")
	})
}

// forKIC are objects of KIC's kinds that guard each other; the class is a parameter.
const forKIC = `
apiVersion: configuration.konghq.com/v1
kind: KongPlugin
metadata: {name: limit, namespace: shop}
plugin: rate-limiting
config: {minute: 3, policy: local}
---
apiVersion: configuration.konghq.com/v1
kind: KongPlugin
metadata: {name: auth, namespace: shop}
plugin: key-auth
config: {key_names: [apikey]}
---
apiVersion: v1
kind: Secret
metadata: {name: ann-key, namespace: shop, labels: {konghq.com/credential: key-auth}}
stringData: {key: ann-secret-c0ffee}
---
apiVersion: configuration.konghq.com/v1
kind: KongConsumer
metadata: {name: ann, namespace: shop, annotations: {kubernetes.io/ingress.class: %[1]s}}
username: ann
credentials: [ann-key]
---
apiVersion: configuration.konghq.com/v1beta1
kind: KongUpstreamPolicy
metadata: {name: sticky, namespace: shop}
spec: {algorithm: consistent-hashing, hashOn: {header: X-User}, hashOnFallback: {input: ip}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: api
  namespace: shop
  annotations: {konghq.com/plugins: "limit,auth", konghq.com/strip-path: "true", konghq.com/methods: "GET,POST", konghq.com/protocols: "https", konghq.com/https-redirect-status-code: "308"}
spec:
  ingressClassName: %[1]s
  tls: [{hosts: [api.test], secretName: pair}]
  rules:
  - host: api.test
    http:
      paths:
      - {path: /api, pathType: Prefix, backend: {service: {name: api, port: {number: 80}}}}
      - {path: '/~/v\d+/items$', pathType: ImplementationSpecific, backend: {service: {name: api, port: {number: 80}}}}
---
`

// TestKubeKIC: what KIC's kinds say of themselves, and what becomes of what they guard where
// one gets worse, or goes. That they work at all is TestKICManifests.
func TestKubeKIC(t *testing.T) {
	k, dns, roots := startKube(t), startDNS(t), newAuthority(t, "edge")
	dns.a["origin.shop.test."] = "127.0.0.1"
	k.define()
	k.namespace("shop")
	k.controller()
	cert, key := encode(t, roots.server(t, "api.test"))
	k.put("shop", "pair", map[string]string{"tls.crt": cert, "tls.key": key})
	k.backend("api", saying(t, "api"))
	k.apply("apiVersion: v1\nkind: Service\nmetadata: {name: api, namespace: shop, annotations: {konghq.com/upstream-policy: sticky, konghq.com/path: /base}}\nspec: {ports: [{name: http, port: 80}]}\n---\n" +
		fmt.Sprintf(forKIC, "edge") + "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: edge}\nspec: {controller: ingress-controllers.konghq.com/kong}\n")
	g := kubeGateway(t, k, dns, map[string]string{
		"KEYWAY_KUBE_INGRESS_CLASS": "edge", "KEYWAY_KUBE_CONTROLLERS": "ingress-controllers.konghq.com/kong",
		"KEYWAY_KUBE_CUSTOM_ENTITIES": "shop",
	}, options{})
	g.answers(roots, "api.test", "/api/x", 200, "api /base/x for ann", "apikey", "ann-secret-c0ffee")
	if code, _ := g.asked(roots, "api.test", "/api/x"); code != 401 {
		t.Errorf("without a key: %d", code)
	}
	if code, body := g.asked(roots, "api.test", "/v2/items", "apikey", "ann-secret-c0ffee"); code != 200 || !strings.Contains(body, "api /base") {
		t.Errorf("a path of the expression: %d %s", code, body)
	}
	g.answers(roots, "api.test", "/api/x", 429, "", "apikey", "ann-secret-c0ffee")
	if _, status := g.read("/status"); strings.Contains(status, "shop/") {
		t.Errorf("something is refused: %s", status)
	}
	// Status, on every object that has one.
	for _, path := range []string{"v1/namespaces/shop/kongplugins/limit", "v1/namespaces/shop/kongplugins/auth", "v1/namespaces/shop/kongconsumers/ann"} {
		poll(t, path+" is programmed", 20*time.Second, func() bool {
			text, _ := json.Marshal(k.do(http.MethodGet, "/apis/configuration.konghq.com/"+path, nil)["status"])
			return strings.Contains(string(text), `"reason":"Programmed","status":"True","type":"Programmed"`)
		})
	}
	poll(t, "the policy says of its Service how it stands", 20*time.Second, func() bool {
		text, _ := json.Marshal(k.do(http.MethodGet, "/apis/configuration.konghq.com/v1beta1/namespaces/shop/kongupstreampolicies/sticky", nil)["status"])
		return strings.Contains(string(text), `"ancestorRef":{"group":"core","kind":"Service","name":"api","namespace":"shop"}`) &&
			strings.Contains(string(text), `"reason":"Accepted","status":"True"`) && strings.Contains(string(text), `"reason":"Programmed","status":"True"`)
	})
	// A plugin that gets worse goes on as it was, one that is deleted closes what it guarded.
	version := fmt.Sprint(k.do(http.MethodGet, "/apis/configuration.konghq.com/v1/namespaces/shop/kongplugins/auth", nil)["metadata"].(object)["resourceVersion"])
	k.apply(strings.Replace(fmt.Sprintf(forKIC, "edge"), "key_names: [apikey]", "key_names: 5", 1))
	poll(t, "the bad config is told, "+version, 20*time.Second, func() bool {
		text, _ := json.Marshal(k.do(http.MethodGet, "/apis/configuration.konghq.com/v1/namespaces/shop/kongplugins/auth", nil)["status"])
		return strings.Contains(string(text), `"reason":"Invalid"`) && strings.Contains(string(text), "config.key_names")
	})
	if code, _ := g.asked(roots, "api.test", "/api/x"); code != 401 {
		t.Errorf("with a bad plugin and without a key: %d", code)
	}
	k.do(http.MethodDelete, "/apis/configuration.konghq.com/v1/namespaces/shop/kongplugins/auth", nil)
	g.answers(roots, "api.test", "/api/x", 503, "", "apikey", "ann-secret-c0ffee")
	k.apply(fmt.Sprintf(forKIC, "edge"))
	g.answers(roots, "api.test", "/api/x", 401, "")
	// A credential that is deleted is no credential.
	k.remove("shop", "ann-key")
	g.answers(roots, "api.test", "/api/x", 401, "", "apikey", "ann-secret-c0ffee")
	for _, refused := range []string{
		"apiVersion: configuration.konghq.com/v1\nkind: KongPlugin\nmetadata: {name: x, namespace: shop}\nplugin: p\nconfig: {a: 1}\nconfigFrom: {secretKeyRef: {name: a, key: b}}\n",
		"apiVersion: configuration.konghq.com/v1\nkind: KongConsumer\nmetadata: {name: x, namespace: shop}\ncredentials: [a]\n",
		"apiVersion: configuration.konghq.com/v1beta1\nkind: KongUpstreamPolicy\nmetadata: {name: x, namespace: shop}\nspec: {algorithm: consistent-hashing, hashOn: {input: ip, header: x}}\n",
	} {
		if code, answer := k.attempt(objects(t, refused)[0]); code != http.StatusUnprocessableEntity {
			t.Errorf("%s\nwas taken: %d %s", refused, code, answer)
		}
	}
	customEntities(t, k, g, roots)
}

// TestKubeBesideFiles: documents of files stand beside a cluster's; a plugin of a namespace
// may refer to a vault that a file declares, as far as its rules let it. A consumer that a file
// has too is told so in its status.
func TestKubeBesideFiles(t *testing.T) {
	k, dns := startKube(t), startDNS(t)
	dns.a["origin.shop.test."] = "127.0.0.1"
	k.define()
	k.namespace("shop")
	k.namespace("other")
	k.controller()
	k.backend("web", saying(t, "cluster"))
	const plugin = `
apiVersion: configuration.konghq.com/v1
kind: KongPlugin
metadata: {name: limit, namespace: shop}
plugin: rate-limiting
config: {minute: 1000, policy: local, redis: {password: "{vault://%s/redis-password}"}}
---
`
	k.apply(ingressClass + fmt.Sprintf(plugin, "files") + ingressOf("i", "a.test", "web", "konghq.com/plugins: limit"))
	k.apply("apiVersion: configuration.konghq.com/v1\nkind: KongConsumer\nmetadata: {name: ann, namespace: shop, annotations: {kubernetes.io/ingress.class: keyway}}\nusername: ann\n")
	host, port, _ := strings.Cut(saying(t, "file"), ":")
	document := fmt.Sprintf(`
_format_version: "3.0"
vaults: [{name: env, prefix: files, config: {prefix: SHOP_}, x_keyway_allow: [{namespaces: [shop]}]}]
services: [{name: of-file, host: %s, port: %s, routes: [{name: of-file, hosts: [file.test], paths: [/]}]}]
`, host, port)
	g := kubeGateway(t, k, dns, map[string]string{"SHOP_REDIS_PASSWORD": "canary-c0ffee"}, options{document: document + "consumers: [{username: ann}]\n"})
	g.answers(nil, "a.test", "/x", 200, "cluster /x")
	g.answers(nil, "file.test", "/y", 200, "file /y")
	k.apply(fmt.Sprintf(plugin, "node.kubernetes/keyway/x"))
	poll(t, "a reference to the node's own vault is refused", 20*time.Second, func() bool {
		_, status := g.read("/status")
		return strings.Contains(status, "expected a reference into a vault that a KongVault or a document declares")
	})
	g.answers(nil, "a.test", "/x", 200, "cluster /x")  // its last good form
	programmed := func(what string, texts ...string) { // the consumer that the file has too
		t.Helper()
		poll(t, what, 30*time.Second, func() bool {
			text, _ := json.Marshal(k.do(http.MethodGet, "/apis/configuration.konghq.com/v1/namespaces/shop/kongconsumers/ann", nil)["status"])
			return !slices.ContainsFunc(texts, func(part string) bool { return !strings.Contains(string(text), part) })
		})
	}
	programmed("the file's consumer has the place", `"reason":"Conflicted","status":"False"`, "already declared at "+g.doc)
	g.write(document)
	programmed("the consumer is served once the file has it no longer", `"reason":"Programmed","status":"True"`)
	if text := g.log.String(); strings.Contains(text, "canary-c0ffee") {
		t.Error("the log has the secret")
	}
}
