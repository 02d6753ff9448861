package spec

import (
	"os"
	"path/filepath"
	"testing"
)

// TestExamples loads the example documents, each alone as its head says, with the
// parts of plugin schemas that they use.
func TestExamples(t *testing.T) {
	field := func(name string, kind Type) Schema { return Schema{Name: name, Type: kind} }
	schemas := Schemas{
		"key-auth":       keyAuth["key-auth"],
		"rate-limiting":  {Fields: []Schema{field("minute", Number), field("policy", String), field("limit_by", String)}},
		"correlation-id": {Fields: []Schema{field("header_name", String), field("generator", String), field("echo_downstream", Boolean)}},
		"cors":           {Fields: []Schema{field("origins", Array), field("methods", SetType), field("max_age", Number)}},
	}
	files, err := filepath.Glob("../../deploy/examples/*.yaml")
	if err != nil || len(files) < 3 {
		t.Fatalf("%d examples, %v", len(files), err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		d := mustLoad(t, filepath.Base(file), text, schemas)
		roundTrip(t, d, schemas)
		if filepath.Base(file) == "flat.yaml" && (d.Plugins[0].Config["max_age"] != 60.0 || d.Services[0].Retries != 1 || d.Routes[0].Tags[0] != "team-search") {
			t.Errorf("flat.yaml: %+v %+v", d.Plugins[0], d.Services[0])
		}
	}
}
