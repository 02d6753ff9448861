package integration

import (
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestKubeAdmission has a real API server ask a node, through the webhook that the chart
// makes, with the certificate that the chart's document takes from a Secret.
func TestKubeAdmission(t *testing.T) {
	dns, roots := startDNS(t), newAuthority(t, "webhook")
	k, list, env := startAudited(t, "kubernetes:\n  watchNamespaces: [shop]\nadmission:\n  enabled: true\n  caBundle: |\n"+indented(roots.pem)+"\n")
	config := k.kubeconfig("keyway", "keyway", k.addr)
	renew := func() {
		cert, key := encode(t, roots.server(t, "localhost"))
		k.put("keyway", "keyway-admission", map[string]string{"tls.crt": cert, "tls.key": key})
	}
	renew()
	address := fmt.Sprintf("localhost:%d", freePort(t))
	env["KEYWAY_KUBE_CUSTOM_ENTITIES"] = "shop"
	env["KEYWAY_ADMISSION_TLS_LISTEN"] = strings.Replace(address, "localhost", "127.0.0.1", 1)
	g := kubeGateway(t, k.kubeServer, dns, env, options{document: webhookDocument(t, list, config)})
	poll(t, "the webhook has its certificate", 20*time.Second, func() bool {
		_, err := shownLeaf(address, "localhost", roots.pool())
		return err == nil
	})
	// No Service leads anywhere here: the webhook is asked at its address.
	hook := of(list, "ValidatingWebhookConfiguration")[0]
	client := in(hook, "webhooks.0.clientConfig").(object)
	delete(client, "service")
	client["url"] = "https://" + address + "/"
	if code, answer := k.attempt(hook); code > 299 {
		t.Fatalf("%d %s", code, answer)
	}
	const plugin = "apiVersion: configuration.konghq.com/v1\nkind: KongPlugin\nmetadata: {name: %s, namespace: shop}\nplugin: rate-limiting\nconfig: {minute: %s, policy: local}\n"
	ask := func(text string, args ...any) (int, string) {
		return k.attempt(objects(t, fmt.Sprintf(text, args...))[0])
	}
	poll(t, "a bad plugin is refused", 20*time.Second, func() bool {
		code, answer := ask(plugin, "a", "many")
		if code > 299 && code != http.StatusUnprocessableEntity {
			t.Fatalf("%d %s", code, answer)
		}
		return code == http.StatusUnprocessableEntity && strings.Contains(answer, "config.minute: ") && strings.Contains(answer, "admission.keyway.dev")
	})
	const service = "apiVersion: v1\nkind: Service\nmetadata: {name: %s, namespace: shop, annotations: {%s}}\nspec: {ports: [{port: 80}]}\n"
	const request = "apiVersion: gateway.networking.k8s.io/v1\nkind: %s\nmetadata: {name: r, namespace: shop, annotations: {%s}}\nspec: {parentRefs: [{name: later}], rules: [{filters: [{type: ExtensionRef, extensionRef: {group: configuration.konghq.com, kind: %s, name: later}}]}]}\n"
	const entity = "apiVersion: configuration.konghq.com/v1alpha1\nkind: KongCustomEntity\nmetadata: {name: %s, namespace: shop}\nspec: {type: %s, controllerName: keyway, fields: {%s}}\n"
	for _, c := range []struct {
		what, text string
		code       int
		says       string
	}{
		{"a Service that would be spoken to otherwise", fmt.Sprintf(service, "s", "konghq.com/protocol: htps"), http.StatusUnprocessableEntity, "metadata.annotations[konghq.com/protocol]: "},
		{"one that is right", fmt.Sprintf(service, "s", "konghq.com/protocol: https, konghq.com/upstream-policy: later"), http.StatusCreated, ""},
		{"one that is nobody's here", fmt.Sprintf(service, "t", "theirs.test/protocol: htps"), http.StatusCreated, ""},
		{"an HTTPRoute that cannot mean what it says", fmt.Sprintf(request, "HTTPRoute", "konghq.com/protocols: htps", "KongPlugin"), http.StatusUnprocessableEntity, "metadata.annotations[konghq.com/protocols]: "},
		{"one with a filter that is no KongPlugin", fmt.Sprintf(request, "HTTPRoute", "", "KongClusterPlugin"), http.StatusUnprocessableEntity, "spec.rules[0].filters[0].extensionRef: "},
		{"one whose Gateway and plugin come later", fmt.Sprintf(request, "HTTPRoute", "konghq.com/strip-path: 'true'", "KongPlugin"), http.StatusCreated, ""},
		{"a GRPCRoute that cannot mean what it says", fmt.Sprintf(request, "GRPCRoute", "keyway.dev/protocols: htps", "KongPlugin"), http.StatusUnprocessableEntity, "metadata.annotations[keyway.dev/protocols]: "},
		{"a good plugin", fmt.Sprintf(plugin, "b", "5"), http.StatusCreated, ""},
		{"one that gets worse", fmt.Sprintf(plugin, "b", "many"), http.StatusUnprocessableEntity, "config.minute: "},
		{"an Ingress that cannot mean what it says", ingressOf("i", "a.test", "web", "konghq.com/methods: G-T"), http.StatusUnprocessableEntity, "metadata.annotations[konghq.com/methods]: "},
		{"one whose Service and plugins come later", ingressOf("i", "a.test", "web", "konghq.com/plugins: later"), http.StatusCreated, ""},
		{"one of another class", strings.Replace(ingressOf("j", "a.test", "web", "konghq.com/methods: G-T"), "ingressClassName: keyway", "ingressClassName: other", 1), http.StatusCreated, ""},
		{"a consumer without a name", "apiVersion: configuration.konghq.com/v1\nkind: KongConsumer\nmetadata: {name: c, namespace: shop, annotations: {kubernetes.io/ingress.class: keyway}}\nusername: c\nconsumerGroups: [later]\n", http.StatusCreated, ""},
		{"an entity whose policy comes later", fmt.Sprintf(entity, "a", "snis", "name: a.test, certificate: later, x_keyway_tls_policy: later"), http.StatusCreated, ""},
		{"a policy that cannot mean what it says", fmt.Sprintf(entity, "p", "x_keyway_tls_policies", "name: p, min_version: '9'"), http.StatusUnprocessableEntity, "spec.fields.min_version: "},
		{"one that is right", fmt.Sprintf(entity, "p", "x_keyway_tls_policies", "name: p, client_auth: required, ca_certificates: [5f4c45e4-6e08-4e47-9455-0d6c65c14cf6]"), http.StatusCreated, ""},
		{"an entity that nobody serves", fmt.Sprintf(entity, "g", "degraphql_routes", ""), http.StatusUnprocessableEntity, "spec.type: "},
		{"a vault whose prefix is none", "apiVersion: configuration.konghq.com/v1alpha1\nkind: KongVault\nmetadata: {name: v, annotations: {kubernetes.io/ingress.class: keyway}}\nspec: {backend: env, prefix: v}\n", http.StatusUnprocessableEntity, "spec.prefix: "},
	} {
		if code, answer := k.attempt(objects(t, c.text)[0]); code != c.code || !strings.Contains(answer, c.says) {
			t.Errorf("%s: %d %s; expected %d and %q", c.what, code, answer, c.code, c.says)
		}
	}
	// Its certificate changes like any other.
	before, err := shownLeaf(address, "localhost", roots.pool())
	if err != nil {
		t.Fatal(err)
	}
	renew()
	poll(t, "the renewed certificate is shown", 20*time.Second, func() bool {
		now, err := shownLeaf(address, "localhost", roots.pool())
		return err == nil && now.SerialNumber.Cmp(before.SerialNumber) != 0
	})
	if code, _ := ask(plugin, "b", "many"); code != http.StatusUnprocessableEntity {
		t.Errorf("with the renewed certificate: %d", code)
	}
	// With nobody to ask, objects are stored: the node judges them in any case.
	g.stop(syscall.SIGTERM)
	if code, answer := ask(plugin, "late", "many"); code != http.StatusCreated {
		t.Errorf("without a node: %d %s", code, answer)
	}
}

func indented(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ")
}

// webhookDocument is the document that the chart makes for the webhook, for a node outside
// of the cluster, whose webhook is at localhost.
func webhookDocument(t *testing.T, list []object, kubeconfig string) string {
	t.Helper()
	for _, o := range of(list, "ConfigMap") {
		data, _ := o["data"].(object)
		if text, ok := data["keyway-admission.yaml"].(string); ok {
			return strings.NewReplacer("config: {namespace:", fmt.Sprintf("config: {kubeconfig: %q, namespace:", kubeconfig), "keyway-admission.keyway.svc", "localhost").Replace(text)
		}
	}
	t.Fatal("the chart has no document for the webhook")
	return ""
}
