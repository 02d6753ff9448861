package integration

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestChartPods (K-08) looks at the pods of every set of values: what a pod may do, that
// the node takes its settings, and that it has the time to drain.
func TestChartPods(t *testing.T) {
	for name, values := range chartValues() {
		t.Run(name, func(t *testing.T) {
			list := chart(t, values)
			deployment := of(list, "Deployment")[0]
			pod := in(deployment, "spec.template.spec")
			for path, want := range map[string]any{
				"securityContext.runAsNonRoot": true, "securityContext.runAsUser": 65532, "securityContext.seccompProfile.type": "RuntimeDefault",
				"containers.0.securityContext.allowPrivilegeEscalation": false, "containers.0.securityContext.readOnlyRootFilesystem": true,
				"containers.0.securityContext.capabilities.drop.0": "ALL", "containers.0.securityContext.capabilities.add": nil,
				"enableServiceLinks": false, "hostNetwork": nil, "automountServiceAccountToken": name != "documents",
				"containers.0.startupProbe.httpGet.path": "/status/live", "containers.0.livenessProbe.httpGet.path": "/status/live", "containers.0.readinessProbe.httpGet.path": "/status/ready",
			} {
				if got := in(pod, path); got != want {
					t.Errorf("%s is %v; expected %v", path, got, want)
				}
			}
			if in(pod, "containers.0.resources.limits.memory") == nil || in(pod, "containers.0.resources.requests.cpu") == nil {
				t.Error("there is no limit of memory, or no request of processors")
			}
			if account := of(list, "ServiceAccount")[0]; account["automountServiceAccountToken"] != false {
				t.Error("the account gives its token to every pod")
			}
			ports, _ := in(pod, "containers.0.ports").([]any)
			for _, p := range ports {
				if n, _ := in(p, "containerPort").(int); n < 1024 {
					t.Errorf("port %d needs a capability", n)
				}
			}
			text, _ := in(of(list, "ConfigMap")[0], "data.keyway.yaml").(string)
			if text == "" { // the key has a dot
				data, _ := in(of(list, "ConfigMap")[0], "data").(object)
				text, _ = data["keyway.yaml"].(string)
			}
			takes(t, text)
			var settings object
			readYAML(t, file(t, t.TempDir(), "keyway.yaml", text), &settings)
			grace, err := time.ParseDuration(fmt.Sprint(settings["grace"]))
			if err != nil {
				t.Fatal(err)
			}
			delay, _ := in(pod, "containers.0.lifecycle.preStop.sleep.seconds").(int)
			if whole, _ := in(pod, "terminationGracePeriodSeconds").(int); time.Duration(whole)*time.Second < time.Duration(delay)*time.Second+grace {
				t.Errorf("a pod has %d s to end; it waits for %d s and drains for %s", whole, delay, grace)
			}
		})
	}
}

// takes expects that a node takes settings: it comes as far as its data folder.
func takes(t *testing.T, settings string) {
	t.Helper()
	cmd := exec.Command(binary(t), "serve", "--settings", file(t, t.TempDir(), "keyway.yaml", settings), "--data-dir", "/dev/null/none")
	cmd.Env = []string{}
	out, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 || !strings.Contains(string(out), "data folder") {
		t.Errorf("%v: %s; expected that only the data folder is wrong\n%s", err, out, settings)
	}
}

// TestChartRights (K-01) walks every rule: no wildcards, nothing that a gateway does not
// do, and Secrets of all namespaces only where all are watched.
func TestChartRights(t *testing.T) {
	never := []string{"*", "delete", "deletecollection", "escalate", "bind", "impersonate", "approve", "sign"}
	for name, values := range chartValues() {
		list := chart(t, values)
		roles := slices.Concat(of(list, "ClusterRole"), of(list, "Role"))
		if (len(roles) == 0) != (name == "documents") {
			t.Errorf("%s: %d roles", name, len(roles))
		}
		for _, role := range roles {
			rules, _ := role["rules"].([]any)
			for _, rule := range rules {
				for _, r := range rights(rule) {
					resource, _, _ := strings.Cut(r.resource, "/")
					if slices.Contains(never, r.verb) || strings.Contains(r.resource, "*") || r.group == "*" || strings.HasPrefix(r.resource, "pods") || strings.HasPrefix(r.resource, "serviceaccounts") || r.group == "authentication.k8s.io" || r.group == "rbac.authorization.k8s.io" {
						t.Errorf("%s: %s %s has %s", name, role["kind"], in(role, "metadata.name"), r)
					}
					write := r.verb != "get" && r.verb != "list" && r.verb != "watch"
					if write && r.resource == resource && resource != "events" && resource != "leases" {
						t.Errorf("%s: %s writes more than status: %s", name, role["kind"], r)
					}
					if strings.Contains(values, "watchNamespaces") && role["kind"] == "ClusterRole" && !slices.Contains([]string{"ingressclasses", "gatewayclasses", "kongclusterplugins", "kongvaults"}, resource) &&
						(resource != "namespaces" || in(rule, "resourceNames") == nil) {
						t.Errorf("%s: the ClusterRole has what is in namespaces: %s", name, r)
					}
				}
			}
		}
	}
}

// right is one verb on one resource.
type right struct{ group, resource, verb string }

func (r right) String() string { return r.verb + " " + r.resource + " of " + r.group }

// rights are those of a rule.
func rights(rule any) (list []right) {
	words := func(field string) (words []string) {
		all, _ := in(rule, field).([]any)
		for _, w := range all {
			words = append(words, fmt.Sprint(w))
		}
		return words
	}
	for _, g := range words("apiGroups") {
		for _, r := range words("resources") {
			for _, v := range words("verbs") {
				list = append(list, right{g, r, v})
			}
		}
	}
	return list
}

// TestChartDoors (K-09): nobody but who is named reaches more than the traffic's ports, and
// the admin and manager listeners are open to the pod alone.
func TestChartDoors(t *testing.T) {
	for name, values := range chartValues() {
		list := chart(t, values)
		for _, policy := range of(list, "NetworkPolicy") {
			open, _ := in(policy, "spec.ingress").([]any)
			for _, rule := range open {
				ports, _ := in(rule, "ports").([]any)
				if len(ports) == 0 {
					t.Errorf("%s: a rule without ports is for all of them", name)
				}
				for _, p := range ports {
					if in(p, "port") == "status" && in(rule, "from") == nil {
						t.Errorf("%s: everybody may read status and metrics", name)
					}
				}
			}
		}
		for _, service := range of(list, "Service") {
			ports, _ := in(service, "spec.ports").([]any)
			for _, p := range ports {
				if target := in(p, "targetPort"); target == "status" && in(service, "spec.clusterIP") != "None" {
					t.Errorf("%s: %v of the traffic's Service", name, target)
				}
			}
		}
		data, _ := in(of(list, "ConfigMap")[0], "data").(object)
		if text := fmt.Sprint(data["keyway.yaml"]); strings.Contains(text, "admin_") || strings.Contains(text, "manager_") {
			t.Errorf("%s: the settings open more than loopback:\n%s", name, text)
		}
	}
	if len(of(chart(t, ""), "NetworkPolicy")) != 1 {
		t.Error("no NetworkPolicy is made by default")
	}
}
