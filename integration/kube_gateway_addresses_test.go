package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestKubeGatewayAddresses has two Gateways that want one port, each at an address of its
// own: a route of one is not reached through the other.
func TestKubeGatewayAddresses(t *testing.T) {
	k, dns := startKube(t), startDNS(t)
	dns.a["origin.shop.test."] = "127.0.0.1"
	k.defineGateway("standard")
	k.namespace("shop")
	k.namespace("infra")
	k.controller()
	k.backend("first", saying(t, "first"))
	k.backend("second", saying(t, "second"))
	g := kubeGateway(t, k, dns, map[string]string{"KEYWAY_KUBE_GATEWAY_ADDRESSES": "127.0.0.2,127.0.0.3"}, options{})
	port := freePort(t)
	text := gatewayClass
	for gateway, service := range map[string]string{"edge": "first", "other": "second"} {
		text += gatewayOf("infra", gateway) + fmt.Sprintf(" [{name: web, port: %d, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}]\n---\n", port)
		text += strings.Replace(httpRouteOf("to-"+service, "rules: [{backendRefs: [{name: "+service+", port: 80}]}]"), "name: edge", "name: "+gateway, 1)
	}
	k.apply(text)
	for gateway, service := range map[string]string{"edge": "first", "other": "second"} {
		address := ""
		poll(t, gateway+" has an address", 20*time.Second, func() bool {
			var status struct {
				Addresses []struct{ Value string }
			}
			data, _ := json.Marshal(k.do(http.MethodGet, "/apis/gateway.networking.k8s.io/v1/namespaces/infra/gateways/"+gateway, nil)["status"])
			if err := json.Unmarshal(data, &status); err != nil || len(status.Addresses) != 1 {
				return false
			}
			address = status.Addresses[0].Value
			return true
		})
		main := g.proxy
		g.proxy = fmt.Sprintf("%s:%d", address, port)
		for range 4 {
			g.answers(nil, "any.test", "/", 200, service)
		}
		g.proxy = main
	}
}
