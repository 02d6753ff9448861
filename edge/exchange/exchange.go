package exchange

import (
	"context"
	"crypto/tls"
	"io"
	"net/netip"
	"time"
)

// Exchange is one request and its response on one client connection.
//
// Owned by the goroutine that serves it, from the engine's call of the handler
// to Done; only Context and the bodies may be used by a second goroutine (the
// one that uploads a body while the response head is awaited).
type Exchange struct {
	// Conn is the connection the request came on. Never nil.
	Conn *Conn
	// Request is filled by the engine; plugins and the router's path policy change it.
	Request Request
	// Response is filled by the upstream side or by whoever answers locally.
	Response Response

	// Ctx ends when the client is gone or the exchange is over. An engine that
	// watches its client only after a while (HTTP/1.1) cancels it late but surely.
	Ctx context.Context //nolint:containedctx // an Exchange is the call, it does not outlive it

	// Interim sends a 1xx response (not 101) to the client at once: 100 when the
	// origin asks for the body, 103 hints. Nil where the protocol cannot.
	Interim func(status int, fields *Fields) error
	// WatchClient starts watching for the client going away while nothing is
	// read from it. The upstream side calls it once when an answer is slow in
	// coming, so that fast requests do not pay for it. May be nil.
	WatchClient func()

	// Timings and counts, for logs and metrics. Each is written by the side named.
	Start          time.Time     // engine: first byte of the head
	HeadDone       time.Time     // engine: head complete
	UpstreamStart  time.Time     // upstream: first attempt began
	UpstreamHead   time.Time     // upstream: response head complete
	UpstreamReused bool          // upstream: a pooled connection served it
	Attempts       []Attempt     // upstream: each try in order
	BytesIn        int64         // engine: head and body bytes read, on the wire inside TLS
	BytesOut       int64         // engine: bytes written likewise
	Elapsed        time.Duration // engine: first byte in to last byte out

	// Refused is the status with which the engine wants the request refused before
	// anything looks at it, 0 for a request that is well formed.
	Refused int

	// State is the handler's own, from Handle to Done; nobody else looks at it.
	State any

	// RequestID names this exchange in logs and in X-Kong-Request-Id: 32 lower-case hex digits.
	RequestID string
}

// Reset makes x ready for the next request, of which the first byte came at start. What
// belongs to the connection stays (Conn, Ctx, Interim, WatchClient), and the memory of
// lists. It goes field by field because a copy of the whole costs more than a request's
// parsing.
func (x *Exchange) Reset(start time.Time) {
	x.Request.reset()
	x.Response.reset()
	if x.Conn != nil && x.Conn.Secure() {
		x.Request.Scheme = "https"
	}
	x.Start, x.HeadDone = start, start
	x.UpstreamStart, x.UpstreamHead, x.UpstreamReused = time.Time{}, time.Time{}, false
	x.Attempts = x.Attempts[:0]
	x.BytesIn, x.BytesOut, x.Elapsed, x.Refused = 0, 0, 0, 0
	x.State, x.RequestID = nil, ""
}

func (r *Request) reset() {
	r.Fields.Reset()
	r.Trailer.Reset()
	r.Method, r.Scheme, r.Host, r.Target, r.Path, r.Query, r.Version = "", "http", "", "", "", "", 0
	r.Absolute, r.HostField, r.HasQuery = false, "", false
	r.Body, r.Length, r.LengthGiven, r.StopBody = NoBody, 0, false, nil
	r.Expect100, r.Upgrade = false, ""
}

func (r *Response) reset() {
	r.Fields.Reset()
	r.Trailer.Reset()
	r.Status, r.Reason, r.Body, r.Length = 0, "", nil, 0
	r.Switch, r.FromUpstream, r.Close = nil, false, false
}

// Now is the present time. It counts from Start, which costs half as much as asking for
// the time of day.
func (x *Exchange) Now() time.Time {
	if x.Start.IsZero() {
		return time.Now()
	}
	return x.Start.Add(time.Since(x.Start))
}

// Attempt is one try at an upstream target.
type Attempt struct {
	Address string        // ip:port
	Status  int           // response status, 0 if there was none
	Err     error         // why the try failed, nil if it did not
	Began   time.Time     // when it began
	Took    time.Duration // until the response head or the failure
}

// Conn is what is known of a client connection. Immutable after the handshake.
type Conn struct {
	ID         uint64
	Listener   string         // name of the listener, for logs
	Peer       netip.AddrPort // the other end of the socket, or the client that it introduced with a PROXY header
	Local      netip.AddrPort // this end
	TLS        *tls.ConnectionState
	Protocol   string // "HTTP/1.1" or "HTTP/2.0" as negotiated
	Policy     any    // what the listener attached at accept (edge's TLS policy); only edge reads it
	CertSerial string // version of the certificate shown, as `name@n`; "" in clear
	Opened     time.Time
	Last       bool // the connection is to end after its first response
}

// Secure says whether the client speaks TLS to us.
func (c *Conn) Secure() bool { return c.TLS != nil }

// Version of a protocol as major<<8|minor.
const (
	HTTP10 = 1 << 8
	HTTP11 = 1<<8 | 1
	HTTP2  = 2 << 8
	HTTP3  = 3 << 8
)

// Request is one request in protocol-neutral form. Hop-by-hop fields of the
// client's connection are already taken out by the engine, except Upgrade
// together with Connection: Upgrade, which are turned into Upgrade.
type Request struct {
	Method  string
	Scheme  string // "http" or "https": of the client's connection
	Host    string // Host field or :authority, as sent, case kept; an absolute-form target's authority wins
	Target  string // origin-form target as received: path and, after '?', query. "*" for OPTIONS *
	Path    string // part of Target before '?', raw
	Query   string // part after '?', raw, without it; HasQuery tells "/a?" from "/a"
	Version int    // HTTP10 ...

	// Absolute says the target came in absolute-form: Host is its authority, and
	// HostField what the Host field said, which RFC 9112, section 3.2.2, overrules.
	Absolute  bool
	HostField string

	HasQuery bool
	Fields   Fields // without Host (it is in Host)

	// Body is never nil after the engine; NoBody when there is none. A read may
	// send 100 Continue to the client. An error that is the client's fault is a
	// *BodyError. Length is its length in bytes, -1 if only its end tells.
	Body    io.Reader
	Length  int64
	Trailer Fields // complete once Body has answered io.EOF

	// LengthGiven says the client sent Content-Length: it tells a body of length
	// zero from no body at all.
	LengthGiven bool
	// StopBody makes a Read of Body that waits for the client, and every later
	// one, fail at once. It may be called while another goroutine reads: the
	// upstream side does so when an origin's whole answer came before the whole
	// body. The engine then ends the client connection after the response. Nil
	// where nothing can interrupt a read.
	StopBody func()

	// Expect100 says the client waits for 100 Continue before it sends the body.
	Expect100 bool
	// Upgrade is the protocol token the client asks to switch to ("websocket"), "" for none.
	Upgrade string
}

// HasBody says whether the request carries a body, possibly of length zero if chunked.
func (r *Request) HasBody() bool { return r.Length != 0 }

// Response is one final response in protocol-neutral form. A zero Status means
// that nobody has answered yet.
type Response struct {
	Status int
	Reason string // upstream's reason phrase; "" for the standard one
	Fields Fields // without hop-by-hop fields; Content-Length is in Length only

	// Body is drained and, if it is an io.Closer, closed by the engine; nil for none.
	Body    io.Reader
	Length  int64  // -1 unknown; with HEAD and 304 the length to announce
	Trailer Fields // complete once Body has answered io.EOF

	// Switch is the upstream's side of an accepted upgrade (status 101): the
	// engine sends the head and then copies bytes both ways until either ends.
	Switch io.ReadWriteCloser

	// FromUpstream says the response was an upstream's, not made here.
	FromUpstream bool
	// Close asks the engine to end the client connection after this response.
	Close bool
}

// NoBody is a body of length zero.
var NoBody io.Reader = eofReader{}

type eofReader struct{}

func (eofReader) Read([]byte) (int, error) { return 0, io.EOF }

// Waiting says whether nothing of a response body is there yet, so that the head had
// better not wait for it: an endless body may begin late. A body that can't tell, by a
// method of this name, is taken to be there.
func Waiting(body io.Reader) bool {
	w, ok := body.(interface{ Waiting() bool })
	return ok && w.Waiting()
}

// Handler answers one exchange: when it returns, Response is complete but for
// its body, which the engine then drains. The engine calls done exactly once
// after the last byte (or the failure, in err), also when Handle panicked.
type Handler interface {
	Handle(x *Exchange)
	Done(x *Exchange, err error)
}

// Capture is one group of a route's regular expression: numbered groups are
// named "0" (the whole match), "1", ...; named groups appear under their name too.
type Capture struct{ Name, Value string }
