//go:build unix

package upstream

import (
	"io"
	"net"
	"os"
	"syscall"

	rawsock "github.com/keyway-edge/keyway/edge/exchange/sock"
)

// tryRead reads what is there without waiting: errNothing when that is
// nothing, io.EOF when the other end has closed.
func (s *sock) tryRead(p []byte) (int, error) {
	s.p = p
	if err := s.raw.Read(s.once); err != nil {
		return 0, err
	}
	switch {
	case rawsock.Again(s.err):
		return 0, errNothing
	case s.err != 0:
		return 0, s.err
	case s.n == 0:
		return 0, io.EOF
	}
	return s.n, nil
}

// swap writes out and waits for the first bytes of the answer, in one turn of the
// runtime's poller: a Read that follows a Write tries in vain before it waits, since
// no target is that fast. It answers how much was written and what was read. Nothing
// was read when not all was written, or when the deadline of reads came first; an
// error of the write shows at the next one. With probe it looks first whether the
// socket is quiet; where it is not, nothing is written and the error is errNoise.
func (s *sock) swap(out, in []byte, probe bool) (sent, n int, err error) {
	s.out, s.p, s.sent, s.told, s.probe, s.noise, s.n, s.err = out, in, 0, false, probe, false, 0, 0
	err = s.raw.Read(s.turn)
	s.out, s.p = nil, nil
	switch {
	case s.noise, s.probe && !s.told: // or there was no time to look
		return 0, 0, errNoise
	case s.sent < len(out):
		return s.sent, 0, nil
	case err != nil:
		return s.sent, 0, err
	case s.err != 0:
		return s.sent, 0, &net.OpError{Op: "read", Net: "tcp", Addr: s.RemoteAddr(), Err: os.NewSyscallError("read", s.err)}
	case s.n == 0:
		return s.sent, 0, io.EOF
	}
	return s.sent, s.n, nil
}

// listen makes Read tell how far it is: it is a shared connection's from now on.
func (s *sock) listen() {
	s.tap = &tap{}
	s.take = func(fd uintptr) bool {
		s.tap.waiting.Store(false) // before anything is taken: who looks later must not take it for handled
		s.n, s.err = rawsock.Recv(fd, s.p)
		if rawsock.Again(s.err) {
			s.tap.rest()
			return false
		}
		return true
	}
}

// tapped is Read of a shared connection.
func (s *sock) tapped(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	s.p = p
	err := s.raw.Read(s.take)
	s.p = nil
	switch {
	case err != nil:
		return 0, err
	case s.err != 0:
		return 0, &net.OpError{Op: "read", Net: "tcp", Addr: s.RemoteAddr(), Err: os.NewSyscallError("read", s.err)}
	case s.n == 0:
		return 0, io.EOF
	}
	return s.n, nil
}

// peek says whether something has come in that was not read, and leaves it there. The end
// of the connection is an error. Any goroutine may peek.
func (s *sock) peek() (some bool, err error) {
	var one [1]byte
	n, e := 0, syscall.Errno(0)
	err = s.raw.Control(func(fd uintptr) { n, e = rawsock.Peek(fd, one[:]) })
	switch {
	case err != nil:
		return false, err
	case rawsock.Again(e):
		return false, nil
	case e != 0:
		return false, e
	case n == 0:
		return false, io.EOF
	}
	return true, nil
}

// arm makes the closures that tryRead and swap hand to the runtime, once a connection.
func (s *sock) arm() {
	s.turn = func(fd uintptr) bool {
		if !s.told {
			// The poller was reset before this: an answer to what is written now wakes it.
			s.told = true
			if s.probe {
				if _, e := rawsock.Recv(fd, s.one[:]); !rawsock.Again(e) {
					s.noise = true
					return true
				}
			}
			s.sent, _ = rawsock.Send(fd, s.out)
			return s.sent < len(s.out)
		}
		s.n, s.err = rawsock.Recv(fd, s.p)
		return !rawsock.Again(s.err)
	}
	s.once = func(fd uintptr) bool {
		s.n, s.err = rawsock.Recv(fd, s.p)
		return true // never wait
	}
}
