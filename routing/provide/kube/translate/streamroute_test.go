package translate

import (
	"slices"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/routing/spec"
)

// streamRouteOf is a route of a kind at infra/edge.
func streamRouteOf(kind, name, created, spec string) string {
	return "kind: " + kind + "\nmetadata: {name: " + name + ", namespace: shop, generation: 2, creationTimestamp: " + created + "}\nspec:\n  parentRefs: [{name: edge, namespace: infra}]\n  " + spec + "\n---\n"
}

func TestStreamRoutes(t *testing.T) {
	const (
		all   = "allowedRoutes: {namespaces: {from: All}}"
		early = `"2026-01-01T00:00:00Z"`
		late  = `"2026-01-02T00:00:00Z"`
	)
	text := ofGateway(
		"{name: tcp, port: 5432, protocol: TCP, "+all+"}", "{name: udp, port: 53, protocol: UDP, "+all+"}",
		"{name: pass, port: 443, protocol: TLS, hostname: '*.pass.test', tls: {mode: Passthrough}, "+all+"}",
		"{name: end, port: 443, protocol: TLS, hostname: end.test, tls: {certificateRefs: [{name: pair}]}, "+all+"}",
	) + "kind: Pair\nmetadata: {name: pair, namespace: infra}\n---\n" +
		streamRouteOf(KindTCPRoute, "new", late, "rules: [{backendRefs: [{name: web, port: 80, weight: 1}, {name: web, port: 9000, weight: 9}]}]") +
		streamRouteOf(KindTCPRoute, "old", early, "rules: [{backendRefs: [{name: web, port: 9000}]}]") +
		streamRouteOf(KindUDPRoute, "u", early, "rules: [{backendRefs: [{name: none, port: 80}]}]") +
		streamRouteOf(KindTLSRoute, "wide", early, "hostnames: ['*.test']\n  rules: [{backendRefs: [{name: web, port: 80}]}]") +
		streamRouteOf(KindTLSRoute, "one", late, "hostnames: [a.pass.test]\n  rules: [{backendRefs: [{name: web, port: 80}]}]")
	doc := whole(t, text)
	services := map[string]string{}
	for _, s := range doc.Services {
		services[s.ID] = s.Name + "/" + s.Protocol
	}
	list := slices.Clone(doc.Routes)
	slices.SortFunc(list, func(a, b *spec.Route) int { return strings.Compare(b.ID, a.ID) }) // as the router does
	var got []string
	for _, r := range list {
		to := services[r.Service]
		for _, s := range r.Split {
			to += "[" + services[s.Service] + "]"
		}
		got = append(got, r.Name+" "+r.Protocols[0]+" "+strings.Join(r.SNIs, ",")+" "+to)
	}
	want := []string{
		"tlsroute.shop.one.tls_passthrough.443.a.pass.test tls_passthrough a.pass.test shop.web.80.pass/tls_passthrough",
		"tlsroute.shop.wide.tls.443.end.test tls end.test shop.web.80.tcp/tcp",
		"tlsroute.shop.wide.tls_passthrough.443._.pass.test tls_passthrough *.pass.test shop.web.80.pass/tls_passthrough",
		"tcproute.shop.old.tcp.5432 tcp  shop.web.9000.tcp/tcp",
		"tcproute.shop.new.tcp.5432 tcp  [shop.web.80.tcp/tcp][shop.web.9000.tcp/tcp]",
		"udproute.shop.u.udp.53 udp  []",
	}
	slices.Sort(got[:2]) // of hostnames that no stream has both
	slices.Sort(want[:2])
	slices.Sort(got[4:])
	slices.Sort(want[4:]) // of different ports
	if !slices.Equal(got, want) {
		t.Errorf("%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	var ports []string
	for _, l := range doc.Listeners {
		ports = append(ports, l.Name+"/"+l.Protocol)
	}
	if !sameSet(ports, []string{"gateway-5432-tcp/tcp", "gateway-53-udp/udp", "gateway-443-tcp/tls"}) {
		t.Errorf("listeners %v", ports)
	}
	if len(doc.SNIs) != 1 || doc.SNIs[0].Name != "end.test" {
		t.Errorf("server names %+v", doc.SNIs)
	}
	s := state(t, text)
	if got := status(t, s, KindUDPRoute, "shop", "u"); got != "edge.Accepted edge.ResolvedRefs=False/BackendNotFound" {
		t.Error(got)
	}
	if got := status(t, s, KindTCPRoute, "shop", "new"); got != "edge.Accepted edge.ResolvedRefs" {
		t.Error(got)
	}
	if got := status(t, s, KindGateway, "infra", "edge"); !strings.Contains(got, "tcp[TCPRoute]:2") || !strings.Contains(got, "pass[TLSRoute]:2") || !strings.Contains(got, "end[TLSRoute]:1") {
		t.Error(got)
	}
}

// TestNamesOfMoreSpecificListeners: they are not the wider listener's, whether they have a
// route or not, and whether the wider one ends TLS or passes it on.
func TestNamesOfMoreSpecificListeners(t *testing.T) {
	const (
		all  = "allowedRoutes: {namespaces: {from: All}}"
		ends = "tls: {certificateRefs: [{name: pair}]}, " + all
		pass = "tls: {mode: Passthrough}, " + all
	)
	for _, c := range []struct{ wide, narrow string }{{pass, ends}, {pass, pass}, {ends, ends}, {ends, pass}} {
		protocol := map[string]string{ends: "tls", pass: "tls_passthrough"}[c.wide]
		text := ofGateway("{name: wide, port: 443, protocol: TLS, hostname: '*.test', "+c.wide+"}", "{name: narrow, port: 443, protocol: TLS, hostname: one.test, "+c.narrow+"}",
			"{name: deep, port: 443, protocol: TLS, hostname: '*.deep.test', "+c.narrow+"}", "{name: away, port: 444, protocol: TLS, hostname: away.test, "+c.narrow+"}") +
			"kind: Pair\nmetadata: {name: pair, namespace: infra}\n---\n" +
			strings.Replace(streamRouteOf(KindTLSRoute, "r", `"2026-01-01T00:00:00Z"`, "hostnames: ['*.test', one.test, x.test]\n  rules: [{backendRefs: [{name: web, port: 80}]}]"), "namespace: infra}", "namespace: infra, sectionName: wide}", 1)
		var got []string
		for _, r := range whole(t, text).Routes {
			got = append(got, r.Name+" "+strings.Join(r.SNIs, ",")+" but "+strings.Join(r.ExceptSNIs, ","))
		}
		if want := []string{"tlsroute.shop.r." + protocol + ".443._.test *.test but *.deep.test,one.test", "tlsroute.shop.r." + protocol + ".443.x.test x.test but "}; !sameSet(got, want) {
			t.Errorf("%q\nwant %q", got, want)
		}
	}
}

func TestGRPCRoute(t *testing.T) {
	for _, c := range []struct{ match, want string }{
		{"", "net.dst.port == 80"},
		{"method: {service: a.B, method: C}", `net.dst.port == 80 && http.path == "/a.B/C"`},
		{"method: {type: Exact, service: a.B}", `net.dst.port == 80 && http.path ^= "/a.B/"`},
		{"method: {method: C}", `net.dst.port == 80 && http.path =^ "/C"`},
		{"method: {type: RegularExpression, service: 'a.+'}", `net.dst.port == 80 && http.path ~ "^/(?:a.+)/[^/]+$"`},
		{"headers: [{name: v, value: '1'}]", `net.dst.port == 80 && any(http.headers.v) == "1"`},
	} {
		doc := whole(t, ofGateway(httpAll)+streamRouteOf(KindGRPCRoute, "g", `"2026-01-01T00:00:00Z"`, "rules: [{matches: [{"+c.match+"}], filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [x]}}], "+toWeb+"}]"))
		r := route(t, doc, "grpcroute.shop.g.0.0._")
		if r.Expression != c.want {
			t.Errorf("%s: %s\nwant %s", c.match, r.Expression, c.want)
		}
		if !slices.Equal(r.Protocols, []string{"grpc", "grpcs"}) || len(doc.Services) != 1 || doc.Services[0].Protocol != "grpc" || len(doc.Plugins) != 1 {
			t.Errorf("%+v to %+v", r, doc.Services)
		}
	}
	s := state(t, ofGateway(httpAll)+streamRouteOf(KindGRPCRoute, "g", `"2026-01-01T00:00:00Z"`, "rules: [{filters: [{type: URLRewrite, urlRewrite: {hostname: a}}], "+toWeb+"}]"))
	if got := status(t, s, KindGRPCRoute, "shop", "g"); got != "edge.Accepted=False/UnsupportedValue edge.ResolvedRefs" {
		t.Error(got)
	}
}
