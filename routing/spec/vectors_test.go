package spec

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// vectors reads a recording of a real gateway that uses this format.
func vectors(t *testing.T, name string, into any) {
	t.Helper()
	folder := os.Getenv("KEYWAY_VECTORS")
	if folder == "" {
		folder = filepath.FromSlash("../../integration/vectors/kong")
	}
	text, err := os.ReadFile(filepath.Join(folder, filepath.FromSlash(name)))
	if os.IsNotExist(err) && os.Getenv("KEYWAY_REQUIRE") != "all" {
		t.Skipf("%v (set KEYWAY_VECTORS)", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatal(err)
	}
}

func loadJSON(t *testing.T, doc any, schemas Schemas) (*Document, Problems) {
	t.Helper()
	text, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return Load([]Source{{Name: "recorded.json", Data: text}}, schemas)
}

// unrecorded are fields of another flavor or edition than that of the recordings.
var unrecorded = []string{"expression", "priority", "groups", "consumer_group", "ordering", "sticky_sessions_cookie", "sticky_sessions_cookie_path", "tls_sans"}

// recorded is an entity in the shape in which the recordings show it.
func recorded(e Entity) map[string]any {
	m := map[string]any{"id": e.Base().ID, "tags": nil}
	if e.Base().Tags != nil {
		m["tags"] = toAny(e.Base().Tags)
	}
	collect(e.fields, m)
	return m
}

func collect(fields func(func(field)), m map[string]any) {
	fields(func(f field) {
		if strings.HasPrefix(f.name, "x_keyway") || slices.Contains(unrecorded, f.name) {
			return
		}
		m[f.name] = nil
		if g, ok := f.at.(group); ok {
			inner := map[string]any{}
			collect(g, inner)
			m[f.name] = inner
			return
		}
		if s, ok := f.at.(*Secret); ok {
			m[f.name] = string(s.Value.Reveal())
			return
		}
		v := reflect.ValueOf(f.at).Elem()
		if v.IsZero() && (v.Kind() == reflect.String || v.Kind() == reflect.Pointer || v.Kind() == reflect.Slice || v.Kind() == reflect.Map) {
			return
		}
		text, _ := json.Marshal(v.Interface())
		var plain any
		_ = json.Unmarshal(text, &plain)
		if id, ok := plain.(string); ok && f.rule.refers != "" {
			plain = map[string]any{"id": id}
		}
		m[f.name] = plain
	})
}

func TestKongVectorsDefaultsEntities(t *testing.T) {
	var v struct {
		Config map[string]any
		Get    map[string]struct {
			Body struct{ Data []map[string]any }
		}
	}
	vectors(t, "defaults/entities.json", &v)
	// Credentials of kinds that this format version of Keyway does not have.
	for _, c := range v.Config["consumers"].([]any) {
		for _, kind := range []string{"basicauth_credentials", "hmacauth_credentials", "jwt_secrets", "oauth2_credentials"} {
			delete(c.(map[string]any), kind)
		}
	}
	delete(v.Config, "key_sets")
	d, problems := loadJSON(t, v.Config, nil)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	ran, same := 0, 0
	for path, kind := range map[string]string{
		"/services": "services", "/routes": "routes", "/upstreams": "upstreams", "/consumers": "consumers", "/vaults": "vaults",
		"/key-auths": "keyauth_credentials", "/acls": "acls", "/upstreams/u/targets/all": "targets",
	} {
		got := map[string]map[string]any{}
		for e := range d.Entities(kind) {
			m := recorded(e)
			if kind == "keyauth_credentials" {
				delete(m, "ttl")
				m["id"] = v.Get[path].Body.Data[0]["id"] // random there, never derived from the key here
			}
			if kind == "vaults" {
				m["config"] = map[string]any{"prefix": nil} // free here, each source knows its own
			}
			got[m["id"].(string)] = m
		}
		if len(got) != len(v.Get[path].Body.Data) {
			t.Errorf("%s: %d entities, recorded %d", path, len(got), len(v.Get[path].Body.Data))
		}
		for _, want := range v.Get[path].Body.Data {
			delete(want, "created_at")
			delete(want, "updated_at")
			ran++
			if g := got[want["id"].(string)]; !reflect.DeepEqual(g, want) {
				t.Errorf("%s:\n got %v\nwant %v", path, g, want)
				continue
			}
			same++
		}
	}
	t.Logf("defaults/entities: %d of %d entities equal", same, ran)
	if ran < 12 {
		t.Errorf("only %d entities compared", ran)
	}
}

// guess makes a schema from a recorded config, so that filling defaults can be
// compared before, and apart from, the plugins' own schemas.
func guess(name string, recorded, written any) Schema {
	s := Schema{Name: name, Default: recorded}
	switch v := recorded.(type) {
	case map[string]any:
		s.Type, s.Default, s.Required = Record, nil, true
		in, _ := written.(map[string]any)
		for _, k := range sortedKeys(v) {
			s.Fields = append(s.Fields, guess(k, v[k], in[k]))
		}
	case []any:
		s.Type = Array
		s.Elements = &Schema{Type: String}
		if len(v) > 0 {
			e := guess("", v[0], nil)
			s.Elements = &e
		}
	case bool:
		s.Type = Boolean
	case float64:
		s.Type = Number
	default:
		s.Type = String
	}
	if written != nil && s.Type != Record {
		s.Default, s.Required = nil, true
	}
	return s
}

func TestKongVectorsDefaultsPlugins(t *testing.T) {
	var v struct {
		Plugins map[string]struct {
			ConfigIn map[string]any `json:"config_in"`
			Plugin   map[string]any
		}
	}
	vectors(t, "defaults/plugins.json", &v)
	same := 0
	for _, name := range sortedKeys(v.Plugins) {
		c := v.Plugins[name]
		s := guess("config", c.Plugin["config"], c.ConfigIn)
		protocols := []string{}
		for _, p := range c.Plugin["protocols"].([]any) {
			protocols = append(protocols, p.(string))
		}
		d, problems := loadJSON(t, map[string]any{
			"_format_version": "3.0", "plugins": []any{map[string]any{"name": name, "config": c.ConfigIn}},
		}, Schemas{name: {Name: name, Fields: s.Fields, Protocols: protocols}})
		if len(problems) > 0 {
			t.Errorf("%s: %v", name, problems)
			continue
		}
		got := recorded(d.Plugins[0])
		delete(c.Plugin, "created_at")
		delete(c.Plugin, "updated_at")
		if !reflect.DeepEqual(got, c.Plugin) {
			t.Errorf("%s:\n got %v\nwant %v", name, got, c.Plugin)
			continue
		}
		same++
	}
	t.Logf("defaults/plugins: %d of %d plugins equal", same, len(v.Plugins))
}

// answer is one recorded answer to a document.
type answer struct {
	Request struct {
		Path string
		Body json.RawMessage
	}
	Response struct {
		Status int
		Body   json.RawMessage
	}
}

// complaints are the recorded problems of a document as "entity field: message".
func (a *answer) complaints(t *testing.T) []string {
	var body struct {
		Flattened json.RawMessage `json:"flattened_errors"`
	}
	if json.Unmarshal(a.Response.Body, &body) != nil {
		return nil
	}
	var list []struct {
		Type   string `json:"entity_type"`
		Errors []struct{ Type, Field, Message string }
	}
	if json.Unmarshal(body.Flattened, &list) != nil {
		return nil
	}
	var all []string
	for _, e := range list {
		for _, c := range e.Errors {
			if c.Type == "entity" {
				c.Field = onEntity
			}
			all = append(all, fmt.Sprintf("%ss %s: %s", e.Type, c.Field, c.Message))
		}
	}
	slices.Sort(all)
	return all
}

// otherwise are the recorded documents, by number, that Keyway judges otherwise, and why.
var otherwise = map[int]string{
	4:   "a list of numbers crashes the recorded gateway; here it is a problem",
	30:  "the shorthand itself is blamed, not the fields that it did not give",
	31:  "the shorthand itself is blamed, not the fields that it did not give",
	36:  "a value out of range is reported first",
	37:  "the recorded message quotes another library",
	59:  "the recorded message quotes another expression library",
	60:  "the recorded message quotes another expression library",
	61:  "the recorded message quotes another expression library",
	62:  "the recorded message quotes another expression library",
	86:  "the recorded gateway loses the key of a map",
	87:  "the recorded gateway takes a list for a map",
	94:  "the recorded gateway loses where in the set it is",
	107: "the message says how expressions are switched on",
	108: "the recorded gateway reports an unknown service without its entity",
	109: "a map is read as a foreign key with an id or a name",
	110: "a number as foreign key crashes the recorded gateway",
	115: "sticky-sessions is an algorithm here too",
	120: "a wrong value is reported once",
	124: "a wrong value is reported once",
	153: "the recorded gateway does not say which field clashes",
	155: "the recorded message shows the key",
	154: "the problem says where the first one was declared",
	158: "the recorded message quotes another library",
	159: "references by id may come from elsewhere there; here they lead to an entry",
	160: "the kinds of vaults are known to the broker, not to the document",
	162: "Keyway has more kinds of sources",
}

func TestKongValidation(t *testing.T) {
	var v struct{ Cases []answer }
	vectors(t, "validation/config.json", &v)
	ran, same := 0, 0
	for i, c := range v.Cases {
		var doc map[string]any
		if json.Unmarshal(c.Request.Body, &doc) != nil || !strings.Contains(c.Request.Path, "flatten_errors") {
			continue
		}
		want := c.complaints(t)
		foreign := false // about a plugin or a kind of credential that is not in these schemas
		for _, w := range want {
			foreign = foreign || strings.HasPrefix(w, "plugins ") || strings.Contains(w, "auth_credentials ") || strings.HasPrefix(w, "jwt_secrets")
		}
		if _, has := doc["plugins"]; has || foreign {
			continue
		}
		ran++
		loaded, problems := loadJSON(t, doc, nil)
		if len(problems) == 0 {
			problems = loaded.CheckFlavor(FlavorCompatible)
		}
		if otherwise[i] != "" {
			if c.Response.Status != 201 && len(problems) == 0 && i != 160 {
				t.Errorf("case %d: %s is accepted", i, c.Request.Body)
			}
			continue
		}
		var got []string
		for _, p := range problems {
			if p.Entity != "" {
				got = append(got, fmt.Sprintf("%s %s: %s", p.Entity, p.Field, p.Message))
			}
		}
		slices.Sort(got)
		if (len(problems) == 0) != (c.Response.Status == 201) || !slices.Equal(got, want) {
			t.Errorf("case %d: %s:\n got %q %v\nwant %q (%d)", i, c.Request.Body, got, problems, want, c.Response.Status)
			continue
		}
		same++
	}
	t.Logf("validation/config: %d of %d documents judged in the same words", same, ran)
}

func TestKongRejectedRoutes(t *testing.T) {
	folder := os.Getenv("KEYWAY_VECTORS")
	if folder == "" {
		folder = filepath.FromSlash("../../integration/vectors/kong")
	}
	files, _ := filepath.Glob(filepath.Join(folder, "router", "trad-*.json"))
	if len(files) == 0 {
		vectors(t, "router/trad-000.json", &struct{}{})
	}
	refused, taken := 0, 0
	for _, file := range files {
		var v struct {
			Config   map[string]any
			Rejected []struct {
				Name         string
				Errors       []struct{ Field, Message string }
				Paths, Hosts []string
			}
		}
		vectors(t, "router/"+filepath.Base(file), &v)
		if _, problems := loadJSON(t, v.Config, Schemas{"request-termination": loose("request-termination")}); len(problems) > 0 {
			t.Errorf("%s: %v", filepath.Base(file), problems)
		}
		taken++
		for _, r := range v.Rejected {
			_, problems := loadJSON(t, map[string]any{"_format_version": "3.0", "routes": []any{
				map[string]any{"name": r.Name, "paths": r.Paths, "hosts": r.Hosts},
			}}, nil)
			refused++
			if len(problems) != 1 || problems[0].Field != r.Errors[0].Field || problems[0].Message != r.Errors[0].Message {
				t.Errorf("%s %s: got %v, want %v", filepath.Base(file), r.Name, problems, r.Errors)
			}
		}
	}
	t.Logf("router: %d documents taken, %d routes refused as recorded", taken, refused)
}

// loose is a schema for a plugin whose config does not matter to a test.
func loose(name string) PluginSchema {
	return PluginSchema{Name: name, Fields: []Schema{
		{Name: "status_code", Type: Integer},
		{Name: "message", Type: String},
		{Name: "body", Type: String},
		{Name: "content_type", Type: String},
		{Name: "trigger", Type: String},
		{Name: "echo", Type: Boolean},
	}}
}
