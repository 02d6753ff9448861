package upstream

import (
	"context"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// NewResolver makes a Resolver of the system's hosts file and of DNS servers, host:port,
// which are asked in turn; none are those that the system names. Unlike the standard
// one, it lets the times to live be seen: it looks at what its connections read.
func NewResolver(servers []string) Resolver {
	var turn atomic.Uint32
	return &net.Resolver{
		PreferGo: true, // another one would not use these connections
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if len(servers) > 0 {
				address = servers[int(turn.Add(1)-1)%len(servers)]
			}
			var d net.Dialer
			c, err := d.DialContext(ctx, network, address)
			seen, _ := ctx.Value(lifetimeKey{}).(*lifetime)
			if err != nil || seen == nil {
				return c, err
			}
			if u, ok := c.(*net.UDPConn); ok {
				return &datagrams{u, seen}, nil
			}
			return &messages{Conn: c, seen: seen}, nil
		},
	}
}

// lifetime is the shortest time to live of the records of one look-up.
type lifetime struct{ seconds atomic.Int64 } // plus one; 0 for none seen

type lifetimeKey struct{}

// watch makes a context whose look-ups tell the lifetime.
func (l *lifetime) watch(ctx context.Context) context.Context {
	return context.WithValue(ctx, lifetimeKey{}, l)
}

// least is how long the answer may be used.
func (l *lifetime) least() time.Duration {
	n := l.seconds.Load()
	if n == 0 {
		return resolveFresh
	}
	return min(max(time.Duration(n-1)*time.Second, resolveLeast), resolveMost)
}

// read takes a message in. What is no good message is the resolver's to refuse.
func (l *lifetime) read(message []byte) {
	var p dnsmessage.Parser
	if h, err := p.Start(message); err != nil || !h.Response || h.RCode != dnsmessage.RCodeSuccess || p.SkipAllQuestions() != nil {
		return
	}
	for {
		h, err := p.AnswerHeader()
		if err != nil || p.SkipAnswer() != nil {
			return
		}
		for ttl := int64(h.TTL) + 1; ; {
			was := l.seconds.Load()
			if was != 0 && was <= ttl || l.seconds.CompareAndSwap(was, ttl) {
				break
			}
		}
	}
}

// datagrams is a connection of which each read is a message.
type datagrams struct {
	*net.UDPConn
	seen *lifetime
}

// Read reads a message.
func (c *datagrams) Read(p []byte) (int, error) {
	n, err := c.UDPConn.Read(p)
	if err == nil {
		c.seen.read(p[:n])
	}
	return n, err
}

// messages is a stream of messages, each after its length in two bytes.
type messages struct {
	net.Conn
	seen *lifetime
	held []byte // of the message that is being read
}

// Read reads a part of the stream.
func (c *messages) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.held = append(c.held, p[:n]...)
	for len(c.held) >= 2 {
		size := 2 + int(c.held[0])<<8 + int(c.held[1])
		if len(c.held) < size {
			break
		}
		c.seen.read(c.held[2:size])
		c.held = c.held[size:]
	}
	return n, err
}
