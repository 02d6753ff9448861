package translate

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/routing/spec"
)

const kong = `
kind: KongPlugin
metadata: {name: limit, namespace: shop}
plugin: rate-limiting
config: {minute: 5}
---
kind: KongPlugin
metadata: {name: auth, namespace: shop}
plugin: key-auth
---
kind: KongConsumer
metadata: {name: ann, namespace: shop, annotations: {kubernetes.io/ingress.class: keyway}}
username: ann
credentials: [ann-key, ann-group, gone]
---
kind: Credential
metadata: {name: ann-key, namespace: shop, labels: {konghq.com/credential: key-auth}}
data: {key: c2VjcmV0, ttl: NjA=}
---
kind: Credential
metadata: {name: ann-group, namespace: shop, labels: {konghq.com/credential: acl}}
data: {group: Z29sZA==}
---
`

// with sets annotations of the Ingress or another object of a text.
func with(text, kind, name, annotations string) string {
	return strings.Replace(text, "kind: "+kind+"\nmetadata: {name: "+name+", namespace: shop", "kind: "+kind+"\nmetadata: {annotations: {"+annotations+"}, name: "+name+", namespace: shop", 1)
}

// plugin finds the plugins of a kind, each as route/service/consumer by name.
func plugins(d *spec.Document, kind string) []string {
	names := map[string]string{"": ""}
	for _, r := range d.Routes {
		names[r.ID] = r.Name
	}
	for _, s := range d.Services {
		names[s.ID] = s.Name
	}
	for _, c := range d.Consumers {
		names[c.ID] = c.Username
	}
	for _, g := range d.ConsumerGroups {
		names[g.ID] = g.Name
	}
	var list []string
	for _, p := range d.Plugins {
		if p.Name == kind {
			list = append(list, names[p.Route]+"/"+names[p.Service]+"/"+names[p.Consumer]+names[p.ConsumerGroup])
		}
	}
	slices.Sort(list)
	return list
}

func found(t *testing.T, text string) string {
	t.Helper()
	s := state(t, text)
	s.Document()
	return lines(s.Findings())
}

func TestPluginsOfIngressServiceAndConsumer(t *testing.T) {
	const onRoute, route = "konghq.com/plugins: %s", "shop.i.web.a.test.80"
	set := func(ingressPlugins, servicePlugins, consumerPlugins string) string {
		text := classes + kong + ingress("/", "Prefix", "konghq.com/plugins="+ingressPlugins)
		text = with(text, "Service", "web", fmt.Sprintf("konghq.com/plugins: %q", servicePlugins))
		return strings.Replace(text, "annotations: {kubernetes.io/ingress.class: keyway}", fmt.Sprintf("annotations: {kubernetes.io/ingress.class: keyway, konghq.com/plugins: %q}", consumerPlugins), 1)
	}
	for _, c := range []struct {
		ingress, service, consumer string
		limit, auth                string
	}{
		{"limit", "", "", route + "//", ""},
		{"limit,auth", "", "", route + "//", route + "//"},
		{"", "limit", "", "/shop.web.80/", ""},
		{"limit", "limit", "", "/shop.web.80/ " + route + "//", ""},
		{"", "", "limit", "//ann", ""},
		{"limit", "", "limit", route + "//ann", ""},
		{"limit", "limit", "limit", "/shop.web.80/ann " + route + "//ann", ""},
		{"", "", "", "", ""},
	} {
		doc := whole(t, set(c.ingress, c.service, c.consumer))
		if got := plugins(doc, "rate-limiting"); strings.Join(got, " ") != c.limit {
			t.Errorf("%+v: rate-limiting %q", c, got)
		}
		if got := plugins(doc, "key-auth"); strings.Join(got, " ") != c.auth {
			t.Errorf("%+v: key-auth %q", c, got)
		}
		if doc.Routes[0].Closed != "" {
			t.Errorf("%+v: closed: %s", c, doc.Routes[0].Closed)
		}
	}
	doc := whole(t, set("limit", "", ""))
	if p := doc.Plugins[0]; p.Config["minute"] != 5.0 || p.Config["policy"] != "local" || !p.Enabled || !slices.Contains(p.Tags, "k8s-namespace:shop") {
		t.Errorf("%+v", p)
	}
	if len(doc.Consumers) != 1 || doc.Consumers[0].Username != "ann" || len(doc.KeyAuths) != 1 || doc.KeyAuths[0].Key.Ref.String() != "{vault://node.kubernetes/shop/ann-key/key}" || doc.KeyAuths[0].TTL != 60 {
		t.Errorf("consumers %+v, keys %+v", doc.Consumers, doc.KeyAuths)
	}
	if len(doc.ACLs) != 1 || doc.ACLs[0].Group != "gold" || doc.ACLs[0].Consumer != doc.Consumers[0].ID {
		t.Errorf("groups %+v", doc.ACLs)
	}
	if text := found(t, set("limit", "", "")); !strings.Contains(text, "KongConsumer shop/ann: credentials[2]: expected the name of a Secret") || strings.Count(text, "\n") != 1 {
		t.Error(text)
	}
}

func TestWhatAPluginGuardsIsClosedWithoutIt(t *testing.T) {
	base := classes + kong + ingress("/", "Prefix", "konghq.com/plugins=limit")
	for name, c := range map[string]struct{ from, to, why string }{
		"no such plugin":   {"name: limit, namespace: shop", "name: other, namespace: shop", "'limit': there is no such object"},
		"another space":    {"name: limit, namespace: shop", "name: limit, namespace: other", "'limit': there is no such object"},
		"bad config":       {"{minute: 5}", "{minute: many}", "config.minute: expected a number"},
		"unknown kind":     {"plugin: rate-limiting", "plugin: rate-limits", "KongPlugin shop/limit: plugin: "},
		"unknown field":    {"{minute: 5}", "{minutes: 5}", "config.minutes: unknown field"},
		"node's secrets":   {"{minute: 5}", `{redis: {password: "{vault://node.kubernetes/kube-system/admin/token}"}}`, "expected a reference into a vault that a KongVault or a document declares, not 'node.kubernetes'"},
		"undeclared vault": {"{minute: 5}", `{redis: {password: "{vault://env/HOME}"}}`, "not 'env'"},
		"consumerRef":      {"{minute: 5}", "{minute: 5}\nconsumerRef: ann", "consumerRef: expected nothing"},
	} {
		text := strings.Replace(base, c.from, c.to, 1)
		if text == base {
			t.Fatal(name)
		}
		doc := whole(t, text)
		if r := doc.Routes[0]; r.Closed == "" || len(plugins(doc, "rate-limiting")) > 0 {
			t.Errorf("%s: closed %q, plugins %v", name, r.Closed, doc.Plugins)
		}
		if f := found(t, text); !strings.Contains(f, c.why) {
			t.Errorf("%s: %s", name, f)
		}
	}
	// A plugin that was good once goes on.
	s := state(t, base)
	s.Document()
	worse := manifests(t, strings.Replace(kong, "{minute: 5}", "{minute: many}", 1))[0]
	worse.Common().ResourceVersion = "2"
	s.Put(worse)
	if doc := s.Document(); doc.Routes[0].Closed != "" || doc.Plugins[0].Config["minute"] != 5.0 || !strings.Contains(lines(s.Findings()), "its last good form serves") {
		t.Errorf("%+v %v", doc.Plugins, s.Findings())
	}
	// Once it is gone, what it guarded is closed.
	s.Delete(RefOf(worse))
	if doc := s.Document(); doc.Routes[0].Closed == "" || len(doc.Plugins) != 0 {
		t.Errorf("open without its plugin: %+v", doc.Routes[0])
	}
}

func TestPluginThatDoesNotFitIsNotLeftOut(t *testing.T) {
	text := classes + strings.Replace(kong, "annotations: {kubernetes.io/ingress.class: keyway}", "annotations: {kubernetes.io/ingress.class: keyway, konghq.com/plugins: auth}", 1) + ingress("/", "Prefix", "konghq.com/plugins=auth")
	doc := whole(t, text)
	if len(doc.Consumers) != 0 || doc.Routes[0].Closed == "" {
		t.Errorf("consumers %v, route closed %q", doc.Consumers, doc.Routes[0].Closed)
	}
	if f := found(t, text); !strings.Contains(f, "KongPlugin shop/auth: plugin: expected not to be used by consumers") {
		t.Error(f)
	}
	twice := classes + kong + "kind: KongPlugin\nmetadata: {name: more, namespace: shop}\nplugin: rate-limiting\nconfig: {minute: 9}\n---\n" + ingress("/", "Prefix", "konghq.com/plugins=limit,more")
	if doc := whole(t, twice); doc.Routes[0].Closed == "" {
		t.Error("one of two plugins of a kind is left out")
	}
}

// TestWhatIsLeftOutHasNoPlugins has users of plugins that are not in the document: plugins
// that are right are not for them in it either, and not for everybody in their place.
func TestWhatIsLeftOutHasNoPlugins(t *testing.T) {
	const bad = "kind: KongPlugin\nmetadata: {name: bad, namespace: shop}\nplugin: nothing\n---\n"
	person := strings.Replace(kong, "annotations: {kubernetes.io/ingress.class: keyway}", "annotations: {kubernetes.io/ingress.class: keyway, konghq.com/plugins: %q}", 1)
	group := "kind: KongConsumerGroup\nmetadata: {name: gold, namespace: shop, annotations: {kubernetes.io/ingress.class: keyway, konghq.com/plugins: %q}}\n---\n"
	stream := ofGateway("{name: tcp, port: 5432, protocol: TCP, allowedRoutes: {namespaces: {from: All}}}") + kong +
		with(streamRouteOf(KindTCPRoute, "db", `"2026-01-01T00:00:00Z"`, "rules: [{backendRefs: [{name: web, port: 80}]}]"), KindTCPRoute, "db", "konghq.com/plugins: %q")
	start := "kind: Ingress\nmetadata: {name: d, namespace: shop, annotations: {konghq.com/plugins: %q, konghq.com/protocols: nothing}}\nspec: {ingressClassName: keyway, defaultBackend: {service: {name: web, port: {number: 80}}}}\n---\n"
	for name, text := range map[string]string{
		"consumer": classes + person, "consumer on a route": classes + person + ingress("/", "Prefix", "konghq.com/plugins=limit") + "---\n",
		"group": classes + kong + group, "default": classes + kong + start, "stream": stream,
	} {
		for _, list := range []string{"limit,bad", "bad,limit", "limit,auth", "limit,gone", "limit,limit"} {
			t.Run(name+" with "+list, func(t *testing.T) {
				doc := whole(t, fmt.Sprintf(text, list)+"---\n"+bad)
				for _, p := range doc.Plugins {
					if p.Route+p.Service+p.Consumer+p.ConsumerGroup == "" || strings.HasPrefix(name, "consumer") {
						t.Errorf("%+v", p)
					}
				}
			})
		}
	}
}

func TestClusterPluginsAndGlobalOnes(t *testing.T) {
	const all = `
kind: KongClusterPlugin
metadata: {name: limit, labels: {global: "%t"}, annotations: {kubernetes.io/ingress.class: %s}}
plugin: rate-limiting
config: {minute: 7}
---
`
	own := ingress("/", "Prefix", "konghq.com/plugins=limit")
	doc := whole(t, classes+fmt.Sprintf(all, false, "keyway")+own)
	if got := plugins(doc, "rate-limiting"); len(got) != 1 || got[0] != "shop.i.web.a.test.80//" || doc.Plugins[0].Config["minute"] != 7.0 {
		t.Errorf("%v", got)
	}
	if doc := whole(t, classes+fmt.Sprintf(all, false, "keyway")+kong+own); len(doc.Plugins) != 1 || doc.Plugins[0].Config["minute"] != 5.0 {
		t.Errorf("a KongPlugin of the namespace goes first: %+v", doc.Plugins)
	}
	if doc := whole(t, classes+fmt.Sprintf(all, false, "other")+own); doc.Routes[0].Closed == "" {
		t.Error("a plugin of another class is taken for ours, or left out")
	}
	if got := plugins(whole(t, classes+fmt.Sprintf(all, true, "keyway")+ingress("/", "Prefix")), "rate-limiting"); len(got) != 1 || got[0] != "//" {
		t.Errorf("global: %v", got)
	}
}

func TestPluginOfAnotherNamespaceNeedsAGrant(t *testing.T) {
	const plugin = "kind: KongPlugin\nmetadata: {name: lent, namespace: team}\nplugin: rate-limiting\nconfig: {minute: 3}\n---\n"
	const grant = `
kind: ReferenceGrant
metadata: {name: g, namespace: team}
spec:
  from: [{group: networking.k8s.io, kind: %s, namespace: shop}]
  to: [{group: configuration.konghq.com, kind: KongPlugin%s}]
---
`
	own := ingress("/", "Prefix", "konghq.com/plugins=team:lent")
	for _, c := range []struct {
		grant string
		open  bool
	}{
		{"", false},
		{fmt.Sprintf(grant, "Ingress", ""), true},
		{fmt.Sprintf(grant, "Ingress", ", name: lent"), true},
		{fmt.Sprintf(grant, "Ingress", ", name: other"), false},
		{fmt.Sprintf(grant, "Gateway", ""), false},
	} {
		doc := whole(t, classes+plugin+c.grant+own)
		if r := doc.Routes[0]; (r.Closed == "") != c.open || (len(doc.Plugins) == 1) != c.open {
			t.Errorf("with %q: closed %q, %d plugins", c.grant, r.Closed, len(doc.Plugins))
		}
	}
}

func TestConfigFromSecrets(t *testing.T) {
	const from = `
kind: KongPlugin
metadata: {name: limit, namespace: shop}
plugin: rate-limiting
%s
---
kind: Secret
metadata: {name: s, namespace: shop}
data: {whole: eyJtaW51dGUiOiAxMX0=, minute: MTI=, bad: e30x}
---
`
	own := ingress("/", "Prefix", "konghq.com/plugins=limit")
	for _, c := range []struct {
		source string
		minute any
		why    string
	}{
		{"configFrom: {secretKeyRef: {name: s, key: whole}}", 11.0, ""},
		{"config: {policy: local}\nconfigPatches: [{path: /minute, valueFrom: {secretKeyRef: {name: s, key: minute}}}]", 12.0, ""},
		{"configPatches: [{path: minute, valueFrom: {secretKeyRef: {name: s, key: minute}}}]", nil, "configPatches[0].path: expected a JSON pointer"},
		{"configFrom: {secretKeyRef: {name: s, key: bad}}", nil, "configFrom.secretKeyRef.key: expected JSON"},
		{"configFrom: {secretKeyRef: {name: s, key: minute}}", nil, "configFrom: expected an object"},
		{"configFrom: {secretKeyRef: {name: s, key: none}}", nil, "it has no 'none'"},
		{"configFrom: {secretKeyRef: {name: gone, key: none}}", nil, "there is no 'gone'"},
		{"configFrom: {secretKeyRef: {namespace: kube-system, name: s, key: whole}}", nil, "configFrom.secretKeyRef.namespace: expected nothing"},
		{"config: {minute: 1}\nconfigFrom: {secretKeyRef: {name: s, key: whole}}", nil, "configFrom: expected nothing beside config"},
		{"configFrom: {secretKeyRef: {name: s, key: whole}}\nconfigPatches: [{path: /minute, valueFrom: {secretKeyRef: {name: s, key: minute}}}]", nil, "configPatches: expected nothing beside configFrom"},
	} {
		text := classes + fmt.Sprintf(from, c.source) + own
		doc := whole(t, text)
		if c.why == "" {
			if len(doc.Plugins) != 1 || doc.Plugins[0].Config["minute"] != c.minute {
				t.Errorf("%s: %+v", c.source, doc.Plugins)
			}
		} else if f := found(t, text); !strings.Contains(f, c.why) || doc.Routes[0].Closed == "" {
			t.Errorf("%s: closed %q; %s", c.source, doc.Routes[0].Closed, f)
		}
		s := state(t, text)
		if s.Document(); strings.Contains(c.source, "name: s,") && !strings.Contains(c.source, "kube-system") && !strings.Contains(c.why, "expected nothing") {
			if _, wanted := s.Wanted()[Ref{KindSecret, "shop", "s"}]; !wanted || len(s.Wanted()) != 1 {
				t.Errorf("%s: wanted %v", c.source, s.Wanted())
			}
		}
	}
}

func TestGroupsOfConsumers(t *testing.T) {
	const groups = `
kind: KongConsumerGroup
metadata: {name: gold, namespace: shop, annotations: {kubernetes.io/ingress.class: keyway, konghq.com/plugins: limit}}
---
kind: KongConsumer
metadata: {name: bob, namespace: shop, annotations: {kubernetes.io/ingress.class: keyway%s}}
username: bob
consumerGroups: [gold, gone]
---
kind: KongPlugin
metadata: {name: more, namespace: shop}
plugin: rate-limiting
config: {minute: 50}
---
`
	text := classes + kong + fmt.Sprintf(groups, "")
	if got := plugins(whole(t, text+ingress("/", "Prefix")), "rate-limiting"); !slices.Equal(got, []string{"//gold"}) {
		t.Errorf("of the group: %v", got)
	}
	if got := plugins(whole(t, text+ingress("/", "Prefix", "konghq.com/plugins=limit")), "rate-limiting"); !slices.Equal(got, []string{"shop.i.web.a.test.80//gold"}) {
		t.Errorf("of the group on a route: %v", got)
	}
	doc := whole(t, classes+kong+fmt.Sprintf(groups, ", konghq.com/plugins: more")+ingress("/", "Prefix"))
	if got := plugins(doc, "rate-limiting"); !slices.Equal(got, []string{"//bob", "//gold"}) {
		t.Errorf("a group's and a consumer's own: %v", got)
	}
	if g := doc.ConsumerGroups; len(g) != 1 || g[0].Name != "gold" || !slices.Contains(g[0].Tags, "k8s-name:gold") || len(doc.Memberships()[doc.Consumers[len(doc.Consumers)-1].ID]) != 1 {
		t.Errorf("groups %+v, consumers %+v", g, doc.Consumers)
	}
	if f := found(t, text); !strings.Contains(f, "KongConsumer shop/bob: consumerGroups[1]") {
		t.Error(f)
	}
}

// TestGroupThatIsNotRight has consumers that are limited by a group which is not right, or
// called like another.
func TestGroupThatIsNotRight(t *testing.T) {
	const one = `
kind: KongConsumerGroup
metadata: {name: %s, namespace: %s, creationTimestamp: "2026-01-0%dT00:00:00Z", annotations: {kubernetes.io/ingress.class: keyway, konghq.com/plugins: %q}}
spec: {name: %q, tags: [tier]}
---
kind: KongConsumer
metadata: {name: bob, namespace: %[2]s, annotations: {kubernetes.io/ingress.class: keyway}}
username: bob-%[2]s
consumerGroups: [%[1]s]
---
`
	two := fmt.Sprintf(one, "gold", "shop", 2, "", "") + fmt.Sprintf(one, "g", "team", 1, "", "gold")
	doc := whole(t, classes+kong+two)
	names := map[string]string{}
	for _, c := range doc.Consumers {
		for _, g := range doc.Memberships()[c.ID] {
			names[c.Username] += g.Name
		}
	}
	if names["bob-shop"] != "shop/gold" || names["bob-team"] != "gold" || !slices.Contains(doc.ConsumerGroups[0].Tags, "tier") {
		t.Errorf("of two groups with one name the older one has it: %v", names)
	}
	for plugin, why := range map[string]string{"none": "'none': there is no such object", "bad": "KongPlugin shop/bad: plugin: ", "limit,bad": "KongPlugin shop/bad: plugin: "} {
		text := classes + kong + fmt.Sprintf(one, "gold", "shop", 2, plugin, "") + "kind: KongPlugin\nmetadata: {name: bad, namespace: shop}\nplugin: nothing\n---\n"
		doc := whole(t, text)
		if slices.ContainsFunc(doc.Consumers, func(c *spec.Consumer) bool { return c.Username == "bob-shop" }) {
			t.Errorf("%s: a consumer is let in without what limits it", plugin)
		}
		if f := found(t, text); !strings.Contains(f, why) || !strings.Contains(f, "KongConsumer shop/bob: consumerGroups[0]: KongConsumerGroup shop/gold is not right") {
			t.Errorf("%s: %s", plugin, f)
		}
	}
	if f := found(t, classes+fmt.Sprintf(one, "gold", "shop", 2, "", "a/b")); !strings.Contains(f, "KongConsumerGroup shop/gold: spec.name: expected a name without a slash") {
		t.Error(f)
	}
}

func TestConsumersClaimTheirNames(t *testing.T) {
	const two = `
kind: KongConsumer
metadata: {name: a, namespace: one, creationTimestamp: "2026-01-02T00:00:00Z", annotations: {kubernetes.io/ingress.class: keyway}}
username: same
---
kind: KongConsumer
metadata: {name: b, namespace: two, creationTimestamp: "2026-01-01T00:00:00Z", annotations: {kubernetes.io/ingress.class: keyway}}
username: same
custom_id: c
---
kind: KongConsumer
metadata: {name: none, namespace: two, annotations: {kubernetes.io/ingress.class: keyway}}
---
kind: KongConsumer
metadata: {name: foreign, namespace: two, annotations: {kubernetes.io/ingress.class: other}}
username: foreign
`
	doc := whole(t, two)
	if len(doc.Consumers) != 1 || doc.Consumers[0].CustomID != "c" {
		t.Errorf("%+v", doc.Consumers)
	}
	f := found(t, two)
	if !strings.Contains(f, "KongConsumer one/a: username: expected one that no other consumer has") || !strings.Contains(f, "KongConsumer two/none: username: expected a username") {
		t.Error(f)
	}
}

func TestUpstreamPolicy(t *testing.T) {
	for _, c := range []struct {
		spec string
		good func(*spec.Upstream) bool
		why  string
	}{
		{"algorithm: consistent-hashing, hashOn: {header: X-User}, hashOnFallback: {input: ip}, slots: 100", func(u *spec.Upstream) bool {
			return u.Algorithm == "consistent-hashing" && u.HashOn == "header" && u.HashOnHeader == "X-User" && u.HashFallback == "ip" && u.Slots == 100
		}, ""},
		{"algorithm: consistent-hashing, hashOn: {cookie: sid, cookiePath: /x}", func(u *spec.Upstream) bool {
			return u.HashOn == "cookie" && u.HashOnCookie == "sid" && u.HashOnCookiePath == "/x"
		}, ""},
		{"algorithm: consistent-hashing, hashOn: {queryArg: q}, hashOnFallback: {uriCapture: c}", func(u *spec.Upstream) bool {
			return u.HashOnQueryArg == "q" && u.HashFallbackURICapture == "c"
		}, ""},
		{"algorithm: sticky-sessions, stickySessions: {cookie: sid}", func(u *spec.Upstream) bool {
			return u.Algorithm == "sticky-sessions" && u.HashOn == "none" && u.StickyCookie == "sid" && u.StickyCookiePath == "/"
		}, ""},
		{"algorithm: sticky-sessions, hashOn: {input: none}, stickySessions: {cookie: sid, cookiePath: /x}", func(u *spec.Upstream) bool {
			return u.Algorithm == "sticky-sessions" && u.StickyCookiePath == "/x"
		}, ""},
		{"algorithm: sticky-sessions, hashOn: {input: ip}, stickySessions: {cookie: sid}", func(u *spec.Upstream) bool { return u.Algorithm == "round-robin" }, "hash_on: expected one of: none"},
		{"algorithm: sticky-sessions, stickySessions: {cookie: a;b}", func(u *spec.Upstream) bool { return u.Algorithm == "round-robin" }, "sticky_sessions_cookie: invalid value 'a;b'"},
		{"algorithm: least-connections", func(u *spec.Upstream) bool { return u.Algorithm == "least-connections" }, ""},
		{"healthchecks: {threshold: 50, active: {type: https, httpPath: /up, httpsVerifyCertificate: false, headers: {X-Probe: [a]}, healthy: {interval: 5, httpStatuses: [200]}, unhealthy: {tcpFailures: 3}}, passive: {unhealthy: {httpFailures: 4}}}", func(u *spec.Upstream) bool {
			h := u.Healthchecks
			return h.Threshold == 50 && h.Active.HTTPPath == "/up" && !h.Active.HTTPSVerifyCertificate && h.Active.Headers["X-Probe"][0] == "a" && h.Active.Healthy.Interval == 5 && slices.Equal(h.Active.Healthy.HTTPStatuses, []int{200}) && h.Active.Unhealthy.TCPFailures == 3 && h.Passive.Unhealthy.HTTPFailures == 4
		}, ""},
		{"slots: 5", func(u *spec.Upstream) bool { return u.Slots == 10000 }, "KongUpstreamPolicy shop/p: slots: "},
		{"hashOn: {input: ip, header: x}", func(u *spec.Upstream) bool { return u.HashOn == "none" }, "spec.hashOn: expected exactly one"},
		{"algorithm: sticky-sessions", func(u *spec.Upstream) bool { return u.Algorithm == "round-robin" }, "stickySessions.cookie"},
	} {
		text := with(classes, "Service", "web", "konghq.com/upstream-policy: p") + "kind: KongUpstreamPolicy\nmetadata: {name: p, namespace: shop}\nspec: {" + c.spec + "}\n---\n" + ingress("/", "Prefix")
		doc := whole(t, text)
		if !c.good(doc.Upstreams[0]) || doc.Routes[0].Closed != "" {
			t.Errorf("%s: %+v, closed %q", c.spec, doc.Upstreams[0], doc.Routes[0].Closed)
		}
		if f := found(t, text); (c.why == "") != (f == "") || !strings.Contains(f, c.why) {
			t.Errorf("%s: %s", c.spec, f)
		}
	}
	text := with(classes, "Service", "web", "konghq.com/override: k") + "kind: KongIngress\nmetadata: {name: k, namespace: shop}\nupstream: {algorithm: least-connections, slots: 64}\nproxy: {retries: 1}\n---\n" + ingress("/", "Prefix")
	if u := whole(t, text).Upstreams[0]; u.Algorithm != "least-connections" || u.Slots != 64 {
		t.Errorf("KongIngress: %+v", u)
	}
	if f := found(t, text); !strings.Contains(f, "expected an upstream alone") {
		t.Error(f)
	}
}

func TestServiceAnnotations(t *testing.T) {
	const ca = `
kind: Authority
metadata: {name: ca, namespace: shop, labels: {konghq.com/ca-cert: "true"}, annotations: {kubernetes.io/ingress.class: keyway}}
data: {id: NWY0YzQ1ZTQtNmUwOC00ZTQ3LTk0NTUtMGQ2YzY1YzE0Y2Y2, cert: eA==}
---
`
	const id = "5f4c45e4-6e08-4e47-9455-0d6c65c14cf6"
	for _, c := range []struct {
		annotations string
		good        func(*spec.Document, *spec.Service) bool
		why         string
	}{
		{"konghq.com/protocol: https, konghq.com/path: /base, konghq.com/retries: '2', konghq.com/connect-timeout: '100', konghq.com/read-timeout: '200', konghq.com/write-timeout: '300'", func(_ *spec.Document, s *spec.Service) bool {
			return s.Protocol == "https" && s.Path == "/base" && s.Retries == 2 && s.ConnectTimeout == 100 && s.ReadTimeout == 200 && s.WriteTimeout == 300
		}, ""},
		{"konghq.com/protocol: grpc", func(_ *spec.Document, s *spec.Service) bool { return s.Protocol == "grpc" && s.Path == "" }, ""},
		{"konghq.com/protocol: ftp", func(d *spec.Document, _ *spec.Service) bool { return d.Routes[0].Closed != "" }, "expected one of http, https"},
		{"konghq.com/path: no", func(d *spec.Document, _ *spec.Service) bool { return d.Routes[0].Closed != "" }, "metadata.annotations[konghq.com/path]: should start with: /"},
		{"konghq.com/retries: many", func(d *spec.Document, s *spec.Service) bool { return s.Retries == 5 && d.Routes[0].Closed == "" }, "expected a whole number"},
		{"konghq.com/host-header: other.test", func(d *spec.Document, _ *spec.Service) bool { return d.Upstreams[0].HostHeader == "other.test" }, ""},
		{"konghq.com/protocol: https, konghq.com/client-cert: pair", func(d *spec.Document, s *spec.Service) bool {
			return len(d.Certificates) == 1 && s.ClientCertificate == d.Certificates[0].ID
		}, ""},
		{"konghq.com/protocol: https, konghq.com/tls-verify: 'true', konghq.com/tls-verify-depth: '2', konghq.com/ca-certificates-secrets: ca", func(d *spec.Document, s *spec.Service) bool {
			return *s.TLSVerify && *s.TLSVerifyDepth == 2 && slices.Equal(s.CACertificates, []string{id}) && len(d.CACertificates) == 1 && d.CACertificates[0].Cert.Ref.String() == "{vault://node.kubernetes/shop/ca/cert}"
		}, ""},
		{"konghq.com/protocol: https, konghq.com/tls-verify: maybe", func(d *spec.Document, _ *spec.Service) bool { return d.Routes[0].Closed != "" }, "expected true or false"},
		{"konghq.com/tls-verify: 'true'", func(d *spec.Document, _ *spec.Service) bool { return d.Routes[0].Closed != "" }, "value must be null"},
		{"konghq.com/protocol: https, konghq.com/ca-certificates-secrets: gone", func(d *spec.Document, _ *spec.Service) bool { return d.Routes[0].Closed != "" }, "there is no 'gone'"},
		{"konghq.com/upstream-policy: gone", func(d *spec.Document, _ *spec.Service) bool { return d.Routes[0].Closed == "" }, "there is no 'gone'"},
		{"ingress.kubernetes.io/service-upstream: 'true'", func(d *spec.Document, _ *spec.Service) bool {
			return len(d.Targets) == 1 && d.Targets[0].Target == "web.shop.svc:80"
		}, ""},
		{"konghq.com/tags: mine", func(_ *spec.Document, s *spec.Service) bool { return slices.Contains(s.Tags, "mine") }, ""},
	} {
		text := with(classes, "Service", "web", c.annotations) + ca + ingress("/", "Prefix")
		doc := whole(t, text)
		if !c.good(doc, doc.Services[0]) {
			t.Errorf("%s: %+v, closed %q", c.annotations, doc.Services[0], doc.Routes[0].Closed)
		}
		if f := found(t, text); (c.why == "") != (f == "") || !strings.Contains(f, c.why) || c.why != "" && !strings.Contains(f, "Service shop/web: ") {
			t.Errorf("%s: %s", c.annotations, f)
		}
	}
}

func TestEndpoints(t *testing.T) {
	for _, c := range []struct{ service, slices, want string }{
		{"{type: ExternalName, externalName: other.test}", "", "other.test:80"},
		{"{ports: [{port: 80}]}", "addressType: IPv6, ports: [{port: 8080}], endpoints: [{addresses: ['2001:db8::1']}]", "[2001:db8::1]:8080"},
		{"{ports: [{port: 80}]}", "addressType: IPv4, ports: [{port: 8080}], endpoints: [{addresses: [10.1.0.3], conditions: {ready: false, serving: true, terminating: true}}, {addresses: [10.1.0.4], conditions: {ready: false}}]", "10.1.0.3:8080"},
		{"{ports: [{port: 80, name: a}]}", "addressType: IPv4, ports: [{port: 8080, name: b}], endpoints: [{addresses: [10.1.0.3]}]", ""},
	} {
		text := "kind: Service\nmetadata: {name: s, namespace: shop}\nspec: " + c.service + "\n---\n"
		if c.slices != "" {
			text += "kind: EndpointSlice\nmetadata: {name: s-1, namespace: shop, labels: {kubernetes.io/service-name: s}}\n" + strings.ReplaceAll(c.slices, "], ", "],\n ") + "\n---\n"
			text = strings.Replace(text, "addressType: IPv4, ", "addressType: IPv4\n", 1)
			text = strings.Replace(text, "addressType: IPv6, ", "addressType: IPv6\n", 1)
			text = strings.Replace(text, "],\n endpoints", "]\nendpoints", 1)
		}
		doc := whole(t, text+strings.Replace(ingress("/", "Prefix"), "name: web", "name: s", 1))
		var got []string
		for _, x := range doc.Targets {
			got = append(got, x.Target)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s %s: %v", c.service, c.slices, got)
		}
	}
}

// TestEndingEndpointsKeepTheirSessions has an endpoint that ends beside ready ones.
func TestEndingEndpointsKeepTheirSessions(t *testing.T) {
	const policy = "kind: KongUpstreamPolicy\nmetadata: {name: p, namespace: shop}\nspec: {algorithm: %s}\n---\n"
	const older = "kind: KongIngress\nmetadata: {name: p, namespace: shop}\nupstream: {algorithm: sticky-sessions, sticky_sessions_cookie: sid}\n---\n"
	for _, c := range []struct{ annotation, object, want string }{
		{"x: y", "", "10.1.0.1:8080 100, 10.1.0.2:8080 100"},
		{"konghq.com/upstream-policy: p", fmt.Sprintf(policy, "least-connections"), "10.1.0.1:8080 100, 10.1.0.2:8080 100"},
		{"konghq.com/upstream-policy: p", fmt.Sprintf(policy, "sticky-sessions, stickySessions: {cookie: sid}"), "10.1.0.1:8080 100, 10.1.0.2:8080 100, 10.1.0.3:8080 0"},
		{"konghq.com/override: p", older, "10.1.0.1:8080 100, 10.1.0.2:8080 100, 10.1.0.3:8080 0"},
	} {
		var got []string
		for _, x := range whole(t, with(classes, "Service", "web", c.annotation)+c.object+ingress("/", "Prefix")).Targets {
			got = append(got, fmt.Sprint(x.Target, " ", x.Weight))
		}
		if strings.Join(got, ", ") != c.want {
			t.Errorf("%s %s: %v", c.annotation, c.object, got)
		}
	}
}

func TestRewrite(t *testing.T) {
	doc := whole(t, classes+ingress(`/~/a/(\d+)`, "ImplementationSpecific", "konghq.com/rewrite=/b/$1/c"))
	if len(doc.Plugins) != 1 || doc.Plugins[0].Config["replace"].(map[string]any)["uri"] != "/b/$(uri_captures[1])/c" || doc.Plugins[0].Route != doc.Routes[0].ID {
		t.Errorf("%+v", doc.Plugins)
	}
	if r := whole(t, classes+ingress("/", "Prefix", "konghq.com/rewrite=b")).Routes[0]; r.Closed == "" {
		t.Error("a rewrite that cannot be is left out")
	}
}

func TestVaults(t *testing.T) {
	const vault = `
kind: KongVault
metadata: {name: v, annotations: {kubernetes.io/ingress.class: keyway}}
spec: {backend: env, prefix: my-env, description: d, config: {prefix: SECRET_}}
---
`
	limit := strings.Replace(kong, "{minute: 5}", `{redis: {password: "{vault://my-env/redis}"}}`, 1)
	own := ingress("/", "Prefix", "konghq.com/plugins=limit")
	doc := whole(t, classes+vault+limit+own)
	if len(doc.Vaults) != 1 || doc.Vaults[0].Prefix != "my-env" || doc.Vaults[0].Name != "env" || doc.Routes[0].Closed != "" || len(doc.Plugins) != 1 {
		t.Errorf("%+v, closed %q", doc.Vaults, doc.Routes[0].Closed)
	}
	// Vaults of documents count too, with their rules.
	s := state(t, classes+limit+own)
	if s.Document().Routes[0].Closed == "" {
		t.Error("a vault that nobody declares is used")
	}
	declared := &spec.Vault{Prefix: "my-env", Name: "env"}
	s.Declare([]*spec.Vault{declared})
	if r := s.Document().Routes[0]; r.Closed != "" {
		t.Error(r.Closed)
	}
	s.Declare([]*spec.Vault{{Prefix: "my-env", Name: "env", Allow: []spec.VaultRule{{Namespaces: []string{"billing"}}}}})
	if s.Document(); !strings.Contains(lines(s.Findings()), "x_keyway_allow") {
		t.Errorf("the rules of a vault are not kept: %s", lines(s.Findings()))
	}
}

func TestStreams(t *testing.T) {
	const streams = `
kind: TCPIngress
metadata: {name: t, namespace: shop, annotations: {kubernetes.io/ingress.class: keyway}}
spec:
  tls: [{hosts: [db.test], secretName: pair}]
  rules:
  - {port: 5432, backend: {serviceName: web, servicePort: 80}}
  - {host: db.test, port: 5433, backend: {serviceName: web, servicePort: 80}}
  - {port: 5434, backend: {serviceName: gone, servicePort: 80}}
---
kind: UDPIngress
metadata: {name: u, namespace: shop, annotations: {kubernetes.io/ingress.class: keyway}}
spec: {rules: [{port: 53, backend: {serviceName: web, servicePort: 80}}]}
---
`
	doc := whole(t, classes+streams+ingress("/", "Prefix"))
	if len(doc.Routes) != 4 || len(doc.Services) != 3 || len(doc.SNIs) != 1 {
		t.Fatalf("%d routes, %d services, %d names", len(doc.Routes), len(doc.Services), len(doc.SNIs))
	}
	r := route(t, doc, "shop.t.1.tcp")
	if !slices.Equal(r.Protocols, []string{"tcp", "tls"}) || !slices.Equal(r.SNIs, []string{"db.test"}) || r.Destinations[0].Port != 5433 {
		t.Errorf("%+v", r)
	}
	if u := route(t, doc, "shop.u.0.udp"); u.Protocols[0] != "udp" || u.Destinations[0].Port != 53 {
		t.Errorf("%+v", u)
	}
	protocols := map[string]string{}
	for _, s := range doc.Services {
		protocols[s.Name] = s.Protocol
	}
	if protocols["shop.web.80"] != "http" || protocols["shop.web.80.tcp"] != "tcp" || protocols["shop.web.80.udp"] != "udp" {
		t.Error(protocols)
	}
}

// TestOneMoreUserOfAPlugin: what others have that use it is not made again.
func TestOneMoreUserOfAPlugin(t *testing.T) {
	text := kong
	for i := range 50 {
		text += strings.Replace(ingressText(i), fmt.Sprintf("{name: i%d, namespace: shop}", i), fmt.Sprintf("{name: i%d, namespace: shop, annotations: {konghq.com/plugins: limit}}", i), 1) + "---\n"
	}
	s := state(t, text)
	s.Document()
	one := manifests(t, strings.Replace(ingressText(99), "{name: i99, namespace: shop}", "{name: i99, namespace: shop, annotations: {konghq.com/plugins: limit}}", 1))[0]
	n := made(s, func() { s.Put(one) })
	if n[unitIngress] != 1 || n[unitScope] != 1 || n[collectUses] != 1 {
		t.Errorf("one more user made %v", n)
	}
}
