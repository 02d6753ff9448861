package edge

import (
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/routing/upstream"
	"github.com/keyway-edge/keyway/secrets"
)

// ofAll is a document with something of every part of a build, problems among it. The
// upstream that most of it leads to has a target at a port, a route a path, and a plugin a value.
func ofAll(t *testing.T, port int, path, value string) *spec.Document {
	return load(t, fmt.Sprintf(`
upstreams:
- {name: pool, targets: [{target: "127.0.0.1:%d"}]}
- {name: other, targets: [{target: "127.0.0.1:2"}]}
services:
- name: pooled
  host: pool
  routes:
  - {name: plain, paths: ["%s"]}
  - {name: timed, paths: [/t], x_keyway_timeouts: {request: 1000, attempt: 500}}
  - {name: limited, paths: [/l], x_keyway_max_requests: 3}
  - {name: mirrored, paths: [/m], x_keyway_mirrors: [{service: aside}]}
  - {name: closed, paths: [/c], plugins: [{name: needs, config: {value: %s}}]}
- {name: aside, host: other, routes: [{name: aside, paths: [/a], x_keyway_mirrors: [{service: pooled}]}]}
- {name: safe, protocol: https, host: pool, tls_verify: true, routes: [{name: safe, paths: [/safe]}]}
- {name: keyed, host: other, x_keyway_upstream_auth: {type: bearer, value: "{vault://none/key}"}, routes: [{name: keyed, paths: [/k]}]}
- {name: tcp, protocol: tcp, host: pool, routes: [{name: tcp, protocols: [tcp], destinations: [{port: 9000}]}, {name: wrong, paths: [/w]}]}
routes:
- {name: split, paths: [/s], x_keyway_split: [{service: pooled, weight: 3}, {service: aside}]}
certificates:
- {id: 4f5a5c8e-0000-4000-8000-000000000001, cert: "{vault://env/c}", key: "{vault://env/k}", snis: [one.test]}
`, port, path, value))
}

// sharing is a document that shares all lists with one but those of a kind, which it has of another.
func sharing(doc, other *spec.Document, kind string) *spec.Document {
	return spec.Join(doc, func(k string) bool { return k == kind }, func(string) iter.Seq[*spec.Document] {
		return slices.Values([]*spec.Document{other})
	})
}

// TestBuildKeepsWhatIsShared has documents that share what they have with the one before
// but targets or routes: what is built of them is what is built of the same documents that
// share nothing.
func TestBuildKeepsWhatIsShared(t *testing.T) {
	set := secrets.NewSet(1, credential(t, "{vault://env/c}", "no certificate", 1), credential(t, "{vault://env/k}", "no key", 1))
	b := newBuilder(t, &Config{})
	for _, c := range []struct {
		kind, value, path string
		port              int
	}{{"targets", "wrong", "/one", 7}, {"routes", "wrong", "/two", 1}, {"routes", "fine", "/two", 1}} {
		t.Run(c.kind+" "+c.value, func(t *testing.T) {
			doc := ofAll(t, 1, "/one", c.value)
			first, _ := construct(b, nil, doc, set)
			if len(first.Problems) < 3 {
				t.Fatalf("a document with problems in several parts is expected: %v", first.Problems)
			}
			other := ofAll(t, c.port, c.path, c.value)
			next := &spec.Document{Targets: other.Targets, Routes: slices.Clone(doc.Routes)}
			for i, r := range other.Routes {
				if r.Name == "plain" {
					next.Routes[i] = r // which alone is another
				}
			}
			kept, report := construct(b, first, sharing(doc, next, c.kind), set)
			whole, full := construct(b, first, other, set)
			if got, want := problemsOf(kept), problemsOf(whole); got != want {
				t.Errorf("problems:\n%s\nexpected\n%s", got, want)
			}
			if got, want := fmt.Sprint(report.Changes, report.Rotations), fmt.Sprint(full.Changes, full.Rotations); got != want {
				t.Errorf("changes %s; expected %s", got, want)
			}
			leadsOn(t, kept)
			leadsOn(t, first)
			for r := range whole.Table.Routes() {
				a, b := leads(bound(t, kept, r.Spec.Name)), leads(whole.Routed(r))
				if a != b {
					t.Errorf("route %s leads to %s; expected %s", r.Spec.Name, a, b)
				}
			}
			if !kept.sameSlots || (kept.compiler == first.compiler) != (c.kind == "targets" || c.value == "fine") || kept.Certs != first.Certs || (kept.Table == first.Table) != (c.kind == "targets") {
				t.Error("what is shared was made again")
			}
			if (kept.compiler == first.compiler) != (bound(t, kept, "limited").Chain == bound(t, first, "limited").Chain) {
				t.Error("a chain is of other plugins than those of the snapshot")
			}
			if was, is := bound(t, first, "aside").Cluster, bound(t, kept, "aside").Cluster; was != is {
				t.Error("a cluster of which nothing differs was made again")
			}
			again, _ := construct(b, kept, sharing(kept.Document, doc, c.kind), set)
			if got, want := problemsOf(again), problemsOf(first); got != want {
				t.Errorf("problems when it is as before:\n%s\nexpected\n%s", got, want)
			}
			leadsOn(t, again)
		})
	}
}

// leads is where a route leads to, in words.
func leads(r Routed) string {
	text := fmt.Sprint(r.Route.Paths, r.Service != nil, r.Cluster != nil, r.Closed, r.Chain != nil)
	for _, s := range r.Shares {
		text += fmt.Sprint(" ", s.Weight, " ", leads(s.Routed))
	}
	return text
}

// leadsOn checks that every binding leads to a cluster of its own snapshot, by which requests
// get to the targets that this one has.
func leadsOn(t *testing.T, s *Snapshot) {
	t.Helper()
	check := func(name string, service *spec.Service, c *upstream.Cluster) {
		if service != nil && c != s.Upstreams.Cluster(service.ID) {
			t.Errorf("%s leads to a cluster of another snapshot", name)
		}
	}
	for i := range s.bindings {
		b := &s.bindings[i]
		if b.route.Index != i {
			t.Errorf("binding %d is of route %d", i, b.route.Index)
		}
		check(b.route.Spec.Name, b.service, b.cluster)
		if b.split != nil {
			for j := range b.split.shares {
				check(b.route.Spec.Name+", a share", b.split.shares[j].service, b.split.shares[j].cluster)
			}
		}
		if b.terms != nil {
			for _, m := range b.terms.mirrors {
				check(b.route.Spec.Name+", a mirror", m.to.service, m.to.cluster)
			}
		}
	}
	for _, r := range s.streamBindings {
		check(r.Route.Name, r.Service, r.Cluster)
	}
	var at []string
	for _, h := range s.Upstreams.Health() {
		at = append(at, fmt.Sprint(h))
	}
	port := ":1 "
	for _, x := range s.Document.Targets {
		if _, p, _ := strings.Cut(x.Target, ":"); p != "2" {
			port = ":" + p
		}
	}
	if !strings.Contains(strings.Join(at, " "), port) {
		t.Errorf("targets %v; expected one at %s", at, port)
	}
}

// TestDevelopmentFollowsHosts has a route get another host where hosts get certificates.
func TestDevelopmentFollowsHosts(t *testing.T) {
	b := newBuilder(t, &Config{Development: true})
	text := func(host string) *spec.Document {
		return load(t, "services: [{name: s, host: h, routes: [{name: r, hosts: ["+host+"]}]}]\n")
	}
	doc := text("one.test")
	first, _ := construct(b, nil, doc, nil)
	next, _ := construct(b, first, sharing(doc, text("two.test"), "routes"), nil)
	if next.compiler != first.compiler || next.Directory != first.Directory {
		t.Error("plugins were compiled again for the change of a route")
	}
	if !next.sameSlots || !next.devNames["two.test"] || next.devNames["one.test"] {
		t.Errorf("names with certificates: %v", next.devNames)
	}
}

// TestRefusalsAreToldOnce has a rule of a vault refuse a reference, and documents that share
// it follow: it was told.
func TestRefusalsAreToldOnce(t *testing.T) {
	b := newBuilder(t, &Config{})
	text := func(port int) *spec.Document {
		doc := load(t, fmt.Sprintf(`
upstreams: [{name: pool, targets: [{target: "127.0.0.1:%d"}]}]
services: [{name: s, host: pool, x_keyway_upstream_auth: {type: bearer, value: "{vault://my-vault/key}"}, routes: [{name: r, paths: [/]}]}]
vaults: [{name: env, prefix: my-vault, x_keyway_allow: [{entities: [services]}]}]
`, port))
		doc.Vaults[0].Allow[0].Entities = []string{"plugins"} // as a provider would that writes documents without reading them
		return doc
	}
	doc := text(1)
	set := secrets.NewSet(1, credential(t, "{vault://my-vault/key}", "v", 1))
	first, report := construct(b, nil, doc, set)
	if len(first.Problems) != 1 || !slices.ContainsFunc(report.Rotations, func(r Rotation) bool { return r.Check == "access" }) {
		t.Fatalf("%v, %+v", first.Problems, report.Rotations)
	}
	kept, report := construct(b, first, sharing(doc, text(2), "targets"), set)
	if len(kept.Problems) != 1 || len(report.Rotations) != 0 {
		t.Errorf("%v, %+v", kept.Problems, report.Rotations)
	}
	if s, report := construct(b, kept, text(3), set); len(s.Problems) != 1 || len(report.Rotations) != 0 {
		t.Errorf("told again: %v, %+v", s.Problems, report.Rotations)
	}
}
