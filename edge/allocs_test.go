package edge

import (
	"context"
	"io"
	"net/netip"
	"testing"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/http1"
)

// again is a connection that says the same request over and over.
type again struct {
	said
	left int
	text string
}

func (c *again) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	c.left--
	return copy(p, c.text), nil
}

func (*again) Write(p []byte) (int, error) { return len(p), nil }

// TestRequestAllocates counts what a request on a kept connection allocates all the way:
// engine, handler, the kept connection to its origin and back. Four: the head, the request's
// id, the call of the upstream and the response's head.
func TestRequestAllocates(t *testing.T) {
	r := newRig(t, &Config{}, "services: [{name: s, url: \"http://"+still(t)+"\", routes: [{name: r, paths: [/], strip_path: false}]}]")
	s := &http1.Server{Handler: NewHandler(r.config, r.publisher, nobody{}, silent()), MaxRequests: 1 << 30}
	info := &exchange.Conn{Peer: netip.MustParseAddrPort("192.0.2.7:4711"), Local: netip.MustParseAddrPort("192.0.2.1:8000"), Protocol: "HTTP/1.1"}
	info.Policy = newConnInfo(info, r.config.Policy)
	const n = 500
	serve := func() {
		c := &again{left: n, text: "GET /echo/1k HTTP/1.1\r\nHost: bench.example.com\r\nUser-Agent: h2load\r\nAccept: */*\r\n\r\n"}
		s.ServeConn(context.Background(), c, info)
	}
	serve()
	per := testing.AllocsPerRun(5, serve) / n
	t.Logf("%.2f allocations a request", per)
	if per > 4.2 && !raced {
		t.Errorf("%.2f allocations a request, at most 4 and what a connection costs are expected", per)
	}
}
