package translate

import (
	"strings"
	"testing"
)

// TestJudge judges objects of which nothing that they refer to is there.
func TestJudge(t *testing.T) {
	cfg := newState().cfg
	f := func(text, field string, effect Effect) {
		t.Helper()
		list := Judge(cfg, manifests(t, text)[0])
		if field == "" {
			if len(list) > 0 {
				t.Errorf("%s\nis refused: %v", text, list)
			}
			return
		}
		if len(list) != 1 || !strings.HasPrefix(list[0].Field, field) || list[0].Effect != effect {
			t.Errorf("%s\n%v; expected that %s is refused, and then %s", text, list, field, effect)
		}
	}
	ingress := func(class, annotation string) string {
		return `
kind: Ingress
metadata: {namespace: shop, name: i, annotations: {` + annotation + `}}
spec:
  ingressClassName: ` + class + `
  defaultBackend: {service: {name: a, port: {name: http}}}
  tls: [{hosts: [a.test], secretName: none}]
  rules: [{host: a.test, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: b, port: {number: 80}}}}]}}]
`
	}
	f(ingress("keyway", `konghq.com/plugins: "none,neither", konghq.com/methods: GET`), "", "")
	f(ingress("keyway", `konghq.com/protocols: htps`), "metadata.annotations[konghq.com/protocols]", Closed)
	f(ingress("keyway", `konghq.com/preserve-host: maybe`), "metadata.annotations[konghq.com/preserve-host]", Ignored)
	f(ingress("other", `konghq.com/protocols: htps`), "", "")
	plugin := func(more string) string {
		return "kind: KongPlugin\nmetadata: {namespace: shop, name: p}\n" + more
	}
	f(plugin("plugin: rate-limiting\nconfig: {minute: 5}"), "", "")
	f(plugin("plugin: rate-limiting\nconfig: {minute: many}"), "config.minute", Closed)
	f(plugin("plugin: rate-limiting\nconfig: {minuet: 5}"), "config.minuet", Closed)
	f(plugin("plugin: rate-limiting\nconfig: {minute: 5, redis: {password: '{vault://later/x}'}}"), "", "")
	f(plugin("plugin: rate-limiting\nconfigFrom: {secretKeyRef: {name: later, key: x}}"), "", "")
	f(plugin("plugin: theirs\nconfig: {a: 1}"), "plugin", Ignored)
	f("kind: KongClusterPlugin\nmetadata: {name: p, annotations: {kubernetes.io/ingress.class: keyway}}\nplugin: key-auth\nconfig: {hide_credentials: 5}", "config.hide_credentials", Closed)
	f("kind: KongClusterPlugin\nmetadata: {name: p, annotations: {kubernetes.io/ingress.class: other}}\nplugin: key-auth\nconfig: {hide_credentials: 5}", "", "")
	consumer := func(class, more string) string {
		return "kind: KongConsumer\nmetadata: {namespace: shop, name: c, annotations: {kubernetes.io/ingress.class: " + class + ", konghq.com/plugins: none}}\n" + more
	}
	f(consumer("keyway", "username: ann\ncredentials: [later]\nconsumerGroups: [later]"), "", "")
	f(consumer("keyway", "credentials: [later]"), "username", Closed)
	f(consumer("other", "credentials: [later]"), "", "")
	entity := func(class, namespace, kind, fields string) string {
		return "kind: KongCustomEntity\nmetadata: {namespace: " + namespace + ", name: e}\nspec: {controllerName: " + class + ", type: " + kind + ", fields: {" + fields + "}}"
	}
	f(entity("keyway", "shop", "x_keyway_tls_policies", `name: p, client_auth: required, ca_certificates: [5f4c45e4-6e08-4e47-9455-0d6c65c14cf6], crls: ['{vault://later/crl}']`), "", "")
	f(entity("keyway", "shop", "x_keyway_tls_policies", `name: p, min_version: "9"`), "spec.fields.min_version", Closed)
	f(entity("keyway", "shop", "x_keyway_tls_policies", `name: p, ca_certificates: [later]`), "spec.fields.ca_certificates", Closed)
	f(entity("keyway", "shop", "x_keyway_tls_policies", `name: p, ca_certificates: [5]`), "spec.fields.ca_certificates[0]", Closed)
	f(entity("keyway", "shop", "x_keyway_tls_policies", `min_version: "1.2"`), "spec.fields.name", Closed)
	f(entity("keyway", "shop", "snis", `name: a.test, certificate: later, x_keyway_tls_policy: later`), "", "")
	f(entity("keyway", "shop", "snis", `name: a.test, certificate: later`), "", "")
	f(entity("keyway", "shop", "snis", `name: a.*.test, certificate: later`), "spec.fields.name", Closed)
	f(entity("keyway", "shop", "snis", `name: a.test, certificate: later, x_keyway_tls_policy: 5`), "spec.fields.x_keyway_tls_policy", Closed)
	f(entity("keyway", "shop", "snis", `name: a.test, certificate: later, x_keyway_tls_policy: later, more: 1`), "spec.fields.more", Closed)
	f(entity("keyway", "shop", "degraphql_routes", ``), "spec.type", Closed)
	f(entity("other", "shop", "degraphql_routes", ``), "", "")
	f(entity("keyway", "another", "snis", `name: a.test, certificate: later`), "metadata.namespace", Ignored)
	vault := "kind: KongVault\nmetadata: {name: v, annotations: {kubernetes.io/ingress.class: keyway}}\nspec: {backend: env, prefix: %s}"
	f(strings.Replace(vault, "%s", "vars", 1), "", "")
	f(strings.Replace(vault, "%s", "v", 1), "spec.prefix", Closed)
	f("kind: KongUpstreamPolicy\nmetadata: {namespace: shop, name: u}\nspec: {algorithm: round-robin, slots: 100}", "", "")
	f("kind: KongUpstreamPolicy\nmetadata: {namespace: shop, name: u}\nspec: {algorithm: round-robin, slots: 1}", "slots", Ignored)
	f("kind: TCPIngress\nmetadata: {namespace: shop, name: t, annotations: {kubernetes.io/ingress.class: keyway}}\nspec: {rules: [{port: 9000, backend: {serviceName: a, servicePort: 80}}]}", "", "")
	f("kind: TCPIngress\nmetadata: {namespace: shop, name: t, annotations: {kubernetes.io/ingress.class: keyway}}\nspec: {rules: [{host: 'not a name', port: 9000, backend: {serviceName: a, servicePort: 80}}]}", "spec.rules[0].host", Closed)
	service := func(annotation string) string {
		return "kind: Service\nmetadata: {namespace: shop, name: s, annotations: {" + annotation + "}}\nspec: {ports: [{name: http, port: 8080}]}"
	}
	f("kind: Service\nmetadata: {namespace: shop, name: s}", "", "")
	f(service("konghq.com/plugins: none, konghq.com/upstream-policy: later, konghq.com/override: later, konghq.com/client-cert: later, konghq.com/ca-certificates-secrets: later, konghq.com/protocol: https"), "", "")
	f(service("konghq.com/protocol: htps"), "metadata.annotations[konghq.com/protocol]", Closed)
	f(service("keyway.dev/tls-verify: maybe"), "metadata.annotations[keyway.dev/tls-verify]", Closed)
	f(service("konghq.com/retries: many"), "metadata.annotations[konghq.com/retries]", Ignored)
	request := func(kind, annotation, filter string) string {
		return "kind: " + kind + "\nmetadata: {namespace: shop, name: r, annotations: {" + annotation + "}}\nspec: {parentRefs: [{name: theirs, namespace: elsewhere, sectionName: x}], hostnames: [a.test], rules: [{filters: [" + filter + "], backendRefs: [{name: later, namespace: elsewhere, port: 80}]}]}"
	}
	const later = "{type: ExtensionRef, extensionRef: {group: configuration.konghq.com, kind: KongPlugin, name: later}}"
	for _, kind := range []string{KindHTTPRoute, KindGRPCRoute} {
		f(request(kind, "konghq.com/plugins: none, konghq.com/strip-path: 'true'", later), "", "")
		f(request(kind, "konghq.com/protocols: htps", ""), "metadata.annotations[konghq.com/protocols]", Closed)
		f(request(kind, "konghq.com/preserve-host: maybe", ""), "metadata.annotations[konghq.com/preserve-host]", Ignored)
		f(request(kind, "", later+", "+strings.Replace(later, "KongPlugin", "KongClusterPlugin", 1)), "spec.rules[0].filters[1].extensionRef", Closed)
		f(request(kind, "", "{type: ExtensionRef, extensionRef: {group: theirs.test, kind: Middleware, name: m}}"), "", "")
		f(request(kind, "", "{type: Theirs}"), "", "")
	}
	f(strings.Replace(request("TCPRoute", "konghq.com/protocols: htps", ""), "hostnames: [a.test], ", "", 1), "", "")
}
