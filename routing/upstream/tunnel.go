package upstream

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// Dialing is what a stream wants of its target.
type Dialing struct {
	Network string     // "tcp" or "udp"
	Client  netip.Addr // for consistent hashing
	Preface []byte     // sent first of all, before a TLS handshake too; nil for nothing
}

// Tunnel is a connection to one target of a cluster, for bytes that are not
// requests. It holds the target's place until it is closed.
type Tunnel struct {
	// Conn is a *net.TCPConn, a *net.UDPConn or a *tls.Conn.
	Conn    net.Conn
	Address string // ip:port
	Tries   int    // targets asked, this one included

	balancer *balancer
	target   *target
	trial    bool
	judged   sync.Once
	once     sync.Once
}

// Answered says that the target is there. Of TCP, connecting has shown that.
func (t *Tunnel) Answered() {
	t.judged.Do(func() {
		if t.balancer.rules != nil {
			t.balancer.judge(t.target, byTraffic, eventSuccess)
		}
		t.conclude(trialGood)
	})
}

// Failed says that the target is not there, or no more, as the refusal of a datagram does.
func (t *Tunnel) Failed(err error) {
	t.balancer.failed(t.target, &fault{kind: faultConnect, err: err})
	t.judged.Do(func() { t.conclude(trialBad) })
}

func (t *Tunnel) conclude(o outcome) {
	if t.trial {
		t.balancer.concluded(t.target, o)
	}
}

// Close closes the connection and gives the place back. It may be called twice.
func (t *Tunnel) Close() {
	t.once.Do(func() {
		_ = t.Conn.Close() // TLS says farewell; nothing that comes after matters to anybody
		t.judged.Do(func() { t.conclude(trialVoid) })
		t.balancer.leave(t.target)
	})
}

// Silence is how long a stream of the cluster may be silent, and how long a write to
// its target may make no progress.
func (cl *Cluster) Silence() (read, write time.Duration) { return cl.read, cl.write }

// Carries says why streams of a protocol (tcp, tls, tls_passthrough, udp) cannot go to
// the cluster, nil when they can.
func (cl *Cluster) Carries(protocol string) error {
	if cl.sealed != nil {
		return cl.sealed
	}
	if cl.protocol == protocol {
		return nil
	}
	want := "tcp or tls"
	switch protocol {
	case "udp":
		want = "udp"
	case "tls_passthrough":
		if want = "tls_passthrough or tcp"; cl.protocol == "tcp" {
			return nil
		}
	default:
		if cl.protocol == "tcp" || cl.protocol == "tls" {
			return nil
		}
	}
	return fmt.Errorf("service %q: protocol %s takes no streams of %s; expected %s", cl.name, cl.protocol, protocol, want)
}

// Dial opens a connection to one of the cluster's targets, and to others, as many
// as the service has retries, where that fails. Errors are an *Error.
func (cl *Cluster) Dial(ctx context.Context, d Dialing) (*Tunnel, error) {
	if cl.sealed != nil {
		return nil, &Error{503, messageClosed, cl.sealed}
	}
	b := cl.balancer
	k := &call{cluster: cl, x: &exchange.Exchange{Ctx: ctx, UpstreamStart: time.Now()}, out: &Outgoing{HostDefault: true, Client: d.Client}}
	var w wish
	if b.method == consistentHashing {
		w.key, w.keyed, _ = b.hash.key(k.x, k.out)
	}
	var last *fault
	for tries := 0; tries <= cl.retries; {
		t, trial, err := k.seat(w, tries < cl.retries)
		if err != nil {
			return nil, k.noSeat(err)
		}
		if t == nil {
			break
		}
		addr, err := k.address(t)
		if err != nil {
			k.unseat(t, trial, trialVoid)
			if !b.named {
				return nil, k.unresolved(err)
			}
			// A name without addresses is not a try: there is nothing to connect to.
			if slices.Contains(w.tried, t) || len(w.tried) >= len(b.current().all) {
				break
			}
			w.tried = append(w.tried, t)
			continue
		}
		tries++
		w.tried = append(w.tried, t)
		began := time.Now()
		tunnel := &Tunnel{Address: addr.String(), Tries: tries, balancer: b, target: t, trial: trial}
		if tunnel.Conn, err = cl.connectTo(k, t, addr, d); err == nil {
			b.timed(t, began, false)
			if d.Network == "tcp" {
				tunnel.Answered()
			}
			return tunnel, nil
		}
		last = unconnected(err)
		b.leave(t)
		if last.kind == faultHere {
			tunnel.conclude(trialVoid)
			break
		}
		if ctx.Err() != nil {
			tunnel.conclude(trialVoid)
			last.kind = faultClient
			break
		}
		b.timed(t, began, true)
		b.failed(t, last)
		tunnel.conclude(trialBad)
	}
	if last == nil {
		return nil, &Error{503, messageNoPeer, errNoTarget(b)}
	}
	return nil, last.answer()
}

// connectTo makes one connection, handshake included, within the service's time.
func (cl *Cluster) connectTo(k *call, t *target, addr netip.AddrPort, d Dialing) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(k.x.Ctx, cl.connect)
	defer cancel()
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, d.Network, addr.String())
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", addr, err)
	}
	if len(d.Preface) > 0 {
		_ = c.SetWriteDeadline(time.Now().Add(cl.connect))
		if _, err := c.Write(d.Preface); err != nil {
			_ = c.Close()
			return nil, fmt.Errorf("introducing the client to %s: %w", addr, err)
		}
		_ = c.SetWriteDeadline(time.Time{})
	}
	if cl.tls == nil || d.Network != "tcp" {
		return c, nil
	}
	id, _ := k.identity(t, addr)
	id.proto = "stream" // its sessions are no requests'
	config := cl.tls.config(&stack{pools: cl.pools, id: id})
	config.NextProtos = nil // what is spoken inside is the client's business
	tc := tls.Client(c, config)
	if err := tc.HandshakeContext(ctx); err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("shaking hands with %s as %q: %w", addr, id.server, err)
	}
	return tc, nil
}
