package routing

import (
	"net/netip"
	"testing"

	"github.com/keyway-edge/keyway/routing/spec"
)

func streamTable(routes ...*spec.Route) *Streams {
	for i, r := range routes {
		r.ID = string(rune('a' + i))
	}
	return CompileStreams(&spec.Document{Routes: routes})
}

func TestStreamsFind(t *testing.T) {
	ends := func(list ...spec.Endpoint) []spec.Endpoint { return list }
	table := streamTable(
		&spec.Route{Name: "web", Protocols: []string{"http"}, Paths: []string{"/"}},
		&spec.Route{Name: "port", Protocols: []string{TCP}, Destinations: ends(spec.Endpoint{Port: 9000})},
		&spec.Route{Name: "host", Protocols: []string{TCP}, Destinations: ends(spec.Endpoint{IP: "127.0.0.2", Port: 9000})},
		&spec.Route{Name: "net", Protocols: []string{TCP}, Sources: ends(spec.Endpoint{IP: "10.0.0.0/8"})},
		&spec.Route{Name: "both", Protocols: []string{TCP}, Sources: ends(spec.Endpoint{IP: "10.0.0.0/8"}), Destinations: ends(spec.Endpoint{Port: 9000})},
		&spec.Route{Name: "six", Protocols: []string{TCP, UDP}, Sources: ends(spec.Endpoint{IP: "2001:db8::/32", Port: 7})},
		&spec.Route{Name: "name", Protocols: []string{TLS}, SNIs: []string{"a.test", "b.test"}},
		&spec.Route{Name: "wild", Protocols: []string{TLS}, SNIs: []string{"*.test"}, Destinations: ends(spec.Endpoint{Port: 9443})},
		&spec.Route{Name: "pass", Protocols: []string{Passthrough}, SNIs: []string{"p.test"}},
		&spec.Route{Name: "most", Protocols: []string{Passthrough}, SNIs: []string{"*.most.test"}, ExceptSNIs: []string{"x.most.test", "*.y.most.test"}, Destinations: ends(spec.Endpoint{Port: 8443})},
		&spec.Route{Name: "rest", Protocols: []string{TLS}, ExceptSNIs: []string{"X.rest.test."}, Destinations: ends(spec.Endpoint{Port: 8443})},
		&spec.Route{Name: "any", Protocols: []string{TLS}, Destinations: ends(spec.Endpoint{Port: 9443})},
		&spec.Route{Name: "to", Protocols: []string{UDP}, Destinations: ends(spec.Endpoint{IP: "10.0.0.1", Port: 1})},
		&spec.Route{Name: "by", Protocols: []string{UDP}, Sources: ends(spec.Endpoint{IP: "10.0.0.2/31"})},
		&spec.Route{Name: "loose", Protocols: []string{TCP, TLS}, SNIs: []string{"l.test"}, Destinations: ends(spec.Endpoint{Port: 7777})},
	)
	if table.Len() != 14 {
		t.Fatalf("%d routes, want all but the one for http", table.Len())
	}
	for _, c := range []struct{ protocol, name, from, to, want string }{
		{TCP, "", "192.0.2.1:5", "127.0.0.1:9000", "port"},
		{TCP, "", "192.0.2.1:5", "127.0.0.2:9000", "host"},
		{TCP, "", "[::ffff:192.0.2.1]:5", "[::ffff:127.0.0.2]:9000", "host"},
		{TCP, "", "10.1.2.3:5", "127.0.0.2:9000", "both"},
		{TCP, "", "10.1.2.3:5", "127.0.0.2:9001", "net"},
		{TCP, "", "11.1.2.3:5", "127.0.0.2:9001", ""},
		{UDP, "", "[2001:db8::1]:7", "127.0.0.2:9001", "six"},
		{UDP, "", "[2001:db8::1]:8", "127.0.0.2:9001", ""},
		{UDP, "", "10.0.0.2:1", "10.0.0.1:1", "by"}, // any source counts more than any destination
		{UDP, "", "10.0.0.4:1", "10.0.0.1:1", "to"},
		{UDP, "", "192.0.2.1:5", "127.0.0.1:9000", ""},
		{TLS, "A.test", "192.0.2.1:5", "127.0.0.1:1", "name"},
		{TLS, "x.test", "192.0.2.1:5", "127.0.0.1:9443", "wild"},
		{TLS, "a.test", "192.0.2.1:5", "127.0.0.1:9443", "wild"}, // two kinds of condition beat none: a port and a name
		{TLS, "", "192.0.2.1:5", "127.0.0.1:9443", "any"},
		{TLS, "p.test", "192.0.2.1:5", "127.0.0.1:1", ""},
		{Passthrough, "p.test", "192.0.2.1:5", "127.0.0.1:1", "pass"},
		{Passthrough, "", "192.0.2.1:5", "127.0.0.1:1", ""},
		{Passthrough, "a.most.test", "192.0.2.1:5", "127.0.0.1:8443", "most"},
		{Passthrough, "X.most.test", "192.0.2.1:5", "127.0.0.1:8443", ""},
		{Passthrough, "a.x.most.test", "192.0.2.1:5", "127.0.0.1:8443", "most"},
		{Passthrough, "z.y.most.test", "192.0.2.1:5", "127.0.0.1:8443", ""},
		{TLS, "x.most.test", "192.0.2.1:5", "127.0.0.1:8443", "rest"},
		{TLS, "", "192.0.2.1:5", "127.0.0.1:8443", "rest"},
		{TLS, "x.rest.test", "192.0.2.1:5", "127.0.0.1:8443", ""},
		{Passthrough, "a.test", "192.0.2.1:5", "127.0.0.1:1", ""},
		{TCP, "", "192.0.2.1:5", "127.0.0.1:7777", "loose"}, // names count over TLS only
		{TLS, "other.test", "192.0.2.1:5", "127.0.0.1:7777", ""},
	} {
		got := ""
		if r := table.Find(&StreamQuery{Protocol: c.protocol, ServerName: c.name, Source: netip.MustParseAddrPort(c.from), Destination: netip.MustParseAddrPort(c.to)}); r != nil {
			got = r.Spec.Name
		}
		if got != c.want {
			t.Errorf("%s %q %s to %s: %q, want %q", c.protocol, c.name, c.from, c.to, got, c.want)
		}
	}
}

func TestStreamsFindByExpression(t *testing.T) {
	high := 9
	table := streamTable(
		&spec.Route{Name: "fields", Protocols: []string{TLS}, SNIs: []string{"a.test"}},
		&spec.Route{Name: "low", Protocols: []string{TLS, TCP}, Expression: `net.dst.port == 9000`},
		&spec.Route{Name: "high", Protocols: []string{TLS}, Expression: `tls.sni == "a.test" && net.src.ip in 10.0.0.0/8`, Priority: &high},
	)
	for _, c := range []struct{ protocol, name, from, to, want string }{
		{TLS, "A.test", "10.0.0.1:5", "127.0.0.1:9000", "high"},
		{TLS, "a.test", "192.0.2.1:5", "127.0.0.1:9000", "low"},
		{TLS, "a.test", "192.0.2.1:5", "127.0.0.1:9001", "fields"},
		{TCP, "", "10.0.0.1:5", "127.0.0.1:9000", "low"},
		{TCP, "", "10.0.0.1:5", "127.0.0.1:9001", ""},
	} {
		got := ""
		if r := table.Find(&StreamQuery{Protocol: c.protocol, ServerName: c.name, Source: netip.MustParseAddrPort(c.from), Destination: netip.MustParseAddrPort(c.to)}); r != nil {
			got = r.Spec.Name
		}
		if got != c.want {
			t.Errorf("%s %q %s to %s: %q, want %q", c.protocol, c.name, c.from, c.to, got, c.want)
		}
	}
}

func TestStreamsLeaveDisabledServicesOut(t *testing.T) {
	doc := &spec.Document{
		Services: []*spec.Service{{Meta: spec.Meta{ID: "off"}}},
		Routes:   []*spec.Route{{Protocols: []string{TCP}, Service: "off", Destinations: []spec.Endpoint{{Port: 1}}}},
	}
	if n := CompileStreams(doc).Len(); n != 0 {
		t.Errorf("%d routes of a disabled service", n)
	}
}
