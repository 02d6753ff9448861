package edge

import (
	"net"
	"net/netip"
	"sync"
)

// Reasons of refusing a connection, as metrics have them.
const (
	refusedFull        = "max_connections"
	refusedListener    = "max_connections_per_listener"
	refusedClient      = "max_connections_per_client"
	refusedHandshakes  = "max_handshakes"
	refusedHeader      = "proxy_protocol"
	refusedDescriptors = "descriptors"
)

// admission counts what clients have open, so that none has all.
type admission struct {
	perClient, handshakes int // limits, 0 for none

	mu      sync.Mutex // guards the group below
	open    map[netip.Addr]int
	shaking int
}

// enter counts a connection of a client in, unless it has as many as it may.
func (a *admission) enter(client netip.Addr) bool {
	if a.perClient <= 0 {
		return true
	}
	client = network(client)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.open[client] >= a.perClient {
		return false
	}
	if a.open == nil {
		a.open = make(map[netip.Addr]int)
	}
	a.open[client]++
	return true
}

// leave counts it out.
func (a *admission) leave(client netip.Addr) {
	if a.perClient <= 0 {
		return
	}
	client = network(client)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.open[client]--; a.open[client] <= 0 {
		delete(a.open, client)
	}
}

// shake counts a handshake in, unless as many are under way as may be.
func (a *admission) shake() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.handshakes > 0 && a.shaking >= a.handshakes {
		return false
	}
	a.shaking++
	return true
}

func (a *admission) shaken() {
	a.mu.Lock()
	a.shaking--
	a.mu.Unlock()
}

// network is what counts as one client: an address, or of IPv6 the /64 that one host
// may have to itself.
func network(a netip.Addr) netip.Addr {
	if a = a.Unmap().WithZone(""); a.Is6() {
		p, _ := a.Prefix(64) // 64 is a length that it has
		return p.Addr()
	}
	return a
}

// reset closes a connection that is refused at the least cost: nothing is said, and
// the kernel keeps nothing of it.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}
