package upstream

import (
	"io"
	"strings"
	"testing"

	"golang.org/x/net/http2"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/routing/spec"
)

// BenchmarkH2 asks for 1 KiB over shared connections, from many goroutines.
func BenchmarkH2(b *testing.B) {
	addr := rawOrigin(b, func(r *raw) {
		r.SetReuseFrames()
		head, body := block(":status", "200", "content-length", "1024"), make([]byte, 1024)
		for {
			id := r.request()
			if id == 0 {
				return
			}
			_ = r.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: head, EndHeaders: true})
			_ = r.WriteData(id, true, body)
		}
	})
	d := document(at(addr, 100))
	d.Upstreams[0].Healthchecks = spec.Healthchecks{}
	d.Services[0].UpstreamProtocol = "h2c"
	pools := NewPools(Settings{MaxRequests: 1 << 30})
	b.Cleanup(pools.Close)
	s, problems := Build(nil, Inputs{Doc: d, Pools: pools})
	if len(problems) > 0 {
		b.Fatal(problems)
	}
	fields := &exchange.Fields{}
	for _, line := range []string{"X-Forwarded-For: 127.0.0.1", "X-Forwarded-Proto: https", "User-Agent: bench", "Accept: */*"} {
		name, value, _ := strings.Cut(line, ": ")
		fields.Add(name, value)
	}
	b.ReportAllocs()
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		x := &exchange.Exchange{Ctx: b.Context()}
		buf := make([]byte, 32<<10)
		for pb.Next() {
			x.Request.Method, x.Request.Body = "GET", exchange.NoBody
			x.Response.Fields.Reset()
			x.Attempts = x.Attempts[:0]
			if err := s.Cluster("s").Do(x, &Outgoing{URI: "/path?query", HostDefault: true, Fields: fields}); err != nil {
				b.Error(err)
				return
			}
			n := 0
			for {
				m, err := x.Response.Body.Read(buf)
				n += m
				if err == io.EOF {
					break
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
			if n != 1024 {
				b.Errorf("%d bytes", n)
			}
		}
	})
}
