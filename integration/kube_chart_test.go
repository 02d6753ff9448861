package integration

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// definitions are those that a module has, of the nested module that pins it.
func definitions(t testing.TB, module string, files ...string) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-C", "kindsdev", "-mod=readonly", "-m", "-f", "{{.Dir}}", module).Output()
	dir := strings.TrimSpace(string(out))
	if err != nil || dir == "" {
		skip(t, module+" is not there; run make setup")
	}
	var all strings.Builder
	for _, name := range files {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		all.WriteString("\n---\n")
		all.Write(text)
	}
	return all.String()
}

// TestChartAdmitted has a real API server judge what the chart renders: every object, and
// a Pod of its template in a namespace that takes restricted ones alone.
func TestChartAdmitted(t *testing.T) {
	k := startKube(t)
	k.define()
	k.apply(definitions(t, "github.com/prometheus-operator/prometheus-operator", "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml", "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml"))
	k.apply(definitions(t, "sigs.k8s.io/gateway-api", "config/crd/standard/gateway.networking.k8s.io_gatewayclasses.yaml"))
	k.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: keyway, labels: {pod-security.kubernetes.io/enforce: restricted}}\n")
	k.namespace("shop")
	k.namespace("other")
	plain, err := os.ReadFile("../deploy/manifests/keyway.yaml")
	if err != nil {
		t.Fatal(err)
	}
	sets := map[string][]object{"plain manifests": objects(t, string(plain))}
	for name, values := range chartValues() {
		sets[name] = chart(t, values, "--include-crds")
	}
	for name, list := range sets {
		t.Run(name, func(t *testing.T) {
			k.t = t
			for _, o := range list {
				if code, answer := k.attemptAs(o, "&dryRun=All&fieldValidation=Strict"); code > 299 {
					t.Errorf("%s: %d %s", at(o), code, answer)
				}
			}
			template := in(of(list, "Deployment")[0], "spec.template").(object)
			if code, answer := k.pod(template["spec"].(object)); code != http.StatusCreated {
				t.Errorf("a pod of the template: %d %s", code, answer)
			}
		})
	}
	k.t = t
	// The namespace does refuse.
	spec := in(of(sets["defaults"], "Deployment")[0], "spec.template.spec").(object)
	loose := maps.Clone(spec)
	loose["hostNetwork"] = true
	if code, answer := k.pod(loose); code != http.StatusForbidden || !strings.Contains(answer, "PodSecurity") {
		t.Errorf("a pod in the machine's network: %d %s; expected a refusal", code, answer)
	}
}

// TestFromAnEmptyCluster follows docs/kubernetes.md: the plain manifests, a certificate in a
// Secret, the page's Ingress. A node with the manifests' account and settings serves it.
func TestFromAnEmptyCluster(t *testing.T) {
	k, dns, roots := startKube(t), startDNS(t), newAuthority(t, "edge")
	dns.a["origin.shop.test."] = "127.0.0.1"
	plain, err := os.ReadFile("../deploy/manifests/keyway.yaml")
	if err != nil {
		t.Fatal(err)
	}
	k.apply(string(plain))
	k.kubeconfig("keyway", "keyway", k.addr)
	k.namespace("shop")
	cert, key := encode(t, roots.server(t, "shop.example.com"))
	k.put("shop", "shop-tls", map[string]string{"tls.crt": cert, "tls.key": key})
	k.backend("web", saying(t, "web"))
	_, after, _ := strings.Cut(page(t, "docs/kubernetes.md"), "```yaml\n")
	ingress, _, ok := strings.Cut(after, "```")
	if !ok {
		t.Fatal("the page has no manifest")
	}
	k.apply(ingress)
	g := kubeGateway(t, k, dns, settingsOf(t, objects(t, string(plain))), options{})
	g.answers(roots, "shop.example.com", "/x", http.StatusOK, "web /x")
	req, err := http.NewRequest(http.MethodGet, "http://"+g.proxy+"/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "shop.example.com"
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusPermanentRedirect || resp.Header.Get("Location") != "https://shop.example.com/x" {
		t.Errorf("in clear: %d to %q", resp.StatusCode, resp.Header.Get("Location"))
	}
}

// settingsOf are the settings of a cluster that the chart makes, as an environment.
func settingsOf(t testing.TB, list []object) map[string]string {
	t.Helper()
	data, _ := in(of(list, "ConfigMap")[0], "data").(object)
	var settings object
	readYAML(t, file(t, t.TempDir(), "keyway.yaml", fmt.Sprint(data["keyway.yaml"])), &settings)
	env := map[string]string{}
	for key, v := range settings {
		if strings.HasPrefix(key, "kube_") && key != "kube_publish_service" {
			env["KEYWAY_"+strings.ToUpper(key)] = fmt.Sprint(v)
		}
	}
	return env
}

// pod has the server judge a pod, and makes none.
func (k *kubeServer) pod(spec object) (int, string) {
	k.t.Helper()
	code, out := k.try(http.MethodPost, "/api/v1/namespaces/keyway/pods?dryRun=All&fieldValidation=Strict", object{"metadata": object{"name": "p"}, "spec": spec})
	text, _ := json.Marshal(out)
	return code, string(text)
}
