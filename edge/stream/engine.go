package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/keyway-edge/keyway/edge"
	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/proxyproto"
	"github.com/keyway-edge/keyway/routing"
	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/routing/upstream"
)

// Engine carries the connections of stream listeners.
type Engine struct {
	current  func() *edge.Snapshot
	observer edge.StreamObserver
	log      *slog.Logger
	buffers  *sync.Pool
}

// New makes an Engine. current answers the snapshot in force, nil before the first.
func New(current func() *edge.Snapshot, observer edge.StreamObserver, log *slog.Logger) *Engine {
	return &Engine{current: current, observer: observer, log: log, buffers: &sync.Pool{New: func() any { return new([bufferSize]byte) }}}
}

// Results of streams, as metrics and the access log have them.
const (
	resultClosed      = "closed"
	resultIdle        = "idle"
	resultStalled     = "stalled"
	resultBroken      = "broken"
	resultCut         = "cut"
	resultNoHello     = "no_hello"    // what came was no ClientHello
	resultNoRoute     = "no_route"    // no route matches
	resultHandshake   = "handshake"   // TLS with the client failed
	resultDenied      = "denied"      // by a plugin
	resultUnavailable = "unavailable" // the route or its service is closed
	resultNoTarget    = "no_target"   // no target took it
	resultFull        = "full"        // too many sessions
)

// refusal is why a stream is not carried.
type refusal struct {
	result string
	err    error
}

// flow is one connection.
type flow struct {
	*Engine
	conn  *edge.StreamConn
	snap  *edge.Snapshot
	hello Hello
	raw   []byte // bytes that were looked at and belong to the target
	end   *edge.StreamEnd
	// requests says that it was none of streams.
	requests bool
}

// ServeStream carries a connection until it ends, and closes it.
func (e *Engine) ServeStream(ctx context.Context, c *edge.StreamConn) {
	defer func() { _ = c.Conn.Close() }()
	info := c.Info
	f := &flow{Engine: e, conn: c, end: &edge.StreamEnd{
		Protocol: routing.TCP, Listener: info.Listener, Client: info.Peer, Local: info.Local, Began: info.Opened,
	}}
	if c.Terminate != nil {
		f.end.Protocol = routing.TLS
	}
	bad := f.serve(ctx)
	if f.requests {
		return
	}
	if bad != nil {
		if bad.result == resultNoHello && len(f.raw) == 0 && errors.Is(bad.err, io.EOF) {
			return // a look at whether the port is open
		}
		f.end.Result, f.end.Err = bad.result, bad.err
	}
	f.end.Took = time.Since(f.end.Began)
	e.observer.StreamClosed(ctx, f.end)
}

func (f *flow) serve(ctx context.Context) *refusal {
	if f.snap = f.current(); f.snap == nil {
		return &refusal{resultUnavailable, errors.New("no configuration is loaded yet")}
	}
	f.end.Generation = f.snap.Generation
	client := f.conn.Conn
	var routed edge.Routed
	var bad *refusal
	if f.conn.Terminate == nil {
		routed, bad = f.find(routing.TCP)
	} else {
		routed, client, bad = f.enterTLS(ctx)
	}
	if bad != nil || f.requests {
		return bad
	}
	routed = routed.Chosen()
	f.snap = nil // who stays for days keeps its own route alone
	f.end.Route, f.end.Service = routed.Route, routed.Service
	if routed.Closed != nil {
		return &refusal{resultUnavailable, routed.Closed}
	}
	if reply := routed.Admit(ctx, f.conn.Info, f.end.Began); reply != nil {
		return &refusal{resultDenied, fmt.Errorf("a plugin refused the client: %s", reply.Message)}
	}
	return f.carry(ctx, client, &routed)
}

// find finds the route of the connection for a protocol.
func (f *flow) find(protocol string) (edge.Routed, *refusal) {
	routed, ok := f.snap.Stream(&routing.StreamQuery{Protocol: protocol, ServerName: f.hello.ServerName, Source: f.conn.Info.Peer, Destination: f.conn.Info.Local})
	if !ok {
		return routed, &refusal{resultNoRoute, fmt.Errorf("no %s route matches; expected one whose sources, destinations or snis do", protocol)}
	}
	f.end.Protocol = protocol
	return routed, nil
}

// enterTLS looks at the ClientHello and shakes hands, unless the route says that the
// target does.
func (f *flow) enterTLS(ctx context.Context) (edge.Routed, net.Conn, *refusal) {
	sock := f.conn.Conn
	_ = sock.SetReadDeadline(time.Now().Add(f.conn.Limit))
	var err error
	f.raw, f.hello, err = ReadHello(sock)
	_ = sock.SetReadDeadline(time.Time{})
	if err != nil {
		if f.conn.Requests != nil && len(f.raw) > 0 { // whose handshake fails, with an answer in clear for a client that speaks so
			f.request(ctx)
			return edge.Routed{}, nil, nil
		}
		return edge.Routed{}, nil, &refusal{resultNoHello, err}
	}
	f.end.ServerName = f.hello.ServerName
	requests, streams := f.reserved()
	if requests {
		f.request(ctx)
		return edge.Routed{}, nil, nil
	}
	if routed, bad := f.find(routing.Passthrough); bad == nil {
		return routed, sock, nil
	}
	// With an encrypted name what was seen is only a name for all; an authority's
	// question is answered by the handshake, whether streams have the name or not.
	if _, bad := f.find(routing.TLS); bad != nil && f.conn.Requests != nil && !streams {
		f.request(ctx)
		return edge.Routed{}, nil, nil
	} else if bad != nil && !f.hello.Encrypted && !f.hello.Challenge {
		// Gateway API has such a connection end without a word.
		if !f.snap.OwnListeners() {
			unrecognized(sock, f.conn.Limit)
		}
		return edge.Routed{}, nil, bad
	}
	tc := f.conn.Terminate(ctx, f.snap, f.raw)
	if tc == nil {
		return edge.Routed{}, nil, &refusal{resultHandshake, errors.New("the TLS handshake with the client failed")}
	}
	f.raw = nil
	f.hello.ServerName = hostName(f.conn.Info.TLS.ServerName)
	f.end.ServerName, f.end.Certificate = f.hello.ServerName, f.conn.Info.CertSerial
	routed, bad := f.find(routing.TLS)
	return routed, tc, bad
}

// reserved says whether the listeners that share the socket have the name for requests
// alone, or for streams alone. Of an encrypted name and an authority's question nothing
// can be said by the name that was seen.
func (f *flow) reserved() (requests, streams bool) {
	if f.conn.Requests == nil || f.hello.Encrypted || f.hello.Challenge {
		return false, false
	}
	return f.snap.Reserved(f.conn.Info.Local, f.hello.ServerName)
}

// request hands a connection over to those who serve requests, until it is over.
func (f *flow) request(ctx context.Context) {
	raw := f.raw
	f.requests, f.raw, f.snap = true, nil, nil // whoever stays for days keeps no snapshot
	f.conn.Requests(ctx, raw)
}

// unrecognized tells a client that nothing here has the name that it asked for, with
// the alert unrecognized_name (RFC 6066, section 3).
func unrecognized(c net.Conn, limit time.Duration) {
	_ = c.SetWriteDeadline(time.Now().Add(limit))
	_, _ = c.Write([]byte{21, 3, 3, 0, 2, 2, 112})
}

// carry finds a target and copies.
func (f *flow) carry(ctx context.Context, client net.Conn, routed *edge.Routed) *refusal {
	tunnel, err := routed.Dial(ctx, upstream.Dialing{Network: "tcp", Client: f.conn.Info.Peer.Addr().Unmap(), Preface: introduction(routed.Service, f.conn.Info, f.hello.ServerName)})
	if err != nil {
		return &refusal{resultNoTarget, err}
	}
	defer tunnel.Close()
	f.end.Upstream, f.end.Tries, f.end.Opened = tunnel.Address, tunnel.Tries, true
	protocol := f.end.Protocol
	f.observer.StreamOpened(protocol)
	idle, stall := routed.Cluster.Silence()
	p := &pipe{idle: idle, stall: stall, buffers: f.buffers, carried: func(in, out int64) { f.observer.StreamCarried(protocol, in, out) }}
	if len(f.raw) > 0 {
		_ = tunnel.Conn.SetWriteDeadline(time.Now().Add(stall))
		if _, err := tunnel.Conn.Write(f.raw); err != nil {
			return &refusal{resultBroken, fmt.Errorf("passing the ClientHello on: %w", err)}
		}
		p.in.Add(int64(len(f.raw)))
		p.carried(int64(len(f.raw)), 0)
		f.raw = nil
	}
	err = p.run(client, tunnel.Conn)
	f.end.In, f.end.Out = p.in.Load(), p.out.Load()
	if err != nil {
		return &refusal{resultOf(err), err}
	}
	return &refusal{resultClosed, nil}
}

func resultOf(err error) string {
	switch {
	case errors.Is(err, errIdle):
		return resultIdle
	case errors.Is(err, errStalled):
		return resultStalled
	case errors.Is(err, net.ErrClosed): // by whoever ends this node, or a revoked certificate's connections
		return resultCut
	}
	return resultBroken
}

// introduction is the PROXY header that a service wants, nil for none.
func introduction(s *spec.Service, info *exchange.Conn, name string) []byte {
	version := map[string]int{"v1": 1, "v2": 2}[s.ProxyProtocol]
	if version == 0 {
		return nil
	}
	in := proxyproto.Introduction{Source: info.Peer, Destination: info.Local, Authority: name}
	if info.TLS != nil {
		in.ALPN = info.TLS.NegotiatedProtocol
	}
	return proxyproto.Append(nil, version, in)
}

// A tls.Conn is told apart from a socket by what the pipe does with it.
var _ interface{ CloseWrite() error } = (*tls.Conn)(nil)
