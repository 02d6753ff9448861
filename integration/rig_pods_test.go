package integration

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// enclosed says whether the test runs in namespaces of its own, of the network, of
// processes and of mounts. Outside, it runs the test once more within such and waits: all
// ports and all addresses of loopback are free there, and nothing that was started in
// there outlives it, however it ends.
func enclosed(t *testing.T) bool {
	t.Helper()
	const within = "ENCLOSED" // the name of the test that runs in there
	if os.Getenv(within) == t.Name() {
		return true
	}
	if os.Geteuid() != 0 {
		skip(t, "network namespaces need root")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	limit := 3 * time.Hour
	if deadline, ok := t.Deadline(); ok {
		limit = time.Until(deadline) - 20*time.Second
	}
	cmd := exec.Command(installed(t, "unshare"), "--net", "--pid", "--mount-proc", "--fork", "--kill-child", "--",
		tool(t, "pkubelet"), "podinit", // raises the loopback interface, then becomes the rest
		self, "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1", fmt.Sprintf("-test.timeout=%v", limit))
	cmd.Env = append(os.Environ(), within+"="+t.Name(), "KEYWAY_REQUIRE=all")
	out := &retold{t: t}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		t.Fatalf("within its namespaces: %v", err)
	}
	return false
}

// framework are lines that say which test runs and how one ended. They are of a run within
// a run, and would be counted twice.
var framework = regexp.MustCompile(`^\s*(=== |--- PASS|PASS$|ok )`)

// retold passes on what a test says that runs in another process, line by line.
type retold struct {
	t    *testing.T
	rest []byte
}

func (r *retold) Write(p []byte) (int, error) {
	r.rest = append(r.rest, p...)
	for {
		line, rest, ok := bytes.Cut(r.rest, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		r.rest = rest
		if !framework.Match(line) {
			_, _ = fmt.Fprintf(r.t.Output(), "%s\n", bytes.ReplaceAll(line, []byte("--- "), []byte("-- ")))
		}
	}
}

// cluster is an API server with a controller manager, and a kubelet that runs pods as
// processes, each in a network namespace of its own with an address of its own.
type cluster struct {
	*kubeServer
	shim string // kubeconfig for those who write slices themselves
}

// startCluster runs all of a cluster.
func startCluster(t testing.TB) *cluster {
	t.Helper()
	manager, kubelet := tool(t, "kube-controller-manager"), tool(t, "pkubelet")
	tool(t, "ip") // the kubelet runs it
	// The kubelet writes slices right into etcd, in JSON.
	c := &cluster{kubeServer: startKubeWith(t, "--service-cluster-ip-range=127.96.0.0/16", "--authorization-mode=AlwaysAllow", "--storage-media-type=application/json")}
	admin := c.clientconfig("admin", c.addr, c.issue("admin", "system:masters"))
	process(t, c.dir, nil, manager, "--kubeconfig="+c.clientconfig("manager", c.addr, c.issue("system:kube-controller-manager", "")), "--leader-elect=false",
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", freePort(t)), "--cert-dir="+c.dir, "--authentication-skip-lookup=true",
		"--service-account-private-key-file="+filepath.Join(c.dir, "accounts.key"), "--root-ca-file="+c.ca, "--use-service-account-credentials=true",
		"--controllers=namespace-controller,garbage-collector-controller")
	shim := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	c.shim = c.clientconfig("shim", "http://"+shim, c.issue("admin", "system:masters"))
	out := process(t, c.dir, nil, kubelet, "-kubeconfig", admin, "-etcd", c.etcd, "-state", filepath.Join(c.dir, "pods"), "-kubelet-port", fmt.Sprint(freePort(t)), "-shim", shim,
		"-veth", "-ip-base", "10.64",
		"-image", "registry.k8s.io/gateway-api/echo-basic="+tool(t, "echo-basic"), "-image", "registry.k8s.io/coredns/coredns="+tool(t, "minidns"))
	t.Cleanup(func() {
		if text := out.String(); t.Failed() {
			t.Logf("the kubelet said:\n...%s", text[max(0, len(text)-4000):])
		}
	})
	poll(t, "the kubelet is ready", 30*time.Second, func() bool { return strings.Contains(out.String(), "pkubelet: ready") })
	return c
}

// clientconfig writes a file by which a client with a certificate reaches an address.
func (k *kubeServer) clientconfig(name, addr string, client tls.Certificate) string {
	k.t.Helper()
	cert, key := encode(k.t, client)
	server := object{"server": addr}
	if strings.HasPrefix(addr, "https:") {
		server["certificate-authority"] = k.ca
	}
	text, err := json.Marshal(object{
		"apiVersion": "v1", "kind": "Config", "current-context": "c",
		"clusters": []any{object{"name": "c", "cluster": server}},
		"contexts": []any{object{"name": "c", "context": object{"cluster": "c", "user": "u"}}},
		"users":    []any{object{"name": "u", "user": object{"client-certificate-data": []byte(cert), "client-key-data": []byte(key)}}},
	})
	if err != nil {
		k.t.Fatal(err)
	}
	return file(k.t, k.dir, name+".kubeconfig", string(text))
}
