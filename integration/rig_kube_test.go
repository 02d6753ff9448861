package integration

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os/exec"
	"testing"
	"time"
)

// kubeServer is a real API server of Kubernetes with an etcd of its own. No other part
// of a cluster runs: nothing makes accounts or pods but the test.
type kubeServer struct {
	t      testing.TB
	a      *authority // signed the server's certificate and its clients'
	addr   string     // base URL
	client *http.Client
	out    *lockedBuffer
	dir    string
	ca     string // file of the authority
	etcd   string // base URL of its etcd
	args   []string
	kill   func() // ends the API server, nil while it does not run
}

// startKube runs etcd and the API server, which grants rights by roles, with more flags
// if there are any.
func startKube(t testing.TB, more ...string) *kubeServer {
	t.Helper()
	return startKubeWith(t, append([]string{"--service-cluster-ip-range=10.0.0.0/24", "--authorization-mode=RBAC"}, more...)...)
}

// startKubeWith runs etcd and the API server with more flags.
func startKubeWith(t testing.TB, flags ...string) *kubeServer {
	t.Helper()
	etcd, server := tool(t, "etcd"), tool(t, "kube-apiserver")
	k := &kubeServer{t: t, a: newAuthority(t, "kube"), dir: t.TempDir(), out: &lockedBuffer{}}
	k.ca = file(t, k.dir, "ca.crt", k.a.pem)
	own, peer := fmt.Sprintf("http://127.0.0.1:%d", freePort(t)), fmt.Sprintf("http://127.0.0.1:%d", freePort(t))
	k.etcd = own
	process(t, k.dir, nil, etcd, "--name", "t", "--data-dir", k.dir+"/etcd", "--unsafe-no-fsync", "--log-level", "error",
		"--listen-client-urls", own, "--advertise-client-urls", own, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "t="+peer)
	port := freePort(t)
	k.addr = fmt.Sprintf("https://127.0.0.1:%d", port)
	cert, key := encode(t, k.issue("localhost", ""))
	accounts := k.issue("accounts", "")
	_, signing := encode(t, accounts)
	public, err := x509.MarshalPKIXPublicKey(accounts.PrivateKey.(*ecdsa.PrivateKey).Public())
	if err != nil {
		t.Fatal(err)
	}
	verifying := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))
	k.args = []string{
		server, "--etcd-servers=" + own, "--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", port), "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none",
		"--tls-cert-file=" + file(t, k.dir, "server.crt", cert), "--tls-private-key-file=" + file(t, k.dir, "server.key", key),
		"--client-ca-file=" + k.ca, "--service-account-key-file=" + file(t, k.dir, "accounts.pub", verifying), "--service-account-signing-key-file=" + file(t, k.dir, "accounts.key", signing),
		"--service-account-issuer=https://kubernetes.default.svc", "--anonymous-auth=false",
		"--disable-admission-plugins=ServiceAccount", // no controller makes accounts for pods
	}
	k.args = append(k.args, flags...)
	k.client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: k.a.pool(), Certificates: []tls.Certificate{k.issue("admin", "system:masters")}},
	}}
	t.Cleanup(func() {
		if k.stop(); t.Failed() {
			text := k.out.String()
			t.Logf("the API server said:\n...%s", text[max(0, len(text)-2000):])
		}
	})
	k.start()
	return k
}

// issue makes a pair for 127.0.0.1 and as a client with a name and a group.
func (k *kubeServer) issue(name, group string) tls.Certificate {
	k.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		k.t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if group != "" {
		tmpl.Subject.Organization = []string{group}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, k.a.cert, &key.PublicKey, k.a.key)
	if err != nil {
		k.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// start runs the API server and waits until it is ready.
func (k *kubeServer) start() {
	k.t.Helper()
	cmd := exec.Command(k.args[0], k.args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = k.dir, k.out, k.out
	if err := cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	k.kill = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	poll(k.t, "the API server is ready", time.Minute, func() bool {
		code, _ := k.try(http.MethodGet, "/readyz", nil)
		return code == http.StatusOK
	})
}

// stop kills the API server; etcd goes on.
func (k *kubeServer) stop() {
	if k.kill != nil {
		k.kill()
		k.kill = nil
	}
}

// try calls the API as an administrator and answers the status and the body's object.
func (k *kubeServer) try(method, path string, body any) (int, map[string]any) {
	k.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		k.t.Fatal(err)
	}
	req, err := http.NewRequest(method, k.addr+path, bytes.NewReader(text))
	if err != nil {
		k.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := k.client.Do(req)
	if err != nil {
		return 0, nil
	}
	defer func() { _ = resp.Body.Close() }()
	answer, _ := io.ReadAll(resp.Body)
	var out map[string]any
	_ = json.Unmarshal(answer, &out)
	return resp.StatusCode, out
}

// do calls the API and fails the test when it refuses.
func (k *kubeServer) do(method, path string, body any) map[string]any {
	k.t.Helper()
	code, out := k.try(method, path, body)
	if code == 0 || code > 299 {
		k.t.Fatalf("kube: %s %s: %d %v", method, path, code, out["message"])
	}
	return out
}

func (k *kubeServer) namespace(name string) {
	k.t.Helper()
	k.do(http.MethodPost, "/api/v1/namespaces", object{"metadata": object{"name": name}})
}

// object is one in JSON.
type object = map[string]any

// put writes a Secret, new or not; one with a certificate is of the type for these.
func (k *kubeServer) put(namespace, name string, fields map[string]string) {
	k.t.Helper()
	at := "/api/v1/namespaces/" + namespace + "/secrets"
	body := object{"metadata": object{"name": name}, "stringData": fields}
	if fields["tls.crt"] != "" {
		body["type"] = "kubernetes.io/tls"
	}
	if code, _ := k.try(http.MethodPut, at+"/"+name, body); code != http.StatusOK {
		k.do(http.MethodPost, at, body)
	}
}

func (k *kubeServer) remove(namespace, name string) {
	k.t.Helper()
	k.do(http.MethodDelete, "/api/v1/namespaces/"+namespace+"/secrets/"+name, nil)
}

// account makes a ServiceAccount that may do with these Secrets of its namespace what
// the verbs say.
func (k *kubeServer) account(namespace, name string, verbs, names []string) {
	k.t.Helper()
	rights := "/apis/rbac.authorization.k8s.io/v1/namespaces/" + namespace
	k.do(http.MethodPost, "/api/v1/namespaces/"+namespace+"/serviceaccounts", object{"metadata": object{"name": name}})
	k.do(http.MethodPost, rights+"/roles", object{"metadata": object{"name": name}, "rules": []any{
		object{"apiGroups": []string{""}, "resources": []string{"secrets"}, "verbs": verbs, "resourceNames": names},
	}})
	k.do(http.MethodPost, rights+"/rolebindings", object{
		"metadata": object{"name": name}, "subjects": []any{object{"kind": "ServiceAccount", "name": name, "namespace": namespace}},
		"roleRef": object{"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
	})
}

// allow changes which Secrets an account may read, and waits until that counts.
func (k *kubeServer) allow(namespace, name string, verbs, names []string) {
	k.t.Helper()
	path := "/apis/rbac.authorization.k8s.io/v1/namespaces/" + namespace + "/roles/" + name
	version := fmt.Sprintf("rights-%d", time.Now().UnixNano())
	k.do(http.MethodPut, path, object{"metadata": object{"name": name}, "rules": []any{
		object{"apiGroups": []string{""}, "resources": []string{"secrets"}, "verbs": verbs, "resourceNames": append([]string{version}, names...)},
	}})
	poll(k.t, "changed rights count", 20*time.Second, func() bool {
		out := k.do(http.MethodPost, "/apis/authorization.k8s.io/v1/subjectaccessreviews", object{"spec": object{
			"user": "system:serviceaccount:" + namespace + ":" + name, "resourceAttributes": object{"namespace": namespace, "verb": verbs[0], "resource": "secrets", "name": version},
		}})
		status, _ := out["status"].(map[string]any)
		return status["allowed"] == true
	})
}

// token asks for a token of a ServiceAccount, as kubelet does for a pod.
func (k *kubeServer) token(namespace, name string, audiences ...string) string {
	k.t.Helper()
	out := k.do(http.MethodPost, "/api/v1/namespaces/"+namespace+"/serviceaccounts/"+name+"/token", object{"spec": object{"expirationSeconds": 3600, "audiences": audiences}})
	status, _ := out["status"].(map[string]any)
	token, _ := status["token"].(string)
	if token == "" {
		k.t.Fatalf("kube: no token for %s/%s", namespace, name)
	}
	return token
}

// front is TLS for a proxy in front, with a certificate that the server's clients trust.
func (k *kubeServer) front() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{k.issue("front", "")}, MinVersion: tls.VersionTLS12}
}
