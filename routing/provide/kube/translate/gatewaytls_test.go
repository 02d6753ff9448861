package translate

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/routing/spec"
)

// bundleOf is a ConfigMap with the certificate of an authority that is made for it.
func bundleOf(t *testing.T, namespace, name string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, NotAfter: time.Now().Add(time.Hour)},
		&x509.Certificate{SerialNumber: big.NewInt(1)}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return "kind: Bundle\nmetadata: {name: " + name + ", namespace: " + namespace + "}\ndata:\n  ca.crt: |\n    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ") + "\n---\n"
}

// pairOf is a Secret with a certificate for names and its key, as it is looked at.
func pairOf(t *testing.T, namespace, name string, names ...string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	of := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: names, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, of, of, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := func(kind string, der []byte) string {
		return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return "kind: Pair\nmetadata: {name: " + name + ", namespace: " + namespace + "}\ndata: {tls.crt: " + text("CERTIFICATE", der) + ", tls.key: " + text("PRIVATE KEY", private) + "}\n---\n"
}

// withFrontend is a Gateway infra/edge with a listener over TLS and a validation of clients.
func withFrontend(t *testing.T, frontend string) string {
	return strings.Replace(ofGateway(`{name: s, port: 443, protocol: HTTPS, hostname: a.test, tls: {certificateRefs: [{name: pair}]}, allowedRoutes: {namespaces: {from: All}}}`),
		"  gatewayClassName: keyway\n", "  gatewayClassName: keyway\n  tls: {frontend: {"+frontend+"}}\n", 1) + pairOf(t, "infra", "pair")
}

func TestGatewayVerifiesClients(t *testing.T) {
	const listener = " s[HTTPRoute,GRPCRoute]:0 "
	for _, c := range []struct {
		name, frontend, auth, want string
	}{
		{"none", "default: {}", "", "Accepted Programmed" + listener + "s.Accepted s.Programmed s.ResolvedRefs"},
		{"default", "default: {validation: {caCertificateRefs: [{name: ca, kind: ConfigMap, group: ''}]}}", "required", "Accepted Programmed" + listener + "s.Accepted s.Programmed s.ResolvedRefs"},
		{"another port", "default: {}, perPort: [{port: 444, tls: {validation: {caCertificateRefs: [{name: ca}]}}}]", "", "Accepted Programmed" + listener + "s.Accepted s.Programmed s.ResolvedRefs"},
		{"its port", "default: {}, perPort: [{port: 443, tls: {validation: {caCertificateRefs: [{name: ca}], mode: AllowInsecureFallback}}}]", "optional", "Accepted Programmed InsecureFrontendValidationMode=True/ConfigurationChanged" + listener + "s.Accepted s.Programmed s.ResolvedRefs"},
		{"no such ConfigMap", "default: {validation: {caCertificateRefs: [{name: none}]}}", "closed", "Accepted=False/ListenersNotValid Programmed=False/Invalid" + listener + "s.Accepted=False/NoValidCACertificate s.Programmed=False/Invalid s.ResolvedRefs=False/InvalidCACertificateRef"},
		{"a Secret", "default: {validation: {caCertificateRefs: [{name: ca, kind: Secret}]}}", "closed", "Accepted=False/ListenersNotValid Programmed=False/Invalid" + listener + "s.Accepted=False/NoValidCACertificate s.Programmed=False/Invalid s.ResolvedRefs=False/InvalidCACertificateKind"},
		{"elsewhere", "default: {validation: {caCertificateRefs: [{name: ca, namespace: shop}]}}", "closed", "Accepted=False/ListenersNotValid Programmed=False/Invalid" + listener + "s.Accepted=False/NoValidCACertificate s.Programmed=False/Invalid s.ResolvedRefs=False/RefNotPermitted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := withFrontend(t, c.frontend) + bundleOf(t, "infra", "ca")
			doc := whole(t, text)
			if got := status(t, state(t, text), KindGateway, "infra", "edge"); got != c.want {
				t.Errorf("%s\nwant %s", got, c.want)
			}
			if c.auth == "closed" {
				if len(doc.Listeners)+len(doc.SNIs) > 0 {
					t.Errorf("it listens: %+v", doc.Listeners)
				}
				return
			}
			if len(doc.Listeners) != 1 || doc.Listeners[0].Port != 443 || doc.Listeners[0].Protocol != "https" {
				t.Fatalf("listeners %+v", doc.Listeners)
			}
			if len(doc.SNIs) != 1 || doc.SNIs[0].Name != "a.test" {
				t.Errorf("server names %+v", doc.SNIs)
			}
			if c.auth == "" {
				if len(doc.TLSPolicies) > 0 || doc.Listeners[0].TLSPolicy != "" {
					t.Errorf("policies %+v", doc.TLSPolicies)
				}
				return
			}
			if p := doc.TLSPolicies; len(p) != 1 || p[0].ClientAuth != c.auth || len(p[0].CACertificates) != 1 || p[0].CACertificates[0] != doc.CACertificates[0].ID || doc.Listeners[0].TLSPolicy != p[0].ID {
				t.Errorf("policies %+v of %+v", p, doc.Listeners[0])
			}
		})
	}
}

func TestBackendTLSPolicy(t *testing.T) {
	policy := func(name, created, spec string) string {
		return "kind: BackendTLSPolicy\nmetadata: {name: " + name + ", namespace: shop, generation: 3, creationTimestamp: " + created + "}\nspec:\n  " + spec + "\n---\n"
	}
	const (
		early = `"2026-01-01T00:00:00Z"`
		late  = `"2026-01-02T00:00:00Z"`
		valid = "validation: {hostname: b.test, caCertificateRefs: [{name: ca, group: '', kind: ConfigMap}]"
		forIt = "targetRefs: [{group: '', kind: Service, name: web}]\n  "
	)
	base := ofGateway(httpAll) + httpRoute("r", "rules: [{"+toWeb+"}]") + bundleOf(t, "shop", "ca")
	service := func(t *testing.T, text string) (*spec.Document, *spec.Service) {
		t.Helper()
		doc := whole(t, text)
		return doc, doc.Services[0]
	}
	t.Run("right", func(t *testing.T) {
		text := base + policy("p", early, forIt+valid+", subjectAltNames: [{type: URI, uri: 'spiffe://a/b'}, {type: Hostname, hostname: c.test}]}")
		doc, s := service(t, text)
		if s.Protocol != "https" || s.TLSName != "b.test" || !*s.TLSVerify || len(s.CACertificates) != 1 || s.CACertificates[0] != doc.CACertificates[0].ID || !slices.Equal(s.TLSSubjects, []string{"spiffe://a/b", "c.test"}) {
			t.Errorf("service %+v", s)
		}
		if got := status(t, state(t, text), KindBackendTLS, "shop", "p"); got != "edge.Accepted edge.ResolvedRefs" {
			t.Error(got)
		}
	})
	t.Run("with a certificate of the Gateway", func(t *testing.T) {
		shown := strings.Replace(base, "  gatewayClassName: keyway\n", "  gatewayClassName: keyway\n  tls: {backend: {clientCertificateRef: {name: own}}}\n", 1)
		doc, s := service(t, shown+policy("p", early, forIt+valid+"}")+pairOf(t, "infra", "own"))
		if s.Name != "shop.web.80.http.infra.own" || s.ClientCertificate != doc.Certificates[0].ID || doc.Certificates[0].Cert.Ref.String() != "{vault://node.kubernetes/infra/own/tls.crt}" {
			t.Errorf("service %+v", s)
		}
		if _, s := service(t, shown+pairOf(t, "infra", "own")); s.ClientCertificate != "" {
			t.Errorf("in clear it has a certificate: %+v", s)
		}
		if got, want := status(t, state(t, shown), KindGateway, "infra", "edge"), "Accepted Programmed ResolvedRefs=False/InvalidClientCertificateRef http[HTTPRoute,GRPCRoute]:1 http.Accepted http.Programmed http.ResolvedRefs"; got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	})
	t.Run("of the system", func(t *testing.T) {
		if _, s := service(t, base+policy("p", early, forIt+"validation: {hostname: b.test, wellKnownCACertificates: System}")); s.Protocol != "https" || len(s.CACertificates) > 0 || !*s.TLSVerify {
			t.Errorf("service %+v", s)
		}
	})
	t.Run("without an authority", func(t *testing.T) {
		text := base + policy("p", early, forIt+"validation: {hostname: b.test, caCertificateRefs: [{name: none, group: '', kind: ConfigMap}]}")
		doc := whole(t, text)
		if r := route(t, doc, "httproute.shop.r.0.0._"); r.Service != "" || len(r.Split) != 1 || r.Split[0].Service != "" {
			t.Errorf("it is open: %+v", r)
		}
		if got := status(t, state(t, text), KindBackendTLS, "shop", "p"); got != "edge.Accepted=False/NoValidCACertificate edge.ResolvedRefs=False/InvalidCACertificateRef" {
			t.Error(got)
		}
	})
	t.Run("of another kind", func(t *testing.T) {
		text := base + policy("p", early, forIt+"validation: {hostname: b.test, caCertificateRefs: [{name: ca, group: '', kind: Bucket}]}")
		if got := status(t, state(t, text), KindBackendTLS, "shop", "p"); got != "edge.Accepted=False/NoValidCACertificate edge.ResolvedRefs=False/InvalidKind" {
			t.Error(got)
		}
	})
	t.Run("two", func(t *testing.T) {
		text := base + policy("a", late, forIt+strings.Replace(valid, "b.test", "late.test", 1)+"}") + policy("b", early, forIt+valid+"}") +
			policy("c", late, "targetRefs: [{group: '', kind: Service, name: web, sectionName: admin}]\n  "+strings.Replace(valid, "b.test", "admin.test", 1)+"}")
		_, s := service(t, text)
		if s.TLSName != "b.test" {
			t.Errorf("service %+v", s)
		}
		st := state(t, text)
		for name, want := range map[string]string{"a": "edge.Accepted=False/Conflicted edge.ResolvedRefs", "b": "edge.Accepted edge.ResolvedRefs", "c": "edge.Accepted edge.ResolvedRefs"} {
			if got := status(t, st, KindBackendTLS, "shop", name); got != want {
				t.Errorf("%s: %s, want %s", name, got, want)
			}
		}
	})
}

func TestGatewayCertificates(t *testing.T) {
	tls := func(name, hostname, pairs string) string {
		return "{name: " + name + ", port: 443, protocol: HTTPS" + hostname + ", tls: {certificateRefs: [" + pairs + "]}}"
	}
	const grant = "kind: ReferenceGrant\nmetadata: {name: g, namespace: certs}\nspec: {from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: infra}], to: [{group: '', kind: Secret, name: far}]}\n---\n"
	text := ofGateway(tls("any", "", "{name: many}, {name: more}"), tls("one", ", hostname: a.test", "{name: far, namespace: certs}")) +
		pairOf(t, "infra", "many", "a.test", "B.test") + pairOf(t, "infra", "more", "*.c.test") + pairOf(t, "certs", "far", "x.test") + grant +
		"kind: Ingress\nmetadata: {name: i, namespace: shop, creationTimestamp: \"2026-05-05T00:00:00Z\"}\nspec: {ingressClassName: keyway, tls: [{hosts: [b.test], secretName: own}]}\n---\n"
	doc := whole(t, text)
	var got []string
	for _, n := range doc.SNIs {
		i := slices.IndexFunc(doc.Certificates, func(c *spec.Certificate) bool { return c.ID == n.Certificate })
		got = append(got, n.Name+" "+doc.Certificates[i].Cert.Ref.String())
	}
	want := []string{
		"* {vault://node.kubernetes/infra/many/tls.crt}", "a.test {vault://node.kubernetes/certs/far/tls.crt}",
		"b.test {vault://node.kubernetes/shop/own/tls.crt}", "*.c.test {vault://node.kubernetes/infra/more/tls.crt}",
	}
	if !sameSet(got, want) {
		t.Errorf("%v\nwant %v", got, want)
	}
	s := state(t, text)
	s.Document()
	if len(s.Findings()) > 0 {
		t.Errorf("findings %s", lines(s.Findings()))
	}
	if wanted := s.Wanted(); len(wanted) != 3 {
		t.Errorf("wanted %v", wanted)
	}
	// Without the grant the name has no certificate of ours, and the listener says so.
	doc = whole(t, strings.Replace(text, grant, "", 1))
	if slices.ContainsFunc(doc.SNIs, func(n *spec.SNI) bool { return n.Certificate == pairID(Ref{unitPair, "certs", "far"}) }) {
		t.Errorf("the certificate is used without the grant: %v", doc.SNIs)
	}
}

func TestListenerSet(t *testing.T) {
	set := func(namespace, listeners string) string {
		return "kind: ListenerSet\nmetadata: {name: set, namespace: " + namespace + ", generation: 3, creationTimestamp: \"2026-01-03T00:00:00Z\"}\nspec:\n  parentRef: {name: edge, namespace: infra}\n  listeners: [" + listeners + "]\n---\n"
	}
	allowing := func(allowed string) string {
		return strings.Replace(ofGateway(httpAll), "  gatewayClassName: keyway\n", "  gatewayClassName: keyway\n  allowedListeners: {namespaces: {"+allowed+"}}\n", 1)
	}
	const own = `{name: own, port: 8080, protocol: HTTP}`
	toSet := strings.Replace(httpRoute("r", "rules: [{"+toWeb+"}]"), "parentRefs: [{name: edge, namespace: infra}]", "parentRefs: [{kind: ListenerSet, name: set}]", 1)
	for _, c := range []struct {
		name, text, set, route, expression string
	}{
		{"nobody is let in", allowing("from: None") + set("shop", own) + toSet, "Accepted=False/NotAllowed Programmed=False/NotAllowed", "set.Accepted=False/NoMatchingParent set.ResolvedRefs", ""},
		{"by default", ofGateway(httpAll) + set("shop", own) + toSet, "Accepted=False/NotAllowed Programmed=False/NotAllowed", "set.Accepted=False/NoMatchingParent set.ResolvedRefs", ""},
		{"all", allowing("from: All") + set("shop", own) + toSet, "Accepted Programmed own[HTTPRoute,GRPCRoute]:1 own.Accepted own.Programmed own.ResolvedRefs", "set.Accepted set.ResolvedRefs", "net.dst.port == 8080"},
		{"a certificate that is not lent", allowing("from: All") + set("shop", `{name: own, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: pair, namespace: infra}]}}`) + toSet, "Accepted=False/ListenersNotValid Programmed=False/ListenersNotValid own[HTTPRoute,GRPCRoute]:1 own.Accepted own.Programmed=False/Invalid own.ResolvedRefs=False/RefNotPermitted", "set.Accepted set.ResolvedRefs", ""},
		{"by label", allowing("from: Selector, selector: {matchLabels: {team: a}}") + set("shop", own) + toSet, "Accepted Programmed own[HTTPRoute,GRPCRoute]:1 own.Accepted own.Programmed own.ResolvedRefs", "set.Accepted set.ResolvedRefs", "net.dst.port == 8080"},
		{"a conflict", allowing("from: All") + set("shop", `{name: own, port: 80, protocol: HTTP}`) + toSet, "Accepted=False/ListenersNotValid Programmed=False/ListenersNotValid own[HTTPRoute,GRPCRoute]:0 own.Accepted=False/HostnameConflict own.Programmed=False/HostnameConflict own.ResolvedRefs own.Conflicted=True/HostnameConflict", "set.Accepted=False/NotAllowedByListeners set.ResolvedRefs", ""},
		{"the Gateway's are not its", allowing("from: All") + set("shop", own) + httpRoute("r", "rules: [{"+toWeb+"}]"), "Accepted Programmed own[HTTPRoute,GRPCRoute]:0 own.Accepted own.Programmed own.ResolvedRefs", "edge.Accepted edge.ResolvedRefs", "net.dst.port == 80"},
	} {
		t.Run(c.name, func(t *testing.T) {
			doc := whole(t, c.text)
			s := state(t, c.text)
			if got := status(t, s, KindListenerSet, "shop", "set"); got != c.set {
				t.Errorf("%s\nwant %s", got, c.set)
			}
			if got := status(t, s, KindHTTPRoute, "shop", "r"); got != c.route {
				t.Errorf("%s\nwant %s", got, c.route)
			}
			if c.expression == "" != (len(doc.Routes) == 0) || len(doc.Routes) > 0 && doc.Routes[0].Expression != c.expression {
				t.Errorf("routes %+v", doc.Routes)
			}
		})
	}
}

// TestGatewayHostnames: what listeners of one port are for is told to the node, of every
// Gateway that has the port.
func TestGatewayHostnames(t *testing.T) {
	text := ofGateway(
		`{name: any, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: pair}]}}`,
		`{name: web, port: 443, protocol: HTTPS, hostname: "*.Web.test", tls: {certificateRefs: [{name: pair}]}}`,
		`{name: raw, port: 443, protocol: TLS, hostname: raw.test, tls: {mode: Passthrough}}`,
		`{name: end, port: 443, protocol: TLS, hostname: end.web.test, tls: {certificateRefs: [{name: pair}]}}`,
		`{name: clear, port: 80, protocol: HTTP, hostname: a.test}`,
		`{name: other, port: 8443, protocol: HTTPS, hostname: a.test, tls: {certificateRefs: [{name: none}]}}`,
	) + pairOf(t, "infra", "pair", "a.test") + `
kind: Gateway
metadata: {name: second, namespace: infra, creationTimestamp: "2026-02-01T00:00:00Z"}
spec: {gatewayClassName: keyway, listeners: [{name: x, port: 443, protocol: HTTPS, hostname: second.test, tls: {certificateRefs: [{name: pair}]}}]}
---
`
	var got []string
	for _, l := range whole(t, text).Listeners {
		got = append(got, l.Name+" "+l.Protocol+" "+strings.Join(l.Hostnames, " "))
	}
	if want := []string{"gateway-443-tcp https * *.web.test second.test", "gateway-443-tcp-tls tls end.web.test raw.test", "gateway-80-tcp http ", "gateway-8443-tcp https a.test"}; !sameSet(got, want) {
		t.Errorf("%q\nwant %q", got, want)
	}
}

// TestRequestsAndStreamsShareAPort: over TLS the hostname tells which of one Gateway's
// listeners it is, unless two have the same one.
func TestRequestsAndStreamsShareAPort(t *testing.T) {
	s := state(t, ofGateway(
		`{name: a, port: 443, protocol: HTTPS, hostname: a.test, tls: {certificateRefs: [{name: pair}]}}`,
		`{name: b, port: 443, protocol: TLS, hostname: b.test, tls: {mode: Passthrough}}`,
		`{name: c, port: 443, protocol: TLS, hostname: A.test, tls: {mode: Passthrough}}`,
	)+pairOf(t, "infra", "pair"))
	const want = "Accepted=True/ListenersNotValid Programmed a[HTTPRoute,GRPCRoute]:0 a.Accepted a.Programmed a.ResolvedRefs b[TLSRoute]:0 b.Accepted b.Programmed b.ResolvedRefs c[TLSRoute]:0 c.Accepted=False/HostnameConflict c.Programmed=False/HostnameConflict c.ResolvedRefs c.Conflicted=True/HostnameConflict"
	if got := status(t, s, KindGateway, "infra", "edge"); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}
