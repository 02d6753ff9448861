package kube

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyway-edge/keyway/routing/provide/kube/translate"
	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/secrets/kube/cluster"
)

const kongV1 = "apis/configuration.konghq.com/v1"

// labelled writes an Ingress with a label.
func (x *provided) labelled(name, namespace, host, team string) {
	x.server.put(networking+"namespaces/"+namespace+"/ingresses/"+name, fmt.Sprintf(`{"metadata": {"labels": {"team": %q}, "annotations": {"konghq.com/plugins": "limit"}}, "spec": {"ingressClassName": "keyway", "rules": [{"host": %q, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"number": 80}}}}]}}]}}`, team, host))
}

// closed are the routes that answer 503.
func (x *provided) closed() (list []string) {
	doc, _ := x.Current()
	if doc == nil {
		return nil
	}
	for _, r := range doc.Routes {
		if r.Closed != "" {
			list = append(list, r.Name)
		}
	}
	return list
}

// TestObjectsAreTakenByTheirLabels: what is served for its own sake is asked for with the
// selector, and what it names is there whatever its labels.
func TestObjectsAreTakenByTheirLabels(t *testing.T) {
	x := provide(t, func(c *Config, s *server) {
		c.Selectors.Labels = "team in (a, b)"
		c.Schemas = spec.Schemas{"limit": {Name: "limit"}}
		s.put(kongV1+ofShop+"kongplugins/limit", `{"plugin": "limit"}`)
		s.put(kongV1+ofShop+"kongconsumers/ann", `{"metadata": {"annotations": {"kubernetes.io/ingress.class": "keyway"}}, "username": "ann"}`)
		s.put(kongV1+ofShop+"kongconsumers/bob", `{"metadata": {"labels": {"team": "b"}, "annotations": {"kubernetes.io/ingress.class": "keyway"}}, "username": "bob"}`)
	})
	x.server.put("api/v1"+ofShop+"services/web", `{"spec": {"ports": [{"port": 80}]}}`)
	x.slice("10.1.0.1")
	x.labelled("i", "shop", "a.test", "a")
	x.labelled("j", "shop", "b.test", "c")
	x.until("shop.i.web.a.test.80")
	poll(t, "the endpoint is a target", func() bool { return x.target() == "10.1.0.1:8080" })
	doc, _ := x.Current()
	if len(doc.Plugins) != 1 || len(x.closed()) > 0 {
		t.Errorf("the plugin without a label is not used: %v, closed %v", doc.Plugins, x.closed())
	}
	if len(doc.Consumers) != 1 || doc.Consumers[0].Username != "bob" {
		t.Errorf("consumers %v", doc.Consumers)
	}
	x.labelled("j", "shop", "b.test", "b")
	x.until("shop.i.web.a.test.80 shop.j.web.b.test.80")
	x.labelled("i", "shop", "a.test", "c")
	x.until("shop.j.web.b.test.80")
	want := map[string]bool{}
	for _, kind := range []string{"ingresses", "kongconsumers", "tcpingresses", "udpingresses", "gateways", "listenersets", "httproutes", "grpcroutes", "tlsroutes", "tcproutes", "udproutes"} {
		want[kind] = true
	}
	x.server.mu.Lock()
	defer x.server.mu.Unlock()
	asked := 0
	for path, selector := range x.queries {
		plural := path[strings.LastIndex(path, "/")+1:]
		if got := strings.Contains(selector, "team in (a, b)"); got != want[plural] {
			t.Errorf("%s were asked for with %q", path, selector)
		} else if got {
			asked++
		}
	}
	if asked != len(want) {
		t.Errorf("%d kinds were asked for by their labels; expected %d", asked, len(want))
	}
	for _, f := range x.Facts().Sources {
		if f.Kind == translate.KindIngress && f.Objects != 1 {
			t.Errorf("%d Ingresses are followed", f.Objects)
		}
	}
}

// namespace writes a Namespace with a label.
func (x *provided) namespace(name, team string) {
	x.server.put("api/v1/namespaces/"+name, fmt.Sprintf(`{"metadata": {"labels": {"team": %q}}}`, team))
}

// TestNamespacesAreTakenByTheirLabels: nothing is asked for of others, and what is of one goes
// and comes with its labels.
func TestNamespacesAreTakenByTheirLabels(t *testing.T) {
	x := provide(t, func(c *Config, s *server) {
		c.Selectors.Namespaces, c.PublishService, c.Identity = "team=a", "keyway/edge", "replica-1"
		c.Schemas = spec.Schemas{"limit": {Name: "limit"}}
		for _, ns := range []string{"shop", "other"} {
			s.put(kongV1+"/namespaces/"+ns+"/kongplugins/limit", `{"plugin": "limit"}`)
			s.put("api/v1/namespaces/"+ns+"/services/web", `{"spec": {"ports": [{"port": 80}]}}`)
		}
		s.put("api/v1/namespaces/keyway/services/edge", `{"spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}}}`)
	})
	x.until("")
	x.namespace("shop", "a")
	x.namespace("other", "b")
	x.labelled("i", "shop", "a.test", "")
	x.labelled("j", "other", "b.test", "")
	x.until("shop.i.web.a.test.80")
	poll(t, "the status has the address of a Service of a namespace that is not taken", func() bool {
		return x.at(networking+"namespaces/shop/ingresses/i", "status.loadBalancer.ingress.0.ip") == "192.0.2.9"
	})
	x.server.mu.Lock()
	for path := range x.lists {
		if strings.Contains(path, "/namespaces/other/") || strings.HasSuffix(path, "v1/ingresses") {
			t.Errorf("%s was listed", path)
		}
	}
	x.server.mu.Unlock()
	listed := func() (n uint64) {
		for _, f := range x.Facts().Sources {
			if f.Kind == translate.KindIngress {
				n += f.Lists.Done
			}
		}
		return n
	}
	before := listed()
	x.namespace("other", "a")
	x.until("other.j.web.b.test.80 shop.i.web.a.test.80")
	x.namespace("shop", "b")
	x.until("other.j.web.b.test.80")
	if n := listed(); n <= before {
		t.Errorf("lists that were counted are %d, before a namespace left %d", n, before)
	}
	x.labelled("k", "shop", "c.test", "") // nobody follows it now
	x.namespace("shop", "a")
	x.until("other.j.web.b.test.80 shop.i.web.a.test.80 shop.k.web.c.test.80")
	x.remove("api/v1/namespaces/shop")
	x.until("other.j.web.b.test.80")
	if r := x.Remarks(); len(r) > 0 {
		t.Error(r)
	}
	if doc, _ := x.Current(); len(doc.Services) != 1 {
		t.Errorf("services %v", doc.Services)
	}
}

// TestWhatIsCountedStays: when the last namespace leaves, what was counted of its kinds is told
// on, of no objects, and when one comes again it is counted further.
func TestWhatIsCountedStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := provideFrom(t, newMemory(t), func(c *Config, s *server) {
			c.Selectors.Namespaces = "team=a"
			s.put("api/v1/namespaces/shop", `{"metadata": {"labels": {"team": "a"}}}`)
		})
		x.shop()
		x.until("shop.i.web.a.test.80")
		counted := func() map[string]cluster.Facts {
			all := map[string]cluster.Facts{}
			for _, f := range x.Facts().Sources {
				past := all[f.Kind]
				all[f.Kind] = cluster.Facts{Objects: past.Objects + f.Objects, Lists: past.Lists.Plus(f.Lists), Watches: past.Watches.Plus(f.Watches)}
			}
			return all
		}
		atLeast := func(when string, before map[string]cluster.Facts) map[string]cluster.Facts {
			t.Helper()
			now := counted()
			for kind, f := range before {
				if now[kind].Lists.Done < f.Lists.Done || now[kind].Watches.Done < f.Watches.Done {
					t.Errorf("%s there are %+v of %s, before %+v", when, now[kind], kind, f)
				}
			}
			return now
		}
		time.Sleep(time.Second)
		before := counted()
		if f := before[translate.KindIngress]; f.Lists.Done == 0 || f.Watches.Done == 0 || f.Objects != 1 {
			t.Fatalf("of Ingresses there are %+v", f)
		}
		x.namespace("shop", "b")
		x.until("")
		gone := atLeast("without a namespace", before)
		if n := gone[translate.KindIngress].Objects; n != 0 {
			t.Errorf("%d Ingresses are followed in no namespace", n)
		}
		x.namespace("shop", "a")
		x.until("shop.i.web.a.test.80")
		again := atLeast("with one again", gone)
		if again[translate.KindIngress].Lists.Done <= gone[translate.KindIngress].Lists.Done {
			t.Errorf("the list of the namespace that came again is not counted: %+v, %+v", again[translate.KindIngress], gone[translate.KindIngress])
		}
	})
}

// TestANamespaceComesAsAWhole: an Ingress is not served before the plugin that guards it is
// there, at the start and later.
func TestANamespaceComesAsAWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const plugins = kongV1 + ofShop + "kongplugins"
		x := provideFrom(t, newMemory(t), func(c *Config, s *server) {
			c.Selectors.Namespaces = "team=a"
			c.Schemas = spec.Schemas{"limit": {Name: "limit"}}
			s.stalled[plugins] = true
			s.put(plugins+"/limit", `{"plugin": "limit"}`)
			s.put("api/v1"+ofShop+"services/web", `{"spec": {"ports": [{"port": 80}]}}`)
			s.put("api/v1/namespaces/shop", `{"metadata": {"labels": {"team": "a"}}}`)
		})
		x.labelled("i", "shop", "a.test", "")
		time.Sleep(20 * time.Second)
		if x.routes() != "none" {
			t.Errorf("at the start, without its plugins: %s", x.routes())
		}
		x.set(func() { x.stalled[plugins] = false })
		x.until("shop.i.web.a.test.80")
		x.namespace("shop", "b")
		x.until("")
		x.set(func() { x.stalled[plugins] = true })
		x.namespace("shop", "a")
		for range 20 {
			time.Sleep(time.Second)
			if x.routes() != "" {
				t.Fatalf("later, without its plugins: %s, closed %v", x.routes(), x.closed())
			}
		}
		x.set(func() { x.stalled[plugins] = false })
		x.until("shop.i.web.a.test.80")
		if len(x.closed()) > 0 {
			t.Errorf("closed: %v", x.closed())
		}
	})
}

// TestNamespacesThatMayNotBeRead: nobody knows what there is to serve.
func TestNamespacesThatMayNotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := provideFrom(t, newMemory(t), func(c *Config, s *server) {
			c.Selectors.Namespaces = "team=a"
			s.denied["api/v1/namespaces"] = true
		})
		time.Sleep(time.Minute)
		if x.routes() != "none" || len(x.Remarks()) != 1 || !strings.Contains(x.Remarks()[0], "namespaces of all namespaces cannot be read") {
			t.Errorf("routes %s, remarks %v", x.routes(), x.Remarks())
		}
		x.set(func() { x.denied["api/v1/namespaces"] = false })
		time.Sleep(time.Minute)
		x.until("")
	})
}

// TestWhatANamespaceToldLastLeavesToo: an object that was deleted, which nobody has taken
// note of when its namespace leaves, is in the state no longer.
func TestWhatANamespaceToldLastLeavesToo(t *testing.T) {
	p, err := New(Config{Connection: connectionOf(t), Class: "keyway", Log: discard(), Selectors: Selectors{Namespaces: "team=a"}})
	if err != nil {
		t.Fatal(err)
	}
	s := p.source(resources()[1], "shop")
	at := &place{sources: []*source{s}, stop: func() {}}
	i := &translate.Ingress{}
	i.Namespace, i.Name = "shop", "i"
	p.places["shop"] = at
	p.state.Put(i)
	keeper{s}.Put(i)
	p.inbox.take()
	keeper{s}.Drop(i)
	p.leave("shop", at)
	if p.state.Object(translate.RefOf(i)) != nil {
		t.Error("it is there")
	}
	if left := p.inbox.take(); len(left) > 0 {
		t.Errorf("told: %v", left)
	}
}

// TestLeases: those who take the same objects have one Lease, and others have another.
func TestLeases(t *testing.T) {
	names := map[string]string{}
	for what, c := range map[string]Config{
		"all":             {Class: "keyway"},
		"another class":   {Class: "edge"},
		"two namespaces":  {Class: "keyway", Namespaces: []string{"shop", "other"}},
		"labels":          {Class: "keyway", Selectors: Selectors{Labels: "team=a"}},
		"other labels":    {Class: "keyway", Selectors: Selectors{Labels: "team=b"}},
		"of namespaces":   {Class: "keyway", Selectors: Selectors{Namespaces: "team=a"}},
		"a namespace a=b": {Class: "keyway", Namespaces: []string{"team=a"}},
	} {
		names[(&Provider{cfg: c}).leaseName()] = what
	}
	if len(names) != 7 || names["keyway-keyway"] != "all" || names["keyway-edge"] != "another class" {
		t.Errorf("%v", slices.Sorted(maps.Keys(names)))
	}
	same := (&Provider{cfg: Config{Class: "keyway", Namespaces: []string{"other", "shop"}}}).leaseName()
	if names[same] != "two namespaces" {
		t.Errorf("the order of namespaces makes another Lease: %s of %v", same, names)
	}
}

// TestSecretsAndConfigMapsAreTakenByTheirLabels: who names one without them is told which
// setting leaves it out.
func TestSecretsAndConfigMapsAreTakenByTheirLabels(t *testing.T) {
	const secret, hint = "api/v1" + ofShop + "secrets/config", "kube_secret_selector (served=yes) leaves those without these labels out"
	x := provide(t, func(c *Config, s *server) {
		c.Selectors.Secrets, c.Selectors.ConfigMaps = "served=yes", "served"
		c.Schemas = spec.Schemas{"limit": {Name: "limit"}}
		s.put(secret, `{"data": {"json": "e30="}}`)
		s.put(kongV1+ofShop+"kongplugins/limit", `{"plugin": "limit", "configFrom": {"secretKeyRef": {"name": "config", "key": "json"}}}`)
		s.put(kongV1+ofShop+"kongconsumers/ann", `{"metadata": {"annotations": {"kubernetes.io/ingress.class": "keyway"}}, "username": "ann", "credentials": ["ann-key"]}`)
		s.put("api/v1"+ofShop+"secrets/ann-key", `{"metadata": {"labels": {"konghq.com/credential": "key-auth"}}}`)
	})
	x.shop()
	x.ingress("i", "a.test", `"konghq.com/plugins": "limit"`)
	poll(t, "both are refused with the setting", func() bool {
		_, problems := x.Current()
		n := 0
		for _, p := range problems {
			if strings.HasSuffix(p.Message, hint) {
				n++
			}
		}
		return n == 2 && len(x.closed()) == 1
	})
	x.server.put(secret, `{"metadata": {"labels": {"served": "yes"}}, "data": {"json": "e30="}}`)
	poll(t, "the config is used", func() bool { return x.routes() != "" && len(x.closed()) == 0 })
	x.server.mu.Lock()
	defer x.server.mu.Unlock()
	for path, selector := range x.queries {
		if plural := path[strings.LastIndex(path, "/")+1:]; plural == "secrets" && !strings.HasSuffix(selector, "served=yes") || plural == "configmaps" && !strings.HasSuffix(selector, "served") {
			t.Errorf("%s were asked for with %q", path, selector)
		}
	}
}
