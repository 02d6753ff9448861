package translate

import (
	"strings"
	"testing"
)

// challenged is what cert-manager makes for a challenge, in the class of the test.
func challenged(path, pathType, labels string) string {
	return `---
kind: Service
metadata: {name: cm-acme-http-solver-x, namespace: shop}
spec: {clusterIP: 10.0.0.8, ports: [{port: 8089, targetPort: 8089}]}
---
kind: Ingress
metadata:
  name: cm-acme-http-solver-y
  namespace: shop
  labels: {` + labels + `}
  annotations: {nginx.ingress.kubernetes.io/whitelist-source-range: "0.0.0.0/0,::/0"}
spec:
  ingressClassName: keyway
  rules:
  - host: a.test
    http: {paths: [{path: ` + path + `, pathType: ` + pathType + `, backend: {service: {name: cm-acme-http-solver-x, port: {number: 8089}}}}]}
`
}

// greedy is an Ingress that says as much as one can of the host's every path.
const greedy = `---
kind: Ingress
metadata:
  name: greedy
  namespace: shop
  annotations:
    ingress.kubernetes.io/force-ssl-redirect: "true"
    konghq.com/https-redirect-status-code: "308"
    konghq.com/methods: GET,HEAD
    konghq.com/headers.user-agent: "~*.*"
    konghq.com/headers.accept-encoding: "~*.*"
    konghq.com/regex-priority: "32767"
spec:
  ingressClassName: keyway
  rules:
  - host: a.test
    http:
      paths:
      - {path: "/~/.well-known/acme-challenge/(?:[a-zA-Z0-9_-]*[a-zA-Z0-9_-][a-zA-Z0-9_-]*)+", pathType: ImplementationSpecific, backend: {service: {name: web, port: {number: 80}}}}
      - {path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}
`

func TestTheSolverOfAChallengeComesFirst(t *testing.T) {
	doc := whole(t, classes+greedy+challenged("/.well-known/acme-challenge/tok-en_1", "Exact", `acme.cert-manager.io/http01-solver: "true"`))
	solver := route(t, doc, "shop.cm-acme-http-solver-y.cm-acme-http-solver-x.a.test.8089")
	for _, r := range doc.Routes {
		if r != solver && *r.Priority >= *solver.Priority {
			t.Errorf("route %s has the priority %d, the solver's %d", r.Name, *r.Priority, *solver.Priority)
		}
	}
	if solver.Expression != `lower(http.host) == "a.test" && http.path == "/.well-known/acme-challenge/tok-en_1"` {
		t.Errorf("expression %s", solver.Expression)
	}
	if other := route(t, doc, "shop.greedy.web.a.test.80"); other.HTTPSRedirectStatusCode != 302 || len(other.Protocols) != 1 {
		t.Errorf("the other route is no redirect: %v %d", other.Protocols, other.HTTPSRedirectStatusCode)
	}
}

func TestAChallengeInTheIngressItself(t *testing.T) {
	text := strings.Replace(greedy, "      paths:\n", "      paths:\n      - {path: /.well-known/acme-challenge/tok, pathType: Exact, backend: {service: {name: cm-acme-http-solver-x, port: {number: 8089}}}}\n", 1)
	text = strings.Replace(text, "konghq.com/methods: GET,HEAD", "konghq.com/methods: POST\n    konghq.com/strip-path: \"true\"\n    konghq.com/preserve-host: \"false\"\n    konghq.com/rewrite: /elsewhere", 1)
	doc := whole(t, classes+challenged("/x", "Exact", "a: b")+text)
	solver, other := route(t, doc, "shop.greedy.cm-acme-http-solver-x.a.test.8089"), route(t, doc, "shop.greedy.web.a.test.80")
	if solver.Expression != `lower(http.host) == "a.test" && http.path == "/.well-known/acme-challenge/tok"` || len(solver.Protocols) != 2 || solver.StripPath || !solver.PreserveHost {
		t.Errorf("solver %s %v strip %v preserve %v", solver.Expression, solver.Protocols, solver.StripPath, solver.PreserveHost)
	}
	if *solver.Priority <= *other.Priority || !other.StripPath || other.PreserveHost {
		t.Errorf("priorities %d and %d; other strips %v", *solver.Priority, *other.Priority, other.StripPath)
	}
	for _, p := range doc.Plugins {
		if p.Route == solver.ID {
			t.Errorf("plugin %s changes the challenge's path", p.Name)
		}
	}
}

func TestALabelAloneComesNotFirst(t *testing.T) {
	const label = `acme.cert-manager.io/http01-solver: "true"`
	for _, c := range []struct{ path, pathType, labels string }{
		{"/", "Prefix", label},
		{"/.well-known/acme-challenge/", "Exact", label},
		{"/.well-known/acme-challenge/tok", "Prefix", label},
		{"/.well-known/acme-challenge/tok/more", "Exact", label},
		{"/.well-known/acme-challenge/../../admin", "Exact", label},
		{"/~/.well-known/acme-challenge/.*", "ImplementationSpecific", label},
	} {
		doc := whole(t, classes+greedy+challenged(c.path, c.pathType, c.labels))
		solver, other := route(t, doc, "shop.cm-acme-http-solver-y.cm-acme-http-solver-x.a.test.8089"), route(t, doc, "shop.greedy.web.a.test.80")
		if *solver.Priority >= *other.Priority {
			t.Errorf("%s %s: priority %d, that of others %d", c.path, c.pathType, *solver.Priority, *other.Priority)
		}
	}
	doc := whole(t, classes+greedy+strings.ReplaceAll(challenged("/.well-known/acme-challenge/tok", "Exact", "a: b"), "cm-acme-http-solver-x", "x"))
	if solver, other := route(t, doc, "shop.cm-acme-http-solver-y.x.a.test.8089"), route(t, doc, "shop.greedy.web.a.test.80"); *solver.Priority >= *other.Priority {
		t.Errorf("without a label and its Service: priority %d, that of others %d", *solver.Priority, *other.Priority)
	}
}

// TestTheSolverOfAGatewayComesFirst: before Ingresses of the host, and before HTTPRoutes
// that send it elsewhere.
func TestTheSolverOfAGatewayComesFirst(t *testing.T) {
	solve := func(match string) string {
		text := httpRoute("solver", "hostnames: [a.test]\nrules: [{matches: [{"+match+"}], "+toWeb+"}]")
		return strings.Replace(text, "namespace: shop,", `namespace: shop, labels: {acme.cert-manager.io/http01-solver: "true"},`, 1)
	}
	others := greedy + "---\n" + httpRoute("redirect", `hostnames: [a.test]
rules: [{matches: [{path: {type: Exact, value: /.well-known/acme-challenge/tok}, method: GET, headers: [{name: a, value: b}]}], filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]}]`)
	for match, first := range map[string]bool{
		"path: {type: Exact, value: /.well-known/acme-challenge/tok}":      true,
		"path: {type: PathPrefix, value: /.well-known/acme-challenge/tok}": false,
		"path: {type: Exact, value: /}":                                    false,
	} {
		doc := whole(t, ofGateway(httpAll)+others+solve(match))
		solver := route(t, doc, "httproute.shop.solver.0.0.a.test")
		for _, r := range doc.Routes {
			if before := *solver.Priority > *r.Priority; r != solver && strings.Contains(r.Expression, "a.test") && before != first {
				t.Errorf("%s: %d, and %s has %d", match, *solver.Priority, r.Name, *r.Priority)
			}
		}
	}
}
