package edge

import (
	"crypto/tls"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/routing"
	"github.com/keyway-edge/keyway/secrets"
)

// shake makes a TLS connection to the house and answers its state.
func (h *house) shake(c *tls.Config) (tls.ConnectionState, error) {
	h.t.Helper()
	conn, err := tls.Dial("tcp", h.secure, c)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer func() { _ = conn.Close() }()
	// Under TLS 1.3 the server's refusal of a client certificate comes with the first read.
	if got := line(conn, "hello"); got != "ok" {
		_, err = conn.Read(make([]byte, 1))
		return conn.ConnectionState(), err
	}
	return conn.ConnectionState(), nil
}

func TestTerminatorChoosesByNameAndSwaps(t *testing.T) {
	ca := newAuthority(t)
	document := func() string {
		text := "certificates:\n"
		for i, name := range []string{"one.test", "*.two.test"} {
			cert, key := ca.leaf(name)
			text += "- {id: 4f5a5c8e-0000-4000-8000-00000000000" + string(rune('1'+i)) + ", cert: " + quoted(cert) + ", key: " + quoted(key) + ", snis: [\"" + name + "\"]}\n"
		}
		return text
	}
	h := serve(t, document(), nil)
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	serials := map[string]string{}
	for _, name := range []string{"one.test", "x.two.test"} {
		state, err := h.shake(&tls.Config{ServerName: name, RootCAs: roots})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		serials[name] = state.PeerCertificates[0].SerialNumber.String()
	}
	if serials["one.test"] == serials["x.two.test"] {
		t.Error("two names got one certificate")
	}
	_, err := h.shake(&tls.Config{ServerName: "nobody.test", RootCAs: roots})
	if err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("an unknown name without a default must end with unrecognized_name: %v", err)
	}
	h.use(document(), nil)
	state, err := h.shake(&tls.Config{ServerName: "one.test", RootCAs: roots})
	if err != nil || state.PeerCertificates[0].SerialNumber.String() == serials["one.test"] {
		t.Errorf("the next handshake must show the new certificate: %v", err)
	}
}

func TestTerminatorPinsTheSnapshotOfTheHello(t *testing.T) {
	ca := newAuthority(t)
	document := func() string {
		cert, key := ca.leaf("one.test")
		return "certificates: [{id: 4f5a5c8e-0000-4000-8000-000000000001, cert: " + quoted(cert) + ", key: " + quoted(key) + ", snis: [one.test]}]"
	}
	r := newRig(t, &Config{}, "")
	term := NewTerminator(r.publisher, r.config, certs.Base{}, nil)
	hello := &tls.ClientHelloInfo{Conn: &trackedConn{}, ServerName: "one.test"}
	if _, err := term.configFor(hello); err == nil {
		t.Error("before the first snapshot there is nothing to shake hands with")
	}
	first := r.use(document(), nil)
	if _, err := term.configFor(hello); err != nil {
		t.Fatal(err)
	}
	second := r.use(document(), nil)
	cert, err := term.certificate(hello)
	if err != nil || cert == nil {
		t.Fatal(err)
	}
	is := func(s *Snapshot) bool {
		want, err := s.Certs.Find("one.test").Slot.Active[0].TLS()
		return err == nil && string(want.Certificate[0]) == string(cert.Certificate[0])
	}
	if !is(first) || is(second) {
		t.Error("policy and certificate of one handshake must be of one generation")
	}
	if f := factsOf(hello); f.snap != first || f.certVersion() != "one.test@1" {
		t.Errorf("facts of generation %d, version %q", f.snap.Generation, f.certVersion())
	}
	if _, err := term.certificate(&tls.ClientHelloInfo{Conn: dial(t, still(t))}); err == nil {
		t.Error("a connection that the edge did not accept has no facts and no certificate")
	}
}

// issuer is a development CA that counts.
type issuer struct {
	ca     *authority
	issued []string
}

func (i *issuer) Issue(name string, _ time.Time) (certs.Pair, error) {
	i.issued = append(i.issued, name)
	cert, key := i.ca.leaf(name)
	return certs.Pair{Cert: secrets.NewValue([]byte(cert)), Key: secrets.NewValue([]byte(key))}, nil
}

func TestTerminatorDevelopment(t *testing.T) {
	ca := newAuthority(t)
	cert, key := ca.leaf("bound.test")
	r := newRig(t, &Config{Development: true}, "certificates: [{cert: "+quoted(cert)+", key: "+quoted(key)+", snis: [bound.test]}]\n"+
		"services: [{name: s, url: \"http://127.0.0.1:1\", routes: [{name: r, hosts: [route.test, \"*.wild.test\"]}]}]")
	dev := &issuer{ca: ca}
	term := NewTerminator(r.publisher, r.config, certs.Base{}, dev)
	f := func(name, want, version string) {
		t.Helper()
		dev.issued = nil
		hello := &tls.ClientHelloInfo{Conn: &trackedConn{}, ServerName: name}
		if _, err := term.configFor(hello); err != nil {
			t.Fatal(err)
		}
		got, err := term.certificate(hello)
		if err != nil || (got == nil) != (version == "") {
			t.Fatalf("%q: %v, %v", name, got != nil, err)
		}
		if strings.Join(dev.issued, " ") != want {
			t.Errorf("%q: issued %v, want %q", name, dev.issued, want)
		}
		if v := factsOf(hello).certVersion(); !strings.HasPrefix(v, version) || version == "" && v != "" {
			t.Errorf("%q: version %q, want %q", name, v, version)
		}
	}
	f("localhost", "localhost", "development@")
	f("Route.Test", "route.test", "development@")
	f("", "localhost", "development@")
	f("bound.test", "", "bound.test@1")
	f("x.wild.test", "", "")
	f("evil.test", "", "")
}

const partners = `
x_keyway_tls_policies:
- {name: partners, client_auth: required, ca_certificates: [4f5a5c8e-0000-4000-8000-00000000000a]}
ca_certificates:
- {id: 4f5a5c8e-0000-4000-8000-00000000000a, cert: %CA}
certificates:
- {cert: %CERT, key: %KEY, snis: [open.test, {name: closed.test, x_keyway_tls_policy: partners}, {name: "*.closed.test", x_keyway_tls_policy: partners}]}
`

// TestClientCertificatesHoldByName is about two names on one port that differ.
func TestClientCertificatesHoldByName(t *testing.T) {
	ca := newAuthority(t)
	cert, key := ca.leaf("open.test", "closed.test", "*.closed.test")
	mine, mineKey := ca.leaf("client.test")
	client, err := tls.X509KeyPair([]byte(mine), []byte(mineKey))
	if err != nil {
		t.Fatal(err)
	}
	h := serve(t, strings.NewReplacer("%CA", quoted(ca.pem), "%CERT", quoted(cert), "%KEY", quoted(key)).Replace(partners), nil)
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	if _, err := h.shake(&tls.Config{ServerName: "open.test", RootCAs: roots}); err != nil {
		t.Errorf("open.test asks for nothing: %v", err)
	}
	for _, max := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		cache := tls.NewLRUClientSessionCache(8)
		for range 2 {
			if _, err := h.shake(&tls.Config{ServerName: "open.test", RootCAs: roots, ClientSessionCache: oneKey{cache}, MaxVersion: max}); err != nil {
				t.Fatal(err)
			}
		}
		// The session of open.test is offered for closed.test.
		if state, err := h.shake(&tls.Config{ServerName: "closed.test", RootCAs: roots, ClientSessionCache: oneKey{cache}, MaxVersion: max}); err == nil {
			t.Errorf("closed.test was reached without a client certificate (resumed: %v)", state.DidResume)
		}
		if _, err := h.shake(&tls.Config{ServerName: "closed.test", RootCAs: roots, Certificates: []tls.Certificate{client}, MaxVersion: max}); err != nil {
			t.Errorf("with a client certificate: %v", err)
		}
	}
}

// oneKey offers any session for any name, as a hostile client would.
type oneKey struct{ tls.ClientSessionCache }

func (o oneKey) Get(string) (*tls.ClientSessionState, bool) { return o.ClientSessionCache.Get("all") }

func (o oneKey) Put(_ string, state *tls.ClientSessionState) { o.ClientSessionCache.Put("all", state) }

func TestHandleMisdirected(t *testing.T) {
	ca := newAuthority(t)
	o := newOrigin(t, nil)
	cert, key := ca.leaf("open.test", "closed.test")
	r := newRig(t, &Config{}, strings.NewReplacer("%CA", quoted(ca.pem), "%CERT", quoted(cert), "%KEY", quoted(key)).Replace(partners)+site(o, "{name: r, paths: [/]}"))
	for _, c := range []struct {
		sni, host string
		want      int
	}{
		{"open.test", "open.test", 200},
		{"open.test", "closed.test", 421},
		{"open.test", "CLOSED.test.:443", 421},
		{"open.test", "x.closed.test", 421},
		{"open.test", "unknown.test", 200},
		{"closed.test", "closed.test", 200},
		{"closed.test", "x.closed.test", 200}, // the same policy
		{"closed.test", "open.test", 421},
		{"", "closed.test", 421},
		{"clear", "open.test", 200},
		{"clear", "closed.test", 421},
		{"clear", "x.closed.test:80", 421},
	} {
		for _, p := range []routing.Policy{routing.Strict, routing.Compatible} {
			x := ask(t, "GET", c.host, "/")
			info := r.config.newConnInfo(x.Conn, p)
			x.Conn.Policy = info
			if c.sni != "clear" {
				x.Conn.TLS, x.Request.Scheme = &tls.ConnectionState{ServerName: c.sni}, "https"
				snap := r.publisher.Current()
				info.tls = &tlsFacts{snap: snap, policy: snap.Certs.Find(c.sni).Policy}
				if info.tls.policy == nil {
					info.tls.policy = snap.policies[""]
				}
			}
			if r.do(x); x.Response.Status != c.want {
				t.Errorf("%s: connected as %q, asked %q: answered %d, want %d", p, c.sni, c.host, x.Response.Status, c.want)
			}
			if reached := o.got() != nil; reached != (c.want == 200) {
				t.Errorf("%s: connected as %q, asked %q: origin reached %v", p, c.sni, c.host, reached)
			}
		}
	}
	// What an absolute target names counts under strict, the Host field under compatible.
	x := ask(t, "GET", "open.test", "/")
	x.Conn.Policy = r.config.newConnInfo(x.Conn, routing.Compatible)
	x.Request.Absolute, x.Request.HostField = true, "closed.test"
	if r.do(x); x.Response.Status != 421 {
		t.Errorf("an absolute target beside a Host field that decides: answered %d", x.Response.Status)
	}
}
