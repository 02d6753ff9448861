package spec

import (
	"slices"
	"strings"
	"testing"
)

// TestMembershipsOfAList has memberships in every place that the format has for them.
func TestMembershipsOfAList(t *testing.T) {
	const ann, gold = "11111111-0000-4000-8000-000000000001", "11111111-0000-4000-8000-000000000002"
	text := `
consumer_group_consumers:
- {consumer: ` + ann + `, consumer_group: ` + gold + `, created_at: 1, updated_at: 2, ws_id: null}
- {consumer: {username: bob}, consumer_group: {name: silver}, _comment: x}
- {consumer: bob, consumer_group: silver}
consumers:
- {id: ` + ann + `, username: ann, groups: [silver]}
- {username: bob, consumer_group_consumers: [{consumer_group: gold}]}
- {username: eve}
consumer_groups:
- {id: ` + gold + `, name: gold}
- {name: silver, consumer_group_consumers: [{consumer: eve}], consumer_group_plugins: [{name: rich, config: {ratio: 1}}]}
consumer_group_plugins:
- {name: rich, config: {ratio: 2}, consumer_group: gold, instance_name: x}
plugins: [{name: rich, config: {ratio: 3}}]
`
	d := load3(t, text, rich())
	all := d.Memberships()
	for consumer, want := range map[string]string{ann: "gold silver", DeriveID("consumers", "bob"): "gold silver", DeriveID("consumers", "eve"): "silver"} {
		var names []string
		for _, g := range all[consumer] {
			names = append(names, g.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s is in %q, want %q", consumer, got, want)
		}
	}
	if c := d.Consumers[1]; !slices.Equal(c.Groups, []string{DeriveID("consumer_groups", "silver"), gold}) {
		t.Errorf("groups of bob %v, want each once", c.Groups)
	}
	ratio := map[string]any{}
	for _, p := range d.Plugins {
		ratio[p.ConsumerGroup] = p.Config["ratio"]
	}
	if len(d.Plugins) != 3 || ratio[gold] != 2.0 || ratio[DeriveID("consumer_groups", "silver")] != 1.0 || ratio[""] != 3.0 {
		t.Errorf("plugins by group: %v", ratio)
	}
	roundTrip(t, d, rich())
}

func TestMembershipProblems(t *testing.T) {
	got := refused(t, `
consumers: [{username: ann, consumer_group_consumers: [{consumer: ann, consumer_group: gold}, {consumer_group: none}]}]
consumer_groups: [{name: gold, consumer_group_consumers: 5, consumer_group_plugins: [{name: rich, config: {ratio: 1}, consumer_group: gold}]}]
consumer_group_consumers:
- {consumer: ann}
- {consumer: 5, consumer_group: gold}
- ann
- {consumer: ann, consumer_group: gold, ws_id: x}
consumer_group_plugins:
- {name: rich, config: {ratio: 1}}
- {name: rich, config: {ratio: 0}, consumer_group: gold}
- {name: nope, consumer_group: gold, service: s}
- {name: rich, config: {ratio: 1}, consumer_group: gold}
services: [{name: s, host: h, consumer_group_consumers: []}]
`, rich())
	for _, want := range []string{
		`f:3: consumer_group_consumers: 1.consumer: expected nothing, since it is written inside of its entry in 'consumers'; remove one of the two`,
		`f:3: consumer_group_consumers: 2.consumer_group: invalid reference 'consumer_group: none' (no such entry in 'consumer_groups')`,
		`f:4: consumer_groups "gold": consumer_group_consumers: expected an array`,
		`f:4: consumer_group_plugins "rich": consumer_group: expected nothing, since it is written inside of its entry in 'consumer_groups'`,
		`f:6: consumer_group_consumers: 1.consumer_group: required field missing`,
		`f:7: consumer_group_consumers: 2.consumer: expected the id or the name of an entry in 'consumers'`,
		`f:8: consumer_group_consumers: expected a record`,
		`f:9: consumer_group_consumers: 4.ws_id: expected a valid UUID`,
		`f:11: consumer_group_plugins: 1.consumer_group: required field missing`,
		`f:12: consumer_group_plugins "rich": config.ratio: `,
		`f:13: consumer_group_plugins "nope": name: plugin 'nope' is not in this build; expected one of: rich`,
		`f:13: consumer_group_plugins: 3.service: expected nothing: what is in this list is for a group alone; write it in 'plugins'`,
		`f:14: consumer_group_plugins "rich": @entity: uniqueness violation: 'plugins' entity with name set to 'rich'`,
		`f:15: services "s": consumer_group_consumers: unknown field`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("missing %q in\n%s", want, got)
		}
	}
}

// TestListsOfTheFormat has what exports and tools write that nothing here is made of.
func TestListsOfTheFormat(t *testing.T) {
	for _, name := range []string{
		"basicauth_credentials", "hmacauth_credentials", "jwt_secrets", "oauth2_credentials", "oauth2_tokens", "mtls_auth_credentials",
		"keys", "key_sets", "filter_chains", "partials", "plugins_partials", "custom_plugins", "custom_entities", "consumer_group_consumers", "consumer_group_plugins",
	} {
		for _, nothing := range []string{"", "[]", "{}"} {
			if d := load3(t, name+": "+nothing+"\n", nil); len(d.Ignored()) > 0 {
				t.Errorf("%s: %v", name, d.Ignored())
			}
		}
		if strings.HasPrefix(name, "consumer_group") {
			continue
		}
		if got := refused(t, name+": [{id: x}]\n", nil); !strings.Contains(got, "f:2: "+name+": expected nothing: ") || !strings.Contains(got, "this build") {
			t.Errorf("%s: %s", name, got)
		}
	}
	for _, name := range administrative() {
		d := load3(t, name+": [{id: x}]\n", nil)
		if got := d.Ignored(); len(got) != 1 || got[0].Error() != "test.yaml:2: "+name+": it says nothing about traffic and is left out" {
			t.Errorf("%s: %v", name, got)
		}
		if got := refused(t, name+": 5\n", nil); !strings.Contains(got, name+": expected an array") {
			t.Errorf("%s: %s", name, got)
		}
		if name == "tags" {
			continue
		}
		if got := refused(t, "services: [{name: s, host: h, "+name+": []}]\n", nil); !strings.Contains(got, name+": unknown field") {
			t.Errorf("%s of a service: %s", name, got)
		}
	}
	d := load3(t, `
_konnect: {control_plane_name: x}
services: [{name: s, host: h, tls_sans: null, filter_chains: [], ws_id: 0DC6F45B-8F8D-40D2-A504-473544EE190B, _comment: x, _ignore: [{a: 1}]}]
consumers: [{username: c, type: 0, username_lower: c, basicauth_credentials: []}, {custom_id: d, type: null, username_lower: null, jwt_secrets: null}]
plugins: [{name: key-auth, partials: []}]
`, keyAuth)
	if d.Consumers[1].ID != load3(t, "consumers: [{custom_id: d, type: null, username_lower: null, jwt_secrets: null, _comment: y, ws_id: null}]\n", nil).Consumers[0].ID {
		t.Error("an id follows from what means nothing")
	}
	got := refused(t, `
services: [{name: s, host: h, _comment: 1, _ignore: x, ws_id: y, filter_chains: [{}], tls_sans: 5}]
consumers: [{username: c, type: 2, basicauth_credentials: [{}]}]
plugins: [{name: key-auth, partials: [{id: x}]}]
routes: [{paths: [/], jwt_secrets: []}]
`, keyAuth)
	for _, want := range []string{
		`f:3: services "s": _comment: expected a string`, `f:3: services "s": _ignore: expected an array`, `f:3: services "s": ws_id: expected a valid UUID`,
		`f:3: services "s": filter_chains: expected nothing: filters in WebAssembly are not in this build`, `f:3: services "s": tls_sans: expected a record`,
		`f:4: consumers "c": type: unknown field`, `f:4: consumers "c": basicauth_credentials: expected nothing: credentials of the plugin 'basic-auth'`,
		`f:5: plugins "key-auth": partials: expected nothing: shared parts of plugins`, `f:6: routes`, `jwt_secrets: unknown field`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("missing %q in\n%s", want, got)
		}
	}
}

// TestReloadOfAnExport holds the Loader to Load where memberships come and go beside what stays the same.
func TestReloadOfAnExport(t *testing.T) {
	l := &Loader{Schemas: rich()}
	const head = "_format_version: \"3.0\"\nparameters:\n- {key: cluster_id}\n"
	const people = "consumers:\n- username: ann\n- username: bob\nconsumer_groups:\n- name: gold\n"
	const member = "consumer_group_consumers:\n- {consumer: ann, consumer_group: gold}\n"
	for i, text := range []string{
		head + people, head + people + member, head + people, head + people + "- name: silver\n",
		head + "consumers:\n- username: ann\n  consumer_group_consumers: [{consumer_group: gold}]\n- username: bob\nconsumer_groups:\n- name: gold\n",
		head + people + "consumer_group_plugins:\n- {name: rich, config: {ratio: 1}, consumer_group: gold}\n",
		head + people + "consumer_group_consumers: []\n", head + people + "consumer_group_consumers: []\nkeys: []\n", head + people + "keys: [1]\n",
	} {
		d := agree(t, l, []Source{src("f.yaml", text)})
		if (d == nil) != (i == 8) {
			t.Errorf("document %d: %v", i, d != nil)
		}
		if d != nil && (len(d.Ignored()) != 1 || (len(d.Memberships()) > 0) != (i == 1 || i == 4)) {
			t.Errorf("document %d: left out %v, members %v", i, d.Ignored(), d.Memberships())
		}
		if i == 3 && d.Fresh() != 1 {
			t.Errorf("%d entities were read for one that is new", d.Fresh())
		}
	}
}
