package kube

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyway-edge/keyway/routing/provide/kube/translate"
	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/secrets/kube/cluster"
)

// at reads a field of a stored object: "status.conditions.0.reason".
func (s *server) at(path, field string) any {
	s.mu.Lock()
	defer s.mu.Unlock()
	var v any = s.objects[path]
	for name := range strings.SplitSeq(field, ".") {
		switch x := v.(type) {
		case map[string]any:
			v = x[name]
		case []any:
			if v = nil; len(x) > int(name[0]-'0') {
				v = x[name[0]-'0']
			}
		default:
			return nil
		}
	}
	return v
}

func TestStatusAndEvents(t *testing.T) {
	x := provide(t, func(c *Config, s *server) {
		c.Identity, c.PublishService = "replica-1", "keyway/edge"
		c.Schemas = spec.Schemas{"limit": {Name: "limit", Fields: []spec.Schema{{Name: "minute", Type: spec.Number}}}}
		s.put("api/v1/namespaces/keyway/services/edge", `{"spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}, {"hostname": "lb.test"}]}}}`)
		s.put("apis/configuration.konghq.com/v1/namespaces/shop/kongplugins/good", `{"plugin": "limit", "config": {"minute": 5}}`)
		s.put("apis/configuration.konghq.com/v1/namespaces/shop/kongplugins/bad", `{"metadata": {"generation": 3}, "plugin": "limit", "config": {"minute": "many"}}`)
		s.put("apis/configuration.konghq.com/v1/namespaces/shop/kongplugins/idle", `{"plugin": "limit"}`)
		s.put("apis/configuration.konghq.com/v1/namespaces/shop/kongconsumers/ann", `{"metadata": {"annotations": {"kubernetes.io/ingress.class": "keyway"}}, "username": "ann", "credentials": ["gone"]}`)
	})
	x.shop()
	x.ingress("i", "a.test", `"konghq.com/plugins": "good"`)
	x.ingress("j", "b.test", `"konghq.com/plugins": "bad"`)
	const plugins, ingresses = "apis/configuration.konghq.com/v1/namespaces/shop/kongplugins/", networking + "namespaces/shop/ingresses/"
	expect := func(path, field string, want any) {
		t.Helper()
		poll(t, fmt.Sprintf("%s of %s is %v", field, path, want), func() bool { return x.at(path, field) == want })
	}
	expect(ingresses+"i", "status.loadBalancer.ingress.0.ip", "192.0.2.9")
	expect(ingresses+"j", "status.loadBalancer.ingress.1.hostname", "lb.test")
	expect(plugins+"good", "status.conditions.0.status", "True")
	expect(plugins+"bad", "status.conditions.0.reason", "Invalid")
	expect(plugins+"bad", "status.conditions.0.observedGeneration", 3.0)
	const ann = "apis/configuration.konghq.com/v1/namespaces/shop/kongconsumers/ann"
	expect(ann, "status.conditions.0.status", "True")
	expect(ann, "status.conditions.1.status", "False")
	poll(t, "the events are told", func() bool { return len(x.wrote("/events")) == 2 })
	if x.at(plugins+"idle", "status") != nil {
		t.Error("a plugin that nobody uses has a status of ours")
	}
	// Nothing changed: nothing is written, but for the lease.
	before := len(x.wrote("shop"))
	<-time.After(3 * look)
	if now := x.wrote("shop"); len(now) != before {
		t.Errorf("written although nothing changed: %v", now[before:])
	}
	// A condition that is mended is written once.
	x.server.put(plugins+"bad", `{"metadata": {"generation": 4}, "plugin": "limit", "config": {"minute": 6}}`)
	expect(plugins+"bad", "status.conditions.0.status", "True")
	if holder := x.at("apis/coordination.k8s.io/v1/namespaces/keyway/leases/keyway-keyway", "spec.holderIdentity"); holder != "replica-1" {
		t.Errorf("the lease is of %v", holder)
	}
}

func TestWhatMayNotBeWrittenKeepsNothingElse(t *testing.T) {
	const kong = "apis/configuration.konghq.com/v1/"
	x := provide(t, func(c *Config, s *server) {
		c.Identity = "replica-1"
		s.denied[kong+"kongconsumers/ann/status"] = true
		for _, name := range []string{"ann", "bob"} {
			s.put(kong+"namespaces/shop/kongconsumers/"+name, `{"metadata": {"annotations": {"kubernetes.io/ingress.class": "keyway"}}, "username": "`+name+`", "credentials": ["gone"]}`)
		}
	})
	x.shop()
	poll(t, "the other status is written", func() bool {
		return x.at(kong+"namespaces/shop/kongconsumers/bob", "status.conditions.0.status") == "True"
	})
	poll(t, "the events are told", func() bool { return len(x.wrote("/events")) == 2 })
	<-time.After(2 * look)
	if n := x.log.count("writing to the API server failed"); n != 1 {
		t.Errorf("the failure is told %d times", n)
	}
	if n := x.refusals("kongconsumers/ann/status"); n != 1 {
		t.Errorf("what may not be written was tried %d times within seconds", n)
	}
}

// TestWhatTheServerDoesNotTakeKeepsNothingElse: a status that it calls invalid, which it will
// the next time.
func TestWhatTheServerDoesNotTakeKeepsNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const kong = "apis/configuration.konghq.com/v1/"
		x := provideFrom(t, newMemory(t), func(c *Config, s *server) {
			c.Identity = "replica-1"
			s.invalid[kong+"kongconsumers/ann/status"] = true
			for _, name := range []string{"ann", "bob"} {
				s.put(kong+"namespaces/shop/kongconsumers/"+name, `{"metadata": {"annotations": {"kubernetes.io/ingress.class": "keyway"}}, "username": "`+name+`", "credentials": ["gone"]}`)
			}
		})
		time.Sleep(30 * time.Second)
		if got := x.at(kong+"namespaces/shop/kongconsumers/bob", "status.conditions.0.status"); got != "True" {
			t.Errorf("the other status is %v", got)
		}
		if n := len(x.wrote("/events")); n != 2 {
			t.Errorf("%d events are told", n)
		}
		if n, told := x.refusals("kongconsumers/ann/status"), x.log.count("writing to the API server failed"); n != 1 || told != 1 {
			t.Errorf("what is not taken was tried %d times within seconds, and told %d times", n, told)
		}
		x.set(func() { clear(x.invalid) })
		time.Sleep(2 * refusedPause)
		if got := x.at(kong+"namespaces/shop/kongconsumers/ann", "status.conditions.0.status"); got != "True" {
			t.Errorf("later it is taken, and the status is %v", got)
		}
	})
}

// TestWhatOthersWriteMeanwhileStays: a condition of another controller that comes between a
// look and a write.
func TestWhatOthersWriteMeanwhileStays(t *testing.T) {
	const (
		ann    = kongV1 + ofShop + "kongconsumers/ann"
		object = `{"metadata": {"uid": %q, "annotations": {"kubernetes.io/ingress.class": "keyway"}}, "username": "ann"%s}`
		theirs = `, "status": {"conditions": [{"type": "Theirs", "status": "True", "reason": "Theirs", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}`
	)
	synctest.Test(t, func(t *testing.T) {
		x := provideFrom(t, newMemory(t), func(c *Config, s *server) {
			c.Identity = "replica-1"
			s.put(ann, fmt.Sprintf(object, "1", ""))
			s.meantime = func(string) {
				var o map[string]any
				if err := json.Unmarshal(fmt.Appendf(nil, object, "1", theirs), &o); err != nil {
					t.Error(err)
				}
				s.store(ann, o)
			}
		})
		time.Sleep(10 * time.Second)
		if first, second := x.at(ann, "status.conditions.0.type"), x.at(ann, "status.conditions.1.type"); first != "Theirs" || second != "Programmed" {
			t.Errorf("conditions %v and %v", first, second)
		}
	})
}

// TestManyThatAreToldOrRefusedLeavePlace: with more of them than one look writes, all else is
// written too.
func TestManyThatAreToldOrRefusedLeavePlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ann, many = "apis/configuration.konghq.com/v1/namespaces/shop/kongconsumers/ann", mostWrites + 20
		x := provideFrom(t, newMemory(t), func(c *Config, s *server) {
			c.Identity, c.PublishAddresses = "replica-1", []translate.Address{{IP: "192.0.2.9"}}
			for i := range many {
				s.denied[fmt.Sprintf("%singresses/i%d/status", networking, i)] = true
			}
			s.put(ann, `{"metadata": {"annotations": {"kubernetes.io/ingress.class": "keyway"}}, "username": "ann"}`)
		})
		x.shop()
		for i := range many {
			x.ingress(fmt.Sprintf("i%d", i), "a.test", `"konghq.com/protocols": "htp"`)
		}
		time.Sleep(2 * time.Minute)
		if got := x.at(ann, "status.conditions.0.status"); got != "True" {
			t.Errorf("the status of the consumer is %v", got)
		}
		if n := len(x.wrote("/events")); n != many {
			t.Errorf("%d of %d events are told", n, many)
		}
	})
}

func TestGatewayStatus(t *testing.T) {
	const (
		gateway = "apis/gateway.networking.k8s.io/v1/"
		edge    = gateway + "namespaces/infra/gateways/edge"
		of      = gateway + "namespaces/shop/httproutes/r"
		another = `{"parentRef": {"name": "other"}, "controllerName": "another.dev/gateway", "conditions": [{"type": "Accepted", "status": "True", "reason": "Theirs", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}`
	)
	x := provide(t, func(c *Config, s *server) {
		c.Identity, c.GatewayControllers, c.PublishAddresses = "replica-1", []string{"keyway.dev/gateway"}, []translate.Address{{IP: "192.0.2.9"}}
		s.put(gateway+"gatewayclasses/keyway", `{"metadata": {"generation": 1}, "spec": {"controllerName": "keyway.dev/gateway"}}`)
		s.put(edge, `{"metadata": {"generation": 5}, "spec": {"gatewayClassName": "keyway", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "Selector", "selector": {"matchLabels": {"team": "a"}}}}},
			{"name": "https", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "pair"}]}}]}}`)
		s.put(of, `{"metadata": {"generation": 2}, "spec": {"parentRefs": [{"name": "other"}, {"name": "edge", "namespace": "infra"}], "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]}, "status": {"parents": [`+another+`]}}`)
		s.put("api/v1/namespaces/shop", `{"metadata": {"labels": {"team": "b"}}}`)
	})
	x.shop()
	expect := func(path, field string, want any) {
		t.Helper()
		poll(t, fmt.Sprintf("%s of %s is %v", field, path, want), func() bool { return x.at(path, field) == want })
	}
	expect(gateway+"gatewayclasses/keyway", "status.conditions.0.reason", "Accepted")
	expect(edge, "status.addresses.0.value", "192.0.2.9")
	expect(edge, "status.listeners.1.conditions.2.reason", "InvalidCertificateRef")
	expect(of, "status.parents.1.conditions.0.reason", "NotAllowedByListeners")
	x.server.put("api/v1/namespaces/shop", `{"metadata": {"labels": {"team": "a"}}}`)
	expect(of, "status.parents.1.conditions.0.status", "True")
	expect(of, "status.parents.1.conditions.0.observedGeneration", 2.0)
	expect(of, "status.parents.0.conditions.0.reason", "Theirs")
	expect(edge, "status.listeners.0.attachedRoutes", 1.0)
	x.until("shop.i.web.a.test.80 httproute.shop.r.0.0._")
	// A certificate that was missing comes.
	x.server.put("api/v1/namespaces/infra/secrets/pair", `{"data": {"tls.crt": "QQ==", "tls.key": "QQ=="}}`)
	poll(t, "the Secret is looked at", func() bool {
		text, _ := x.at(edge, "status.listeners.1.conditions.2.message").(string)
		return strings.Contains(text, "infra/pair: expected a certificate in tls.crt and the key that belongs to it")
	})
	// Nothing changed: nothing is written, but for the lease.
	before := len(x.wrote("gateway.networking"))
	<-time.After(3 * look)
	if now := x.wrote("gateway.networking"); len(now) != before {
		t.Errorf("written although nothing changed: %v", now[before:])
	}
	x.remove(of)
	expect(edge, "status.listeners.0.attachedRoutes", 0.0)
}

func TestOneReplicaLeads(t *testing.T) {
	s := newServer(t)
	cfg := Config{Log: discard()}
	cfg.Connection.Kubeconfig = s.kubeconfig()
	base, client, own, err := cfg.Connection.Connect()
	if err != nil {
		t.Fatal(err)
	}
	replica := func(name string) *elector {
		return &elector{api: &cluster.API{Base: base, Client: client}, path: "apis/coordination.k8s.io/v1/namespaces/" + own + "/leases", name: "l", own: name, log: cfg.Log}
	}
	a, b := replica("a"), replica("b")
	now := time.Now()
	if !a.try(t.Context(), now) || b.try(t.Context(), now) {
		t.Fatal("the first leads, the second does not")
	}
	for range 10 { // renewed, it stays
		now = now.Add(leaseRenew)
		if !a.try(t.Context(), now) || b.try(t.Context(), now) {
			t.Fatal("a lease that is renewed changed hands")
		}
	}
	// One that is not is over after a while, and who had it knows before.
	s.set(func() { s.refuse = http.StatusServiceUnavailable })
	for range 4 {
		now = now.Add(leaseRenew)
		a.try(t.Context(), now)
	}
	if a.leads {
		t.Error("who cannot renew a lease leads on")
	}
	s.set(func() { s.refuse = 0 })
	if b.try(t.Context(), now) { // it sees the lease unchanged since it looked last
		a.leads = false
	}
	now = now.Add(leaseLasts)
	if !b.try(t.Context(), now) || a.try(t.Context(), now) {
		t.Error("a lease that is over is not taken")
	}
	if err := b.leave(t.Context()); err != nil || !a.try(t.Context(), now) {
		t.Errorf("a lease that was given back is not taken: %v", err)
	}
}

func TestConditionsStayWhereNothingChanged(t *testing.T) {
	old := []translate.Condition{{Type: "Other", Status: "True"}, {Type: "Programmed", Status: "True", Reason: "Programmed", LastTransitionTime: "2026-01-01T00:00:00Z"}}
	same := translate.Condition{Type: "Programmed", Status: "True", Reason: "Programmed"}
	if got := conditions(old, []translate.Condition{same}); got != nil {
		t.Errorf("%+v", got)
	}
	same.Message = "changed"
	got := conditions(old, []translate.Condition{same})
	list, _ := got["conditions"].([]translate.Condition)
	if len(list) != 2 || list[0].Type != "Other" || list[1].LastTransitionTime != "2026-01-01T00:00:00Z" || !slices.Contains([]string{"changed"}, list[1].Message) {
		t.Errorf("%+v", list)
	}
}

func TestNoticesAreToldOnce(t *testing.T) {
	x := provide(t, func(c *Config, _ *server) { c.Identity = "replica-1" })
	x.shop()
	n := Notice{APIVersion: "cert-manager.io/v1", Kind: "Certificate", Namespace: "shop", Name: "web", UID: "u", Reason: "IssuanceFailing", Message: "the issuer says no"}
	x.Notify([]Notice{n})
	poll(t, "the notice is told", func() bool { return len(x.wrote("/events")) == 1 })
	x.Notify([]Notice{n})
	<-time.After(3 * look)
	if all := x.wrote("/events"); len(all) != 1 {
		t.Errorf("told again: %v", all)
	}
	n.Message = "it says no again"
	x.Notify([]Notice{n})
	poll(t, "what is new is told", func() bool { return len(x.wrote("/events")) == 2 })
}
