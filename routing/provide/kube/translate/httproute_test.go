package translate

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/routing/spec"
)

// ruled answers the one route of an HTTPRoute shop/r with a rule.
func ruled(t *testing.T, rule, more string) (*spec.Document, *spec.Route) {
	t.Helper()
	doc := whole(t, ofGateway(httpAll)+httpRoute("r", "rules: [{"+rule+"}]")+more)
	return doc, route(t, doc, "httproute.shop.r.0.0._")
}

func TestHTTPRouteMatches(t *testing.T) {
	const bits = 2 << kindShift
	for _, c := range []struct {
		match, want string
		rank        int
	}{
		{"", `net.dst.port == 80`, 1 << pathShift},
		{"path: {type: Exact, value: /a}", `net.dst.port == 80 && http.path == "/a"`, exactPathRank << pathShift},
		{"path: {value: /a/}", `net.dst.port == 80 && (http.path == "/a" || http.path ^= "/a/")`, 2 << pathShift},
		{"path: {type: PathPrefix, value: /}", `net.dst.port == 80`, 1 << pathShift},
		{"path: {type: RegularExpression, value: '/v[0-9]+'}", `net.dst.port == 80 && http.path ~ "^(?:/v[0-9]+)"`, (mostPrefix + 8) << pathShift},
		{"method: GET", `net.dst.port == 80 && http.method == "GET"`, 1<<pathShift | 1<<methodShift},
		{"headers: [{name: X-Beta, value: On}, {name: x-beta, value: no}]", `net.dst.port == 80 && any(http.headers.x_beta) == "On"`, 1<<pathShift | 1<<conditionShift},
		{"headers: [{name: v, type: RegularExpression, value: '^1'}]", `net.dst.port == 80 && any(http.headers.v) ~ "^1"`, 1<<pathShift | 1<<conditionShift},
		{"queryParams: [{name: user-id, value: b}, {name: c, type: RegularExpression, value: d}]", `net.dst.port == 80 && any(http.queries.user-id) == "b" && any(http.queries.c) ~ "d"`, 1<<pathShift | 2<<queryShift},
	} {
		_, r := ruled(t, "matches: [{"+c.match+"}], "+toWeb, "")
		if r.Expression != c.want {
			t.Errorf("%s: %s\nwant %s", c.match, r.Expression, c.want)
		}
		if want := bits | c.rank | mostRules - 1; *r.Priority != want {
			t.Errorf("%s: priority %b, want %b", c.match, *r.Priority, want)
		}
		if r.Service != spec.DeriveID("services", "shop.web.80.http") || r.StripPath || !r.PreserveHost || len(r.Split) > 0 {
			t.Errorf("%s: %+v", c.match, r)
		}
	}
}

func TestHTTPRouteOrder(t *testing.T) {
	rule := func(match string) string { return "rules: [{matches: [{" + match + "}], " + toWeb + "}]" }
	old := strings.ReplaceAll(httpRoute("z", rule("path: {value: /a}")), "2026-02-02", "2020-01-01")
	doc := whole(t, ofGateway(httpAll)+
		httpRoute("host", "hostnames: [a.test]\n"+rule(""))+
		httpRoute("wild", "hostnames: ['*.test']\n"+rule("path: {type: Exact, value: /}"))+
		httpRoute("exact", rule("path: {type: Exact, value: /a/b/c}"))+
		httpRoute("longer", rule("path: {value: /a/b}"))+
		httpRoute("method", rule("path: {value: /a}, method: GET"))+
		httpRoute("headers", rule("path: {value: /a}, headers: [{name: a, value: a}, {name: b, value: b}]"))+
		httpRoute("header", rule("path: {value: /a}, headers: [{name: a, value: a}], queryParams: [{name: a, value: a}, {name: b, value: b}]"))+
		httpRoute("query", rule("path: {value: /a}, queryParams: [{name: a, value: a}]"))+old+
		httpRoute("b", "rules: [{matches: [{path: {value: /a}}], "+toWeb+"}, {matches: [{path: {value: /a}}], "+toWeb+"}]")+
		httpRoute("c", rule("path: {value: /a}")))
	list := slices.Clone(doc.Routes)
	slices.SortFunc(list, func(a, b *spec.Route) int { return *b.Priority - *a.Priority })
	var got []string
	for i, r := range list {
		parts := strings.Split(r.Name, ".")
		got = append(got, parts[2]+parts[3])
		if i > 0 && *r.Priority == *list[i-1].Priority {
			t.Errorf("%s and %s weigh the same", r.Name, list[i-1].Name)
		}
	}
	if want := "host0 wild0 exact0 longer0 method0 headers0 header0 query0 z0 b0 b1 c0"; strings.Join(got, " ") != want {
		t.Errorf("order %v\nwant  %s", got, want)
	}
}

func TestHTTPRouteIsolation(t *testing.T) {
	listener := func(name, hostname string) string {
		return fmt.Sprintf("{name: %s, port: 80, protocol: HTTP, hostname: %q, allowedRoutes: {namespaces: {from: All}}}", name, hostname)
	}
	text := ofGateway(`{name: any, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}`, listener("wild", "*.a.test"), listener("deep", "*.b.a.test"), listener("one", "x.a.test"))
	at := func(section, hostnames string) string {
		r := strings.ReplaceAll(httpRoute(section, "hostnames: ["+hostnames+"]\nrules: [{"+toWeb+"}]"), "namespace: infra}", "namespace: infra, sectionName: "+section+"}")
		return r
	}
	for _, c := range []struct {
		route string
		want  []string
	}{
		{at("any", ""), []string{`net.dst.port == 80 && !(lower(http.host) =^ ".a.test")`}},
		{at("any", "c.test"), []string{`net.dst.port == 80 && lower(http.host) == "c.test"`}},
		{at("any", "x.a.test"), nil},
		{at("any", "'*.test'"), []string{`net.dst.port == 80 && lower(http.host) =^ ".test" && !(lower(http.host) =^ ".a.test")`}},
		{at("wild", ""), []string{`net.dst.port == 80 && lower(http.host) =^ ".a.test" && !(lower(http.host) =^ ".b.a.test" || lower(http.host) == "x.a.test")`}},
		{at("wild", "y.a.test, x.a.test, c.test"), []string{`net.dst.port == 80 && lower(http.host) == "y.a.test"`}},
		{at("wild", "y.b.a.test"), nil},
		{at("one", ""), []string{`net.dst.port == 80 && lower(http.host) == "x.a.test"`}},
	} {
		doc := whole(t, text+c.route)
		var got []string
		for _, r := range doc.Routes {
			got = append(got, r.Expression)
		}
		if !sameSet(got, c.want) {
			t.Errorf("%s\nmade %v\nwant %v", c.route, got, c.want)
		}
	}
	// Attached to all, it takes every host once.
	doc := whole(t, text+httpRoute("all", "rules: [{"+toWeb+"}]"))
	if len(doc.Routes) != 4 {
		t.Errorf("%d routes", len(doc.Routes))
	}
}

func TestHTTPRouteAttachment(t *testing.T) {
	for _, c := range []struct {
		name, listener, route, want string
		routes                      int
	}{
		{"all", httpAll, httpRoute("r", "rules: [{"+toWeb+"}]"), "edge.Accepted edge.ResolvedRefs", 1},
		{"same namespace", `{name: h, port: 80, protocol: HTTP}`, httpRoute("r", "rules: [{"+toWeb+"}]"), "edge.Accepted=False/NotAllowedByListeners edge.ResolvedRefs", 0},
		{"a selector that fits", `{name: h, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: a}}}}}`, httpRoute("r", "rules: [{"+toWeb+"}]"), "edge.Accepted edge.ResolvedRefs", 1},
		{"a selector that does not", `{name: h, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: team, operator: NotIn, values: [a]}]}}}}`, httpRoute("r", "rules: [{"+toWeb+"}]"), "edge.Accepted=False/NotAllowedByListeners edge.ResolvedRefs", 0},
		{"another kind", `{name: h, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}, kinds: [{kind: GRPCRoute}]}}`, httpRoute("r", "rules: [{"+toWeb+"}]"), "edge.Accepted=False/NotAllowedByListeners edge.ResolvedRefs", 0},
		{"no such section", httpAll, strings.ReplaceAll(httpRoute("r", "rules: [{"+toWeb+"}]"), "namespace: infra}", "namespace: infra, sectionName: x}"), "edge.Accepted=False/NoMatchingParent edge.ResolvedRefs", 0},
		{"another port", httpAll, strings.ReplaceAll(httpRoute("r", "rules: [{"+toWeb+"}]"), "namespace: infra}", "namespace: infra, sectionName: http, port: 81}"), "edge.Accepted=False/NoMatchingParent edge.ResolvedRefs", 0},
		{"another host", `{name: h, port: 80, protocol: HTTP, hostname: a.test, allowedRoutes: {namespaces: {from: All}}}`, httpRoute("r", "hostnames: [b.test]\nrules: [{"+toWeb+"}]"), "edge.Accepted=False/NoMatchingListenerHostname edge.ResolvedRefs", 0},
		{"no such Gateway", httpAll, strings.ReplaceAll(httpRoute("r", "rules: [{"+toWeb+"}]"), "name: edge,", "name: none,"), "", 0},
		{"no such Service", httpAll, httpRoute("r", "rules: [{backendRefs: [{name: none, port: 80}]}]"), "edge.Accepted edge.ResolvedRefs=False/BackendNotFound", 1},
		{"no such port", httpAll, httpRoute("r", "rules: [{backendRefs: [{name: web, port: 81}]}]"), "edge.Accepted edge.ResolvedRefs=False/BackendNotFound", 1},
		{"another kind of backend", httpAll, httpRoute("r", "rules: [{backendRefs: [{kind: Bucket, group: x, name: web}]}]"), "edge.Accepted edge.ResolvedRefs=False/InvalidKind", 1},
		{"a backend elsewhere", httpAll, httpRoute("r", "rules: [{backendRefs: [{name: web, namespace: infra, port: 80}]}]"), "edge.Accepted edge.ResolvedRefs=False/RefNotPermitted", 1},
		{"a filter that is none", httpAll, httpRoute("r", "rules: [{filters: [{type: Foo}], "+toWeb+"}]"), "edge.Accepted=False/UnsupportedValue edge.ResolvedRefs", 1},
		{"filters that exclude each other", httpAll, httpRoute("r", "rules: [{filters: [{type: RequestRedirect, requestRedirect: {port: 1}}, {type: URLRewrite, urlRewrite: {hostname: a}}], "+toWeb+"}]"), "edge.Accepted=False/IncompatibleFilters edge.ResolvedRefs", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := ofGateway(c.listener) + c.route
			doc := whole(t, text)
			if len(doc.Routes) != c.routes {
				t.Errorf("%d routes, want %d", len(doc.Routes), c.routes)
			}
			s := state(t, text)
			if got := status(t, s, KindHTTPRoute, "shop", "r"); got != c.want {
				t.Errorf("%s\nwant %s\n%s", got, c.want, lines(s.Findings()))
			}
			attached := strings.Contains(status(t, s, KindGateway, "infra", "edge"), "]:1")
			if accepted := strings.Contains(c.want, "edge.Accepted ") || strings.Contains(c.want, "Value") || strings.Contains(c.want, "Filters"); attached != accepted {
				t.Errorf("attached %v, accepted %v", attached, accepted)
			}
		})
	}
}

func TestHTTPRouteBackends(t *testing.T) {
	const grant = `
kind: Service
metadata: {name: far, namespace: other}
spec: {ports: [{port: 80, appProtocol: kubernetes.io/h2c}]}
---
kind: ReferenceGrant
metadata: {name: g, namespace: other}
spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}], to: [{group: "", kind: Service, name: far}]}
`
	doc, r := ruled(t, "backendRefs: [{name: web, port: 80, weight: 3}, {name: far, namespace: other, port: 80}, {name: none, port: 80, weight: 5}]", grant)
	web, far := spec.DeriveID("services", "shop.web.80.http"), spec.DeriveID("services", "other.far.80.http")
	if want := []spec.Share{{Service: web, Weight: 3}, {Service: far, Weight: 1}, {Weight: 5}}; r.Service != "" || !slices.Equal(r.Split, want) {
		t.Errorf("%+v, want %+v", r.Split, want)
	}
	for _, s := range doc.Services {
		if (s.UpstreamProtocol == "h2c") != (s.ID == far) {
			t.Errorf("service %s speaks %q", s.Name, s.UpstreamProtocol)
		}
	}
	if _, r = ruled(t, "backendRefs: []", ""); len(r.Split) != 1 || r.Split[0].Service != "" {
		t.Errorf("without backends it leads to %+v", r.Split)
	}
	if _, r = ruled(t, "backendRefs: [{name: web, port: 80, weight: 0}]", ""); len(r.Split) != 1 || r.Split[0].Weight != 0 {
		t.Errorf("with no weight it leads to %+v", r)
	}
	_, r = ruled(t, "timeouts: {request: 1m30s, backendRequest: 500ms}, retry: {codes: [503], attempts: 2, backoff: 10ms}, "+toWeb, "")
	if r.Timeouts == nil || *r.Timeouts != (spec.Timeouts{Request: 90000, Attempt: 500}) || r.Retry == nil || !slices.Equal(r.Retry.OnStatuses, []int{503}) || *r.Retry.Attempts != 2 || r.Retry.Backoff != 10 {
		t.Errorf("times %+v, retries %+v", r.Timeouts, r.Retry)
	}
}

// pluginsOf are the plugins of a document as text: name, service if any, config without
// what is null.
func pluginsOf(t *testing.T, doc *spec.Document) []string {
	t.Helper()
	var list []string
	for _, p := range doc.Plugins {
		text, err := json.Marshal(sparse(p.Config))
		if err != nil {
			t.Fatal(err)
		}
		of := ""
		for _, s := range doc.Services {
			if s.ID == p.Service {
				of = " for " + s.Name
			}
		}
		list = append(list, p.Name+of+" "+string(text))
	}
	slices.Sort(list)
	return list
}

func sparse(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, x := range v {
			if x = sparse(x); x != nil {
				out[k] = x
			}
		}
		if len(out) == 0 {
			return nil
		}
		return out
	case []any:
		if len(v) == 0 {
			return nil
		}
		out := make([]any, len(v))
		for i := range v {
			out[i] = sparse(v[i])
		}
		return out
	}
	return v
}

func TestHTTPRouteFilters(t *testing.T) {
	for _, c := range []struct {
		name, rule string
		want       []string
	}{
		{
			"headers", "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}], add: [{name: c, value: d}], remove: [e]}}, {type: ResponseHeaderModifier, responseHeaderModifier: {remove: [f]}}]",
			[]string{`route-filters {"request_headers":{"add":[{"name":"c","value":"d"}],"remove":["e"],"set":[{"name":"a","value":"b"}]},"response_headers":{"remove":["f"]}}`},
		},
		{
			"of a backend", "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}], remove: [e]}}], backendRefs: [{name: web, port: 80, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: A, value: own}], add: [{name: e, value: new}]}}]}, {name: web, port: 9000}]",
			[]string{
				`route-filters for shop.web.80.http {"request_headers":{"set":[{"name":"A","value":"own"},{"name":"e","value":"new"}]}}`,
				`route-filters {"request_headers":{"remove":["e"],"set":[{"name":"a","value":"b"}]}}`,
			},
		},
		{
			"redirect", "filters: [{type: RequestRedirect, requestRedirect: {scheme: https, hostname: b.test, port: 8443, statusCode: 301, path: {type: ReplacePrefixMatch, replacePrefixMatch: /n}}}]",
			[]string{`route-filters {"redirect":{"hostname":"b.test","path":{"prefix":{"match":"/m","replace":"/n"}},"port":8443,"scheme":"https","status_code":301}}`},
		},
		{
			"rewrite", "filters: [{type: URLRewrite, urlRewrite: {hostname: b.test, path: {type: ReplaceFullPath, replaceFullPath: /n}}}]",
			[]string{`route-filters {"rewrite":{"hostname":"b.test","path":{"full":"/n"}}}`},
		},
		{
			"cors", "filters: [{type: CORS, cors: {allowOrigins: ['https://a.test', 'https://*.b.test'], allowMethods: [PUT], allowHeaders: ['*'], exposeHeaders: [x], maxAge: 9, allowCredentials: true}}]",
			[]string{`cors {"gateway_api":{"allow_credentials":true,"allow_headers":["*"],"allow_methods":["PUT"],"allow_origins":["https://a.test","https://*.b.test"],"expose_headers":["x"],"max_age":9}}`},
		},
		{
			"cors of nobody", "filters: [{type: CORS, cors: {}}]",
			[]string{`cors {"gateway_api":{"allow_credentials":false}}`},
		},
		{"extension", "filters: [{type: ExtensionRef, extensionRef: {group: configuration.konghq.com, kind: KongPlugin, name: limit}}]", []string{`rate-limiting {"minute":5,"policy":"local"}`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			rule := "matches: [{path: {value: /m}}], " + c.rule
			if !strings.Contains(rule, "backendRefs") {
				rule += ", " + toWeb
			}
			doc, _ := ruled(t, rule, "kind: KongPlugin\nmetadata: {name: limit, namespace: shop}\nplugin: rate-limiting\nconfig: {minute: 5}\n")
			if got := pluginsOf(t, doc); !slices.Equal(got, c.want) {
				t.Errorf("%s\nwant %s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
	_, r := ruled(t, "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: web, port: 9000}, percent: 20}}, {type: RequestMirror, requestMirror: {backendRef: {name: web, port: 80}, fraction: {numerator: 1, denominator: 7}}}], "+toWeb, "")
	if want := []spec.Mirror{{Service: spec.DeriveID("services", "shop.web.9000.http"), Numerator: 20, Denominator: 100}, {Service: spec.DeriveID("services", "shop.web.80.http"), Numerator: 1, Denominator: 7}}; !slices.Equal(r.Mirrors, want) {
		t.Errorf("%+v, want %+v", r.Mirrors, want)
	}
	closedBy := "filters: [{type: ExtensionRef, extensionRef: {group: configuration.konghq.com, kind: KongPlugin, name: none}}], " + toWeb
	if _, r := ruled(t, closedBy, ""); r.Closed == "" || r.Service != "" {
		t.Errorf("with a plugin that is not there it is open: %+v", r)
	}
}
