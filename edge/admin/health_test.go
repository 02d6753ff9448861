package admin

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/keyway-edge/keyway/routing/spec"
)

// fleet is targets by host:port, true for healthy.
type fleet map[string]bool

func (f fleet) Overview(id string) (Overview, bool) {
	o := Overview{Checked: true, Addresses: map[string][]Address{}}
	for name, up := range f {
		a := Address{IP: "10.0.0.1", Port: 8000, Weight: 10, State: "UNHEALTHY"}
		if up {
			a.State, o.Serving = "HEALTHY", true
		}
		o.Addresses[name] = []Address{a}
	}
	return o, id == "u1"
}

func (f fleet) Mark(_, target, address string, healthy bool) bool {
	if address != "" && address != "10.0.0.1:8000" {
		return false
	}
	if target == "10.0.0.1" {
		target = "10.0.0.1:8000"
	}
	if _, ok := f[target]; !ok {
		return false
	}
	f[target] = healthy
	return true
}

func TestHealthOfTargets(t *testing.T) {
	doc := &spec.Document{
		Upstreams: []*spec.Upstream{{Meta: spec.Meta{ID: "u1"}, Name: "u"}},
		Targets: []*spec.Target{
			{Meta: spec.Meta{ID: "t1"}, Target: "10.0.0.1", Weight: 10, Upstream: "u1"},
			{Meta: spec.Meta{ID: "t2"}, Target: "b.test:81", Weight: 10, Upstream: "u1"},
			{Meta: spec.Meta{ID: "t3"}, Target: "b.test:82", Weight: 10, Upstream: "other"},
		},
	}
	f := fleet{"10.0.0.1:8000": true, "b.test:81": true}
	h := Handler(func() Facts { return Facts{NodeID: "n", Document: doc} }, http.NotFoundHandler(), f)
	status := func(method, path string, want int) {
		t.Helper()
		if w := ask(h, method, path); w.Code != want {
			t.Errorf("%s %s: %d %s, want %d", method, path, w.Code, w.Body, want)
		}
	}
	status("PUT", "/upstreams/u/targets/t2/unhealthy", 204)
	var list struct {
		Data []struct {
			ID, Target, Health string
			Data               struct {
				Host      string
				Port      int
				Addresses []struct{ Health, IP string }
				Weight    map[string]int
			}
		}
	}
	if err := json.Unmarshal(ask(h, "GET", "/upstreams/u1/health").Body.Bytes(), &list); err != nil || len(list.Data) != 2 {
		t.Fatalf("%+v %v", list, err)
	}
	one, two := list.Data[0], list.Data[1]
	if one.Health != "HEALTHY" || one.Data.Port != 8000 || one.Data.Weight["available"] != 10 || one.Data.Addresses[0].IP != "10.0.0.1" {
		t.Errorf("%+v", one)
	}
	if two.Health != "UNHEALTHY" || two.Data.Host != "b.test" || two.Data.Weight["unavailable"] != 10 {
		t.Errorf("%+v", two)
	}
	whole := func() (string, bool) {
		var v struct {
			Data struct {
				Health  string
				Details struct{ Healthy bool }
			}
		}
		if err := json.Unmarshal(ask(h, "GET", "/upstreams/u/health?balancer_health=1").Body.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		return v.Data.Health, v.Data.Details.Healthy
	}
	if s, ok := whole(); s != "HEALTHY" || !ok {
		t.Errorf("one of two: %s %v", s, ok)
	}
	status("PUT", "/upstreams/u/targets/10.0.0.1/unhealthy", 204)
	if s, ok := whole(); s != "UNHEALTHY" || ok {
		t.Errorf("none of two: %s %v", s, ok)
	}
	status("PUT", "/upstreams/u1/targets/b.test:81/10.0.0.1:8000/healthy", 204)
	if !f["b.test:81"] || f["10.0.0.1:8000"] {
		t.Errorf("fleet %v", f)
	}
	status("PUT", "/upstreams/u1/targets/b.test:81/10.0.0.7:1/healthy", 404)
	status("PUT", "/upstreams/u/targets/t3/healthy", 404) // another upstream's
	status("PUT", "/upstreams/u/targets/nobody/healthy", 404)
	status("PUT", "/upstreams/v/targets/t1/healthy", 404)
	status("PUT", "/upstreams/u/targets/t1/sick", 404)
	status("GET", "/upstreams/v/health", 404)
	status("POST", "/upstreams/u/health", 405)
	if w := ask(h, "PUT", "/upstreams/u/targets/t1/healthy", "Sec-Fetch-Site: cross-site"); w.Code != 403 {
		t.Errorf("from another site: %d", w.Code)
	}
}
