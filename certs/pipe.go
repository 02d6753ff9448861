package certs

import (
	"io"
	"net"
	"sync"
	"time"
)

// pipe is one direction of an in-memory connection. Unlike net.Pipe's it buffers:
// both sides of a handshake write without waiting for the other to read.
type pipe struct {
	mu     sync.Mutex
	ready  *sync.Cond
	buf    []byte
	closed bool
}

type pipeEnd struct{ in, out *pipe }

func newPipe() (a, b net.Conn) {
	x, y := &pipe{}, &pipe{}
	x.ready, y.ready = sync.NewCond(&x.mu), sync.NewCond(&y.mu)
	return &pipeEnd{x, y}, &pipeEnd{y, x}
}

func (e *pipeEnd) Read(b []byte) (int, error) {
	p := e.in
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.buf) == 0 {
		if p.closed {
			return 0, io.EOF
		}
		p.ready.Wait()
	}
	n := copy(b, p.buf)
	p.buf = p.buf[n:]
	return n, nil
}

func (e *pipeEnd) Write(b []byte) (int, error) {
	p := e.out
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0, io.ErrClosedPipe
	}
	p.buf = append(p.buf, b...)
	p.ready.Broadcast()
	return len(b), nil
}

func (e *pipeEnd) Close() error {
	for _, p := range []*pipe{e.in, e.out} {
		p.mu.Lock()
		p.closed = true
		p.ready.Broadcast()
		p.mu.Unlock()
	}
	return nil
}

func (e *pipeEnd) LocalAddr() net.Addr              { return pipeAddr{} }
func (e *pipeEnd) RemoteAddr() net.Addr             { return pipeAddr{} }
func (e *pipeEnd) SetDeadline(time.Time) error      { return nil }
func (e *pipeEnd) SetReadDeadline(time.Time) error  { return nil }
func (e *pipeEnd) SetWriteDeadline(time.Time) error { return nil }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "memory" }
func (pipeAddr) String() string  { return "memory" }
