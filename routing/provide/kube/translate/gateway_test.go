package translate

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// ofGateway is a class, a Gateway infra/edge with listeners, and a Service shop/web; listeners
// are in the form of flow mappings.
func ofGateway(listeners ...string) string {
	return classes + `
kind: GatewayClass
metadata: {name: keyway, generation: 1}
spec: {controllerName: keyway.dev/gateway}
---
kind: Namespace
metadata: {name: shop, labels: {team: a}}
---
kind: Gateway
metadata: {name: edge, namespace: infra, generation: 4, creationTimestamp: "2026-01-01T00:00:00Z"}
spec:
  gatewayClassName: keyway
  listeners:
  - ` + strings.Join(listeners, "\n  - ") + `
---
`
}

const (
	httpAll = `{name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}`
	toWeb   = `backendRefs: [{name: web, port: 80}]`
)

// httpRoute is an HTTPRoute shop/NAME at infra/edge.
func httpRoute(name, spec string) string {
	return fmt.Sprintf(`
kind: HTTPRoute
metadata: {name: %s, namespace: shop, generation: 2, creationTimestamp: "2026-02-02T00:00:00Z"}
spec:
  parentRefs: [{name: edge, namespace: infra}]
  %s
---
`, name, strings.ReplaceAll(strings.TrimSpace(spec), "\n", "\n  "))
}

var published = []Address{{IP: "192.0.2.7"}}

// status answers what the status of an object is to say, in short: "Accepted=False/Reason"
// by parent or listener.
func status(t testing.TB, s *State, kind, namespace, name string) string {
	t.Helper()
	s.Document()
	o := s.Object(Ref{kind, namespace, name})
	if o == nil {
		t.Fatalf("no %s %s/%s", kind, namespace, name)
	}
	v := s.Status(o, published, nil, time.Unix(1, 0))
	var out []string
	add := func(of string, list []Condition) {
		for _, c := range list {
			text := of + c.Type
			if c.Status != "True" || c.Reason != c.Type {
				text += "=" + c.Status + "/" + c.Reason
			}
			if c.ObservedGeneration != o.Common().Generation {
				t.Errorf("%s of %s was seen at %d", c.Type, name, c.ObservedGeneration)
			}
			if c.LastTransitionTime == "" {
				t.Errorf("%s of %s has no time", c.Type, name)
			}
			out = append(out, text)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(v)) {
		switch list := v[key].(type) {
		case []Condition:
			add("", list)
		case []ListenerStatus:
			for _, l := range list {
				var kinds []string
				for _, k := range l.SupportedKinds {
					kinds = append(kinds, k.Kind)
				}
				out = append(out, fmt.Sprintf("%s[%s]:%d", l.Name, strings.Join(kinds, ","), l.AttachedRoutes))
				add(l.Name+".", slices.DeleteFunc(slices.Clone(l.Conditions), func(c Condition) bool { return c.Type == "Conflicted" && c.Status == "False" }))
			}
		case []ParentStatus:
			for _, p := range list {
				add(p.ParentRef.Name+".", p.Conditions)
			}
		case []AncestorStatus:
			for _, p := range list {
				add(p.AncestorRef.Name+".", p.Conditions)
			}
		}
	}
	return strings.Join(out, " ")
}

func TestHostnames(t *testing.T) {
	for _, c := range []struct {
		a, b, common string
		any          bool
	}{
		{"", "", "", true},
		{"a.test", "", "a.test", true},
		{"a.test", "a.test", "a.test", true},
		{"a.test", "b.test", "", false},
		{"a.test", "*.test", "a.test", true},
		{"x.a.test", "*.test", "x.a.test", true},
		{"*.a.test", "*.test", "*.a.test", true},
		{"*.a.test", "*.b.test", "", false},
		{"test", "*.test", "", false},
		{"*.test", "", "*.test", true},
		{"ba.test", "*.a.test", "", false},
	} {
		for range 2 {
			if common, any := meet(c.a, c.b); common != c.common || any != c.any {
				t.Errorf("%q and %q have %q in common (%v)", c.a, c.b, common, any)
			}
			c.a, c.b = c.b, c.a
		}
	}
	order := []string{"", "*.test", "*.a.test", "a.test"}
	for i := range order[1:] {
		if specific(order[i]) >= specific(order[i+1]) {
			t.Errorf("%q is not less specific than %q", order[i], order[i+1])
		}
	}
}

func TestGatewayListeners(t *testing.T) {
	for _, c := range []struct {
		name      string
		listeners []string
		more      string
		want      string
	}{
		{"one", []string{httpAll}, "", "Accepted Programmed http[HTTPRoute,GRPCRoute]:0 http.Accepted http.Programmed http.ResolvedRefs"},
		{
			"unknown protocol",
			[]string{`{name: x, port: 80, protocol: QUIC}`},
			"",
			"Accepted=False/ListenersNotValid Programmed=False/Invalid x[]:0 x.Accepted=False/UnsupportedProtocol x.Programmed=False/Invalid x.ResolvedRefs",
		},
		{
			"one of two",
			[]string{httpAll, `{name: x, port: 80, protocol: QUIC}`},
			"",
			"Accepted=True/ListenersNotValid Programmed http[HTTPRoute,GRPCRoute]:0 http.Accepted http.Programmed http.ResolvedRefs x[]:0 x.Accepted=False/UnsupportedProtocol x.Programmed=False/Invalid x.ResolvedRefs",
		},
		{
			"unknown kind",
			[]string{`{name: x, port: 80, protocol: HTTP, allowedRoutes: {kinds: [{kind: FooRoute}]}}`},
			"",
			"Accepted Programmed x[]:0 x.Accepted x.Programmed=False/Invalid x.ResolvedRefs=False/InvalidRouteKinds",
		},
		{
			"one known kind",
			[]string{`{name: x, port: 80, protocol: HTTP, allowedRoutes: {kinds: [{kind: FooRoute}, {kind: HTTPRoute}]}}`},
			"",
			"Accepted Programmed x[HTTPRoute]:0 x.Accepted x.Programmed x.ResolvedRefs=False/InvalidRouteKinds",
		},
		{
			"same hostname",
			[]string{`{name: a, port: 80, protocol: HTTP, hostname: a.test}`, `{name: b, port: 80, protocol: HTTP, hostname: A.test}`},
			"",
			"Accepted=True/ListenersNotValid Programmed a[HTTPRoute,GRPCRoute]:0 a.Accepted a.Programmed a.ResolvedRefs b[HTTPRoute,GRPCRoute]:0 b.Accepted=False/HostnameConflict b.Programmed=False/HostnameConflict b.ResolvedRefs b.Conflicted=True/HostnameConflict",
		},
		{
			"two protocols",
			[]string{`{name: a, port: 80, protocol: HTTP}`, `{name: b, port: 80, protocol: TCP}`, `{name: c, port: 80, protocol: UDP}`},
			"",
			"Accepted=True/ListenersNotValid Programmed a[HTTPRoute,GRPCRoute]:0 a.Accepted a.Programmed a.ResolvedRefs b[TCPRoute]:0 b.Accepted=False/ProtocolConflict b.Programmed=False/ProtocolConflict b.ResolvedRefs b.Conflicted=True/ProtocolConflict c[UDPRoute]:0 c.Accepted c.Programmed c.ResolvedRefs",
		},
		{
			"no certificate",
			[]string{`{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: none}]}}`},
			"",
			"Accepted Programmed a[HTTPRoute,GRPCRoute]:0 a.Accepted a.Programmed=False/Invalid a.ResolvedRefs=False/InvalidCertificateRef",
		},
		{
			"a certificate of another namespace",
			[]string{`{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: pair, namespace: shop}]}}`},
			"kind: Pair\nmetadata: {name: pair, namespace: shop}",
			"Accepted Programmed a[HTTPRoute,GRPCRoute]:0 a.Accepted a.Programmed=False/Invalid a.ResolvedRefs=False/RefNotPermitted",
		},
		{
			"a port that an older Gateway has",
			[]string{httpAll},
			"kind: Gateway\nmetadata: {name: old, namespace: infra, creationTimestamp: \"2025-01-01T00:00:00Z\"}\nspec: {gatewayClassName: keyway, listeners: [{name: x, port: 80, protocol: TCP}]}",
			"Accepted=False/ListenersNotValid Programmed=False/Invalid http[HTTPRoute,GRPCRoute]:0 http.Accepted=False/PortUnavailable http.Programmed=False/Invalid http.ResolvedRefs",
		},
		{
			"streams beside the requests over TLS of an older Gateway",
			[]string{`{name: a, port: 443, protocol: TLS, tls: {mode: Passthrough}}`},
			"kind: Gateway\nmetadata: {name: old, namespace: shop, creationTimestamp: \"2025-01-01T00:00:00Z\"}\nspec: {gatewayClassName: keyway, listeners: [{name: x, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: pair}]}}]}\n---\nkind: Pair\nmetadata: {name: pair, namespace: shop}",
			"Accepted Programmed a[TLSRoute]:0 a.Accepted a.Programmed a.ResolvedRefs",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := state(t, ofGateway(c.listeners...)+c.more)
			if got := status(t, s, KindGateway, "infra", "edge"); got != c.want {
				t.Errorf("%s\nwant %s\n%s", got, c.want, lines(s.Findings()))
			}
		})
	}
}

func TestGatewayAddresses(t *testing.T) {
	second := strings.NewReplacer("name: edge, namespace: infra, generation: 4, creationTimestamp: \"2026-01-01", "name: two, namespace: infra, generation: 4, creationTimestamp: \"2026-01-02").Replace(strings.TrimPrefix(ofGateway(httpAll, `{name: t, port: 99, protocol: TCP, allowedRoutes: {namespaces: {from: All}}}`), ofGateway(httpAll)[:strings.Index(ofGateway(httpAll), "kind: Gateway\n")]))
	text := ofGateway(httpAll) + second + httpRoute("one", "rules: [{"+toWeb+"}]") + strings.ReplaceAll(httpRoute("other", "rules: [{"+toWeb+"}]"), "name: edge,", "name: two,") +
		strings.ReplaceAll(streamRouteOf(KindTCPRoute, "s", `"2026-01-01T00:00:00Z"`, "rules: [{backendRefs: [{name: web, port: 80}]}]"), "name: edge,", "name: two,")
	s := newState()
	s.cfg.GatewayAddresses = []string{"192.0.2.1", "192.0.2.2"}
	for _, o := range manifests(t, text) {
		s.Put(o)
	}
	doc := s.Document()
	of := map[string]string{} // addresses by Gateway
	for _, name := range []string{"edge", "two"} {
		v := s.Status(s.Object(Ref{KindGateway, "infra", name}), published, nil, time.Unix(1, 0))
		list, _ := v["addresses"].([]StatusAddress)
		if len(list) != 1 {
			t.Fatalf("%s has %v", name, v)
		}
		of[name] = list[0].Value
	}
	if of["edge"] == of["two"] || !slices.Contains(s.cfg.GatewayAddresses, of["edge"]) || !slices.Contains(s.cfg.GatewayAddresses, of["two"]) {
		t.Errorf("addresses %v", of)
	}
	if r := route(t, doc, "httproute.shop.one.0.0._"); r.Expression != "net.dst.ip == "+of["edge"]+" && net.dst.port == 80" {
		t.Error(r.Expression)
	}
	if r := route(t, doc, "httproute.shop.other.0.0._"); r.Expression != "net.dst.ip == "+of["two"]+" && net.dst.port == 80" {
		t.Error(r.Expression)
	}
	if r := route(t, doc, "tcproute.shop.s.tcp.99."+of["two"]); len(r.Destinations) != 1 || r.Destinations[0].IP != of["two"] || r.Destinations[0].Port != 99 {
		t.Errorf("%+v", r.Destinations)
	}
	var at []string
	for _, l := range doc.Listeners {
		at = append(at, fmt.Sprint(l.Address, " ", l.Port))
	}
	if !sameSet(at, []string{of["edge"] + " 80", of["two"] + " 80", of["two"] + " 99"}) {
		t.Errorf("listeners %v", at)
	}
	// A third has none left; what the others have stays theirs.
	for _, o := range manifests(t, strings.NewReplacer("name: two", "name: three", "2026-01-02", "2026-01-03").Replace(second)) {
		s.Put(o)
	}
	if got := status(t, s, KindGateway, "infra", "three"); !strings.HasPrefix(got, "Accepted Programmed=False/AddressNotAssigned") {
		t.Error(got)
	}
	if next := s.Document(); len(next.Listeners) != 3 {
		t.Errorf("%d listeners", len(next.Listeners))
	}
	// One that is older, and comes later, takes none that another's status has.
	two, _ := manifests(t, strings.Replace(second, "spec:", "status: {addresses: [{type: IPAddress, value: "+of["two"]+"}]}\nspec:", 1))[0].(*Gateway)
	edge, _ := s.Object(Ref{KindGateway, "infra", "edge"}).(*Gateway)
	kept := *edge
	kept.Status.Addresses, kept.ResourceVersion, two.ResourceVersion = []StatusAddress{{"IPAddress", of["edge"]}}, "2", "2"
	s.Put(&kept)
	s.Put(two)
	for _, o := range manifests(t, strings.NewReplacer("name: two", "name: ancient", "2026-01-02", "2020-01-03").Replace(second)) {
		s.Put(o)
	}
	if got := status(t, s, KindGateway, "infra", "ancient"); !strings.HasPrefix(got, "Accepted Programmed=False/AddressNotAssigned") {
		t.Error(got)
	}
}

func TestGatewayOfAnother(t *testing.T) {
	text := strings.ReplaceAll(ofGateway(httpAll), "controllerName: keyway.dev/gateway", "controllerName: another.dev/gateway") + httpRoute("r", "rules: [{"+toWeb+"}]")
	s := state(t, text)
	if doc := s.Document(); len(doc.Routes) > 0 {
		t.Errorf("routes %+v", doc.Routes)
	}
	for _, o := range []Ref{{KindGatewayClass, "", "keyway"}, {KindGateway, "infra", "edge"}, {KindHTTPRoute, "shop", "r"}} {
		if v := s.Status(s.Object(o), published, nil, time.Now()); v != nil {
			t.Errorf("%s: status %v", o, v)
		}
	}
}

// TestGatewayCost holds what a change makes anew to what it is about.
func TestGatewayCost(t *testing.T) {
	text := ofGateway(httpAll)
	for i := range 50 {
		text += httpRoute(fmt.Sprintf("r%d", i), fmt.Sprintf("hostnames: [h%d.test]\nrules: [{%s}]", i, toWeb))
	}
	s := state(t, text)
	s.Document()
	made := map[Ref]int{}
	s.counted = func(r Ref) { made[r]++ }
	again := func(from, to string, most int, what string) {
		t.Helper()
		clear(made)
		for _, o := range manifests(t, strings.Replace(text, from, to, 1)) {
			if m := o.Common(); m.Name == what {
				m.ResourceVersion = "2"
				s.Put(o)
			}
		}
		if s.Document(); len(made) > most || len(made) == 0 {
			t.Errorf("%s: made %v", what, made)
		}
	}
	again("hostnames: [h7.test]", "hostnames: [x.test]", 3, "r7") // the route, and who ties with it before and after
	again("generation: 4", "generation: 5", 1, "edge")            // nothing that routes read
	again("zone: b}", "zone: c}", 2, "web-1")                     // targets alone, of the Service's one port
}
