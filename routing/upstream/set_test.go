package upstream

import (
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/routing/spec"
)

// document has service "s" to upstream "u" with the targets given, and service "d" to an address.
func document(targets ...*spec.Target) *spec.Document {
	d := &spec.Document{
		Services: []*spec.Service{
			{Meta: spec.Meta{ID: "s"}, Name: "s", Protocol: "http", Host: "u", Port: 80, Retries: 5, ConnectTimeout: 20_000, ReadTimeout: 20_000, WriteTimeout: 20_000},
			{Meta: spec.Meta{ID: "d"}, Name: "d", Protocol: "http", Host: "127.0.0.1", Port: 9, Retries: 5, ConnectTimeout: 20_000, ReadTimeout: 20_000, WriteTimeout: 20_000},
		},
		Upstreams: []*spec.Upstream{{Meta: spec.Meta{ID: "u1"}, Name: "u", Algorithm: "round-robin"}},
		Targets:   targets,
	}
	d.Upstreams[0].Healthchecks.Passive = spec.PassiveCheck{
		Unhealthy: spec.Unhealthy{HTTPStatuses: []int{500}, HTTPFailures: 1},
	}
	return d
}

func at(target string, weight int) *spec.Target {
	return &spec.Target{Meta: spec.Meta{ID: target}, Target: target, Weight: weight, Upstream: "u1"}
}

func build(t *testing.T, prev *Set, d *spec.Document) *Set {
	t.Helper()
	s, problems := Build(prev, Inputs{Doc: d, Pools: NewPools(Settings{})})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return s
}

func TestBuildCarriesPositionAndHealth(t *testing.T) {
	first := build(t, nil, document(at("127.0.0.1:1", 100), at("127.0.0.1:2", 100), at("127.0.0.1:3", 100)))
	b := first.Cluster("s").balancer
	b.pick(wish{})
	if !first.Mark("u", "127.0.0.1:3", false) || first.Mark("u", "127.0.0.1:4", false) || first.Mark("v", "127.0.0.1:3", false) {
		t.Fatal("Mark must know its targets and no others")
	}
	same := build(t, first, document(at("127.0.0.1:1", 100), at("127.0.0.1:2", 100), at("127.0.0.1:3", 100)))
	if same.Cluster("s").balancer != b || same.Cluster("d").balancer != first.Cluster("d").balancer {
		t.Fatal("what did not change was not reused")
	}
	if got := same.Cluster("s").balancer.pick(wish{}).name; got != "127.0.0.1:2" {
		t.Fatalf("the position was lost: %s", got)
	}
	more := build(t, same, document(at("127.0.0.1:1", 100), at("127.0.0.1:2", 50), at("127.0.0.1:3", 100), at("127.0.0.1:4", 100)))
	var healthy []string
	for _, h := range more.Health() {
		if h.State == Healthy {
			healthy = append(healthy, h.Target)
		}
	}
	if !slices.Equal(healthy, []string{"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:4"}) {
		t.Fatalf("health was not carried over: %v", healthy)
	}
	lax := document(at("127.0.0.1:3", 100))
	lax.Upstreams[0].Healthchecks.Passive = spec.PassiveCheck{}
	if build(t, more, lax).Health()[0].State != Unchecked {
		t.Fatal("an ejection stayed after the rules that made it went")
	}
}

// TestBuildKeepsClusters has what a service leads to made again only where something of it
// differs.
func TestBuildKeepsClusters(t *testing.T) {
	doc := document(at("127.0.0.1:1", 100), at("127.0.0.1:2", 100))
	doc.Services = append(doc.Services, &spec.Service{Meta: spec.Meta{ID: "t"}, Name: "t", Protocol: "https", Host: "u", Port: 443})
	first := build(t, nil, doc)
	for _, c := range []struct {
		name      string
		unchanged bool
		change    func(d *spec.Document)
		kept      string // ids of services
	}{
		{"nothing", true, func(*spec.Document) {}, "s d t"},
		{"what certificates are there", false, func(*spec.Document) {}, "s d"},
		{"a target", true, func(d *spec.Document) { d.Targets = []*spec.Target{d.Targets[0], at("127.0.0.1:3", 100)} }, "d"},
		{"a target's place", true, func(d *spec.Document) {
			d.Targets = []*spec.Target{d.Targets[0], {Meta: spec.Meta{ID: "v"}, Upstream: "v", Target: "127.0.0.1:9"}, d.Targets[1]}
		}, "s d t"},
		{"a service", true, func(d *spec.Document) {
			next := *d.Services[0]
			d.Services = []*spec.Service{&next, d.Services[1], d.Services[2]}
		}, "d t"},
		{"an upstream", true, func(d *spec.Document) {
			next := *d.Upstreams[0]
			next.Name, next.Algorithm = "v", "least-connections"
			d.Upstreams = []*spec.Upstream{&next}
		}, "d"},
	} {
		next := *doc
		c.change(&next)
		s, problems := Build(first, Inputs{Doc: &next, Pools: first.pools, Unchanged: c.unchanged})
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		var kept []string
		for _, svc := range next.Services {
			if s.Cluster(svc.ID) == first.Cluster(svc.ID) {
				kept = append(kept, svc.ID)
			}
		}
		if got := strings.Join(kept, " "); got != c.kept {
			t.Errorf("%s differs, clusters that are kept: %q; expected %q", c.name, got, c.kept)
		}
		n := 0
		for was, is := range s.Renewed(first) {
			if n++; was == is || was != first.Cluster(was.name) || is != s.Cluster(was.name) {
				t.Errorf("%s differs: renewed %s as %v", c.name, was.name, is)
			}
		}
		if n != len(next.Services)-len(kept) {
			t.Errorf("%s differs, %d clusters are renewed", c.name, n)
		}
		if s.Cluster("s").balancer != s.named["u1"] && c.name != "an upstream" {
			t.Errorf("%s differs: the service leads to targets of another set", c.name)
		}
	}
}

func TestBuildListsProblemsAndCloses(t *testing.T) {
	d := document(at("127.0.0.1:x", 100), at("127.0.0.1:1", 100))
	bad := *d.Services[0]
	bad.ID, bad.Name, bad.Protocol, bad.ClientCertificate = "c", "c", "https", "missing"
	roots := *d.Services[0]
	roots.ID, roots.Name, roots.Protocol, roots.CACertificates = "r", "r", "https", []string{"gone"}
	d.Services = append(d.Services, &bad, &roots)
	s, problems := Build(nil, Inputs{
		Doc: d, Pools: NewPools(Settings{VerifyDefault: true}),
		ClientCertificate: func(string) (*certs.Bundle, error) { return nil, errors.New("no such certificate") },
		Roots: func(ids []string) (*x509.CertPool, string, error) {
			if len(ids) > 0 {
				return nil, "", errors.New("no such CA")
			}
			return nil, "system", nil
		},
	})
	text := problems.Error()
	for _, want := range []string{`targets "127.0.0.1:x": target: expected host[:port]`, `services "c": client_certificate:`, `services "r": ca_certificates:`} {
		if !strings.Contains(text, want) {
			t.Errorf("problems lack %q:\n%s", want, text)
		}
	}
	if len(problems) != 3 || s.Cluster("c").closed == nil || s.Cluster("r").closed == nil || s.Cluster("s").closed != nil {
		t.Error("exactly the services with a problem must be closed")
	}
}

// TestServicesTakeWhatTheyAreFor answers 503 to requests for a service of streams.
func TestServicesTakeWhatTheyAreFor(t *testing.T) {
	d := document(at("127.0.0.1:1", 100))
	d.Services[1].Protocol = "tcp"
	set := build(t, nil, d)
	if cl := set.Cluster("d"); cl.closed == nil || cl.sealed != nil || len(set.Warnings()) > 0 {
		t.Errorf("a service of tcp: requests %v, streams %v, warnings %v", cl.closed, cl.sealed, set.Warnings())
	}
	if cl := set.Cluster("s"); cl.closed != nil || cl.sealed == nil {
		t.Errorf("a service of http: requests %v, streams %v", cl.closed, cl.sealed)
	}
}

func TestSplitTarget(t *testing.T) {
	f := func(in, host string, port uint16) {
		t.Helper()
		h, p, err := splitTarget(in)
		if err != nil || h != host || p != port {
			t.Errorf("%q: got %q %d %v", in, h, p, err)
		}
	}
	f("a.test:81", "a.test", 81)
	f("a.test", "a.test", 8000)
	f("10.0.0.1", "10.0.0.1", 8000)
	f("[::1]:81", "::1", 81)
	f("[::1]", "::1", 8000)
	for _, bad := range []string{"a:99999", "a:b", ":80"} {
		if _, _, err := splitTarget(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestHostOfATarget(t *testing.T) {
	f := func(host string, port uint16, plain, secure string) {
		t.Helper()
		name := host + ":" + map[uint16]string{80: "80", 443: "443", 81: "81"}[port]
		x := newTarget(name, host, port, 1)
		if x.plain != plain || x.secure != secure {
			t.Errorf("%s: got %q %q", name, x.plain, x.secure)
		}
	}
	f("a.test", 80, "a.test", "a.test:80")
	f("a.test", 443, "a.test:443", "a.test")
	f("a.test", 81, "a.test:81", "a.test:81")
	f("[::1]", 80, "[::1]", "[::1]:80")
}
