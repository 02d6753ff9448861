package integration

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// dnsServer answers A and SRV questions on loopback with a time to live of a second.
type dnsServer struct {
	mu   sync.Mutex
	a    map[string]string
	srv  map[string][]dnsmessage.SRVResource
	down bool // answers nothing
	addr string
}

func startDNS(t *testing.T) *dnsServer {
	t.Helper()
	s := &dnsServer{a: map[string]string{}, srv: map[string][]dnsmessage.SRVResource{}}
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = c.LocalAddr().String()
	t.Cleanup(func() { _ = c.Close() })
	go func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			if out := s.answer(buf[:n]); out != nil {
				_, _ = c.WriteTo(out, from)
			}
		}
	}()
	return s
}

func (s *dnsServer) answer(q []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	var m dnsmessage.Message
	if s.down || m.Unpack(q) != nil || len(m.Questions) != 1 {
		return nil
	}
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	name, kind := m.Questions[0].Name, m.Questions[0].Type
	h := dnsmessage.ResourceHeader{Name: name, Type: kind, Class: dnsmessage.ClassINET, TTL: 1}
	a, isA := s.a[name.String()]
	srv, isSRV := s.srv[name.String()]
	if isA && kind == dnsmessage.TypeA {
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: netip.MustParseAddr(a).As4()}})
	}
	for i := range srv {
		if kind == dnsmessage.TypeSRV {
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &srv[i]})
		}
	}
	if !isA && !isSRV {
		m.RCode = dnsmessage.RCodeNameError
	}
	out, _ := m.Pack()
	return out
}

func (s *dnsServer) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// TestBalanceDNS follows names through a node: an address that changes is used when its
// time to live is over, addresses stay in use while DNS is away, and SRV records say port
// and weight.
func TestBalanceDNS(t *testing.T) {
	dns := startDNS(t)
	port := func(says string) uint16 {
		address := origin(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, says) })
		return netip.MustParseAddrPort(address).Port()
	}
	one, two := port("one"), port("two")
	// The same port at another address of loopback.
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.2:%d", one))
	if err != nil {
		skip(t, "127.0.0.2 cannot be listened on: "+err.Error())
	}
	originOn(t, l, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "moved") })
	dns.set(func() {
		dns.a["a.example."], dns.a["s.example."] = "127.0.0.1", "127.0.0.1"
		target := dnsmessage.MustNewName("s.example.")
		dns.srv["_http._tcp.example."] = []dnsmessage.SRVResource{{Priority: 1, Weight: 3, Port: one, Target: target}, {Priority: 1, Weight: 1, Port: two, Target: target}}
	})
	g := start(t, options{env: map[string]string{"KEYWAY_DNS_RESOLVER": dns.addr}, document: fmt.Sprintf(`_format_version: "3.0"
services:
- {name: a, host: names, routes: [{name: a, hosts: [a.test]}]}
- {name: s, host: services, routes: [{name: s, hosts: [s.test]}]}
upstreams:
- {name: names, targets: [{target: "a.example:%d"}]}
- {name: services, targets: [{target: "_http._tcp.example"}]}
`, one)})
	ask := func(host string) string {
		resp, err := do(g.proxy, g.tls, sent{Method: "GET", Target: "/", Headers: [][2]string{{"Host", host}}})
		if err != nil {
			t.Fatal(err)
		}
		return resp.Body
	}
	if body := ask("a.test"); body != "one" {
		t.Fatalf("before: %q", body)
	}
	dns.set(func() { dns.a["a.example."] = "127.0.0.2" })
	poll(t, "the new address is used", 20*time.Second, func() bool { return ask("a.test") == "moved" })
	dns.set(func() { dns.down = true })
	for range 30 {
		if body := ask("a.test"); body != "moved" {
			t.Fatalf("while DNS is away: %q", body)
		}
		time.Sleep(100 * time.Millisecond)
	}
	dns.set(func() { dns.down = false; dns.a["a.example."] = "127.0.0.1" })
	poll(t, "DNS is heard again", 30*time.Second, func() bool { return ask("a.test") == "one" })

	poll(t, "the service's name is resolved", 20*time.Second, func() bool { b := ask("s.test"); return b == "one" || b == "two" })
	n := map[string]int{}
	for range 40 {
		n[ask("s.test")]++
	}
	if n["one"] != 30 || n["two"] != 10 {
		t.Errorf("by weights 3 and 1: %v", n)
	}
	// A target of two addresses is one target to a scraper.
	resp, err := http.Get(g.status + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if n := strings.Count(string(text), `keyway_upstream_target_healthy{target="_http._tcp.example:8000",upstream="services"} 1`); err != nil || n != 1 {
		t.Errorf("%d series of the target: %v", n, err)
	}
}
