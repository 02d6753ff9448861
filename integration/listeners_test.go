package integration

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// listened is a node whose document gets listeners and loses them.
type listened struct {
	t         *testing.T
	base      string // of the document
	cert, key string
}

// listenersOf makes the base of a document: one service for requests, whose route /bound is
// that of the listener "web" alone, and streams for whatever comes.
func listenersOf(t *testing.T, origin, web string) *listened {
	t.Helper()
	l := &listened{t: t}
	l.cert, l.key = pair(t, "edge.test", "edge.test")
	tcp := tcpEcho(t, "")
	udp, _ := udpEcho(t)
	l.base = fmt.Sprintf(`_format_version: "3.0"
certificates: [{cert: %q, key: %q, snis: [edge.test]}]
services:
- {name: all, url: "http://%[3]s", read_timeout: 60000, routes: [{name: all, paths: [/], strip_path: false}]}
- name: bound
  url: "http://%[3]s"
  routes:
  - {name: bound, expression: 'http.path == "/bound" && net.dst.port == %[4]s', priority: 1, protocols: [http]}
  - {name: unbound, expression: 'http.path == "/bound"', protocols: [http], plugins: [{name: request-termination, config: {status_code: 418}}]}
- {name: t, url: "tcp://%[5]s", routes: [{name: t, protocols: [tcp, tls], sources: [{ip: 127.0.0.0/8}]}]}
- {name: u, url: "udp://%[6]s", routes: [{name: u, protocols: [udp], sources: [{ip: 127.0.0.0/8}]}]}
`, l.cert, l.key, origin, portOf(web), tcp.Addr(), udp)
	return l
}

// with is the document with listeners, each "name protocol address".
func (l *listened) with(list ...string) string {
	var all []string
	for _, x := range list {
		f := strings.Fields(x)
		host, port, err := net.SplitHostPort(f[2])
		if err != nil {
			l.t.Fatal(err)
		}
		all = append(all, fmt.Sprintf("{name: %s, protocol: %s, address: %s, port: %s}", f[0], f[1], host, port))
	}
	return l.base + "x_keyway_listeners: [" + strings.Join(all, ", ") + "]\n"
}

// load puts a document in force.
func (g *gateway) load(text string) {
	g.t.Helper()
	g.write(text)
	if out, err := g.run("reload"); err != nil {
		g.t.Fatalf("reload: %v: %s", err, out)
	}
}

// listenerStates are those of /status by name, and the remarks.
func (g *gateway) listenerStates() (map[string]string, []string) {
	_, text := g.read("/status")
	var st struct {
		Listeners []struct{ Name, State string }
		Remarks   []string
	}
	if err := json.Unmarshal([]byte(text), &st); err != nil {
		g.t.Fatal(err)
	}
	states := map[string]string{}
	for _, l := range st.Listeners {
		states[l.Name] = l.State
	}
	return states, st.Remarks
}

func free(t testing.TB) string { return fmt.Sprintf("127.0.0.1:%d", freePort(t)) }

// TestListenersOfDocuments opens listeners of every protocol by a reload, serves on them,
// waits for a port that another process has, and closes them.
func TestListenersOfDocuments(t *testing.T) {
	o := slowOrigin(t)
	web, secure, stream, streamTLS, datagrams := free(t), free(t), free(t), free(t), free(t)
	l := listenersOf(t, o.addr, web)
	g := start(t, options{document: l.base, env: map[string]string{"KEYWAY_H2C": "all"}})
	if states, _ := g.listenerStates(); len(states) > 0 || !refusesConnections(web) {
		t.Fatalf("without listeners %v are open", states)
	}
	taken, err := net.Listen("tcp", free(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	busy := taken.Addr().String()
	document := l.with("web http "+web, "secure https "+secure, "db tcp "+stream, "db-tls tls "+streamTLS, "dns udp "+datagrams, "busy http "+busy, "shared https "+g.tls)
	g.load(document)
	want := map[string]string{"web": "open", "secure": "open", "db": "open", "db-tls": "open", "dns": "open", "busy": "failing", "shared": "settings"}
	poll(t, "the listeners are open", 20*time.Second, func() bool {
		states, remarks := g.listenerStates()
		return fmt.Sprint(states) == fmt.Sprint(want) && len(remarks) > 0 && strings.Contains(strings.Join(remarks, "\n"), "listener busy (http on "+busy+") is not open")
	})
	if n := g.counter(t, `keyway_listeners{state="failing"}`); n != 1 {
		t.Errorf("%v listeners are failing", n)
	}
	if n := strings.Count(g.log.String(), "listener cannot be opened"); n != 1 {
		t.Errorf("the log says %d times that a port is taken", n)
	}

	// Every protocol is spoken, and by the names that listeners have.
	if _, text := call(t, speaker(t, false), http.MethodPost, "http://"+web+"/", strings.NewReader("a")); text != "adone" {
		t.Errorf("http: %q", text)
	}
	for _, h2 := range []bool{false, true} {
		resp, text := call(t, speaker(t, h2), http.MethodPost, "https://"+secure+"/", strings.NewReader("a"))
		if text != "adone" || (resp.ProtoMajor == 2) != h2 {
			t.Errorf("https: %s %q", resp.Proto, text)
		}
	}
	h2c := &http.Transport{Protocols: new(http.Protocols)}
	h2c.Protocols.SetUnencryptedHTTP2(true)
	defer h2c.CloseIdleConnections()
	if resp, text := call(t, &http.Client{Transport: h2c, Timeout: 20 * time.Second}, http.MethodPost, "http://"+web+"/", strings.NewReader("a")); text != "adone" || resp.ProtoMajor != 2 {
		t.Errorf("h2c: %s %q", resp.Proto, text)
	}
	c := connect(t, stream)
	if err := echoes(c, "over tcp"); err != nil {
		t.Errorf("tcp: %v", err)
	}
	tc := tls.Client(connect(t, streamTLS), &tls.Config{ServerName: "edge.test", InsecureSkipVerify: true})
	if err := echoes(tc, "over tls"); err != nil {
		t.Errorf("tls: %v", err)
	}
	session := dialUDP(t, datagrams)
	_ = session.SetDeadline(time.Now().Add(10 * time.Second))
	if err := echoes(session, "over udp"); err != nil {
		t.Errorf("udp: %v", err)
	}
	if n := g.counter(t, `keyway_connections_total{listener="secure"}`); n < 2 {
		t.Errorf("%v connections are counted", n)
	}
	status := func(address, host string) int {
		q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/bound", nil)
		if err != nil {
			t.Fatal(err)
		}
		q.Host = host
		resp, err := speaker(t, false).Do(q)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	if status(web, "edge.test") != 200 || status(web, "edge.test:1") != 200 || status(g.proxy, "edge.test:"+portOf(web)) != 418 || status(g.proxy, "edge.test") != 418 {
		t.Error("a route is bound to its listener, whatever Host says")
	}
	explained := func(port string) (e struct{ Listener, Route string }) {
		out, err := g.run("explain", "--json", "--port", port, "http://edge.test:"+portOf(web)+"/bound")
		if err == nil {
			err = json.Unmarshal([]byte(out), &e)
		}
		if err != nil {
			t.Errorf("explain: %v: %s", err, out)
		}
		return e
	}
	if e := explained(portOf(web)); e.Route != "bound" || e.Listener != "web (http on "+web+")" {
		t.Errorf("explained as %+v", e)
	}
	if e := explained(portOf(g.proxy)); e.Route != "unbound" || e.Listener != "the document declares none for port "+portOf(g.proxy) {
		t.Errorf("of another port: explained as %+v", e)
	}

	_ = taken.Close()
	poll(t, "the port is taken when it is free", 20*time.Second, func() bool { states, _ := g.listenerStates(); return states["busy"] == "open" })
	if _, text := call(t, speaker(t, false), http.MethodPost, "http://"+busy+"/", strings.NewReader("a")); text != "adone" {
		t.Errorf("on the port that was taken: %q", text)
	}

	g.load(l.base)
	poll(t, "the listeners are closed", 20*time.Second, func() bool {
		return refusesConnections(web) && refusesConnections(secure) && refusesConnections(stream) && refusesConnections(streamTLS) && refusesConnections(busy)
	})
	if err := echoes(c, "a stream stays"); err != nil {
		t.Errorf("a stream of a listener that closed: %v", err)
	}
	if refusesConnections(g.tls) || refusesConnections(g.proxy) {
		t.Error("the settings' listeners are closed too")
	}
	poll(t, "the socket of datagrams is closed", 20*time.Second, func() bool {
		p, err := net.ListenPacket("udp", datagrams)
		if err == nil {
			_ = p.Close()
		}
		return err == nil
	})
}

// TestListenersGoUnderLoad takes listeners away, again and again, from clients that do not stop
// to ask: each request that was let in is answered, and connections that are kept are told.
func TestListenersGoUnderLoad(t *testing.T) {
	o := slowOrigin(t)
	web, secure := free(t), free(t)
	l := listenersOf(t, o.addr, web)
	on, off := l.with("web http "+web, "secure https "+secure), l.base
	g := start(t, options{document: on, env: map[string]string{"KEYWAY_GRACE": "20s"}})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var answered, away, lost atomic.Int64
	var first atomic.Value
	ask := func(url, method string, h2 bool) {
		client := speaker(t, h2)
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				q, _ := http.NewRequest(method, url, nil)
				resp, err := client.Do(q)
				var text []byte
				if err == nil {
					text, err = io.ReadAll(resp.Body)
					_ = resp.Body.Close()
					if err == nil && (resp.StatusCode != 200 || string(text) != "done") {
						err = fmt.Errorf("%s %q", resp.Status, text)
					}
				}
				switch {
				case err == nil:
					answered.Add(1)
				case errors.Is(err, syscall.ECONNREFUSED):
					away.Add(1)
					pause(stop, 10*time.Millisecond)
				default:
					lost.Add(1)
					first.CompareAndSwap(nil, fmt.Sprintf("%s %s: %v", method, url, err))
				}
			}
		})
	}
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		ask("http://"+web+"/", method, false)
		ask("https://"+secure+"/", method, false)
		ask("https://"+secure+"/", method, true)
		ask("http://"+g.proxy+"/", method, false) // which is never closed
	}
	slowly := make(chan error, 2)
	var idle []net.Conn
	for round := range 5 {
		before := answered.Load()
		poll(t, "clients are served", 20*time.Second, func() bool {
			return answered.Load() > before+200 && !refusesConnections(web) && !refusesConnections(secure)
		})
		if round == 0 {
			for _, h2 := range []bool{false, true} { // in flight for as long as it takes
				client := speaker(t, h2)
				go func() {
					resp, err := client.Get("https://" + secure + "/slow")
					if err == nil {
						var text []byte
						text, err = io.ReadAll(resp.Body)
						_ = resp.Body.Close()
						if err == nil && (string(text) != "done" || resp.ProtoMajor == 1 && !resp.Close) {
							err = fmt.Errorf("%q, Connection: close %v", text, resp.Close)
						}
					}
					slowly <- err
				}()
			}
			poll(t, "the origin has both", 20*time.Second, func() bool { return o.asked.Load() == 2 })
			c := connect(t, web)
			send(t, c, "GET /quick HTTP/1.1\r\nHost: edge.test\r\n\r\n")
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			idle = append(idle, c)
		}
		g.load(off)
		poll(t, "the listeners are closed", 20*time.Second, func() bool { return refusesConnections(web) && refusesConnections(secure) })
		if round == 0 {
			_ = idle[0].SetReadDeadline(time.Now().Add(10 * time.Second))
			if n, err := idle[0].Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("a connection that idles: %d bytes, %v; want its end", n, err)
			}
			close(o.goOn)
			for range 2 {
				if err := <-slowly; err != nil {
					t.Errorf("a request in flight: %v", err)
				}
			}
		}
		g.load(on)
	}
	close(stop)
	wg.Wait()
	if lost.Load() > 0 {
		t.Errorf("of %d requests %d were lost, the first: %v", answered.Load()+lost.Load(), lost.Load(), first.Load())
	}
	if code := g.stop(syscall.SIGTERM); code != 0 {
		t.Errorf("exit status %d", code)
	}
	t.Logf("%d answered, %d turned away while a listener was closed, %d lost", answered.Load(), away.Load(), lost.Load())
}

// TestListenersSurviveUpgrades upgrades a node under new connections to listeners that its
// document declares: none is refused, and the new process has them, and closes them.
func TestListenersSurviveUpgrades(t *testing.T) {
	o, _ := upgradeOrigin(t)
	web, secure, stream, datagrams := free(t), free(t), free(t), free(t)
	l := listenersOf(t, o, web)
	document := l.with("web http "+web, "secure https "+secure, "db tcp "+stream, "dns udp "+datagrams)
	g := upgradable(t, options{document: document, env: map[string]string{"KEYWAY_GRACE": "60s", "KEYWAY_HANDSHAKE_TIMEOUT": "30s", "KEYWAY_HEADER_TIMEOUT": "30s"}})
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(l.cert))
	load := []*newcomers{
		{address: web, path: "/"},
		{address: secure, roots: &tls.Config{ServerName: "edge.test", RootCAs: roots}, path: "/"},
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, x := range load {
		wg.Go(func() { x.run(100, stop) })
	}
	held, session := connect(t, stream), dialUDP(t, datagrams)
	for _, c := range []net.Conn{held, session} {
		_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
		if err := echoes(c, "before"); err != nil {
			t.Fatal(err)
		}
	}
	late := free(t)
	for i := range 3 {
		g.install(t, binary(t))
		written := make(chan struct{})
		go func() { // in the midst of the hand-over: only one of the two processes may open it
			defer close(written)
			if i != 1 {
				return
			}
			for before, end := len(g.processes()), time.Now().Add(20*time.Second); len(g.processes()) <= before && time.Now().Before(end); {
				pause(stop, time.Millisecond)
			}
			g.write(l.with("web http "+web, "secure https "+secure, "db tcp "+stream, "dns udp "+datagrams, "late http "+late))
		}()
		g.upgrade(t)
		<-written
		for _, c := range []net.Conn{held, session} {
			if err := echoes(c, "after an upgrade"); err != nil {
				t.Error(err)
			}
		}
		pause(stop, 300*time.Millisecond)
	}
	close(stop)
	wg.Wait()
	for _, x := range load {
		if x.ok.Load() != x.sent.Load() || x.sent.Load() < 50 {
			t.Errorf("of %d new connections to %s %d were refused, %d reset, %d failed otherwise; the first: %v", x.sent.Load(), x.address, x.refused.Load(), x.reset.Load(), x.failed.Load(), x.first.Load())
		}
		t.Logf("%s: %d new connections over 3 upgrades, %d refused", x.address, x.sent.Load(), x.refused.Load())
	}
	poll(t, "the newest process has all listeners", 20*time.Second, func() bool {
		states, _ := g.listenerStates()
		return states["web"] == "open" && states["dns"] == "open" && states["late"] == "open"
	})
	if n := g.counter(t, "keyway_listener_failures_total") + float64(strings.Count(g.log.String(), "listener cannot be opened")); n > 0 || refusesConnections(late) {
		t.Errorf("the two processes have stood in each other's way %v times", n)
	}
	if n := g.counter(t, `keyway_connections_total{listener="web"}`); n < 1 {
		t.Errorf("the newest process counts %v connections of the listener", n)
	}
	fresh := dialUDP(t, datagrams)
	_ = fresh.SetDeadline(time.Now().Add(10 * time.Second))
	if err := echoes(fresh, "a new session"); err != nil {
		t.Error(err)
	}
	g.load(l.with("secure https " + secure))
	poll(t, "the new process closes what it was given", 20*time.Second, func() bool { return refusesConnections(web) && refusesConnections(stream) })
	g.load(document)
	poll(t, "and opens it again", 20*time.Second, func() bool { return !refusesConnections(web) && !refusesConnections(stream) })
	if err := echoes(held, "in the oldest process"); err != nil {
		t.Error(err)
	}
}
