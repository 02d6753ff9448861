package sock

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"
)

// pair is a socket with its Conn, and the other end.
func pair(t *testing.T) (near *net.TCPConn, c *Conn, far net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	got := make(chan net.Conn, 1)
	go func() {
		far, _ := l.Accept()
		got <- far
	}()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far = <-got
	t.Cleanup(func() { _, _ = nc.Close(), far.Close() })
	if c = New(nc); c == nil {
		t.Skip("there is no fast way on this system")
	}
	return nc.(*net.TCPConn), c, far
}

// TestCarries sends much both ways, in pieces of every size around the one from which
// on the runtime's own way is taken.
func TestCarries(t *testing.T) {
	_, c, far := pair(t)
	var pieces [][]byte
	for i, n := range []int{1, 5, 4096, quick - 1, quick, quick + 1, 3 << 20} {
		pieces = append(pieces, bytes.Repeat([]byte{byte('a' + i)}, n))
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for _, p := range pieces {
			if n, err := c.Write(p); n != len(p) || err != nil {
				t.Errorf("%d bytes of %d were written: %v", n, len(p), err)
			}
		}
		_ = c.tcp.CloseWrite()
	})
	wg.Go(func() { _, _ = io.Copy(far, far); _ = far.(*net.TCPConn).CloseWrite() })
	got, err := io.ReadAll(c)
	wg.Wait()
	if sent := bytes.Join(pieces, nil); err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("%d bytes came back of %d, not the same, %v", len(got), len(sent), err)
	}
}

// TestWriteWaits fills the socket: the rest goes when the other end reads, or not before the deadline.
func TestWriteWaits(t *testing.T) {
	near, c, far := pair(t)
	_ = near.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	piece := bytes.Repeat([]byte("x"), quick)
	total := 0
	for {
		n, err := c.Write(piece)
		total += n
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
			break
		}
	}
	_ = near.SetWriteDeadline(time.Time{})
	done := make(chan error, 1)
	go func() { _, err := c.Write(piece); done <- err }()
	if _, err := io.CopyN(io.Discard, far, int64(total+len(piece))); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestEnds shows the errors of net.TCPConn: the end, deadlines, a closed connection, a reset.
func TestEnds(t *testing.T) {
	near, c, far := pair(t)
	buf := make([]byte, 8)
	if n, err := c.Read(nil); n != 0 || err != nil {
		t.Errorf("an empty read: %d, %v", n, err)
	}
	_ = near.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := c.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("at the deadline: %v", err)
	}
	_ = near.SetReadDeadline(time.Time{})
	_ = far.(*net.TCPConn).CloseWrite()
	if n, err := c.Read(buf); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %d, %v", n, err)
	}
	_ = far.(*net.TCPConn).SetLinger(0)
	_ = far.Close()
	var err error
	for deadline := time.Now().Add(5 * time.Second); err == nil && time.Now().Before(deadline); {
		_, err = c.Write(buf)
	}
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "write" {
		t.Errorf("after a reset: %v", err)
	}
	_ = near.Close()
	if _, err := c.Read(buf); !errors.Is(err, net.ErrClosed) {
		t.Errorf("reading what is closed: %v", err)
	}
	if _, err := c.Write(buf); !errors.Is(err, net.ErrClosed) {
		t.Errorf("writing what is closed: %v", err)
	}
}

// TestCloseEndsRead closes a connection under a read that waits.
func TestCloseEndsRead(t *testing.T) {
	near, c, _ := pair(t)
	done := make(chan error, 1)
	go func() { _, err := c.Read(make([]byte, 1)); done <- err }()
	_ = near.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v", err)
	}
}
