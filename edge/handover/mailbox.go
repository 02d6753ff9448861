package handover

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A mailbox is a pair of unix sockets between the process that reads a UDP socket and an
// older one, some of whose clients are still there: datagrams go to the older one, and it
// says which clients it has no more. A message begins with what it is.
const (
	mailDatagram = 'd' // length of the address, it, length of what the system said beside, that, the datagram
	mailForget   = 'f' // an address
)

// maxMail has room for the longest datagram and what is before it.
const maxMail = 64<<10 + 512

// TagLength is how many bytes at the begin of its connection ids name a process.
const TagLength = 4

// ConnectionIDLength is the length of the ids of QUIC connections.
const ConnectionIDLength = TagLength + 8

// elder is an older process that still has clients of a UDP socket.
type elder struct {
	box  *net.UnixConn
	raw  syscall.RawConn
	tag  []byte // of its QUIC connections, nil where clients are known by their addresses
	gone atomic.Bool

	ended   func()     // called once, when it is gone
	mu      sync.Mutex // guards clients
	clients map[netip.AddrPort]struct{}
	done    chan struct{} // closed when listen has returned
	over    bool          // of listen: ended was called
}

func newElder(f *os.File, tag []byte) (*elder, error) {
	box, err := mailboxOf(f)
	if err != nil {
		return nil, err
	}
	raw, err := box.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &elder{box: box, raw: raw, tag: tag, clients: map[netip.AddrPort]struct{}{}}, nil
}

func mailboxOf(f *os.File) (*net.UnixConn, error) {
	l, err := newLink(f)
	if err != nil {
		return nil, err
	}
	return l.c, nil
}

// begin hears from the older process until it ends, or settle is called.
func (e *elder) begin() {
	e.done = make(chan struct{})
	_ = e.box.SetReadDeadline(time.Time{})
	go e.listen() // its owner is the box
}

// settle ends listening; what the older process says then is for others.
func (e *elder) settle() {
	_ = e.box.SetReadDeadline(time.Unix(1, 0))
	<-e.done
}

func (e *elder) add(clients []netip.AddrPort) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range clients {
		e.clients[plainAddr(c)] = struct{}{}
	}
}

func (e *elder) list() []netip.AddrPort {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Collect(maps.Keys(e.clients))
}

func (e *elder) listen() {
	defer close(e.done)
	buf := make([]byte, 64)
	for {
		n, err := e.box.Read(buf)
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) && !e.over {
				e.over = true
				e.gone.Store(true)
				e.ended()
				_ = e.box.Close()
			}
			return
		}
		var a netip.AddrPort
		if n > 1 && buf[0] == mailForget && a.UnmarshalBinary(buf[1:n]) == nil {
			e.mu.Lock()
			delete(e.clients, a)
			e.mu.Unlock()
		}
	}
}

// has says whether a datagram is the older process's.
func (e *elder) has(b []byte, from netip.AddrPort) bool {
	if e.gone.Load() {
		return false
	}
	if e.tag != nil {
		return tagged(b, e.tag)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	_, ok := e.clients[plainAddr(from)]
	return ok
}

// tagged says whether a QUIC packet is for a connection whose id begins with tag
// (RFC 9000, sections 17.2 and 17.3).
func tagged(b, tag []byte) bool {
	if len(b) == 0 {
		return false
	}
	if b[0]&0x80 == 0 {
		return len(b) > ConnectionIDLength && string(b[1:1+TagLength]) == string(tag)
	}
	return len(b) > 6+ConnectionIDLength && b[5] == ConnectionIDLength && string(b[6:6+TagLength]) == string(tag)
}

// plainAddr is an address as it is compared: IPv4 is IPv4 on every kind of socket.
func plainAddr(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// post passes a datagram on, or loses it where there is no room, as a network does.
func (e *elder) post(b, oob []byte, from netip.AddrPort) bool {
	address, err := from.MarshalBinary()
	if err != nil || len(oob) > 255 {
		return false
	}
	mail := make([]byte, 0, 3+len(address)+len(oob)+len(b))
	mail = append(mail, mailDatagram, byte(len(address)))
	mail = append(mail, address...)
	mail = append(mail, byte(len(oob)))
	mail = append(mail, oob...)
	mail = append(mail, b...)
	var failed error
	err = e.raw.Write(func(fd uintptr) bool {
		failed = sendNow(int(fd), mail)
		return true // never wait: others' datagrams are behind this one
	})
	if err != nil || errors.Is(failed, syscall.EPIPE) || errors.Is(failed, syscall.ECONNRESET) {
		e.gone.Store(true)
	}
	return err == nil && failed == nil
}

// open takes a piece of mail apart.
func open(mail []byte) (b, oob []byte, from netip.AddrPort, err error) {
	bad := func() ([]byte, []byte, netip.AddrPort, error) {
		return nil, nil, from, fmt.Errorf("a message of %d bytes is no datagram", len(mail))
	}
	if len(mail) < 2 || mail[0] != mailDatagram {
		return bad()
	}
	n := 2 + int(mail[1])
	if len(mail) < n+1 || from.UnmarshalBinary(mail[2:n]) != nil || !from.IsValid() {
		return bad()
	}
	m := n + 1 + int(mail[n])
	if len(mail) < m {
		return bad()
	}
	return mail[m:], mail[n+1 : m], from, nil
}
