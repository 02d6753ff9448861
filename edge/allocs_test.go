package edge

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"

	xhttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/http1"
	"github.com/keyway-edge/keyway/edge/http2"
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
// engine, handler, the kept connection to its origin and back. What is left is the call of the
// upstream, and the shares of a request in what is allocated for several.
func TestRequestAllocates(t *testing.T) {
	r := newRig(t, &Config{}, "services: [{name: s, url: \"http://"+still(t)+"\", routes: [{name: r, paths: [/], strip_path: false}]}]")
	s := &http1.Server{Handler: NewHandler(r.config, r.publisher, nobody{}, silent()), MaxRequests: 1 << 30}
	info := &exchange.Conn{Peer: netip.MustParseAddrPort("192.0.2.7:4711"), Local: netip.MustParseAddrPort("192.0.2.1:8000"), Protocol: "HTTP/1.1"}
	info.Policy = r.config.newConnInfo(info, r.config.Policy)
	const n = 500
	serve := func() {
		c := &again{left: n, text: "GET /echo/1k HTTP/1.1\r\nHost: bench.example.com\r\nUser-Agent: h2load\r\nAccept: */*\r\n\r\n"}
		s.ServeConn(context.Background(), c, info)
	}
	serve()
	per := testing.AllocsPerRun(5, serve) / n
	t.Logf("%.2f allocations a request", per)
	if per > 3 && !raced {
		t.Errorf("%.2f allocations a request, at most 3 are allowed, what a connection costs among them", per)
	}
}

// TestRequestAllocatesHTTP2 is the same over HTTP/2 and TLS, on a socket: one request at a
// time, and several. What the client allocates is counted along.
func TestRequestAllocatesHTTP2(t *testing.T) {
	if raced {
		t.Skip("the race detector allocates")
	}
	ca := newAuthority(t)
	cert, key := ca.leaf("edge.test")
	h := serve(t, "certificates: [{cert: "+quoted(cert)+", key: "+quoted(key)+", snis: [edge.test]}]\n"+
		"services: [{name: s, url: \"http://"+still(t)+"\", routes: [{name: r, paths: [/], strip_path: false}]}]", func(s *Server) {
		s.HTTP2 = http2.New(NewHandler(s.Config, s.Terminator.publisher, nobody{}, silent()), http2.Settings{})
	})
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	nc, err := tls.Dial("tcp", h.secure, &tls.Config{ServerName: "edge.test", RootCAs: roots, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = nc.Close() }()
	c := newAsker(t, nc)
	for _, streams := range []int{1, 16} {
		const rounds = 200
		serve := func() {
			for range rounds {
				c.ask(streams)
			}
		}
		serve()
		per := testing.AllocsPerRun(5, serve) / float64(rounds*streams)
		t.Logf("%d at a time: %.2f allocations a request", streams, per)
		if per > 5 {
			t.Errorf("%d at a time: %.2f allocations a request, at most 5 are allowed", streams, per)
		}
	}
}

// asker is a client of HTTP/2 that asks the same again and again and allocates nothing for it.
type asker struct {
	t            *testing.T
	c            net.Conn
	r            *bufio.Reader
	next         uint32 // stream
	first, again []byte // the header section, as long as none of it is in the table and from then on
	out          []byte
}

func newAsker(t *testing.T, c net.Conn) *asker {
	t.Helper()
	a := &asker{t: t, c: c, r: bufio.NewReaderSize(c, 16<<10), next: 1}
	var block, hello bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, to := range []*[]byte{&a.first, &a.again} {
		for _, f := range []hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "https"}, {Name: ":authority", Value: "edge.test"}, {Name: ":path", Value: "/echo/1k"}, {Name: "user-agent", Value: "h2load"}} {
			if err := enc.WriteField(f); err != nil {
				t.Fatal(err)
			}
		}
		*to = bytes.Clone(block.Bytes())
		block.Reset()
	}
	hello.WriteString(xhttp2.ClientPreface)
	f := xhttp2.NewFramer(&hello, nil)
	if err := errors.Join(f.WriteSettings(), f.WriteWindowUpdate(0, 1<<30)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(hello.Bytes()); err != nil {
		t.Fatal(err)
	}
	return a
}

// ask sends n requests in one write and reads until as many streams have ended.
func (a *asker) ask(n int) {
	a.out = a.out[:0]
	for range n {
		block := a.again
		if a.next == 1 {
			block = a.first
		}
		a.out = append(a.out, 0, 0, byte(len(block)), byte(xhttp2.FrameHeaders), byte(xhttp2.FlagHeadersEndStream|xhttp2.FlagHeadersEndHeaders))
		a.out = append(binary.BigEndian.AppendUint32(a.out, a.next), block...)
		a.next += 2
	}
	if _, err := a.c.Write(a.out); err != nil {
		a.t.Fatal(err)
	}
	for n > 0 {
		head, err := a.r.Peek(11) // and what a header section begins with
		if err != nil {
			a.t.Fatal(err)
		}
		length, kind, flags := int(head[0])<<16|int(head[1])<<8|int(head[2]), xhttp2.FrameType(head[3]), xhttp2.Flags(head[4])
		switch {
		case kind == xhttp2.FrameRSTStream || kind == xhttp2.FrameGoAway:
			a.t.Fatalf("answered with %v", kind)
		case kind == xhttp2.FrameHeaders && !bytes.HasPrefix(bytes.TrimPrefix(head[9:], []byte{0x20}), []byte{0x88}): // no table; :status 200
			a.t.Fatalf("answered with another status: %x", head)
		case kind == xhttp2.FrameData && flags.Has(xhttp2.FlagDataEndStream):
			n--
		}
		if _, err := a.r.Discard(9 + length); err != nil {
			a.t.Fatal(err)
		}
	}
}
