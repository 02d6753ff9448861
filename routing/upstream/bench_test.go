package upstream

import (
	"bufio"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/routing/spec"
)

// echoing serves responses of size bytes on one goroutine a connection, allocating
// nothing itself, so that what is measured is this package and the kernel.
func echoing(tb testing.TB, size int) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: " + strconv.Itoa(size) + "\r\n\r\n" + strings.Repeat("x", size))
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				r := bufio.NewReaderSize(c, 16<<10)
				for {
					line, err := r.ReadSlice('\n')
					if err != nil {
						return
					}
					if len(line) == 2 {
						c.Write(answer)
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

// rider repeats one request as an engine does, with everything reused.
type rider struct {
	x       exchange.Exchange
	out     Outgoing
	cluster *Cluster
	buf     []byte
	size    int
}

func newRider(tb testing.TB, size int) *rider {
	tb.Helper()
	d := document(at(echoing(tb, size), 100))
	d.Upstreams[0].Healthchecks = spec.Healthchecks{}
	pools := NewPools(Settings{})
	tb.Cleanup(pools.Close)
	s, problems := Build(nil, Inputs{Doc: d, Pools: pools})
	if len(problems) > 0 {
		tb.Fatal(problems)
	}
	r := &rider{cluster: s.Cluster("s"), buf: make([]byte, 32<<10), size: size}
	r.x.Ctx = tb.Context()
	r.x.Request.Method, r.x.Request.Body = "GET", exchange.NoBody
	fields := &exchange.Fields{}
	for _, line := range []string{"X-Forwarded-For: 127.0.0.1", "X-Forwarded-Proto: https", "User-Agent: bench", "Accept: */*"} {
		name, value, _ := strings.Cut(line, ": ")
		fields.Add(name, value)
	}
	r.out = Outgoing{URI: "/path?query", HostDefault: true, Fields: fields, Lead: 2, Buffered: true}
	return r
}

func (r *rider) ride(tb testing.TB) {
	x := &r.x
	x.Attempts = x.Attempts[:0]
	x.Response.Fields.Reset()
	if err := r.cluster.Do(x, &r.out); err != nil {
		tb.Fatal(err)
	}
	n := 0
	for {
		m, err := x.Response.Body.Read(r.buf)
		n += m
		if err == io.EOF {
			break
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
	if n != r.size {
		tb.Fatalf("got %d bytes", n)
	}
}

func TestSteadyStateAllocatesLittle(t *testing.T) {
	r := newRider(t, 1024)
	r.ride(t)
	if n := testing.AllocsPerRun(200, func() { r.ride(t) }); n > 2 && !raced {
		t.Errorf("%v allocations a request, want at most 2: the head and the call", n)
	}
}

func BenchmarkDo(b *testing.B) {
	for name, size := range map[string]int{"1KiB": 1 << 10, "100KiB": 100 << 10} {
		b.Run(name, func(b *testing.B) {
			r := newRider(b, size)
			b.ReportAllocs()
			for b.Loop() {
				r.ride(b)
			}
		})
	}
}

// BenchmarkBareSocket is the floor under BenchmarkDo: the same bytes with
// nothing but a write and a read.
func BenchmarkBareSocket(b *testing.B) {
	c, err := net.Dial("tcp", echoing(b, 1024))
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	request := []byte("GET /path?query HTTP/1.1\r\nHost: 127.0.0.1:19901\r\nConnection: keep-alive\r\nX-Forwarded-For: 127.0.0.1\r\n\r\n")
	buf := make([]byte, 16<<10)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(request); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBuild(b *testing.B) {
	d := &spec.Document{}
	for i := range 10_000 {
		s := *document().Services[1]
		s.ID, s.Port = string(rune('a'+i%26))+strings.Repeat("x", i%100)+string(rune(i)), 1+i%60000
		d.Services = append(d.Services, &s)
	}
	pools := NewPools(Settings{})
	prev, _ := Build(nil, Inputs{Doc: d, Pools: pools})
	b.ReportAllocs()
	for b.Loop() {
		prev, _ = Build(prev, Inputs{Doc: d, Pools: pools})
	}
}
