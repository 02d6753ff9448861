package stream

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange/sock"
)

// Why a stream ended that nobody ended.
var (
	errIdle    = errors.New("nothing came from either side in time")
	errStalled = errors.New("the other side took nothing in time")
)

const (
	chunk      = 64 << 10 // bytes that the kernel moves before anybody looks
	bufferSize = 16 << 10 // a TLS record
)

// pipe carries bytes both ways between two connections.
type pipe struct {
	idle, stall time.Duration
	carried     func(in, out int64)
	buffers     *sync.Pool // of *[bufferSize]byte

	last    atomic.Int64 // when bytes went last, Unix nanoseconds
	in, out atomic.Int64
	first   atomic.Pointer[ending]
}

// ending is why one direction ended early.
type ending struct{ err error }

// run carries until both sides have said their end, or one breaks. Both connections
// are closed when it returns. The end of one side is passed on and leaves the other
// way open.
func (p *pipe) run(client, target net.Conn) error {
	p.last.Store(time.Now().UnixNano())
	var up sync.WaitGroup
	up.Go(func() {
		p.way(target, client, func(n int64) { p.in.Add(n); p.carried(n, 0) })
	})
	p.way(client, target, func(n int64) { p.out.Add(n); p.carried(0, n) })
	up.Wait()
	_, _ = client.Close(), target.Close()
	if e := p.first.Load(); e != nil {
		return e.err
	}
	return nil
}

// way carries one way. What breaks it ends the other way too.
func (p *pipe) way(dst, src net.Conn, count func(int64)) {
	err := p.carry(dst, src, count)
	if err == nil {
		if h, ok := dst.(interface{ CloseWrite() error }); ok {
			_ = h.CloseWrite() // where it is gone already, the other way finds out
		}
		return
	}
	if !p.first.CompareAndSwap(nil, &ending{err}) {
		return // the other way has closed both
	}
	if !errors.Is(err, errIdle) {
		// An end in the middle must not look like one that was meant.
		abort(src)
		abort(dst)
		return
	}
	_, _ = src.Close(), dst.Close()
}

// abort closes a connection so that the other side sees that it broke off. What TLS
// carries says its end itself: without one it is known to be broken off.
func abort(c net.Conn) {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = t.NetConn()
	}
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}

// carry copies until src ends, which is no error.
func (p *pipe) carry(dst, src net.Conn, count func(int64)) error {
	move := p.copier(dst, src)
	tick := min(max(p.idle/8, time.Millisecond), 5*time.Second)
	for {
		now := time.Now()
		stalled := now.Add(tick + p.stall)
		_ = src.SetReadDeadline(now.Add(tick)) // a closed one says so when it is read
		_ = dst.SetWriteDeadline(stalled)
		n, end, err := move()
		if n > 0 {
			count(n)
			p.last.Store(time.Now().UnixNano())
		}
		switch {
		case end:
			return nil
		case err == nil:
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("carrying bytes: %w", err)
		case !time.Now().Before(stalled):
			return errStalled
		case time.Since(time.Unix(0, p.last.Load())) >= p.idle:
			return errIdle
		}
	}
}

// copier answers what moves some bytes, and says when src has ended. Two plain
// sockets are left to the kernel (splice), which copies nothing to here.
func (p *pipe) copier(dst, src net.Conn) func() (int64, bool, error) {
	if to, from := sock.Plain(dst), sock.Plain(src); to != nil && from != nil {
		return func() (int64, bool, error) { return sock.Splice(to, from, chunk) }
	}
	return func() (int64, bool, error) {
		buf := p.buffers.Get().(*[bufferSize]byte)
		defer p.buffers.Put(buf)
		n, err := src.Read(buf[:])
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				return 0, false, err
			}
		}
		if errors.Is(err, io.EOF) {
			return int64(n), true, nil
		}
		return int64(n), false, err
	}
}
