package handover

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

const (
	kindElder   = "elder"   // an older process with clients of a UDP socket, and its mailbox
	kindClients = "clients" // more of its clients
	kindElders  = "elders"  // that was the last
)

// elderOf is what is told of an older process.
type elderOf struct {
	Socket Socket `json:"socket"`
	Tag    []byte `json:"tag,omitempty"`
}

const (
	// clientsAtOnce is how many clients one message has.
	clientsAtOnce = 1000
	// pauseWithin is how long a reader may take to notice that it is to pause.
	pauseWithin = time.Second
)

// Datagrams is the part of a hand-over that is about datagrams: from when this process
// stops reading until it is known whether the other one reads.
type Datagrams struct {
	boxes map[*UDP]*net.UnixConn
}

// Entrust stops reading the UDP sockets that the other process has taken, and tells it
// whose datagrams to pass on: this process's own, and those of processes before it. What
// comes meanwhile waits in the sockets. Keep or Undo must follow; after an error, Undo.
func (s *Sockets) Entrust(l *Link, taken map[Socket]bool) (*Datagrams, error) {
	d := &Datagrams{boxes: map[*UDP]*net.UnixConn{}}
	for _, u := range s.udp() {
		if !taken[u.name] {
			continue
		}
		if err := d.entrust(l, u); err != nil {
			return d, err
		}
	}
	return d, l.Send(kindElders, nil, nil)
}

func (d *Datagrams) entrust(l *Link, u *UDP) error {
	d.boxes[u] = nil
	u.pause(pauseWithin)
	if list := u.elders.Load(); list != nil {
		for _, e := range *list {
			if e.settle(); e.gone.Load() {
				continue
			}
			if err := sendElder(l, elderOf{u.name, e.tag}, e.list(), e.box); err != nil {
				return err
			}
		}
	}
	mine, theirs, err := u.give()
	if err != nil {
		return err
	}
	defer func() { _ = theirs.Close() }()
	d.boxes[u] = mine
	var clients []netip.AddrPort
	if u.Clients != nil {
		clients = u.Clients()
	}
	return sendElder(l, elderOf{u.name, u.tag}, clients, theirs)
}

func sendElder(l *Link, e elderOf, clients []netip.AddrPort, box syscall.Conn) error {
	if err := l.Send(kindElder, e, box); err != nil {
		return err
	}
	for len(clients) > 0 {
		n := min(len(clients), clientsAtOnce)
		if err := l.Send(kindClients, clients[:n], nil); err != nil {
			return err
		}
		clients = clients[n:]
	}
	return nil
}

// udp are the sockets of datagrams.
func (s *Sockets) udp() []*UDP {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*UDP
	for _, o := range s.open {
		if o.udp != nil {
			list = append(list, o.udp)
		}
	}
	return list
}

// Keep reads what the other process passes on from now on.
func (d *Datagrams) Keep() {
	for u, box := range d.boxes {
		for _, e := range u.drop() {
			_ = e.box.Close()
		}
		u.turn(&source{box: box, changed: make(chan struct{})})
	}
}

// Undo reads the sockets again, as before.
func (d *Datagrams) Undo() {
	for u, box := range d.boxes {
		if box != nil {
			_ = box.Close()
		}
		if list := u.elders.Load(); list != nil {
			for _, e := range *list {
				e.settle() // where it was not reached
				e.begin()
			}
		}
		u.turn(nil)
	}
}

// ReceiveElders takes what Entrust tells. Until then nothing may be read from the sockets.
func (s *Sockets) ReceiveElders(ctx context.Context, l *Link) error {
	sockets := map[Socket]*UDP{}
	for _, u := range s.udp() {
		sockets[u.given] = u
	}
	var last *elder
	for {
		m, err := l.Receive(ctx)
		if err != nil {
			return fmt.Errorf("taking over the datagrams: %w", err)
		}
		switch m.Kind {
		case kindElder:
			last, err = adopt(m, sockets)
		case kindClients:
			var list []netip.AddrPort
			if err = m.Into(&list); err == nil && last != nil {
				last.add(list)
			}
		case kindElders:
			for _, u := range sockets {
				u.begin()
			}
			return nil
		default:
			err = fmt.Errorf("the message %q came; expected older processes", m.Kind)
		}
		if err != nil {
			m.close()
			return fmt.Errorf("taking over the datagrams: %w", err)
		}
	}
}

// adopt takes up an older process.
func adopt(m *Message, sockets map[Socket]*UDP) (*elder, error) {
	var told elderOf
	if err := m.Into(&told); err != nil {
		return nil, err
	}
	u := sockets[told.Socket]
	if u == nil || m.File == nil {
		return nil, fmt.Errorf("an older process has clients of %s; expected its mailbox, and a socket that was taken", told.Socket)
	}
	e, err := newElder(m.File, told.Tag)
	if err == nil {
		u.adopt(e)
	}
	return e, err
}

// Forwarded is how many datagrams were passed on to older processes, and how many of theirs
// were lost for want of room.
func (s *Sockets) Forwarded() (passed, lost uint64) {
	for _, u := range s.udp() {
		passed += u.forwarded.Load()
		lost += u.lost.Load()
	}
	return passed, lost
}
