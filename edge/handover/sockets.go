package handover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
)

// Socket names a listening socket. A descriptor is never known by its number.
type Socket struct {
	Network string `json:"network"` // tcp, udp or unix
	Address string `json:"address"` // as it was asked for
	Purpose string `json:"purpose"` // proxy, status, http3, ...
}

func (s Socket) String() string { return s.Purpose + " on " + s.Network + " " + s.Address }

// entry is one line of a manifest, which a socket comes with.
type entry struct {
	Socket
	Bound string `json:"bound"` // where it is bound, as the system says it
}

// Sockets opens the sockets that a process listens on, or takes those that the process
// before has handed over, and knows them all when its own turn comes to hand over. The
// zero value is ready for a process that nobody hands anything to.
type Sockets struct {
	mu    sync.Mutex // guards all
	given []inherited
	open  []opened
}

type inherited struct {
	entry
	file *os.File
}

type opened struct {
	entry
	conn  syscall.Conn
	udp   *UDP    // of datagrams
	given *Socket // what it was called by the process that gave it, nil for a new one
}

// Listen listens on an address of network tcp or unix.
func (s *Sockets) Listen(ctx context.Context, purpose, network, address string) (net.Listener, error) {
	name := Socket{network, address, purpose}
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.claim(name); g != nil {
		l, err := net.FileListener(g.file) // has a descriptor of its own
		_ = g.file.Close()
		if err != nil {
			return nil, fmt.Errorf("taking over the socket of %s: %w", name, err)
		}
		s.note(opened{entry: entry{name, l.Addr().String()}, given: &g.Socket}, l)
		return l, nil
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // whose sockets take few options: a listener that closes needs a filter
	l, err := lc.Listen(ctx, network, address)
	if err != nil {
		return nil, err
	}
	s.note(opened{entry: entry{name, l.Addr().String()}}, l)
	return l, nil
}

// ListenPacket listens for datagrams on an address of network udp.
func (s *Sockets) ListenPacket(ctx context.Context, purpose, address string) (*UDP, error) {
	name := Socket{"udp", address, purpose}
	s.mu.Lock()
	defer s.mu.Unlock()
	var c net.PacketConn
	var err error
	var given *Socket
	if g := s.claim(name); g != nil {
		given = &g.Socket
		c, err = net.FilePacketConn(g.file)
		_ = g.file.Close()
	} else {
		var lc net.ListenConfig
		c, err = lc.ListenPacket(ctx, "udp", address)
	}
	if err != nil {
		return nil, err
	}
	u := newUDP(name, c.(*net.UDPConn)) // what was given was looked at, and "udp" makes no other kind
	if given != nil {
		u.given = *given
	}
	s.note(opened{entry: entry{name, c.LocalAddr().String()}, udp: u, given: given}, u.UDPConn)
	return u, nil
}

// note remembers an open socket. What has no descriptor cannot be handed over.
func (s *Sockets) note(o opened, socket any) {
	if c, ok := socket.(syscall.Conn); ok {
		o.conn = c
		s.open = append(s.open, o)
	}
}

// Forget is told of a socket that was closed before its process ends.
func (s *Sockets) Forget(name Socket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.IndexFunc(s.open, func(o opened) bool { return o.Socket == name }); i >= 0 {
		s.open = slices.Delete(s.open, i, i+1)
	}
}

// find finds what was given for a name: the same one, or else a socket that is bound
// where this one would be, whatever it was for.
func (s *Sockets) find(name Socket) int {
	if i := slices.IndexFunc(s.given, func(g inherited) bool { return g.Socket == name }); i >= 0 {
		return i
	}
	return slices.IndexFunc(s.given, func(g inherited) bool { return g.Network == name.Network && sameAddress(g.Bound, name.Address) })
}

// claim takes out what was given for a name, nil for nothing.
func (s *Sockets) claim(name Socket) *inherited {
	i := s.find(name)
	if i < 0 {
		return nil
	}
	g := s.given[i]
	s.given = slices.Delete(s.given, i, i+1)
	return &g
}

// Holds says whether a socket was given that Listen would take.
func (s *Sockets) Holds(name Socket) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.find(name) >= 0
}

// sameAddress says whether a socket is bound where address would be. Port 0 is nowhere,
// and neither is a name that would have to be looked up.
func sameAddress(bound, address string) bool {
	if bound == address {
		return true
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || port == "0" {
		return false
	}
	if host == "" {
		host = "::"
	}
	a, errA := netip.ParseAddrPort(bound)
	b, errB := netip.ParseAddrPort(net.JoinHostPort(host, port))
	return errA == nil && errB == nil && a == b
}

// Close closes what was given and nobody has claimed.
func (s *Sockets) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.given {
		_ = g.file.Close()
	}
	s.given = nil
}

// Taken are the sockets that were given and claimed, as who gave them calls them.
func (s *Sockets) Taken() []Socket {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Socket
	for _, o := range s.open {
		if o.given != nil {
			list = append(list, *o.given)
		}
	}
	return list
}

// Given are the sockets that were given and not claimed yet, each with where it is bound.
func (s *Sockets) Given() map[Socket]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[Socket]string, len(s.given))
	for _, g := range s.given {
		all[g.Socket] = g.Bound
	}
	return all
}

const (
	kindSocket = "socket"
	kindAll    = "sockets" // the manifest is over; how many there were
)

// SendTo sends a duplicate of every open socket.
func (s *Sockets) SendTo(l *Link) error {
	s.mu.Lock()
	open := slices.Clone(s.open)
	s.mu.Unlock()
	sent := 0
	for _, o := range open {
		if raw, err := o.conn.SyscallConn(); err != nil || raw.Control(func(uintptr) {}) != nil {
			continue // it was closed
		}
		if err := l.Send(kindSocket, o.entry, o.conn); err != nil {
			return fmt.Errorf("handing over %s: %w", o.Socket, err)
		}
		sent++
	}
	return l.Send(kindAll, sent, nil)
}

// ReceiveSockets takes what SendTo sends. A manifest that is not true is refused whole.
func ReceiveSockets(ctx context.Context, l *Link) (*Sockets, error) {
	s := &Sockets{}
	for {
		m, err := l.Receive(ctx)
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("taking over the sockets: %w", err)
		}
		switch m.Kind {
		case kindSocket:
			err = s.receive(m)
		case kindAll:
			var n int
			if err = m.Into(&n); err == nil && n != len(s.given) {
				err = fmt.Errorf("%d sockets came; the manifest has %d", len(s.given), n)
			}
			if err == nil {
				return s, nil
			}
		default:
			err = fmt.Errorf("the message %q came; expected sockets", m.Kind)
		}
		if err != nil {
			m.close()
			s.Close()
			return nil, fmt.Errorf("taking over the sockets: %w", err)
		}
	}
}

func (s *Sockets) receive(m *Message) error {
	g := inherited{file: m.File}
	if err := m.Into(&g.entry); err != nil {
		return err
	}
	if g.file == nil {
		return fmt.Errorf("the manifest has %s, and no descriptor came with it", g.Socket)
	}
	if err := g.check(); err != nil {
		return fmt.Errorf("the manifest has %s, and what came is no such socket: %w", g.Socket, err)
	}
	s.given = append(s.given, g)
	return nil
}

// check holds a descriptor against what the manifest says of it.
func (g *inherited) check() error {
	var bound net.Addr
	switch g.Network {
	case "tcp", "unix":
		if err := listens(g.file); err != nil {
			return err
		}
		l, err := net.FileListener(g.file)
		if err != nil {
			return err
		}
		bound = l.Addr()
		_ = l.Close() // the duplicate; a unix socket of FileListener keeps its name
	case "udp":
		c, err := net.FilePacketConn(g.file)
		if err != nil {
			return err
		}
		bound = c.LocalAddr()
		_ = c.Close()
	default:
		return errors.New("nothing is known of this network; expected tcp, udp or unix")
	}
	if bound.Network() != g.Network || bound.String() != g.Bound {
		return fmt.Errorf("it is bound to %s %s; expected %s %s", bound.Network(), bound, g.Network, g.Bound)
	}
	return nil
}

// listens says whether a descriptor is a socket that listens.
func listens(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var yes int
	var failed error
	err = raw.Control(func(fd uintptr) {
		yes, failed = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ACCEPTCONN)
	})
	if err = errors.Join(err, failed); err == nil && yes == 0 {
		err = errors.New("nobody listens on it")
	}
	return err
}

// Given is why a process ends whose place another has taken: the cause of the contexts
// that end then.
type Given struct {
	Pid   int
	Taken map[Socket]bool // the sockets that the other one has
}

func (g *Given) Error() string { return fmt.Sprintf("process %d has taken this one's place", g.Pid) }

// GivenBy is the Given that ended a context, nil for another cause or none.
func GivenBy(ctx context.Context) *Given {
	var g *Given
	if errors.As(context.Cause(ctx), &g) {
		return g
	}
	return nil
}

// Has says whether the other process has a socket; a nil Given has none.
func (g *Given) Has(s Socket) bool { return g != nil && g.Taken[s] }
