package kube

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
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
	x := &provided{server: newServer(t), t: t, log: &lines{}}
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

func TestNoDocumentOfHalfACluster(t *testing.T) {
	const plugins = "apis/configuration.konghq.com/v1/kongplugins"
	x := provide(t, func(_ *Config, s *server) { s.denied[plugins] = true })
	x.shop()
	poll(t, "trouble is told", func() bool { return len(x.Remarks()) == 1 })
	for range 3 { // in which all else is listed, and changes
		x.ingress("i", "a.test", "")
		<-time.After(50 * time.Millisecond)
	}
	if doc, _ := x.Current(); doc != nil {
		t.Error("there is a document without the plugins, which could not be read")
	}
	if !strings.Contains(x.Remarks()[0], "kongplugins of all namespaces cannot be read from the API server: ") {
		t.Error(x.Remarks())
	}
	x.server.set(func() { x.denied[plugins] = false })
	x.until("shop.i.web.a.test.80")
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
