package translate

import (
	"strings"
	"testing"
	"time"
)

// chosen is a State of a node that takes a part of what there is.
func chosen(t *testing.T, shared bool, namespaces, text string) *State {
	t.Helper()
	s := newState()
	s.cfg.Shared, s.cfg.NamespaceSelector = shared, namespaces
	for _, o := range manifests(t, text) {
		s.Put(o)
	}
	s.Document()
	return s
}

// TestWhatAnotherNodeSaysStays: nodes of one controller that take different objects write
// into the same statuses, each what is of its own.
func TestWhatAnotherNodeSaysStays(t *testing.T) {
	const ours = `conditions: [], controllerName: keyway.dev/gateway`
	route := strings.Replace(httpRoute("r", `hostnames: [a.test]
rules: [{`+toWeb+`}]
status: {parents: [{parentRef: {name: theirs, namespace: infra}, `+ours+`}, {parentRef: {name: over, namespace: infra}, `+ours+`}]}`),
		"parentRefs: [", "parentRefs: [{name: theirs, namespace: infra}, ", 1)
	route = strings.Replace(route, "  status:", "status:", 1)
	tls := `
kind: BackendTLSPolicy
metadata: {name: p, namespace: shop}
spec: {targetRefs: [{group: "", kind: Service, name: web}], validation: {hostname: web.test, wellKnownCACertificates: System}}
status: {ancestors: [{ancestorRef: {group: gateway.networking.k8s.io, kind: Gateway, namespace: infra, name: theirs}, ` + ours + `}, {ancestorRef: {name: edge, namespace: infra}, ` + ours + `}]}
---
`
	policy := `
kind: KongUpstreamPolicy
metadata: {name: p, namespace: shop}
spec: {algorithm: latency}
status: {ancestors: [{ancestorRef: {group: core, kind: Service, namespace: shop, name: named}, ` + ours + `}, {ancestorRef: {group: core, kind: Service, namespace: shop, name: other}, ` + ours + `}, {ancestorRef: {group: core, kind: Service, namespace: shop, name: gone}, ` + ours + `}]}
---
kind: Service
metadata: {name: named, namespace: shop, annotations: {konghq.com/upstream-policy: p}}
spec: {ports: [{name: http, port: 80}]}
---
kind: Service
metadata: {name: other, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
---
`
	text := with(ofGateway(httpAll), "Service", "web", "konghq.com/upstream-policy: p") + route + tls + policy
	for _, c := range []struct {
		kind, name   string
		shared, sole string
	}{
		{KindHTTPRoute, "r", "theirs edge", "edge"},
		{KindBackendTLS, "p", "theirs edge", "edge"},
		{KindUpstreamPolicy, "p", "named web", "web"},
	} {
		for _, shared := range []bool{true, false} {
			s := chosen(t, shared, "", text)
			v := s.Status(s.Object(Ref{c.kind, "shop", c.name}), published, nil, time.Unix(1, 0))
			var names []string
			parents, _ := v["parents"].([]ParentStatus)
			for _, p := range parents {
				names = append(names, p.ParentRef.Name)
			}
			ancestors, _ := v["ancestors"].([]AncestorStatus)
			for _, a := range ancestors {
				names = append(names, a.AncestorRef.Name)
			}
			want := c.sole
			if shared {
				want = c.shared
			}
			if got := strings.Join(names, " "); got != want {
				t.Errorf("%s, shared %v: %q; expected %q", c.kind, shared, got, want)
			}
		}
	}
}

// TestANamespaceThatIsLeftOutIsNamed: who refers into one learns of the setting, until the
// namespace is there.
func TestANamespaceThatIsLeftOutIsNamed(t *testing.T) {
	const (
		hint  = "; kube_namespace_selector (team=a) leaves the objects of namespace other out"
		there = "kind: Namespace\nmetadata: {name: other, labels: {team: a}}\n---\n"
	)
	text := classes + `
kind: Ingress
metadata: {name: i, namespace: shop, annotations: {"konghq.com/plugins": "other:limit"}}
spec: {ingressClassName: keyway, rules: [{host: a.test, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}
---
`
	for selector, want := range map[string]bool{"team=a": true, "": false} {
		s := chosen(t, false, selector, text)
		list := s.Findings()
		if len(list) != 1 || strings.HasSuffix(list[0].Message, hint) != want {
			t.Errorf("selector %q: %v", selector, list)
		}
		for _, o := range manifests(t, there) {
			s.Put(o)
		}
		s.Document()
		if list := s.Findings(); len(list) != 1 || strings.Contains(list[0].Message, "kube_namespace_selector") {
			t.Errorf("selector %q, with the namespace: %v", selector, list)
		}
	}
	gateway := ofGateway(`{name: s, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: pair, namespace: other}]}, allowedRoutes: {namespaces: {from: All}}}`) +
		httpRoute("r", `rules: [{backendRefs: [{name: web, namespace: other, port: 80}]}]`)
	s := chosen(t, false, "team=a", gateway)
	for _, r := range []Ref{{KindGateway, "infra", "edge"}, {KindHTTPRoute, "shop", "r"}} {
		found := false
		for _, f := range s.Findings() {
			found = found || f.Object == r && strings.HasSuffix(f.Message, hint)
		}
		if !found {
			t.Errorf("%s does not say it: %v", r, s.Findings())
		}
	}
}
