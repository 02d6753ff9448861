package integration

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// programmed is what the status of the Gateway infra/ports says of being programmed, of itself
// ("") and of its listeners by name: "False PortUnavailable message".
func (k *kubeServer) programmed() (said map[string]string, version string) {
	k.t.Helper()
	type conditions []struct{ Type, Status, Reason, Message string }
	var g struct {
		Metadata struct{ ResourceVersion string }
		Status   struct {
			Conditions conditions
			Listeners  []struct {
				Name       string
				Conditions conditions
			}
		}
	}
	data, err := json.Marshal(k.do(http.MethodGet, "/apis/gateway.networking.k8s.io/v1/namespaces/infra/gateways/ports", nil))
	if err == nil {
		err = json.Unmarshal(data, &g)
	}
	if err != nil {
		k.t.Fatal(err)
	}
	said = map[string]string{}
	note := func(name string, list conditions) {
		for _, c := range list {
			if c.Type == "Programmed" {
				said[name] = c.Status + " " + c.Reason + " " + c.Message
			}
		}
	}
	note("", g.Status.Conditions)
	for _, l := range g.Status.Listeners {
		note(l.Name, l.Conditions)
	}
	return said, g.Metadata.ResourceVersion
}

// saysProgrammed waits until the status has these words, each "name: beginning ... part".
func (k *kubeServer) saysProgrammed(want map[string][2]string) (version string) {
	k.t.Helper()
	var said map[string]string
	deadline := time.Now().Add(60 * time.Second)
	for {
		right := true
		said, version = k.programmed()
		for name, words := range want {
			right = right && strings.HasPrefix(said[name], words[0]) && strings.Contains(said[name], words[1])
		}
		if right {
			return version
		}
		if time.Now().After(deadline) {
			k.t.Fatalf("the Gateway's status says %q; want %q", said, want)
		}
		<-time.After(50 * time.Millisecond)
	}
}

// TestKubeGatewayPorts: a Gateway and its listeners are Programmed while their ports are open
// on the node, and say why where they are not.
func TestKubeGatewayPorts(t *testing.T) {
	k, dns := startKube(t), startDNS(t)
	dns.a["origin.shop.test."] = "127.0.0.1"
	k.defineGateway("standard")
	k.namespace("shop")
	k.namespace("infra")
	k.controller()
	k.backend("first", saying(t, "first"))
	g := kubeGateway(t, k, dns, nil, options{})
	// Every address of a port of another process is taken.
	held, err := net.Listen("tcp", fmt.Sprintf(":%d", freePort(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = held.Close() }()
	_, busy, _ := net.SplitHostPort(held.Addr().String())
	_, status, _ := net.SplitHostPort(strings.TrimPrefix(g.status, "http://"))
	gateway := gatewayOf("infra", "ports") + `
  - {name: busy, port: %s, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}
`
	k.apply(gatewayClass + fmt.Sprintf(gateway, busy) + "---" +
		strings.Replace(httpRouteOf("r", "rules: [{backendRefs: [{name: first, port: 80}]}]"), "name: edge", "name: ports", 1))
	before := k.saysProgrammed(map[string][2]string{"": {"False PortUnavailable ", "listener busy: "}, "busy": {"False PortUnavailable ", "address already in use"}})
	<-time.After(3 * time.Second) // the node tries again, the writer looks each second
	if said, now := k.programmed(); now != before {
		t.Errorf("the status was written again, version %s after %s: %q", now, before, said)
	}
	// One that is open makes the Gateway programmed; the other two say why they are not.
	k.apply(fmt.Sprintf(gateway+`
  - {name: web, port: %d, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}
  - {name: own, port: %s, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}
`, busy, freePort(t), status))
	k.saysProgrammed(map[string][2]string{
		"": {"True Programmed", ""}, "web": {"True Programmed", ""}, "busy": {"False PortUnavailable ", "address already in use"}, "own": {"False PortUnavailable ", "status_listen"},
	})
	_ = held.Close()
	k.saysProgrammed(map[string][2]string{"": {"True Programmed", ""}, "busy": {"True Programmed", ""}, "own": {"False PortUnavailable ", "status_listen"}})
	g.proxy = "127.0.0.1:" + busy
	g.answers(nil, "any.test", "/x", 200, "first /x")
}
