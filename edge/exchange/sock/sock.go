package sock

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
)

// quick is the longest write that is made without telling the scheduler.
const quick = 64 << 10

// Conn is a way to read and write a socket. One goroutine at a time may read and one
// may write; deadlines and Close are the connection's own.
type Conn struct {
	tcp *net.TCPConn
	raw syscall.RawConn

	// Owned by the reader.
	take func(fd uintptr) bool
	in   []byte
	n    int
	rerr syscall.Errno

	// Owned by the writer.
	give func(fd uintptr)
	out  []byte
	sent int
	werr syscall.Errno
}

// New makes a Conn over c, nil where there is no fast way for it.
func New(c net.Conn) *Conn {
	tcp, ok := c.(*net.TCPConn)
	if !ok || runtime.GOOS != "linux" {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil // it is closed, and says so when it is used
	}
	s := &Conn{tcp: tcp, raw: raw}
	s.take = func(fd uintptr) bool {
		s.n, s.rerr = Recv(fd, s.in)
		return !Again(s.rerr)
	}
	s.give = func(fd uintptr) { s.sent, s.werr = Send(fd, s.out) }
	return s
}

// Again says that a call would have had to wait, or was interrupted before it began.
func Again(e syscall.Errno) bool { return e == syscall.EAGAIN || e == syscall.EINTR }

// Read is as that of net.TCPConn. Who waits does so on its frame, which is small.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.in = p
	if err := c.raw.Read(c.take); err != nil {
		return c.unread(err)
	}
	return c.read()
}

// read answers what take has read.
func (c *Conn) read() (int, error) {
	c.in = nil
	switch {
	case c.rerr != 0:
		return 0, c.failed("read", c.rerr)
	case c.n == 0:
		return 0, io.EOF
	}
	return c.n, nil
}

func (c *Conn) unread(err error) (int, error) {
	c.in = nil
	return 0, named(err, "read")
}

// Write is as that of net.TCPConn, but a deadline that has passed is heeded only by a
// write that has to wait.
func (c *Conn) Write(p []byte) (int, error) {
	if len(p) == 0 || len(p) > quick {
		return c.tcp.Write(p)
	}
	c.out = p
	err := c.raw.Control(c.give)
	c.out = nil
	switch {
	case err != nil:
		return 0, named(err, "write")
	case c.werr == 0 && c.sent == len(p):
		return c.sent, nil
	case c.werr != 0 && !Again(c.werr):
		return 0, c.failed("write", c.werr)
	}
	n, err := c.tcp.Write(p[c.sent:])
	return c.sent + n, err
}

// failed is the error that net.TCPConn would answer.
func (c *Conn) failed(op string, e syscall.Errno) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.tcp.LocalAddr(), Addr: c.tcp.RemoteAddr(), Err: os.NewSyscallError(op, e)}
}

// named gives an error of the runtime's the name of what was tried.
func named(err error, op string) error {
	if e, ok := errors.AsType[*net.OpError](err); ok {
		e.Op = op
	}
	return err
}
