package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/policy/acl"
	"github.com/keyway-edge/keyway/policy/correlationid"
	"github.com/keyway-edge/keyway/policy/cors"
	"github.com/keyway-edge/keyway/policy/iprestriction"
	"github.com/keyway-edge/keyway/policy/keyauth"
	"github.com/keyway-edge/keyway/policy/prometheus"
	"github.com/keyway-edge/keyway/policy/ratelimiting"
	"github.com/keyway-edge/keyway/policy/requestsizelimiting"
	"github.com/keyway-edge/keyway/policy/requesttermination"
	"github.com/keyway-edge/keyway/policy/requesttransformer"
	"github.com/keyway-edge/keyway/policy/responsetransformer"
	"github.com/keyway-edge/keyway/routing/spec"
)

// TestKongVectorsDefaults compares the completed config of every recorded plugin
// that this product has with the one that its own schema fills in. Entities are
// compared in routing/spec, where their defaults are.
func TestKongVectorsDefaults(t *testing.T) {
	kinds := []policy.Kind{
		acl.Kind(), correlationid.Kind(), cors.Kind(), iprestriction.Kind(), keyauth.Kind(), prometheus.Kind(), ratelimiting.Kind(),
		requestsizelimiting.Kind(), requesttermination.Kind(), requesttransformer.Kind(), responsetransformer.Kind(),
	}
	schemas := spec.Schemas{}
	for _, k := range kinds {
		schemas[k.Schema.Name] = k.Schema
	}
	var rec struct {
		Plugins map[string]struct {
			In     json.RawMessage `json:"config_in"`
			Plugin struct {
				Config    map[string]any `json:"config"`
				Protocols []string       `json:"protocols"`
			} `json:"plugin"`
		} `json:"plugins"`
	}
	data, err := os.ReadFile(filepath.Join(vectorDir(), "defaults/plugins.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &rec); err != nil {
		t.Fatal(err)
	}
	s := score{group: "defaults/plugins"}
	for name, want := range rec.Plugins {
		if _, ours := schemas[name]; !ours {
			continue
		}
		s.ran++
		document, err := json.Marshal(map[string]any{"_format_version": "3.0", "plugins": []any{map[string]any{"name": name, "config": want.In}}})
		if err != nil {
			t.Fatal(err)
		}
		doc, problems := spec.Load([]spec.Source{{Name: name, Data: document}}, schemas)
		if len(problems) > 0 {
			t.Errorf("%s: %v", name, problems)
			continue
		}
		got := doc.Plugins[0]
		text, err := json.Marshal(got.Config)
		if err != nil {
			t.Fatal(err)
		}
		var config map[string]any
		if err := json.Unmarshal(text, &config); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(config, want.Plugin.Config) {
			t.Errorf("%s:\n is %v\nwant %v", name, config, want.Plugin.Config)
			continue
		}
		if p := slices.Sorted(slices.Values(got.Protocols)); !slices.Equal(p, slices.Sorted(slices.Values(want.Plugin.Protocols))) {
			t.Errorf("%s: protocols %v, want %v", name, p, want.Plugin.Protocols)
			continue
		}
		s.passed++
	}
	s.close(t)
}
