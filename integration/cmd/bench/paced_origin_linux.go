package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
)

// ownOrigin is what the proxies get their answers from while latencies are measured: the
// thread that asks answers too. An origin of its own on the same processor would have its
// turns taken by the kernel, in slices of some milliseconds once either has more to do.
type ownOrigin struct {
	epoll, fd int
	conns     map[int]*asked
	answer    []byte
	buffer    []byte
}

// asked is a connection of a proxy.
type asked struct {
	tail []byte // of what came, shorter than the end of a head
}

const endOfHead = "\r\n\r\n"

// listenOrigin opens the origin and has the poller watch it.
func listenOrigin(address string, epoll int) (*ownOrigin, error) {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("reading the address of the origin: %w", err)
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("making the origin's socket: %w", err)
	}
	o := &ownOrigin{
		epoll: epoll, fd: fd, conns: map[int]*asked{}, buffer: make([]byte, 32<<10),
		answer: []byte("HTTP/1.1 200 OK\r\nServer: origin\r\nContent-Type: application/octet-stream\r\nContent-Length: 1024\r\nConnection: keep-alive\r\n\r\n" + strings.Repeat("a", 1024)),
	}
	const backlog = 4096
	err = errors.Join(syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1),
		syscall.Bind(fd, &syscall.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}),
		syscall.Listen(fd, backlog), o.watch(fd))
	if err != nil {
		o.close()
		return nil, fmt.Errorf("listening as the origin at %s: %w", address, err)
	}
	return o, nil
}

// watch has the poller tell of a descriptor, by a number below those of the generator's sockets.
func (o *ownOrigin) watch(fd int) error {
	return syscall.EpollCtl(o.epoll, syscall.EPOLL_CTL_ADD, fd, &syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(-1 - fd)})
}

// event takes what the poller told.
func (o *ownOrigin) event(number int32) error {
	if fd := int(-1 - number); fd != o.fd {
		return o.read(fd)
	}
	for {
		fd, _, err := syscall.Accept4(o.fd, syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK)
		switch {
		case errors.Is(err, syscall.EAGAIN):
			return nil
		case errors.Is(err, syscall.EINTR) || errors.Is(err, syscall.ECONNABORTED):
			continue
		case err != nil:
			return fmt.Errorf("accepting as the origin: %w", err)
		}
		o.conns[fd] = &asked{}
		if err := errors.Join(syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1), o.watch(fd)); err != nil {
			return fmt.Errorf("accepting as the origin: %w", err)
		}
	}
}

// read answers each head that is there; requests have no bodies.
func (o *ownOrigin) read(fd int) error {
	c := o.conns[fd]
	if c == nil {
		return nil
	}
	n, err := syscall.Read(fd, o.buffer)
	if errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EINTR) {
		return nil
	}
	if err != nil || n == 0 { // the proxy is done with it
		delete(o.conns, fd)
		return syscall.Close(fd)
	}
	data := o.buffer[:n]
	if len(c.tail) > 0 {
		data = append(c.tail, data...)
	}
	for {
		end := bytes.Index(data, []byte(endOfHead))
		if end < 0 {
			break
		}
		data = data[end+len(endOfHead):]
		if _, err := (&socket{fd: fd}).Write(o.answer); err != nil {
			return fmt.Errorf("answering as the origin: %w", err)
		}
	}
	c.tail = append([]byte(nil), data[max(0, len(data)-len(endOfHead)+1):]...)
	return nil
}

// close closes all that is open; a nil origin has nothing.
func (o *ownOrigin) close() {
	if o == nil {
		return
	}
	for fd := range o.conns {
		_ = syscall.Close(fd)
	}
	_ = syscall.Close(o.fd)
}
