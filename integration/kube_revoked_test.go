package integration

import (
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestKubeRightsTakenAway (K-03) takes the account's rights in one of two namespaces away
// while the node serves both: what was read there is served on and told to be stale, the
// other namespace goes on, and what changed meanwhile comes with the rights.
func TestKubeRightsTakenAway(t *testing.T) {
	k, list, env := startAudited(t, "kubernetes: {watchNamespaces: [shop, other]}\n")
	dns, roots := startDNS(t), newAuthority(t, "edge")
	dns.a["origin.shop.test."] = "127.0.0.1"
	f := faultProxy(t, k.addr, k.front(), k.a.pool())
	k.kubeconfig("keyway", "keyway", "https://"+f.addr)
	elsewhere := strings.NewReplacer("namespace: shop", "namespace: other")
	renew := func(namespace, host string) {
		cert, key := encode(t, roots.server(t, host))
		k.put(namespace, "pair", map[string]string{"tls.crt": cert, "tls.key": key})
	}
	renew("shop", "a.test")
	renew("other", "b.test")
	k.backend("web", saying(t, "web"))
	k.apply(elsewhere.Replace("apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {type: ExternalName, externalName: origin.shop.test, ports: [{name: http, port: 80}]}\n---\n"))
	k.apply(ingressOf("i", "a.test", "web", "") + elsewhere.Replace(ingressOf("j", "b.test", "web", "")))
	dir := filepath.Join(t.TempDir(), "data")
	g := kubeGateway(t, k.kubeServer, dns, env, options{dir: dir})
	g.answers(roots, "a.test", "/", 200, "web")
	leaf := func(host string) string {
		cert, err := shownLeaf(g.tls, host, roots.pool())
		if err != nil {
			return err.Error()
		}
		return cert.SerialNumber.String()
	}
	served := leaf("b.test")
	var binding object
	for _, b := range of(list, "RoleBinding") {
		if in(b, "metadata.namespace") == "other" {
			binding = b
		}
	}
	k.do(http.MethodDelete, at(binding), nil)
	poll(t, "the rights are gone", 20*time.Second, func() bool { return !k.may("list", "", "secrets", "other", "") })
	f.set(t, faultRefuse) // a watch that is open goes on until it ends by itself
	f.set(t, faultNone)
	poll(t, "what cannot be read is told", 30*time.Second, func() bool {
		_, status := g.read("/status")
		return strings.Contains(status, "ingresses of other cannot be read") && strings.Contains(status, "forbidden") && !strings.Contains(status, "of shop cannot be read")
	})
	renew("other", "b.test")
	k.apply(elsewhere.Replace(ingressOf("k", "c.test", "web", "")))
	k.apply(ingressOf("l", "d.test", "web", ""))
	g.answers(nil, "d.test", "/", 200, "web") // what is allowed goes on
	renewed := leaf("a.test")
	renew("shop", "a.test")
	poll(t, "a renewed certificate of the other namespace is served", 20*time.Second, func() bool { return leaf("a.test") != renewed })
	if now := leaf("b.test"); now != served {
		t.Errorf("the certificate that was read last is %s, not %s", now, served)
	}
	if code, _ := g.asked(nil, "c.test", "/"); code != 404 {
		t.Errorf("what nobody could read is served: %d", code)
	}
	if g.get("/status/ready") != http.StatusOK {
		t.Error("the node is not ready")
	}
	if code, answer := k.attempt(binding); code > 299 {
		t.Fatalf("%d %s", code, answer)
	}
	poll(t, "what changed meanwhile is served", 60*time.Second, func() bool {
		code, _ := g.asked(nil, "c.test", "/")
		return code != 404 && leaf("b.test") != served
	})
	poll(t, "nothing is stale any more", 60*time.Second, func() bool {
		_, status := g.read("/status")
		return !strings.Contains(status, "cannot be read")
	})
}

// TestKubeRightsMissing (K-03) starts a node whose account may not read two kinds: what they
// give is absent and told, what needs it is closed, all else is served, and with the rights
// it comes.
func TestKubeRightsMissing(t *testing.T) {
	k, list, env := startAudited(t, "")
	dns, roots := startDNS(t), newAuthority(t, "edge")
	dns.a["origin.shop.test."] = "127.0.0.1"
	k.kubeconfig("keyway", "keyway", k.addr)
	var full []object
	for _, role := range of(list, "ClusterRole") {
		rules, _ := role["rules"].([]any)
		var less []any
		for _, rule := range rules {
			r, _ := rule.(object)
			resources, _ := r["resources"].([]any)
			resources = slices.DeleteFunc(slices.Clone(resources), func(v any) bool { return v == "kongplugins" || v == "tlsroutes" })
			less = append(less, object{"apiGroups": r["apiGroups"], "resources": resources, "verbs": r["verbs"]})
		}
		full = append(full, role)
		if code, answer := k.attempt(object{"apiVersion": role["apiVersion"], "kind": "ClusterRole", "metadata": object{"name": in(role, "metadata.name")}, "rules": less}); code > 299 {
			t.Fatalf("%d %s", code, answer)
		}
	}
	poll(t, "the rights are gone", 20*time.Second, func() bool {
		return !k.may("list", "configuration.konghq.com", "kongplugins", "", "") && k.may("list", "configuration.konghq.com", "kongconsumers", "", "")
	})
	cert, key := encode(t, roots.server(t, "a.test"))
	k.put("shop", "pair", map[string]string{"tls.crt": cert, "tls.key": key})
	k.backend("web", saying(t, "web"))
	k.apply("apiVersion: configuration.konghq.com/v1\nkind: KongPlugin\nmetadata: {name: ids, namespace: shop}\nplugin: correlation-id\n---\n" +
		ingressOf("i", "a.test", "web", "") + ingressOf("j", "b.test", "web", "konghq.com/plugins: ids"))
	g := kubeGateway(t, k.kubeServer, dns, env, options{patience: time.Minute})
	g.answers(roots, "a.test", "/", 200, "web")
	g.answers(nil, "b.test", "/", 503, "") // it is to be guarded by what cannot be read
	if g.get("/status/ready") != http.StatusOK {
		t.Error("the node is not ready")
	}
	_, status := g.read("/status")
	for _, kind := range []string{"kongplugins", "tlsroutes"} {
		if !strings.Contains(status, kind+" of all namespaces cannot be read from the API server") {
			t.Errorf("not told of %s: %s", kind, status)
		}
	}
	if n := strings.Count(status, "cannot be read from the API server"); n != 2 {
		t.Errorf("%d kinds are told of", n)
	}
	g.tellsOfKinds(t)
	for _, role := range full {
		if code, answer := k.attempt(role); code > 299 {
			t.Fatalf("%d %s", code, answer)
		}
	}
	poll(t, "what may be read again is served", 90*time.Second, func() bool {
		code, _ := g.asked(nil, "b.test", "/")
		_, status := g.read("/status")
		return code == http.StatusOK && !strings.Contains(status, "cannot be read")
	})
}

// tellsOfKinds expects that metrics tell of two kinds that cannot be read and of all others
// that they can, and that each family is in the table of metrics as it is.
func (g *gateway) tellsOfKinds(t *testing.T) {
	t.Helper()
	_, text := g.read("/metrics")
	types, _ := documented(t)
	is := exposed(text)
	for name, kind := range types {
		if strings.HasPrefix(name, "keyway_kube_") && is[name] != kind {
			t.Errorf("%s is documented as a %s and is %q", name, kind, is[name])
		}
	}
	for name := range is {
		if strings.HasPrefix(name, "keyway_kube_") && types[name] == "" {
			t.Errorf("%s is not documented", name)
		}
	}
	stale := map[string]bool{}
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, `keyway_kube_stale_seconds{kind="`); ok {
			kind, value, _ := strings.Cut(strings.TrimSpace(rest), `"} `)
			stale[kind] = value != "0"
		}
	}
	for kind, bad := range stale {
		if bad != (kind == "KongPlugin" || kind == "TLSRoute") {
			t.Errorf("%s is stale: %v", kind, bad)
		}
	}
	if len(stale) < 20 || !strings.Contains(text, `keyway_kube_objects{kind="Ingress"} 2`) || !strings.Contains(text, `keyway_kube_lists_total{kind="KongPlugin",result="ok"} 0`) {
		t.Errorf("%d kinds; metrics\n%s", len(stale), text)
	}
}

// TestAliveBeforeReady: a node that cannot read its cluster is not given traffic, and is
// not started anew for that.
func TestAliveBeforeReady(t *testing.T) {
	dir := t.TempDir()
	config := file(t, dir, "kubeconfig", fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "c", "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:%d"}}], "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "keyway"}}], "users": [{"name": "u", "user": {"token": "t"}}]}`, freePort(t)))
	status := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	process(t, dir, []string{
		"KEYWAY_KUBERNETES=on", "KEYWAY_KUBE_KUBECONFIG=" + config, "KEYWAY_DATA_DIR=" + filepath.Join(dir, "data"), "KEYWAY_STATUS_LISTEN=" + status, "KEYWAY_ACCESS_LOG=off",
		"KEYWAY_PROXY_LISTEN=127.0.0.1:" + fmt.Sprint(freePort(t)), "KEYWAY_PROXY_TLS_LISTEN=off", "KEYWAY_ADMIN_LISTEN=off", "KEYWAY_MANAGER_LISTEN=off",
	}, binary(t), "serve")
	g := &gateway{t: t, status: "http://" + status}
	poll(t, "it is alive", 20*time.Second, func() bool { return g.get("/status/live") == http.StatusOK })
	if code := g.get("/status/ready"); code != http.StatusServiceUnavailable {
		t.Errorf("without its cluster: %d; expected that it is not ready", code)
	}
}
