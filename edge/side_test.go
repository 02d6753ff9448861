package edge

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"
	"weak"
)

// TestServerLeavesSideServices revokes a certificate that connections of a service
// beside the proxy were shown: idle ones end at once, busy ones after their answer.
func TestServerLeavesSideServices(t *testing.T) {
	ca := newAuthority(t)
	cert, key := ca.leaf("one.test")
	cert2, key2 := ca.leaf("two.test")
	h := serve(t, "certificates: [{cert: "+quoted(cert)+", key: "+quoted(key)+", snis: [one.test]}, {cert: "+quoted(cert2)+", key: "+quoted(key2)+", snis: [two.test]}]", nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked, answer := make(chan struct{}, 4), make(chan struct{})
	side := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			asked <- struct{}{}
			<-answer
		}
		_, _ = io.WriteString(w, "ok")
	})}
	h.server.Side(side)
	served := make(chan error, 1)
	go func() { served <- side.Serve(tls.NewListener(TrackListener(l), h.server.Terminator.Config())) }()
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	connect := func(name, path string) *tls.Conn {
		t.Helper()
		c := tls.Client(dial(t, l.Addr().String()), &tls.Config{ServerName: name, RootCAs: roots, NextProtos: []string{"http/1.1"}})
		_ = c.SetDeadline(time.Now().Add(8 * time.Second))
		if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: "+name+"\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		return c
	}
	get := func(name string) *tls.Conn {
		c := connect(name, "/")
		if _, err := io.ReadFull(c, make([]byte, len("HTTP/1.1 200 OK\r\n"))); err != nil {
			t.Fatal(err)
		}
		return c
	}
	idle, other, busy := get("one.test"), get("two.test"), connect("one.test", "/slow")
	<-asked
	h.server.Leave(t.Context(), []string{h.publisher.Current().Certs.Find("one.test").Slot.Fingerprint()})
	began := time.Now()
	if _, err := io.ReadAll(idle); err != nil || time.Since(began) > 30*time.Second {
		t.Errorf("an idle connection must end: %v after %v", err, time.Since(began))
	}
	close(answer)
	if text, err := io.ReadAll(busy); err != nil || !strings.HasSuffix(string(text), "ok") {
		t.Errorf("a busy one must be answered and end: %q %v", text, err)
	}
	late := get("one.test") // shown in that very moment
	if text, err := io.ReadAll(late); err != nil || !strings.Contains(string(text), "Connection: close") {
		t.Errorf("a connection of that moment must be answered once, and end: %q %v", text, err)
	}
	if _, err := io.WriteString(other, "GET /slow HTTP/1.1\r\nHost: two.test\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(other); err != nil || !strings.HasSuffix(string(text), "ok") {
		t.Errorf("a connection of another certificate: %q %v", text, err)
	}
	_ = side.Close()
	<-served
	if err := h.end(); err != nil {
		t.Errorf("Run: %v", err)
	}
	h.server.mu.Lock()
	defer h.server.mu.Unlock()
	if len(h.server.side) != 0 {
		t.Errorf("%d connections are remembered", len(h.server.side))
	}
}

// TestConnectionsKeepNoSnapshot holds a connection open while documents change: what
// was in force when it came must go.
func TestConnectionsKeepNoSnapshot(t *testing.T) {
	ca := newAuthority(t)
	document := func() string {
		cert, key := ca.leaf("one.test")
		return "certificates: [{cert: " + quoted(cert) + ", key: " + quoted(key) + ", snis: [one.test]}]"
	}
	h := serve(t, document(), nil)
	first := weak.Make(h.publisher.Current())
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	c := tls.Client(dial(t, h.secure), &tls.Config{ServerName: "one.test", RootCAs: roots, NextProtos: []string{"http/1.1"}})
	if line(c, "hello") != "ok" {
		t.Fatal("no answer")
	}
	h.use(document(), nil)
	h.use(document(), nil)
	poll(t, "the snapshot of an open connection is kept", func() bool {
		runtime.GC()
		return first.Value() == nil
	})
	if line(c, "again") != "ok" {
		t.Error("the connection has ended")
	}
	_ = c.Close()
}

// TestServerLeavesSessionsOfTLS12 revokes what a session of TLS 1.2 was made under: the
// server would show a resumed one the certificate in use, and shows it none.
func TestServerLeavesSessionsOfTLS12(t *testing.T) {
	ca := newAuthority(t)
	const id = "4f5a5c8e-0000-4000-8000-000000000001"
	document := func() string {
		cert, key := ca.leaf("one.test")
		return "certificates: [{id: " + id + ", cert: " + quoted(cert) + ", key: " + quoted(key) + ", snis: [one.test]}]"
	}
	h := serve(t, document(), nil)
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	sessions := tls.NewLRUClientSessionCache(4)
	connect := func() *tls.Conn {
		c := tls.Client(dial(t, h.secure), &tls.Config{ServerName: "one.test", RootCAs: roots, NextProtos: []string{"http/1.1"}, ClientSessionCache: sessions, MaxVersion: tls.VersionTLS12})
		if line(c, "hello") != "ok" {
			t.Fatal("no answer")
		}
		return c
	}
	connect()
	old := h.publisher.Current().Slot(id).Fingerprint()
	h.use(document(), nil)
	if !connect().ConnectionState().DidResume {
		t.Fatal("the session was not resumed; the test shows nothing")
	}
	h.server.Leave(t.Context(), []string{old})
	for i := range 2 {
		if !h.server.revoked.has(h.h1.info(i).Policy.(*connInfo).tls) {
			t.Errorf("connection %d of the revoked certificate stays", i)
		}
	}
}
