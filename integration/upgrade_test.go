package integration

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// configs notes from when on answers are of a newer configuration, and says of an answer
// of an older one whether it came too late.
type configs struct {
	mu   sync.Mutex
	seen []time.Time // by number of the configuration; when the first answer of it came
	most time.Duration
}

// apart is how long two processes may serve different configurations.
const apart = time.Second

func (c *configs) judge(body string, began time.Time) error {
	_, text, ok := strings.Cut(body, "config ")
	digits, _, _ := strings.Cut(text, ".")
	n, err := strconv.Atoi(digits)
	if !ok || err != nil {
		return fmt.Errorf("the answer is %q", body)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.seen) <= n {
		c.seen = append(c.seen, time.Now())
	}
	if n == len(c.seen)-1 {
		return nil
	}
	behind := began.Sub(c.seen[n+1])
	c.most = max(c.most, behind)
	if behind > apart {
		return fmt.Errorf("configuration %d is served %s after the one that follows it", n, behind)
	}
	return nil
}

// abiding are what lasts over many upgrades: requests on connections that are kept, a
// download, a WebSocket, a stream, a session of datagrams.
type abiding struct {
	asked, troubles atomic.Int64
	first           atomic.Value
	stop            chan struct{}
	wg              sync.WaitGroup
}

func (a *abiding) trouble(what string, err error) {
	a.troubles.Add(1)
	a.first.CompareAndSwap(nil, fmt.Sprintf("%s: %v", what, err))
}

// again does something again and again until the end.
func (a *abiding) again(what string, gap time.Duration, f func() error) {
	a.wg.Go(func() {
		for {
			select {
			case <-a.stop:
				return
			default:
			}
			a.asked.Add(1)
			if err := f(); err != nil {
				a.trouble(what, err)
				gap = max(gap, 50*time.Millisecond)
			}
			pause(a.stop, gap)
		}
	})
}

// asks makes requests of a client; posts are not made twice by it.
func (a *abiding) asks(what, method, url string, c *http.Client) {
	a.again(what, 5*time.Millisecond, func() error {
		req, err := http.NewRequest(method, url, strings.NewReader("ping"))
		if err != nil {
			return err
		}
		req.Host = "edge.test"
		resp, err := c.Do(req)
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		text, err := io.ReadAll(resp.Body)
		if err == nil && (resp.StatusCode != 200 || string(text) != "pingdone") {
			err = fmt.Errorf("%s %q", resp.Status, text)
		}
		return err
	})
}

// upgradeOrigin answers what is sent with that and "done", holds WebSockets, and has a
// download that lasts until it is told to end.
func upgradeOrigin(t testing.TB) (address string, end chan struct{}) {
	end = make(chan struct{})
	return origin(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/chat":
			echoFrames(w, r)
		case "/download":
			for i := 0; ; i++ {
				_, _ = fmt.Fprintf(w, "%08d", i)
				_ = http.NewResponseController(w).Flush()
				select {
				case <-end:
					_, _ = io.WriteString(w, "all.")
					return
				case <-time.After(20 * time.Millisecond):
				}
			}
		default:
			body, _ := io.ReadAll(r.Body)
			_, _ = w.Write(append(body, "done"...))
		}
	}), end
}

// upgradeDocument is what the node serves; n is the number of the configuration.
func upgradeDocument(cert, key, origin, tcp, udp, tcpPort, udpPort string, n int) string {
	return fmt.Sprintf(`{_format_version: "3.0", certificates: [{cert: %q, key: %q, snis: [edge.test]}],
	services: [{name: all, url: "http://%s", read_timeout: 60000, routes: [{name: all, paths: [/], protocols: [http, https]},
		{name: config, paths: [/config], plugins: [{name: request-termination, config: {status_code: 200, message: "config %d."}}]}]},
	{name: t, url: "tcp://%s", routes: [{name: t, protocols: [tcp], destinations: [{port: %s}]}]},
	{name: u, url: "udp://%s", routes: [{name: u, protocols: [udp], destinations: [{port: %s}]}]}]}`, cert, key, origin, n, tcp, tcpPort, udp, udpPort)
}

// TestUpgradeUnderLoad upgrades a node, again and again and between two versions, while a
// thousand connections a second come to it and others stay. None is refused, reset or
// badly answered; the ledger is one chain.
func TestUpgradeUnderLoad(t *testing.T) {
	upgrades := 20
	if n, err := strconv.Atoi(os.Getenv("UPGRADES")); err == nil {
		upgrades = n
	}
	other := another(t, "9.8.7-other")
	o, endDownload := upgradeOrigin(t)
	tcp := tcpEcho(t, "")
	udp, peers := udpEcho(t)
	cert, key := pair(t, "edge.test", "edge.test")
	stream, datagrams := fmt.Sprintf("127.0.0.1:%d", freePort(t)), fmt.Sprintf("127.0.0.1:%d", freePort(t))
	document := func(n int) string {
		return upgradeDocument(cert, key, o, tcp.Addr().String(), udp, portOf(stream), portOf(datagrams), n)
	}
	g := upgradable(t, options{document: document(0), env: map[string]string{
		"KEYWAY_HTTP3": "all", "KEYWAY_STREAM_LISTEN": stream + ", " + datagrams + " udp", "KEYWAY_GRACE": "5m", "KEYWAY_LOG_LEVEL": "warn",
		"KEYWAY_HANDSHAKE_TIMEOUT": "30s", "KEYWAY_HEADER_TIMEOUT": "30s", // of a machine that has much else to do
	}})
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(cert))
	trust := &tls.Config{ServerName: "edge.test", RootCAs: roots, ClientSessionCache: tls.NewLRUClientSessionCache(64)}
	_, first := g.serves()
	a := &abiding{stop: make(chan struct{})}
	end := sync.OnceFunc(func() { // also where the test is given up
		close(endDownload)
		close(a.stop)
		a.wg.Wait()
	})
	defer end()
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		a.asks("kept HTTP/1.1 "+method, method, "http://"+g.proxy+"/", &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{}})
		a.asks("kept HTTP/2 "+method, method, "https://"+g.tls+"/", speaker(t, true))
		a.asks("HTTP/3 "+method, method, "https://"+g.tls+"/", speaker3(t, "edge.test"))
	}
	downloaded := make(chan error, 1)
	go func() { downloaded <- download("https://"+g.tls+"/download", speaker(t, false)) }()
	var goodbyes [2]atomic.Int64
	for i, how := range []string{"tls", "h2"} {
		w := webSocket(t, g.gateway, how)
		a.again("WebSocket, "+how, 20*time.Millisecond, func() error {
			err := w.talk()
			if !errors.Is(err, errGoodbye) {
				return err
			}
			goodbyes[i].Add(1)
			if err := w.leave(); err != nil {
				return err
			}
			w = webSocket(t, g.gateway, how) // and comes back, to the new process
			return nil
		})
	}
	held := connect(t, stream)
	_ = held.SetDeadline(time.Now().Add(3 * time.Minute))
	a.again("stream", 20*time.Millisecond, func() error { return echoes(held, "a stream that stays") })
	session := dialUDP(t, datagrams)
	a.again("session of datagrams", 10*time.Millisecond, func() error {
		_ = session.SetDeadline(time.Now().Add(5 * time.Second))
		return echoes(session, "a datagram")
	})
	news := &configs{}
	load := []*newcomers{
		{address: g.tls, roots: trust, path: "/config", judge: news.judge},
		{address: g.tls, roots: trust, path: "/"},
	}
	var wg sync.WaitGroup
	for _, l := range load {
		wg.Go(func() { l.run(500, a.stop) })
	}

	began := time.Now()
	pids := map[int]bool{g.cmd.Process.Pid: true}
	for i := range upgrades {
		program, want := other, "9.8.7-other"
		if i%2 == 1 {
			program, want = binary(t), first
		}
		g.install(t, program)
		g.write(document(i + 1))
		if i%5 == 4 {
			pid, _ := g.serves()
			if err := syscall.Kill(pid, syscall.SIGUSR2); err != nil {
				t.Fatal(err)
			}
			poll(t, "SIGUSR2 upgrades", 30*time.Second, func() bool {
				now, version := g.serves()
				if now == pid || version != want {
					return false
				}
				pids[now] = true
				return true
			})
		} else {
			u := g.upgrade(t)
			if pids[u.Pid] || !pids[u.OldPid] || u.Version != want {
				t.Fatalf("upgrade %d: %+v, want version %s", i+1, u, want)
			}
			pids[u.Pid] = true
			// Who was told of it finds the new process. After a signal nobody is told, and both
			// answer for some milliseconds.
			if _, version := g.serves(); version != want {
				t.Errorf("after upgrade %d version %s serves, want %s", i+1, version, want)
			}
		}
		pause(a.stop, 300*time.Millisecond)
	}
	took := time.Since(began)
	end()
	wg.Wait()
	if err := <-downloaded; err != nil {
		t.Errorf("the download: %v", err)
	}
	var sent int64
	for _, l := range load {
		sent += l.sent.Load()
		if l.ok.Load() != l.sent.Load() {
			t.Errorf("of %d new connections %d were refused, %d reset, %d failed otherwise; the first: %v", l.sent.Load(), l.refused.Load(), l.reset.Load(), l.failed.Load(), l.first.Load())
		}
	}
	if a.troubles.Load() > 0 {
		t.Errorf("of %d exchanges that last %d failed, the first: %v", a.asked.Load(), a.troubles.Load(), a.first.Load())
	}
	for i := range goodbyes {
		if goodbyes[i].Load() == 0 {
			t.Errorf("WebSocket %d heard of no upgrade", i)
		}
	}
	if n := peers(); n != 1 {
		t.Errorf("the session of datagrams came to its target from %d sockets, want one", n)
	}
	if len(pids) != upgrades+1 {
		t.Errorf("%d processes, want %d", len(pids), upgrades+1)
	}
	if n := g.counter(t, `keyway_upgrades_total{result="handed_over"}`); n != float64(upgrades) {
		t.Errorf("%v upgrades are counted, want %d", n, upgrades)
	}
	out, err := g.run("audit", "verify")
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	events, _ := g.run("audit", "query", "--kind", "upgrade", "--event", "handed_over", "--json")
	if n := strings.Count(events, `"handed_over"`); n != upgrades {
		t.Errorf("the ledger has %d upgrades, want %d:\n%s", n, upgrades, events)
	}
	t.Logf("%d upgrades in %s under %d new connections (%.0f a second) and %d exchanges that last; 0 refused, 0 reset; configurations at most %s apart; %s", upgrades, took.Truncate(time.Millisecond), sent, float64(sent)/took.Seconds(), a.asked.Load(), max(news.most, 0), strings.Split(out, "\n")[0])
}

// download reads a body and looks at whether it is whole.
func download(url string, c *http.Client) error {
	resp, err := c.Get(url)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	text, ok := bytes.CutSuffix(text, []byte("all."))
	for i := 0; i*8 < len(text); i++ {
		if want := fmt.Sprintf("%08d", i); !bytes.HasPrefix(text[i*8:], []byte(want)) {
			return fmt.Errorf("it has %q at %d", text[i*8:min(len(text), i*8+8)], i*8)
		}
	}
	if !ok || len(text) == 0 {
		return fmt.Errorf("it ends after %d bytes", len(text))
	}
	return nil
}

// errGoodbye says that a node that goes has closed a WebSocket as it should.
var errGoodbye = errors.New("the node says goodbye")

// goodbye says whether a frame is that of a node that goes (RFC 6455, section 7.4.1).
func goodbye(f wsFrame) bool {
	return f.fin && f.opcode == 8 && bytes.Equal(f.payload, []byte{1001 >> 8, 1001 & 0xff})
}

// talk says something over a WebSocket and hears it.
func (s *ws) talk() error {
	want := wsFrame{fin: true, opcode: 1, payload: []byte("still there?")}
	if err := writeFrame(s.w, want, true); err != nil {
		return err
	}
	got, err := readFrame(s.r)
	switch {
	case err != nil:
		return err
	case goodbye(got):
		return errGoodbye
	case !bytes.Equal(got.payload, want.payload):
		return fmt.Errorf("it answers %q", got.payload)
	}
	return nil
}

// leave answers a goodbye and awaits the end.
func (s *ws) leave() error {
	if err := writeFrame(s.w, wsFrame{fin: true, opcode: 8, payload: []byte{1001 >> 8, 1001 & 0xff}}, true); err != nil {
		return err
	}
	if f, err := readFrame(s.r); !errors.Is(err, io.EOF) {
		return fmt.Errorf("after the goodbye came a frame of opcode %d, %w", f.opcode, err)
	}
	return nil
}

// echoes says something and hears it.
func echoes(c net.Conn, text string) error {
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	got := make([]byte, len(text))
	n, err := io.ReadFull(c, got)
	if err == nil && string(got[:n]) != text {
		err = fmt.Errorf("%q came back", got[:n])
	}
	return err
}
