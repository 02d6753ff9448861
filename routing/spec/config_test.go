package spec

import (
	"reflect"
	"strings"
	"testing"
)

// rich is a plugin with one field of each kind.
func rich() Schemas {
	zero := 0.0
	return Schemas{"rich": {
		Name: "rich",
		Fields: []Schema{
			{Name: "count", Type: Integer, Default: 3, Between: &[2]float64{1, 10}},
			{Name: "ratio", Type: Number, GT: &zero},
			{Name: "mode", Type: String, Required: true, Default: "local", OneOf: []any{"local", "redis"}},
			{Name: "code", Type: Integer, OneOf: []any{301, 302.0}},
			{Name: "methods", Type: SetType, Elements: &Schema{Type: String, Match: "^[A-Z]+$"}, Default: []string{"GET"}},
			{Name: "origins", Type: Array, LenMin: 1, Elements: &Schema{Type: String}},
			{Name: "headers", Type: Map, Keys: &Schema{Type: String, StartsWith: "x-"}, Values: &Schema{Type: Array, Elements: &Schema{Type: String}}},
			{Name: "free", Type: Map},
			{Name: "redis", Type: Record, Required: true, Fields: []Schema{
				{Name: "host", Type: String},
				{Name: "password", Type: String, Referenceable: true, Encrypted: true, Match: "^[a-z0-9]+$"},
				{Name: "note", Type: String, LenMin: -1, Default: "n"},
			}},
			{Name: "extra", Type: Record, Fields: []Schema{{Name: "on", Type: Boolean, Default: true}}},
			{Name: "keys", Type: Array, Elements: &Schema{Type: String, Referenceable: true}},
			{Name: "secret", Type: String, Encrypted: true},
		},
		Checks: []Check{
			{Kind: AtLeastOneOf, Fields: []string{"config.count", "config.ratio"}},
			{Kind: OnlyOneOf, Fields: []string{"config.mode", "config.free"}},
			{Kind: MutuallyRequired, Fields: []string{"config.origins", "config.headers"}},
			{Kind: ConditionalNeeded, Fields: []string{"config.mode", "config.redis.host"}, If: "redis"},
		},
		Protocols: []string{"http", "tcp"},
		Verify: func(config map[string]any) []FieldError {
			if config["ratio"] == 13.0 {
				return []FieldError{{"ratio", "unlucky"}, {"", "in all"}, {onEntity, "as a whole"}}
			}
			return nil
		},
	}}
}

func TestConfigComplete(t *testing.T) {
	d := load3(t, `
plugins:
- name: rich
  config:
    ratio: 0.5
    mode: redis
    methods: [PUT, GET, PUT]
    redis: {host: h, password: "{vault://env/redis/password}"}
    keys: [plain, "{vault://env/other}"]
    secret: hush
`, rich())
	p := d.Plugins[0]
	want := map[string]any{
		"count": 3.0, "ratio": 0.5, "mode": "redis", "code": nil, "methods": []any{"PUT", "GET"},
		"origins": nil, "headers": nil, "free": nil, "extra": nil, "secret": "hush",
		"redis": map[string]any{"host": "h", "password": "{vault://env/redis/password}", "note": "n"},
		"keys":  []any{"plain", "{vault://env/other}"},
	}
	if !reflect.DeepEqual(p.Config, want) {
		t.Errorf("got  %v\nwant %v", p.Config, want)
	}
	if !reflect.DeepEqual(p.Protocols, []string{"http", "tcp"}) {
		t.Errorf("protocols %v", p.Protocols)
	}
	var refs []string
	for r := range d.Refs() {
		refs = append(refs, r.String())
	}
	if got := strings.Join(refs, " "); got != "{vault://env/other} {vault://env/redis/password}" {
		t.Errorf("references: %s", got)
	}
	// What a plugin does to its config must not reach the schema.
	p2 := load3(t, "plugins: [{name: rich}]", rich()).Plugins[0]
	if !reflect.DeepEqual(p2.Config["methods"], []any{"GET"}) || p2.Config["count"] != 3.0 {
		t.Errorf("defaults of schemas: %v", p2.Config)
	}
}

func TestConfigProblems(t *testing.T) {
	f := func(config string, want ...string) {
		t.Helper()
		got := refused(t, "plugins:\n- name: rich\n  config: "+config, rich())
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("%s: missing %q in\n%s", config, w, got)
			}
		}
		if n := strings.Count(got, "plugins \"rich\""); n != len(want) {
			t.Errorf("%s: %d problems, want %d:\n%s", config, n, len(want), got)
		}
	}
	f("{count: 11}", "f:4: plugins \"rich\": config.count: value should be between 1 and 10")
	f("{count: x, ratio: y}", "config.count: expected an integer", "config.ratio: expected a number")
	f("{count: 1.5, ratio: 0}", "config.count: expected an integer", "config.ratio: value must be greater than 0")
	f("{mode: null}", "config.mode: required field missing")
	f("{mode: x, code: 303}", "config.mode: expected one of: local, redis", "config.code: expected one of: 301, 302")
	f("{methods: [get], origins: [], extra: 1}", "config.methods.1: invalid value: get", "config.origins: length must be at least 1", "config.extra: expected a record")
	f("{methods: GET, origins: a, headers: [a]}", "config.methods: expected a set", "config.origins: expected an array", "config.headers: expected a map")
	f("{headers: {y: [a]}, origins: [a, '', null]}", "config.headers: should start with: x-", "config.origins.2: length must be at least 1", "config.origins.3: required field missing")
	f("{extra: {on: maybe}, redis: {nope: 1}}", "config.extra.on: expected a boolean", "config.redis.nope: unknown field")
	f("[1]", "config: expected a record")
	f("{count: null}", "@entity: at least one of these fields must be non-empty: 'config.count', 'config.ratio'")
	f("{free: {a: 1}}", "@entity: exactly one of these fields must be non-empty: 'config.mode', 'config.free'")
	f("{origins: [a]}", "@entity: all or none of these fields must be set: 'config.origins', 'config.headers'")
	f("{mode: redis}", "config.redis.host: required field missing", "@entity: failed conditional validation given value of field 'config.mode'")
	f("{ratio: 13}", "config.ratio: unlucky", "config: in all", "@entity: as a whole")
	f("{redis: {password: '{vault://env}'}}", "config.redis.password: reference")
	f("{redis: {host: '{vault://env/x}'}}", "config.redis.host: expected a plain value, this field cannot hold a reference")
	f("{redis: {password: HUSH}}", "config.redis.password: invalid value")
	if got := refused(t, "plugins: [{name: rich, config: {redis: {password: HUSH}}}]", rich()); strings.Contains(got, "HUSH") {
		t.Errorf("a secret is shown: %s", got)
	}
}

// TestConfigDefaultOfRecord fills what the default of a record leaves out itself.
func TestConfigDefaultOfRecord(t *testing.T) {
	schemas := Schemas{"p": {Fields: []Schema{{Name: "limits", Type: Record, Default: map[string]any{"list": []int{1}, "on": true}, Fields: []Schema{
		{Name: "list", Type: Array, Elements: &Schema{Type: Integer}},
		{Name: "on", Type: Boolean},
		{Name: "word", Type: String, Default: "w"},
		{Name: "map", Type: Map, Default: map[string]any{"k": 1}},
	}}}}}
	want := map[string]any{"limits": map[string]any{
		"list": []any{1.0}, "on": true, "word": "w", "map": map[string]any{"k": 1.0},
	}}
	if got := load3(t, "plugins: [{name: p}]", schemas).Plugins[0].Config; !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestBind(t *testing.T) {
	config := map[string]any{"minute": 5.0, "redis": map[string]any{"host": "h"}, "allow": []any{"a"}, "day": nil}
	var into struct {
		Minute int      `json:"minute"`
		Day    *int     `json:"day"`
		Allow  []string `json:"allow"`
		Redis  struct {
			Host string `json:"host"`
		} `json:"redis"`
	}
	if err := Bind(config, &into); err != nil {
		t.Fatal(err)
	}
	if into.Minute != 5 || into.Day != nil || into.Redis.Host != "h" || into.Allow[0] != "a" {
		t.Errorf("got %+v", into)
	}
	config["typo"] = true
	if err := Bind(config, &into); err == nil || !strings.Contains(err.Error(), "typo") {
		t.Errorf("a key that the struct does not have: %v", err)
	}
}
