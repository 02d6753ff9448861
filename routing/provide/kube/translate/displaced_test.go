package translate

import (
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/routing/spec"
)

const displaceable = `
kind: Service
metadata: {name: web, namespace: shop, resourceVersion: "2", annotations: {konghq.com/upstream-policy: p}}
spec: {ports: [{port: 80}]}
---
kind: KongUpstreamPolicy
metadata: {name: p, namespace: shop}
spec: {algorithm: latency}
---
kind: Ingress
metadata: {name: web, namespace: shop}
spec:
  ingressClassName: keyway
  tls: [{hosts: [i.test], secretName: pair}]
  rules: [{host: i.test, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]
---
kind: KongPlugin
metadata: {name: limit, namespace: shop}
plugin: rate-limiting
config: {minute: 5}
---
kind: KongPlugin
metadata: {name: other, namespace: shop}
plugin: rate-limiting
config: {minute: 6}
---
kind: KongConsumer
metadata: {name: ann, namespace: shop, annotations: {kubernetes.io/ingress.class: keyway, konghq.com/plugins: limit}}
username: ann
credentials: [ann-key]
---
kind: Credential
metadata: {name: ann-key, namespace: shop, labels: {konghq.com/credential: key-auth}}
data: {key: YQ==}
---
kind: KongConsumer
metadata: {name: bob, namespace: shop, annotations: {kubernetes.io/ingress.class: keyway, konghq.com/plugins: other}}
username: bob
---
kind: KongConsumerGroup
metadata: {name: gold, namespace: shop, annotations: {kubernetes.io/ingress.class: keyway}}
---
kind: KongVault
metadata: {name: v, annotations: {kubernetes.io/ingress.class: keyway}}
spec: {backend: env, prefix: shared}
---
kind: KongCustomEntity
metadata: {name: strict, namespace: shop}
spec: {type: x_keyway_tls_policies, controllerName: keyway, fields: {name: strict, min_version: "1.3"}}
---
`

// TestDisplaced: an object is told of what a document of a file has the place of, and by that
// document alone.
func TestDisplaced(t *testing.T) {
	text := ofGateway(httpAll) + httpRoute("r", "rules: [{"+toWeb+"}]") + httpRoute("two", "hostnames: [a.test, b.test]\nrules: [{"+toWeb+"}]") + displaceable
	for name, c := range map[string]struct {
		file string
		want string // objects
	}{
		"nothing":        {"services: [{name: of-file, host: f.test}]", ""},
		"a consumer":     {"consumers: [{username: ann}]", "KongConsumer shop/ann, KongPlugin shop/limit"},
		"a group":        {"consumer_groups: [{name: gold}]", "KongConsumerGroup shop/gold"},
		"a vault":        {"vaults: [{name: env, prefix: shared}]", "KongVault v"},
		"a TLS policy":   {"x_keyway_tls_policies: [{name: kongcustomentity.shop.strict}]", "KongCustomEntity shop/strict"},
		"a server name":  {"certificates: [{id: 11111111-1111-4111-8111-111111111111, cert: '{vault://env/c}', key: '{vault://env/k}', snis: [{name: i.test}]}]", "Ingress shop/web"},
		"a port":         {"x_keyway_listeners: [{name: mine, protocol: http, port: 80}]", "Gateway infra/edge"},
		"a route":        {"services: [{name: of-file, host: f.test, routes: [{name: httproute.shop.r.0.0._, paths: [/]}]}]", "HTTPRoute shop/r"},
		"one of several": {"services: [{name: of-file, host: f.test, routes: [{name: httproute.shop.two.0.0.a.test, paths: [/]}]}]", "HTTPRoute shop/two"},
		"an upstream":    {"upstreams: [{name: web.shop.80.svc}]", "Service shop/web"},
	} {
		t.Run(name, func(t *testing.T) {
			s := state(t, text)
			doc := s.Document()
			file, problems := spec.Load([]spec.Source{{Name: "shop.yaml", Data: []byte("_format_version: \"3.0\"\n" + c.file)}}, testSchemas())
			if len(problems) > 0 {
				t.Fatal(problems)
			}
			_, left := spec.Merge(file, doc)
			s.Displace(left)
			var got []string
			for _, f := range s.Displacements() {
				got = append(got, f.Object.String())
				if !strings.Contains(f.Message, "already declared at shop.yaml:2") && f.Object.Kind != KindPlugin || f.UID == "" || f.Effect != Displaced {
					t.Errorf("%+v", f)
				}
				if !strings.HasSuffix(f.Message, "take the other one out of that document") {
					t.Errorf("it is not said what to do: %s", f.Message)
				}
			}
			if got := strings.Join(got, ", "); got != c.want {
				t.Errorf("displaced are %q, not %q: %v", got, c.want, left)
			}
			statusesOfDisplaced(t, s, name)
			s.Displace(nil)
			if len(s.Displacements()) > 0 {
				t.Error("nothing is left out, and displaced are", s.Displacements())
			}
			statusesOfDisplaced(t, s, "nothing")
		})
	}
}

// statusesOfDisplaced checks what statuses of other kinds say in one case.
func statusesOfDisplaced(t *testing.T, s *State, name string) {
	t.Helper()
	const accepted = "edge.Accepted edge.ResolvedRefs"
	want := map[string]string{"r": accepted, "two": accepted, "policy": "Programmed=True/Programmed", "listener": ""}
	switch name {
	case "a route":
		want["r"] = "edge.Accepted=False/Conflicted edge.ResolvedRefs"
	case "an upstream":
		want["policy"] = "Programmed=False/Conflicted upstreams 'web.shop.80.svc': uniqueness violation"
	case "a port":
		want["listener"] = portUnavailable
	}
	for _, r := range []string{"r", "two"} {
		if got := status(t, s, KindHTTPRoute, "shop", r); got != want[r] {
			t.Errorf("the status of %s is %q, not %q", r, got, want[r])
		}
	}
	if got := ofPolicy(t, s, "p"); !strings.Contains(got, want["policy"]) || !strings.Contains(got, "Accepted=True") {
		t.Errorf("the status of the policy is %q", got)
	}
	l := s.stateOf(Ref{KindGateway, "infra", "edge"}).Listeners[0]
	if reason, message := s.unopened(l, &moment{ports: Ports{listenName(l.port(), "http", "http"): {Open: true}}}, nil, 1); reason != want["listener"] {
		t.Errorf("the listener: %s %s", reason, message)
	}
	two, ok := s.Object(Ref{KindHTTPRoute, "shop", "two"}).(*Route)
	if !ok {
		t.Fatal("no route")
	}
	if got := s.unserved(two, outcome{}).Message; strings.HasPrefix(got, "a part of it is not served: routes 'httproute.shop.two.0.0.a.test'") != (name == "one of several") {
		t.Errorf("the message of the route is %q", got)
	}
}
