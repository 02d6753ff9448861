package edge

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/routing"
	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/secrets"
)

func construct(b *Builder, prev *Snapshot, doc *spec.Document, set *secrets.Set) (*Snapshot, *Report) {
	return b.Build(prev, Inputs{Document: doc, Set: set, Now: time.Now()})
}

// bound is the binding of a route by its name.
func bound(t *testing.T, s *Snapshot, route string) Routed {
	t.Helper()
	for r := range s.Table.Routes() {
		if r.Spec.Name == route {
			return s.Routed(r)
		}
	}
	t.Fatalf("there is no route %s", route)
	return Routed{}
}

func problemsOf(s *Snapshot) string { return s.Problems.Error() }

const twoServices = `
services:
- {name: a, url: http://127.0.0.1:1, routes: [{name: a, paths: [/a], plugins: [{name: needs, config: {value: "%s"}}]}]}
- {name: b, url: http://127.0.0.1:2, routes: [{name: b, paths: [/b], plugins: [{name: needs, config: {value: fine}}]}]}
`

// what fills the value of route a's plugin in.
func what(value string) string { return strings.ReplaceAll(twoServices, "%s", value) }

func TestBuildReusesWhatDidNotChange(t *testing.T) {
	ca := newAuthority(t)
	cert, key := ca.leaf("one.test")
	text := what("fine") + `
certificates:
- {id: 4f5a5c8e-0000-4000-8000-000000000001, cert: "{vault://env/c}", key: "{vault://env/k}", snis: [{name: one.test, x_keyway_tls_policy: modern}]}
x_keyway_tls_policies:
- {name: modern, min_version: "1.3"}
`
	set := secrets.NewSet(1, credential(t, "{vault://env/c}", cert, 1), credential(t, "{vault://env/k}", key, 1))
	b := newBuilder(t, &Config{})
	first, report := construct(b, nil, load(t, text), set)
	if len(first.Problems) > 0 {
		t.Fatal(first.Problems)
	}
	if !report.NewDoc || len(report.Changes) == 0 || len(report.Rotations) != 3 {
		t.Fatalf("the first build must report the document, two secrets and a certificate: %+v", report)
	}
	second, report := construct(b, first, load(t, strings.Replace(text, "/b", "/changed", 1)), set)
	if second.Generation != 2 || len(report.Rotations) != 0 || !report.NewDoc {
		t.Fatalf("generation %d, report %+v", second.Generation, report)
	}
	id := "4f5a5c8e-0000-4000-8000-000000000001"
	if first.Slot(id) == nil || first.Slot(id) != second.Slot(id) {
		t.Error("an unchanged certificate must keep its slot")
	}
	for id, p := range first.policies {
		if second.policies[id] != p {
			t.Errorf("an unchanged TLS policy %q must be kept: its ticket keys and configuration hang on it", id)
		}
	}
	// A plugin whose entity and secrets are the same keeps its instance, so the
	// compiled function is the same one.
	third, report := construct(b, second, second.Document, set)
	if !report.Empty() {
		t.Errorf("nothing changed, and yet: %+v", report)
	}
	if third.Certs.Find("one.test").Slot != first.Slot(id) {
		t.Error("the index must lead to the slot")
	}
}

func TestBuildQuarantinesOneRouteClosed(t *testing.T) {
	for _, c := range []struct {
		name, value, why string
		set              *secrets.Set
	}{
		{"a plugin that does not compile", "wrong", "expected another value", nil},
		{"a reference that was never fetched", "{vault://env/x}", "was never fetched", nil},
		{"a reference without a value", "{vault://env/x}", "no such secret", secrets.NewSet(1, credential(t, "{vault://env/x}", "", 0))},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, &Config{}, "")
			s := r.use(what(c.value), c.set)
			if bound(t, s, "a").Closed == nil {
				t.Fatal("route a must be closed")
			}
			if bound(t, s, "b").Closed != nil {
				t.Fatal("route b has nothing to do with it")
			}
			if got := problemsOf(s); !strings.Contains(got, c.why) {
				t.Errorf("problems %q do not say %q", got, c.why)
			}
			x := ask(t, "GET", "any.test", "/a")
			if r.do(x); x.Response.Status != 503 || len(x.Attempts) > 0 {
				t.Errorf("route a answered %d after %d attempts; it must never be served without its plugin", x.Response.Status, len(x.Attempts))
			}
			x = ask(t, "GET", "any.test", "/b")
			if r.do(x); x.Response.Status != 502 || x.Response.Fields.Get("X-Needs") != "met" {
				t.Errorf("route b answered %d, its plugin did not run", x.Response.Status)
			}
		})
	}
}

func TestBuildOpensARouteWhoseSecretCame(t *testing.T) {
	b := newBuilder(t, &Config{})
	doc := load(t, what("{vault://env/x}"))
	closed, _ := construct(b, nil, doc, nil)
	open, report := construct(b, closed, doc, secrets.NewSet(1, credential(t, "{vault://env/x}", "good", 1)))
	if bound(t, open, "a").Closed != nil {
		t.Errorf("still closed: %v", open.Problems)
	}
	if len(report.Rotations) != 1 || report.Rotations[0].Kind != "secret" || report.Rotations[0].Result != "activated" || report.Rotations[0].New != 1 {
		t.Errorf("rotations %+v", report.Rotations)
	}
	again, report := construct(b, open, doc, secrets.NewSet(2, credential(t, "{vault://env/x}", "", 1)))
	if bound(t, again, "a").Closed == nil {
		t.Error("a secret that is gone must close what needs it")
	}
	if len(report.Rotations) != 1 || report.Rotations[0].Result != "missing" || report.Rotations[0].Old != 1 {
		t.Errorf("rotations %+v", report.Rotations)
	}
}

func TestBuildRefusedCertificateKeepsTheOldOne(t *testing.T) {
	ca := newAuthority(t)
	cert, key := ca.leaf("one.test")
	_, other := ca.leaf("one.test")
	expired, expiredKey := ca.sign(&x509.Certificate{DNSNames: []string{"one.test"}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)})
	doc := load(t, `
certificates:
- {id: 4f5a5c8e-0000-4000-8000-000000000001, cert: "{vault://env/c}", key: "{vault://env/k}", snis: [one.test]}
`)
	id := doc.Certificates[0].ID
	pair := func(n int, cert, key string) *secrets.Set {
		return secrets.NewSet(uint64(n), credential(t, "{vault://env/c}", cert, n), credential(t, "{vault://env/k}", key, n))
	}
	b := newBuilder(t, &Config{})
	good, _ := construct(b, nil, doc, pair(1, cert, key))
	active := good.Slot(id).Active[0]
	prev := good
	for _, c := range []struct{ name, cert, key, check string }{
		{"another key", cert, other, "key_mismatch"},
		{"ended", expired, expiredKey, "expired"},
		{"truncated", cert[:len(cert)/2], key, "parse"},
	} {
		next, report := construct(b, prev, doc, pair(2, c.cert, c.key))
		slot := next.Slot(id)
		if len(slot.Active) != 1 || slot.Active[0] != active {
			t.Fatalf("%s: the version that served must serve on", c.name)
		}
		i := 0
		for i < len(report.Rotations) && report.Rotations[i].Kind != "certificate" {
			i++
		}
		if i == len(report.Rotations) || report.Rotations[i].Result != "refused" || report.Rotations[i].Check != c.check {
			t.Errorf("%s: rotations %+v, want a refusal by %s", c.name, report.Rotations, c.check)
		}
		if got := problemsOf(next); !strings.Contains(got, "new version refused: "+c.check) {
			t.Errorf("%s: problems %q", c.name, got)
		}
		if strings.Contains(problemsOf(next), "PRIVATE KEY") {
			t.Fatalf("%s: a key in a problem", c.name)
		}
		prev = next
	}
	gone, _ := construct(b, prev, doc, secrets.NewSet(9))
	if s := gone.Slot(id); s == nil || s.Active[0] != active {
		t.Error("a certificate whose source has no value keeps what served")
	}
	fresh, report := construct(b, gone, doc, pair(10, cert, key))
	if s := fresh.Slot(id); s.Refused != nil || len(fresh.Problems) > 0 {
		t.Errorf("the good pair came back: refused %v, problems %v, report %+v", s.Refused, fresh.Problems, report)
	}
}

func TestBuildDefaultSlotAndDevelopmentNames(t *testing.T) {
	ca := newAuthority(t)
	cert, key := ca.leaf("fallback.test")
	doc := load(t, "services:\n- {name: s, url: http://127.0.0.1:1, routes: [{name: r, hosts: [\"Route.test\", \"*.wild.test\"]}]}\n")
	b := newBuilder(t, &Config{})
	b.DefaultCert.Value, b.DefaultKey.Value = secrets.NewValue([]byte(cert)), secrets.NewValue([]byte(key))
	s, report := construct(b, nil, doc, nil)
	if s.Certs.Find("anything.test").Slot != s.def || s.def.Name != "default" || report.Rotations[0].Source != "settings" {
		t.Errorf("default slot %+v, rotations %+v", s.def, report.Rotations)
	}
	names := map[string]bool{}
	s.Slots(func(id string, _ *certs.Slot) bool { names[id] = true; return true })
	if len(names) != 1 || !names["default"] {
		t.Errorf("slots %v", names)
	}
	if s.devNames != nil {
		t.Error("outside development mode no name has a development certificate")
	}
	b.Config.Development = true
	s, _ = construct(b, nil, doc, nil)
	for name, want := range map[string]bool{"localhost": true, "route.test": true, "*.wild.test": false, "x.wild.test": false, "other.test": false} {
		if s.devNames[name] != want {
			t.Errorf("development name %s: %v", name, !want)
		}
	}
}

func TestBuildTLSPolicyWithoutItsAuthorityFailsClosed(t *testing.T) {
	doc := load(t, `
certificates: []
ca_certificates:
- {id: 4f5a5c8e-0000-4000-8000-00000000000a, cert: "{vault://env/ca}"}
x_keyway_tls_policies:
- {name: partners, client_auth: required, ca_certificates: [4f5a5c8e-0000-4000-8000-00000000000a]}
`)
	b := newBuilder(t, &Config{})
	s, _ := construct(b, nil, doc, nil)
	p := s.policies[doc.TLSPolicies[0].ID]
	if p == nil || !p.NeedsTLS() {
		t.Fatal("the policy must still ask for client certificates")
	}
	if got := problemsOf(s); !strings.Contains(got, "was never fetched") || !strings.Contains(got, "partners") {
		t.Errorf("problems %q", got)
	}
	with, _ := construct(b, s, doc, secrets.NewSet(1, credential(t, "{vault://env/ca}", newAuthority(t).pem, 1)))
	if len(with.Problems) > 0 || with.policies[doc.TLSPolicies[0].ID] == p {
		t.Errorf("the authority came: problems %v", with.Problems)
	}
}

func TestBuildIsRepeatable(t *testing.T) {
	b := newBuilder(t, &Config{Policy: routing.Strict})
	doc := load(t, what("wrong"))
	one, _ := construct(b, nil, doc, nil)
	two, _ := construct(b, nil, doc, nil)
	if problemsOf(one) != problemsOf(two) || one.Table.Len() != two.Table.Len() || one.Generation != two.Generation {
		t.Error("equal arguments must make equal snapshots")
	}
}
