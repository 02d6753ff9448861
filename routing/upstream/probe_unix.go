//go:build unix

package upstream

import (
	"errors"
	"io"
	"syscall"
)

// tryRead reads what is there without waiting: errNothing when that is
// nothing, io.EOF when the other end has closed.
func (s *sock) tryRead(p []byte) (int, error) {
	s.p = p
	if err := s.raw.Read(s.once); err != nil {
		return 0, err
	}
	switch {
	case errors.Is(s.err, syscall.EAGAIN) || errors.Is(s.err, syscall.EINTR):
		return 0, errNothing
	case s.err != nil:
		return 0, s.err
	case s.n == 0:
		return 0, io.EOF
	}
	return s.n, nil
}

// arm makes the closure that tryRead hands to the runtime, once a connection.
func (s *sock) arm() {
	s.once = func(fd uintptr) bool {
		s.n, s.err = syscall.Read(int(fd), s.p)
		return true // never wait
	}
}
