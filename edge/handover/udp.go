package handover

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
)

// PurposeHTTP3 is the purpose of the sockets on which QUIC connections are known by
// their ids; on others clients are known by their addresses.
const PurposeHTTP3 = "http3"

// UDP is a UDP socket that two processes can have. One reads it: it keeps the datagrams
// of its own clients and of new ones, and passes on those of older processes. Both write.
// Until there is another process it is a net.UDPConn with a look at two pointers a read.
type UDP struct {
	*net.UDPConn

	// Clients answers the clients that this process has, in sockets where they are known
	// by their addresses; set before the first read.
	Clients func() []netip.AddrPort

	name  Socket
	given Socket // as who gave it calls it
	tag   []byte
	batch *ipv4.PacketConn

	elders    atomic.Pointer[[]*elder]
	forwarded atomic.Uint64
	lost      atomic.Uint64
	source    atomic.Pointer[source] // nil while the socket itself is read

	mu       sync.Mutex // guards the group below
	deadline time.Time
	parked   chan struct{} // closed when a reader has seen that the source is another
	mails    []byte        // of the reader alone
}

// source is what is read in place of the socket: nothing while box is nil.
type source struct {
	box     *net.UnixConn
	changed chan struct{} // closed when this is no longer the source
}

func newUDP(name Socket, c *net.UDPConn) *UDP {
	u := &UDP{UDPConn: c, name: name, batch: ipv4.NewPacketConn(c)}
	if name.Purpose == PurposeHTTP3 {
		u.tag = make([]byte, TagLength)
		_, _ = rand.Read(u.tag) // never fails: crypto/rand ends the program instead
	}
	return u
}

// Name is what the socket is called.
func (u *UDP) Name() Socket { return u.name }

// Tag is what the ids of this process's QUIC connections begin with.
func (u *UDP) Tag() []byte { return u.tag }

// ReadBatch is how QUIC reads.
func (u *UDP) ReadBatch(ms []ipv4.Message, flags int) (int, error) {
	for {
		if s := u.source.Load(); s != nil {
			mail, err := u.nextMail(s)
			if err != nil {
				return 0, err
			}
			if b, oob, from, err := open(mail); err == nil {
				m := &ms[0]
				m.N, m.NN, m.Addr = copy(m.Buffers[0], b), copy(m.OOB, oob), net.UDPAddrFromAddrPort(from)
				return 1, nil
			}
			continue // never none without an error: the caller would take what it has for new
		}
		n, err := u.batch.ReadBatch(ms, flags)
		if err != nil {
			if u.turned(err) {
				continue
			}
			return n, err
		}
		elders := u.elders.Load()
		if elders == nil {
			return n, nil
		}
		if n = u.sift(*elders, ms[:n]); n > 0 {
			return n, nil
		}
	}
}

// turned says that a read ended because there is another source now.
func (u *UDP) turned(err error) bool {
	return u.source.Load() != nil && errors.Is(err, os.ErrDeadlineExceeded)
}

// sift passes on what belongs to older processes and moves the rest together. The
// buffers stay where they are, for their owner knows them by their places.
func (u *UDP) sift(elders []*elder, ms []ipv4.Message) int {
	kept := 0
	for i := range ms {
		m := &ms[i]
		b, oob := m.Buffers[0][:m.N], m.OOB[:m.NN]
		from, _ := m.Addr.(*net.UDPAddr)
		if from != nil && u.passOn(elders, b, oob, from.AddrPort()) {
			continue
		}
		if kept != i {
			to := &ms[kept]
			to.N, to.NN, to.Addr = copy(to.Buffers[0], b), copy(to.OOB, oob), m.Addr
		}
		kept++
	}
	return kept
}

// passOn passes a datagram on if it is an older process's.
func (u *UDP) passOn(elders []*elder, b, oob []byte, from netip.AddrPort) bool {
	for _, e := range elders {
		if !e.has(b, from) {
			continue
		}
		switch {
		case e.post(b, oob, from):
			u.forwarded.Add(1)
		case e.gone.Load():
			continue // it has just ended: what it had is for who reads
		default:
			u.lost.Add(1)
		}
		return true
	}
	return false
}

// ReadFromUDPAddrPort is how streams read.
func (u *UDP) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	for {
		if s := u.source.Load(); s != nil {
			mail, err := u.nextMail(s)
			if err != nil {
				return 0, netip.AddrPort{}, err
			}
			if d, _, from, err := open(mail); err == nil {
				return copy(b, d), from, nil
			}
			continue
		}
		n, from, err := u.UDPConn.ReadFromUDPAddrPort(b)
		if err != nil && u.turned(err) {
			continue
		}
		if elders := u.elders.Load(); err == nil && elders != nil && u.passOn(*elders, b[:n], nil, from) {
			continue
		}
		return n, from, err
	}
}

// nextMail waits for mail; none without an error means that it is to be looked for elsewhere.
func (u *UDP) nextMail(s *source) ([]byte, error) {
	u.park()
	if s.box == nil {
		<-s.changed
		return nil, nil
	}
	if u.mails == nil {
		u.mails = make([]byte, maxMail)
	}
	n, err := s.box.Read(u.mails)
	switch {
	case err == nil:
		return u.mails[:n], nil
	case errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed):
		return nil, err
	}
	// Whoever read the socket has ended, and handed it to nobody.
	u.turn(nil)
	return nil, nil
}

// park tells who waits for it that the reader does not read the socket.
func (u *UDP) park() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.parked != nil {
		close(u.parked)
		u.parked = nil
	}
}

// SetReadDeadline is a net.Conn's.
func (u *UDP) SetReadDeadline(t time.Time) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.deadline = t
	if s := u.source.Load(); s != nil {
		if s.box == nil {
			return nil
		}
		return s.box.SetReadDeadline(t)
	}
	return u.UDPConn.SetReadDeadline(t)
}

// SetDeadline is a net.Conn's.
func (u *UDP) SetDeadline(t time.Time) error {
	return errors.Join(u.SetReadDeadline(t), u.SetWriteDeadline(t))
}

// Close ends reading and writing here. The socket itself goes on where another process has it.
func (u *UDP) Close() error {
	u.mu.Lock()
	old := u.source.Load()
	if old != nil && old.box != nil {
		_ = old.box.Close()
	}
	u.mu.Unlock()
	err := u.UDPConn.Close()
	if old != nil {
		u.turn(nil)
	}
	for _, e := range u.drop() {
		_ = e.box.Close()
	}
	return err
}

// turn makes another source the one that is read; nil is the socket.
func (u *UDP) turn(s *source) {
	u.mu.Lock()
	defer u.mu.Unlock()
	old := u.source.Swap(s)
	if s != nil && old == nil {
		_ = u.UDPConn.SetReadDeadline(time.Unix(1, 0))
	}
	if s != nil && s.box != nil {
		_ = s.box.SetReadDeadline(u.deadline)
	}
	if s == nil && old != nil {
		_ = u.UDPConn.SetReadDeadline(u.deadline)
	}
	if old != nil {
		close(old.changed)
	}
}

func (u *UDP) drop() []*elder {
	if list := u.elders.Swap(nil); list != nil {
		return *list
	}
	return nil
}

// pause stops reading, and returns when nothing of what was read is in the reader's
// hands, or after limit.
func (u *UDP) pause(limit time.Duration) {
	parked := make(chan struct{})
	u.mu.Lock()
	u.parked = parked
	u.mu.Unlock()
	u.turn(&source{changed: make(chan struct{})})
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-parked:
	case <-t.C:
	}
}

// adopt adds an older process whose datagrams are to be passed on.
func (u *UDP) adopt(e *elder) {
	next := []*elder{e}
	if old := u.elders.Load(); old != nil {
		next = append(slices.Clone(*old), e)
	}
	u.elders.Store(&next)
}

// begin hears from the older processes. When none is left, reading is what it was before.
func (u *UDP) begin() {
	list := u.elders.Load()
	if list == nil {
		return
	}
	left := new(atomic.Int64)
	left.Store(int64(len(*list)))
	for _, e := range *list {
		e.ended = func() {
			if left.Add(-1) == 0 {
				u.elders.CompareAndSwap(list, nil)
			}
		}
		e.begin()
	}
}

// Forget tells who reads the socket that a client is gone: what it sends from now on is
// for others. It does nothing where the socket is read here.
func (u *UDP) Forget(client netip.AddrPort) {
	s := u.source.Load()
	if s == nil || s.box == nil {
		return
	}
	a, err := plainAddr(client).MarshalBinary()
	if err != nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	_ = s.box.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = s.box.Write(append([]byte{mailForget}, a...))
}

// give makes a mailbox: one end to read here, one for the process that is to read the socket.
func (u *UDP) give() (mine *net.UnixConn, theirs *os.File, err error) {
	l, theirs, err := Pair()
	if err != nil {
		return nil, nil, err
	}
	raw, err := l.c.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			// Room for a burst; less is no fault.
			_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<20)
		})
	}
	if err != nil {
		_ = l.Close()
		_ = theirs.Close()
		return nil, nil, fmt.Errorf("making a mailbox for %s: %w", u.name, err)
	}
	return l.c, theirs, nil
}
