package integration

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// binary is the product as `make build` makes it.
func binary(t testing.TB) string {
	t.Helper()
	path, err := filepath.Abs("../bin/keyway")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v; run make build first", err)
	}
	return path
}

// skip skips a test for want of something, which KEYWAY_REQUIRE=all makes a failure.
func skip(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("KEYWAY_REQUIRE") == "all" {
		t.Fatalf("required, and cannot run: %s", why)
	}
	t.Skip(why)
}

// poll waits until ok answers true.
func poll(t testing.TB, what string, limit time.Duration, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, limit)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// given are the ports that were handed out: a server takes some time to listen on its
// own, in which nobody else may get it.
var given sync.Map

// freePort is a port of loopback that nobody listens on, below the range that
// outgoing connections take theirs from.
func freePort(t testing.TB) int {
	t.Helper()
	for range 1000 {
		n, err := rand.Int(rand.Reader, big.NewInt(10000))
		if err != nil {
			t.Fatal(err)
		}
		port := 20000 + int(n.Int64())
		if _, taken := given.LoadOrStore(port, true); taken {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

// gateway is a running node.
type gateway struct {
	t      testing.TB
	cmd    *exec.Cmd
	dir    string
	doc    string // its document
	proxy  string // host:port in clear
	tls    string // host:port
	status string // base URL
	log    *lockedBuffer
	done   chan struct{}
	err    error
}

type lockedBuffer struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	path string // of the file that has it instead
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.path != "" {
		text, _ := os.ReadFile(b.path)
		return string(text)
	}
	return b.buf.String()
}

// options of a gateway.
type options struct {
	document string            // text of the document; "" for the node's starter
	env      map[string]string // KEYWAY_... settings
	proxy    int               // port, 0 for a free one
	tls      int
	dir      string        // data folder, "" for a new one
	program  string        // "" for the one that was built
	prefix   []string      // what runs the program, and its arguments
	settings string        // file of settings, which has proxy_listen
	patience time.Duration // until it is ready, 0 for 20 s
	files    int           // descriptors that it may have, 0 for as many as the test
}

// start runs a node and waits until it is ready.
func start(t testing.TB, o options) *gateway {
	t.Helper()
	g := &gateway{t: t, dir: o.dir, log: &lockedBuffer{}, done: make(chan struct{})}
	if g.dir == "" {
		g.dir = filepath.Join(t.TempDir(), "data")
	}
	if o.proxy == 0 {
		o.proxy = freePort(t)
	}
	if o.tls == 0 {
		o.tls = freePort(t)
	}
	g.proxy, g.tls = fmt.Sprintf("127.0.0.1:%d", o.proxy), fmt.Sprintf("127.0.0.1:%d", o.tls)
	statusPort := freePort(t)
	g.status = fmt.Sprintf("http://127.0.0.1:%d", statusPort)
	env := map[string]string{
		"KEYWAY_PROXY_LISTEN": g.proxy, "KEYWAY_PROXY_TLS_LISTEN": g.tls, "KEYWAY_ADMIN_LISTEN": "off", "KEYWAY_MANAGER_LISTEN": "off",
		"KEYWAY_STATUS_LISTEN": fmt.Sprintf("127.0.0.1:%d", statusPort), "KEYWAY_DATA_DIR": g.dir, "KEYWAY_ACCESS_LOG": "off",
		"KEYWAY_ECHO_LISTEN": fmt.Sprintf("127.0.0.1:%d", freePort(t)),
	}
	if o.document != "" {
		g.doc = filepath.Join(t.TempDir(), "keyway.yaml")
		g.write(o.document)
		env["KEYWAY_DOCUMENTS"] = g.doc
	}
	if o.settings != "" {
		env["KEYWAY_SETTINGS"] = o.settings
		delete(env, "KEYWAY_PROXY_LISTEN")
	}
	for k, v := range o.env {
		env[k] = v
	}
	line := append(slices.Clone(o.prefix), cmp.Or(o.program, binary(t)), "serve")
	if o.files > 0 {
		line = append([]string{"prlimit", fmt.Sprintf("--nofile=%d:%d", o.files, o.files)}, line...)
	}
	g.cmd = exec.Command(line[0], line[1:]...)
	g.cmd.Env = append(os.Environ(), "GOCOVERDIR=")
	for k, v := range env {
		g.cmd.Env = append(g.cmd.Env, k+"="+v)
	}
	g.cmd.Stdout, g.cmd.Stderr = g.log, g.log
	if o.program != "" { // its end is not to wait for those who took its place
		g.log.path = filepath.Join(t.TempDir(), "log")
		f, err := os.OpenFile(g.log.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		g.cmd.Stdout, g.cmd.Stderr = f, f
	}
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		g.err = g.cmd.Wait()
		close(g.done)
	}()
	t.Cleanup(func() {
		g.stop(syscall.SIGKILL)
		if t.Failed() {
			text := g.log.String()
			if len(text) > 8000 {
				text = "..." + text[len(text)-8000:]
			}
			t.Logf("the node said:\n%s", text)
		}
	})
	if o.patience == 0 {
		o.patience = 20 * time.Second
	}
	poll(t, "the node is ready", o.patience, func() bool {
		select {
		case <-g.done:
			t.Fatalf("the node ended: %v\n%s", g.err, g.log.String())
		default:
		}
		return g.get("/status/ready") == http.StatusOK
	})
	return g
}

// write replaces the document, as an editor that saves does.
func (g *gateway) write(text string) {
	g.t.Helper()
	tmp := g.doc + ".new"
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		g.t.Fatal(err)
	}
	if err := os.Rename(tmp, g.doc); err != nil {
		g.t.Fatal(err)
	}
}

// get asks the status listener and answers the status, 0 for no answer.
func (g *gateway) get(path string) int {
	status, _ := g.read(path)
	return status
}

func (g *gateway) read(path string) (int, string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.status+path, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, ""
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, ""
	}
	return resp.StatusCode, string(body)
}

// run runs another command of the binary against this node.
func (g *gateway) run(args ...string) (string, error) {
	g.t.Helper()
	out, err := g.command(args...).CombinedOutput()
	return string(out), err
}

// command is another command of the binary against this node.
func (g *gateway) command(args ...string) *exec.Cmd {
	g.t.Helper()
	cmd := exec.Command(binary(g.t), args...)
	cmd.Env = append(os.Environ(), "KEYWAY_DATA_DIR="+g.dir)
	return cmd
}

// stop sends a signal and waits for the end; it answers the exit status.
func (g *gateway) stop(sig os.Signal) int {
	select {
	case <-g.done:
	default:
		_ = g.cmd.Process.Signal(sig)
		select {
		case <-g.done:
		case <-time.After(45 * time.Second):
			_ = g.cmd.Process.Kill()
			<-g.done
			g.t.Errorf("the node did not end on %v", sig)
		}
	}
	return g.cmd.ProcessState.ExitCode()
}

// pair makes a self-signed certificate for names.
func pair(t testing.TB, cn string, names ...string) (certPEM, keyPEM string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: cn}, DNSNames: names, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(30 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	kd, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kd}))
}

// file writes a file of a test and answers its path.
func file(t testing.TB, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
