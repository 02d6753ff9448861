package translate

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/keyway-edge/keyway/routing/spec"
)

// manifests reads objects as people write them. Each gets a uid and a version of its own.
func manifests(t testing.TB, text string) []Object {
	t.Helper()
	var list []Object
	for d := yaml.NewDecoder(strings.NewReader(text)); ; {
		var v map[string]any
		if err := d.Decode(&v); errors.Is(err, io.EOF) {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		if v == nil {
			continue
		}
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		kind, _ := v["kind"].(string)
		o := New(kind)
		if o == nil {
			t.Fatalf("no kind %q", kind)
		}
		if err := json.Unmarshal(data, o); err != nil {
			t.Fatal(err)
		}
		m := o.Common()
		if m.UID == "" {
			m.UID = strings.ToLower(kind + "-" + m.Namespace + "-" + m.Name)
		}
		if m.ResourceVersion == "" {
			m.ResourceVersion = "1"
		}
		list = append(list, o)
	}
}

func newState() *State {
	return NewState(Config{Class: "keyway", Controllers: []string{"keyway.dev/ingress"}, GatewayControllers: []string{"keyway.dev/gateway"}, CustomEntities: []string{"shop"}, Vault: "node.kubernetes", Schemas: testSchemas()})
}

// testSchemas are two plugins that are like those of a build.
func testSchemas() spec.Schemas {
	return spec.Schemas{
		"rate-limiting": {Name: "rate-limiting", Fields: []spec.Schema{
			{Name: "minute", Type: spec.Number},
			{Name: "policy", Type: spec.String, Default: "local"},
			{Name: "redis", Type: spec.Record, Fields: []spec.Schema{{Name: "password", Type: spec.String, Referenceable: true}}},
		}},
		"key-auth": {Name: "key-auth", NoConsumer: true, Fields: []spec.Schema{{Name: "hide_credentials", Type: spec.Boolean, Default: false}}},
		"cors": {Name: "cors", Fields: []spec.Schema{{Name: "gateway_api", Type: spec.Record, Fields: []spec.Schema{
			texts("allow_origins"), texts("allow_methods"), texts("allow_headers"), texts("expose_headers"),
			{Name: "allow_credentials", Type: spec.Boolean},
			{Name: "max_age", Type: spec.Integer},
		}}}},
		"route-filters":       {Name: "route-filters", Fields: filterFields()},
		"request-transformer": {Name: "request-transformer", Fields: []spec.Schema{{Name: "replace", Type: spec.Record, Fields: []spec.Schema{{Name: "uri", Type: spec.String}}}}},
	}
}

func texts(name string) spec.Schema {
	return spec.Schema{Name: name, Type: spec.Array, Elements: &spec.Schema{Type: spec.String}}
}

// filterFields are those of the plugin for filters.
func filterFields() []spec.Schema {
	text := func(name string) spec.Schema { return spec.Schema{Name: name, Type: spec.String} }
	record := func(name string, fields ...spec.Schema) spec.Schema {
		return spec.Schema{Name: name, Type: spec.Record, Fields: fields}
	}
	line := record("", text("name"), text("value"))
	headers := func(name string) spec.Schema {
		return record(name, spec.Schema{Name: "set", Type: spec.Array, Elements: &line}, spec.Schema{Name: "add", Type: spec.Array, Elements: &line}, spec.Schema{Name: "remove", Type: spec.Array, Elements: &spec.Schema{Type: spec.String}})
	}
	path := record("path", text("full"), record("prefix", text("match"), text("replace")))
	return []spec.Schema{
		headers("request_headers"), headers("response_headers"), record("rewrite", text("hostname"), path),
		record("redirect", text("scheme"), text("hostname"), spec.Schema{Name: "port", Type: spec.Integer}, path, spec.Schema{Name: "status_code", Type: spec.Integer}),
	}
}

// state holds objects, put in the order of the text. What it is in the end can be loaded.
func state(t testing.TB, text string) *State {
	t.Helper()
	s := newState()
	for _, o := range manifests(t, text) {
		s.Put(o)
	}
	t.Cleanup(func() { reloaded(t, s.Document()) })
	return s
}

// reloaded loads the text of a document, as a node does that starts from what it served last.
func reloaded(t testing.TB, doc *spec.Document) *spec.Document {
	t.Helper()
	text := encoded(t, doc)
	loaded, problems := spec.Load([]spec.Source{{Name: "k", Data: []byte(text)}}, testSchemas())
	if len(problems) > 0 {
		t.Fatalf("what was made cannot be loaded: %v\n%s", problems, text)
	}
	return loaded
}

// encoded is a document as text.
func encoded(t testing.TB, d *spec.Document) string {
	t.Helper()
	text, err := d.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// route answers a route by name.
func route(t testing.TB, d *spec.Document, name string) *spec.Route {
	t.Helper()
	var names []string
	for _, r := range d.Routes {
		if r.Name == name {
			return r
		}
		names = append(names, r.Name)
	}
	t.Fatalf("no route %s, but %v", name, names)
	return nil
}

// whole checks what has to be true of every document: a load of it makes an equal
// one, and the order in which objects came makes no difference.
func whole(t *testing.T, text string) *spec.Document {
	t.Helper()
	objects := manifests(t, text)
	s := newState()
	for _, o := range objects {
		s.Put(o)
	}
	doc := s.Document()
	want := encoded(t, doc)
	if c := spec.Diff(doc, reloaded(t, doc)); len(c) > 0 {
		t.Errorf("loaded again it differs: %+v", c)
	}
	found := s.Findings()
	for n := range uint64(8) {
		rnd := rand.New(rand.NewPCG(n, 1))
		shuffled := slices.Clone(objects)
		rnd.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		again := newState()
		for _, o := range shuffled {
			if again.Put(o); rnd.IntN(2) == 0 {
				again.Document() // in steps, or all at once
			}
			if rnd.IntN(4) == 0 { // away and back
				again.Delete(RefOf(o))
				again.Put(o)
			}
		}
		if got := encoded(t, again.Document()); got != want {
			t.Fatalf("in another order (%d) it is another document:\n%s\nwant\n%s", n, got, want)
		}
		if !slices.Equal(again.Findings(), found) {
			t.Fatalf("in another order the findings are %v, not %v", again.Findings(), found)
		}
		for _, o := range shuffled {
			again.Delete(RefOf(o))
			if rnd.IntN(4) == 0 {
				again.Document()
			}
		}
		empty := again.Document()
		for _, kind := range spec.Kinds() {
			for e := range empty.Entities(kind) {
				t.Fatalf("with nothing left there is %s %s", kind, e.Base().ID)
			}
		}
		if len(again.units)+len(again.readers)+len(again.collections)+len(again.asked)+len(again.good)+len(again.slices)+len(again.wrong)+len(again.parts)+len(again.secrets)+len(again.grants) > 0 {
			t.Fatalf("with nothing left there are units %v, readers %v, collections %v, needs %v, good %v", again.units, again.readers, again.collections, again.asked, again.good)
		}
	}
	return doc
}

// sameAgain puts the same objects once more and expects the same document.
func sameAgain(t *testing.T, s *State, text string) {
	t.Helper()
	doc := s.Document()
	for _, o := range manifests(t, text) {
		s.Put(o)
	}
	if s.Document() != doc {
		t.Error("the same objects made another document")
	}
}

func lines(found []Finding) string {
	var b bytes.Buffer
	for _, f := range found {
		b.WriteString(f.Error() + "\n")
	}
	return b.String()
}
