package stream

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange/sock/socktest"
)

// wrapped is a socket that the kernel cannot be left alone with.
type wrapped struct{ *net.TCPConn }

func newPipe(idle time.Duration) (*pipe, *atomic.Int64) {
	taken := new(atomic.Int64)
	return &pipe{idle: idle, stall: idle, carried: func(int64, int64) {}, buffers: &sync.Pool{New: func() any { taken.Add(1); return new([bufferSize]byte) }}}, taken
}

// TestPipe passes megabytes both ways, and the end of each side on its own. Between
// plain sockets the bytes never come here: no buffer is taken.
func TestPipe(t *testing.T) {
	for name, wrap := range map[string]func(*net.TCPConn) net.Conn{
		"by the kernel": func(c *net.TCPConn) net.Conn { return c }, "here": func(c *net.TCPConn) net.Conn { return wrapped{c} },
	} {
		client, in := socktest.Pair(t)
		out, target := socktest.Pair(t)
		p, taken := newPipe(10 * time.Second)
		done := make(chan error, 1)
		go func() { done <- p.run(wrap(in), out) }()
		up, down := make([]byte, 5<<20), make([]byte, 3<<20)
		_, _ = rand.Read(up)
		_, _ = rand.Read(down)
		go func() {
			_, _ = client.Write(up)
			_ = client.CloseWrite()
		}()
		if got, err := io.ReadAll(target); err != nil || !bytes.Equal(got, up) {
			t.Fatalf("%s: %d bytes of %d came: %v", name, len(got), len(up), err)
		}
		// The client's side has ended; the target's is open still.
		go func() {
			_, _ = target.Write(down)
			_ = target.Close()
		}()
		if got, err := io.ReadAll(client); err != nil || !bytes.Equal(got, down) {
			t.Fatalf("%s: %d bytes of %d came back: %v", name, len(got), len(down), err)
		}
		if err := <-done; err != nil || p.in.Load() != int64(len(up)) || p.out.Load() != int64(len(down)) {
			t.Errorf("%s: %v, %d bytes in, %d out", name, err, p.in.Load(), p.out.Load())
		}
		if n := taken.Load(); (n == 0) != (name == "by the kernel") {
			t.Errorf("%s: %d buffers were taken", name, n)
		}
	}
}

// TestPipeBreaks lets no side believe that a stream which broke off has ended.
func TestPipeBreaks(t *testing.T) {
	client, in := socktest.Pair(t)
	out, target := socktest.Pair(t)
	p, _ := newPipe(10 * time.Second)
	done := make(chan error, 1)
	go func() { done <- p.run(in, out) }()
	_, _ = target.Write([]byte("half"))
	buf := make([]byte, 4)
	if _, err := io.ReadFull(client, buf); err != nil {
		t.Fatal(err)
	}
	_ = target.SetLinger(0)
	_ = target.Close() // a reset
	if n, err := client.Read(buf); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the client reads %d bytes, %v", n, err)
	}
	if err := <-done; err == nil || resultOf(err) != resultBroken {
		t.Errorf("it ended with %v", err)
	}
}

// TestPipeIsIdle ends when neither side has said anything for the time, and not while
// one of them talks.
func TestPipeIsIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, in := net.Pipe()
		out, target := net.Pipe()
		p, _ := newPipe(time.Minute)
		began := time.Now()
		var took time.Duration
		done := make(chan error, 1)
		go func() {
			err := p.run(in, out)
			took = time.Since(began)
			done <- err
		}()
		buf := make([]byte, 1)
		for range 3 { // one way alone keeps it
			time.Sleep(50 * time.Second)
			if _, err := client.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := target.Read(buf); err != nil {
				t.Fatal(err)
			}
		}
		if err := <-done; !errors.Is(err, errIdle) {
			t.Errorf("it ended with %v", err)
		}
		if least := 3*50*time.Second + time.Minute; took < least || took > least+10*time.Second {
			t.Errorf("it ended after %v, want %v", took, least)
		}
	})
}

// TestPipeStalls ends when a side takes nothing.
func TestPipeStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, in := net.Pipe()
		out, target := net.Pipe()
		p, _ := newPipe(time.Minute)
		p.stall = 20 * time.Second
		done := make(chan error, 1)
		go func() { done <- p.run(in, out) }()
		_, _ = client.Write([]byte("nobody reads this"))
		if err := <-done; !errors.Is(err, errStalled) || resultOf(err) != resultStalled {
			t.Errorf("it ended with %v", err)
		}
		_, _ = client.Close(), target.Close()
	})
}
