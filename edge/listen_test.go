package edge

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/routing"
)

// engine answers each line with "ok" until the connection ends; "panic" panics.
// After a Drain it ends connections at their next line.
type engine struct {
	mu      sync.Mutex // guards the group below
	infos   []*exchange.Conn
	drained bool
	left    bool // Leave was called for one of infos
}

func (e *engine) ServeConn(_ context.Context, c net.Conn, info *exchange.Conn) {
	defer func() { _ = c.Close() }()
	e.mu.Lock()
	e.infos = append(e.infos, info)
	e.mu.Unlock()
	for lines := bufio.NewScanner(c); lines.Scan(); {
		if lines.Text() == "panic" {
			panic("the engine goes off")
		}
		last := e.draining() // before the answer: who reads it may begin the drain
		if _, err := io.WriteString(c, "ok\n"); err != nil || last {
			return
		}
	}
}

func (e *engine) Drain(context.Context) {
	e.mu.Lock()
	e.drained = true
	e.mu.Unlock()
}

// Leave ends connections at their next line.
func (e *engine) Leave(_ context.Context, match func(*exchange.Conn) bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, info := range e.infos {
		e.left = e.left || match(info)
	}
}

func (e *engine) draining() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.drained || e.left
}

func (e *engine) info(i int) *exchange.Conn {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.infos[i]
}

// counts is a ConnObserver.
type counts struct {
	mu           sync.Mutex // guards the group below
	open, opened int
	shakes       []error
	refused      map[string]int
}

func (c *counts) Refused(_, reason string) {
	c.mu.Lock()
	if c.refused == nil {
		c.refused = map[string]int{}
	}
	c.refused[reason]++
	c.mu.Unlock()
}
func (c *counts) Opened(string) { c.mu.Lock(); c.open++; c.opened++; c.mu.Unlock() }
func (c *counts) Closed(string) { c.mu.Lock(); c.open--; c.mu.Unlock() }
func (c *counts) Handshake(_ string, state *tls.ConnectionState, _ time.Duration, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if (state == nil) == (err == nil) {
		err = errors.New("a state exactly when there is no error")
	}
	c.shakes = append(c.shakes, err)
}

func (c *counts) see(f func(*counts) bool) func() bool {
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return f(c)
	}
}

// house is a running Server with an endpoint in clear and one over TLS.
type house struct {
	*rig
	server        *Server
	h1, h2        *engine
	seen          *counts
	clear, secure string
	stop          context.CancelFunc
	force         chan struct{}
	ended         chan error
}

func serve(t *testing.T, document string, change func(*Server)) *house {
	t.Helper()
	h := &house{rig: newRig(t, &Config{}, document), h1: &engine{}, h2: &engine{}, seen: &counts{}, force: make(chan struct{}), ended: make(chan error, 1)}
	base := certs.Base{NextProtos: []string{"h2", "http/1.1"}, Tickets: certs.NewTickets()}
	h.server = &Server{
		Endpoints: []Endpoint{{Name: "proxy", Address: "127.0.0.1:0", Policy: routing.Compatible}, {Name: "proxy-tls", Address: "127.0.0.1:0", TLS: true}},
		Config:    h.config, Terminator: NewTerminator(h.publisher, h.config, base, nil), HTTP1: h.h1, HTTP2: h.h2, Observer: h.seen, Log: silent(),
	}
	if change != nil {
		change(h.server)
	}
	if err := h.server.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.clear, h.secure = h.server.Addresses()[0].String(), h.server.Addresses()[1].String()
	ctx, stop := context.WithCancel(context.Background())
	h.stop = stop
	go func() { h.ended <- h.server.Run(ctx, h.force) }()
	return h
}

// end stops the server and answers what Run did.
func (h *house) end() error {
	h.t.Helper()
	h.stop()
	select {
	case err := <-h.ended:
		return err
	case <-time.After(10 * time.Second):
		h.t.Fatal("the server does not end")
		return nil
	}
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	return dialFrom(t, net.Dialer{}, address)
}

// dialFrom connects. A server that refuses a connection may reset it before connect
// returns here: then it is one that has ended.
func dialFrom(t *testing.T, d net.Dialer, address string) net.Conn {
	t.Helper()
	c, err := d.Dial("tcp", address)
	if errors.Is(err, syscall.ECONNRESET) {
		var other net.Conn
		c, other = net.Pipe()
		_ = other.Close()
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

// line says one line and answers what comes back, "" when the connection ends.
func line(c net.Conn, text string) string {
	_, _ = io.WriteString(c, text+"\n")
	answer, _ := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(answer)
}

func TestServerHandsConnectionsOver(t *testing.T) {
	ca := newAuthority(t)
	cert, key := ca.leaf("one.test")
	h := serve(t, "certificates: [{cert: "+quoted(cert)+", key: "+quoted(key)+", snis: [one.test]}]", nil)
	if c := dial(t, h.clear); line(c, "hello") != "ok" {
		t.Fatal("no answer in clear")
	}
	info := h.h1.info(0)
	if info.Listener != "proxy" || info.Secure() || !info.Peer.IsValid() || info.Local.String() != h.clear || info.Policy.(*connInfo).policy != routing.Compatible {
		t.Errorf("in clear: %+v", info)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	for _, proto := range []string{"http/1.1", "h2"} {
		c := tls.Client(dial(t, h.secure), &tls.Config{ServerName: "one.test", RootCAs: roots, NextProtos: []string{proto}})
		if got := line(c, "hello"); got != "ok" {
			t.Fatalf("no answer over TLS with %s: %v", proto, c.Handshake())
		}
	}
	one, two := h.h1.info(1), h.h2.info(0)
	if !one.Secure() || one.Protocol != "HTTP/1.1" || one.CertSerial != "one.test@1" || one.Policy.(*connInfo).policy != routing.Strict {
		t.Errorf("over TLS: %+v", one)
	}
	if two.Protocol != "HTTP/2.0" || two.ID == one.ID {
		t.Errorf("over TLS with h2: %+v", two)
	}
	h.seen.see(func(c *counts) bool {
		if len(c.shakes) != 2 || c.shakes[0] != nil || c.opened != 3 {
			t.Errorf("observed %d connections, handshakes %v", c.opened, c.shakes)
		}
		return true
	})()
	if line(dial(t, h.clear), "panic") != "" {
		t.Error("a connection whose engine panicked must end")
	}
	if line(dial(t, h.clear), "hello") != "ok" {
		t.Error("the panic of one connection must harm no other")
	}
}

// quoted is a text as a YAML string in double quotes.
func quoted(s string) string { return `"` + strings.ReplaceAll(s, "\n", `\n`) + `"` }

func TestServerAnswersPlainHTTPOnTheTLSPort(t *testing.T) {
	h := serve(t, "", nil)
	c := dial(t, h.secure)
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
	got, _ := io.ReadAll(c)
	if !strings.HasPrefix(string(got), "HTTP/1.0 400 Bad Request\r\n") || !strings.Contains(string(got), "plain HTTP request was sent to HTTPS port") {
		t.Errorf("got %q", got)
	}
	c = dial(t, h.secure)
	_, _ = io.WriteString(c, "\x00\x01\x02\x03\x04\x05\x06\x07")
	if got, _ := io.ReadAll(c); strings.Contains(string(got), "HTTP/") {
		t.Errorf("what is no HTTP gets no HTTP: %q", got)
	}
}

func TestServerLimitsConnections(t *testing.T) {
	h := serve(t, "", func(s *Server) { s.MaxConns = 1 })
	first := dial(t, h.clear)
	if line(first, "a") != "ok" {
		t.Fatal("the first must be served")
	}
	if line(dial(t, h.clear), "b") != "" {
		t.Error("the second is one too many")
	}
	_ = first.Close()
	poll(t, "the place of a closed connection must be free again", func() bool { return line(dial(t, h.clear), "c") == "ok" })
}

func TestServerLimitsConnectionsOfOneClient(t *testing.T) {
	h := serve(t, "", func(s *Server) { s.MaxPerClient = 2 })
	from := func(source string) net.Conn {
		return dialFrom(t, net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}, h.clear)
	}
	first, second := from("127.0.0.7"), from("127.0.0.7")
	if line(first, "a") != "ok" || line(second, "b") != "ok" {
		t.Fatal("two may be open")
	}
	if line(from("127.0.0.7"), "c") != "" {
		t.Error("the third is one too many")
	}
	if line(from("127.0.0.8"), "d") != "ok" {
		t.Error("another client is not to be refused for it")
	}
	_ = first.Close()
	poll(t, "the place of a closed connection must be free again", func() bool { return line(from("127.0.0.7"), "e") == "ok" })
	if !h.seen.see(func(c *counts) bool { return c.refused[refusedClient] > 0 && len(c.refused) == 1 })() {
		t.Errorf("refused %v", h.seen.refused)
	}
}

func TestServerLimitsConnectionsOfOneListener(t *testing.T) {
	h := serve(t, "", func(s *Server) {
		for i := range s.Endpoints {
			if !s.Endpoints[i].TLS {
				s.Endpoints[i].MaxConns = 1
			}
		}
	})
	first := dial(t, h.clear)
	if line(first, "a") != "ok" {
		t.Fatal("the first must be served")
	}
	if line(dial(t, h.clear), "b") != "" {
		t.Error("the second is one too many")
	}
	other := dial(t, h.secure)
	_, _ = io.WriteString(other, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
	if got, _ := io.ReadAll(other); !strings.HasPrefix(string(got), "HTTP/1.0 400") { // in clear to the TLS port: it was taken
		t.Error("another listener is not to refuse for it")
	}
	_ = first.Close()
	poll(t, "the place of a closed connection must be free again", func() bool { return line(dial(t, h.clear), "c") == "ok" })
	if !h.seen.see(func(c *counts) bool { return c.refused[refusedListener] > 0 && len(c.refused) == 1 })() {
		t.Errorf("refused %v", h.seen.refused)
	}
}

// TestServerKeepsDescriptors: the last descriptors are not for clients.
func TestServerKeepsDescriptors(t *testing.T) {
	if maxDescriptors() == 0 {
		t.Skip("this system tells of no limit of descriptors")
	}
	h := serve(t, "", func(s *Server) { s.reserve = 1 })
	if line(dial(t, h.clear), "a") != "" {
		t.Error("a connection took a descriptor that is kept")
	}
	poll(t, "the refusal must be counted", h.seen.see(func(c *counts) bool { return c.refused[refusedDescriptors] > 0 }))
	if open, most := Descriptors(); open < 3 || most < open {
		t.Errorf("%d descriptors of %d are open", open, most)
	}
}

func TestAdmissionCountsNetworksOfIPv6(t *testing.T) {
	a := &admission{perClient: 1}
	one, same, other := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("2001:db8:0:1::1")
	mapped, plain := netip.MustParseAddr("::ffff:192.0.2.1"), netip.MustParseAddr("192.0.2.1")
	if !a.enter(one) || a.enter(same) || !a.enter(other) || !a.enter(mapped) || a.enter(plain) {
		t.Error("a /64 is one client, and so is an address in either form")
	}
	for _, x := range []netip.Addr{one, other, plain} {
		a.leave(x)
	}
	if len(a.open) != 0 {
		t.Errorf("left over: %v", a.open)
	}
}

func TestServerLimitsHandshakesUnderWay(t *testing.T) {
	h := serve(t, "", func(s *Server) { s.MaxHandshakes = 1 })
	silent := dial(t, h.secure)
	poll(t, "the handshake of the silent one is under way", func() bool {
		h.server.admission.mu.Lock()
		defer h.server.admission.mu.Unlock()
		return h.server.admission.shaking == 1
	})
	if _, err := dial(t, h.secure).Read(make([]byte, 1)); err == nil {
		t.Error("a second handshake was begun")
	}
	if line(dial(t, h.clear), "a") != "ok" {
		t.Error("in clear nobody is to be refused for it")
	}
	_ = silent.Close()
	poll(t, "handshakes are taken again", func() bool {
		return h.seen.see(func(c *counts) bool { return c.refused[refusedHandshakes] > 0 })() && func() bool {
			h.server.admission.mu.Lock()
			defer h.server.admission.mu.Unlock()
			return h.server.admission.shaking == 0
		}()
	})
}

func TestServerLimitsHandshakes(t *testing.T) {
	h := serve(t, "", func(s *Server) { s.HandshakeTimeout = 20 * time.Millisecond })
	c := dial(t, h.secure)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("a client that says nothing must be cut off: %v", err)
	}
	poll(t, "the timeout must be observed", h.seen.see(func(c *counts) bool {
		var ne net.Error
		return len(c.shakes) == 1 && errors.As(c.shakes[0], &ne) && ne.Timeout()
	}))
}

func TestServerDrains(t *testing.T) {
	h := serve(t, "", nil)
	busy := dial(t, h.clear)
	if line(busy, "a") != "ok" {
		t.Fatal("no answer")
	}
	h.stop()
	poll(t, "the engines must be told", func() bool { return h.h1.draining() && h.h2.draining() })
	if c, err := net.Dial("tcp", h.clear); err == nil {
		_ = c.Close()
		t.Error("a draining server must not accept")
	}
	if line(busy, "b") != "ok" {
		t.Error("what is in flight must be finished")
	}
	if err := h.end(); err != nil {
		t.Errorf("nothing was cut, and yet: %v", err)
	}
	if !h.seen.see(func(c *counts) bool { return c.open == 0 })() {
		t.Error("every connection must be counted out")
	}
}

func TestServerCutsAfterTheGrace(t *testing.T) {
	for _, forced := range []bool{false, true} {
		h := serve(t, "", func(s *Server) {
			if s.Grace = 20 * time.Millisecond; forced {
				s.Grace = time.Hour
			}
		})
		if line(dial(t, h.clear), "a") != "ok" {
			t.Fatal("no answer")
		}
		if forced {
			close(h.force)
		}
		if err := h.end(); !errors.Is(err, ErrCut) || !strings.Contains(err.Error(), "(1 of them)") {
			t.Errorf("forced %v: %v", forced, err)
		}
	}
}

func TestServerListensOnAllOrNone(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	s := &Server{Endpoints: []Endpoint{{Name: "one", Address: "127.0.0.1:0"}, {Name: "two", Address: taken.Addr().String()}}}
	err = s.Listen(t.Context())
	if err == nil || !strings.Contains(err.Error(), taken.Addr().String()) || !strings.Contains(err.Error(), "two") {
		t.Fatalf("the error must name address and endpoint: %v", err)
	}
	if c, err := net.Dial("tcp", s.ports[0].l.Addr().String()); err == nil {
		_ = c.Close()
		t.Error("the first endpoint is still open")
	}
}
