package spec

import (
	"iter"
	"slices"
	"testing"
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
	first := JoinAll(a, b)
	if len(first.Upstreams) != 2 || len(first.Targets) != 2 || first.FormatVersion != "3.0" {
		t.Fatalf("%+v", first)
	}
	next := Join(first, func(kind string) bool { return kind == "targets" }, func(string) iter.Seq[*Document] { return slices.Values([]*Document{a, b, c}) })
	if len(next.Upstreams) != 2 || len(next.Targets) != 3 || len(first.Targets) != 2 {
		t.Errorf("%d upstreams, %d targets, %d before", len(next.Upstreams), len(next.Targets), len(first.Targets))
	}
	if &next.Upstreams[0] != &first.Upstreams[0] || next.Targets[0] != first.Targets[0] {
		t.Error("what did not change was copied")
	}
}
