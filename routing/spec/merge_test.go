package spec

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestMergeLeavesWhatIsTakenToTheFirst(t *testing.T) {
	load := func(text string) *Document {
		doc, problems := Load([]Source{{Name: "t.yaml", Data: []byte("_format_version: \"3.0\"\n" + text)}}, nil)
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		return doc
	}
	file := load("services: [{name: a, host: file.test}]\nsnis: []\nconsumers: [{username: ann}]\n")
	cluster := load("services: [{name: a, host: cluster.test}, {name: b, host: b.test}]\nconsumers: [{username: ann}, {username: bob}]\n")
	both, problems := Merge(file, cluster)
	if len(both.Services) != 2 || both.Services[0].Host != "file.test" || len(both.Consumers) != 2 || len(problems) != 2 {
		t.Errorf("%d services, %d consumers, %v", len(both.Services), len(both.Consumers), problems)
	}
	if p := problems[0]; p.Entity != "services" || p.Name != "a" || p.Reason != ReasonDuplicate {
		t.Errorf("%v", p)
	}
	if both, problems := Merge(&Document{}, cluster); both != cluster || len(problems) > 0 {
		t.Error("nothing beside it, and it is not itself")
	}
}

// TestMergeOfOneAuthority has a certificate of an authority in both under different ids: what
// comes of it can be loaded again, and who verified by the one that is left out still does.
func TestMergeOfOneAuthority(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca, _ := mint(t, key, true, time.Now().Add(time.Hour))
	const theirs, more = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
	doc := func(values map[string][]any) *Document {
		made, problems := Compose("t", values, nil)
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		return made
	}
	file := doc(map[string][]any{"ca_certificates": {map[string]any{"id": more, "cert": ca}}})
	cluster := doc(map[string][]any{
		"ca_certificates":       {map[string]any{"id": theirs, "cert": ca}},
		"services":              {map[string]any{"name": "a", "host": "a.test", "protocol": "https", "ca_certificates": []string{theirs, more}}, map[string]any{"name": "b", "host": "b.test"}},
		"x_keyway_tls_policies": {map[string]any{"name": "p", "client_auth": "required", "ca_certificates": []string{theirs}}},
	})
	before := Hash(cluster.Services[0])
	both, problems := Merge(file, cluster)
	if len(problems) != 1 || !slices.Equal(both.Services[0].CACertificates, []string{more}) || !slices.Equal(both.TLSPolicies[0].CACertificates, []string{more}) {
		t.Errorf("%v, services %+v, policies %+v", problems, both.Services[0], both.TLSPolicies[0])
	}
	if Hash(cluster.Services[0]) != before || len(Diff(both, cluster)) == 0 || both.Services[1] != cluster.Services[1] {
		t.Error("the cluster's own document is changed")
	}
	text, err := both.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, problems := Load([]Source{{Name: "t.yaml", Data: text}}, nil)
	if len(problems) > 0 || len(Diff(both, again)) > 0 {
		t.Errorf("%v, %+v", problems, Diff(both, again))
	}
}

// source reads one document as it stands in a file.
func source(t *testing.T, name, text string) *Document {
	t.Helper()
	doc, problems := Load([]Source{{Name: name, Data: []byte("_format_version: \"3.0\"\n" + text)}}, rich())
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return doc
}

// merged merges a file's document and a cluster's, holds that what comes of it can be loaded
// again and that neither of the two is changed, and answers the problems as lines.
func merged(t *testing.T, file, cluster *Document) (*Document, string) {
	t.Helper()
	sums := map[Entity]uint64{}
	for _, d := range []*Document{file, cluster} {
		for e := range d.all() {
			sums[e] = Hash(e)
		}
	}
	both, problems := Merge(file, cluster)
	for e, sum := range sums {
		if Hash(e) != sum {
			t.Errorf("%s %s of a document that was merged is changed", e.Kind(), e.Base().ID)
		}
	}
	text, err := both.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if again, found := Load([]Source{{Name: "again", Data: text}}, rich()); len(found) > 0 || len(Diff(both, again)) > 0 {
		t.Errorf("%v, %+v in\n%s", found, Diff(both, again), text)
	}
	var lines []string
	for _, p := range problems {
		lines = append(lines, p.Error())
	}
	return both, strings.Join(lines, "\n")
}

// TestMergeOfOneNameUnderTwoIDs has everything that others belong to in both documents by one
// name under different ids: the cluster uses the file's from then on, and adds nothing to it.
func TestMergeOfOneNameUnderTwoIDs(t *testing.T) {
	const kinds = `
services: [{name: s, host: h, id: 1}]
routes: [{name: r, paths: [/], service: s, id: 2}]
upstreams: [{name: u, id: 3}]
consumer_groups: [{name: g, id: 4}]
consumers: [{username: ann, id: 5}, {custom_id: "7", id: 6}]
x_keyway_tls_policies: [{name: p, min_version: "1.3", id: 7}]
x_keyway_issuers: [{name: i, type: acme, id: 8, config: {directory: "https://acme.test/", email: a@b.test}}]
`
	ids := func(from string) string {
		text := kinds
		for _, n := range "12345678" {
			text = strings.ReplaceAll(text, "id: "+string(n)+"}", "id: "+from+"0000000-0000-4000-8000-00000000000"+string(n)+"}")
			text = strings.ReplaceAll(text, "id: "+string(n)+",", "id: "+from+"0000000-0000-4000-8000-00000000000"+string(n)+",")
		}
		return text
	}
	at := func(n string) string { return "f0000000-0000-4000-8000-00000000000" + n }
	file := source(t, "file.yaml", ids("f"))
	cluster := source(t, "cluster.yaml", strings.NewReplacer(
		`{username: ann,`, `{username: ann, groups: [more],`, `consumers: [`, `consumers: [{username: tim, groups: [g]}, `,
		`routes: [`, `routes: [{name: added, paths: [/added], service: s}, {name: own, paths: [/own], service: mine}, `, `services: [`, `services: [{name: mine, host: h}, `,
		`consumer_groups: [{name: g,`, `consumer_groups: [{name: more, consumers: [ann, tim]}, {name: g, consumers: [ann, tim],`,
	).Replace(ids("c"))+`
targets: [{upstream: u, target: "10.0.0.1:80"}]
keyauth_credentials: [{consumer: ann, key: k}, {consumer: c0000000-0000-4000-8000-000000000006, key: l}]
acls: [{consumer: ann, group: a}]
plugins:
- {name: rich, config: {ratio: 1}, service: s}
- {name: rich, config: {ratio: 1}, route: r}
- {name: rich, config: {ratio: 1}, consumer: ann}
- {name: rich, config: {ratio: 1}, consumer_group: g}
- {name: rich, config: {ratio: 1}, route: own, consumer: ann}
- {name: rich, config: {ratio: 1}, service: mine, consumer_group: g}
- {name: rich, config: {ratio: 1}, route: r, consumer: tim}
certificates: [{id: 99999999-9999-4999-8999-999999999999, x_keyway_issuer: i}]
snis: [{name: a.test, certificate: 99999999-9999-4999-8999-999999999999, x_keyway_tls_policy: p}]
x_keyway_listeners: [{name: l, protocol: https, port: 9443, tls_policy: p}]
`)
	both, problems := merged(t, file, cluster)
	if n := strings.Count(problems, "already declared at file.yaml:"); n != 8 {
		t.Errorf("%d things are in both\n%s", n, problems)
	}
	if n := strings.Count(problems, "to which only that one may add; so is this"); n != 10 || strings.Count(problems, "\n") != 17 {
		t.Errorf("%d things would add to the file's\n%s", n, problems)
	}
	if len(both.Targets)+len(both.KeyAuths)+len(both.ACLs) > 0 || len(both.Routes) != 2 {
		t.Errorf("targets %+v, keys %+v, ACLs %+v, routes %+v", both.Targets, both.KeyAuths, both.ACLs, both.Routes)
	}
	if p := both.Plugins; len(p) != 2 || p[0].Route == "" || p[0].Consumer != at("5") || p[1].Service == "" || p[1].ConsumerGroup != at("4") {
		t.Errorf("plugins %+v", p)
	}
	for what, pair := range map[string][2]string{
		"certificate": {both.Certificates[0].Issuer, at("8")}, "server name": {both.SNIs[0].TLSPolicy, at("7")}, "listener": {both.Listeners[0].TLSPolicy, at("7")},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s belongs to %s, want %s", what, pair[0], pair[1])
		}
	}
	tim := DeriveID("consumers", "tim")
	if all := both.Memberships(); len(all[at("5")]) > 0 || len(all[tim]) != 2 || all[tim][0].ID != at("4") {
		t.Errorf("memberships %+v", all)
	}
	if g := both.ConsumerGroups[0]; !slices.Equal(g.Consumers, []string{tim}) {
		t.Errorf("members %v", g.Consumers)
	}
	split := source(t, "cluster.yaml", "services: [{name: s, host: h, id: c0000000-0000-4000-8000-000000000001}, {name: t, host: h}]\n"+
		"routes: [{name: x, paths: [/x], x_keyway_split: [{service: s}, {service: t}]}, {name: y, paths: [/y], service: t, x_keyway_mirrors: [{service: s}]}]\n")
	if both, problems := merged(t, file, split); len(both.Routes) != 1 || !strings.Contains(problems, `routes "x": service: `) || !strings.Contains(problems, `routes "y": `) {
		t.Errorf("routes %+v\n%s", both.Routes, problems)
	}
}

// TestMergeAddsNothingUnderEqualIDs has one name under one id, as ids that follow from names
// are: what the cluster has for it is left out just so, and with it or without it a group of the
// cluster has no consumer of the file.
func TestMergeAddsNothingUnderEqualIDs(t *testing.T) {
	file := source(t, "file.yaml", "consumers: [{username: ann}]")
	for _, ann := range []string{"{username: ann}", "{username: ann, keyauth_credentials: [{key: k}]}"} {
		cluster := source(t, "cluster.yaml", "consumers: ["+ann+", {username: tim}]\nconsumer_groups: [{name: free, consumers: [ann, tim]}]")
		both, problems := merged(t, file, cluster)
		if all := both.Memberships(); len(both.KeyAuths) > 0 || len(all[DeriveID("consumers", "ann")]) > 0 || len(all[DeriveID("consumers", "tim")]) != 1 {
			t.Errorf("%s: %d keys, memberships %+v\n%s", ann, len(both.KeyAuths), all, problems)
		}
	}
}

// TestMergeGivesNobodyTheCredentialsOfAnother has things that are the same but for their names.
func TestMergeGivesNobodyTheCredentialsOfAnother(t *testing.T) {
	const x, y, z = "aaaaaaaa-0000-4000-8000-000000000001", "aaaaaaaa-0000-4000-8000-000000000002", "aaaaaaaa-0000-4000-8000-000000000003"
	file := source(t, "file.yaml", "consumers: [{username: bob, custom_id: \"7\"}, {username: eve, id: "+x+"}, {username: kim}]\nconsumer_groups: [{name: free, id: "+y+"}]\nservices: [{name: a, host: h, id: "+z+"}]")
	cluster := source(t, "cluster.yaml", `
services: [{name: b, host: h, id: `+z+`, routes: [{name: r, paths: [/], plugins: [{name: rich, config: {ratio: 1}}]}]}]
consumers:
- {username: ann, custom_id: "7", keyauth_credentials: [{key: k}], plugins: [{name: rich, config: {ratio: 1}}]}
- {username: joe, id: `+x+`, acls: [{group: admin}]}
- {username: sue, groups: [paid], keyauth_credentials: [{key: l}]}
- {username: kim, groups: [paid], keyauth_credentials: [{key: n}]}
- {username: tom, keyauth_credentials: [{key: m}]}
consumer_groups: [{name: paid, id: `+y+`}, {name: other, consumers: [sue, tom]}]
`)
	both, problems := merged(t, file, cluster)
	if len(both.KeyAuths) != 1 || both.KeyAuths[0].Consumer != DeriveID("consumers", "tom") || len(both.ACLs) > 0 || len(both.Routes) > 0 || len(both.Plugins) > 0 || len(both.Consumers) != 4 {
		t.Errorf("keys %+v, ACLs %+v, routes %+v, plugins %+v, consumers %+v", both.KeyAuths, both.ACLs, both.Routes, both.Plugins, both.Consumers)
	}
	if g := both.ConsumerGroups; len(g) != 2 || !slices.Equal(g[1].Consumers, []string{DeriveID("consumers", "tom")}) {
		t.Errorf("groups %+v", g)
	}
	for _, want := range []string{
		`cluster.yaml:5: consumers "ann": @entity: uniqueness violation: 'consumers' entity with custom_id set to '7' already declared at file.yaml:2; it is left out`,
		`cluster.yaml:6: consumers "joe": @entity: uniqueness violation: 'consumers' entity with id set to '` + x + `' already declared at file.yaml:2; it is left out`,
		`cluster.yaml:7: consumers "sue": groups: its entry in 'consumer_groups' with id '` + y + `' is left out, since another document has a different one in its place; so is this`,
		`cluster.yaml:3: routes "r": service: its entry in 'services'`, `cluster.yaml:3: plugins "rich": route: its entry in 'routes'`, `cluster.yaml:6: acls`, `cluster.yaml:8: keyauth_credentials`, `cluster.yaml:5: keyauth_credentials`,
	} {
		if !strings.Contains(problems, want) {
			t.Errorf("missing %q in\n%s", want, problems)
		}
	}
}

// TestMergeOfTwoThatAreOne has two consumers of a cluster that are one of a file's: what both
// had on a route of the cluster's own is there once.
func TestMergeOfTwoThatAreOne(t *testing.T) {
	const seven = "c0000000-0000-4000-8000-000000000007"
	file := source(t, "file.yaml", "consumers: [{username: ann, custom_id: \"7\"}]")
	cluster := source(t, "cluster.yaml", "consumers: [{username: ann}, {custom_id: \"7\", id: "+seven+"}]\nservices: [{name: s, host: h, routes: [{name: r, paths: [/]}]}]\n"+
		"plugins: [{name: rich, config: {ratio: 1}, route: r, consumer: ann}, {name: rich, config: {ratio: 2}, route: r, consumer: "+seven+"}]")
	both, problems := merged(t, file, cluster)
	if len(both.Consumers) != 1 || len(both.Plugins) != 1 || both.Plugins[0].Consumer != both.Consumers[0].ID || both.Plugins[0].Config["ratio"] != 1.0 || strings.Count(problems, "already declared") != 3 {
		t.Errorf("consumers %+v, plugins %+v\n%s", both.Consumers, both.Plugins, problems)
	}
}
