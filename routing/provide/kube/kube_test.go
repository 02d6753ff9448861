package kube

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyway-edge/keyway/routing/spec"
	secretskube "github.com/keyway-edge/keyway/secrets/kube"
)

const (
	networking = "apis/networking.k8s.io/v1/"
	ofShop     = "/namespaces/shop/"
)

// provided is a Provider that runs against a server.
type provided struct {
	*Provider
	*server
	t   *testing.T
	log *lines
}

// lines is a log.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) count(part string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), part)
}

func provide(t *testing.T, change func(*Config, *server)) *provided {
	t.Helper()
	return provideFrom(t, newServer(t), change)
}

func provideFrom(t *testing.T, s *server, change func(*Config, *server)) *provided {
	t.Helper()
	x := &provided{server: s, t: t, log: &lines{}}
	cfg := Config{
		Connection: secretskube.Config{Kubeconfig: x.kubeconfig()}, Class: "keyway", Controllers: []string{"keyway.dev/ingress"},
		Vault: "node.kubernetes", Schemas: spec.Schemas{}, Log: slog.New(slog.NewTextHandler(x.log, nil)),
	}
	if change != nil {
		change(&cfg, x.server)
	}
	var err error
	if x.Provider, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	if s.http == nil {
		x.Provider.api.Client = &http.Client{Transport: s}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- x.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return x
}

func (x *provided) shop() {
	x.server.put("api/v1"+ofShop+"services/web", `{"spec": {"ports": [{"port": 80}]}}`)
	x.slice("10.1.0.1")
	x.ingress("i", "a.test", "")
}

func (x *provided) slice(address string) {
	x.server.put("apis/discovery.k8s.io/v1"+ofShop+"endpointslices/web-1", fmt.Sprintf(`{"metadata": {"labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": [{"addresses": [%q]}]}`, address))
}

func (x *provided) ingress(name, host, annotations string) {
	x.server.put(networking+"namespaces/shop/ingresses/"+name, fmt.Sprintf(`{"metadata": {"annotations": {%s}}, "spec": {"ingressClassName": "keyway", "rules": [{"host": %q, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"number": 80}}}}]}}]}}`, annotations, host))
}

// hosts are the routes' expressions as one text, "none" before there is a document.
func (x *provided) routes() string {
	doc, _ := x.Current()
	if doc == nil {
		return "none"
	}
	var list []string
	for _, r := range doc.Routes {
		list = append(list, r.Name)
	}
	return strings.Join(list, " ")
}

func (x *provided) target() string {
	doc, _ := x.Current()
	if doc == nil || len(doc.Targets) != 1 {
		return ""
	}
	return doc.Targets[0].Target
}

func (x *provided) until(want string) {
	x.t.Helper()
	poll(x.t, "routes "+want+", not "+x.routes(), func() bool { return x.routes() == want })
}

func TestProviderFollowsTheCluster(t *testing.T) {
	x := provide(t, func(_ *Config, s *server) {
		s.unknown["apis/configuration.konghq.com/v1alpha1/ingressclassparameterses"] = true
	})
	x.until("")
	x.shop()
	x.until("shop.i.web.a.test.80")
	poll(t, "the endpoint is a target", func() bool { return x.target() == "10.1.0.1:8080" })
	x.slice("10.1.0.2")
	poll(t, "the other endpoint is", func() bool { return x.target() == "10.1.0.2:8080" })
	x.ingress("j", "b.test", `"konghq.com/protocols": "htp"`)
	x.until("shop.i.web.a.test.80 shop.j.web.b.test.80")
	if _, problems := x.Current(); len(problems) != 1 || problems[0].Name != "shop/j" || problems[0].Entity != "Ingress" || problems[0].Field != "metadata.annotations[konghq.com/protocols]" {
		t.Errorf("problems %v", problems)
	}
	poll(t, "the refused object is told", func() bool { return x.log.count("metadata.annotations[konghq.com/protocols]") == 1 })
	x.remove(networking + "namespaces/shop/ingresses/i")
	x.remove(networking + "namespaces/shop/ingresses/j")
	x.until("")
}

// TestOneObjectOfAnotherShapeStopsNoOther: definitions of kinds let through what is not read
// here: any config of a KongVault, and in a status whatever somebody may write there.
func TestOneObjectOfAnotherShapeStopsNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := provideFrom(t, newMemory(t), func(c *Config, s *server) {
			c.Schemas = spec.Schemas{"limit": {Name: "limit"}}
			s.put("apis/configuration.konghq.com/v1alpha1/kongvaults/v", `{"metadata": {"annotations": {"kubernetes.io/ingress.class": "keyway"}}, "spec": {"backend": "env", "prefix": "shared", "config": ["x"]}}`)
			s.put(kongV1+ofShop+"kongplugins/limit", `{"plugin": "limit", "status": {"conditions": "good"}}`)
		})
		x.shop()
		x.ingress("i", "a.test", `"konghq.com/plugins": "limit"`)
		time.Sleep(10 * time.Second)
		x.until("shop.i.web.a.test.80")
		doc, problems := x.Current()
		if len(doc.Plugins) != 1 || len(x.closed()) > 0 || len(doc.Vaults) > 0 {
			t.Errorf("plugins %v, closed %v, vaults %v", doc.Plugins, x.closed(), doc.Vaults)
		}
		if len(problems) != 1 || problems[0].Entity != "KongVault" || problems[0].Field != "spec.config" {
			t.Errorf("problems %v", problems)
		}
		// Seen by a watch.
		x.server.put(kongV1+ofShop+"kongplugins/limit", `{"plugin": "limit", "instance_name": "next", "status": ["good"]}`)
		time.Sleep(10 * time.Second)
		if doc, _ := x.Current(); len(doc.Plugins) != 1 || doc.Plugins[0].InstanceName != "next" || len(x.Remarks()) > 0 {
			t.Errorf("plugins %v, remarks %v", doc.Plugins, x.Remarks())
		}
	})
}

func TestProviderOutlivesTheServer(t *testing.T) {
	x := provide(t, nil)
	x.shop()
	x.until("shop.i.web.a.test.80")
	for _, status := range []int{http.StatusForbidden, http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		x.server.set(func() { x.refuse = status; x.wake() })
		poll(t, "trouble is told", func() bool { return len(x.Remarks()) > 0 })
		x.cut()
		if x.routes() != "shop.i.web.a.test.80" {
			t.Errorf("with status %d the routes are %s", status, x.routes())
		}
		name := fmt.Sprintf("during-%d", status)
		x.ingress(name, "b.test", "")
		x.server.set(func() { x.refuse = 0 })
		x.until("shop." + name + ".web.b.test.80 shop.i.web.a.test.80")
		x.remove(networking + "namespaces/shop/ingresses/" + name)
		x.until("shop.i.web.a.test.80")
		poll(t, "the trouble is over", func() bool { return len(x.Remarks()) == 0 })
	}
}

func TestProviderListsAgainAfterAnOldVersion(t *testing.T) {
	x := provide(t, nil)
	x.shop()
	x.until("shop.i.web.a.test.80")
	x.server.set(func() { x.oldest = 1 << 30; x.refuse = http.StatusServiceUnavailable; x.wake() }) // what happens now is in no watch
	poll(t, "trouble is told", func() bool { return len(x.Remarks()) > 0 })
	x.remove(networking + "namespaces/shop/ingresses/i")
	x.ingress("k", "c.test", "")
	x.server.set(func() { x.refuse = 0; x.events = nil; x.oldest = x.version })
	x.until("shop.k.web.c.test.80")
}

func TestProviderWatchesItsNamespacesOnly(t *testing.T) {
	x := provide(t, func(c *Config, s *server) { c.Namespaces = []string{"shop", "other"} })
	x.shop()
	x.until("shop.i.web.a.test.80")
	x.server.mu.Lock()
	defer x.server.mu.Unlock()
	for path := range x.lists {
		if !strings.Contains(path, "/namespaces/shop/") && !strings.Contains(path, "/namespaces/other/") && !strings.HasSuffix(path, "/ingressclasses") && !strings.HasSuffix(path, "/gatewayclasses") && path != "api/v1/namespaces" && !strings.HasSuffix(path, "/kongvaults") && !strings.HasSuffix(path, "/kongclusterplugins") {
			t.Errorf("%s was listed", path)
		}
	}
}

// TestAKindThatMayNotBeRead: what it gives is absent, what needs it is closed, and all else
// is served; but not before it is sure that the server knows its rules.
func TestAKindThatMayNotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const plugins, shopPlugins = "apis/configuration.konghq.com/v1/kongplugins", "apis/configuration.konghq.com/v1/namespaces/shop/kongplugins/"
		x := provideFrom(t, newMemory(t), func(c *Config, s *server) {
			c.Schemas = spec.Schemas{"limit": {Name: "limit"}}
			s.denied[plugins] = true
			s.put(shopPlugins+"limit", `{"plugin": "limit"}`)
		})
		x.shop()
		x.ingress("j", "b.test", `"konghq.com/plugins": "limit"`)
		time.Sleep(rulesKnown - time.Second)
		if doc, _ := x.Current(); doc != nil {
			t.Error("there is a document without the plugins, of which the server may not know yet who may read them")
		}
		time.Sleep(2 * rulesKnown)
		x.until("shop.i.web.a.test.80 shop.j.web.b.test.80")
		closed := func() (list []string) {
			doc, _ := x.Current()
			for _, r := range doc.Routes {
				if r.Closed != "" {
					list = append(list, r.Name)
				}
			}
			return list
		}
		if list := closed(); !slices.Equal(list, []string{"shop.j.web.b.test.80"}) {
			t.Errorf("closed: %v", list)
		}
		if r := x.Remarks(); len(r) != 1 || !strings.Contains(r[0], "kongplugins of all namespaces cannot be read from the API server: ") || !strings.HasSuffix(r[0], "; none was read yet") {
			t.Error(r)
		}
		if n := x.log.count("what they give is absent"); n != 1 {
			t.Errorf("told %d times", n)
		}
		x.server.set(func() { x.denied[plugins] = false })
		time.Sleep(40 * time.Second)
		if list := closed(); len(list) != 0 || len(x.Remarks()) != 0 {
			t.Errorf("closed %v, remarks %v", list, x.Remarks())
		}
		x.server.set(func() { x.denied[plugins] = true }) // what was read stays
		x.endWatches()
		time.Sleep(40 * time.Second)
		if list := closed(); len(list) != 0 || len(x.Remarks()) != 1 || !strings.HasSuffix(x.Remarks()[0], "; what was read last is served") {
			t.Errorf("closed %v, remarks %v", list, x.Remarks())
		}
	})
}

// TestNoDocumentOfHalfACluster: a server that refuses everything is one that starts, and a
// kind of which one object may guard all others is waited for.
func TestNoDocumentOfHalfACluster(t *testing.T) {
	const guards = "apis/configuration.konghq.com/v1/kongclusterplugins"
	for name, refuse := range map[string]func(*server, bool){
		"all":                     func(s *server, yes bool) { s.refuse = map[bool]int{true: http.StatusForbidden}[yes] },
		"plugins for the cluster": func(s *server, yes bool) { s.denied[guards] = yes },
	} {
		synctest.Test(t, func(t *testing.T) {
			x := provideFrom(t, newMemory(t), func(_ *Config, s *server) { refuse(s, true) })
			x.shop()
			time.Sleep(time.Minute)
			if doc, _ := x.Current(); doc != nil {
				t.Errorf("%s: there is a document without what could not be read", name)
			}
			x.server.set(func() { refuse(x.server, false) })
			time.Sleep(40 * time.Second)
			x.until("shop.i.web.a.test.80")
		})
	}
}

// TestAKindThatIsNotThereMayNotBeRead: the server refuses before it looks whether there is
// such a kind, which is then no trouble.
func TestAKindThatIsNotThereMayNotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const guards = "apis/configuration.konghq.com/v1/kongclusterplugins"
		x := provideFrom(t, newMemory(t), func(_ *Config, s *server) { s.denied[guards], s.unknown[guards] = true, true })
		x.shop()
		x.until("shop.i.web.a.test.80")
		if r := x.Remarks(); len(r) != 0 {
			t.Error(r)
		}
		x.server.set(func() { x.unknown[guards] = false })
		time.Sleep(time.Minute)
		if r := x.Remarks(); len(r) != 1 {
			t.Errorf("now it is there: %v", r)
		}
	})
}

// TestOnlySecretsThatAreNeededAreRead: those with labels, and those that configs of
// plugins are in, for as long as they are.
func TestOnlySecretsThatAreNeededAreRead(t *testing.T) {
	x := provide(t, func(c *Config, s *server) {
		c.Schemas = spec.Schemas{"limit": {Name: "limit", Fields: []spec.Schema{{Name: "minute", Type: spec.Number}}}}
		s.put("api/v1/namespaces/shop/secrets/unused", `{"data": {"key": "eA=="}}`)
		s.put("api/v1/namespaces/shop/secrets/config", `{"data": {"json": "eyJtaW51dGUiOiA1fQ=="}}`)
		s.put("apis/configuration.konghq.com/v1/namespaces/shop/kongplugins/limit", `{"plugin": "limit", "configFrom": {"secretKeyRef": {"name": "config", "key": "json"}}}`)
	})
	x.shop()
	x.ingress("i", "a.test", `"konghq.com/plugins": "limit"`)
	minute := func() any {
		if doc, _ := x.Current(); doc != nil && len(doc.Plugins) == 1 {
			return doc.Plugins[0].Config["minute"]
		}
		return nil
	}
	poll(t, "the config is used", func() bool { return minute() == 5.0 })
	x.server.put("api/v1/namespaces/shop/secrets/config", `{"data": {"json": "eyJtaW51dGUiOiA2fQ=="}}`)
	poll(t, "the changed config is used", func() bool { return minute() == 6.0 })
	x.server.put("apis/configuration.konghq.com/v1/namespaces/shop/kongplugins/limit", `{"plugin": "limit", "config": {"minute": 7}}`)
	poll(t, "the config of its own is used", func() bool { return minute() == 7.0 })
	x.server.mu.Lock()
	defer x.server.mu.Unlock()
	for q := range x.selected {
		if q != "" && q != "metadata.name=config" {
			t.Errorf("Secrets with %s were asked for", q)
		}
	}
	if x.selected["metadata.name=config"] == 0 || x.selected[""] > 0 {
		t.Errorf("Secrets were asked for as %v", x.selected)
	}
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
