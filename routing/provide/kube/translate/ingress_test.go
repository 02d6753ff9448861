package translate

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/routing/spec"
)

const classes = `
kind: IngressClass
metadata: {name: keyway}
spec: {controller: keyway.dev/ingress}
---
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.0.0.9, ports: [{name: http, port: 80, protocol: TCP}, {name: admin, port: 9000}]}
---
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}, {name: admin, port: 9001}]
endpoints:
- {addresses: [10.1.0.2], zone: b}
- {addresses: [10.1.0.1], conditions: {ready: true}, zone: a}
- {addresses: [10.1.0.3], conditions: {ready: false, serving: true, terminating: true}}
---
`

// ingress is an Ingress shop/i with a path of a type and annotations.
func ingress(path, pathType string, annotations ...string) string {
	text := "kind: Ingress\nmetadata:\n  name: i\n  namespace: shop\n  annotations:\n    x: y\n"
	for _, a := range annotations {
		k, v, _ := strings.Cut(a, "=")
		text += fmt.Sprintf("    %q: %q\n", k, v)
	}
	return text + fmt.Sprintf("spec:\n  ingressClassName: keyway\n  rules:\n  - host: a.test\n    http: {paths: [{path: %q, pathType: %s, backend: {service: {name: web, port: {number: 80}}}}]}\n", path, pathType)
}

func TestIngress(t *testing.T) {
	doc := whole(t, classes+`
kind: Ingress
metadata: {name: i, namespace: shop, uid: u-1}
spec:
  ingressClassName: keyway
  tls: [{hosts: [a.test, "*.a.test"], secretName: pair}, {hosts: [a.test], secretName: other}]
  rules:
  - host: a.test
    http:
      paths:
      - {path: /foo, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}
      - {path: /bar, pathType: Exact, backend: {service: {name: web, port: {number: 80}}}}
      - {path: /adm, pathType: Prefix, backend: {service: {name: web, port: {name: admin}}}}
  - host: "*.a.test"
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {name: http}}}}]}
---
kind: Ingress
metadata: {name: foreign, namespace: shop}
spec:
  ingressClassName: another
  rules: [{host: no.test, http: {paths: [{path: /, backend: {service: {name: web, port: {number: 80}}}}]}}]
---
kind: Ingress
metadata: {name: none, namespace: shop}
spec:
  rules: [{host: no.test, http: {paths: [{path: /, backend: {service: {name: web, port: {number: 80}}}}]}}]
`)
	r := route(t, doc, "shop.i.web.a.test.80")
	want := `lower(http.host) == "a.test" && (http.path == "/foo" || http.path ^= "/foo/" || http.path == "/bar")`
	if r.Expression != want {
		t.Errorf("expression %s\nwant       %s", r.Expression, want)
	}
	if got, want := *r.Priority, 3<<44|2<<41|1<<32|1<<16|5; got != want {
		t.Errorf("priority %b, want %b", got, want)
	}
	if r.StripPath || !r.PreserveHost || !slices.Equal(r.Protocols, []string{"http", "https"}) || r.Service != spec.DeriveID("services", "shop.web.80") {
		t.Errorf("route %+v", r)
	}
	if !slices.Contains(r.Tags, "k8s-namespace:shop") || !slices.Contains(r.Tags, "k8s-uid:u-1") || !slices.Contains(r.Tags, "k8s-group:networking.k8s.io") {
		t.Errorf("tags %v", r.Tags)
	}
	wild := route(t, doc, "shop.i.web._.a.test.http")
	if wild.Expression != `lower(http.host) =^ ".a.test" && http.path ^= "/"` || *wild.Priority != 3<<44|2<<41|1<<16|1 {
		t.Errorf("%s %b", wild.Expression, *wild.Priority)
	}
	if len(doc.Routes) != 3 || len(doc.Services) != 3 || len(doc.Upstreams) != 3 {
		t.Errorf("%d routes, %d services, %d upstreams", len(doc.Routes), len(doc.Services), len(doc.Upstreams))
	}
	if s := doc.Services[slices.IndexFunc(doc.Services, func(s *spec.Service) bool { return s.Name == "shop.web.80" })]; s.Host != "web.shop.80.svc" || s.Port != 80 || s.Path != "/" || s.Retries != 5 {
		t.Errorf("service %+v", s)
	}
	var targets []string
	for _, x := range doc.Targets {
		targets = append(targets, x.Target+"@"+x.Zone)
	}
	if want := "10.1.0.1:9001@a 10.1.0.2:9001@b 10.1.0.1:8080@a 10.1.0.2:8080@b 10.1.0.1:8080@a 10.1.0.2:8080@b"; !sameSet(targets, strings.Fields(want)) {
		t.Errorf("targets %v", targets)
	}
	if len(doc.Certificates) != 1 || doc.Certificates[0].Cert.Ref.String() != "{vault://node.kubernetes/shop/pair/tls.crt}" || doc.Certificates[0].Key.Ref.String() != "{vault://node.kubernetes/shop/pair/tls.key}" {
		t.Errorf("certificates %+v", doc.Certificates)
	}
	if len(doc.SNIs) != 2 || doc.SNIs[0].Certificate != doc.Certificates[0].ID {
		t.Errorf("server names %+v", doc.SNIs)
	}
}

func sameSet(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

func TestPaths(t *testing.T) {
	for _, c := range []struct {
		path, kind, want string
		low              int // the low 17 bits of the priority
	}{
		{"/foo", "Prefix", `(http.path == "/foo" || http.path ^= "/foo/")`, 1<<16 | 5},
		{"/foo/", "Prefix", `(http.path == "/foo" || http.path ^= "/foo/")`, 1<<16 | 5},
		{"//foo//bar/", "Prefix", `(http.path == "/foo/bar" || http.path ^= "/foo/bar/")`, 1<<16 | 9},
		{"/", "Prefix", `http.path ^= "/"`, 1<<16 | 1},
		{"", "Prefix", `http.path ^= "/"`, 1<<16 | 1},
		{"/foo", "Exact", `http.path == "/foo"`, 1<<16 | 4},
		{"/foo/", "Exact", `http.path == "/foo/"`, 1<<16 | 5},
		{"/foo", "ImplementationSpecific", `http.path ^= "/foo"`, 4},
		{"", "ImplementationSpecific", `http.path ^= "/"`, 1},
		{`/~/foo/\d+$`, "ImplementationSpecific", `http.path ~ "^/foo/\\d+$"`, 1<<16 | 9},
		{`/~/a|/b`, "ImplementationSpecific", `http.path ~ "^(?:/a|/b)"`, 1<<16 | 5},
		{`/~`, "ImplementationSpecific", `http.path ~ "^/"`, 1 << 16},
		{`/~/foo`, "Prefix", `(http.path == "/~/foo" || http.path ^= "/~/foo/")`, 1<<16 | 7},
		{"/a%20b/./c", "Prefix", `(http.path == "/a b/c" || http.path ^= "/a b/c/")`, 1<<16 | 7},
		{`/"q"`, "Exact", `http.path == "/\"q\""`, 1<<16 | 4},
	} {
		doc := whole(t, classes+ingress(c.path, c.kind))
		r := doc.Routes[0]
		if got := strings.TrimPrefix(r.Expression, `lower(http.host) == "a.test" && `); got != c.want || *r.Priority&(1<<17-1) != c.low || r.Closed != "" {
			t.Errorf("%s %s: %s, low %d, closed %q; want %s, %d", c.kind, c.path, got, *r.Priority&(1<<17-1), r.Closed, c.want, c.low)
		}
	}
}

func TestIngressAnnotations(t *testing.T) {
	for _, c := range []struct {
		annotation string
		good       func(*spec.Route) bool
		found      string // "" for nothing
	}{
		{"protocols=https", func(r *spec.Route) bool { return slices.Equal(r.Protocols, []string{"https"}) }, ""},
		{"protocols=grpc,grpcs", func(r *spec.Route) bool { return slices.Equal(r.Protocols, []string{"grpc", "grpcs"}) }, ""},
		{"protocols=http,grpc", func(r *spec.Route) bool { return r.Closed != "" }, "expected a comma list of http and https"},
		{"strip-path=true", func(r *spec.Route) bool { return r.StripPath }, ""},
		{"strip-path=yes", func(r *spec.Route) bool { return !r.StripPath && r.Closed == "" }, "expected true or false"},
		{"preserve-host=false", func(r *spec.Route) bool { return !r.PreserveHost }, ""},
		{"https-redirect-status-code=308", func(r *spec.Route) bool { return r.HTTPSRedirectStatusCode == 308 }, ""},
		{"https-redirect-status-code=303", func(r *spec.Route) bool { return r.HTTPSRedirectStatusCode == 426 && r.Closed == "" }, "expected one of 301, 302, 307, 308, 426"},
		{"regex-priority=7", func(r *spec.Route) bool { return *r.Priority>>17&(1<<15-1) == 7 }, ""},
		{"regex-priority=-7", func(r *spec.Route) bool { return *r.Priority>>17&(1<<15-1) == 0 }, "expected a whole number from 0 to 32767"},
		{"methods=get, post", func(r *spec.Route) bool {
			return strings.HasSuffix(r.Expression, `(http.method == "GET" || http.method == "POST")`)
		}, ""},
		{"methods=G-T", func(r *spec.Route) bool { return r.Closed != "" }, "expected a comma list of methods"},
		{"snis=A.test,b.test", func(r *spec.Route) bool {
			return strings.HasSuffix(r.Expression, `(tls.sni == "a.test" || tls.sni == "b.test")`)
		}, ""},
		{"snis=*.test", func(r *spec.Route) bool { return r.Closed != "" }, "expected a comma list of server names"},
		{"request-buffering=false", func(r *spec.Route) bool { return !r.RequestBuffering }, ""},
		{"response-buffering=false", func(r *spec.Route) bool { return !r.ResponseBuffering }, ""},
		{"host-aliases=c.test,*.d.test", func(r *spec.Route) bool {
			return strings.HasPrefix(r.Expression, `(lower(http.host) == "a.test" || lower(http.host) == "c.test" || lower(http.host) =^ ".d.test") && `) && *r.Priority&(1<<32) == 0
		}, ""},
		{"host-aliases=a b", func(r *spec.Route) bool { return r.Closed == "" }, "expected a comma list of host names"},
		{"path-handling=v1", func(r *spec.Route) bool { return r.PathHandling == "v1" }, ""},
		{"path-handling=v2", func(r *spec.Route) bool { return r.PathHandling == "v0" }, "expected one of v0, v1"},
		{"headers.X-Beta=On, off", func(r *spec.Route) bool {
			return strings.HasSuffix(r.Expression, `(any(lower(http.headers.x_beta)) == "on" || any(lower(http.headers.x_beta)) == "off")`) && *r.Priority>>33&255 == 1 && *r.Priority>>41&7 == 3
		}, ""},
		{"headers.X-Beta=~*^a.c$", func(r *spec.Route) bool {
			return strings.HasSuffix(r.Expression, `any(lower(http.headers.x_beta)) ~ "(?i)^a.c$"`)
		}, ""},
		{"headers.X-Beta=~*(", func(r *spec.Route) bool { return r.Closed != "" }, "expected a regular expression"},
		{"headers.Host=x", func(r *spec.Route) bool { return r.Closed != "" }, "expected the name of a header"},
		{"tags=one, two", func(r *spec.Route) bool { return slices.Contains(r.Tags, "one") && slices.Contains(r.Tags, "two") }, ""},
		{"tags=a/b", func(r *spec.Route) bool { return r.Closed == "" }, "expected a comma list of tags"},
	} {
		for _, prefix := range []string{kongPrefix, ownPrefix} {
			text := classes + ingress("/x", "Prefix", prefix+c.annotation)
			if strings.HasPrefix(c.annotation, "regex") {
				text = classes + ingress(`/~/x\d`, "ImplementationSpecific", prefix+c.annotation)
			}
			doc := whole(t, text)
			s := state(t, text)
			s.Document()
			found := lines(s.Findings())
			if !c.good(doc.Routes[0]) {
				t.Errorf("%s%s: %+v", prefix, c.annotation, doc.Routes[0])
			}
			name, _, _ := strings.Cut(c.annotation, "=")
			if (c.found == "") != (found == "") || !strings.Contains(found, c.found) || c.found != "" && !strings.Contains(found, "Ingress shop/i: metadata.annotations["+prefix+name+"]: ") {
				t.Errorf("%s%s: found %q", prefix, c.annotation, found)
			}
			sameAgain(t, s, text)
		}
	}
}

func TestForceSSLRedirect(t *testing.T) {
	const name = "ingress.kubernetes.io/force-ssl-redirect="
	r := whole(t, classes+ingress("/", "Prefix", name+"true", "konghq.com/protocols=http,https")).Routes[0]
	if !slices.Equal(r.Protocols, []string{"https"}) || r.HTTPSRedirectStatusCode != 302 {
		t.Errorf("%v %d", r.Protocols, r.HTTPSRedirectStatusCode)
	}
	if r := whole(t, classes+ingress("/", "Prefix", name+"True")).Routes[0]; r.Closed == "" {
		t.Error("a doubtful redirect serves in clear")
	}
}

func TestRegexPrefix(t *testing.T) {
	r := whole(t, classes+ingress(`/@/a\d`, "ImplementationSpecific", "konghq.com/regex-prefix=/@")).Routes[0]
	if !strings.HasSuffix(r.Expression, `http.path ~ "^/a\\d"`) {
		t.Error(r.Expression)
	}
	// What does not compile is closed for all that it could have meant.
	r = whole(t, classes+ingress(`/~/private/(`, "ImplementationSpecific")).Routes[0]
	if !strings.HasSuffix(r.Expression, `http.path ^= "/private"`) || !strings.Contains(r.Closed, "spec.rules[0].http.paths[0].path") {
		t.Errorf("%s: %s", r.Expression, r.Closed)
	}
}

func TestMissingBackendIsClosedAlone(t *testing.T) {
	text := classes + strings.ReplaceAll(ingress("/x", "Prefix"), "http: {paths: [", "http: {paths: [{path: /gone, pathType: Prefix, backend: {service: {name: gone, port: {number: 80}}}}, {path: /port, pathType: Prefix, backend: {service: {name: web, port: {number: 81}}}}, {path: /r, pathType: Prefix, backend: {resource: {kind: Bucket, name: b}}}, ")
	doc := whole(t, text)
	for name, why := range map[string]string{
		"shop.i.gone.a.test.80": "there is no 'gone'", "shop.i.web.a.test.81": "it has no '81'", "shop.i.a.test.b.resource": "a resource of kind Bucket", "shop.i.web.a.test.80": "",
	} {
		if r := route(t, doc, name); (why == "") != (r.Closed == "") || !strings.Contains(r.Closed, why) {
			t.Errorf("%s: closed %q, want %q", name, r.Closed, why)
		}
	}
	s := state(t, text)
	s.Document()
	if found := lines(s.Findings()); !strings.Contains(found, "Ingress shop/i: spec.rules[0].http.paths[0].backend.service: ") || strings.Count(found, "\n") != 3 {
		t.Errorf("found %s", found)
	}
	// It opens once the Service is there.
	for _, o := range manifests(t, "kind: Service\nmetadata: {name: gone, namespace: shop}\nspec: {ports: [{port: 80}]}\n") {
		s.Put(o)
	}
	if r := route(t, s.Document(), "shop.i.gone.a.test.80"); r.Closed != "" || r.Service == "" {
		t.Errorf("still closed: %s", r.Closed)
	}
}

func TestLastGoodForm(t *testing.T) {
	s := state(t, classes+ingress("/x", "Prefix", "konghq.com/protocols=https"))
	good := encoded(t, s.Document())
	worse := func(version string, annotations ...string) Object {
		o := manifests(t, ingress("/y", "Prefix", annotations...))[0]
		o.Common().ResourceVersion = version
		return o
	}
	s.Put(worse("2", "konghq.com/protocols=htps"))
	if got := encoded(t, s.Document()); got != good {
		t.Errorf("the last good form is not kept:\n%s", got)
	}
	if f := s.Findings(); len(f) != 1 || f[0].Effect != Kept || f[0].Field != "metadata.annotations[konghq.com/protocols]" {
		t.Errorf("%v", f)
	}
	s.Put(worse("3", "konghq.com/protocols=http"))
	if r := s.Document().Routes[0]; !strings.Contains(r.Expression, "/y") || len(s.Findings()) != 0 {
		t.Errorf("%s %v", r.Expression, s.Findings())
	}
	// An object of the same name that was made anew is another one.
	other := worse("4", "konghq.com/protocols=htps")
	other.Common().UID = "new"
	s.Put(other)
	if r := s.Document().Routes[0]; r.Closed == "" {
		t.Error("another object's last good form is served")
	}
}

func TestClassOfIngress(t *testing.T) {
	const class = "kind: IngressClass\nmetadata: {name: keyway%s}\nspec: {controller: %s}\n---\n"
	const rest = "kind: Ingress\nmetadata: {name: i, namespace: shop%s}\nspec:\n%s  rules: [{host: a.test, http: {paths: [{path: /, backend: {service: {name: web, port: {number: 80}}}}]}}]\n"
	const byDefault = `, annotations: {ingressclass.kubernetes.io/is-default-class: "true"}`
	for i, c := range []struct {
		class, ingress string
		ours           bool
	}{
		{fmt.Sprintf(class, "", "keyway.dev/ingress"), fmt.Sprintf(rest, "", "  ingressClassName: keyway\n"), true},
		{"", fmt.Sprintf(rest, "", "  ingressClassName: keyway\n"), true},
		{fmt.Sprintf(class, "", "another.example/ingress"), fmt.Sprintf(rest, "", "  ingressClassName: keyway\n"), false},
		{"", fmt.Sprintf(rest, `, annotations: {kubernetes.io/ingress.class: keyway}`, ""), true},
		{"", fmt.Sprintf(rest, `, annotations: {kubernetes.io/ingress.class: other}`, ""), false},
		{"", fmt.Sprintf(rest, "", ""), false},
		{fmt.Sprintf(class, "", "keyway.dev/ingress"), fmt.Sprintf(rest, "", ""), false},
		{fmt.Sprintf(class, byDefault, "keyway.dev/ingress"), fmt.Sprintf(rest, "", ""), true},
		{fmt.Sprintf(class, byDefault, "keyway.dev/ingress"), fmt.Sprintf(rest, "", "  ingressClassName: other\n"), false},
		{fmt.Sprintf(class, byDefault, "another.example/ingress"), fmt.Sprintf(rest, "", ""), false},
	} {
		if doc := whole(t, c.class+c.ingress); (len(doc.Routes) == 1) != c.ours {
			t.Errorf("case %d: %d routes", i, len(doc.Routes))
		}
	}
}

func TestDefaultBackend(t *testing.T) {
	const one = `
kind: Ingress
metadata: {name: %s, namespace: shop, creationTimestamp: "2026-01-0%dT00:00:00Z"}
spec: {ingressClassName: keyway, defaultBackend: {service: {name: web, port: {number: 80}}}}
---`
	text := classes + fmt.Sprintf(one, "late", 2) + fmt.Sprintf(one, "early", 1)
	doc := whole(t, text)
	if len(doc.Routes) != 1 || doc.Routes[0].Name != "shop.early" || doc.Routes[0].Expression != `http.path ^= "/"` || *doc.Routes[0].Priority != 0 {
		t.Errorf("%+v", doc.Routes)
	}
	s := state(t, text)
	s.Document()
	if found := lines(s.Findings()); !strings.Contains(found, "Ingress shop/late: spec.defaultBackend: ") {
		t.Error(found)
	}
	s.Delete(Ref{KindIngress, "shop", "early"})
	if doc := s.Document(); doc.Routes[0].Name != "shop.late" || len(s.Findings()) != 0 {
		t.Errorf("%s %v", doc.Routes[0].Name, s.Findings())
	}
}

func TestServerNameIsOfTheOldest(t *testing.T) {
	const one = `
kind: Ingress
metadata: {name: %s, namespace: %s, creationTimestamp: "2026-01-0%dT00:00:00Z"}
spec: {ingressClassName: keyway, tls: [{hosts: [A.test], secretName: %s}]}
---`
	text := fmt.Sprintf(one, "i", "late", 2, "pair") + fmt.Sprintf(one, "i", "early", 1, "pair") + fmt.Sprintf(one, "j", "early", 3, "pair")
	doc := whole(t, text)
	if len(doc.SNIs) != 1 || len(doc.Certificates) != 1 || doc.Certificates[0].Cert.Ref.String() != "{vault://node.kubernetes/early/pair/tls.crt}" {
		t.Errorf("%+v %+v", doc.SNIs, doc.Certificates)
	}
	s := state(t, text)
	s.Document()
	if f := s.Findings(); len(f) != 1 || f[0].Object != (Ref{KindIngress, "late", "i"}) || !strings.Contains(f[0].Message, "Ingress early/i is older") {
		t.Errorf("%v", f)
	}
	s.Delete(Ref{KindIngress, "early", "i"})
	s.Delete(Ref{KindIngress, "early", "j"})
	if doc := s.Document(); len(doc.Certificates) != 1 || doc.Certificates[0].Cert.Ref.String() != "{vault://node.kubernetes/late/pair/tls.crt}" {
		t.Errorf("%+v", doc.Certificates)
	}
}

// made counts the units that a change makes.
func made(s *State, change func()) map[string]int {
	n := map[string]int{}
	s.counted = func(r Ref) { n[r.Kind]++ }
	defer func() { s.counted = nil }()
	change()
	s.Document()
	return n
}

func TestAChangeCostsWhatItTouches(t *testing.T) {
	s := large(t, 200)
	s.Document()
	slice := manifests(t, strings.ReplaceAll(sliceText(7), "10.1.", "10.2."))[0]
	slice.Common().ResourceVersion = "2"
	if n := made(s, func() { s.Put(slice) }); len(n) != 1 || n[unitEndpoints] != 1 {
		t.Errorf("one EndpointSlice made %v", n)
	}
	one := manifests(t, ingressText(7))[0]
	one.Common().ResourceVersion = "2"
	if n := made(s, func() { s.Put(one) }); len(n) != 1 || n[unitIngress] != 1 {
		t.Errorf("one Ingress made %v", n)
	}
	if n := made(s, func() { s.Delete(RefOf(one)) }); n[unitIngress] != 0 || len(n) != 0 {
		t.Errorf("one Ingress less made %v", n)
	}
	service := manifests(t, serviceText(7))[0]
	service.Common().ResourceVersion = "2"
	if n := made(s, func() { s.Put(service) }); n[unitBackend] != 1 || n[unitEndpoints] != 1 || n[unitIngress] > 5 {
		t.Errorf("one Service made %v", n)
	}
}

func sliceText(i int) string {
	return fmt.Sprintf("kind: EndpointSlice\nmetadata: {name: s%d-1, namespace: shop, labels: {kubernetes.io/service-name: s%d}}\naddressType: IPv4\nports: [{port: 8080}]\nendpoints: [{addresses: [10.1.%d.%d]}]\n", i, i, i/250, i%250+1)
}

func serviceText(i int) string {
	return fmt.Sprintf("kind: Service\nmetadata: {name: s%d, namespace: shop}\nspec: {ports: [{port: 80}]}\n", i)
}

func ingressText(i int) string {
	return fmt.Sprintf(`
kind: Ingress
metadata: {name: i%d, namespace: shop}
spec:
  ingressClassName: keyway
  tls: [{hosts: [h%d.test], secretName: t%d}]
  rules: [{host: h%d.test, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: s%d, port: {number: 80}}}}, {path: /api, pathType: Exact, backend: {service: {name: s%d, port: {number: 80}}}}]}}]
`, i, i, i, i, i/5, i/5)
}

// large is a State of so many Ingresses, five to a Service.
func large(t testing.TB, n int) *State {
	s := newState()
	for _, o := range largeObjects(t, n) {
		s.Put(o)
	}
	return s
}

func largeObjects(t testing.TB, n int) []Object {
	var b strings.Builder
	for i := range n {
		b.WriteString("---\n" + ingressText(i))
		if i%5 == 0 {
			b.WriteString("---\n" + serviceText(i/5) + "---\n" + sliceText(i/5))
		}
	}
	return manifests(t, b.String())
}

// BenchmarkColdStart makes the document of 10,000 Ingresses with a certificate each,
// of 2,000 Services.
func BenchmarkColdStart(b *testing.B) {
	objects := largeObjects(b, 10_000)
	for b.Loop() {
		s := newState()
		for _, o := range objects {
			s.Put(o)
		}
		if doc := s.Document(); len(doc.Routes) != 10_000 {
			b.Fatal(len(doc.Routes))
		}
	}
}

// BenchmarkOneSlice changes one EndpointSlice among 10,000 Ingresses.
func BenchmarkOneSlice(b *testing.B) {
	s := large(b, 10_000)
	s.Document()
	slices := manifests(b, sliceText(7)+"---\n"+strings.ReplaceAll(sliceText(7), "10.1.", "10.2."))
	n := 0
	for b.Loop() {
		n++
		o := *slices[n%2].(*EndpointSlice)
		o.ResourceVersion = strconv.Itoa(n + 1)
		s.Put(&o)
		s.Document()
	}
}

// TestManyPathsAreSeveralRoutes: an expression has a bound, an Ingress has none.
func TestManyPathsAreSeveralRoutes(t *testing.T) {
	var paths []string
	for i := range 400 {
		paths = append(paths, fmt.Sprintf("{path: /service/number/%03d/%s, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}", i, strings.Repeat("x", 60+i%3)))
	}
	doc := whole(t, classes+"kind: Ingress\nmetadata: {name: i, namespace: shop}\nspec: {ingressClassName: keyway, rules: [{host: a.test, http: {paths: ["+strings.Join(paths, ", ")+"]}}]}\n")
	if len(doc.Routes) < 10 {
		t.Fatalf("%d routes", len(doc.Routes))
	}
	all := ""
	for _, r := range doc.Routes {
		all += r.Expression
		if *r.Priority != *doc.Routes[0].Priority || r.Closed != "" || r.Service == "" {
			t.Errorf("%s: priority %d, closed %q", r.Name, *r.Priority, r.Closed)
		}
	}
	for i := range 400 {
		if strings.Count(all, fmt.Sprintf("/number/%03d/", i)) != 2 {
			t.Errorf("path %d is not in one route", i)
		}
	}
	route(t, doc, "shop.i.web.a.test.80")
	route(t, doc, "shop.i.web.a.test.80.2")
}

// TestNamesThatLeadElsewhere: nothing that an object says becomes a reference to what is
// not its own.
func TestNamesThatLeadElsewhere(t *testing.T) {
	const id = "5f4c45e4-6e08-4e47-9455-0d6c65c14cf6"
	text := with(classes, "Service", "web", "konghq.com/override: k, konghq.com/client-cert: ../kube-system/x") + `
kind: Ingress
metadata: {name: i, namespace: shop}
spec: {ingressClassName: keyway, tls: [{hosts: [a.test], secretName: "x/../../kube-system/admin"}], rules: [{host: a.test, http: {paths: [{path: /, backend: {service: {name: web, port: {number: 80}}}}]}}]}
---
kind: KongIngress
metadata: {name: k, namespace: shop}
upstream: {client_certificate: ` + id + `, id: ` + id + `, slots: 64}
---
kind: AuthorityMap
metadata: {name: ca, namespace: shop, labels: {konghq.com/ca-cert: "true"}, annotations: {kubernetes.io/ingress.class: keyway}}
data: {id: ` + id + `, cert: "{vault://node.kubernetes/kube-system/admin/token}"}
`
	doc := whole(t, text)
	for r := range doc.Refs() {
		t.Errorf("reference %s", r)
	}
	if u := doc.Upstreams[0]; u.ID == id || u.ClientCertificate != "" || len(doc.CACertificates) > 0 || len(doc.SNIs) > 0 {
		t.Errorf("%+v", u)
	}
	f := found(t, text)
	for _, want := range []string{"spec.tls[0].secretName", "upstream.client_certificate", "upstream.id", "konghq.com/client-cert", "ConfigMap shop/ca: data.cert"} {
		if !strings.Contains(f, want) {
			t.Errorf("%s is not told: %s", want, f)
		}
	}
}
