package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/edge"
	"github.com/keyway-edge/keyway/edge/control"
	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/routing"
	"github.com/keyway-edge/keyway/routing/upstream"
)

// TestValidateKnowsListeners holds listeners of a document against each other and against the
// settings.
func TestValidateKnowsListeners(t *testing.T) {
	t.Setenv("KEYWAY_STREAM_LISTEN", ":9000, :9443 ssl, :53 udp")
	t.Setenv("KEYWAY_HTTP3", "all")
	for listeners, want := range map[string]string{
		"{name: a, protocol: http, port: 8000}, {name: b, protocol: https, port: 8443}, {name: c, protocol: tcp, port: 9000}, {name: d, protocol: tls, port: 9443}, {name: e, protocol: udp, port: 53}": "",
		"{name: a, protocol: http, port: 8100}":                                                       "status_listen has 127.0.0.1:8100, which is not for traffic",
		"{name: a, protocol: udp, port: 8443}":                                                        "http3 has :8443, which is not for traffic",
		"{name: a, protocol: https, port: 8000}":                                                      "proxy_listen has :8000, which speaks http",
		"{name: a, protocol: http, port: 80}, {name: b, protocol: tcp, port: 80, address: 127.0.0.1}": `listener "a" speaks http on tcp :80`,
	} {
		path := filepath.Join(t.TempDir(), "d.yaml")
		if err := os.WriteFile(path, []byte("_format_version: \"3.0\"\nx_keyway_listeners: ["+listeners+"]\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		out, code, _ := keyway(t, "validate", path)
		if want == "" && (code != exitOK || !strings.Contains(out, "valid")) || want != "" && (code != exitFailed || !strings.Contains(out, want)) {
			t.Errorf("%s: status %d: %s", listeners, code, out)
		}
	}
}

// TestExplainKnowsListeners says which listener a request comes to, and what that decides.
func TestExplainKnowsListeners(t *testing.T) {
	doc := document(t, `
x_keyway_tls_policies: [{name: new, min_version: "1.3"}]
x_keyway_listeners: [{name: web, protocol: http, port: 9000}, {name: shop, protocol: https, port: 9443, tls_policy: new}]
services:
- name: s
  host: up
  routes: [{name: on-web, expression: 'net.dst.port == 9000', priority: 2}, {name: other, paths: [/]}]
`)
	config := &edge.Config{Policy: routing.Strict}
	pools := upstream.NewPools(upstream.Settings{})
	t.Cleanup(pools.Close)
	b := &edge.Builder{Config: config, Kinds: plugins(), Pools: pools, Env: policy.Env{Shared: sharedState()}}
	s, _ := b.Build(nil, edge.Inputs{Document: doc, Now: time.Now()})
	for _, c := range []struct {
		q                       control.Question
		listener, route, policy string
	}{
		{control.Question{URL: "http://a.test:9000/"}, "web (http on :9000)", "on-web", ""},
		{control.Question{URL: "http://a.test/", Port: 9000}, "web (http on :9000)", "on-web", ""},
		{control.Question{URL: "http://a.test:9000/", Port: 8000}, "the document declares none for port 8000", "other", ""},
		{control.Question{URL: "https://a.test:9443/"}, "shop (https on :9443)", "other", "new"},
		{control.Question{URL: "https://a.test/"}, "the document declares none for port 443", "other", "default"},
		{control.Question{URL: "https://a.test:9000/"}, "web (http on :9000), which does not speak https", "on-web", "default"},
	} {
		e, err := explain(s, config, c.q)
		if err != nil || e.Listener != c.listener || e.Route != c.route || e.Certificate.Policy != c.policy {
			t.Errorf("%+v: listener %q, route %q, policy %q, %v", c.q, e.Listener, e.Route, e.Certificate.Policy, err)
		}
	}
	if _, err := explain(s, config, control.Question{URL: "http://a.test/", Port: 70000}); err == nil {
		t.Error("70000 is no port")
	}
}
