package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// customs are a TLS policy and a server name that names it; the lowest version of TLS is a parameter.
const customs = `
apiVersion: configuration.konghq.com/v1alpha1
kind: KongCustomEntity
metadata: {name: partners, namespace: shop}
spec: {type: x_keyway_tls_policies, controllerName: edge, fields: {name: partners, min_version: %q, client_auth: required, ca_certificates: [5f4c45e4-6e08-4e47-9455-0d6c65c14cf6]}}
---
apiVersion: configuration.konghq.com/v1alpha1
kind: KongCustomEntity
metadata: {name: api, namespace: shop}
spec: {type: snis, controllerName: edge, fields: {name: api.test, certificate: pair, x_keyway_tls_policy: partners}}
---
`

// customEntities gives api.test, which an Ingress of the class edge has with the Secret pair, a TLS
// policy. What a request gets that is let in is 401, for want of a key.
func customEntities(t *testing.T, k *kubeServer, g *gateway, roots *authority) {
	t.Helper()
	const at = "/apis/configuration.konghq.com/v1alpha1/namespaces/shop/kongcustomentities/"
	partners := newAuthority(t, "partners")
	cert := partners.client(t)
	if code, answer := k.attempt(object{
		"apiVersion": "v1", "kind": "ConfigMap", "data": object{"id": "5f4c45e4-6e08-4e47-9455-0d6c65c14cf6", "cert": partners.pem},
		"metadata": object{"name": "partners", "namespace": "shop", "labels": object{"konghq.com/ca-cert": "true"}, "annotations": object{"kubernetes.io/ingress.class": "edge"}},
	}); code > 299 {
		t.Fatalf("the authority: %d %s", code, answer)
	}
	k.apply(fmt.Sprintf(customs, "1.2"))
	says := func(name, want string) {
		t.Helper()
		var text []byte
		poll(t, "KongCustomEntity "+name+" says "+want, 20*time.Second, func() bool {
			text, _ = json.Marshal(k.do(http.MethodGet, at+name, nil)["status"])
			return strings.Contains(string(text), want)
		})
	}
	letIn := func(what string, alone, shown int) {
		t.Helper()
		poll(t, what, 20*time.Second, func() bool {
			without, _ := g.asked(roots, "api.test", "/api/x")
			with, _ := g.askedAs(cert, roots, "api.test", "/api/x")
			return without == alone && with == shown
		})
	}
	letIn("clients have to show a certificate", 0, 401)
	says("partners", `"reason":"Programmed","status":"True"`)
	says("api", `"reason":"Programmed","status":"True"`)
	k.apply(fmt.Sprintf(customs, "9"))
	says("partners", `spec.fields.min_version: `)
	letIn("its last good form serves", 0, 401)
	k.apply(strings.NewReplacer("name: partners, namespace", "name: other, namespace", "type: x_keyway_tls_policies", "type: degraphql_routes").Replace(strings.SplitAfter(fmt.Sprintf(customs, "1.2"), "---\n")[0]))
	says("other", `"reason":"Invalid","status":"False"`)
	says("other", `spec.type: expected x_keyway_tls_policies or snis, not 'degraphql_routes'`)
	poll(t, "an event tells of the type", 20*time.Second, func() bool {
		text, _ := json.Marshal(k.do(http.MethodGet, "/api/v1/namespaces/shop/events?fieldSelector=involvedObject.kind=KongCustomEntity,involvedObject.name=other", nil)["items"])
		return strings.Contains(string(text), "KongConfigurationTranslationFailed") && strings.Contains(string(text), "spec.type: ")
	})
	for _, refused := range []string{"services", "snis"} { // which other kinds make, and another than it was
		text := strings.Replace(fmt.Sprintf(customs, "1.2"), "type: x_keyway_tls_policies", "type: "+refused, 1)
		if code, answer := k.attempt(objects(t, text)[0]); code != http.StatusUnprocessableEntity {
			t.Errorf("type %s was taken: %d %s", refused, code, answer)
		}
	}
	k.do(http.MethodDelete, at+"partners", nil)
	letIn("without its policy nobody is let in", 0, 0)
	says("api", `there is no 'partners'`)
	k.do(http.MethodDelete, at+"api", nil)
	letIn("the Ingress alone serves", 401, 401)
}
