package edge

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/netip"
	"testing"

	"github.com/keyway-edge/keyway/routing/spec"
)

func TestHostnames(t *testing.T) {
	h := hostnamesOf([]*spec.Listener{
		{Protocol: "https", Hostnames: []string{"*", "a.test", "*.wild.test", "*.deep.wild.test", "Both.test."}},
		{Protocol: "tls", Hostnames: []string{"s.test", "*.s.test", "x.wild.test", "both.test"}},
	})
	for name, want := range map[string]string{
		"a.test": "a.test 1", "b.test": "* 1", "": "* 1", "*": "* 1", "wild.test": "* 1", "y.wild.test": "*.wild.test 1", "y.z.wild.test": "*.wild.test 1",
		"y.deep.wild.test": "*.deep.wild.test 1", "deep.wild.test": "*.wild.test 1", "x.wild.test": "x.wild.test 2", "z.s.test": "*.s.test 2", "both.test": "both.test 3",
	} {
		host, how := h.of(name)
		if got := fmt.Sprint(host, " ", how); got != want {
			t.Errorf("%q is of %s, want %s", name, got, want)
		}
	}
	for _, c := range []struct {
		sni, host string
		want      bool
	}{
		{"a.test", "A.test.:443", false},
		{"A.TEST", "a.test", false},
		{"a.test", "b.test", true}, // of *, which is another
		{"b.test", "c.test", false},
		{"b.test", "a.test", true},
		{"y.wild.test", "z.wild.test", false},
		{"y.wild.test", "y.deep.wild.test", true},
		{"y.wild.test", "x.wild.test", true}, // of streams
		{"", "a.test", false},
		{"a.test", "", true},
		{"a.test", "[::1]:443", true},
	} {
		if got := h.astray(c.sni, c.host); got != c.want {
			t.Errorf("connected as %q, asked %q: astray %v", c.sni, c.host, got)
		}
	}
	if none := hostnamesOf([]*spec.Listener{{Protocol: "https"}}); none != nil || none.astray("a.test", "b.test") {
		t.Error("a listener without hostnames tells none apart")
	}
	some := hostnamesOf([]*spec.Listener{{Protocol: "https", Hostnames: []string{"a.test"}}})
	if some.astray("a.test", "b.test") || !some.astray("b.test", "a.test") {
		t.Error("a host that no hostname has is the routes' matter")
	}
}

// TestListenersTellHostnamesApart: a connection for one hostname of a listener is not one for
// another, whatever its address in the settings.
func TestListenersTellHostnamesApart(t *testing.T) {
	ca := newAuthority(t)
	cert, key := ca.leaf("a.test", "b.test", "c.test")
	at := freeAddress(t)
	h := serve(t, "", nil)
	h.builder.Fixed = []Fixed{{Setting: "proxy_tls_listen", Address: h.secure, Protocol: "https"}}
	h.server.ports[1].gate.Load().Address = h.secure // it was :0
	d, _ := declare(h)
	pair := "certificates: [{cert: " + quoted(cert) + ", key: " + quoted(key) + ", snis: [a.test, b.test, c.test]}]\n"
	own := netip.MustParseAddrPort(h.secure)
	h.use(listening(listener("own", "https", at, ", hostnames: [a.test, b.test]"), fmt.Sprintf("{name: settings, protocol: https, port: %d, hostnames: [a.test, b.test]}", own.Port()))+pair, nil)
	d.Apply(t.Context())
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	for _, address := range []string{at, h.secure} {
		for _, c := range []struct {
			sni, host string
			want      bool
		}{{"a.test", "a.test", false}, {"a.test", "b.test", true}, {"a.test", "c.test", false}, {"c.test", "a.test", true}} {
			before := len(h.h1.infos)
			conn := tls.Client(dial(t, address), &tls.Config{ServerName: c.sni, RootCAs: roots})
			if line(conn, "x") != "ok" || len(h.h1.infos) != before+1 {
				t.Fatalf("%s: no connection as %s", address, c.sni)
			}
			x := ask(t, "GET", c.host, "/")
			x.Conn = h.h1.infos[before]
			h.do(x)
			if got := x.Response.Status == 421; got != c.want {
				t.Errorf("%s: connected as %s, asked %s: %d", address, c.sni, c.host, x.Response.Status)
			}
			_ = conn.Close()
		}
	}
}
