package main

import (
	"bufio"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestSummaryComparesWithinRounds(t *testing.T) {
	c := benchCase{name: "c", workers: 1, peers: []*peer{{name: "nginx"}, {name: "keyway"}}}
	got := summarise(c, [][]run{
		{{cpu: 10}, {cpu: 12}},
		{{cpu: 20}, {cpu: 20}},
		{{cpu: 10}, {cpu: 15}},
	})
	want := []result{
		{Case: "c", Proxy: "nginx", Workers: 1, CPU: 10, Ratio: 1, Spread: "1.00..1.00", Rounds: 3},
		{Case: "c", Proxy: "keyway", Workers: 1, CPU: 15, Ratio: 1.2, Spread: "1.00..1.50", Rounds: 3},
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("summary is\n%+v, want\n%+v", got, want)
	}
}

func TestSummaryVoidsRunsWithFailures(t *testing.T) {
	c := benchCase{name: "c", workers: 1, peers: []*peer{{name: "nginx"}, {name: "keyway"}}}
	got := summarise(c, [][]run{
		{{cpu: 10}, {cpu: 1, failed: 3}}, // too good: most of it was not done
		{{cpu: 1, failed: 1}, {cpu: 30}},
		{{cpu: 10}, {cpu: 20}},
	})
	if k := got[1]; k.Rounds != 1 || k.Ratio != 2 || k.Errors != 3 || k.Spread != "2.00..2.00" {
		t.Errorf("keyway's line is %+v, want one round of ratio 2 and 3 errors", k)
	}
	if n := got[0]; n.Rounds != 2 || n.Errors != 1 || n.CPU != 10 {
		t.Errorf("nginx's line is %+v, want two rounds and 1 error", n)
	}
	none := summarise(c, [][]run{{{failed: 1}, {failed: 1}}})
	if _, err := json.Marshal(none); err != nil || none[1].Ratio != 0 || none[1].Rounds != 0 {
		t.Errorf("without any good run the line is %+v (%v), want zeroes that can be written", none[1], err)
	}
}

func TestTwoKeywaysAreComparedWithinRounds(t *testing.T) {
	l := &lab{beside: "/other"}
	for _, c := range l.cases() {
		var names []string
		ports := map[int]bool{}
		for _, p := range c.peers {
			names = append(names, p.name)
			ports[p.port] = true
		}
		if want := []string{"nginx", "keyway", "keyway-b"}; !reflect.DeepEqual(names, want) || len(ports) != 3 {
			t.Errorf("%s is measured on %v at %v, want %v at ports of their own", c.label(), names, ports, want)
		}
	}
	runs := [][]run{{{cpu: 9}, {cpu: 10}, {cpu: 20}}, {{cpu: 9}, {cpu: 10}, {cpu: 1, failed: 1}}, {{cpu: 9, failed: 1}, {cpu: 10}, {cpu: 5}}}
	if got, want := within(runs, 1, 2), []float64{2, 0.5}; !reflect.DeepEqual(got, want) {
		t.Errorf("the ratios are %v, want %v: one void run, and nginx's is none of theirs", got, want)
	}
}

func TestResultHasTheFieldsOfTheFile(t *testing.T) {
	text, err := json.Marshal(result{Case: "h1-tls-1k", Proxy: "keyway", Workers: 1, CPU: 1, Ratio: 1, Spread: "1..1", Rounds: 1})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"case":"h1-tls-1k","proxy":"keyway","workers":1,"cpu_us_per_request":1,"ratio_to_nginx":1,"spread":"1..1","rounds":1,"errors":0}`
	if string(text) != want {
		t.Fatalf("a line is %s, want %s", text, want)
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		list []float64
		want float64
	}{{[]float64{3, 1, 2}, 2}, {[]float64{4, 1, 3, 2}, 2.5}, {[]float64{7}, 7}} {
		if got := median(c.list); got != c.want {
			t.Errorf("median of %v is %v, want %v", c.list, got, c.want)
		}
	}
}

// TestTicksCountChildren sees that work of a child's child belongs to the peer: nginx
// works in children, and taskset stands before everything pinned.
func TestTicksCountChildren(t *testing.T) {
	if os.Getenv("BENCH_BURN") != "" {
		x := []byte("x")
		for end := time.Now().Add(30 * time.Second); time.Now().Before(end); { // killed long before
			s := sha256.Sum256(x)
			x = s[:]
		}
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{name: "burner", start: func(int) (*exec.Cmd, error) {
		cmd := pinned(2, "sh", "-c", self+" -test.run=TestTicksCountChildren & wait")
		cmd.Env = append(os.Environ(), "BENCH_BURN=1")
		return cmd, nil
	}}
	if p.cmd, err = p.start(2); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.down)
	pid := p.cmd.Process.Pid
	deadline := time.Now().Add(20 * time.Second)
	for {
		n, err := ticks(pid)
		if err != nil {
			t.Fatal(err)
		}
		if n >= 10 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the tree has used %d ticks after 20 s of work", n)
		}
		time.Sleep(10 * time.Millisecond)
	}
	p.down()
	if _, err := ticks(pid); err == nil {
		t.Fatal("a peer that is down still has CPU time")
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
	if failed := handshakes("full", address, 5, false); failed != 0 || resumed.Load() != 0 {
		t.Errorf("full: %d failed, %d resumed; want none of either", failed, resumed.Load())
	}
	if failed := handshakes("resumed", address, 5, false); failed != 0 || resumed.Load() != 4 {
		t.Errorf("resumed: %d failed, %d resumed; want 0 and 4", failed, resumed.Load())
	}
}

func TestHandshakesCountFailures(t *testing.T) {
	address, _ := origin(t, &tls.Config{SessionTicketsDisabled: true}, small)
	if failed := handshakes("resumed", address, 5, false); failed != 4 {
		t.Errorf("without tickets %d of 5 failed, want 4", failed)
	}
	address, _ = origin(t, &tls.Config{}, func(n int) string {
		if n%2 == 1 {
			return "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"
		}
		return small(n)
	})
	if failed := handshakes("full", address, 4, false); failed != 2 {
		t.Errorf("with every second answer a 502, %d of 4 failed, want 2", failed)
	}
	address, _ = origin(t, &tls.Config{CurvePreferences: []tls.CurveID{tls.X25519MLKEM768}}, small)
	if failed := handshakes("full", address, 1, false); failed != 1 {
		t.Error("a client of X25519 alone came through to a server of X25519MLKEM768 alone")
	}
	if failed := handshakes("full", address, 1, true); failed != 0 {
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
