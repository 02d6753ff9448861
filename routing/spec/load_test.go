package spec

import (
	"reflect"
	"strings"
	"testing"
)

func src(name, text string) Source { return Source{Name: name, Data: []byte(text)} }

// load3 loads YAML of format 3.0 whose head is left out.
func load3(t *testing.T, text string, schemas Schemas) *Document {
	t.Helper()
	return mustLoad(t, "test.yaml", []byte("_format_version: \"3.0\"\n"+text), schemas)
}

// refused loads YAML whose head is left out and answers its problems, one a line.
func refused(t *testing.T, text string, schemas Schemas) string {
	t.Helper()
	d, problems := Load([]Source{src("f", "_format_version: \"3.0\"\n"+text)}, schemas)
	if (d == nil) != (len(problems) > 0) {
		t.Fatalf("document %v with %d problems", d != nil, len(problems))
	}
	return problems.Error()
}

var keyAuth = Schemas{"key-auth": {
	Name: "key-auth",
	Fields: []Schema{
		{Name: "key_names", Type: Array, Required: true, Default: []any{"apikey"}, Elements: &Schema{Type: String}},
		{Name: "hide_credentials", Type: Boolean, Required: true, Default: false},
		{Name: "anonymous", Type: String},
	},
	NoConsumer: true,
}}

func TestNestedEqualsFlat(t *testing.T) {
	nested := load3(t, `
certificates:
- id: 11111111-1111-4111-8111-111111111111
  cert: "{vault://env/cert}"
  key: "{vault://env/key}"
  snis: [a.test, {name: "*.b.test", x_keyway_tls_policy: mutual}]
  services:
  - name: s
    url: https://h.test/base
    routes:
    - name: r
      paths: [/a]
      plugins: [{name: key-auth}]
    plugins: [{name: key-auth, config: {hide_credentials: true}}]
upstreams:
- {name: u, targets: [{target: "10.0.0.1:80"}, {target: h.test, weight: 0}]}
consumers:
- username: c
  keyauth_credentials: [{key: literal}]
  acls: [{group: g}]
ca_certificates: []
x_keyway_tls_policies: [{name: mutual, min_version: "1.3"}]
`, keyAuth)
	flat := load3(t, `
x_keyway_tls_policies: [{name: mutual, min_version: "1.3"}]
acls: [{group: g, consumer: c}]
keyauth_credentials: [{key: literal, consumer: {username: c}}]
targets: [{target: "10.0.0.1:80", upstream: u}, {target: h.test, weight: 0, upstream: u}]
upstreams: [{name: u}]
consumers: [{username: c}]
snis:
- {name: a.test, certificate: 11111111-1111-4111-8111-111111111111}
- {name: "*.b.test", certificate: {id: 11111111-1111-4111-8111-111111111111}, x_keyway_tls_policy: {name: mutual}}
certificates: [{id: 11111111-1111-4111-8111-111111111111, cert: "{vault://env/cert}", key: "{vault://env/key}"}]
plugins:
- {name: key-auth, route: r}
- {name: key-auth, service: {name: s}, config: {hide_credentials: yes}}
routes: [{name: r, service: s, paths: [/a]}]
services:
- {name: s, protocol: https, host: h.test, port: 443, path: /base, client_certificate: 11111111-1111-4111-8111-111111111111}
`, keyAuth)
	if changes := Diff(nested, flat); len(changes) > 0 {
		t.Errorf("nested and flat differ: %+v", changes)
	}
	if got := nested.Plugins[0].Route; got != nested.Routes[0].ID || nested.Plugins[0].Service != "" {
		t.Errorf("a plugin in a route in a service belongs to the route only, got route %q service %q", got, nested.Plugins[0].Service)
	}
	if nested.SNIs[1].TLSPolicy != nested.TLSPolicies[0].ID || nested.SNIs[0].TLSPolicy != "" {
		t.Errorf("policies of snis: %+v", nested.SNIs)
	}
}

func TestJSONEqualsYAML(t *testing.T) {
	fromYAML := load3(t, "services: [{name: sé, host: h, tags: [\"\\U0001F600\"], tls_verify: null, port: 8080}]", nil)
	fromJSON := mustLoad(t, "x", []byte("\t{\"_format_version\":\"3.0\",\n\t\"services\":[{\"name\":\"s\\u00e9\",\"host\":\"h\",\"tags\":[\"\\ud83d\\ude00\"],\"port\":8.08e3}]}"), nil)
	if changes := Diff(fromYAML, fromJSON); len(changes) > 0 {
		t.Errorf("differ: %+v", changes)
	}
	// Minus zero is written as zero, so it must not count as a change.
	zero := mustLoad(t, "x", []byte(`{"_format_version":"3.0","vaults":[{"name":"env","prefix":"aa","config":{"n":-0.0}}]}`), nil)
	if changes := Diff(zero, load3(t, "vaults: [{name: env, prefix: aa, config: {n: 0}}]", nil)); len(changes) > 0 {
		t.Errorf("minus zero differs from zero: %+v", changes)
	}
	if got := fromJSON.Services[0].Pos; got != (Pos{"x", 2, 14}) {
		t.Errorf("position in JSON: %+v", got)
	}
}

func TestMerge(t *testing.T) {
	a := src("a.yaml", "_format_version: \"3.0\"\nservices: [{name: s, host: h}]\n")
	b := src("b.yaml", "_format_version: \"3.0\"\nroutes: [{name: r, service: s, paths: [/]}]\n_plugin_configs: {shared: {hide_credentials: true, anonymous: x}}\n")
	c := src("c.yaml", "_format_version: \"3.0\"\nplugins: [{name: key-auth, route: r, _config: shared, config: {anonymous: y}}]\n")
	d, problems := Load([]Source{c, b, a}, keyAuth)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	if d.Routes[0].Service != d.Services[0].ID {
		t.Error("a reference into another file is not resolved")
	}
	want := map[string]any{"key_names": []any{"apikey"}, "hide_credentials": true, "anonymous": "y"}
	if got := d.Plugins[0].Config; !reflect.DeepEqual(got, want) {
		t.Errorf("config from _plugin_configs: %v", got)
	}
	_, problems = Load([]Source{a, {Name: "again.yaml", Data: a.Data}, b, b}, keyAuth)
	want2 := `again.yaml:2: services "s": @entity: uniqueness violation: 'services' entity with name set to 's' already declared at a.yaml:2
b.yaml:2: routes "r": @entity: uniqueness violation: 'routes' entity with name set to 'r' already declared at b.yaml:2
b.yaml:3: _plugin_configs.shared: already declared at b.yaml:3`
	if got := problems.Error(); got != want2 {
		t.Errorf("got\n%s\nwant\n%s", got, want2)
	}
}

func TestUnique(t *testing.T) {
	got := refused(t, `
consumers:
- {username: a, custom_id: x, acls: [{group: g}, {group: g}]}
- {username: b, custom_id: x, keyauth_credentials: [{key: hush}, {key: hush}]}
upstreams:
- {name: u, targets: [{target: a}, {target: "a:8000"}]}
certificates:
- {cert: "{vault://env/c}", key: "{vault://env/k}", snis: [A.test, a.test]}
services:
- {id: 22222222-2222-4222-8222-222222222222, host: h}
- {id: 22222222-2222-4222-8222-222222222222, host: h}
vaults: [{name: env, prefix: mine}, {name: env, prefix: mine}]
plugins: [{name: key-auth}, {name: key-auth}, {name: key-auth, instance_name: i, service: 22222222-2222-4222-8222-222222222222}]
`, keyAuth)
	for _, want := range []string{
		"'acls' entity with group set to 'g' for the same consumer already declared at f:4",
		"f:5: consumers \"b\": @entity: uniqueness violation: 'consumers' entity with custom_id set to 'x' already declared at f:4",
		"'keyauth_credentials' entity with the same key already declared at f:5",
		"'targets' entity with target set to 'a:8000' in the same upstream already declared at f:7",
		"'snis' entity with name set to 'a.test' already declared at f:9",
		"'services' entity with id set to '22222222-2222-4222-8222-222222222222' already declared at f:11",
		"'vaults' entity with prefix set to 'mine' already declared at f:13",
		"'plugins' entity with name set to 'key-auth' for the same route, service, consumer and consumer group already declared at f:14",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("missing %q in\n%s", want, got)
		}
	}
	if n := strings.Count(got, "\n") + 1; n != 8 {
		t.Errorf("%d problems, want 8:\n%s", n, got)
	}
	if strings.Contains(got, "hush") {
		t.Error("a key is shown")
	}
}

func TestEveryProblemAtOnce(t *testing.T) {
	_, problems := Load([]Source{
		src("b.yaml", "_format_version: 3.0\nservices:\n- name: s\n  port: 70000\n  tags: [1]\n  color: red\n"),
		src("a.yaml", "routes:\n- name: r r\n  service: nowhere\n  paths: [x, /ok, /a//b]\nwidgets: []\n"),
	}, nil)
	want := `b.yaml:1: _format_version: expected a string; write it in quotes: "3.0"
b.yaml:3: services "s": host: required field missing
b.yaml:4: services "s": port: value should be between 0 and 65535
b.yaml:5: services "s": tags.1: expected a string
b.yaml:6: services "s": color: unknown field
a.yaml:1: _format_version: required field missing
a.yaml:2: routes: name: invalid value 'r r': the only accepted ascii characters are alphanumerics or ., -, _, and ~
a.yaml:3: routes: service: invalid reference 'service: nowhere' (no such entry in 'services')
a.yaml:4: routes: paths.1: should start with: / (fixed path) or ~/ (regex path)
a.yaml:4: routes: paths.3: must not have empty segments
a.yaml:5: widgets: unknown field`
	got := problems.Error()
	// The entity has no valid name: it is known by the id that follows from its content.
	if id := problems[6].ID + problems[7].ID; id != "" {
		got = strings.ReplaceAll(got, "routes "+problems[7].ID+":", "routes:")
	}
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for _, p := range problems {
		if p.Reason == "" || p.Pos.Line == 0 {
			t.Errorf("%v has reason %q and position %v", p, p.Reason, p.Pos)
		}
	}
}

func TestUnreadableFileSparesReferences(t *testing.T) {
	_, problems := Load([]Source{src("a", "services: ["), src("b", "_format_version: \"3.0\"\nroutes: [{service: s, paths: [/]}]")}, nil)
	if len(problems) != 1 || problems[0].Pos.File != "a" || problems[0].Reason != ReasonSyntax {
		t.Errorf("got %v", problems)
	}
}

func TestFormatMigration(t *testing.T) {
	text := "_format_version: \"2.1\"\nroutes: [{name: r, paths: [/plain-1.0/x_~, '/re/\\d+', /a$, '~/done']}]\n"
	d := mustLoad(t, "old.yaml", []byte(text), nil)
	if got, want := d.Routes[0].Paths, []string{"/plain-1.0/x_~", `~/re/\d+`, "~/a$", "~/done"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if d.FormatVersion != "3.0" {
		t.Errorf("format version %q after migration", d.FormatVersion)
	}
	_, problems := Load([]Source{src("old.yaml", "_format_version: \"2.2\"\n")}, nil)
	if got := problems.Error(); got != "old.yaml:1: _format_version: expected one of: 1.1, 2.1, 3.0" {
		t.Error(got)
	}
}

func TestDeckHead(t *testing.T) {
	d := load3(t, `
_comment: x
_ignore: [1, {a: b}]
_transform: false
_workspace: default
_info:
  select_tags: [team]
  default_lookup_tags: {consumers: [x]}
  defaults:
    service: {retries: 1, tags: [d], protocol: https, port: 443}
    route: {strip_path: false, protocols: [https]}
    upstream: {slots: 100, healthchecks: {active: {healthy: {interval: 5}}}}
    target: {weight: 7}
services:
- {name: s, host: h, retries: 2, routes: [{name: r, paths: [/]}]}
upstreams: [{name: u, targets: [{target: t}]}]
consumers: [{username: c, tags: [team, own]}]
`, nil)
	s, r, u := d.Services[0], d.Routes[0], d.Upstreams[0]
	if s.Retries != 2 || s.Port != 443 || !reflect.DeepEqual(s.Tags, []string{"d", "team"}) || r.StripPath || !reflect.DeepEqual(r.Protocols, []string{"https"}) {
		t.Errorf("service %+v, route %+v", s, r)
	}
	if u.Slots != 100 || u.Healthchecks.Active.Healthy.Interval != 5 || u.Healthchecks.Active.Timeout != 1 || d.Targets[0].Weight != 7 {
		t.Errorf("upstream %+v", u)
	}
	if got := d.Consumers[0].Tags; !reflect.DeepEqual(got, []string{"team", "own"}) {
		t.Errorf("tags %v", got)
	}
	got := refused(t, "_info: {select_tags: [a/b], defaults: {service: {port: x, nope: 1}, consumer: {}}, more: 1}\n", nil)
	for _, want := range []string{"_info.select_tags.1: invalid tag", "_info.defaults.service.port: expected an integer", "_info.defaults.service.nope: unknown field", "_info.defaults.consumer: unknown field", "_info.more: unknown field"} {
		if strings.Count(got, want) != 1 {
			t.Errorf("want %q once in\n%s", want, got)
		}
	}
}

func TestIDs(t *testing.T) {
	text := `
services: [{host: a, routes: [{paths: [/x]}, {paths: [/x]}, {paths: [/y]}]}, {host: b, routes: [{paths: [/x]}]}]
consumers: [{custom_id: z, keyauth_credentials: [{key: one}, {key: two}]}]
snis: [{name: n, certificate: 11111111-1111-4111-8111-111111111111}]
certificates: [{id: 11111111-1111-4111-8111-111111111111, cert: "{vault://env/c}", key: "{vault://env/k}"}, {cert: "{vault://env/c}", key: "{vault://env/k}"}]
`
	d, again := load3(t, text, nil), load3(t, "\n\n"+text, nil)
	if changes := Diff(d, again); len(changes) > 0 {
		t.Errorf("ids are not the same each time: %+v", changes)
	}
	seen := map[string]bool{}
	for e := range d.all() {
		if id := e.Base().ID; !isUUID(id) || seen[id] {
			t.Errorf("%s: id %q is wrong or used twice", e.Kind(), id)
		}
		seen[e.Base().ID] = true
	}
	more := load3(t, strings.Replace(text, "{host: b", "{host: new}, {host: b", 1), nil)
	if c := Diff(d, more); len(c) != 1 || len(c.Of("services").Added) != 1 {
		t.Errorf("one more unnamed service changes other ids: %+v", c)
	}
	other := load3(t, strings.Replace(text, "key: one", "key: changed", 1), nil)
	if c := Diff(d, other).Of("keyauth_credentials"); len(c.Changed) != 1 || len(c.Added) != 0 {
		t.Errorf("the id of a credential follows from its key: %+v", c)
	}
}

func TestForeignKeys(t *testing.T) {
	got := refused(t, `
services: [{name: s, host: h, client_certificate: s, protocol: https, routes: [{name: r, paths: [/], service: s}]}]
routes: [{name: q, paths: [/], service: 5}, {name: w, paths: [/], service: {id: x, name: y}}]
targets: [{target: a}]
snis: [{name: n, x_keyway_tls_policy: p}]
plugins: [{name: key-auth, consumer: c}, {name: key-auth, service: S}]
`, keyAuth)
	for _, want := range []string{
		`f:3: services "s": client_certificate: invalid reference 'client_certificate: s' (no such entry in 'certificates')`,
		`f:3: routes "r": service: expected nothing, since it is written inside of its entry in 'services'; remove one of the two`,
		`f:4: routes "q": service: expected the id or the name of an entry in 'services'`,
		`f:4: routes "w": service: expected the id`, `f:5: targets "a": upstream: required field missing`,
		`f:6: snis "n": certificate: required field missing`, `x_keyway_tls_policy: invalid reference`,
		`f:7: plugins "key-auth": consumer: value must be null`, `invalid reference 'service: S'`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("missing %q in\n%s", want, got)
		}
	}
}

func TestEntityRules(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		if got := refused(t, text, keyAuth); !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%s\n got %q\nwant %q", text, got, want)
		}
	}
	f("upstreams: [{name: u, algorithm: sticky-sessions}]", "sticky_sessions_cookie: required field missing")
	f("upstreams: [{name: u, algorithm: sticky-sessions, sticky_sessions_cookie: c, hash_on: ip}]", "hash_on: expected one of: none")
	f("upstreams: [{name: u, algorithm: sticky-sessions, sticky_sessions_cookie: 'a b'}]", "sticky_sessions_cookie: invalid value 'a b'")
	f("upstreams: [{name: u, algorithm: sticky-sessions, sticky_sessions_cookie: c, sticky_sessions_cookie_path: '/; Secure'}]", "sticky_sessions_cookie_path: invalid value '/; Secure'")
	f("upstreams: [{name: u, sticky_sessions_cookie_path: x}]", "sticky_sessions_cookie_path: should start with: /")
	f("services: [{host: h, x_keyway_proxy_protocol: v2}]", "x_keyway_proxy_protocol: value must be null: the header begins a connection that is of one client")
	f("services: [{host: h, protocol: udp, x_keyway_proxy_protocol: v2}]", "x_keyway_proxy_protocol: value must be null")
	f("services: [{host: h, protocol: tls, x_keyway_proxy_protocol: v3}]", "x_keyway_proxy_protocol: expected one of: v1, v2")
	f("services: [{host: h, protocol: tls, x_keyway_proxy_protocol: v1}]", "")
	f("services: [{host: h, protocol: https, x_keyway_tls_name: a.test, x_keyway_tls_subjects: [b.test, '*.c.test', 'spiffe://d/e']}]", "")
	f("services: [{host: h, x_keyway_tls_name: a.test}]", "value must be null")
	f("services: [{host: h, protocol: tls, x_keyway_tls_name: '*.test'}]", "x_keyway_tls_name: invalid value '*.test': expected the name of one host")
	f("services: [{host: h, protocol: tls, x_keyway_tls_subjects: ['a*b']}]", "x_keyway_tls_subjects")
	f("services: [{host: h, protocol: https, tls_sans: {dnsnames: [a.test, '*.b.test'], uris: ['spiffe://c/d', 'urn:x:y']}}]", "")
	f("services: [{host: h, protocol: tls, tls_sans: {dnsnames: [], uris: null}}, {host: h, tls_sans: null}, {host: i, protocol: https, tls_sans: {}}]", "")
	f("services: [{host: h, protocol: grpcs, tls_sans: {dnsnames: [a.test]}}]", "tls_sans: value must be null")
	f("services: [{host: h, protocol: https, tls_sans: [a.test]}]", "tls_sans: expected a record")
	f("services: [{host: h, protocol: https, tls_sans: {dns_names: [a.test]}}]", "tls_sans.dns_names: unknown field")
	f("services: [{host: h, protocol: https, tls_sans: {dnsnames: a.test}}]", "tls_sans.dnsnames: expected an array")
	f("services: [{host: h, protocol: https, tls_sans: {dnsnames: [a.test, 5]}}]", "tls_sans.dnsnames.2: expected a string")
	for _, name := range []string{"", "*", "a*.test", "*.*.test", "a.*", "10.0.0.1", "::1", "a.test:443", "https://a.test", "a b"} {
		f("services: [{host: h, protocol: https, tls_sans: {dnsnames: ['"+name+"']}}]", "tls_sans.dnsnames.1: invalid value '"+name+"': expected a DNS name such as api.example.com")
	}
	for _, uri := range []string{"", "a.test", "/a", "//a.test/b", "spiffe:", "spiffe://", "spiffe://a/b c", "spiffe://é/b", "%zz://a"} {
		f("services: [{host: h, protocol: https, tls_sans: {uris: ['"+uri+"']}}]", "tls_sans.uris.1: invalid value '"+uri+"': expected an absolute URI such as spiffe://")
	}
	f("services: [{host: h, enabled: null}]", "enabled: required field missing")
	f("services: [{host: h, retries: null, created_at: 5}]", "")
	f("services: [{host: h, created_at: 5.5}]", "created_at: expected an integer")
	f("services: [{host: '{vault://env/x}'}]", "host: invalid value")
	f("services: 5", "services: expected an array")
	f("services: [{host: h, routes: {}}]", "")
	f("services: [{host: h, routes: 1}]", "routes: expected an array")
	f("services: [{host: h, id: x}]", "id: expected a valid UUID")
	f("routes: [{protocols: [ftp], paths: [/]}]", "protocols.1: unknown type: ftp")
	f("routes: [{paths: [/], methods: ['']}]", "methods.1: length must be at least 1")
	f("routes: [{paths: [/], headers: []}]", "")
	f("routes: [{paths: [/], headers: {x: y}}]", "headers: expected an array")
	f("routes: [{paths: [/], https_redirect_status_code: 303}]", "expected one of: 426, 301, 302, 307, 308")
	f("routes: [{protocols: [tcp], sources: [1]}]", "sources.1: expected a record")
	f("routes: [{protocols: [tcp], sources: [{ip: x, mask: 1}]}]", "sources.1.mask: unknown field")
	f("upstreams: [{name: 'a:80'}]", "Invalid name ('a:80'); no port allowed")
	f("upstreams: [{name: 'a b'}]", "Invalid name ('a b'); must be a valid hostname")
	f("upstreams: [{name: u, healthchecks: {active: {http_path: /a//b}}}]", "http_path: must not have empty segments")
	f("upstreams: [{name: u, healthchecks: {active: {headers: {'a b': [c]}}}}]", "bad header name 'a b'")
	f("upstreams: [{name: u, healthchecks: 5}]", "healthchecks: expected a record")
	f("_plugin_configs: {a: 1}", "_plugin_configs.a: expected a record")
	f("_plugin_configs: 1", "_plugin_configs: expected a map")
	f("_info: 1", "_info: expected a map")
	f("_info: {defaults: {service: 1}}", "_info.defaults.service: expected a record")
	f("_info: {defaults: 1}", "_info.defaults: expected a map")
	f("_comment: 1", "_comment: expected a string")
	f("_ignore: x", "_ignore: expected an array")
	f("_transform: 1", "_transform: expected a boolean")
	f("_konnect: 1", "_konnect: expected a map")
	f("x_keyway_tls_policies: [{name: p, ca_certificates: [33333333-3333-4333-8333-333333333333]}]", "expected nothing, since 'client_auth' is 'off'")
	f("routes: [{protocols: [], paths: [/]}]", "protocols: length must be at least 1")
	f("routes: [{protocols: [http, tcp], paths: [/]}]", "these sets are mutually exclusive: ('http', 'https'), ('tcp', 'tls', 'udp')")
	f("routes: [{protocols: [tls_passthrough]}]", "must set snis when 'protocols' is 'tls_passthrough'")
	f("routes: [{protocols: [grpcs], snis: [a.test]}]", "")
	f("routes: [{protocols: [tcp], sources: [{ip: 10.0.0.0/8, port: 5}]}]", "")
	f("routes: [{paths: [/], x_keyway_path_policy: lax}]", "expected one of: strict, compatible")
	f("routes: [{paths: [/], headers: {x: ['~*(']}}]", "headers: invalid regex: '('")
	f("routes: [{paths: [/], headers: {x: []}}]", "headers: length must be at least 1")
	f("upstreams: [{name: u, hash_on: header, hash_on_header: a, hash_fallback: header, hash_fallback_header: a}]", "must be distinct: 'hash_on_header'")
	f("upstreams: [{name: u, healthchecks: {active: {nope: 1}}}]", "healthchecks.active.nope: unknown field")
	f("upstreams: [{name: u, healthchecks: {passive: {healthy: {interval: 1}}}}]", "healthchecks.passive.healthy.interval: unknown field")
	f("x_keyway_tls_policies: [{name: p, client_auth: required}]", "ca_certificates: expected the ids of one or more")
	f("x_keyway_tls_policies: [{name: p, min_version: 1.2}]", "min_version: expected a string")
	f("x_keyway_tls_policies: [{name: p, min_version: '1.1'}]", "expected one of: 1.2, 1.3")
	f("plugins: [{name: nope}]", "plugin 'nope' is not in this build; expected one of: key-auth")
	f("plugins: [{name: key-auth, protocols: [tcp]}]", "protocols.1: expected one of: grpc, grpcs, http, https")
	f("plugins: [{name: key-auth, _config: x}]", "_config: expected the name of an entry in '_plugin_configs'")
	f("consumers: [{username: c, keyauth_credentials: [{}]}]", "key: required field missing")
	f("consumers: [{username: c, keyauth_credentials: [{key: '{vault://env}'}]}]", "vault or resource is missing")
	f("consumers: [{username: c, keyauth_credentials: [{key: '{vault://env/x'}]}]", "it is not a reference")
	f("vaults: [{name: env, prefix: env}]", "must not be one of: env,")
}

func TestUpstreamSideEffects(t *testing.T) {
	d := load3(t, `
upstreams:
- {name: a, hash_on: consumer}
- {name: b, hash_on: ip, algorithm: least-connections}
- {name: c, hash_on: ip, algorithm: round-robin}
- {name: d, algorithm: sticky-sessions, sticky_sessions_cookie: "a!b", sticky_sessions_cookie_path: /x}
routes: [{name: g, protocols: [grpc], paths: [/]}]
`, nil)
	var got []string
	for _, u := range d.Upstreams {
		got = append(got, u.Algorithm+" "+u.HashOn)
	}
	if want := []string{"consistent-hashing consumer", "least-connections none", "consistent-hashing ip", "sticky-sessions none"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if d.Routes[0].StripPath {
		t.Error("a gRPC route strips its path")
	}
}
