package integration

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startCertManager runs cert-manager's controllers at the API server, with their
// definitions. env is added to the process's.
func (k *kubeServer) startCertManager(env []string, args ...string) *lockedBuffer {
	k.t.Helper()
	controllers := tool(k.t, "certmanagerdev")
	k.defineCertManager()
	k.namespace("cert-manager")
	config := k.clientconfig("cert-manager", k.addr, k.issue("cert-manager", "system:masters"))
	out := process(k.t, k.dir, env, controllers, append([]string{"-kubeconfig", config}, args...)...)
	poll(k.t, "cert-manager runs", 30*time.Second, func() bool { return strings.Contains(out.String(), "certmanagerdev: running") })
	k.t.Cleanup(func() {
		if text := out.String(); k.t.Failed() {
			k.t.Logf("cert-manager said:\n...%s", text[max(0, len(text)-4000):])
		}
	})
	return out
}

// defineCertManager makes the kinds known, from the module that the controllers are of.
func (k *kubeServer) defineCertManager() {
	k.t.Helper()
	cmd := exec.Command("go", "mod", "download", "-json", "github.com/cert-manager/cert-manager")
	cmd.Dir = "certmanagerdev"
	text, err := cmd.Output()
	var module struct{ Dir string }
	if err != nil || json.Unmarshal(text, &module) != nil {
		k.t.Fatalf("finding cert-manager's module: %v", err)
	}
	k.defines(filepath.Join(module.Dir, "deploy", "crds"))
}

// caIssuer makes a ClusterIssuer that signs with an authority of the test.
func (k *kubeServer) caIssuer(name string, a *authority) {
	k.t.Helper()
	_, key := encode(k.t, tls.Certificate{PrivateKey: a.key})
	k.put("cert-manager", name, map[string]string{"tls.crt": a.pem, "tls.key": key})
	k.apply(fmt.Sprintf(`
apiVersion: cert-manager.io/v1
kind: ClusterIssuer
metadata: {name: %[1]s}
spec: {ca: {secretName: %[1]s}}
`, name))
}

// kubelet runs what cert-manager's pods for challenges would run, as long as they are
// there, and makes their endpoints. No other pod is looked at.
type kubelet struct {
	k      *kubeServer
	solver string // program
	runs   map[string]*exec.Cmd
	stop   chan struct{}
	done   chan struct{}
	solved *lockedBuffer // names of the pods that ran
}

func (k *kubeServer) startKubelet(t *testing.T, namespace string) *kubelet {
	t.Helper()
	l := &kubelet{k: k, solver: tool(t, "acmesolver"), runs: map[string]*exec.Cmd{}, stop: make(chan struct{}), done: make(chan struct{}), solved: &lockedBuffer{}}
	go func() {
		defer close(l.done)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-l.stop:
				for name := range l.runs {
					l.end(name)
				}
				return
			case <-tick.C:
				l.look(t, namespace)
			}
		}
	}()
	t.Cleanup(func() {
		close(l.stop)
		<-l.done
	})
	return l
}

func (l *kubelet) end(name string) {
	cmd := l.runs[name]
	delete(l.runs, name)
	_ = cmd.Process.Signal(syscall.SIGTERM)
	_ = cmd.Wait()
}

// list answers the objects of a kind that belong to challenges.
func (l *kubelet) list(namespace, plural string) []object {
	_, out := l.k.try(http.MethodGet, "/api/v1/namespaces/"+namespace+"/"+plural+"?labelSelector=acme.cert-manager.io/http01-solver%3Dtrue", nil)
	items, _ := out["items"].([]any)
	var list []object
	for _, x := range items {
		if o, ok := x.(object); ok {
			list = append(list, o)
		}
	}
	return list
}

func (l *kubelet) look(t *testing.T, namespace string) {
	there := map[string]bool{}
	for _, pod := range l.list(namespace, "pods") {
		meta, _ := pod["metadata"].(object)
		name, _ := meta["name"].(string)
		if there[name] = true; l.runs[name] != nil {
			continue
		}
		for _, service := range l.list(namespace, "services") {
			of, _ := service["metadata"].(object)
			if fmt.Sprint(of["labels"]) == fmt.Sprint(meta["labels"]) {
				l.start(t, namespace, name, fmt.Sprint(of["name"]), pod)
			}
		}
	}
	for name := range l.runs {
		if !there[name] {
			l.end(name)
		}
	}
}

var solverAddress = regexp.MustCompile(`listening on 127\.0\.0\.1:(\d+)`)

// start runs a pod and makes it the endpoint of its Service.
func (l *kubelet) start(t *testing.T, namespace, name, service string, pod object) {
	var read struct {
		Spec struct{ Containers []struct{ Args []string } }
	}
	text, _ := json.Marshal(pod)
	if json.Unmarshal(text, &read) != nil || len(read.Spec.Containers) != 1 {
		t.Errorf("the pod %s is none of cert-manager's", name)
		return
	}
	out := &lockedBuffer{}
	cmd := exec.Command(l.solver, read.Spec.Containers[0].Args...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Error(err)
		return
	}
	l.runs[name] = cmd
	var port string
	for end := time.Now().Add(10 * time.Second); port == ""; <-time.After(10 * time.Millisecond) {
		if m := solverAddress.FindStringSubmatch(out.String()); m != nil {
			port = m[1]
		} else if time.Now().After(end) {
			t.Errorf("the pod %s does not listen: %s", name, out.String())
			return
		}
	}
	slice := objects(t, fmt.Sprintf(`
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[1]s, namespace: %[2]s, labels: {kubernetes.io/service-name: %[1]s}}
addressType: FQDN
ports: [{name: http, port: %[3]s, protocol: TCP}]
endpoints: [{addresses: [origin.shop.test], conditions: {ready: true}}]
`, service, namespace, port))[0]
	if code, answer := l.k.attempt(slice); code > 299 {
		t.Errorf("the endpoint of %s: %d %s", name, code, answer)
	}
	_, _ = fmt.Fprintln(l.solved, name)
}
