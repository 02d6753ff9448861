package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// labelledIngress is an Ingress with a label, of a namespace; a KongPlugin without one guards it.
func labelledIngress(namespace, name, host, team string) string {
	text := strings.Replace(ingressOf(name, host, "web", "konghq.com/plugins: guard"), "annotations:", "labels: {team: "+team+"}, annotations:", 1)
	return strings.Replace(text, "namespace: shop", "namespace: "+namespace, 1)
}

// listing is how objects were listed or watched.
type listing struct{ plural, namespace, selector string }

// listings are those of an account.
func (k audited) listings(account string) map[listing]bool {
	k.t.Helper()
	text, err := os.ReadFile(k.log)
	if err != nil {
		k.t.Fatal(err)
	}
	all := map[listing]bool{}
	for line := range bytes.Lines(text) {
		var e struct {
			Verb, RequestURI string
			User             struct{ Username string }
		}
		if json.Unmarshal(line, &e) != nil || e.User.Username != account || e.Verb != "list" && e.Verb != "watch" { // the last line may be half written
			continue
		}
		u, err := url.Parse(e.RequestURI)
		if err != nil {
			k.t.Fatal(err)
		}
		_, namespace, _ := strings.Cut(path.Dir(u.Path), "/namespaces/")
		all[listing{path.Base(u.Path), namespace, u.Query().Get("labelSelector")}] = true
	}
	return all
}

// TestKubeSelectors runs two nodes of one class that take different objects, each with what
// the chart makes for it. An Ingress goes from one to the other with its label, and its
// status with it; a namespace comes and goes with its own. Nothing that is not taken is
// asked for.
func TestKubeSelectors(t *testing.T) {
	dns, roots := startDNS(t), newAuthority(t, "edge")
	dns.a["origin.shop.test."] = "127.0.0.1"
	k, _, env := startAudited(t, "kubernetes: {labelSelector: {matchLabels: {team: a}}, namespaceSelector: {matchLabels: {edge: public}}}\n")
	list := chart(t, "fullnameOverride: second\nkubernetes: {labelSelector: {matchExpressions: [{key: team, operator: In, values: [b, c]}]}, secretSelector: {matchLabels: {served: 'yes'}}}\n")
	for _, o := range list {
		if kind := o["kind"].(string); kind == "ServiceAccount" || strings.Contains(kind, "Role") {
			if code, answer := k.attempt(o); code > 299 {
				t.Fatalf("%s: %d %s", at(o), code, answer)
			}
		}
	}
	more := settingsOf(t, list)
	more["KEYWAY_KUBE_KUBECONFIG"], more["KEYWAY_KUBE_PUBLISH_ADDRESS"] = filepath.Join(k.dir, "second"), "192.0.2.8"
	if err := os.Rename(k.kubeconfig("keyway", "second", k.addr), more["KEYWAY_KUBE_KUBECONFIG"]); err != nil {
		t.Fatal(err)
	}
	k.kubeconfig("keyway", "keyway", k.addr)
	label := func(namespace, edge string) {
		k.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: " + namespace + ", labels: {edge: " + edge + "}}\n")
	}
	label("shop", "public")
	label("other", "internal")
	const guard = "apiVersion: configuration.konghq.com/v1\nkind: KongPlugin\nmetadata: {name: guard, namespace: shop}\nplugin: request-termination\nconfig: {status_code: 418, message: guarded}\n---\n"
	k.backend("web", saying(t, "web"))
	k.apply(guard + strings.ReplaceAll(guard, "namespace: shop", "namespace: other"))
	k.apply("apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: other}\nspec: {ports: [{name: http, port: 80}]}\n")
	k.apply(labelledIngress("shop", "i", "a.test", "a") + labelledIngress("shop", "theirs", "theirs.test", "d") + labelledIngress("other", "j", "b.test", "a"))
	first, second := kubeGateway(t, k.kubeServer, dns, env, options{}), kubeGateway(t, k.kubeServer, dns, more, options{})
	taken := func(by, not *gateway, name, host, address string) {
		t.Helper()
		by.answers(nil, host, "/", http.StatusTeapot, "guarded")
		not.answers(nil, host, "/", http.StatusNotFound, "")
		poll(t, "the status of "+name+" says "+address, 30*time.Second, func() bool {
			return in(k.do(http.MethodGet, "/apis/networking.k8s.io/v1/namespaces/shop/ingresses/"+name, nil), "status.loadBalancer.ingress.0.ip") == address
		})
	}
	taken(first, second, "i", "a.test", "192.0.2.7")
	k.apply(labelledIngress("shop", "i", "a.test", "b"))
	taken(second, first, "i", "a.test", "192.0.2.8")
	k.labelledPair(second, roots)
	followed := func(g *gateway, n int) bool {
		_, text := g.read("/metrics")
		return strings.Contains(text, fmt.Sprintf("\nkeyway_kube_objects{kind=\"Ingress\"} %d\n", n))
	}
	if !followed(first, 0) || !followed(second, 1) {
		t.Error("objects are followed that are not taken")
	}
	first.answers(nil, "b.test", "/", http.StatusNotFound, "")
	label("other", "public")
	first.answers(nil, "b.test", "/", http.StatusTeapot, "guarded")
	label("other", "internal")
	first.answers(nil, "b.test", "/", http.StatusNotFound, "")
	label("other", "public")
	first.answers(nil, "b.test", "/", http.StatusTeapot, "guarded")
	for _, g := range []*gateway{first, second} {
		g.answers(nil, "theirs.test", "/", http.StatusNotFound, "")
		if !g.leads() {
			t.Error("a node does not write the status of what it takes")
		}
	}
	k.askedForWhatIsTaken(map[string]func(listing) bool{
		"keyway": func(l listing) bool {
			if l.plural == "namespaces" {
				return l.selector == "edge=public"
			}
			return (l.namespace == "shop" || l.namespace == "other") && (l.selector == "team=a") == (l.plural == "ingresses")
		},
		"second": func(l listing) bool { return (l.selector == "team in (b,c)") == (l.plural == "ingresses") },
	})
}

// labelledPair gives a.test a certificate, in a Secret that a node takes once it has a label.
func (k audited) labelledPair(g *gateway, roots *authority) {
	k.t.Helper()
	cert, key := encode(k.t, roots.server(k.t, "a.test"))
	k.put("shop", "pair", map[string]string{"tls.crt": cert, "tls.key": key})
	poll(k.t, "the certificate's Secret is told to be left out", 20*time.Second, func() bool {
		_, status := g.read("/status")
		return strings.Contains(status, "kube_secret_selector")
	})
	if code, _ := g.asked(roots, "a.test", "/"); code != 0 {
		k.t.Errorf("the certificate of a Secret without the label is served: %d", code)
	}
	k.apply("apiVersion: v1\nkind: Secret\nmetadata: {name: pair, namespace: shop, labels: {served: 'yes'}}\ntype: kubernetes.io/tls\n")
	g.answers(roots, "a.test", "/", http.StatusTeapot, "guarded")
}

// askedForWhatIsTaken expects that accounts listed and watched as they may, and were
// refused nothing.
func (k audited) askedForWhatIsTaken(accounts map[string]func(listing) bool) {
	k.t.Helper()
	const second = "system:serviceaccount:keyway:second" // which takes Secrets by their labels
	for account, may := range accounts {
		account = "system:serviceaccount:keyway:" + account
		seen := map[string]bool{}
		for l := range k.listings(account) {
			if l.plural == "secrets" && account == second && !strings.HasSuffix(l.selector, "served=yes") {
				k.t.Errorf("%s asked for %+v", account, l)
			}
			if slices.Contains([]string{"namespaces", "ingresses", "services", "kongplugins"}, l.plural) {
				if seen[l.plural] = true; !may(l) {
					k.t.Errorf("%s asked for %+v", account, l)
				}
			}
		}
		if len(seen) != 4 {
			k.t.Errorf("%s asked for %v alone", account, seen)
		}
		if _, refused := k.asked(account); len(refused) > 0 {
			k.t.Errorf("%s was refused %v", account, refused)
		}
	}
}
