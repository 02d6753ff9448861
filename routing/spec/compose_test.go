package spec

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"slices"
	"testing"
	"time"
)

func TestComposeMakesWhatLoadMakes(t *testing.T) {
	const text = `
_format_version: "3.0"
services: [{name: a.b.80, host: b.a.80.svc, retries: 3, tags: [x]}]
routes: [{name: r, service: a.b.80, expression: http.path ^= "/", priority: 7, strip_path: false}]
upstreams: [{name: b.a.80.svc}]
targets: [{upstream: b.a.80.svc, target: "10.0.0.1:80", x_keyway_zone: z}]
`
	loaded, problems := Load([]Source{{Name: "t.yaml", Data: []byte(text)}}, nil)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	composed, problems := Compose("t", map[string][]any{
		"services":  {map[string]any{"name": "a.b.80", "host": "b.a.80.svc", "retries": 3, "tags": []string{"x"}}},
		"routes":    {map[string]any{"name": "r", "service": "a.b.80", "expression": `http.path ^= "/"`, "priority": 7, "strip_path": false}},
		"upstreams": {map[string]any{"name": "b.a.80.svc"}},
		"targets":   {map[string]any{"upstream": "b.a.80.svc", "target": "10.0.0.1:80", "x_keyway_zone": "z"}},
	}, nil)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	if c := Diff(loaded, composed); len(c) > 0 {
		t.Errorf("they differ: %+v", c)
	}
	if composed.Services[0].ID != DeriveID("services", "a.b.80") {
		t.Error("the id of a named service is not derived from its name")
	}
}

func TestComposeLeavesForeignKeysOfOtherParts(t *testing.T) {
	id := DeriveID("services", "elsewhere")
	doc, problems := Compose("t", map[string][]any{"routes": {map[string]any{"name": "r", "service": id, "paths": []string{"/"}}}}, nil)
	if len(problems) > 0 || doc.Routes[0].Service != id {
		t.Fatalf("%v", problems)
	}
	for field, value := range map[string]any{"service": "by name", "hosts": []string{"a b"}, "unknown": true, "strip_path": "maybe", "retries": 1.5, "methods": struct{}{}} {
		_, problems := Compose("Ingress shop/web", map[string][]any{"routes": {map[string]any{"name": "r", "paths": []string{"/"}, field: value}}}, nil)
		if len(problems) != 1 || problems[0].Name != "r" || problems[0].Pos.String() != "Ingress shop/web" {
			t.Errorf("%s: %v", field, problems)
		}
	}
}

func TestJoinSharesWhatDidNotChange(t *testing.T) {
	part := func(name string) *Document {
		doc, problems := Compose("t", map[string][]any{
			"upstreams": {map[string]any{"name": name}}, "targets": {map[string]any{"upstream": name, "target": "10.0.0.1:80"}},
		}, nil)
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		return doc
	}
	a, b, c := part("a"), part("b"), part("c")
	first := Join(nil, nil, slices.Values([]*Document{a, b}))
	if len(first.Upstreams) != 2 || len(first.Targets) != 2 || first.FormatVersion != "3.0" {
		t.Fatalf("%+v", first)
	}
	next := Join(first, func(kind string) bool { return kind == "targets" }, slices.Values([]*Document{a, b, c}))
	if len(next.Upstreams) != 2 || len(next.Targets) != 3 || len(first.Targets) != 2 {
		t.Errorf("%d upstreams, %d targets, %d before", len(next.Upstreams), len(next.Targets), len(first.Targets))
	}
	if &next.Upstreams[0] != &first.Upstreams[0] || next.Targets[0] != first.Targets[0] {
		t.Error("what did not change was copied")
	}
}

func TestMergeLeavesWhatIsTakenToTheFirst(t *testing.T) {
	load := func(text string) *Document {
		doc, problems := Load([]Source{{Name: "t.yaml", Data: []byte("_format_version: \"3.0\"\n" + text)}}, nil)
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		return doc
	}
	file := load("services: [{name: a, host: file.test}]\nsnis: []\nconsumers: [{username: ann}]\n")
	cluster := load("services: [{name: a, host: cluster.test}, {name: b, host: b.test}]\nconsumers: [{username: ann}, {username: bob}]\n")
	both, problems := Merge(file, cluster)
	if len(both.Services) != 2 || both.Services[0].Host != "file.test" || len(both.Consumers) != 2 || len(problems) != 2 {
		t.Errorf("%d services, %d consumers, %v", len(both.Services), len(both.Consumers), problems)
	}
	if p := problems[0]; p.Entity != "services" || p.Name != "a" || p.Reason != ReasonDuplicate {
		t.Errorf("%v", p)
	}
	if both, problems := Merge(&Document{}, cluster); both != cluster || len(problems) > 0 {
		t.Error("nothing beside it, and it is not itself")
	}
}

// TestMergeOfOneAuthority has a certificate of an authority in both under different ids: what
// comes of it can be loaded again, and who verified by the one that is left out still does.
func TestMergeOfOneAuthority(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca, _ := mint(t, key, true, time.Now().Add(time.Hour))
	const theirs, more = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
	doc := func(values map[string][]any) *Document {
		made, problems := Compose("t", values, nil)
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		return made
	}
	file := doc(map[string][]any{"ca_certificates": {map[string]any{"id": more, "cert": ca}}})
	cluster := doc(map[string][]any{
		"ca_certificates":       {map[string]any{"id": theirs, "cert": ca}},
		"services":              {map[string]any{"name": "a", "host": "a.test", "protocol": "https", "ca_certificates": []string{theirs, more}}, map[string]any{"name": "b", "host": "b.test"}},
		"x_keyway_tls_policies": {map[string]any{"name": "p", "client_auth": "required", "ca_certificates": []string{theirs}}},
	})
	before := Hash(cluster.Services[0])
	both, problems := Merge(file, cluster)
	if len(problems) != 1 || !slices.Equal(both.Services[0].CACertificates, []string{more}) || !slices.Equal(both.TLSPolicies[0].CACertificates, []string{more}) {
		t.Errorf("%v, services %+v, policies %+v", problems, both.Services[0], both.TLSPolicies[0])
	}
	if Hash(cluster.Services[0]) != before || len(Diff(both, cluster)) == 0 || both.Services[1] != cluster.Services[1] {
		t.Error("the cluster's own document is changed")
	}
	text, err := both.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, problems := Load([]Source{{Name: "t.yaml", Data: text}}, nil)
	if len(problems) > 0 || len(Diff(both, again)) > 0 {
		t.Errorf("%v, %+v", problems, Diff(both, again))
	}
}
