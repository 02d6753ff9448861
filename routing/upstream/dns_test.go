package upstream

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// zone is a DNS server on loopback, by UDP and TCP.
type zone struct {
	mu    sync.Mutex
	ttl   uint32
	a     map[string][]string // addresses by name with its dot
	srv   map[string][]dnsmessage.SRVResource
	cut   bool // truncate answers by UDP
	asked atomic.Int32
	addr  string
}

func newZone(t *testing.T) *zone {
	t.Helper()
	z := &zone{ttl: 60, a: map[string][]string{}, srv: map[string][]dnsmessage.SRVResource{}}
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	z.addr = u.LocalAddr().String()
	l, err := net.Listen("tcp", z.addr)
	if err != nil {
		t.Skip("the port is taken for TCP: ", err)
	}
	t.Cleanup(func() { _, _ = u.Close(), l.Close() })
	go func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = u.WriteTo(z.answer(buf[:n], true), from)
		}
	}()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go z.stream(c)
		}
	}()
	return z
}

func (z *zone) stream(c net.Conn) {
	defer func() { _ = c.Close() }()
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return
	}
	q := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(c, q); err != nil {
		return
	}
	m := z.answer(q, false)
	_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...))
}

func (z *zone) answer(q []byte, udp bool) []byte {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.asked.Add(1)
	var m dnsmessage.Message
	if m.Unpack(q) != nil || len(m.Questions) != 1 {
		return nil
	}
	m.Response, m.Authoritative, m.RecursionAvailable, m.Additionals = true, true, true, nil
	name, kind := m.Questions[0].Name, m.Questions[0].Type
	add := func(body dnsmessage.ResourceBody) {
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: name, Type: kind, Class: dnsmessage.ClassINET, TTL: z.ttl}, Body: body})
	}
	known := false
	if list, ok := z.a[name.String()]; ok {
		known = true
		for _, text := range list {
			if a := netip.MustParseAddr(text); a.Is4() && kind == dnsmessage.TypeA {
				add(&dnsmessage.AResource{A: a.As4()})
			}
		}
	}
	if list, ok := z.srv[name.String()]; ok {
		known = true
		for i := range list {
			if kind == dnsmessage.TypeSRV {
				add(&list[i])
			}
		}
	}
	if !known {
		m.RCode = dnsmessage.RCodeNameError
	}
	if z.cut && udp {
		m.Truncated, m.Answers = true, nil
	}
	out, err := m.Pack()
	if err != nil {
		return nil
	}
	return out
}

func (z *zone) set(f func()) {
	z.mu.Lock()
	defer z.mu.Unlock()
	f()
}

func TestResolverSeesLifetimes(t *testing.T) {
	z := newZone(t)
	z.set(func() { z.a["a.test."], z.ttl = []string{"10.0.0.2", "10.0.0.1"}, 7 })
	for _, cut := range []bool{false, true} {
		z.set(func() { z.cut = cut })
		n := newNames(NewResolver([]string{z.addr}))
		q := question{host: "a.test", srv: true}
		places, err := n.lookup(t.Context(), q)
		if err != nil || len(places) != 2 || places[0].addr.String() != "10.0.0.1" {
			t.Fatalf("truncated %v: %v %v", cut, places, err)
		}
		if fresh := n.known[q].fresh; fresh != 7*time.Second {
			t.Errorf("truncated %v: used for %v, want 7s", cut, fresh)
		}
	}
	z.set(func() { z.ttl, z.cut = 0, false })
	n := newNames(NewResolver([]string{z.addr}))
	if _, err := n.lookup(t.Context(), question{host: "a.test"}); err != nil || n.known[question{host: "a.test"}].fresh != resolveLeast {
		t.Errorf("a time to live of 0: %v", err)
	}
	if _, err := n.lookup(t.Context(), question{host: "nobody.test"}); err == nil {
		t.Error("a name that does not exist was found")
	}
}

func TestResolverFollowsSRV(t *testing.T) {
	z := newZone(t)
	z.set(func() {
		z.a["one.test."], z.a["two.test."], z.a["far.test."] = []string{"10.0.0.1"}, []string{"10.0.0.2"}, []string{"10.0.0.3"}
		target := func(s string) dnsmessage.Name { return dnsmessage.MustNewName(s) }
		z.srv["_http._tcp.test."] = []dnsmessage.SRVResource{
			{Priority: 1, Weight: 30, Port: 8001, Target: target("one.test.")},
			{Priority: 1, Weight: 0, Port: 8002, Target: target("two.test.")},
			{Priority: 1, Weight: 9, Port: 8003, Target: target("gone.test.")},
			{Priority: 2, Weight: 50, Port: 8004, Target: target("far.test.")},
		}
	})
	n := newNames(NewResolver([]string{z.addr}))
	places, err := n.lookup(t.Context(), question{host: "_http._tcp.test", srv: true})
	want := []place{
		{netip.MustParseAddr("10.0.0.1"), 8001, 30, "one.test"},
		{netip.MustParseAddr("10.0.0.2"), 8002, 1, "two.test"},
	}
	if err != nil || !slices.Equal(places, want) {
		t.Errorf("%v %v, want %v", places, err, want)
	}
}

// book is a resolver with a page for each name.
type book struct {
	mu    sync.Mutex
	pages map[string][]string
}

func (b *book) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []netip.Addr
	for _, a := range b.pages[host] {
		list = append(list, netip.MustParseAddr(a))
	}
	if list == nil {
		return nil, errors.New("no such host")
	}
	return list, nil
}

func (b *book) write(host string, addrs ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pages[host] = addrs
}

// TestNamesBecomePeers follows a target whose name changes its addresses.
func TestNamesBecomePeers(t *testing.T) {
	dns := &book{pages: map[string][]string{"a.test": {"10.0.0.1", "10.0.0.2"}}}
	pools := NewPools(Settings{Resolver: dns})
	d := document(at("a.test:80", 100), at("10.0.0.9:80", 100))
	s, problems := Build(nil, Inputs{Doc: d, Pools: pools})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	b := s.sorted[0]
	q := question{"a.test", true}
	got := func() string {
		var list []string
		seen := map[string]int{}
		for range 30 {
			x := b.pick(wish{})
			if seen[x.addr.String()]++; seen[x.addr.String()] == 1 {
				list = append(list, x.addr.Addr().String())
			}
		}
		slices.Sort(list)
		return strings.Join(list, " ")
	}
	if before := got(); before != "10.0.0.9 invalid IP" {
		t.Fatalf("before the first request: %s", before)
	}
	again := func() {
		t.Helper()
		pools.names.mu.Lock()
		e := pools.names.known[q]
		e.pending = make(chan struct{})
		pools.names.mu.Unlock()
		if _, err := pools.names.ask(t.Context(), q, e); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := pools.names.lookup(t.Context(), q); err != nil {
		t.Fatal(err)
	}
	if now := got(); now != "10.0.0.1 10.0.0.2 10.0.0.9" {
		t.Fatalf("resolved: %s", now)
	}
	if c := s.Health(); len(c) != 3 || c[0].Address != "10.0.0.1:80" || c[0].Weight != 100 {
		t.Errorf("health %+v", c)
	}
	// One address fails; the others and the name do not suffer for it.
	b.answered(b.view.Load().all[0], 500)
	if now := got(); now != "10.0.0.2 10.0.0.9" {
		t.Errorf("with one ejected: %s", now)
	}
	// A reload and a change of the name keep what is known of addresses that stay.
	dns.write("a.test", "10.0.0.3", "10.0.0.1")
	again()
	if now := got(); now != "10.0.0.3 10.0.0.9" {
		t.Errorf("after a change: %s", now)
	}
	d.Upstreams[0].HostHeader = "other.test"
	next, _ := Build(s, Inputs{Doc: d, Pools: pools})
	b = next.sorted[0]
	if now := got(); now != "10.0.0.3 10.0.0.9" {
		t.Errorf("after a reload: %s", now)
	}
	if !next.Mark("u", "a.test:80", false) || got() != "10.0.0.9" {
		t.Error("an order about the name must hold for its addresses")
	}
	dns.write("a.test", "10.0.0.4")
	again()
	if now := got(); now != "10.0.0.9" {
		t.Errorf("an order must hold for addresses that come later: %s", now)
	}
	if !next.MarkAddress("u", "a.test:80", "10.0.0.4:80", true) || got() != "10.0.0.4 10.0.0.9" || next.MarkAddress("u", "a.test:80", "10.0.0.9:80", false) {
		t.Error("an order about one address is about that one, and about addresses of the target alone")
	}
	next.Mark("u", "a.test:80", false)
	next.Mark("u", "a.test", true) // another port: no such target
	next.Mark("u", "a.test:80", true)
	if now := got(); now != "10.0.0.4 10.0.0.9" {
		t.Errorf("ordered back: %s", now)
	}
}

// TestPortsOfSRV holds that port, weight and, where asked for, host are the record's.
func TestPortsOfSRV(t *testing.T) {
	b := ring(100)
	for _, srvName := range []bool{false, true} {
		b.srvName = srvName
		x := newTarget("svc.test:8000", "svc.test", 8000, 100)
		x.vitals, x.family = &vitals{}, newFamily()
		p := b.newPeer(x, place{netip.MustParseAddr("10.0.0.1"), 81, 7, "one.test"}, time.Now())
		want := "svc.test:81"
		if srvName {
			want = "one.test:81"
		}
		if p.addr.String() != "10.0.0.1:81" || p.weight != 7 || p.plain != want {
			t.Errorf("%+v", p)
		}
		x.weight = 0
		if p := b.newPeer(x, place{netip.MustParseAddr("10.0.0.2"), 81, 7, ""}, time.Now()); p.weight != 0 {
			t.Error("a target of weight 0 gets traffic")
		}
	}
}
