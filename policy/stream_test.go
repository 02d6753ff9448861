package policy

import (
	"testing"

	"github.com/keyway-edge/keyway/routing/spec"
)

// TestStreamChains has the plugins run for streams that name the protocol, and no
// others: most know requests only.
func TestStreamChains(t *testing.T) {
	route := &spec.Route{Meta: spec.Meta{ID: "r"}, Protocols: []string{"tcp", "tls", "udp"}}
	w := newWorld(
		plugin("cors", "requests", ""), plugin("acl", "global", "protocols=http,tcp,tls"),
		plugin("rate-limiting", "own", "route=r protocols=udp"), plugin("prometheus", "passed", "protocols=tls_passthrough"),
	)
	c := w.compile(nil)
	for protocol, want := range map[string]string{
		"tcp": "access global", "tls": "access global", "udp": "access own", "tls_passthrough": "access passed",
	} {
		got := &Context{X: request(protocol).X}
		ch := c.Stream(route, serviceS, protocol)
		if ch.Access(got); ch.Closed() != nil {
			t.Errorf("%s: %v", protocol, ch.Closed())
		}
		ran := ""
		for v := range got.ResponseFields.Values("X-Trace") {
			ran += v
		}
		if ran != want {
			t.Errorf("%s: %q, want %q", protocol, ran, want)
		}
	}
	if c.Chain(routeR, serviceS).walks[0] == nil || run(c.Chain(routeR, serviceS), request("https")) == run(c.Chain(routeR, serviceS), request("http")) {
		t.Error("a plugin for tcp and http runs for https")
	}
	broken := newWorld(plugin("acl", "broken", "protocols=tcp")).compile(nil)
	if broken.Stream(route, serviceS, "tcp").Closed() == nil || broken.Stream(route, serviceS, "udp").Closed() != nil {
		t.Error("exactly the streams of a broken plugin are closed")
	}
}
