package http1

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/exchange/sock/socktest"
)

// seen is a socket that counts what is copied to and from the process.
type seen struct {
	*net.TCPConn
	copied atomic.Int64
}

func (s *seen) Read(p []byte) (int, error) {
	n, err := s.TCPConn.Read(p)
	s.copied.Add(int64(n))
	return n, err
}

func (s *seen) Write(p []byte) (int, error) {
	n, err := s.TCPConn.Write(p)
	s.copied.Add(int64(n))
	return n, err
}

func (s *seen) Plain() *net.TCPConn { return s.TCPConn }

// hidden is a socket that something lies over, as TLS does.
type hidden struct{ net.Conn }

// kernelTunnel is a tunnel between sockets, and what the exchange says once it is done.
type kernelTunnel struct {
	s              *Server
	client, origin *net.TCPConn
	r              *bufio.Reader // of the client
	copied         func() int64  // bytes that the process has seen
	done           chan [2]int64 // bytes in and out
}

func newKernelTunnel(t testing.TB, protocol string, secure bool) *kernelTunnel {
	t.Helper()
	k := &kernelTunnel{s: &Server{}, done: make(chan [2]int64, 1)}
	client, in := socktest.Pair(t)
	out, origin := socktest.Pair(t)
	k.client, k.origin, k.r = client, origin, bufio.NewReader(client)
	near, far := &seen{TCPConn: in}, &seen{TCPConn: out}
	k.copied = func() int64 { return near.copied.Load() + far.copied.Load() }
	k.s.Handler = &counting{k.done, func(x *exchange.Exchange) {
		x.Response.Status, x.Response.Switch = 101, far
		if secure {
			x.Response.Switch = hidden{far}
		}
	}}
	go k.s.ServeConn(t.Context(), near, &exchange.Conn{})
	_, _ = io.WriteString(client, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: "+protocol+"\r\n\r\n")
	for l := ""; l != "\r\n"; {
		var err error
		if l, err = k.r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	return k
}

// counting answers exchanges and tells how many bytes each had.
type counting struct {
	done chan<- [2]int64
	f    func(*exchange.Exchange)
}

func (h *counting) Handle(x *exchange.Exchange)        { h.f(x) }
func (h *counting) Done(x *exchange.Exchange, _ error) { h.done <- [2]int64{x.BytesIn, x.BytesOut} }

// frames are WebSocket messages of a server, of these sizes.
func frames(sizes ...int) []byte {
	var b []byte
	for _, n := range sizes {
		b = append(b, 0x82)
		switch {
		case n < 126:
			b = append(b, byte(n))
		case n < 1<<16:
			b = binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
		default:
			b = binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
		}
		at := len(b)
		b = append(b, make([]byte, n)...)
		for i := at; i < len(b); i++ {
			b[i] = byte(rand.Uint32())
		}
	}
	return b
}

// TestTunnelLeavesMassesToTheKernel: between two plain sockets megabytes go both ways, whole
// and counted, and the process sees little of them; over TLS it sees all of them.
func TestTunnelLeavesMassesToTheKernel(t *testing.T) {
	for _, c := range []struct {
		protocol string
		secure   bool
	}{{"websocket", false}, {"raw", false}, {"websocket", true}} {
		k := newKernelTunnel(t, c.protocol, c.secure)
		head := k.copied()
		data := frames(3, 1<<20, 200, 70_000, 0, 3<<20, 125, 20_000)
		for i, way := range []struct {
			w io.Writer
			r io.Reader
		}{{k.client, k.origin}, {k.origin, k.r}} {
			go func() { _, _ = way.w.Write(data) }()
			got := make([]byte, len(data))
			if n, err := io.ReadFull(way.r, got); err != nil || !bytes.Equal(got, data) {
				t.Fatalf("%v, way %d: %d bytes of %d came, or others: %v", c, i, n, len(data), err)
			}
			// What is said next waits for nothing.
			if _, err := io.WriteString(way.w, "\x81\x01x"); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(way.r, got[:3]); err != nil || string(got[:3]) != "\x81\x01x" {
				t.Fatalf("%v, way %d: %q %v", c, i, got[:3], err)
			}
		}
		// The end of one side comes behind all that it has said, and ends the tunnel.
		go func() {
			_, _ = k.origin.Write(data)
			_ = k.origin.CloseWrite()
		}()
		if got, err := io.ReadAll(k.r); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%v: %d bytes of %d came before the end: %v", c, len(got), len(data), err)
		}
		n := int64(len(data) + 3)
		if got, want := <-k.done, [2]int64{n, 2*n - 3}; got[0] < want[0] || got[0] > want[0]+200 || got[1] < want[1] || got[1] > want[1]+200 { // and heads
			t.Errorf("%v: %d bytes are counted, want %d", c, got, want)
		}
		if seen := k.copied() - head; (seen > 3*n/4) != c.secure {
			t.Errorf("%v: of %d bytes %d were copied here", c, 6*n, seen)
		}
	}
}

// TestTunnelGoodbyeBehindMasses: a node that goes ends a WebSocket behind the frame that the
// kernel is moving, however long it takes.
func TestTunnelGoodbyeBehindMasses(t *testing.T) {
	k := newKernelTunnel(t, "websocket", false)
	data := frames(1<<20, 10)
	half := len(data) / 2
	go func() { _, _ = k.origin.Write(data[:half]) }()
	got := make([]byte, len(data)-12)
	if _, err := io.ReadFull(k.r, got[:half]); err != nil {
		t.Fatal(err)
	}
	k.s.Drain(t.Context())
	_ = k.client.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if b, err := k.r.Peek(1); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("inside of a frame came %q, %v", b, err)
	}
	_ = k.client.SetReadDeadline(time.Now().Add(30 * time.Second))
	k.r.Reset(k.client)
	go func() { _, _ = k.origin.Write(data[half:]) }()
	if _, err := io.ReadFull(k.r, got[half:]); err != nil || !bytes.Equal(got, data[:len(got)]) {
		t.Fatalf("the frame is not whole: %v", err)
	}
	if b, err := io.ReadAll(io.LimitReader(k.r, 4)); err != nil || string(b) != "\x88\x02\x03\xe9" {
		t.Fatalf("behind it came %q, %v", b, err)
	}
	_ = k.client.Close()
}

// TestTunnelOfMassesFallsSilent: a tunnel whose bytes the kernel moves ends when both sides
// are silent, and not while one of them talks.
func TestTunnelOfMassesFallsSilent(t *testing.T) {
	fault := "none"
	for n := 0; n < 3 && fault != ""; n++ { // one that waits for a processor is as silent as who sleeps
		fault = fallsSilent(t)
	}
	if fault != "" {
		t.Error(fault)
	}
}

// fallsSilent answers what was wrong.
func fallsSilent(t *testing.T) string {
	t.Helper()
	client, in := socktest.Pair(t)
	out, origin := socktest.Pair(t)
	done := make(chan [2]int64, 1)
	s := &Server{TunnelIdle: time.Second, Handler: &counting{done, func(x *exchange.Exchange) { x.Response.Status, x.Response.Switch = 101, out }}}
	go s.ServeConn(t.Context(), in, &exchange.Conn{})
	_, _ = io.WriteString(client, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n")
	go func() { _, _ = io.Copy(io.Discard, client) }()
	piece := make([]byte, 300<<10)
	began := time.Now()
	for ; time.Since(began) < 2*time.Second; <-time.After(100 * time.Millisecond) { // twice the limit
		if _, err := origin.Write(piece); err != nil {
			return fmt.Sprintf("it ended while one side talked: %v", err)
		}
	}
	began = time.Now()
	if _, err := origin.Read(piece); err == nil {
		t.Error("the client said something")
	}
	took := time.Since(began)
	if <-done; took < 500*time.Millisecond || took > 30*time.Second {
		return fmt.Sprintf("it ended after %v of silence, want about a second", took)
	}
	return ""
}

// processorTime is what the process has used: a tunnel waits for its two ends, which are here too.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkTunnelMasses measures what messages to the client cost, by the kernel and here,
// with what the origin and the client spend.
func BenchmarkTunnelMasses(b *testing.B) {
	for name, secure := range map[string]bool{"kernel": false, "here": true} {
		for size, data := range map[string][]byte{"1MiB": frames(1 << 20), "16KiB": frames(16 << 10), "4KiB": frames(4096)} {
			b.Run(name+"/"+size, func(b *testing.B) {
				k := newKernelTunnel(b, "websocket", secure)
				b.SetBytes(int64(len(data)))
				go func() {
					for range b.N {
						_, _ = k.origin.Write(data)
					}
				}()
				b.ResetTimer()
				before := processorTime(b)
				_ = k.client.SetDeadline(time.Time{})
				_ = k.origin.SetDeadline(time.Time{})
				if _, err := io.CopyN(io.Discard, k.r, int64(b.N*len(data))); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(processorTime(b)-before)/float64(b.N), "cpu-ns/op")
			})
		}
	}
}
