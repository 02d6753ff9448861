package spec

import (
	"reflect"
	"slices"
	"testing"

	"github.com/keyway-edge/keyway/secrets"
)

// TestHashSeesEveryField changes each field of each kind of entity in turn, by
// reflection over the Go types: a field that is missing in an entity's list of
// fields is neither decoded nor written nor compared.
func TestHashSeesEveryField(t *testing.T) {
	changed := 0
	for _, kind := range Kinds() {
		e := newEntity(kind)
		before := Hash(e)
		walkFields(reflect.ValueOf(e).Elem(), kind, func(path string, v reflect.Value) {
			old := reflect.New(v.Type()).Elem()
			old.Set(v)
			disturb(t, v)
			changed++
			same := slices.Contains([]string{"CreatedAt", "UpdatedAt", "CreatedMilli", "UpdatedMilli"}, path[len(kind)+1:])
			if got := Hash(e) == before; got != same {
				t.Errorf("%s: hash is the same: %v, want %v", path, got, same)
			}
			v.Set(old)
			if Hash(e) != before {
				t.Fatalf("%s: hash is not restored", path)
			}
		})
	}
	if changed < 100 {
		t.Errorf("only %d fields were changed", changed)
	}
}

func walkFields(v reflect.Value, path string, visit func(string, reflect.Value)) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		switch {
		case !f.IsExported() || f.Name == "Pos":
		case f.Name == "Meta":
			walkFields(v.Field(i), path, visit)
		case f.Type.Kind() == reflect.Struct && f.Type != reflect.TypeFor[Secret]():
			if path == "upstreams.Healthchecks.Passive" && f.Type == reflect.TypeFor[Healthy]() || f.Type == reflect.TypeFor[Unhealthy]() && path == "upstreams.Healthchecks.Passive" {
				walkFields(v.Field(i), path+"."+f.Name, func(p string, v reflect.Value) {
					if p != path+"."+f.Name+".Interval" { // unused in passive checks
						visit(p, v)
					}
				})
				continue
			}
			walkFields(v.Field(i), path+"."+f.Name, visit)
		default:
			visit(path+"."+f.Name, v.Field(i))
		}
	}
}

func disturb(t *testing.T, v reflect.Value) {
	t.Helper()
	switch at := v.Addr().Interface().(type) {
	case *string:
		*at += "x"
	case *int:
		*at++
	case *int64:
		*at++
	case *float64:
		*at++
	case *bool:
		*at = !*at
	case **bool:
		*at = new(bool)
	case **int:
		*at = new(int)
	case *[]string:
		*at = append(slices.Clone(*at), "x")
	case *[]int:
		*at = append(slices.Clone(*at), 7)
	case *[]Endpoint:
		*at = []Endpoint{{Port: 1}}
	case *map[string][]string:
		*at = map[string][]string{"a": {"b"}}
	case *map[string]any:
		*at = map[string]any{"a": nil}
	case **UpstreamAuth:
		*at = &UpstreamAuth{}
	case *[]Share:
		*at = []Share{{Weight: 1}}
	case *[]Mirror:
		*at = []Mirror{{Denominator: 1}}
	case **Timeouts:
		*at = &Timeouts{}
	case **Retry:
		*at = &Retry{}
	case **Ordering:
		*at = &Ordering{}
	case **Balancing:
		*at = &Balancing{}
	case *[]VaultRule:
		*at = []VaultRule{{Paths: []string{"x"}}}
	case *[]Secret:
		*at = []Secret{{Value: secrets.NewValue([]byte("x"))}}
	case *Secret:
		*at = Secret{Value: secrets.NewValue([]byte("x"))}
	default:
		t.Fatalf("no way to change a %s", v.Type())
	}
}

func TestHashOfConfigs(t *testing.T) {
	seen := map[uint64]any{}
	for _, v := range []any{
		nil, false, true, 0.0, 1.0, "", "1",
		[]any{},
		[]any{nil},
		[]any{"a", "b"},
		[]any{"ab"},
		[]any{[]any{"a"}, "b"},
		map[string]any{},
		map[string]any{"a": "b"},
		map[string]any{"a": []any{"b"}},
		map[string]any{"a": nil, "b": nil},
	} {
		h := Hash(&Plugin{Config: map[string]any{"k": v}})
		if other, ok := seen[h]; ok {
			t.Errorf("%v and %v have one hash", v, other)
		}
		seen[h] = v
	}
}

func TestDiff(t *testing.T) {
	old := load3(t, "services: [{name: a, host: h}, {name: b, host: h, created_at: 1}, {name: c, host: h}]\nconsumers: [{username: u}]", nil)
	new := load3(t, "consumers: [{username: u}]\n\nservices: [{name: d, host: h}, {name: c, host: h2}, {name: b, host: h, created_at: 2}]", nil)
	want := Changes{{
		Kind:    "services",
		Added:   []string{new.Services[0].ID},
		Changed: []string{new.Services[1].ID},
		Removed: []string{old.Services[0].ID},
	}}
	if got := Diff(old, new); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if got := Diff(nil, old); len(got) != 2 || len(got.Of("services").Added) != 3 || len(got.Of("routes").Added) != 0 {
		t.Errorf("from nothing: %+v", got)
	}
	if got := Diff(old, nil).Of("services").Removed; len(got) != 3 {
		t.Errorf("to nothing: %v", got)
	}
}
