package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const chartDir = "../deploy/chart/keyway"

// chartValues are sets of values that the chart is looked at with.
func chartValues() map[string]string {
	return map[string]string{
		"defaults":   "",
		"namespaces": "kubernetes: {watchNamespaces: [shop, other]}\ningressClass: {name: edge, default: true, parameters: {apiGroup: configuration.konghq.com, kind: IngressClassParameters, name: p, namespace: shop, scope: Namespace}}\nadmission: {enabled: true}\n",
		"selectors": "kubernetes: {labelSelector: {matchLabels: {team: edge, a.test/b: ''}, matchExpressions: [{key: tier, operator: In, values: [web, api]}, {key: env, operator: NotIn, values: [dev]}, {key: live, operator: Exists}, {key: old, operator: DoesNotExist}]}, " +
			"namespaceSelector: {matchLabels: {edge: public}}, secretSelector: {matchLabels: {served: 'yes'}}, configMapSelector: {matchExpressions: [{key: served, operator: Exists}]}}\nadmission: {enabled: true}\n",
		"own among namespaces": "kubernetes: {watchNamespaces: [keyway, default]}\nservice: {type: ClusterIP}\n",
		"documents": "kubernetes: {enabled: false}\ndocuments: {shop.yaml: '_format_version: \"3.0\"'}\nservice: {type: NodePort}\nhttp: {nodePort: 30080}\nhttps: {http3: true, nodePort: 30443}\n" +
			"podDisruptionBudget: {enabled: false}\nnetworkPolicy: {enabled: false}\nstatus: {service: false}\ndrain: {delaySeconds: 0}\n",
		"everything": `
fullnameOverride: edge
image: {repository: registry.test/keyway, digest: "sha256:0000000000000000000000000000000000000000000000000000000000000000"}
imagePullSecrets: [{name: registry}]
kubernetes: {controllers: [keyway.dev/ingress, ingress-controllers.konghq.com/kong], publishAddresses: [192.0.2.7, edge.test]}
gatewayClass: {create: true}
documents: {a.yaml: '_format_version: "3.0"'}
settings: {log_level: debug, trusted_ips: [10.0.0.0/8], max_connections: 1000, tls_ocsp: false}
env: [{name: KEYWAY_VAULT_HCV_TOKEN, valueFrom: {secretKeyRef: {name: vault, key: token}}}]
envFrom: [{secretRef: {name: more}}]
https: {http3: true}
streams:
- {name: postgres, port: 5432, containerPort: 15432, protocol: tcp, proxyProtocol: true}
- {name: mqtts, port: 8883, containerPort: 18883, protocol: tls}
- {name: dns, port: 53, containerPort: 1053, protocol: udp}
service: {annotations: {a.test/b: c}, loadBalancerClass: example.test/lb, loadBalancerSourceRanges: [192.0.2.0/24], externalTrafficPolicy: Cluster, ipFamilyPolicy: PreferDualStack}
data: {volume: {ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}}}}
volumes: [{name: shared, emptyDir: {}}]
volumeMounts: [{name: shared, mountPath: /shared}]
serviceAccount: {name: edge-account, annotations: {iam.test/role: edge}}
autoscaling: {enabled: true, behavior: {scaleDown: {stabilizationWindowSeconds: 600}}}
admission: {enabled: true, secretName: edge-webhook, annotations: {cert-manager.io/inject-ca-from: keyway/edge}, failurePolicy: Fail, timeoutSeconds: 3, namespaceSelector: {matchLabels: {team: edge}}}
networkPolicy: {metricsFrom: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}], trafficFrom: [{ipBlock: {cidr: 192.0.2.0/24}}]}
serviceMonitor: {enabled: true, labels: {release: prometheus}}
prometheusRule: {enabled: true, labels: {release: prometheus}}
podLabels: {team: edge}
podAnnotations: {a.test/b: c}
priorityClassName: system-cluster-critical
nodeSelector: {kubernetes.io/os: linux}
tolerations: [{key: edge, operator: Exists}]
affinity: {podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, podAffinityTerm: {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {a: b}}}}]}}
topologySpreadConstraints: [{maxSkew: 2, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app.kubernetes.io/name: keyway}}}]
`,
	}
}

// runHelm runs Helm with folders of its own.
func runHelm(t testing.TB, args ...string) (out, trouble string, err error) {
	t.Helper()
	cmd := exec.Command(tool(t, "helm"), args...)
	home := t.TempDir()
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	return stdout.String(), stderr.String(), err
}

// chart renders the chart as release keyway of the namespace keyway.
func chart(t testing.TB, values string, args ...string) []object {
	t.Helper()
	out, trouble, err := runHelm(t, append([]string{"template", "keyway", chartDir, "--namespace", "keyway", "--values", file(t, t.TempDir(), "values.yaml", values)}, args...)...)
	if err != nil {
		t.Fatalf("helm template: %v: %s\nof\n%s", err, trouble, values)
	}
	return objects(t, out)
}

// of are the objects of a kind.
func of(list []object, kind string) []object {
	return slices.DeleteFunc(slices.Clone(list), func(o object) bool { return o["kind"] != kind })
}

// in reads a field of an object: "spec.template.spec". A number is a place in a list.
func in(o any, path string) any {
	for name := range strings.SplitSeq(path, ".") {
		switch x := o.(type) {
		case object:
			o = x[name]
		case []any:
			var i int
			if _, err := fmt.Sscan(name, &i); err != nil || i >= len(x) {
				return nil
			}
			o = x[i]
		default:
			return nil
		}
	}
	return o
}

func TestChartLint(t *testing.T) {
	for name, values := range chartValues() {
		out, trouble, err := runHelm(t, "lint", "--strict", chartDir, "--values", file(t, t.TempDir(), "values.yaml", values))
		if err != nil {
			t.Errorf("%s: %v\n%s%s", name, err, out, trouble)
		}
	}
}

// TestChartCopies: what the chart has of others is what they are, and the plain manifests
// are what the chart renders.
func TestChartCopies(t *testing.T) {
	same := func(a, b string) {
		t.Helper()
		one, err := os.ReadFile(a)
		if err != nil {
			t.Fatal(err)
		}
		if two, err := os.ReadFile(b); err != nil || !bytes.Equal(one, two) {
			t.Errorf("%s is not %s (%v); run make manifests", b, a, err)
		}
	}
	all := func(dir string) []string {
		list, err := filepath.Glob(dir + "/*.yaml")
		if err != nil || len(list) == 0 {
			t.Fatalf("nothing in %s: %v", dir, err)
		}
		for i := range list {
			list[i] = filepath.Base(list[i])
		}
		return list
	}
	crds := all("../deploy/crds")
	if copies := all(chartDir + "/crds"); !slices.Equal(crds, copies) {
		t.Errorf("definitions %v, of the chart %v; run make manifests", crds, copies)
	}
	for _, name := range crds {
		same("../deploy/crds/"+name, chartDir+"/crds/"+name)
	}
	same("../deploy/prometheus/keyway.rules.yml", chartDir+"/files/keyway.rules.yml")
	rendered, err := exec.Command("../deploy/manifests/render.sh", tool(t, "helm")).Output()
	if err != nil {
		t.Fatal(err)
	}
	same(file(t, t.TempDir(), "keyway.yaml", string(rendered)), "../deploy/manifests/keyway.yaml")
	if text := string(rendered); strings.Contains(text, "Helm") || strings.Contains(text, "helm.sh") {
		t.Error("the plain manifests speak of Helm")
	}
	version, err := os.ReadFile("../VERSION")
	if err != nil {
		t.Fatal(err)
	}
	var about object
	readYAML(t, chartDir+"/Chart.yaml", &about)
	if v := strings.TrimSpace(string(version)); about["version"] != v || about["appVersion"] != v {
		t.Errorf("the chart is %v for %v; VERSION says %s", about["version"], about["appVersion"], v)
	}
}

func readYAML(t testing.TB, path string, to any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, to); err != nil {
		t.Fatal(err)
	}
}

// TestChartValues: each value is explained where it stands and has a form, and no form
// is of a value that is not there.
func TestChartValues(t *testing.T) {
	var doc yaml.Node
	readYAML(t, chartDir+"/values.yaml", &doc)
	text, err := os.ReadFile(chartDir + "/values.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var schema object
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	var walk func(path string, n *yaml.Node, schema object)
	walk = func(path string, n *yaml.Node, schema object) {
		props, _ := schema["properties"].(object)
		known := maps.Clone(props)
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, v := n.Content[i], n.Content[i+1]
			at := path + key.Value
			sub, _ := props[key.Value].(object)
			delete(known, key.Value)
			if v.Kind == yaml.MappingNode && len(v.Content) > 0 && at != "resources" && path != "resources." {
				walk(at+".", v, sub)
				continue
			}
			if len(props) > 0 && sub == nil {
				t.Errorf("%s has no form in values.schema.json", at)
			}
			if at != "resources" && key.HeadComment == "" {
				t.Errorf("%s is not explained in the line above it", at)
			}
		}
		if path == "" {
			delete(known, "global") // Helm's own, for charts inside of charts
		}
		for name := range known {
			t.Errorf("%s has a form and is not in values.yaml", path+name)
		}
		if len(props) > 0 && schema["additionalProperties"] != false {
			t.Errorf("%s takes names that do not exist", path)
		}
	}
	walk("", doc.Content[0], schema)
}

// TestChartRefuses gives values that are wrong.
func TestChartRefuses(t *testing.T) {
	for values, want := range map[string]string{
		"replica: 3":                                                "replica",
		"replicas: many":                                            "replicas",
		"image: {tag: 'a b'}":                                       "tag",
		"image: {pullPolicy: Sometimes}":                            "pullPolicy",
		"kubernetes: {watchNamespaces: [Shop]}":                     "watchNamespaces",
		"kubernetes: {controllers: []}":                             "controllers",
		"http: {containerPort: 80}":                                 "containerPort",
		"https: {port: 70000}":                                      "port",
		"kubernetes: {labelSelector: {team: a}}":                    "labelSelector",
		"kubernetes: {labelSelector: {matchLabels: {team: 'a b'}}}": "labelSelector",
		"kubernetes: {namespaceSelector: {matchExpressions: [{key: a, operator: In}]}}":                  "values",
		"kubernetes: {namespaceSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}": "values",
		"kubernetes: {namespaceSelector: {matchExpressions: [{key: a, operator: Like, values: [b]}]}}":   "operator",
		"kubernetes: {namespaceSelector: {matchLabels: {team: a}}, watchNamespaces: [shop]}":             "kubernetes.watchNamespaces",
		"settings: {kube_label_selector: a}":                                                             "kubernetes.labelSelector",
		"settings: {kube_namespaces: a}":                                                                 "kubernetes.watchNamespaces",
		"settings: {grace: 5s}":                                                                          "drain.graceSeconds",
		"settings: {Log_Level: debug}":                                                                   "Log_Level",
		"settings: {trusted_ips: {a: b}}":                                                                "trusted_ips",
		"streams: [{name: a, port: 1, containerPort: 2000, protocol: sctp}]":                             "protocol",
		"streams: [{name: http, port: 1, containerPort: 2000, protocol: tcp}]":                           "name",
		"service: {type: ExternalName}":                                                                  "type",
		"drain: {graceSeconds: 0}":                                                                       "graceSeconds",
		"admission: {failurePolicy: Maybe}":                                                              "failurePolicy",
		"admission: {caBundle: x}":                                                                       "caBundle",
		"runAsUser: 0":                                                                                   "runAsUser",
		"resources: {limits: {memory: much}}":                                                            "memory",
		"podDisruptionBudget: {maxUnavailable: some}":                                                    "maxUnavailable",
		"documents: {shop: x}":                                                                           "'shop'",
		"kubernetes: {enabled: false}":                                                                   "there is nothing to serve",
		"{http: {enabled: false}, https: {enabled: false}}":                                              "nothing listens",
		"serviceMonitor: {enabled: true}":                                                                "networkPolicy.metricsFrom",
		"{serviceMonitor: {enabled: true}, status: {service: false}}":                                    "status.service",
	} {
		out, trouble, err := runHelm(t, "template", "keyway", chartDir, "--values", file(t, t.TempDir(), "values.yaml", values))
		if err == nil || !strings.Contains(trouble, want) {
			t.Errorf("%s: %v %s; expected a refusal that says %s\n%.100s", values, err, trouble, want, out)
		}
	}
}
