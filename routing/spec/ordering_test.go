package spec

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
)

// orderable are three plugins that can stand in each other's orderings.
func orderable() Schemas {
	return Schemas{"key-auth": {Name: "key-auth", NoConsumer: true}, "rate-limiting": {Name: "rate-limiting"}, "acl": {Name: "acl"}, "vaults/env": {}}
}

func TestOrdering(t *testing.T) {
	d := load3(t, `
consumers: [{username: c}]
plugins:
- {name: rate-limiting, ordering: {before: {access: [key-auth, acl, key-auth]}, after: null}}
- {name: acl, ordering: {after: {access: [key-auth]}, before: {access: []}}}
`, orderable())
	if got, want := d.Plugins[0].Ordering, (&Ordering{Before: []string{"key-auth", "acl"}}); !reflect.DeepEqual(got, want) {
		t.Errorf("ordering is %+v, want %+v", got, want)
	}
	if got, want := d.Plugins[1].Ordering, (&Ordering{After: []string{"key-auth"}}); !reflect.DeepEqual(got, want) {
		t.Errorf("ordering is %+v, want %+v", got, want)
	}
	roundTrip(t, d, orderable())
	text, err := d.Encode()
	if err != nil || !bytes.Contains(text, []byte("  ordering:\n    before:\n      access:\n")) || bytes.Contains(text, []byte("after:\n      access: []")) {
		t.Errorf("Encode() = %v\n%s", err, text)
	}
	for _, nothing := range []string{"null", "{}", "{before: null}", "{before: {}, after: {access: []}}", "{after: {access: null}}"} {
		d := load3(t, "plugins: [{name: acl, ordering: "+nothing+"}]", orderable())
		if d.Plugins[0].Ordering != nil {
			t.Errorf("%s: ordering is %+v, want none", nothing, d.Plugins[0].Ordering)
		}
	}
}

func TestOrderingIsRefused(t *testing.T) {
	for text, want := range map[string]string{
		"plugins: [{name: acl, ordering: []}]":                                                                              "ordering: expected a record",
		"plugins: [{name: acl, ordering: {above: {}}}]":                                                                     "ordering.above: unknown field",
		"plugins: [{name: acl, ordering: {before: [key-auth]}}]":                                                            "ordering.before: expected a record",
		"plugins: [{name: acl, ordering: {before: {rewrite: [key-auth]}}}]":                                                 "ordering.before.rewrite: unknown field; expected access: the order of every other phase is fixed",
		"plugins: [{name: acl, ordering: {after: {access: key-auth}}}]":                                                     "ordering.after.access: expected a set",
		"plugins: [{name: acl, ordering: {after: {access: [7]}}}]":                                                          "ordering.after.access.1: expected a string",
		"plugins: [{name: acl, ordering: {after: {access: [key-auth, acl]}}}]":                                              "ordering.after.access.2: expected names of other plugins, not 'acl' itself",
		"plugins: [{name: acl, ordering: {before: {access: [kauth]}}}]":                                                     "ordering.before.access.1: plugin 'kauth' is not in this build; expected names among: acl, key-auth, rate-limiting",
		"plugins: [{name: acl, ordering: {before: {access: [vaults/env]}}}]":                                                "plugin 'vaults/env' is not in this build",
		"plugins: [{name: acl, ordering: {before: {access: [key-auth]}, after: {access: [key-auth]}}}]":                     "ordering.after.access.1: expected 'key-auth' in one of 'before' and 'after', not in both",
		"consumers: [{username: c, plugins: [{name: acl, ordering: {before: {access: [key-auth]}}}]}]":                      "ordering: expected nothing for a plugin of a consumer or a consumer group",
		"consumer_groups: [{name: g}]\nplugins: [{name: acl, consumer_group: g, ordering: {before: {access: [key-auth]}}}]": "ordering: expected nothing for a plugin of a consumer or a consumer group",
	} {
		if got := refused(t, text, orderable()); !strings.Contains(got, want) {
			t.Errorf("%s:\n got %s\nwant %s", text, got, want)
		}
	}
}

// TestOrderingIsADifference holds comparisons to the field.
func TestOrderingIsADifference(t *testing.T) {
	load := func(ordering string) *Document {
		return load3(t, "plugins: [{id: 11111111-1111-4111-8111-111111111111, name: acl, ordering: "+ordering+"}]", orderable())
	}
	none, before, after := load("null"), load("{before: {access: [key-auth]}}"), load("{after: {access: [key-auth]}}")
	if n := len(Diff(none, before)); n != 1 {
		t.Errorf("an ordering is %d changes, want 1", n)
	}
	if n := len(Diff(before, after)); n != 1 {
		t.Errorf("another ordering is %d changes, want 1", n)
	}
	if n := len(Diff(before, load("{before: {access: [key-auth]}}"))); n != 0 {
		t.Errorf("the same ordering is %d changes", n)
	}
}
