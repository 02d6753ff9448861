package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"
)

// again is what a read finds that would have to wait: crypto/tls keeps what it has of a
// record after an error that says so of itself.
type again struct{}

func (again) Error() string   { return "nothing to read yet" }
func (again) Temporary() bool { return true }
func (again) Timeout() bool   { return true }

// socket is a connection without the runtime's poller, which looks at the clock a
// thousand times a second at best: a generator has to be there when a request is due.
type socket struct {
	fd     int
	buffer []byte
	have   []byte // of buffer, not read yet
	events bool   // the descriptor does not block, and fill is called when there is something
	tls    *tls.Conn
	wire   wire
}

func dial(address string) (*socket, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("reading the address: %w", err)
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("making a socket: %w", err)
	}
	patience := syscall.NsecToTimeval(int64(10 * time.Second)) // for the handshake
	err = errors.Join(syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1),
		syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &patience),
		syscall.Connect(fd, &syscall.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}))
	if err != nil {
		_ = syscall.Close(fd)
		return nil, fmt.Errorf("connecting: %w", err)
	}
	return &socket{fd: fd, buffer: make([]byte, 32<<10)}, nil
}

// fill reads once.
func (s *socket) fill() error {
	for {
		n, err := syscall.Read(s.fd, s.buffer)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EAGAIN):
			return again{}
		case err != nil:
			return fmt.Errorf("reading: %w", err)
		case n == 0:
			return io.EOF
		}
		s.have = s.buffer[:n]
		return nil
	}
}

// Read takes from what was filled.
func (s *socket) Read(p []byte) (int, error) {
	if len(s.have) == 0 {
		if s.events {
			return 0, again{}
		}
		if err := s.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.have)
	s.have = s.have[n:]
	return n, nil
}

// Write writes all of p: requests are small, and a buffer that has no room for one means
// that the peer has not read for long.
func (s *socket) Write(p []byte) (int, error) {
	for sent := 0; sent < len(p); {
		n, err := syscall.Write(s.fd, p[sent:])
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return sent, fmt.Errorf("writing: %w", err)
		}
		sent += max(n, 0)
	}
	return len(p), nil
}

// Close closes the descriptor.
func (s *socket) Close() error { return syscall.Close(s.fd) }

// netConn is what crypto/tls takes a socket for; of the rest it asks nothing.
type netConn struct {
	net.Conn
	*socket
}

func (c netConn) Read(p []byte) (int, error)  { return c.socket.Read(p) }
func (c netConn) Write(p []byte) (int, error) { return c.socket.Write(p) }
func (c netConn) Close() error                { return c.socket.Close() }

// connect makes a connection ready for requests.
func (g paced) connect() (*socket, error) {
	s, err := dial(g.address)
	if err != nil {
		return nil, err
	}
	if err := g.begin(s); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

func (g paced) begin(s *socket) error {
	if g.secure {
		config := clientConfig(false)
		if g.h2 {
			config.NextProtos = []string{"h2"}
		}
		s.tls = tls.Client(netConn{socket: s}, config)
		if err := s.tls.Handshake(); err != nil {
			return fmt.Errorf("shaking hands: %w", err)
		}
	}
	if !g.h2 {
		s.wire = newWire1(g.path)
	} else {
		if got := s.tls.ConnectionState().NegotiatedProtocol; got != "h2" {
			return fmt.Errorf("the peer speaks %q, not h2", got)
		}
		var err error
		if s.wire, err = newWire2(s.stream(), g.path); err != nil {
			return err
		}
	}
	s.events = true
	if err := syscall.SetNonblock(s.fd, true); err != nil {
		return fmt.Errorf("leaving the blocking mode: %w", err)
	}
	return nil
}

func (s *socket) stream() io.ReadWriter {
	if s.tls != nil {
		return s.tls
	}
	return s
}

// ready reads what came, and tells of answers.
func (s *socket) ready(scratch []byte, answered func(request int, good bool)) error {
	if len(s.have) == 0 { // the handshake may have left something
		if err := s.fill(); err != nil && !errors.Is(err, again{}) {
			return err
		}
	}
	for {
		n, err := s.stream().Read(scratch)
		if errors.Is(err, again{}) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.wire.read(s.stream(), scratch[:n], answered); err != nil {
			return err
		}
	}
}

// pacer is a run in progress.
type pacer struct {
	paced
	epoll   int
	origin  *ownOrigin // nil for none
	sockets []*socket
	free    []slot // first the one that has been free for longest
	began   time.Time
	next    int // request to be sent next
	done    int
	failed  int

	samples []sample
	late    []time.Duration
}

// slot is room for a request on a connection.
type slot struct {
	socket int
	since  time.Duration // when it became free
}

// load loads and measures, on one thread.
func (g paced) load() (run, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const setTimerSlack = 29 // by default the kernel may be 50 microseconds late
	if _, _, errno := syscall.Syscall(syscall.SYS_PRCTL, setTimerSlack, 1, 0); errno != 0 {
		return run{}, fmt.Errorf("asking for exact timers: %w", errno)
	}
	p := &pacer{paced: g, samples: make([]sample, 0, g.n), late: make([]time.Duration, 0, g.n)}
	defer func() {
		for _, s := range p.sockets {
			_ = s.Close()
		}
	}()
	if err := p.open(); err != nil {
		return run{}, err
	}
	defer func() {
		p.origin.close()
		_ = syscall.Close(p.epoll)
	}()
	p.began = time.Now()
	var watched *watcher
	if !g.unwatched {
		watched = watchCPUs(p.began)
	}
	wall, err := p.loop()
	stops, blind := watched.end()
	if err != nil {
		return run{}, err
	}
	if blind != nil {
		fmt.Fprintf(os.Stderr, "bench: latencies are those of times too in which a CPU stopped: %v\n", blind)
	}
	r := took(p.samples, stops, p.late, wall)
	r.Failed = p.failed
	if c := p.sockets[0].tls; c != nil {
		r.TLS = suite(c.ConnectionState())
	}
	return r, nil
}

func (p *pacer) open() error {
	var err error
	if p.epoll, err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("making a poller: %w", err)
	}
	if p.answers != "" {
		if p.origin, err = listenOrigin(p.answers, p.epoll); err != nil {
			return err
		}
	}
	for i := range p.conns {
		s, err := p.connect()
		if err != nil {
			return err
		}
		p.sockets = append(p.sockets, s)
		if err := syscall.EpollCtl(p.epoll, syscall.EPOLL_CTL_ADD, s.fd, &syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(i)}); err != nil {
			return fmt.Errorf("polling a connection: %w", err)
		}
	}
	for range p.streams { // neighbours are of different connections
		for i := range p.conns {
			p.free = append(p.free, slot{socket: i})
		}
	}
	return nil
}

// loop sends what is due and reads what came, until all is answered.
func (p *pacer) loop() (time.Duration, error) {
	const patience = 30 * time.Second // after the last one was due
	scratch := make([]byte, 32<<10)
	events := make([]syscall.EpollEvent, 64)
	for p.done < p.n {
		now := time.Since(p.began)
		if now > p.due(p.n)+patience {
			return 0, fmt.Errorf("%d of %d requests are not answered", p.n-p.done, p.n)
		}
		if err := p.sendDue(now); err != nil {
			return 0, err
		}
		wait := time.Second
		if p.next < p.n && len(p.free) > 0 {
			wait = max(p.due(p.next)-time.Since(p.began), 0)
		}
		n, err := epollWait(p.epoll, events, wait)
		if err != nil {
			return 0, err
		}
		for _, e := range events[:n] {
			if e.Fd < 0 {
				if err := p.origin.event(e.Fd); err != nil {
					return 0, fmt.Errorf("after %d answers: %w", p.done, err)
				}
				continue
			}
			i := int(e.Fd)
			err := p.sockets[i].ready(scratch, func(request int, good bool) { p.answered(i, request, good) })
			if err != nil {
				return 0, fmt.Errorf("after %d answers: %w", p.done, err)
			}
		}
	}
	return time.Since(p.began), nil
}

func (p *pacer) sendDue(now time.Duration) error {
	for p.next < p.n && len(p.free) > 0 {
		due := p.due(p.next)
		if due > now {
			return nil
		}
		s := p.free[0]
		p.free = p.free[:copy(p.free, p.free[1:])]
		if now = time.Since(p.began); p.rate > 0 && s.since <= due { // not the peer's delay, which answers late
			p.late = append(p.late, now-due)
		}
		if err := p.sockets[s.socket].wire.send(p.sockets[s.socket].stream(), p.next); err != nil {
			return fmt.Errorf("sending request %d: %w", p.next, err)
		}
		p.next++
	}
	return nil
}

func (p *pacer) answered(socket, request int, good bool) {
	now := time.Since(p.began)
	due := p.due(request)
	p.samples = append(p.samples, sample{due, now - due})
	p.done++
	if !good {
		p.failed++
	}
	p.free = append(p.free, slot{socket, now})
}

// epollWait waits to the nanosecond, for which the syscall package has no name.
func epollWait(epoll int, events []syscall.EpollEvent, wait time.Duration) (int, error) {
	const epollPwait2 = 441 // the same on every architecture
	ts := syscall.NsecToTimespec(int64(wait))
	n, _, errno := syscall.Syscall6(epollPwait2, uintptr(epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), uintptr(unsafe.Pointer(&ts)), 0, 0)
	switch errno {
	case 0:
		return int(n), nil
	case syscall.EINTR:
		return 0, nil
	}
	return 0, fmt.Errorf("polling: %w", errno)
}
