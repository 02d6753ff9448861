package integration

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// TestHTTP3Policies has an open name and one that wants client certificates: over QUIC
// too, no way of naming leads around the certificate.
func TestHTTP3Policies(t *testing.T) {
	o := origin(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Host) })
	host, port, _ := strings.Cut(o, ":")
	partners, others := newAuthority(t, "partners"), newAuthority(t, "others")
	cert, key := pair(t, "all.test", "open.test", "closed.test")
	g := start(t, options{env: overHTTP3(), document: fmt.Sprintf(`
_format_version: "3.0"
services: [{name: a, host: %s, port: %s, routes: [{paths: [/], preserve_host: true}]}]
ca_certificates: [{id: 0e7c8e4e-0000-4000-8000-000000000001, cert: %q}]
x_keyway_tls_policies: [{name: partners, client_auth: required, ca_certificates: [0e7c8e4e-0000-4000-8000-000000000001]}]
certificates: [{cert: %q, key: %q, snis: [open.test, {name: closed.test, x_keyway_tls_policy: partners}]}]
`, host, port, partners.pem, cert, key)})
	member, stranger := partners.client(t), others.client(t)
	ask := func(c *tls.Config, host string) int {
		c.InsecureSkipVerify = true
		tr := &http3.Transport{QUICConfig: patient(), TLSClientConfig: c}
		defer func() { _ = tr.Close() }()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+g.tls+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		resp, err := (&http.Client{Timeout: 10 * time.Second, Transport: tr}).Do(req)
		if err != nil {
			return 0
		}
		defer func() { _ = resp.Body.Close() }()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode
	}
	for _, c := range []struct {
		what, sni, host string
		cert            *tls.Certificate
		want            int
	}{
		{"the open name", "open.test", "open.test", nil, 200},
		{"the closed name without a certificate", "closed.test", "closed.test", nil, 0},
		{"the closed name with another CA's", "closed.test", "closed.test", stranger, 0},
		{"the closed name with a member's", "closed.test", "closed.test", member, 200},
		{"closed by Host", "open.test", "closed.test", nil, 421},
		{"closed by Host in capitals with a port", "open.test", "CLOSED.Test:8443", nil, 421},
		{"a member who asks for the open name", "closed.test", "open.test", member, 421},
		{"a name without a certificate", "else.test", "open.test", nil, 0},
	} {
		conf := &tls.Config{ServerName: c.sni}
		if c.cert != nil {
			conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.cert, nil }
		}
		if got := ask(conf, c.host); got != c.want {
			t.Errorf("%s: %d, want %d", c.what, got, c.want)
		}
	}
	// A session of the open name is no way into the closed one.
	sessions := &anySession{}
	poll(t, "there is a session", 20*time.Second, func() bool {
		ask(&tls.Config{ServerName: "open.test", ClientSessionCache: sessions}, "open.test")
		return sessions.last != nil
	})
	if got := ask(&tls.Config{ServerName: "closed.test", ClientSessionCache: sessions}, "closed.test"); got != 0 {
		t.Errorf("with a session of the open name: %d, want no connection", got)
	}
}

// packet3 is how long a packet is at most before its way is known to take longer ones.
const packet3 = 1452

// firstOnly is the socket of a client that is never heard of again once it was answered,
// as if its address were not its own.
type firstOnly struct {
	net.PacketConn
	out, in, retry atomic.Int64 // bytes, bytes, packets
}

func (c *firstOnly) WriteTo(p []byte, to net.Addr) (int, error) {
	if c.in.Load() > 0 {
		return len(p), nil
	}
	c.out.Add(int64(len(p)))
	return c.PacketConn.WriteTo(p, to)
}

func (c *firstOnly) ReadFrom(p []byte) (int, net.Addr, error) {
	n, from, err := c.PacketConn.ReadFrom(p)
	if n > 0 {
		c.in.Add(int64(n))
		if p[0]&0xf0 == 0xf0 { // RFC 9000, section 17.2.5
			c.retry.Add(1)
		}
	}
	return n, from, err
}

// TestHTTP3Retry begins handshakes that never go on. Once many are under way,
// clients have to show that they are where they say; none is sent more than three times
// what it sent and a packet; and whoever can show it is served.
func TestHTTP3Retry(t *testing.T) {
	g := behind(t, origin(t, func(http.ResponseWriter, *http.Request) {}), "", "", overHTTP3())
	to, err := net.ResolveUDPAddr("udp", g.tls)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var socks []*firstOnly
	for range 80 {
		pc, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		sock := &firstOnly{PacketConn: pc}
		socks = append(socks, sock)
		wg.Go(func() {
			tr := &quic.Transport{Conn: sock}
			defer func() { _ = pc.Close() }()
			defer func() { _ = tr.Close() }()
			_, _ = tr.Dial(ctx, to, &tls.Config{ServerName: "edge.test", InsecureSkipVerify: true, NextProtos: []string{"h3"}}, nil)
		})
	}
	asked := 0
	poll(t, "later ones are asked to prove their address", 20*time.Second, func() bool {
		asked = 0
		for _, s := range socks {
			asked += int(min(1, s.retry.Load()))
		}
		return asked >= 20
	})
	if asked > 80-32 {
		t.Errorf("%d of 80 were asked, the first 32 need not be", asked)
	}
	if resp, _ := call(t, speaker3(t, "edge.test"), http.MethodGet, "https://"+g.tls+"/", nil); resp.StatusCode != 200 {
		t.Errorf("a client that is there: %d", resp.StatusCode)
	}
	for i, s := range socks {
		// The library stops when it has sent as much, which may be within a packet.
		if in, out := s.in.Load(), s.out.Load(); in > 3*out+packet3 {
			t.Errorf("client %d sent %d bytes and was sent %d", i, out, in)
		}
	}
	t.Logf("%d of 80 were asked", asked)
}

// TestHTTP3Revoke revokes the certificate that an idle connection was shown.
func TestHTTP3Revoke(t *testing.T) {
	s := newShop(t, overHTTP3())
	s.next(t)
	conn := dial3(t, s.gateway, "shop.test")
	began := time.Now()
	s.rule(t, "revoke", "shop.test", "--reason", "the key was seen")
	select {
	case <-conn.Context().Done():
		t.Logf("it ended after %s: %v", time.Since(began), context.Cause(conn.Context()))
	case <-time.After(15 * time.Second):
		t.Error("the connection stays")
	}
}

// TestHTTP3Slow has clients that do not read, or do not go on: each is given up in time,
// and little is kept for it.
func TestHTTP3Slow(t *testing.T) {
	o := origin(t, func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		_, _ = io.Copy(w, zeros(256*mebi))
	})
	env := overHTTP3()
	env["KEYWAY_WRITE_STALL_TIMEOUT"], env["KEYWAY_HEADER_TIMEOUT"], env["KEYWAY_BODY_IDLE_TIMEOUT"] = "1s", "1s", "1s"
	env["KEYWAY_MAX_CONNECTIONS_PER_CLIENT"] = "1"
	g := behind(t, o, "", "request_buffering: false", env)
	conn := dial3(t, g)
	open := func(p []byte) *quic.Stream {
		s, err := conn.OpenStreamSync(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = s.SetReadDeadline(time.Now().Add(15 * time.Second))
		_, _ = s.Write(p)
		return s
	}
	head := func(method string) []byte {
		return frame3(1, section3(":method", method, ":scheme", "https", ":authority", "edge.test", ":path", "/"))
	}
	unread := open(head("GET"))
	_ = unread.Close()
	half := open(head("GET")[:5])
	upload := open(append(head("POST"), frame3(0, []byte("a"))...))
	if status, err := answer3(upload); status != "408" {
		t.Errorf("a body that does not go on: %q %v, want 408", status, err)
	}
	var reset *quic.StreamError
	if _, err := answer3(half); !errors.As(err, &reset) {
		t.Errorf("a head that does not go on: %v, want a reset", err)
	}
	select { // closed when the node has reset it
	case <-time.After(4 * time.Second):
	case <-conn.Context().Done():
		t.Fatal("the connection went with the stream")
	}
	n, err := io.Copy(io.Discard, unread)
	if !errors.As(err, &reset) || n > 8*mebi {
		t.Errorf("an answer that nobody read: %d bytes, %v; want a reset", n, err)
	}
	if peak := g.peak(); peak > 192*mebi {
		t.Errorf("%d MiB of memory", peak/mebi)
	}
	second := dial3(t, g)
	select {
	case <-second.Context().Done():
	case <-time.After(20 * time.Second):
		t.Error("a client has more connections than it may")
	}
	poll(t, "one refusal is counted", 20*time.Second, func() bool {
		return g.counter(t, `keyway_connections_refused_total{listener="proxy-tls",reason="max_connections_per_client"}`) == 1
	})
}

// TestHTTP3DrainEnds has a request that outlasts the grace period: it is cut.
func TestHTTP3DrainEnds(t *testing.T) {
	o := slowOrigin(t)
	env := overHTTP3()
	env["KEYWAY_GRACE"] = "2s"
	g := behind(t, o.addr, "read_timeout: 60000,", "", env)
	ended := make(chan error, 1)
	c := speaker3(t, "edge.test")
	go func() {
		resp, err := c.Get("https://" + g.tls + "/slow")
		if err == nil {
			_ = resp.Body.Close()
		}
		ended <- err
	}()
	poll(t, "the origin has it", 20*time.Second, func() bool { return o.asked.Load() == 1 })
	if code := g.stop(syscall.SIGTERM); code != 3 {
		t.Errorf("exit status %d, want 3", code)
	}
	if err := <-ended; err == nil {
		t.Error("the request was answered")
	}
	close(o.goOn)
}

// TestHTTP3ECH hides the server name in the handshake.
func TestHTTP3ECH(t *testing.T) {
	env := overHTTP3()
	env["KEYWAY_TLS_ECH_PUBLIC_NAME"] = "public.test"
	g := behind(t, origin(t, func(http.ResponseWriter, *http.Request) {}), "", "", env)
	out, err := g.run("certs", "ech")
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var list []byte
	for word := range strings.FieldsSeq(out) {
		if b, err := base64.StdEncoding.DecodeString(word); err == nil && len(b) > 40 {
			list = b
		}
	}
	cert, err := tls.Dial("tcp", g.tls, &tls.Config{ServerName: "edge.test", InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert.ConnectionState().PeerCertificates[0])
	_ = cert.Close()
	conf := &tls.Config{ServerName: "edge.test", RootCAs: roots, NextProtos: []string{"h3"}, EncryptedClientHelloConfigList: list}
	conn, err := quic.DialAddr(t.Context(), g.tls, conf, patient())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.CloseWithError(0x100, "") }()
	if !conn.ConnectionState().TLS.ECHAccepted {
		t.Error("the name was sent in clear")
	}
}

// TestHTTP3Unknown sends packets of connections that the node does not know: each is
// answered with a stateless reset, which is smaller, and no packet that is none.
func TestHTTP3Unknown(t *testing.T) {
	g := behind(t, origin(t, func(http.ResponseWriter, *http.Request) {}), "", "", overHTTP3())
	c, err := net.Dial("udp", g.tls)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	answer := func(size int, limit time.Duration) int {
		p := make([]byte, size)
		_, _ = rand.Read(p)
		p[0] = p[0]&0x3f | 0x40 // of a short header
		if _, err := c.Write(p); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(limit))
		n, err := c.Read(make([]byte, 2000))
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		return n
	}
	for range 3 {
		if n := answer(100, 10*time.Second); n < 21 || n >= 100 {
			t.Errorf("a packet of 100 bytes is answered with %d, want a stateless reset, which is smaller", n)
		}
	}
	if n := answer(20, 300*time.Millisecond); n > 0 {
		t.Errorf("a packet of 20 bytes is answered with %d", n)
	}
}
