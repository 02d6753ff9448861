package integration

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// plurals are where the API server has the kinds that tests write.
var plurals = map[string]string{
	"Namespace": "namespaces", "Service": "services", "Secret": "secrets", "EndpointSlice": "endpointslices", "Ingress": "ingresses", "IngressClass": "ingressclasses",
	"ValidatingAdmissionPolicy": "validatingadmissionpolicies", "ValidatingAdmissionPolicyBinding": "validatingadmissionpolicybindings",
	"CustomResourceDefinition": "customresourcedefinitions", "ClusterRole": "clusterroles", "ClusterRoleBinding": "clusterrolebindings", "ServiceAccount": "serviceaccounts",
	"Deployment": "deployments", "ConfigMap": "configmaps", "Role": "roles", "RoleBinding": "rolebindings", "NetworkPolicy": "networkpolicies", "PodDisruptionBudget": "poddisruptionbudgets",
	"HorizontalPodAutoscaler": "horizontalpodautoscalers", "ServiceMonitor": "servicemonitors", "PrometheusRule": "prometheusrules", "GatewayClass": "gatewayclasses", "ValidatingWebhookConfiguration": "validatingwebhookconfigurations",
	"KongConsumerGroup": "kongconsumergroups", "KongVault": "kongvaults", "KongCustomEntity": "kongcustomentities", "KongIngress": "kongingresses", "TCPIngress": "tcpingresses", "UDPIngress": "udpingresses",
	"Gateway": "gateways", "HTTPRoute": "httproutes", "ReferenceGrant": "referencegrants", "ListenerSet": "listenersets", "GRPCRoute": "grpcroutes", "TLSRoute": "tlsroutes",
	"TCPRoute": "tcproutes", "UDPRoute": "udproutes", "BackendTLSPolicy": "backendtlspolicies",
	"KongPlugin": "kongplugins", "KongConsumer": "kongconsumers", "KongUpstreamPolicy": "kongupstreampolicies", "KongClusterPlugin": "kongclusterplugins",
	"ClusterIssuer": "clusterissuers", "Issuer": "issuers", "Certificate": "certificates",
}

// at is the path of an object.
func at(o object) string {
	meta, _ := o["metadata"].(object)
	version, _ := o["apiVersion"].(string)
	kind, _ := o["kind"].(string)
	path := "/apis/" + version
	if !strings.Contains(version, "/") {
		path = "/api/" + version
	}
	if ns, ok := meta["namespace"].(string); ok {
		path += "/namespaces/" + ns
	}
	return fmt.Sprintf("%s/%s/%s", path, plurals[kind], meta["name"])
}

// objects reads manifests.
func objects(t testing.TB, text string) []object {
	t.Helper()
	var list []object
	for d := yaml.NewDecoder(strings.NewReader(text)); ; {
		var o object
		if err := d.Decode(&o); errors.Is(err, io.EOF) {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		if o != nil {
			list = append(list, o)
		}
	}
}

// attempt applies an object and answers the status and what the server says.
func (k *kubeServer) attempt(o object) (int, string) { return k.attemptAs(o, "") }

// attemptAs is an attempt with more words in its query: "&dryRun=All".
func (k *kubeServer) attemptAs(o object, query string) (int, string) {
	k.t.Helper()
	body, err := json.Marshal(o)
	if err != nil {
		k.t.Fatal(err)
	}
	req, err := http.NewRequest(http.MethodPatch, k.addr+at(o)+"?fieldManager=test&force=true"+query, bytes.NewReader(body))
	if err != nil {
		k.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/apply-patch+yaml")
	resp, err := k.client.Do(req)
	if err != nil {
		k.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(answer)
}

// apply writes manifests, as kubectl apply --server-side does.
func (k *kubeServer) apply(text string) {
	k.t.Helper()
	for _, o := range objects(k.t, text) {
		if code, answer := k.attempt(o); code > 299 {
			k.t.Fatalf("kube: applying %s: %d %s", at(o), code, answer)
		}
	}
}

// unapply deletes what manifests name.
func (k *kubeServer) unapply(text string) {
	k.t.Helper()
	for _, o := range objects(k.t, text) {
		k.do(http.MethodDelete, at(o), nil)
	}
}

// define makes the kinds of deploy/crds known.
func (k *kubeServer) define() { k.t.Helper(); k.defines("../deploy/crds") }

// controller makes the account of a controller, which has the rights of docs/kubernetes.md,
// and answers the path of its kubeconfig.
func (k *kubeServer) controller() string {
	k.t.Helper()
	k.apply(`
apiVersion: v1
kind: Namespace
metadata: {name: keyway}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: keyway, namespace: keyway}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: keyway}
rules:
- {apiGroups: [""], resources: [services, secrets, configmaps, namespaces], verbs: [get, list, watch]}
- {apiGroups: [networking.k8s.io], resources: [ingresses, ingressclasses], verbs: [get, list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [get, list, watch]}
- {apiGroups: [configuration.konghq.com], resources: ["*"], verbs: [get, list, watch]}
- {apiGroups: [gateway.networking.k8s.io], resources: ["*"], verbs: [get, list, watch]}
- {apiGroups: [cert-manager.io], resources: [certificates], verbs: [get, list, watch]}
- {apiGroups: [cert-manager.io], resources: [certificates/status], verbs: [patch]}
- {apiGroups: [networking.k8s.io], resources: [ingresses/status], verbs: [patch]}
- {apiGroups: [configuration.konghq.com, gateway.networking.k8s.io], resources: ["*/status"], verbs: [patch]}
- {apiGroups: [""], resources: [events], verbs: [create]}
- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, create, update]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: keyway}
subjects: [{kind: ServiceAccount, name: keyway, namespace: keyway}]
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: keyway}
`)
	return k.kubeconfig("keyway", "keyway", k.addr)
}

// kubeconfig writes one for an account, whose server is reached at an address.
func (k *kubeServer) kubeconfig(namespace, account, addr string) string {
	k.t.Helper()
	return file(k.t, k.dir, "kubeconfig", fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "c", "clusters": [{"name": "c", "cluster": {"server": %q, "certificate-authority": %q}}], "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": %q}}], "users": [{"name": "u", "user": {"token": %q}}]}`,
		addr, k.ca, namespace, k.token(namespace, account)))
}

// backend applies a Service and its endpoint, which is an origin of this machine.
func (k *kubeServer) backend(name, address string) {
	k.t.Helper()
	k.apply(fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %[1]s, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
`, name))
	k.endpoints(name, address)
}

// endpoints applies the endpoints of a Service, origins of this machine: the API server
// takes no addresses of loopback, so they are known by a name, and each has its own port.
func (k *kubeServer) endpoints(service string, addresses ...string) {
	k.t.Helper()
	for i, address := range addresses {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			k.t.Fatal(err)
		}
		k.apply(fmt.Sprintf(`
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[1]s-%[2]d, namespace: shop, labels: {kubernetes.io/service-name: %[1]s}}
addressType: FQDN
ports: [{name: http, port: %[3]s, protocol: TCP}]
endpoints: [{addresses: [origin.shop.test], conditions: {ready: true}}]
`, service, i+1, port))
	}
}

// kubeGateway starts a node that serves a cluster.
func kubeGateway(t testing.TB, k *kubeServer, dns *dnsServer, env map[string]string, o options) *gateway {
	t.Helper()
	o.env = map[string]string{
		"KEYWAY_KUBERNETES": "on", "KEYWAY_KUBE_KUBECONFIG": filepath.Join(k.dir, "kubeconfig"), "KEYWAY_DNS_RESOLVER": dns.addr,
		"KEYWAY_KUBE_PUBLISH_ADDRESS": "192.0.2.7,edge.test",
	}
	for name, v := range env {
		o.env[name] = v
	}
	return start(t, o)
}

// asked is what came of a request for a host: the status and the body, over TLS if roots
// are given. 0 is no answer.
func (g *gateway) asked(roots *authority, host, path string, header ...string) (int, string) {
	g.t.Helper()
	return g.askedAs(nil, roots, host, path, header...)
}

// askedAs is asked by a client that shows a certificate, nil for none.
func (g *gateway) askedAs(cert *tls.Certificate, roots *authority, host, path string, header ...string) (int, string) {
	g.t.Helper()
	addr, scheme, transport := g.proxy, "http", &http.Transport{DisableKeepAlives: true}
	if roots != nil {
		addr, scheme = g.tls, "https"
		transport.TLSClientConfig = &tls.Config{RootCAs: roots.pool(), ServerName: host, MinVersion: tls.VersionTLS12}
		if cert != nil {
			transport.TLSClientConfig.Certificates = []tls.Certificate{*cert}
		}
	}
	req, err := http.NewRequest(http.MethodGet, scheme+"://"+addr+path, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	req.Host = host
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := (&http.Client{Transport: transport, Timeout: 20 * time.Second}).Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

// answers waits until a request has this status, and a body with this text.
func (g *gateway) answers(roots *authority, host, path string, status int, text string, header ...string) {
	g.t.Helper()
	var code int
	var body string
	deadline := time.Now().Add(40 * time.Second)
	for {
		if code, body = g.asked(roots, host, path, header...); code == status && strings.Contains(body, text) {
			return
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("%s%s: %d %s; want %d %q", host, path, code, body, status, text)
		}
		<-time.After(20 * time.Millisecond)
	}
}
