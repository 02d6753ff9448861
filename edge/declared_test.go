package edge

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// openers notes what it is told to open.
type openers struct {
	mu   sync.Mutex
	open map[string]bool
}

func (o *openers) Open(_ context.Context, l *Listen) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.open == nil {
		o.open = map[string]bool{}
	}
	o.open[l.Address] = true
	return nil
}

func (o *openers) Shut(address string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.open, address)
}

// declare has a house follow its documents.
func declare(h *house) (*Declared, *openers) {
	udp := &openers{}
	return NewDeclared(h.publisher, h.server, udp, silent()), udp
}

// listener is one of a document.
func listener(name, protocol, address, more string) string {
	at := netip.MustParseAddrPort(address)
	return fmt.Sprintf("{name: %s, protocol: %s, address: %s, port: %d%s}", name, protocol, at.Addr(), at.Port(), more)
}

func listening(list ...string) string {
	return "x_keyway_listeners: [" + strings.Join(list, ", ") + "]\n"
}

// refused says whether nobody listens.
func refused(address string) bool {
	c, err := net.DialTimeout("tcp", address, time.Second)
	if err == nil {
		_ = c.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

func TestDeclaredFollowsTheDocument(t *testing.T) {
	one, two := freeAddress(t), freeAddress(t)
	h := serve(t, "", nil)
	d, udp := declare(h)
	if d.Apply(t.Context()); len(d.States()) > 0 || d.Passed() {
		t.Error("before the first snapshot there is nothing to open")
	}
	h.use(listening(listener("web", "http", one, ""), listener("dns", "udp", one, "")), nil)
	d.Apply(t.Context())
	kept := dial(t, one)
	if line(kept, "a") != "ok" {
		t.Fatal("nobody answers on the new listener")
	}
	if info := h.h1.info(0); info.Listener != "web" || info.Local.String() != one || info.Last {
		t.Errorf("it came to %+v", info)
	}
	if !udp.open[one] || !d.Passed() {
		t.Errorf("of datagrams %v are open", udp.open)
	}
	h.use(listening(listener("other", "http", two, "")), nil)
	d.Apply(t.Context())
	if !refused(one) || len(udp.open) > 0 {
		t.Error("what the document has no more is still open")
	}
	if line(dial(t, two), "b") != "ok" {
		t.Error("nobody answers on the second one")
	}
	if st := d.States(); len(st) != 1 || st[0].Name != "other" || st[0].State != "open" || st[0].Since.IsZero() {
		t.Errorf("%+v", st)
	}
	if line(kept, "c") != "ok" {
		t.Error("a connection of a listener that closed may finish its request")
	}
	// Whoever has it is told a moment after the listener closed.
	poll(t, "a connection of a listener that closed does not end after a request", func() bool { return line(kept, "d") == "" })
	if line(dial(t, h.clear), "e") != "ok" {
		t.Error("the settings' listener is not to suffer")
	}
	if !refused(one) || h.end() != nil || !refused(two) {
		t.Error("the end of the server is the end of its listeners")
	}
	if err := h.server.Open(t.Context(), d.Publisher.Current().listens[0]); !errors.Is(err, ErrStopping) {
		t.Errorf("a server that ends opened a listener: %v", err)
	}
}

// TestDeclaredLosesNobody opens and closes a listener while clients come: each that is
// let in is answered.
func TestDeclaredLosesNobody(t *testing.T) {
	at := freeAddress(t)
	h := serve(t, "", nil)
	d, _ := declare(h)
	var served, turned, lost atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c, err := net.DialTimeout("tcp", at, 5*time.Second)
				if err != nil {
					turned.Add(1)
					continue
				}
				_ = c.SetDeadline(time.Now().Add(10 * time.Second))
				if line(c, "a") == "ok" {
					served.Add(1)
				} else {
					lost.Add(1)
				}
				_ = c.Close()
			}
		})
	}
	for i := range 30 {
		h.use(listening(listener("web", "http", at, "")), nil)
		d.Apply(t.Context())
		before := served.Load()
		poll(t, fmt.Sprint("round ", i, ": nobody is served"), func() bool { return served.Load() > before+20 })
		h.use(listening(), nil)
		d.Apply(t.Context())
		h.h1.mu.Lock()
		h.h1.infos, h.h1.left = nil, false
		h.h1.mu.Unlock()
	}
	close(stop)
	wg.Wait()
	if lost.Load() > 0 {
		t.Errorf("of %d that were let in %d got no answer", served.Load()+lost.Load(), lost.Load())
	}
	t.Logf("%d served, %d turned away, %d lost", served.Load(), turned.Load(), lost.Load())
}

// TestDeclaredWaitsForItsPort: a port that another has is told of, stops no other, and is
// taken when it is free.
func TestDeclaredWaitsForItsPort(t *testing.T) {
	busy, free := freeAddress(t), freeAddress(t)
	taken, err := net.Listen("tcp", busy)
	if err != nil {
		t.Fatal(err)
	}
	h := serve(t, "", nil)
	d, _ := declare(h)
	h.use(listening(listener("busy", "http", busy, ""), listener("free", "http", free, "")), nil)
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { ended <- d.Run(ctx) }()
	poll(t, "the other listener must be open", func() bool { return !refused(free) })
	poll(t, "it is told", func() bool { return len(d.Remarks()) == 1 && d.Failures() > 1 })
	if r := d.Remarks()[0]; !strings.HasPrefix(r, "listener busy (http on "+busy+") is not open since ") || !strings.Contains(r, "another process has the port") {
		t.Errorf("remark %q", r)
	}
	if st := d.States(); st[0].State != "failing" || st[0].Next.IsZero() || st[1].State != "open" {
		t.Errorf("%+v", st)
	}
	_ = taken.Close()
	poll(t, "it takes the port when that is free", func() bool { return !refused(busy) && len(d.Remarks()) == 0 })
	if line(dial(t, busy), "a") != "ok" {
		t.Error("nobody answers")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestDeclaredHolds leaves what is open alone while it is handed over.
func TestDeclaredHolds(t *testing.T) {
	at, other := freeAddress(t), freeAddress(t)
	h := serve(t, "", nil)
	d, _ := declare(h)
	h.use(listening(listener("web", "http", at, "")), nil)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	poll(t, "it opens", func() bool { return !refused(at) })
	d.Hold()
	h.use(listening(listener("web", "http", other, "")), nil)
	d.Apply(ctx)
	if refused(at) || !refused(other) {
		t.Error("something changed while it was held")
	}
	d.Resume()
	poll(t, "it goes on", func() bool { return refused(at) && !refused(other) })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestDeclaredChangesProtocol has another protocol spoken on a port whose socket stays.
func TestDeclaredChangesProtocol(t *testing.T) {
	at := freeAddress(t)
	h := serve(t, "", nil)
	d, _ := declare(h)
	h.use(listening(listener("web", "http", at, "")), nil)
	d.Apply(t.Context())
	old := dial(t, at)
	if line(old, "a") != "ok" {
		t.Fatal("nobody answers")
	}
	stop := make(chan struct{})
	var away atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if refused(at) {
				away.Add(1)
			}
		}
	})
	h.use(listening(listener("renamed", "http", at, "")), nil)
	d.Apply(t.Context())
	if line(old, "b") != "ok" || line(dial(t, at), "c") != "ok" || h.h1.info(0).Listener != "web" {
		t.Error("a name alone ends no connection")
	}
	h.h1.mu.Lock()
	names := make([]string, 0, 2)
	for _, i := range h.h1.infos {
		names = append(names, i.Listener)
	}
	h.h1.mu.Unlock()
	if !slices.Contains(names, "renamed") {
		t.Errorf("connections came to %v", names)
	}
	h.use(listening(listener("renamed", "https", at, "")), nil)
	d.Apply(t.Context())
	poll(t, "the engine must be told", h.h1.draining)
	if line(old, "d") != "ok" || line(old, "e") != "" {
		t.Error("a connection of the protocol before is to end after its request")
	}
	c := dial(t, at)
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
	if got, _ := io.ReadAll(c); !strings.HasPrefix(string(got), "HTTP/1.0 400 ") {
		t.Errorf("in clear it answers %q", got)
	}
	close(stop)
	wg.Wait()
	if away.Load() > 0 {
		t.Errorf("nobody listened %d times", away.Load())
	}
}

// TestDeclaredCuts ends connections of a listener that closed when the grace period is over.
func TestDeclaredCuts(t *testing.T) {
	at := freeAddress(t)
	h := serve(t, "", func(s *Server) { s.Grace = 50 * time.Millisecond })
	d, _ := declare(h)
	h.use(listening(listener("web", "http", at, "")), nil)
	d.Apply(t.Context())
	c, other := dial(t, at), dial(t, h.clear)
	if line(c, "a") != "ok" || line(other, "a") != "ok" {
		t.Fatal("nobody answers")
	}
	h.use("", nil)
	d.Apply(t.Context())
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("it was not cut: %v", err)
	}
	if line(other, "b") != "ok" {
		t.Error("a connection of another listener was cut")
	}
}

// TestDeclaredPolicy: the TLS policy of a listener is for names that have none of their own,
// and a name is held against it in requests too.
func TestDeclaredPolicy(t *testing.T) {
	ca := newAuthority(t)
	certA, keyA := ca.leaf("plain.test")
	certB, keyB := ca.leaf("own.test")
	at, free := freeAddress(t), freeAddress(t)
	document := func(list ...string) string {
		return listening(list...) + "ca_certificates: [{id: 11111111-1111-4111-8111-111111111111, cert: " + quoted(ca.pem) + "}]\n" +
			"x_keyway_tls_policies: [{name: strict, client_auth: required, ca_certificates: [11111111-1111-4111-8111-111111111111]}, {name: open, min_version: \"1.3\"}]\n" +
			"certificates: [{cert: " + quoted(certA) + ", key: " + quoted(keyA) + ", snis: [{name: plain.test}]}, {cert: " + quoted(certB) + ", key: " + quoted(keyB) + ", snis: [{name: own.test, x_keyway_tls_policy: open}]}]\n"
	}
	h := serve(t, "", nil)
	d, _ := declare(h)
	h.use(document(listener("guarded", "https", at, ", tls_policy: strict"), listener("free", "https", free, "")), nil)
	d.Apply(t.Context())
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	hello := func(address, name string) string {
		c := tls.Client(dial(t, address), &tls.Config{ServerName: name, RootCAs: roots})
		defer func() { _ = c.Close() }()
		return line(c, "a")
	}
	if hello(at, "plain.test") != "" || hello(at, "own.test") != "ok" || hello(free, "plain.test") != "ok" || hello(h.secure, "plain.test") != "ok" {
		t.Error("the listener's policy is for names without one, on that listener")
	}
	// A connection of the name that needs no client certificate cannot ask for the one that does.
	last := h.h1.infos[0]
	if last.Listener != "guarded" {
		t.Fatalf("the first connection came to %s", last.Listener)
	}
	misdirected := func(host string) bool {
		x := ask(t, "GET", host, "/")
		x.Conn = last
		h.do(x)
		return x.Response.Status == 421
	}
	if !misdirected("plain.test") || misdirected("own.test") {
		t.Error("a request is held against the policy of its host on this listener")
	}
	// When the document has the listener no more, what is under way keeps its policy.
	h.use(document(), nil)
	if p := d.Publisher.Current().policyOf(last.Policy.(*connInfo).at); p.Name != "strict" || !misdirected("plain.test") || misdirected("own.test") {
		t.Errorf("a listener that is closing keeps its policy; it has %s", p.Name)
	}
}

func TestPlanListeners(t *testing.T) {
	fixed := []Fixed{{"proxy_listen", ":8000", "http", false}, {"proxy_tls_listen", "127.0.0.1:8443", "https", false}, {"status_listen", "127.0.0.1:8100", "", false}, {"stream_listen", "0.0.0.0:53", "udp", true}}
	f := func(document string, want ...string) {
		t.Helper()
		list, problems := PlanListeners(load(t, document), fixed)
		var got []string
		for _, l := range list {
			text := l.Name() + " " + l.Protocol + " " + l.Address
			if l.Fixed != nil {
				text += " by " + l.Fixed.Setting
			}
			if l.Streams {
				text += " and streams"
			}
			for _, x := range l.Listeners[1:] {
				text += " +" + x.Name
			}
			got = append(got, text)
		}
		for _, p := range problems {
			got = append(got, p.Name+": "+p.Field)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s\ngot  %q\nwant %q", document, got, want)
		}
	}
	f(listening("{name: a, protocol: http, port: 80}", "{name: b, protocol: http, port: 80, address: 127.0.0.1}", "{name: c, protocol: udp, port: 80}"), "a http :80 +b", "c udp :80")
	f(listening("{name: a, protocol: http, port: 80}", "{name: b, protocol: https, port: 80, address: 127.0.0.1}"), "a http :80", "b: protocol")
	f(listening("{name: a, protocol: tcp, port: 9, address: 127.0.0.1}", "{name: b, protocol: http, port: 9, address: 127.0.0.2}"), "a tcp 127.0.0.1:9", "b http 127.0.0.2:9")
	f(listening("{name: a, protocol: tcp, port: 9, address: 127.0.0.1}", "{name: b, protocol: tcp, port: 9, address: 127.0.0.2}", "{name: c, protocol: tcp, port: 9}"), "a tcp :9 +c +b")
	f(listening("{name: a, protocol: tcp, port: 9, address: 127.0.0.1}", "{name: b, protocol: http, port: 9, address: 127.0.0.2}", "{name: c, protocol: tcp, port: 9, address: 0.0.0.0}"), "a tcp 127.0.0.1:9", "b http 127.0.0.2:9", "c: protocol")
	f(listening("{name: a, protocol: tcp, port: 9}", "{name: b, protocol: tcp, port: 9, address: '::1'}"), "a tcp :9 +b")
	f(listening("{name: a, protocol: http, port: 8000}", "{name: b, protocol: https, port: 8000, address: 127.0.0.2}", "{name: c, protocol: http, port: 8000, address: 127.0.0.1}"), "a http :8000 by proxy_listen +c", "b: port")
	f(listening("{name: a, protocol: https, port: 8443}", "{name: b, protocol: https, port: 8443, address: 127.0.0.1}"), "a https :8443 by proxy_tls_listen +b", "a: port")
	f(listening("{name: a, protocol: http, port: 8100}", "{name: b, protocol: udp, port: 8100}", "{name: c, protocol: udp, port: 53, address: 127.0.0.1}"), "b udp :8100", "c udp 127.0.0.1:53 by stream_listen", "a: port")
	f(listening("{name: a, protocol: tls, port: 9, address: 127.0.0.1}", "{name: b, protocol: https, port: 9}", "{name: c, protocol: http, port: 9, address: 127.0.0.2}"), "a https :9 and streams +b", "c: protocol")
	f(listening("{name: a, protocol: tls, port: 9}", "{name: b, protocol: tls, port: 9, address: 127.0.0.1}"), "a tls :9 +b")
	f("x_keyway_tls_policies: [{name: x}, {name: y}]\n"+listening("{name: a, protocol: https, port: 9, tls_policy: x}", "{name: b, protocol: https, port: 9, address: 127.0.0.1}", "{name: c, protocol: https, port: 9, address: 127.0.0.2, tls_policy: y}"), "a https :9 +b +c", "c: tls_policy")
}

// TestDeclaredSharesTheSettings: a listener of the settings serves what documents declare
// there, under the policy that they give it.
func TestDeclaredSharesTheSettings(t *testing.T) {
	h := serve(t, "", nil)
	port := netip.MustParseAddrPort(h.secure).Port()
	h.builder.Fixed = []Fixed{{Setting: "proxy_tls_listen", Address: h.secure, Protocol: "https"}}
	h.server.ports[1].gate.Load().Address = h.secure // it was :0
	d, _ := declare(h)
	s := h.use(fmt.Sprintf("x_keyway_tls_policies: [{name: new, min_version: \"1.3\"}]\nx_keyway_listeners: [{name: web, protocol: https, address: 127.0.0.1, port: %d, tls_policy: new}, {name: late, protocol: http, port: %d}]\n", port, port), nil)
	d.Apply(t.Context())
	if st := d.States(); len(st) != 1 || st[0].State != "settings" || st[0].Name != "web" {
		t.Errorf("%+v", st)
	}
	if len(s.Problems) != 1 || s.Problems[0].Name != "late" || !strings.Contains(s.Problems[0].Message, "proxy_tls_listen") {
		t.Errorf("problems %v", s.Problems)
	}
	if p := s.policyOf(h.server.ports[1].gate.Load()); p == nil || p.Name != "new" {
		t.Errorf("its policy is %+v", p)
	}
	// One for all addresses is served at those that the settings have, by its own policy.
	h.builder.Fixed = append(h.builder.Fixed, Fixed{Setting: "proxy_tls_listen", Address: fmt.Sprintf("127.0.0.9:%d", port), Protocol: "https"})
	s = h.use(fmt.Sprintf("x_keyway_tls_policies: [{name: wide, min_version: \"1.3\"}]\nx_keyway_listeners: [{name: web, protocol: https, port: %d, tls_policy: wide}]\n", port), nil)
	for _, f := range h.builder.Fixed {
		if p := s.fallback[f.Address]; p == nil || p.Name != "wide" {
			t.Errorf("at %s the policy is %+v", f.Address, p)
		}
	}
	if len(s.Problems) != 1 || !strings.Contains(s.Problems[0].Message, "is served there and nowhere else") {
		t.Errorf("problems %v", s.Problems)
	}
	if p := s.policyOf(h.server.ports[0].gate.Load()); p == nil || p.Name != "default" {
		t.Errorf("the other one's policy is %+v", p)
	}
	if l := s.ListenAt("tcp", netip.AddrPortFrom(netip.IPv4Unspecified(), port)); l == nil || l.Name() != "web" {
		t.Errorf("at the port is %+v", l)
	}
	if !s.OwnListeners() {
		t.Error("the document has listeners, and its snapshot says that it has none")
	}
}

// TestDeclaredHasWhatOthersHave: limits, and the end of revoked certificates' connections.
func TestDeclaredHasWhatOthersHave(t *testing.T) {
	ca := newAuthority(t)
	cert, key := ca.leaf("one.test")
	at, clear := freeAddress(t), freeAddress(t)
	h := serve(t, "", func(s *Server) { s.Pattern, s.MaxPerClient = Endpoint{MaxConns: 2}, 3 })
	d, _ := declare(h)
	h.use(listening(listener("secure", "https", at, ""), listener("web", "http", clear, ""))+"certificates: [{cert: "+quoted(cert)+", key: "+quoted(key)+", snis: [one.test]}]\n", nil)
	d.Apply(t.Context())
	first, second := dial(t, clear), dial(t, clear)
	if line(first, "a") != "ok" || line(second, "a") != "ok" || line(dial(t, clear), "a") != "" {
		t.Error("two connections of the listener may be open")
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	c := tls.Client(dial(t, at), &tls.Config{ServerName: "one.test", RootCAs: roots})
	if line(c, "a") != "ok" || line(dial(t, h.clear), "a") != "" {
		t.Error("three connections of the client may be open")
	}
	h.seen.see(func(c *counts) bool {
		if c.refused[refusedListener] != 1 || c.refused[refusedClient] != 1 {
			t.Errorf("refused %v", c.refused)
		}
		return true
	})()
	h.server.Leave(t.Context(), []string{h.h1.info(2).Policy.(*connInfo).tls.bundle.Fingerprint})
	poll(t, "the engine must be told of what was revoked", h.h1.draining)
}
