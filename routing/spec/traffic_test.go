package spec

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

const traffic = `
services:
- {name: a, host: a.test}
- {name: b, host: b.test}
routes:
- {name: r, paths: [/], x_keyway_split: [{service: a, weight: 3}, {service: null, weight: 1}, {service: {name: b}}], x_keyway_mirrors: [{service: b}, {service: a, numerator: 2, denominator: 5}], x_keyway_timeouts: {request: 10, attempt: 5}, x_keyway_retry: {on_statuses: [503], attempts: 2, backoff: 7}}
- {name: plain, service: a, paths: [/plain]}
- {name: db, protocols: [tcp], destinations: [{port: 5432}], x_keyway_split: [{service: a, weight: 0}]}
ca_certificates: []
x_keyway_tls_policies:
- {name: p}
x_keyway_listeners:
- {name: web, protocol: https, port: 8443, tls_policy: p, tags: [x]}
- {name: dns, protocol: udp, port: 8443, address: "::"}
- {name: raw, protocol: tls, port: 8443}
`

func TestTrafficOfRoutes(t *testing.T) {
	d := load3(t, traffic, nil)
	a, b := d.Services[0].ID, d.Services[1].ID
	two := 2
	r, plain, db := d.Routes[0], d.Routes[1], d.Routes[2]
	if want := []Share{{a, 3}, {"", 1}, {b, 1}}; !reflect.DeepEqual(r.Split, want) {
		t.Errorf("split %+v, want %+v", r.Split, want)
	}
	if want := []Mirror{{b, 1, 1}, {a, 2, 5}}; !reflect.DeepEqual(r.Mirrors, want) {
		t.Errorf("mirrors %+v, want %+v", r.Mirrors, want)
	}
	if want := (&Timeouts{Request: 10, Attempt: 5}); !reflect.DeepEqual(r.Timeouts, want) {
		t.Errorf("timeouts %+v", r.Timeouts)
	}
	if want := (&Retry{OnStatuses: []int{503}, Attempts: &two, Backoff: 7}); !reflect.DeepEqual(r.Retry, want) {
		t.Errorf("retry %+v", r.Retry)
	}
	if plain.Split != nil || plain.Mirrors != nil || plain.Timeouts != nil || plain.Retry != nil {
		t.Errorf("a route without any of it has %+v", plain)
	}
	for i, want := range [][]string{{a, b}, {a}, {a}} {
		if got := slices.Collect(d.Routes[i].Services); !slices.Equal(got, want) {
			t.Errorf("%s leads to %v, want %v", d.Routes[i].Name, got, want)
		}
	}
	if want := []Share{{a, 0}}; !reflect.DeepEqual(db.Split, want) {
		t.Errorf("split of a stream route %+v", db.Split)
	}
	web, dns := d.Listeners[0], d.Listeners[1]
	if web.Name != "web" || web.Protocol != "https" || web.Port != 8443 || web.Address != "" || web.TLSPolicy != d.TLSPolicies[0].ID || web.ID != DeriveID("x_keyway_listeners", "web") {
		t.Errorf("%+v", web)
	}
	if dns.Address != "::" || dns.TLSPolicy != "" {
		t.Errorf("%+v", dns)
	}
	roundTrip(t, d, nil)
}

// What a Loader takes over keeps its references, and lists of records count as
// content when documents are compared.
func TestTrafficChanges(t *testing.T) {
	text := "_format_version: \"3.0\"\n" + traffic
	l := &Loader{}
	old, problems := l.Load([]Source{src("a.yaml", text)})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	next, problems := l.Load([]Source{src("a.yaml", strings.Replace(text, "weight: 3", "weight: 4", 1))})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	if want := (Changes{{Kind: "routes", Changed: []string{old.Routes[0].ID}}}); !reflect.DeepEqual(Diff(old, next), want) || next.Fresh() != 1 {
		t.Errorf("%+v, %d read anew", Diff(old, next), next.Fresh())
	}
	moved, problems := l.Load([]Source{src("a.yaml", strings.Replace(text, "{name: a, host", "{id: 11111111-1111-4111-8111-111111111111, name: a, host", 1))})
	if len(problems) > 0 || moved.Routes[0].Split[0].Service != "11111111-1111-4111-8111-111111111111" || moved.Routes[0].Mirrors[1].Service != moved.Services[0].ID {
		t.Errorf("a share leads where the service was: %v", problems)
	}
}

func TestTrafficProblems(t *testing.T) {
	const services = "services: [{name: a, host: a.test}]\n"
	for text, want := range map[string]string{
		"routes: [{name: r, paths: [/], service: a, x_keyway_split: [{service: a}]}]":                                                                       "service: a route has either a 'service' or an 'x_keyway_split'",
		"routes: [{name: r, paths: [/], x_keyway_split: [{weight: 1}]}]":                                                                                    "x_keyway_split.1.service: required field missing; null is a value of it",
		"routes: [{name: r, paths: [/], x_keyway_split: [{service: nobody}]}]":                                                                              "x_keyway_split.1.service: invalid reference 'x_keyway_split.1.service: nobody' (no such entry in 'services')",
		"routes: [{name: r, paths: [/], x_keyway_split: [{service: a, weight: 1000001}]}]":                                                                  "x_keyway_split.1.weight: value should be between 0 and 1000000",
		"routes: [{name: r, paths: [/], x_keyway_split: [{service: a, weight: null}]}]":                                                                     "x_keyway_split.1.weight: required field missing",
		"routes: [{name: r, paths: [/], x_keyway_split: [{service: a, wait: 1}]}]":                                                                          "x_keyway_split.1.wait: unknown field",
		"routes: [{name: r, paths: [/], x_keyway_split: [a]}]":                                                                                              "x_keyway_split.1: expected a record",
		"routes: [{name: r, paths: [/], x_keyway_split: a}]":                                                                                                "x_keyway_split: expected an array",
		"routes: [{name: r, paths: [/], service: a, x_keyway_mirrors: [{numerator: 1}]}]":                                                                   "x_keyway_mirrors.1.service: required field missing",
		"routes: [{name: r, paths: [/], service: a, x_keyway_mirrors: [{service: a, denominator: 0}]}]":                                                     "x_keyway_mirrors.1.denominator: value should be between 1 and 2147483647",
		"routes: [{name: r, paths: [/], service: a, x_keyway_mirrors: [{service: a, numerator: 2}]}]":                                                       "x_keyway_mirrors.1.numerator: expected at most the denominator, 1",
		"routes: [{name: r, paths: [/], service: a, x_keyway_timeouts: {request: -1}}]":                                                                     "x_keyway_timeouts.request: value should be between 0 and 2147483646",
		"routes: [{name: r, paths: [/], service: a, x_keyway_retry: {tries: 1}}]":                                                                           "x_keyway_retry.tries: unknown field",
		"routes: [{name: r, protocols: [tcp], sources: [{port: 1}], x_keyway_timeouts: {request: 1}}]":                                                      "x_keyway_timeouts: cannot set 'x_keyway_timeouts' when 'protocols' is 'tcp', 'tls', 'tls_passthrough' or 'udp'",
		"routes: [{name: r, protocols: [udp], sources: [{port: 1}], x_keyway_mirrors: [{service: a}]}]":                                                     "x_keyway_mirrors: cannot set 'x_keyway_mirrors'",
		"routes: [{name: r, paths: [/], service: a, x_keyway_except_snis: [a.test]}]":                                                                       "'x_keyway_except_snis' can only be set when 'protocols' is 'tls' or 'tls_passthrough'",
		"routes: [{name: r, protocols: [tls], snis: [a.test], x_keyway_except_snis: [\"a.*.test\"]}]":                                                       "x_keyway_except_snis",
		"x_keyway_listeners: [{name: l, port: 80}]":                                                                                                         "protocol: required field missing",
		"x_keyway_listeners: [{name: l, port: 80, protocol: ftp}]":                                                                                          "protocol: expected one of: http, https, tls, tcp, udp",
		"x_keyway_listeners: [{name: l, protocol: http}]":                                                                                                   "port: required field missing",
		"x_keyway_listeners: [{name: l, protocol: http, port: 0}]":                                                                                          "port: value should be between 1 and 65535",
		"x_keyway_listeners: [{name: l, protocol: http, port: 80, address: host.test}]":                                                                     "address: invalid value 'host.test': expected an IP address",
		"x_keyway_listeners: [{protocol: http, port: 80}]":                                                                                                  "name: required field missing",
		"x_keyway_tls_policies: [{name: p}]\nx_keyway_listeners: [{name: l, protocol: tcp, port: 80, tls_policy: p}]":                                       "tls_policy: expected nothing, since 'protocol' is 'tcp'",
		"x_keyway_listeners: [{name: l, protocol: http, port: 80, hostnames: [a.test]}]":                                                                    "hostnames: expected nothing, since 'protocol' is 'http'",
		"x_keyway_listeners: [{name: l, protocol: https, port: 80, hostnames: [\"a.*\"]}]":                                                                  "wildcard must be leftmost label",
		"x_keyway_listeners: [{name: l, protocol: https, port: 80, tls_policy: p}]":                                                                         "tls_policy: invalid reference 'tls_policy: p'",
		"x_keyway_listeners: [{name: l, protocol: http, port: 80}, {name: m, protocol: tls, port: 80}]":                                                     "uniqueness violation: 'x_keyway_listeners' entity with port set to '80' on the same address already declared at f:",
		"x_keyway_listeners: [{name: l, protocol: tls, port: 80}, {name: m, protocol: https, port: 80}, {name: n, protocol: tls, port: 80}]":                "uniqueness violation: 'x_keyway_listeners' entity with port set to '80' on the same address already declared at f:",
		"x_keyway_listeners: [{name: l, protocol: http, port: 80, address: 127.0.0.1}, {name: m, protocol: http, port: 80, address: \"::ffff:127.0.0.1\"}]": "with port set to '80'",
		"x_keyway_listeners: [{name: l, protocol: http, port: 80}, {name: l, protocol: http, port: 81}]":                                                    "uniqueness violation: 'x_keyway_listeners' entity with name set to 'l'",
	} {
		got := refused(t, services+text, nil)
		if !strings.Contains(got, want) || strings.Count(got, "\n") > 0 {
			t.Errorf("%s\n got %s\nwant %s", text, got, want)
		}
	}
	nested := refused(t, "services: [{name: a, host: a.test, routes: [{name: r, paths: [/], x_keyway_split: [{service: a}]}]}]", nil)
	if !strings.Contains(nested, "x_keyway_split: a route has either a 'service'") {
		t.Error(nested)
	}
	// Defaults of a file are held to the same rules, and the route's own list replaces theirs.
	bad := refused(t, services+"_info: {defaults: {route: {x_keyway_split: [{weight: 1}]}}}", nil)
	if !strings.Contains(bad, "_info.defaults.route.x_keyway_split.1.service: required field missing") {
		t.Error(bad)
	}
	d := load3(t, services+"_info: {defaults: {route: {x_keyway_mirrors: [{service: a, numerator: 1, denominator: 2}]}}}\nroutes: [{name: r, paths: [/], service: a}, {name: s, paths: [/s], service: a, x_keyway_mirrors: [{service: a}]}]", nil)
	if d.Routes[0].Mirrors[0].Denominator != 2 || d.Routes[1].Mirrors[0].Denominator != 1 || d.Routes[0].Mirrors[0].Service != d.Services[0].ID {
		t.Errorf("%+v %+v", d.Routes[0].Mirrors, d.Routes[1].Mirrors)
	}
}

func TestTrafficOfParts(t *testing.T) {
	part := func(port int) *Document {
		d, problems := Compose("Gateway x", map[string][]any{
			"routes":             {map[string]any{"name": "r", "paths": []string{"/"}, "x_keyway_split": []any{map[string]any{"service": DeriveID("services", "elsewhere"), "weight": 2}, map[string]any{"service": nil}}}},
			"x_keyway_listeners": {map[string]any{"name": "l" + itoa(port), "protocol": "http", "port": port}},
		}, nil)
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		return d
	}
	one, two := part(80), part(81)
	if s := one.Routes[0].Split; len(s) != 2 || s[0].Service != DeriveID("services", "elsewhere") || s[1].Service != "" {
		t.Errorf("%+v", s)
	}
	if both := JoinAll(one, two); len(both.Listeners) != 2 {
		t.Errorf("%d listeners of two parts", len(both.Listeners))
	}
	if both, problems := Merge(one, part(80)); len(both.Listeners) != 1 || len(problems) != 2 {
		t.Errorf("%d listeners, %v", len(both.Listeners), problems)
	}
}
