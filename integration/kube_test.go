package integration

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/secrets"
	"github.com/keyway-edge/keyway/secrets/kube"
	"github.com/keyway-edge/keyway/secrets/secrettest"
)

// kubeNode is a node whose upstream credential and certificate are in Kubernetes Secrets,
// read through a proxy that fails, with an account that may read these two alone.
type kubeNode struct {
	*gateway
	k      *kubeServer
	f      *faulty
	up     *guard
	origin *tattler
	roots  *authority
	secret canaries
	keys   int
}

// newKubeNode starts one. It polls so seldom that changes come by the watch alone.
func newKubeNode(t *testing.T) *kubeNode {
	t.Helper()
	n := &kubeNode{k: startKube(t), up: &guard{}, roots: newAuthority(t, "edge")}
	n.k.namespace("shop")
	n.k.account("shop", "edge", []string{"get", "list", "watch"}, []string{"up", "pair"})
	n.k.put("shop", "locked", map[string]string{"key": "canary-locked-c0ffee"})
	n.f = faultProxy(t, n.k.addr, n.k.front(), n.k.a.pool())
	n.origin = tattle(t, n.up.check)
	n.rotate()
	token := n.k.token("shop", "edge")
	n.renew()
	n.secret.add(token, "canary-locked-c0ffee")
	host, port, _ := strings.Cut(n.origin.addr, ":")
	n.gateway = start(t, options{env: debug(nil), dir: filepath.Join(t.TempDir(), "data"), document: fmt.Sprintf(`
_format_version: "3.0"
vaults: [{name: kube, prefix: kb, config: {server: "https://%s", token_file: %q, ca_file: %q, namespace: shop, ttl: 600, overlap: 1}}]
certificates: [{cert: "{vault://kb/pair/tls.crt}", key: "{vault://kb/pair/tls.key}", snis: [kept.test]}]
services:
- {name: a, host: %s, port: %s, routes: [{paths: [/]}], x_keyway_upstream_auth: {type: header, name: X-Upstream-Key, value: "{vault://kb/up/key}"}}
consumers:
- {username: one, keyauth_credentials: [{key: "{vault://kb/locked/key}"}]}
- {username: two, keyauth_credentials: [{key: "{vault://kb/kube-system/up/key}"}]}
`, n.f.addr, file(t, t.TempDir(), "token", token), n.k.ca, host, port)})
	return n
}

// rotate puts a new key into the Secret that the upstream takes beside those before.
func (n *kubeNode) rotate() string {
	n.keys++
	key := fmt.Sprintf("canary-kube-%d-c0ffee", n.keys)
	n.up.accept(func() { n.k.put("shop", "up", map[string]string{"key": key}) }, append([]string{key}, n.up.good...)...)
	n.secret.add(key)
	return key
}

// renew puts a new certificate into its Secret and answers its serial number.
func (n *kubeNode) renew() string {
	n.k.t.Helper()
	c := n.roots.server(n.k.t, "kept.test")
	cert, key := encode(n.k.t, c)
	n.k.put("shop", "pair", map[string]string{"tls.crt": cert, "tls.key": key})
	n.secret.add(key)
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		n.k.t.Fatal(err)
	}
	return leaf.SerialNumber.String()
}

// uses says whether the upstream got this key.
func (n *kubeNode) uses(key string) func() bool {
	return func() bool { last, _ := n.up.state(); return last == key }
}

// TestKubeSecrets has a node use Secrets of a real API server while they change, one is
// deleted, may not be read, and while the API server is cut off and dies.
func TestKubeSecrets(t *testing.T) {
	n := newKubeNode(t)
	l := (&clients{g: n.gateway, roots: n.roots.pool(), names: []string{"kept.test"}}).begin(2)
	key := n.rotatesUnderLoad(t)
	n.keepsWhatWasDeleted(t, key)
	n.saysWhatIsForbidden(t)
	worst := n.outlivesTheServer(t)
	l.end()
	if twice := n.origin.twice(); twice > 0 {
		t.Errorf("%d requests were served twice", twice)
	}
	if _, bad := n.up.state(); bad > 0 {
		t.Errorf("the upstream got %d requests with a key that it does not take", bad)
	}
	o := judge(t, "Kubernetes Secrets", l, n.secret.scan(t, n.gateway), worst, "")
	t.Logf("%d requests, %d lost, recovery %.2f s", o.Requests, o.Lost, o.RecoveryS)
}

// rotatesUnderLoad changes key and certificate and answers the last key.
func (n *kubeNode) rotatesUnderLoad(t *testing.T) (key string) {
	t.Helper()
	poll(t, "the first key is used", 20*time.Second, n.uses("canary-kube-1-c0ffee"))
	var took []time.Duration
	for range 10 {
		key = n.rotate()
		began := time.Now()
		poll(t, "a changed key is used", 20*time.Second, n.uses(key))
		took = append(took, time.Since(began))
	}
	for range 5 {
		serial, began := n.renew(), time.Now()
		poll(t, "a renewed certificate is served", 20*time.Second, func() bool {
			leaf, err := shownLeaf(n.tls, "kept.test", n.roots.pool())
			return err == nil && leaf.SerialNumber.String() == serial
		})
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	t.Logf("a change is used after %s, at most %s", took[len(took)/2], took[len(took)-1])
	if took[len(took)/2] > time.Second {
		t.Errorf("changes were used after %v; expected within a second", took)
	}
	return key
}

// keepsWhatWasDeleted has the last good key serve on, and said, without its Secret.
func (n *kubeNode) keepsWhatWasDeleted(t *testing.T, key string) {
	t.Helper()
	n.k.remove("shop", "up")
	said := ""
	poll(t, "the deleted Secret is told", 20*time.Second, func() bool {
		said = n.said("secrets", "list")
		return strings.Contains(said, secrets.ErrNotFound.Error())
	})
	before := n.origin.total.Load()
	poll(t, "requests go on", 20*time.Second, func() bool { return n.origin.total.Load() > before+20 })
	if !n.uses(key)() {
		t.Errorf("the last good key is not used any more; secrets list:\n%s", said)
	}
	poll(t, "the Secret that was made anew is used", 20*time.Second, n.uses(n.rotate()))
}

// saysWhatIsForbidden reads what the account may not, and what the vault may not.
func (n *kubeNode) saysWhatIsForbidden(t *testing.T) {
	t.Helper()
	out, err := n.run("secrets", "check", "{vault://kb/locked/key}")
	if err == nil || !strings.Contains(out, "shop/locked") || !strings.Contains(out, "403") || !strings.Contains(out, "may not get it") {
		t.Errorf("a forbidden Secret: %v; expected an error that names shop/locked and the verb get:\n%s", err, out)
	}
	out, err = n.run("secrets", "check", "{vault://kb/kube-system/up/key}")
	if err == nil || !strings.Contains(out, "config.namespaces") {
		t.Errorf("a foreign namespace: %v; expected an error that tells of config.namespaces:\n%s", err, out)
	}
}

// outlivesTheServer cuts the node off while the Secret changes, cuts its watch again
// and again, and kills the API server. It answers the longest recovery.
func (n *kubeNode) outlivesTheServer(t *testing.T) (worst time.Duration) {
	t.Helper()
	n.f.set(t, faultRefuse)
	next := n.rotate()
	time.Sleep(3 * time.Second) // that long it is away
	if n.uses(next)() {
		t.Error("the node has a key that nobody can have told it")
	}
	n.f.set(t, faultNone)
	began := time.Now()
	poll(t, "what was missed is used", time.Minute, n.uses(next))
	worst = time.Since(began)
	for range 2 {
		n.f.set(t, faultRefuse)
		n.rotate()
		next = n.rotate()
		n.f.set(t, faultNone)
		poll(t, "what changed between two watches is used", 30*time.Second, n.uses(next))
	}
	n.k.stop()
	time.Sleep(time.Second)
	n.k.start()
	began = time.Now()
	poll(t, "a change after the API server's return is used", time.Minute, n.uses(n.rotate()))
	return max(worst, time.Since(began))
}

// TestKubeContract runs the suite that every source passes against a real API server.
func TestKubeContract(t *testing.T) {
	k := startKube(t)
	k.namespace("shop")
	verbs := []string{"get", "list", "watch"}
	k.account("shop", "edge", verbs, nil)
	f := faultProxy(t, k.addr, k.front(), k.a.pool())
	token := file(t, t.TempDir(), "token", k.token("shop", "edge"))
	secrettest.Contract(t, func(t *testing.T) secrettest.Subject {
		f.set(t, faultNone)
		k.allow("shop", "edge", verbs, []string{"one", "two", "never"})
		for _, name := range []string{"one", "two", "never"} {
			k.try(http.MethodDelete, "/api/v1/namespaces/shop/secrets/"+name, nil)
		}
		s, err := kube.Open(map[string]any{"server": "https://" + f.addr, "token_file": token, "ca_file": k.ca, "namespace": "shop"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.(*kube.Source).Close() })
		return secrettest.Subject{
			Source: s,
			Put: func(_ *testing.T, name, value string) {
				fields := map[string]string{}
				if json.Unmarshal([]byte(value), &fields) != nil {
					fields = map[string]string{"value": value}
				}
				k.put("shop", name, fields)
			},
			Remove: func(_ *testing.T, name string) { k.remove("shop", name) },
			Deny: func(_ *testing.T, name string) {
				k.put("shop", name, map[string]string{"value": "x"})
				k.allow("shop", "edge", verbs, []string{"two", "never"})
			},
			Break: func(t *testing.T) func() {
				f.set(t, faultRefuse)
				return func() { f.set(t, faultNone) }
			},
			Hang: func(t *testing.T) func() {
				f.set(t, faultBlackHole)
				return func() { f.set(t, faultNone) }
			},
			Issues: true, // what is put is a key of what is answered
		}
	})
}

// TestKubernetesLogin logs in at a real Vault with the token of a ServiceAccount, which
// Vault has a real API server review.
func TestKubernetesLogin(t *testing.T) {
	k, v := startKube(t), startVault(t)
	k.namespace("shop")
	for _, name := range []string{"edge", "stranger", "reviewer"} {
		k.account("shop", name, []string{"get"}, []string{"none"})
	}
	k.do(http.MethodPost, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", object{
		"metadata": object{"name": "reviewer"}, "subjects": []any{object{"kind": "ServiceAccount", "name": "reviewer", "namespace": "shop"}},
		"roleRef": object{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:auth-delegator"},
	})
	v.put("app", map[string]string{"key": "canary-value"})
	v.do(http.MethodPut, "sys/policies/acl/app", map[string]string{"policy": `path "secret/data/app" { capabilities = ["read"] }`})
	v.do(http.MethodPost, "sys/auth/kubernetes", map[string]any{"type": "kubernetes"})
	v.do(http.MethodPost, "auth/kubernetes/config", map[string]any{
		"kubernetes_host": k.addr, "kubernetes_ca_cert": k.a.pem, "token_reviewer_jwt": k.token("shop", "reviewer"), "disable_local_ca_jwt": true,
	})
	v.do(http.MethodPost, "auth/kubernetes/role/edge", map[string]any{
		"bound_service_account_names": "edge", "bound_service_account_namespaces": "shop", "audience": "vault", "token_policies": "app", "token_ttl": "3s", "token_max_ttl": "3s",
	})
	path := file(t, t.TempDir(), "token", k.token("shop", "edge", "vault"))
	told := &heard{}
	s := v.source(map[string]any{"auth_method": "kubernetes", "kube_role": "edge", "kube_api_token_file": path, "kv": "v2"}, told.add)
	ask := func() error {
		got, err := read(t, s, secrets.Request{Resource: "app", Force: true})
		if err == nil && got != `{"key":"canary-value"}` {
			t.Error("another value was read")
		}
		return err
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	if told.count("source", "login") != 1 {
		t.Error("no login is told")
	}
	// kubelet replaces the token in its file; the next login takes what is there.
	for what, token := range map[string]string{"another account": k.token("shop", "stranger", "vault"), "another audience": k.token("shop", "edge", "other")} {
		other := v.source(map[string]any{"auth_method": "kubernetes", "kube_role": "edge", "kube_api_token_file": file(t, t.TempDir(), "token", token), "kv": "v2"}, nil)
		_, err := read(t, other, secrets.Request{Resource: "app"})
		if err == nil || strings.Contains(err.Error(), token) {
			t.Errorf("%s: %v; expected a refusal without the token", what, err)
		}
	}
	if err := os.WriteFile(path, []byte(k.token("shop", "edge", "vault")), 0o600); err != nil {
		t.Fatal(err)
	}
	poll(t, "the login that ended is followed by another", 20*time.Second, func() bool { return ask() == nil && told.count("source", "login") > 1 })
}
