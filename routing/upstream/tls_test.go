package upstream

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/secrets"
)

// authority is a CA of the test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T, under *authority) *authority {
	t.Helper()
	a := &authority{pool: x509.NewCertPool()}
	a.cert, a.key = mint(t, under, &x509.Certificate{
		Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	a.pool.AddCert(a.cert)
	return a
}

// mint signs a certificate by a, or by itself without one.
func mint(t *testing.T, a *authority, c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber, _ = rand.Int(rand.Reader, big.NewInt(1<<62))
	if c.NotAfter.IsZero() {
		c.NotAfter = time.Now().Add(time.Hour)
	}
	c.NotBefore = c.NotAfter.Add(-2 * time.Hour)
	parent, signer := c, key
	if a != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return made, key
}

// leaf is a pair for the names, with the chain that follows it.
func (a *authority) leaf(t *testing.T, edit func(*x509.Certificate), names ...string) tls.Certificate {
	t.Helper()
	c := &x509.Certificate{
		Subject: pkix.Name{CommonName: "leaf"}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else {
			c.DNSNames = append(c.DNSNames, n)
		}
	}
	if edit != nil {
		edit(c)
	}
	made, key := mint(t, a, c)
	return tls.Certificate{Certificate: [][]byte{made.Raw}, PrivateKey: key}
}

func bundle(t *testing.T, pair tls.Certificate) *certs.Bundle {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	b, refusal := certs.ParseBundle(certs.Pair{
		Cert: secrets.NewValue(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})),
		Key:  secrets.NewValue(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})),
	})
	if refusal != nil {
		t.Fatal(refusal)
	}
	return b
}

// secure starts an origin over TLS that answers "<server name> <client's serial> <resumed>".
func secure(t *testing.T, c *tls.Config) (string, *atomic.Int32) {
	t.Helper()
	var conns atomic.Int32
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		serial := "-"
		if len(r.TLS.PeerCertificates) > 0 {
			serial = r.TLS.PeerCertificates[0].SerialNumber.String()
		}
		resumed := " full"
		if r.TLS.DidResume {
			resumed = " resumed"
		}
		io.WriteString(w, r.TLS.ServerName+" "+serial+resumed)
	}))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.TLS = c
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String(), &conns
}

// over makes a gateway that speaks TLS to addr, trusting what roots holds.
func over(t *testing.T, pools *Pools, roots *x509.CertPool, print string, client *certs.Bundle, edit func(*spec.Service), addr string) *gateway {
	t.Helper()
	d := document(at(addr, 100))
	s := d.Services[0]
	s.Retries, s.Protocol = 0, "https"
	if client != nil {
		s.ClientCertificate = "client"
	}
	if edit != nil {
		edit(s)
	}
	g := &gateway{pools: pools, svc: s, doc: d}
	var problems spec.Problems
	g.set, problems = Build(nil, Inputs{
		Doc: d, Pools: pools,
		ClientCertificate: func(string) (*certs.Bundle, error) { return client, nil },
		Roots:             func([]string) (*x509.CertPool, string, error) { return roots, print, nil },
	})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return g
}

func TestTLSIsVerified(t *testing.T) {
	ca, other := newAuthority(t, nil), newAuthority(t, nil)
	expired := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }
	f := func(name string, want int, pair tls.Certificate, trust *authority, edit func(*spec.Service), out *Outgoing) {
		t.Helper()
		addr, _ := secure(t, &tls.Config{Certificates: []tls.Certificate{pair}})
		pools := NewPools(Settings{VerifyDefault: true})
		defer pools.Close()
		g := over(t, pools, trust.pool, "1", nil, edit, addr)
		x := ask(t.Context(), "GET", "")
		status, body := g.do(x, out)
		if status != want {
			t.Errorf("%s: got %d %q, want %d; attempts %v", name, status, body, want, x.Attempts)
		}
	}
	no := false
	unverified := func(s *spec.Service) { s.TLSVerify = &no }
	named := func(host string) *Outgoing { return &Outgoing{Host: host} }
	f("address on the certificate", 200, ca.leaf(t, nil, "127.0.0.1"), ca, nil, nil)
	f("name on the certificate", 200, ca.leaf(t, nil, "a.test"), ca, nil, named("a.test:99"))
	f("other name", 502, ca.leaf(t, nil, "b.test"), ca, nil, named("a.test"))
	f("address not on it", 502, ca.leaf(t, nil, "a.test"), ca, nil, nil)
	f("unknown CA", 502, other.leaf(t, nil, "127.0.0.1"), ca, nil, nil)
	f("expired", 502, ca.leaf(t, expired, "127.0.0.1"), ca, nil, nil)
	called := func(name string, subjects ...string) func(*spec.Service) {
		return func(s *spec.Service) { s.TLSName, s.TLSSubjects = name, subjects }
	}
	workload, _ := url.Parse("spiffe://a.test/web")
	uri := func(c *x509.Certificate) { c.URIs = append(c.URIs, workload) }
	f("a name of the service's own", 200, ca.leaf(t, nil, "b.test"), ca, called("b.test"), named("a.test"))
	f("a name of the service's own, not on it", 502, ca.leaf(t, nil, "a.test"), ca, called("b.test"), named("a.test"))
	f("a subject", 200, ca.leaf(t, nil, "c.test"), ca, called("b.test", "d.test", "c.test"), named("a.test"))
	f("a subject that is a URI", 200, ca.leaf(t, uri), ca, called("b.test", "spiffe://a.test/web"), nil)
	f("subjects below a host", 200, ca.leaf(t, nil, "x.c.test"), ca, called("b.test", "*.c.test"), nil)
	f("no subject", 502, ca.leaf(t, uri, "b.test", "a.test"), ca, called("b.test", "d.test", "spiffe://a.test/other"), named("a.test"))
	f("a subject of an unknown CA", 502, other.leaf(t, nil, "c.test"), ca, called("b.test", "c.test"), nil)
	f("a subject, expired", 502, ca.leaf(t, expired, "c.test"), ca, called("b.test", "c.test"), nil)
	also := func(dnsNames []string, uris ...string) func(*spec.Service) {
		return func(s *spec.Service) { s.TLSSANs = spec.SANs{DNSNames: dnsNames, URIs: uris} }
	}
	both := func(one, two func(*spec.Service)) func(*spec.Service) {
		return func(s *spec.Service) { one(s); two(s) }
	}
	more := also([]string{"d.test", "c.test", "*.e.test"}, "spiffe://A.test/web", "urn:x:y")
	f("names besides, the host's", 200, ca.leaf(t, nil, "a.test"), ca, more, named("a.test"))
	f("a name besides", 200, ca.leaf(t, nil, "c.test"), ca, more, named("a.test"))
	f("a name besides, by a wildcard", 200, ca.leaf(t, nil, "*.test"), ca, more, named("1.2.3.4"))
	f("a wildcard besides", 200, ca.leaf(t, nil, "*.E.test"), ca, more, named("a.test"))
	f("a wildcard besides, a host below it", 502, ca.leaf(t, nil, "x.e.test"), ca, more, named("a.test"))
	f("a URI besides", 200, ca.leaf(t, uri), ca, more, named("a.test"))
	f("a URI besides, another", 502, ca.leaf(t, uri), ca, also(nil, "spiffe://a.test/Web"), named("a.test"))
	f("a URI besides that is a name", 502, ca.leaf(t, nil, "c.test"), ca, also(nil, "https://c.test"), named("a.test"))
	f("a common name is no name besides", 502, ca.leaf(t, func(c *x509.Certificate) { c.Subject.CommonName = "c.test" }), ca, more, named("a.test"))
	f("neither the host's nor one besides", 502, ca.leaf(t, nil, "b.test"), ca, more, named("a.test"))
	f("a client's Host is no pattern", 502, ca.leaf(t, nil, "b.test"), ca, more, named("*.test"))
	f("a name besides, of an unknown CA", 502, other.leaf(t, nil, "c.test"), ca, more, named("a.test"))
	f("a name besides, expired", 502, ca.leaf(t, expired, "c.test"), ca, more, named("a.test"))
	f("a name besides a name of the service's own", 200, ca.leaf(t, nil, "c.test"), ca, both(called("b.test"), more), named("a.test"))
	f("a name besides subjects", 200, ca.leaf(t, nil, "c.test"), ca, both(called("b.test", "x.test"), more), named("a.test"))
	f("a subject, names besides", 200, ca.leaf(t, nil, "x.test"), ca, both(called("b.test", "x.test"), more), named("a.test"))
	f("the host's name beside subjects", 502, ca.leaf(t, nil, "b.test", "a.test"), ca, both(called("b.test", "x.test"), more), named("a.test"))
	f("names besides, unverified", 200, other.leaf(t, expired, "b.test"), ca, both(unverified, more), nil)
	f("all of it, unverified", 200, other.leaf(t, expired, "b.test"), ca, unverified, nil)
}

// TestNamesThatAreMissing holds what operators are told to what was expected and what is there.
func TestNamesThatAreMissing(t *testing.T) {
	ca := newAuthority(t, nil)
	f := func(s spec.Service, edit func(*x509.Certificate), want string) {
		t.Helper()
		addr, _ := secure(t, &tls.Config{Certificates: []tls.Certificate{ca.leaf(t, edit)}})
		pools := NewPools(Settings{VerifyDefault: true})
		defer pools.Close()
		g := over(t, pools, ca.pool, "1", nil, func(of *spec.Service) { of.TLSSANs, of.TLSSubjects = s.TLSSANs, s.TLSSubjects }, addr)
		x := ask(t.Context(), "GET", "")
		g.do(x, &Outgoing{Host: "a.test"})
		if len(x.Attempts) != 1 || x.Attempts[0].Err == nil || !strings.Contains(x.Attempts[0].Err.Error(), want) {
			t.Errorf("got %+v, want %s", x.Attempts, want)
		}
	}
	also := spec.SANs{DNSNames: []string{"c.test"}, URIs: []string{"spiffe://a.test/web"}}
	workload, _ := url.Parse("spiffe://a.test/other")
	f(spec.Service{TLSSANs: also}, func(c *x509.Certificate) {
		c.DNSNames, c.IPAddresses, c.URIs = []string{"b.test"}, []net.IP{net.IPv4(10, 0, 0, 1)}, []*url.URL{workload}
	}, `tls_sans: expected a certificate for one of ["a.test" "c.test" "spiffe://a.test/web"]; it is for ["b.test" "10.0.0.1" "spiffe://a.test/other"]`)
	f(spec.Service{TLSSANs: also, TLSSubjects: []string{"x.test"}}, func(c *x509.Certificate) { c.DNSNames = []string{"b.test"} },
		`x_keyway_tls_subjects: expected a certificate for one of ["x.test" "c.test" "spiffe://a.test/web"]; it is for ["b.test"]`)
	f(spec.Service{TLSSANs: also}, nil, `it is for []`)
	f(spec.Service{TLSSANs: also}, func(c *x509.Certificate) {
		for i := range 50 {
			c.DNSNames = append(c.DNSNames, "n"+strconv.Itoa(i)+".test")
		}
	}, `"n19.test"] and 30 more`)
}

func TestTLSVerifyDepth(t *testing.T) {
	root := newAuthority(t, nil)
	middle := newAuthority(t, root)
	pair := middle.leaf(t, nil, "127.0.0.1")
	pair.Certificate = append(pair.Certificate, middle.cert.Raw)
	named := middle.leaf(t, nil, "b.test")
	named.Certificate = append(named.Certificate, middle.cert.Raw)
	addr, _ := secure(t, &tls.Config{Certificates: []tls.Certificate{pair}})
	for depth, want := range []int{502, 200} {
		pools := NewPools(Settings{VerifyDefault: true})
		g := over(t, pools, root.pool, "1", nil, func(s *spec.Service) { s.TLSVerifyDepth = &depth }, addr)
		if status, body := g.do(ask(t.Context(), "GET", ""), nil); status != want {
			t.Errorf("depth %d: got %d %q", depth, status, body)
		}
		also := func(s *spec.Service) {
			s.TLSVerifyDepth, s.TLSName, s.TLSSANs = &depth, "a.test", spec.SANs{DNSNames: []string{"b.test"}}
		}
		addr, _ := secure(t, &tls.Config{Certificates: []tls.Certificate{named}})
		if status, body := over(t, pools, root.pool, "1", nil, also, addr).do(ask(t.Context(), "GET", ""), nil); status != want {
			t.Errorf("depth %d, a name besides: got %d %q", depth, status, body)
		}
		pools.Close()
	}
}

// A new client certificate and new roots are used by the next request already:
// neither connections nor sessions of the old ones serve it.
func TestIdentityIsNotShared(t *testing.T) {
	ca := newAuthority(t, nil)
	addr, conns := secure(t, &tls.Config{
		Certificates: []tls.Certificate{ca.leaf(t, nil, "127.0.0.1", "a.test", "b.test")},
		ClientAuth:   tls.RequestClientCert,
	})
	pools := NewPools(Settings{VerifyDefault: true})
	defer pools.Close()
	first, second := bundle(t, ca.leaf(t, nil, "client")), bundle(t, ca.leaf(t, nil, "client"))
	get := func(g *gateway, host string) string {
		t.Helper()
		out := &Outgoing{Host: host, HostDefault: host == ""}
		status, body := g.do(ask(t.Context(), "GET", ""), out)
		if status != 200 {
			t.Fatal(status, body)
		}
		return body
	}
	serial := func(body string) string { return strings.Fields(" x" + body)[1] }
	one := over(t, pools, ca.pool, "1", first, nil, addr)
	a := get(one, "a.test")
	if get(one, "a.test") != a || conns.Load() != 1 || !strings.HasPrefix(a, "a.test ") {
		t.Fatalf("%d connections for two requests of one identity: %q", conns.Load(), a)
	}
	if b := get(one, "b.test"); conns.Load() != 2 || !strings.HasPrefix(b, "b.test ") || strings.HasSuffix(b, "resumed") {
		t.Fatalf("another name must have its own connection and session: %q", b)
	}
	two := over(t, pools, ca.pool, "1", second, nil, addr)
	if c := get(two, "a.test"); conns.Load() != 3 || serial(c) == serial(a) || strings.HasSuffix(c, "resumed") {
		t.Fatalf("the new client certificate was not used: %q after %q", c, a)
	}
	three := over(t, pools, newAuthority(t, nil).pool, "2", second, nil, addr)
	if status, _ := three.do(ask(t.Context(), "GET", ""), &Outgoing{Host: "a.test"}); status != 502 {
		t.Fatalf("roots that don't hold the CA: got %d", status)
	}
	if n := pools.Stats().Idle; n != 3 {
		t.Fatalf("%d idle connections", n)
	}
	for _, s := range pools.stacks {
		for c := s.take(time.Now()); c != nil; c = s.take(time.Now()) {
			c.close()
		}
	}
	if d := get(two, "a.test"); !strings.HasSuffix(d, " resumed") {
		t.Errorf("a session of the same identity was not resumed: %q", d)
	}
}

// Names that are taken away or given are a matter of the next request: neither a
// connection nor a session that was right by others serves it.
func TestNamesAreOfTheIdentity(t *testing.T) {
	ca := newAuthority(t, nil)
	workload, _ := url.Parse("spiffe://b.test/web")
	pair := ca.leaf(t, func(c *x509.Certificate) { c.URIs = []*url.URL{workload} }, "b.test")
	addr, conns := secure(t, &tls.Config{Certificates: []tls.Certificate{pair}})
	pools := NewPools(Settings{VerifyDefault: true})
	defer pools.Close()
	get := func(sans spec.SANs, want int, total int32) string {
		t.Helper()
		g := over(t, pools, ca.pool, "1", nil, func(s *spec.Service) { s.TLSSANs = sans }, addr)
		status, body := g.do(ask(t.Context(), "GET", ""), &Outgoing{Host: "a.test"})
		if status != want || conns.Load() != total {
			t.Fatalf("got %d %q over %d connections, want %d over %d", status, body, conns.Load(), want, total)
		}
		return body
	}
	b := spec.SANs{DNSNames: []string{"b.test"}}
	get(b, 200, 1)
	get(b, 200, 1)
	get(spec.SANs{}, 502, 2)
	get(spec.SANs{DNSNames: []string{"c.test"}}, 502, 3)
	get(spec.SANs{URIs: []string{"spiffe://b.test/web"}}, 200, 4)
	get(spec.SANs{URIs: []string{"spiffe://b.test/other"}}, 502, 5)
	if body := get(spec.SANs{DNSNames: []string{"b.test", "c.test"}}, 200, 6); strings.HasSuffix(body, "resumed") {
		t.Errorf("a session that was right by other names was resumed: %q", body)
	}
	get(b, 200, 6)
	for _, s := range pools.stacks {
		for c := s.take(time.Now()); c != nil; c = s.take(time.Now()) {
			c.close()
		}
	}
	if body := get(b, 200, 7); !strings.HasSuffix(body, " resumed") {
		t.Errorf("a session that was right by the same names was not resumed: %q", body)
	}
}

// Over TLS too, bytes after a response are nobody's answer: what came in the
// same record, in the next one, and late.
func TestExtraBytesOverTLS(t *testing.T) {
	const poison = "HTTP/1.1 200 OK\r\nX-Smuggled: 1\r\nContent-Length: 8\r\n\r\npoisoned"
	ca := newAuthority(t, nil)
	config := &tls.Config{Certificates: []tls.Certificate{ca.leaf(t, nil, "127.0.0.1")}}
	for name, send := range map[string]func(io.Writer){
		"same record": func(w io.Writer) { io.WriteString(w, hello+poison) },
		"next record": func(w io.Writer) { io.WriteString(w, hello); io.WriteString(w, poison) },
		"late": func(w io.Writer) {
			io.WriteString(w, hello)
			<-time.After(20 * time.Millisecond)
			io.WriteString(w, poison)
		},
	} {
		sent := make(chan bool, 100)
		addr := origin(t, func(c net.Conn, _ *bufio.Reader, _ int) {
			tc := tls.Server(c, config)
			r := bufio.NewReader(tc)
			for readHead(r) != "" {
				send(tc)
				sent <- true
			}
		})
		pools := NewPools(Settings{VerifyDefault: true})
		g := over(t, pools, ca.pool, "1", nil, nil, addr)
		for i := range 5 {
			x := ask(t.Context(), "GET", "")
			if status, body := g.do(x, nil); status != 200 || body != "hello" || x.Response.Fields.Has("X-Smuggled") {
				t.Fatalf("%s: request %d: %d %q", name, i, status, body)
			}
			<-sent
			waitFor(t, g.idleIsDead)
		}
		pools.Close()
	}
}

// An origin that takes the connection and then says nothing is a connect
// timeout, and a client that leaves meanwhile is not waited for.
func TestSilentHandshake(t *testing.T) {
	addr := origin(t, func(c net.Conn, _ *bufio.Reader, _ int) { io.Copy(io.Discard, c) })
	pools := NewPools(Settings{VerifyDefault: true})
	defer pools.Close()
	g := over(t, pools, newAuthority(t, nil).pool, "1", nil, func(s *spec.Service) { s.ConnectTimeout = 100 }, addr)
	if status, message := g.do(ask(t.Context(), "GET", ""), nil); status != 504 || message != messageTimeout {
		t.Errorf("got %d %q", status, message)
	}
	g = over(t, pools, newAuthority(t, nil).pool, "1", nil, func(s *spec.Service) { s.ConnectTimeout = 60000 }, addr)
	ctx, cancel := context.WithCancel(t.Context())
	x := ask(ctx, "POST", "x")
	x.WatchClient = cancel
	if status, _ := g.do(x, nil); status != StatusClientGone {
		t.Errorf("got %d", status)
	}
}
