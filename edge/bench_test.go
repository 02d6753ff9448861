package edge

import (
	"bufio"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// still serves one response to each request, allocating nothing itself.
func still(tb testing.TB) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = l.Close() })
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nServer: still\r\nContent-Length: 5\r\n\r\nhello")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				r := bufio.NewReaderSize(c, 16<<10)
				for {
					line, err := r.ReadSlice('\n')
					if err != nil {
						return
					}
					if len(line) == 2 {
						_, _ = c.Write(answer)
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

// nobody observes nothing.
type nobody struct{}

func (nobody) Finished(*Finished) {}

// keepAlive repeats a proxied GET as an engine does, with the exchange reused.
func keepAlive(tb testing.TB) func() {
	tb.Helper()
	set := HeaderServer | HeaderVia | HeaderProxyLatency | HeaderUpstreamLatency | HeaderRequestID
	r := newRig(tb, &Config{Version: "0.1.0", Headers: set, HeadersUpstream: HeaderRequestID},
		"services: [{name: s, url: \"http://"+still(tb)+"\", routes: [{name: r, hosts: [bench.test], paths: [/api]}]}]")
	r.handler = NewHandler(r.config, r.publisher, nobody{}, silent())
	x := ask(tb, "GET", "bench.test", "/api/things?page=1", "User-Agent: bench", "Accept: */*", "Accept-Encoding: gzip")
	x.Conn.Policy = r.config.newConnInfo(x.Conn, r.config.Policy)
	given := x.Request.Fields
	buf := make([]byte, 4<<10)
	return func() {
		fields, attempts := x.Response.Fields, x.Attempts[:0]
		fields.Reset()
		x.Response = exchange.Response{Fields: fields}
		x.Attempts, x.RequestID, x.Start = attempts, "", time.Now()
		x.Request.Fields = given
		r.handler.Handle(x)
		if x.Response.Status != 200 {
			tb.Fatalf("answered %d", x.Response.Status)
		}
		for {
			if _, err := x.Response.Body.Read(buf); err != nil {
				if !errors.Is(err, io.EOF) {
					tb.Fatal(err)
				}
				break
			}
		}
		r.handler.Done(x, nil)
	}
}

// TestHandleAllocates bounds what a proxied request costs apart from its engine.
func TestHandleAllocates(t *testing.T) {
	const most = 2
	once := keepAlive(t)
	once()
	if n := testing.AllocsPerRun(200, once); n > most && !raced {
		t.Errorf("a proxied keep-alive GET makes %.1f allocations, at most %d are expected", n, most)
	} else {
		t.Logf("%.1f allocations", n)
	}
}

func BenchmarkHandle(b *testing.B) {
	once := keepAlive(b)
	b.ReportAllocs()
	for b.Loop() {
		once()
	}
}
