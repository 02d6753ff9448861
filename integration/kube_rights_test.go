package integration

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// audited is an API server that writes down who asked it for what.
type audited struct {
	*kubeServer
	log string
}

// startAudited starts one with the account, the roles and the class that the chart makes
// of values, and answers the node's settings of it as an environment.
func startAudited(t *testing.T, values string) (audited, []object, map[string]string) {
	t.Helper()
	dir := t.TempDir()
	k := audited{log: filepath.Join(dir, "audit.log")}
	k.kubeServer = startKube(t, "--audit-log-path="+k.log, "--audit-policy-file="+file(t, dir, "policy.yaml", "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]\n"))
	k.define()
	k.defineGateway("standard")
	k.defineCertManager()
	for _, name := range []string{"keyway", "shop", "other", "third"} {
		k.namespace(name)
	}
	list := chart(t, values)
	for _, o := range list {
		switch o["kind"] {
		case "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "IngressClass":
			if code, answer := k.attempt(o); code > 299 {
				t.Fatalf("%s: %d %s", at(o), code, answer)
			}
		}
	}
	return k, list, settingsOf(t, list)
}

// asked are the rights that an account used, and what it was refused.
func (k audited) asked(account string) (used map[right]bool, refused []string) {
	k.t.Helper()
	text, err := os.ReadFile(k.log)
	if err != nil {
		k.t.Fatal(err)
	}
	used = map[right]bool{}
	for line := range bytes.Lines(text) {
		var e struct {
			Verb      string
			User      struct{ Username string }
			ObjectRef struct{ Namespace, Resource, Subresource, Name, APIGroup string }
			Status    struct{ Code int } `json:"responseStatus"`
		}
		if json.Unmarshal(line, &e) != nil || e.User.Username != account { // the last line may be half written
			continue
		}
		r := right{e.ObjectRef.APIGroup, e.ObjectRef.Resource, e.Verb}
		if e.ObjectRef.Subresource != "" {
			r.resource += "/" + e.ObjectRef.Subresource
		}
		if e.Status.Code == http.StatusForbidden {
			refused = append(refused, fmt.Sprintf("%s %s/%s", r, e.ObjectRef.Namespace, e.ObjectRef.Name))
		} else if e.Status.Code < 300 {
			used[r] = true
		}
	}
	return used, refused
}

// may asks the server whether the account of the chart may do something.
func (k audited) may(verb, group, resource, namespace, name string) bool {
	k.t.Helper()
	resource, sub, _ := strings.Cut(resource, "/")
	out := k.do(http.MethodPost, "/apis/authorization.k8s.io/v1/subjectaccessreviews", object{"spec": object{
		"user": "system:serviceaccount:keyway:keyway", "groups": []string{"system:serviceaccounts", "system:serviceaccounts:keyway", "system:authenticated"},
		"resourceAttributes": object{"namespace": namespace, "verb": verb, "group": group, "resource": resource, "subresource": sub, "name": name},
	}})
	return in(out, "status.allowed") == true
}

// inUse is something of every kind that the node reads or writes of, in the namespace shop.
const inUse = `
apiVersion: v1
kind: Secret
metadata: {name: ann-key, namespace: shop, labels: {konghq.com/credential: key-auth}}
stringData: {key: ann-secret-c0ffee}
---
apiVersion: configuration.konghq.com/v1
kind: KongConsumer
metadata: {name: ann, namespace: shop, annotations: {kubernetes.io/ingress.class: keyway}}
username: ann
credentials: [ann-key]
consumerGroups: [gold]
---
apiVersion: configuration.konghq.com/v1beta1
kind: KongConsumerGroup
metadata: {name: gold, namespace: shop, annotations: {kubernetes.io/ingress.class: keyway}}
---
apiVersion: v1
kind: Secret
metadata: {name: limit, namespace: shop}
stringData: {config: '{"minute": 1000, "policy": "local"}'}
---
apiVersion: configuration.konghq.com/v1
kind: KongPlugin
metadata: {name: limit, namespace: shop}
plugin: rate-limiting
configFrom: {secretKeyRef: {name: limit, key: config}}
---
apiVersion: configuration.konghq.com/v1
kind: KongClusterPlugin
metadata: {name: ids, annotations: {kubernetes.io/ingress.class: keyway}}
plugin: correlation-id
config: {header_name: X-Id}
---
apiVersion: configuration.konghq.com/v1alpha1
kind: KongVault
metadata: {name: vars, annotations: {kubernetes.io/ingress.class: keyway}}
spec: {backend: env, prefix: vars, config: {prefix: SHOP_}}
---
apiVersion: configuration.konghq.com/v1alpha1
kind: KongVault
metadata: {name: wrong, annotations: {kubernetes.io/ingress.class: keyway}}
spec: {backend: env, prefix: w}
---
apiVersion: configuration.konghq.com/v1alpha1
kind: KongCustomEntity
metadata: {name: partners, namespace: shop}
spec: {type: x_keyway_tls_policies, controllerName: keyway, fields: {name: partners}}
---
apiVersion: configuration.konghq.com/v1beta1
kind: TCPIngress
metadata: {name: tcp, namespace: shop, annotations: {kubernetes.io/ingress.class: keyway}}
spec: {rules: [{port: 9000, backend: {serviceName: web, servicePort: 80}}]}
---
apiVersion: configuration.konghq.com/v1beta1
kind: UDPIngress
metadata: {name: udp, namespace: shop, annotations: {kubernetes.io/ingress.class: keyway}}
spec: {rules: [{port: 9000, backend: {serviceName: web, servicePort: 80}}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, annotations: {konghq.com/upstream-policy: busy}}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: configuration.konghq.com/v1beta1
kind: KongUpstreamPolicy
metadata: {name: busy, namespace: shop}
spec: {algorithm: least-connections}
---
`

// inGateway is the same of the Gateway API, with two ports.
const inGateway = `
  - {name: http, protocol: HTTP, port: %[1]d}
---
apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: {name: more, namespace: shop}
spec:
  parentRef: {name: edge}
  listeners: [{name: tcp, protocol: TCP, port: %[2]d}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: web, port: 80}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: calls, namespace: shop}
spec: {parentRefs: [{name: edge}], hostnames: [calls.test], rules: [{backendRefs: [{name: web, port: 80}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: through, namespace: shop}
spec: {parentRefs: [{name: edge}], hostnames: [through.test], rules: [{backendRefs: [{name: web, port: 80}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: bytes, namespace: shop}
spec: {parentRefs: [{kind: ListenerSet, name: more}], rules: [{backendRefs: [{name: web, port: 80}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: UDPRoute
metadata: {name: datagrams, namespace: shop}
spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: web, port: 80}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: web, namespace: shop}
spec: {targetRefs: [{group: "", kind: Service, name: web}], validation: {hostname: web.test, wellKnownCACertificates: System}}
---
`

// renewing are the rights that a node uses when it is told to have a certificate renewed,
// which TestCertManager does.
var renewing = []right{{"cert-manager.io", "certificates", "get"}, {"cert-manager.io", "certificates/status", "patch"}}

// TestKubeRights (K-01) runs a node with the account that the chart makes, bound to the
// chart's roles, once for all namespaces and once for two: all that it does works, it uses
// each right that it has, and what a gateway has no business with is refused.
func TestKubeRights(t *testing.T) {
	t.Run("all namespaces", func(t *testing.T) { rightsOf(t, "") })
	t.Run("two namespaces", func(t *testing.T) { rightsOf(t, "kubernetes: {watchNamespaces: [shop, other]}\n") })
}

func rightsOf(t *testing.T, values string) {
	k, list, env := startAudited(t, values)
	dns, roots := startDNS(t), newAuthority(t, "edge")
	dns.a["origin.shop.test."] = "127.0.0.1"
	k.kubeconfig("keyway", "keyway", k.addr)
	cert, key := encode(t, roots.server(t, "a.test"))
	k.put("shop", "pair", map[string]string{"tls.crt": cert, "tls.key": key})
	k.put("third", "pair", map[string]string{"tls.crt": cert, "tls.key": key})
	k.backend("web", saying(t, "web"))
	k.apply(inUse + gatewayClass + gatewayOf("shop", "edge") + fmt.Sprintf(inGateway, freePort(t), freePort(t)) + ingressOf("i", "a.test", "web", `konghq.com/plugins: "limit,ids"`))
	g := kubeGateway(t, k.kubeServer, dns, env, options{})
	g.answers(roots, "a.test", "/x", 200, "web /x")
	granted := map[right]bool{}
	for _, role := range slices.Concat(of(list, "ClusterRole"), of(list, "Role")) {
		rules, _ := role["rules"].([]any)
		for _, rule := range rules {
			for _, r := range rights(rule) {
				granted[r] = true
			}
		}
	}
	// Status, events and the lease come within seconds.
	const account = "system:serviceaccount:keyway:keyway"
	for deadline := time.Now().Add(30 * time.Second); ; <-time.After(200 * time.Millisecond) {
		used, refused := k.asked(account)
		unused := slices.DeleteFunc(slices.Collect(maps.Keys(granted)), func(r right) bool { return used[r] || slices.Contains(renewing, r) })
		if len(refused) > 0 || len(unused) > 0 && time.Now().After(deadline) {
			t.Fatalf("the node was refused %v, and has no use for %v", refused, unused)
		}
		if len(unused) == 0 {
			break
		}
	}
	var lease any // that the account may write
	for _, role := range of(list, "Role") {
		if in(role, "metadata.name") == "keyway-lease" {
			lease = in(role, "rules.1.resourceNames.0")
		}
	}
	if holder := in(k.do(http.MethodGet, fmt.Sprintf("/apis/coordination.k8s.io/v1/namespaces/keyway/leases/%v", lease), nil), "spec.holderIdentity"); holder == "" || holder == nil {
		t.Error("nobody holds the lease")
	}
	if ip := in(k.do(http.MethodGet, "/apis/networking.k8s.io/v1/namespaces/shop/ingresses/i", nil), "status.loadBalancer.ingress.0.ip"); ip != "192.0.2.7" {
		t.Errorf("the status says %v", ip)
	}
	k.forbids(strings.Contains(values, "watchNamespaces"))
}

// forbids expects that the account may do nothing that a gateway has no business with.
func (k audited) forbids(namespaced bool) {
	k.t.Helper()
	type ask struct{ verb, group, resource, namespace, name string }
	const net, rbac, kong = "networking.k8s.io", "rbac.authorization.k8s.io", "configuration.konghq.com"
	never := []ask{
		{"create", "", "pods", "shop", ""},
		{"create", "", "pods/exec", "shop", ""},
		{"list", "", "pods", "shop", ""},
		{"create", "apps", "deployments", "keyway", ""},
		{"create", "", "secrets", "shop", ""},
		{"update", "", "secrets", "shop", "pair"},
		{"patch", "", "secrets", "shop", "pair"},
		{"delete", "", "secrets", "shop", "pair"},
		{"create", "", "serviceaccounts/token", "keyway", "keyway"},
		{"impersonate", "", "serviceaccounts", "kube-system", ""},
		{"create", "authentication.k8s.io", "tokenreviews", "", ""},
		{"update", net, "ingresses", "shop", "i"},
		{"patch", net, "ingresses", "shop", "i"},
		{"create", net, "ingresses", "shop", ""},
		{"delete", net, "ingresses", "shop", "i"},
		{"update", net, "ingressclasses", "", "keyway"},
		{"update", "", "services", "shop", "web"},
		{"patch", kong, "kongplugins", "shop", "limit"},
		{"update", kong, "kongconsumers", "shop", "ann"},
		{"escalate", rbac, "clusterroles", "", ""},
		{"bind", rbac, "clusterroles", "", ""},
		{"create", rbac, "rolebindings", "keyway", ""},
		{"get", "", "nodes", "", ""},
		{"update", "coordination.k8s.io", "leases", "keyway", "another"},
		{"update", "coordination.k8s.io", "leases", "kube-system", "keyway-keyway"},
		{"delete", "coordination.k8s.io", "leases", "keyway", "keyway-keyway"},
		{"create", "admissionregistration.k8s.io", "validatingwebhookconfigurations", "", ""},
		{"patch", "apiextensions.k8s.io", "customresourcedefinitions", "", ""},
	}
	if namespaced {
		never = append(never, ask{"list", "", "secrets", "", ""}, ask{"get", "", "secrets", "third", "pair"}, ask{"watch", "", "secrets", "third", ""}, ask{"get", "", "secrets", "keyway", ""},
			ask{"list", net, "ingresses", "third", ""}, ask{"patch", net, "ingresses/status", "third", ""}, ask{"create", "", "events", "third", ""})
	}
	for _, a := range never {
		if k.may(a.verb, a.group, a.resource, a.namespace, a.name) {
			k.t.Errorf("the account may %s %s of %q in %q", a.verb, a.resource, a.group, a.namespace)
		}
	}
	if !k.may("get", "", "secrets", "shop", "pair") {
		k.t.Error("the account may not read what it serves: this test asks wrongly")
	}
	// What is said is done.
	token := k.token("keyway", "keyway")
	for path, method := range map[string]string{
		"/api/v1/namespaces/shop/pods": http.MethodPost, "/apis/networking.k8s.io/v1/namespaces/shop/ingresses/i": http.MethodPut,
		"/api/v1/namespaces/shop/secrets/pair": http.MethodDelete, "/api/v1/namespaces/keyway/serviceaccounts/keyway/token": http.MethodPost,
	} {
		if code := k.as(token, method, path); code != http.StatusForbidden {
			k.t.Errorf("%s %s: %d; expected 403", method, path, code)
		}
	}
	code, want := k.as(token, http.MethodGet, "/api/v1/namespaces/third/secrets/pair"), http.StatusOK
	if namespaced {
		want = http.StatusForbidden
	}
	if code != want {
		k.t.Errorf("a Secret of another namespace: %d; expected %d", code, want)
	}
}

// as calls the API with a token and answers the status.
func (k audited) as(token, method, path string) int {
	k.t.Helper()
	req, err := http.NewRequest(method, k.addr+path, strings.NewReader("{}"))
	if err != nil {
		k.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := (&http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: k.a.pool(), MinVersion: tls.VersionTLS12}}).RoundTrip(req)
	if err != nil {
		k.t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}
