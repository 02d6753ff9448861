package integration

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/certs/certtest"
)

// exchangeOver makes one request on a new TLS connection and answers its state; the
// answer is read to the end, so that the client has its tickets.
func exchangeOver(address string, c *tls.Config) (tls.ConnectionState, error) {
	conn, err := tls.Dial("tcp", address, c)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return tls.ConnectionState{}, err
	}
	if _, err := fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", c.ServerName); err != nil {
		return tls.ConnectionState{}, err
	}
	var answer bytes.Buffer
	if _, err := answer.ReadFrom(conn); err != nil || !strings.HasPrefix(answer.String(), "HTTP/1.1 ") {
		return tls.ConnectionState{}, fmt.Errorf("answer %.40q: %w", answer.String(), err)
	}
	return conn.ConnectionState(), nil
}

// TestReplicasShareKeys runs T-12 with three nodes that share a folder: a ticket of
// one is resumed at the others, and ECH keys are the same. After a restart of all of
// them both still are, and no key is on disk in clear.
func TestReplicasShareKeys(t *testing.T) {
	ca := certtest.NewCA(t, "replicas")
	pair := ca.Issue(certtest.Leaf{Names: []string{"a.test", "edge.test"}})
	text := func(b []byte) string {
		quoted, err := json.Marshal(string(b))
		if err != nil {
			t.Fatal(err)
		}
		return string(quoted)
	}
	document := "_format_version: \"3.0\"\ncertificates: [{cert: " + text(pair.Cert.Reveal()) + ", key: " + text(pair.Key.Reveal()) + ", snis: [a.test, edge.test]}]\n" +
		"routes: [{name: r, paths: [/], hosts: [a.test, edge.test]}]\n"
	volume := filepath.Join(t.TempDir(), "volume")
	dirs := make([]string, 3)
	env := map[string]string{"KEYWAY_SHARED_STATE": volume, "KEYWAY_TLS_ECH_PUBLIC_NAME": "edge.test", "KEYWAY_DEVELOPMENT": "off"}
	fleet := func() []*gateway {
		var all []*gateway
		for i := range dirs {
			if dirs[i] == "" {
				dirs[i] = filepath.Join(t.TempDir(), "data")
			}
			if i > 0 { // the first one made it
				env["KEYWAY_SHARED_STATE_KEY"] = filepath.Join(dirs[0], "shared.key")
			}
			all = append(all, start(t, options{document: document, env: env, dir: dirs[i]}))
		}
		return all
	}
	client := &tls.Config{ServerName: "a.test", RootCAs: ca.Pool(), ClientSessionCache: tls.NewLRUClientSessionCache(4)}
	// A client with an old ECH configuration learns the one in use.
	others, err := certs.NewECH("edge.test", nil)
	if err != nil {
		t.Fatal(err)
	}
	stale, err := others.ConfigList()
	if err != nil {
		t.Fatal(err)
	}
	learn := func(g *gateway) []byte {
		t.Helper()
		var rejected *tls.ECHRejectionError
		_, err := exchangeOver(g.tls, &tls.Config{ServerName: "a.test", RootCAs: ca.Pool(), EncryptedClientHelloConfigList: stale})
		if !errors.As(err, &rejected) {
			t.Fatalf("a stale ECH configuration: %v", err)
		}
		return rejected.RetryConfigList
	}
	var list []byte
	for round := range 2 {
		all := fleet()
		for i, g := range all {
			st, err := exchangeOver(g.tls, client)
			if err != nil || st.CurveID != tls.X25519MLKEM768 && !st.DidResume {
				t.Fatalf("node %d: %v, group %v", i, err, st.CurveID)
			}
			if first := round == 0 && i == 0; st.DidResume == first {
				t.Errorf("round %d, node %d: resumed %v", round, i, st.DidResume)
			}
			theirs := learn(g)
			if list == nil {
				list = theirs
			}
			if !bytes.Equal(theirs, list) {
				t.Errorf("round %d, node %d tells another ECH configuration", round, i)
			}
			st, err = exchangeOver(g.tls, &tls.Config{ServerName: "a.test", RootCAs: ca.Pool(), EncryptedClientHelloConfigList: list})
			if err != nil || !st.ECHAccepted {
				t.Errorf("round %d, node %d: ECH %v, %v", round, i, st.ECHAccepted, err)
			}
		}
		for _, g := range all {
			g.stop(syscall.SIGTERM)
		}
	}
	count := 0
	err = filepath.WalkDir(volume, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if count++; bytes.Contains(content, []byte("secret")) || bytes.Contains(content, []byte("from")) {
			t.Errorf("%s is in clear", path)
		}
		return err
	})
	if err != nil || count < 4 {
		t.Errorf("%d files in the shared folder, %v", count, err)
	}
}

// TestReplicasShareRevocations revokes a certificate at one node: the other that
// shares its state serves it no longer, ends its connections, and says why.
func TestReplicasShareRevocations(t *testing.T) {
	cert, key := pair(t, "a.test", "a.test")
	dir := t.TempDir()
	file(t, dir, "tls.crt", cert)
	file(t, dir, "tls.key", key)
	document := fmt.Sprintf("_format_version: \"3.0\"\nvaults: [{name: file, prefix: pair, config: {root: %s}}]\n"+
		"certificates: [{cert: \"{vault://pair/tls.crt/}\", key: \"{vault://pair/tls.key/}\", snis: [a.test]}]\nroutes: [{name: r, paths: [/], hosts: [a.test]}]\n", dir)
	volume := filepath.Join(t.TempDir(), "volume")
	env := map[string]string{"KEYWAY_SHARED_STATE": volume, "KEYWAY_DEVELOPMENT": "off"}
	one := start(t, options{document: document, env: env})
	env["KEYWAY_SHARED_STATE_KEY"] = filepath.Join(one.dir, "shared.key")
	two := start(t, options{document: document, env: env})
	open, err := tls.Dial("tcp", two.tls, &tls.Config{ServerName: "a.test", InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	// A connection that has begun is one of the engine, which ends it when it is idle.
	if _, err := fmt.Fprintf(open, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := open.Read(make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	if f := one.rule(t, "revoke", "a.test", "--reason", "the key was seen"); f.Old != 1 || f.New != 0 || f.Warning != "" {
		t.Errorf("revoked: %+v", f)
	}
	poll(t, "the replica serves it no longer", 20*time.Second, func() bool {
		c, err := tls.Dial("tcp", two.tls, &tls.Config{ServerName: "a.test", InsecureSkipVerify: true})
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	if err := open.SetDeadline(time.Now().Add(15 * time.Second)); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(open)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the replica's connection is still open after %d bytes", len(rest))
	}
	out, err := two.run("audit", "query", "--json")
	if err != nil || !strings.Contains(out, "the key was seen") {
		t.Errorf("the replica's ledger does not say why: %v %s", err, out)
	}
	// A node that comes later knows it from its start.
	env["KEYWAY_SHARED_STATE_KEY"] = filepath.Join(one.dir, "shared.key")
	three := start(t, options{document: document, env: env})
	if c, err := tls.Dial("tcp", three.tls, &tls.Config{ServerName: "a.test", InsecureSkipVerify: true}); err == nil {
		_ = c.Close()
		t.Error("a new replica serves the revoked certificate")
	}
}
