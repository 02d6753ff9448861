package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

func TestTwoKeywaysAreComparedWithinRounds(t *testing.T) {
	l := &lab{beside: "/other"}
	for _, c := range l.cases() {
		var names []string
		ports := map[int]bool{}
		for _, p := range c.peers {
			names = append(names, p.name)
			ports[p.port] = true
		}
		names = slices.DeleteFunc(names, func(s string) bool { return s == "origin alone" })
		if want := []string{"nginx", "keyway", "keyway-b"}; !reflect.DeepEqual(names, want) || len(ports) < 3 {
			t.Errorf("%s is measured on %v at %v, want %v at ports of their own", c.label(), names, ports, want)
		}
	}
	runs := [][]run{{{CPU: 9}, {CPU: 10}, {CPU: 20}}, {{CPU: 9}, {CPU: 10}, {CPU: 1, Failed: 1}}, {{CPU: 9, Failed: 1}, {CPU: 10}, {CPU: 5}}}
	if got, want := within(runs, 1, 2, cpu), []float64{2, 0.5}; !reflect.DeepEqual(got, want) {
		t.Errorf("the ratios are %v, want %v: one void run, and nginx's is none of theirs", got, want)
	}
}

// origin answers one request on each connection over TLS, as answer says, and
// counts those resumed.
func origin(t *testing.T, config *tls.Config, answer func(n int) string) (address string, resumed *atomic.Int64) {
	t.Helper()
	certPEM, keyPEM, err := selfSigned("bench.example.com")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair([]byte(certPEM), []byte(keyPEM))
	if err != nil {
		t.Fatal(err)
	}
	config.Certificates = []tls.Certificate{pair}
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	resumed = new(atomic.Int64)
	go func() {
		for n := 0; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serveOne(c, answer(n), resumed)
		}
	}()
	return l.Addr().String(), resumed
}

func serveOne(c net.Conn, answer string, resumed *atomic.Int64) {
	defer func() { _ = c.Close() }()
	if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
		return
	}
	if c.(*tls.Conn).ConnectionState().DidResume {
		resumed.Add(1)
	}
	_, _ = io.WriteString(c, answer)
}

func small(int) string {
	return "HTTP/1.1 200 OK\r\nContent-Length: 1024\r\nConnection: close\r\n\r\n" + strings.Repeat("a", 1024)
}

func TestHandshakesAreFullOrResumed(t *testing.T) {
	address, resumed := origin(t, &tls.Config{}, small)
	if r := handshakes("full", address, 5, false); r.Failed != 0 || r.Resumed != 0 || resumed.Load() != 0 {
		t.Errorf("full: %+v, %d resumed; want none failed or resumed", r, resumed.Load())
	}
	if r := handshakes("resumed", address, 5, false); r.Failed != 0 || r.Resumed != 4 || resumed.Load() != 4 {
		t.Errorf("resumed: %+v, %d resumed; want 0 failed and 4 resumed", r, resumed.Load())
	}
	for mlkem, want := range map[bool]string{false: " X25519", true: " X25519MLKEM768"} {
		if r := handshakes("full", address, 1, mlkem); !strings.HasPrefix(r.TLS, "TLS 1.3 TLS_") || !strings.HasSuffix(r.TLS, want) {
			t.Errorf("it was agreed on %q, want TLS 1.3 and%s", r.TLS, want)
		}
	}
}

func TestHandshakesCountFailures(t *testing.T) {
	address, _ := origin(t, &tls.Config{SessionTicketsDisabled: true}, small)
	if r := handshakes("resumed", address, 5, false); r.Failed != 4 {
		t.Errorf("without tickets %d of 5 failed, want 4", r.Failed)
	}
	address, _ = origin(t, &tls.Config{}, func(n int) string {
		if n%2 == 1 {
			return "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"
		}
		return small(n)
	})
	if r := handshakes("full", address, 4, false); r.Failed != 2 {
		t.Errorf("with every second answer a 502, %d of 4 failed, want 2", r.Failed)
	}
	address, _ = origin(t, &tls.Config{CurvePreferences: []tls.CurveID{tls.X25519MLKEM768}}, small)
	if r := handshakes("full", address, 1, false); r.Failed != 1 {
		t.Error("a client of X25519 alone came through to a server of X25519MLKEM768 alone")
	}
	if r := handshakes("full", address, 1, true); r.Failed != 0 {
		t.Error("a client that offers X25519MLKEM768 did not come through to a server of it")
	}
}

func TestDocumentHasItsRoutes(t *testing.T) {
	for _, n := range []int{1, 100} {
		text := document(n, true)
		if got := strings.Count(text, "  - {name: "); got != n {
			t.Errorf("a document of %d routes has %d", n, got)
		}
	}
	if !strings.Contains(document(1, true), "key-auth") || strings.Contains(document(1, false), "plugins") {
		t.Error("plugins are not where they belong")
	}
	if !strings.Contains(document(9, false), fmt.Sprintf("127.0.0.1:%d", backendPort)) {
		t.Error("the document does not point to the origin")
	}
}

// TestAims has them as they were set.
func TestAims(t *testing.T) {
	want := map[string]float64{
		"h1-tls-1k": 0.95, "h1-tls-1k/2": 1.05, "h1-tls-1k-policy": 1.05, "h1-tls-1k-policy/2": 1.15, "h2-tls-1k": 0.8, "h2-tls-1k/2": 0.95,
		"h1-tls-100k": 0.95, "h1-plain-1k": 1.1, "tls-full": 0.85, "tls-resumed": 0.95, "upload-1m": 1.1, "ws-echo": 1.2, "h1-tls-1k-upstream-tls": 1,
		"h1-tls-1k-latency": 1.1, "h2-tls-1k-latency": 1.1, "h1-plain-1k-latency": 1.1,
	}
	got := map[string]float64{}
	for _, c := range (&lab{}).cases() {
		if c.aim > 0 {
			got[c.label()] = c.aim
		}
		if c.peers[0].name != "nginx" || c.index("haproxy") < 0 && !strings.Contains(c.name, "mlkem768") {
			t.Errorf("%s is not measured beside nginx and HAProxy", c.label())
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the aims are\n%v, want\n%v", got, want)
	}
}

func TestWhatH2loadSays(t *testing.T) {
	const text = `starting benchmark...
TLS Protocol: TLSv1.3
Cipher: TLS_AES_128_GCM_SHA256
Server Temp Key: X25519 253 bits
Application protocol: http/1.1

finished in 1.20s, 49800.25 req/s, 56.1MB/s
requests: 100 total, 100 started, 100 done, 98 succeeded, 2 failed, 0 errored, 0 timeout
status codes: 98 2xx, 0 3xx, 2 4xx, 0 5xx
`
	got, err := readH2load(text, 100)
	if want := (run{Requests: 100, Failed: 2, Rate: 49800.25, TLS: sameTLS}); err != nil || got != want {
		t.Errorf("it says %+v (%v), want %+v", got, err, want)
	}
	if (run{TLS: "TLS 1.3 TLS_AES_256_GCM_SHA384 X25519"}).agreed(sameTLS) == nil {
		t.Error("figures of another cipher were taken")
	}
	if err := (run{Failed: 1}).agreed(sameTLS); err != nil {
		t.Errorf("a void run, which is counted as such, ended everything: %v", err)
	}
	if _, err := readH2load("usage", 100); err == nil {
		t.Error("a text without figures was read")
	}
}
