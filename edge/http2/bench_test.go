package http2

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// answerer answers with one body and allocates nothing.
type answerer struct {
	body    []byte
	readers sync.Pool
}

func newAnswerer(body int) *answerer {
	a := &answerer{body: make([]byte, body)}
	a.readers.New = func() any { return new(bytes.Reader) }
	return a
}

func (a *answerer) Handle(x *exchange.Exchange) {
	r := a.readers.Get().(*bytes.Reader)
	r.Reset(a.body)
	x.Response.Status, x.Response.Length, x.Response.Body = 200, int64(len(a.body)), r
	x.Response.Fields.Add("Content-Type", "text/plain")
	x.Response.Fields.Add("X-Request-Id", "0123456789abcdef")
}

func (a *answerer) Done(x *exchange.Exchange, _ error) { a.readers.Put(x.Response.Body) }

// busy is a client that sends the same requests again and again and counts the ends
// of their responses.
type busy struct {
	c       net.Conn
	streams int
	next    uint32
	first   []byte // the header section of a request, and of the later ones, which are in the table
	later   []byte
	out, in []byte
}

func newBusyOn(c net.Conn, streams, room int) *busy {
	var b bytes.Buffer
	enc := hpack.NewEncoder(&b)
	for range 2 {
		fields := head("GET", "/1k", "user-agent", "bench", "x-token", "0123456789abcdef")
		for i := 0; i < len(fields); i += 2 {
			_ = enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
		}
		b.WriteByte(0xff)
	}
	parts := bytes.Split(b.Bytes(), []byte{0xff})
	return &busy{c: c, streams: streams, next: 1, first: parts[0], later: parts[1], in: make([]byte, room)}
}

func newBusy(tb testing.TB, body int, streams int) *busy {
	tb.Helper()
	e := New(newAnswerer(body), Settings{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		c, err := l.Accept()
		if err == nil {
			e.ServeConn(context.Background(), c, &exchange.Conn{})
		}
	})
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = c.Close()
		_ = l.Close()
		wg.Wait()
	})
	var hello bytes.Buffer
	hello.WriteString(http2.ClientPreface)
	fr := http2.NewFramer(&hello, nil)
	_ = fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
	_ = fr.WriteWindowUpdate(0, 1<<31-1-65535)
	if _, err := c.Write(hello.Bytes()); err != nil {
		tb.Fatal(err)
	}
	return newBusyOn(c, streams, 64<<10)
}

// round sends one request on each stream and reads all responses.
func (k *busy) round(tb testing.TB) {
	k.out = k.out[:0]
	for range k.streams {
		block := k.later
		if k.next == 1 {
			block = k.first
		}
		k.out = appendFrame(k.out, len(block), http2.FrameHeaders, http2.FlagHeadersEndHeaders|http2.FlagHeadersEndStream, k.next)
		k.out = append(k.out, block...)
		k.next += 2
	}
	if _, err := k.c.Write(k.out); err != nil {
		tb.Fatal(err)
	}
	have := 0
	for ended := 0; ended < k.streams; {
		n, err := io.ReadAtLeast(k.c, k.in[have:], 1)
		if err != nil {
			tb.Fatal(err)
		}
		have += n
		at := 0
		for have-at >= frameHead {
			f := parseFrame(k.in[at:])
			if have-at < frameHead+f.length {
				break
			}
			if f.kind == http2.FrameData && f.flags.Has(http2.FlagDataEndStream) {
				ended++
			}
			at += frameHead + f.length
		}
		have = copy(k.in, k.in[at:have])
	}
	if k.next > 1<<29 {
		tb.Fatal("out of stream ids")
	}
	if k.next%4096 < uint32(2*k.streams) { // what was sent is let through again
		w := appendFrame(nil, 4, http2.FrameWindowUpdate, 0, 0)
		w = binary.BigEndian.AppendUint32(w, 2048*1024)
		if _, err := k.c.Write(w); err != nil {
			tb.Fatal(err)
		}
	}
}

func BenchmarkRequests(b *testing.B) {
	k := newBusy(b, 1024, 16)
	b.ReportAllocs()
	for n := 0; n < b.N; n += k.streams {
		k.round(b)
	}
}

// TestAllocations: the engine itself allocates next to nothing for a request.
func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	k := newBusy(t, 1024, 16)
	for range 20 {
		k.round(t)
	}
	if n := testing.AllocsPerRun(200, func() { k.round(t) }) / float64(k.streams); n > 1.5 {
		t.Errorf("%.1f allocations a request, at most one and a half are allowed", n)
	}
}

// TestIdleMemory: what an idle connection keeps, but for TLS.
func TestIdleMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector needs memory of its own")
	}
	const n = 200
	e := New(newAnswerer(1024), Settings{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { e.ServeConn(context.Background(), c, &exchange.Conn{}) })
		}
	})
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
		_ = l.Close()
		wg.Wait()
	}()
	before := inUse()
	for range n {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
		k := newBusyOn(c, 1, 4<<10)
		var hello bytes.Buffer
		hello.WriteString(http2.ClientPreface)
		_ = http2.NewFramer(&hello, nil).WriteSettings()
		if _, err := c.Write(hello.Bytes()); err != nil {
			t.Fatal(err)
		}
		k.round(t)
	}
	const limit = 16 << 10 // of the 40 KiB of a connection; the client's end here is in it, TLS is not
	deadline := time.Now().Add(15 * time.Second)
	for {
		each := (inUse() - before) / n
		if each < limit {
			t.Logf("%d bytes each", each)
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("an idle connection keeps %d bytes, want at most %d", each, limit)
		}
		<-time.After(keepBuffers)
	}
}

// inUse is what heap and stacks hold.
func inUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
