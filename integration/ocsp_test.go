package integration

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/certs/certtest"
	"github.com/keyway-edge/keyway/certs/issue"
	"github.com/keyway-edge/keyway/certs/ocsp"
)

// responder runs OpenSSL's own OCSP responder, which answers for ca from an index.
type responder struct {
	t    *testing.T
	dir  string
	port int
}

func newResponder(t *testing.T, ca *certtest.CA) *responder {
	if _, err := exec.LookPath("openssl"); err != nil {
		skip(t, "openssl is not installed")
	}
	r := &responder{t, t.TempDir(), freePort(t)}
	delegate := ca.Delegate(time.Now().Add(24*time.Hour), x509.ExtKeyUsageOCSPSigning)
	key, err := issue.EncodeKey(delegate.Key)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"ca.pem":     pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Cert.Raw}),
		"signer.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: delegate.Cert.Raw}),
		"signer.key": key.Reveal(),
	} {
		if err := os.WriteFile(filepath.Join(r.dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// serve answers for one certificate until stop is called: V for valid, R for revoked.
func (r *responder) serve(leaf *x509.Certificate, state string) (stop func()) {
	r.t.Helper()
	const form = "060102150405Z"
	when := ""
	if state == "R" {
		when = time.Now().Add(-time.Minute).UTC().Format(form) + ",keyCompromise"
	}
	serial := strings.ToUpper(leaf.SerialNumber.Text(16))
	if len(serial)%2 == 1 {
		serial = "0" + serial
	}
	line := fmt.Sprintf("%s\t%s\t%s\t%s\tunknown\t/CN=a.test\n", state, leaf.NotAfter.UTC().Format(form), when, serial)
	index := filepath.Join(r.dir, "index.txt")
	if err := os.WriteFile(index, []byte(line), 0o600); err != nil {
		r.t.Fatal(err)
	}
	file := func(name string) string { return filepath.Join(r.dir, name) }
	cmd := exec.Command("openssl", "ocsp", "-index", index, "-CA", file("ca.pem"), "-rsigner", file("signer.pem"), "-rkey", file("signer.key"), "-port", fmt.Sprint(r.port), "-nmin", "60")
	said := &lockedBuffer{}
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	// A connection that asks nothing would keep it busy for good.
	poll(r.t, "the responder listens", 20*time.Second, func() bool { return strings.Contains(said.String(), "waiting for OCSP client") })
	return func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
}

// TestStaplesOfARealResponder asks OpenSSL's responder, with a delegated signer, and
// shows OpenSSL's client the staple.
func TestStaplesOfARealResponder(t *testing.T) {
	ca := certtest.NewCA(t, "office").Intermediate("middle")
	r := newResponder(t, ca)
	pair := ca.Issue(certtest.Leaf{Names: []string{"a.test"}, OCSP: fmt.Sprintf("http://127.0.0.1:%d/", r.port)})
	b, refusal := certs.ParseBundle(pair)
	if refusal != nil {
		t.Fatal(refusal)
	}
	leaf := certtest.Certificate(t, pair)
	ask := func(state string) ocsp.Status {
		t.Helper()
		stop := r.serve(leaf, state)
		defer stop()
		s := ocsp.New(nil, nil)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		defer func() { cancel(); <-done }()
		s.Want([]*certs.Bundle{b})
		var st ocsp.Status
		poll(t, "the responder is asked", 20*time.Second, func() bool {
			st, _ = s.Status(b.Fingerprint)
			return st.State != "" || st.Failures > 0
		})
		return st
	}
	if st := ask("V"); st.State != "good" {
		t.Fatalf("%+v", st)
	}
	cert, err := b.TLS()
	if err != nil || len(cert.OCSPStaple) == 0 {
		t.Fatalf("no staple: %v", err)
	}
	t.Run("openssl takes the staple", func(t *testing.T) {
		l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{*cert}})
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_ = c.(*tls.Conn).Handshake()
				_ = c.Close()
			}
		}()
		defer l.Close()
		out, _ := exec.Command("openssl", "s_client", "-connect", l.Addr().String(), "-servername", "a.test", "-status", "-CAfile", filepath.Join(r.dir, "ca.pem"), "-partial_chain").CombinedOutput()
		if !strings.Contains(string(out), "OCSP Response Status: successful") || !strings.Contains(string(out), "Cert Status: good") {
			t.Errorf("%s", out)
		}
	})
	if st := ask("R"); st.State != "revoked" || st.Reason != "key compromise" {
		t.Errorf("%+v", st)
	}
	if cert, err := b.TLS(); err != nil || len(cert.OCSPStaple) != 0 {
		t.Errorf("a revoked certificate shows a staple: %v", err)
	}
}
