package spec

import (
	"slices"
	"strings"
	"testing"
)

func TestConsumerGroups(t *testing.T) {
	const id = "44444444-4444-4444-8444-444444444444"
	d := load3(t, `
services: [{name: s, host: h, plugins: [{name: rich, config: {ratio: 1}, consumer_group: {name: silver}}]}]
consumer_groups:
- name: silver
  consumers: [{username: ann, custom_id: "7"}, bob]
- {name: gold, id: `+id+`, plugins: [{name: rich, config: {ratio: 2}}]}
consumers:
- {username: ann, groups: [{name: gold, tags: [x]}, silver, `+id+`, {id: `+id+`, name: other}]}
- {username: bob, groups: []}
- {username: eve}
plugins: [{name: rich, config: {ratio: 3}}]
`, rich())
	names := func(consumer string) string {
		var list []string
		for _, g := range d.Memberships()[DeriveID("consumers", consumer)] {
			list = append(list, g.Name)
		}
		return strings.Join(list, " ")
	}
	for consumer, want := range map[string]string{"ann": "gold silver", "bob": "silver", "eve": ""} {
		if got := names(consumer); got != want {
			t.Errorf("%s is in %q, want %q", consumer, got, want)
		}
	}
	if got, want := d.Consumers[0].Groups, []string{id, DeriveID("consumer_groups", "silver")}; !slices.Equal(got, want) {
		t.Errorf("groups %v, want each once: %v", got, want)
	}
	seen := map[string]bool{}
	for _, p := range d.Plugins {
		seen[p.ConsumerGroup] = true
		if !isUUID(p.ID) || seen[p.ID] {
			t.Errorf("plugin id %q is wrong or used twice", p.ID)
		}
		seen[p.ID] = true
	}
	if !seen[""] || !seen[id] || !seen[DeriveID("consumer_groups", "silver")] {
		t.Errorf("groups of the plugins: %v", seen)
	}
	roundTrip(t, d, rich())
	if (&Document{Consumers: d.Consumers}).Memberships() != nil {
		t.Error("a document without groups has members")
	}
}

func TestConsumerGroupProblems(t *testing.T) {
	got := refused(t, `
consumer_groups:
- {name: a, consumers: [{username: nobody}, {tags: [x]}]}
- {name: a, plugins: [{name: key-auth}, {name: rich, config: {ratio: 1}, consumer: c}, {name: rich, config: {ratio: 1}, consumer_group: a}]}
- {tags: [x]}
consumers:
- {username: c, groups: [5, {name: b, level: 1}, {name: null}]}
- {username: d, groups: a}
plugins: [{name: rich, config: {ratio: 1}, consumer_group: none}]
`, Schemas{"key-auth": keyAuth["key-auth"], "rich": rich()["rich"]})
	for _, want := range []string{
		`f:4: consumer_groups "a": consumers: invalid reference 'consumers: nobody' (no such entry in 'consumers')`,
		`f:4: consumer_groups "a": consumers.2: expected the id or the name of an entry in 'consumers'`,
		`f:5: consumer_groups "a": @entity: uniqueness violation: 'consumer_groups' entity with name set to 'a' already declared at f:4`,
		`f:5: plugins "key-auth": consumer_group: value must be null`,
		`f:5: plugins "rich": @entity: only one or none of these fields must be set: 'consumer', 'consumer_group'`,
		`f:5: plugins "rich": consumer_group: expected nothing, since it is written inside of its entry in 'consumer_groups'`,
		`f:6: consumer_groups: name: required field missing`,
		`f:8: consumers "c": groups.1: expected the id or the name of an entry in 'consumer_groups'`,
		`f:8: consumers "c": groups.2.level: unknown field`, `f:8: consumers "c": groups.3: expected the id`,
		`f:9: consumers "d": groups: expected an array`,
		`f:10: plugins "rich": consumer_group: invalid reference 'consumer_group: none'`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("missing %q in\n%s", want, got)
		}
	}
}
