package integration

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// gatewayDefinitions is the folder with the definitions of the Gateway API's kinds, of a
// channel ("standard" or "experimental") of the version that gatewaydev pins.
func gatewayDefinitions(t testing.TB, channel string) string {
	t.Helper()
	tool(t, "gateway-conformance.test") // the build of it brings the module with the definitions
	cmd := exec.Command("go", "list", "-mod=readonly", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api")
	cmd.Dir = "gatewaydev"
	out, err := cmd.Output()
	if dir := strings.TrimSpace(string(out)); err == nil && dir != "" {
		return filepath.Join(dir, "config", "crd", channel)
	}
	t.Fatalf("the definitions of the Gateway API are not in the module cache (%v): run make setup", err)
	return ""
}

// defineGateway makes the kinds of a channel of the Gateway API known.
func (k *kubeServer) defineGateway(channel string) {
	k.t.Helper()
	k.defines(gatewayDefinitions(k.t, channel))
}

// defines applies the definitions of a folder and waits until their kinds are served.
func (k *kubeServer) defines(dir string) {
	k.t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil || len(files) == 0 {
		k.t.Fatalf("no definitions in %s: %v", dir, err)
	}
	var paths []string
	for _, f := range files {
		if filepath.Base(f) == "kustomization.yaml" { // a list of the others
			continue
		}
		text, err := os.ReadFile(f)
		if err != nil {
			k.t.Fatal(err)
		}
		k.apply(string(text))
		paths = append(paths, kindsOf(k.t, string(text))...)
	}
	for _, path := range paths {
		poll(k.t, path+" is served", 30*time.Second, func() bool {
			code, _ := k.try(http.MethodGet, path, nil)
			return code == http.StatusOK
		})
	}
}

// kindsOf are the paths of the kinds that manifests define, in each version that is served.
func kindsOf(t testing.TB, text string) (paths []string) {
	t.Helper()
	for d := yaml.NewDecoder(strings.NewReader(text)); ; {
		var o struct {
			Kind string
			Spec struct {
				Group    string
				Names    struct{ Plural string }
				Versions []struct {
					Name   string
					Served bool
				}
			}
		}
		if err := d.Decode(&o); errors.Is(err, io.EOF) {
			return paths
		} else if err != nil {
			t.Fatal(err)
		}
		for _, v := range o.Spec.Versions {
			if o.Kind == "CustomResourceDefinition" && v.Served {
				paths = append(paths, "/apis/"+o.Spec.Group+"/"+v.Name+"/"+o.Spec.Names.Plural)
			}
		}
	}
}

// gatewayClass is the class that nodes of the tests serve.
const gatewayClass = `
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: keyway}
spec: {controllerName: keyway.dev/gateway}
---
`

// gatewayOf is a Gateway of that class up to its listeners, a list behind it.
func gatewayOf(namespace, name string) string {
	return fmt.Sprintf(`
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: %s, namespace: %s}
spec:
  gatewayClassName: keyway
  allowedListeners: {namespaces: {from: Same}}
  listeners:`, name, namespace)
}

// TestRigGateway has the kinds of the standard channel served.
func TestRigGateway(t *testing.T) {
	k := startKube(t)
	k.defineGateway("standard")
	for _, kind := range []string{"gatewayclasses", "gateways", "listenersets", "httproutes", "grpcroutes", "tlsroutes", "tcproutes", "udproutes", "referencegrants", "backendtlspolicies"} {
		k.do(http.MethodGet, "/apis/gateway.networking.k8s.io/v1/"+kind, nil)
	}
}
