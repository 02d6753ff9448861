package integration

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// streamed runs a node with a stream listener, whose flags are given.
func streamed(t testing.TB, document, flags string, env map[string]string) (*gateway, string) {
	t.Helper()
	address := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	all := map[string]string{"KEYWAY_STREAM_LISTEN": address + " " + flags}
	for k, v := range env {
		all[k] = v
	}
	return start(t, options{document: "_format_version: \"3.0\"\n" + document, env: all}), address
}

func connect(t testing.TB, address string) *net.TCPConn {
	t.Helper()
	c, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn)
}

// echoed says something, ends its side and answers all that came back.
func echoed(c interface {
	io.ReadWriter
	CloseWrite() error
}, text []byte,
) ([]byte, error) {
	go func() {
		_, _ = c.Write(text)
		_ = c.CloseWrite()
	}()
	return io.ReadAll(c)
}

// portOf is the port of an address.
func portOf(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }

// TestStreamTCP carries bytes both ways, ends passed on one by one, over two targets
// of which one dies: no connection fails after that, and none goes there.
func TestStreamTCP(t *testing.T) {
	one, two := tcpEcho(t, "1"), tcpEcho(t, "2")
	access := filepath.Join(t.TempDir(), "access.log")
	address := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	g := start(t, options{
		document: fmt.Sprintf(`{_format_version: "3.0",
		upstreams: [{name: echo, healthchecks: {passive: {type: tcp, unhealthy: {tcp_failures: 1}}}, targets: [{target: %q}, {target: %q}]}],
		services: [{name: s, protocol: tcp, host: echo, port: 1, routes: [{name: r, protocols: [tcp], destinations: [{port: %s}]}]}],
		plugins: [{name: ip-restriction, config: {deny: [127.0.0.7]}}]}`, one.Addr(), two.Addr(), portOf(address)),
		env: map[string]string{"KEYWAY_STREAM_LISTEN": address, "KEYWAY_ACCESS_LOG": access},
	})
	big := make([]byte, 3<<20)
	_, _ = rand.Read(big)
	served := map[byte]int{}
	visit := func(text []byte) {
		t.Helper()
		got, err := echoed(connect(t, address), text)
		if err != nil || len(got) != len(text)+1 || !bytes.Equal(got[1:], text) {
			t.Fatalf("%d bytes came back of %d: %v", len(got), len(text), err)
		}
		served[got[0]]++
	}
	visit(big)
	for range 19 {
		visit([]byte("hello"))
	}
	if served['1'] != 10 || served['2'] != 10 {
		t.Errorf("20 connections over two targets: %v", served)
	}
	_ = two.Close()
	clear(served)
	for range 20 {
		visit([]byte("hello"))
	}
	if served['2'] != 0 {
		t.Errorf("a dead target served: %v", served)
	}
	if got, err := io.ReadAll(from(t, "127.0.0.7", address)); len(got) > 0 || err != nil {
		t.Errorf("a denied client reads %q, %v", got, err)
	}
	poll(t, "streams are counted", 20*time.Second, func() bool {
		return g.counter(t, `keyway_stream_sessions_total{protocol="tcp",result="closed"}`) == 40 &&
			g.counter(t, `keyway_stream_sessions_total{protocol="tcp",result="denied"}`) == 1 &&
			g.counter(t, `keyway_stream_sessions_open{protocol="tcp"}`) == 0
	})
	if n := g.counter(t, `keyway_stream_bytes_total{direction="in",protocol="tcp"}`); n != float64(len(big)+39*5) {
		t.Errorf("%v bytes in", n)
	}
	g.stop(syscall.SIGTERM)
	log, _ := os.ReadFile(access)
	if n := strings.Count(string(log), `"msg":"stream"`); n != 41 || !strings.Contains(string(log), `"route":"r","service":"s"`) {
		t.Errorf("%d lines in the access log: %.600s", n, log)
	}
}

// TestStreamTLSSwap ends TLS for many clients while the certificate is replaced.
func TestStreamTLSSwap(t *testing.T) {
	echo := tcpEcho(t, "")
	address := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	document := func(cn string) string {
		cert, key := pair(t, cn, "a.test")
		return fmt.Sprintf(`{_format_version: "3.0", certificates: [{id: 1e4f5f4e-3f0a-4f0e-9d1c-000000000001, cert: %q, key: %q, snis: [{name: a.test}]}],
		services: [{name: s, protocol: tcp, url: "tcp://%s", routes: [{name: r, protocols: [tls], snis: [a.test]}]}]}`, cert, key, echo.Addr())
	}
	g := start(t, options{document: document("one"), env: map[string]string{"KEYWAY_STREAM_LISTEN": address + " ssl"}})
	var seen sync.Map
	var visits, failed atomic.Int64
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				visits.Add(1)
				c, err := tls.Dial("tcp", address, &tls.Config{ServerName: "a.test", InsecureSkipVerify: true, NextProtos: []string{"mqtt"}})
				if err != nil {
					failed.Add(1)
					t.Errorf("shaking hands: %v", err)
					return
				}
				seen.Store(c.ConnectionState().PeerCertificates[0].Subject.CommonName, true)
				if got, err := echoed(c, []byte("hello")); err != nil || string(got) != "hello" {
					failed.Add(1)
					t.Errorf("%q came back: %v", got, err)
				}
				_ = c.Close()
			}
		})
	}
	has := func(cn string) func() bool {
		return func() bool { _, ok := seen.Load(cn); return ok }
	}
	poll(t, "the first certificate serves", 20*time.Second, has("one"))
	for _, cn := range []string{"two", "three", "four"} {
		g.write(document(cn))
		poll(t, "certificate "+cn+" serves", 20*time.Second, has(cn))
	}
	close(stop)
	clients.Wait()
	if failed.Load() > 0 || visits.Load() < 20 {
		t.Errorf("%d of %d visits failed", failed.Load(), visits.Load())
	}
	_, err := tls.Dial("tcp", address, &tls.Config{ServerName: "b.test", InsecureSkipVerify: true})
	if err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("a name without a route: %v", err)
	}
	c := connect(t, address)
	if got, err := echoed(c, []byte("GET / HTTP/1.1\r\n\r\n")); err != nil && !errors.Is(err, syscall.ECONNRESET) || len(got) > 0 {
		t.Errorf("without TLS: %q, %v", got, err)
	}
}

// byteByByte writes so that each byte is a segment of its own.
type byteByByte struct{ net.Conn }

func (c byteByByte) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := c.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

// serving is a real server that is killed at the end, and says then why the test failed.
func serving(t *testing.T, address, name string, args ...string) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		skip(t, name+" is not installed; run make setup")
	}
	out := process(t, t.TempDir(), nil, path, args...)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s said: %s", name, out.String())
		}
	})
	poll(t, name+" listens", 20*time.Second, func() bool { return !refusesConnections(address) })
}

// haproxyTold is a real HAProxy that answers what a PROXY header said.
func haproxyTold(t *testing.T) (address string) {
	t.Helper()
	address = fmt.Sprintf("127.0.0.1:%d", freePort(t))
	conf := "defaults\n  mode http\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n" +
		"frontend told\n  bind " + address + " accept-proxy\n" +
		"  http-request return status 200 content-type text/plain lf-string \"%[src] %[dst_port] %[fc_pp_authority]\"\n"
	serving(t, address, "haproxy", "-db", "-f", file(t, t.TempDir(), "haproxy.cfg", conf))
	return address
}

// nginxTLS is a real nginx that ends TLS for names itself.
func nginxTLS(t *testing.T, names ...string) (secure map[string]string) {
	t.Helper()
	dir := t.TempDir()
	secure = map[string]string{}
	var conf strings.Builder
	fmt.Fprintf(&conf, "daemon off; worker_processes 1; pid %s/pid; error_log stderr; events { worker_connections 256; }\nhttp { access_log off;\n", dir)
	for _, path := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&conf, "%s_temp_path %s/tmp;\n", path, dir)
	}
	for _, name := range names {
		cert, key := pair(t, name, name)
		secure[name] = fmt.Sprintf("127.0.0.1:%d", freePort(t))
		fmt.Fprintf(&conf, "server { listen %s ssl; ssl_certificate %s; ssl_certificate_key %s; return 200 %q; }\n", secure[name],
			file(t, dir, name+".crt", cert), file(t, dir, name+".key", key), name+" $ssl_server_name")
	}
	conf.WriteString("}\n")
	serving(t, secure[names[0]], "nginx", "-p", dir, "-c", file(t, dir, "nginx.conf", conf.String()))
	return secure
}

// TestStreamPassthrough has two real TLS servers behind one port, by name: the client
// sees their certificates, however its ClientHello is cut.
func TestStreamPassthrough(t *testing.T) {
	secure, introduced := nginxTLS(t, "a.test", "b.test"), haproxyTold(t)
	address := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	inClear := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	cert, key := pair(t, "here", "c.test", "d.test")
	start(t, options{
		document: fmt.Sprintf(`{_format_version: "3.0", certificates: [{cert: %q, key: %q, snis: [{name: c.test}, {name: d.test}]}], services: [
		{name: a, protocol: tls_passthrough, url: "tls_passthrough://%s", routes: [{name: a, protocols: [tls_passthrough], snis: [a.test]}]},
		{name: b, protocol: tcp, url: "tcp://%s", routes: [{name: b, protocols: [tls_passthrough], snis: ["*.b.test", b.test]}]},
		{name: c, protocol: tcp, url: "tcp://%s", x_keyway_proxy_protocol: v2, routes: [{name: c, protocols: [tls], snis: [c.test]}]},
		{name: d, protocol: tls, url: "tls://%s", tls_verify: false, routes: [{name: d, protocols: [tls], snis: [d.test]}]},
		{name: e, protocol: tcp, url: "tcp://%s", x_keyway_proxy_protocol: v1, routes: [{name: e, protocols: [tcp], destinations: [{port: %s}]}]}]}`,
			cert, key, secure["a.test"], secure["b.test"], introduced, secure["a.test"], introduced, portOf(inClear)),
		env: map[string]string{"KEYWAY_STREAM_LISTEN": address + " ssl, " + inClear},
	})
	ask := func(c net.Conn) string {
		return asked(t, c, "")
	}
	for name, want := range map[string][2]string{
		"a.test": {"a.test", "a.test a.test"}, "b.test": {"b.test", "b.test b.test"}, "x.b.test": {"b.test", "b.test x.b.test"},
		"c.test": {"here", "127.0.0.9 " + portOf(address) + " c.test"}, "d.test": {"here", "a.test "},
	} {
		for _, how := range []string{"at once", "byte by byte", "classic"} {
			var c net.Conn = from(t, "127.0.0.9", address)
			if how == "byte by byte" {
				_ = c.(*net.TCPConn).SetNoDelay(true)
				c = byteByByte{c}
			}
			config := &tls.Config{ServerName: name, InsecureSkipVerify: true}
			if how == "classic" { // without the long key of the default
				config.CurvePreferences = []tls.CurveID{tls.X25519, tls.CurveP256}
			}
			tc := tls.Client(c, config)
			if err := tc.Handshake(); err != nil {
				t.Errorf("%s, %s: %v", name, how, err)
				continue
			}
			if cn := tc.ConnectionState().PeerCertificates[0].Subject.CommonName; cn != want[0] {
				t.Errorf("%s, %s: the certificate is of %s, want %s", name, how, cn, want[0])
			}
			if got := ask(tc); !strings.HasSuffix(got, "\r\n"+want[1]) {
				t.Errorf("%s, %s: %q, want %q", name, how, got, want[1])
			}
		}
	}
	if got := ask(from(t, "127.0.0.9", inClear)); !strings.HasSuffix(got, "127.0.0.9 "+portOf(inClear)+" ") {
		t.Errorf("PROXY header of version 1: %q", got)
	}
	tc := tls.Client(connect(t, address), &tls.Config{ServerName: "z.test", InsecureSkipVerify: true})
	if err := tc.Handshake(); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("an unknown name: %v", err)
	}
}

// udpEcho answers each datagram with itself; peers counts who asked.
func udpEcho(t testing.TB) (address string, peers func() int) {
	t.Helper()
	c, err := net.ListenPacket("udp", fmt.Sprintf("127.0.0.1:%d", freePort(t)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	var known sync.Map
	var n atomic.Int64
	go func() {
		buf := make([]byte, 65535)
		for {
			k, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			if _, old := known.LoadOrStore(from.String(), true); !old {
				n.Add(1)
			}
			_, _ = c.WriteTo(buf[:k], from)
		}
	}()
	return c.LocalAddr().String(), func() int { return int(n.Load()) }
}

// asksUDP sends a datagram until its answer comes, and answers that.
func asksUDP(c net.Conn, text []byte) ([]byte, error) {
	buf := make([]byte, 65535)
	for range 10 {
		if _, err := c.Write(text); err != nil {
			return nil, err
		}
		_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
		n, err := c.Read(buf)
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return buf[:n], err
		}
	}
	return nil, errors.New("no answer came to ten questions")
}

// TestStreamUDP has a thousand clients at a time, each with a session of its own;
// sizes stay, more clients than allowed get nothing, silence ends sessions.
func TestStreamUDP(t *testing.T) {
	echo, peers := udpEcho(t)
	brieflyAt, _ := udpEcho(t) // ports of sessions that have ended are those of others later
	address, brief := fmt.Sprintf("127.0.0.1:%d", freePort(t)), fmt.Sprintf("127.0.0.1:%d", freePort(t))
	const most = 1000
	g := start(t, options{
		document: fmt.Sprintf(`{_format_version: "3.0", services: [
		{name: s, protocol: udp, url: "udp://%s", read_timeout: 600000, routes: [{name: r, protocols: [udp], destinations: [{port: %s}]}]},
		{name: b, protocol: udp, url: "udp://%s", read_timeout: 500, routes: [{name: b, protocols: [udp], destinations: [{port: %s}]}]}]}`, echo, portOf(address), brieflyAt, portOf(brief)),
		env: map[string]string{"KEYWAY_STREAM_LISTEN": address + " udp, " + brief + " udp", "KEYWAY_STREAM_UDP_SESSIONS": fmt.Sprint(most)},
	})
	dial := func(address string) net.Conn {
		c, err := net.Dial("udp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	for range 3 {
		if got, err := asksUDP(dial(brief), []byte("soon silent")); err != nil || string(got) != "soon silent" {
			t.Errorf("%q, %v", got, err)
		}
	}
	poll(t, "silent sessions end", 20*time.Second, func() bool {
		return g.counter(t, `keyway_stream_sessions_total{protocol="udp",result="idle"}`) == 3 && g.counter(t, `keyway_stream_sessions_open{protocol="udp"}`) == 0
	})
	clients := make([]net.Conn, most)
	for i := range clients {
		clients[i] = dial(address)
		want := fmt.Appendf(nil, "client %d", i)
		if got, err := asksUDP(clients[i], want); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%q came back for %q: %v", got, want, err)
		}
	}
	if n := peers(); n != most {
		t.Errorf("the target has seen %d peers, want %d", n, most)
	}
	if n := g.counter(t, `keyway_stream_sessions_open{protocol="udp"}`); n != most {
		t.Errorf("%v sessions are open, want %d", n, most)
	}
	for _, size := range []int{0, 1, 512, 1472, 9000, 60000} {
		want := make([]byte, size)
		_, _ = rand.Read(want)
		if got, err := asksUDP(clients[7], want); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes came back of %d: %v", len(got), size, err)
		}
	}
	_, _ = dial(brief).Write([]byte("one too many"))
	poll(t, "a session too many is refused", 20*time.Second, func() bool {
		return g.counter(t, `keyway_stream_sessions_total{protocol="udp",result="full"}`) >= 1
	})
	if n := peers(); n != most {
		t.Errorf("the target has seen %d peers, want %d", n, most)
	}
}

// TestStreamDrain stops a node with streams under way: listeners close, streams go on
// and end by themselves; one that stays is cut when the grace period is over.
func TestStreamDrain(t *testing.T) {
	echo := tcpEcho(t, "")
	document := fmt.Sprintf("services: [{name: s, protocol: tcp, url: \"tcp://%s\", routes: [{name: r, protocols: [tcp], sources: [{ip: 127.0.0.0/8}]}]}]\n", echo.Addr())
	for name, stays := range map[string]bool{"ends": false, "stays": true} {
		grace := "20s"
		if stays {
			grace = "1s"
		}
		g, address := streamed(t, document, "", map[string]string{"KEYWAY_GRACE": grace})
		c := connect(t, address)
		say := func(text string) error {
			buf := make([]byte, len(text))
			if _, err := io.WriteString(c, text); err != nil {
				return err
			}
			if _, err := io.ReadFull(c, buf); err != nil || string(buf) != text {
				return fmt.Errorf("%q came back: %w", buf, err)
			}
			return nil
		}
		if err := say("before"); err != nil {
			t.Fatal(err)
		}
		ended := make(chan int, 1)
		go func() { ended <- g.stop(syscall.SIGTERM) }()
		poll(t, "the listener closes", 20*time.Second, func() bool { return refusesConnections(address) })
		if stays {
			if _, err := io.ReadAll(c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%s: %v", name, err)
			}
			if status := <-ended; status == 0 {
				t.Errorf("%s: the node says that nothing was cut", name)
			}
			continue
		}
		if err := say("while it drains"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		_ = c.CloseWrite()
		if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
			t.Errorf("%s: %q, %v", name, rest, err)
		}
		if status := <-ended; status != 0 {
			t.Errorf("%s: exit status %d", name, status)
		}
	}
}
