package wire

import (
	"bytes"
	"strings"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// Limits bound a message head. A zero field takes the value in brackets.
type Limits struct {
	Head   int // bytes of the whole head (32 KiB)
	Line   int // bytes of one field line (8 KiB)
	Fields int // field lines (100)
	Target int // bytes of the request target (8 KiB)
}

func (l Limits) filled() Limits {
	or := func(v *int, def int) {
		if *v == 0 {
			*v = def
		}
	}
	or(&l.Head, 32<<10)
	or(&l.Line, 8<<10)
	or(&l.Fields, 100)
	or(&l.Target, 8<<10)
	return l
}

// Error is a message that is refused: with which status, and whether the
// connection can go on. Reason says what was wrong, without the message's bytes.
type Error struct {
	Status int
	Close  bool
	Reason string
}

func (e *Error) Error() string { return e.Reason }

func refuse(status int, reason string) *Error { return &Error{status, true, reason} }

// Framing is how a message's body ends and what becomes of its connection.
type Framing struct {
	Length   int64 // bytes of the body; -1 for a body that its chunks or the end of the connection end
	Chunked  bool
	Close    bool // the connection ends after this message
	Upgrade  bool // Connection lists upgrade
	Trailers bool // TE lists trailers
}

// HeadEnd answers the index just past the empty line that ends a head in b, -1
// while it is not complete. from is how much of b an earlier call has looked at.
// A head of bare line feeds ends too: it is refused when it is parsed, not waited for.
func HeadEnd(b []byte, from int) int {
	i := max(from-3, 0)
	for {
		j := bytes.IndexByte(b[i:], '\n')
		if j < 0 {
			return -1
		}
		i += j + 1
		switch {
		case i < len(b) && b[i] == '\n':
			return i + 1
		case i+1 < len(b) && b[i] == '\r' && b[i+1] == '\n':
			return i + 2
		}
	}
}

// line cuts the first line, without its CRLF, off a head. ok is false when a bare
// line feed ends it.
func line(head string) (first, rest string, ok bool) {
	i := strings.IndexByte(head, '\n')
	if i < 1 || head[i-1] != '\r' {
		return "", "", false
	}
	return head[:i-1], head[i+1:], true
}

// ParseRequest reads a complete request head, its empty line included, into r
// and f. r must be empty. Field strings are parts of head. Hop-by-hop fields and
// those that Connection names are taken out (RFC 9110, section 7.6.1).
func ParseRequest(head string, lim Limits, r *exchange.Request, f *Framing) *Error {
	lim = lim.filled()
	if len(head) > lim.Head {
		return refuse(431, "the request head is too long")
	}
	start, rest, ok := line(head)
	if !ok {
		return refuse(400, "the request line does not end with CRLF")
	}
	if e := requestLine(start, lim, r); e != nil {
		return e
	}
	h := parser{lim: lim, fields: &r.Fields}
	if e := h.parse(rest); e != nil {
		return e
	}
	return h.request(r, f)
}

// requestLine reads method, target and version.
func requestLine(s string, lim Limits, r *exchange.Request) *Error {
	method, rest, ok := strings.Cut(s, " ")
	target, version, ok2 := strings.Cut(rest, " ")
	if !ok || !ok2 || !IsToken(method) {
		return refuse(400, "the request line is not method, target and version")
	}
	switch e := httpVersion(version, r); {
	case e != nil:
		return e
	case len(target) > lim.Target:
		return refuse(414, "the request target is too long")
	case method == "CONNECT":
		return refuse(400, "CONNECT is not served")
	case method == "TRACE":
		return refuse(405, "TRACE is not served")
	}
	r.Method = method
	return requestTarget(target, r)
}

func httpVersion(v string, r *exchange.Request) *Error {
	if len(v) != 8 || v[:5] != "HTTP/" || !digit(v[5]) || v[6] != '.' || !digit(v[7]) {
		return refuse(400, "the request line does not end with an HTTP version")
	}
	if v[5] != '1' {
		return refuse(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
	}
	r.Version = exchange.HTTP11
	if v[7] == '0' {
		r.Version = exchange.HTTP10
	}
	return nil
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

// requestTarget reads origin-form, absolute-form, and the asterisk of OPTIONS.
func requestTarget(t string, r *exchange.Request) *Error {
	for i := 0; i < len(t); i++ {
		if t[i] <= ' ' || t[i] == 0x7f {
			return refuse(400, "the request target has a space or a control character")
		}
	}
	switch {
	case t == "*" && r.Method == "OPTIONS":
	case strings.HasPrefix(t, "/"):
	default:
		scheme, rest, ok := strings.Cut(t, "://")
		if !ok || !exchange.EqualFold(scheme, "http") && !exchange.EqualFold(scheme, "https") {
			return refuse(400, "the request target is neither a path nor an absolute http URI")
		}
		end := strings.IndexAny(rest, "/?#")
		if end < 0 {
			end = len(rest)
		}
		if rest[:end] == "" || !ValidHost(rest[:end]) {
			return refuse(400, "the authority of the request target is not a host")
		}
		r.Host, t = rest[:end], rest[end:]
		r.Absolute = true
		if t == "" || t[0] != '/' {
			t = "/" + t
		}
	}
	r.Target = t
	r.Path, r.Query, r.HasQuery = strings.Cut(t, "?")
	return nil
}

// parser reads field lines and keeps those that frame the message.
type parser struct {
	lim    Limits
	fields *exchange.Fields

	host       string
	hosts      int
	length     string
	lengths    int
	coding     string
	codings    int
	connection string   // the first Connection
	connected  bool     // there was one
	more       []string // the others
	te         bool
	upgrade    string
	expect     string
}

// parse reads every field line up to the empty one.
func (h *parser) parse(rest string) *Error {
	n := 0
	for {
		l, tail, ok := line(rest)
		if !ok {
			return refuse(400, "a field line does not end with CRLF")
		}
		if l == "" {
			return nil
		}
		rest = tail
		if n++; n > h.lim.Fields {
			return refuse(431, "there are too many field lines")
		}
		if len(l) > h.lim.Line {
			return refuse(431, "a field line is too long")
		}
		name, value, e := field(l)
		if e != nil {
			return e
		}
		if !h.framing(name, value) {
			h.fields.Add(name, value)
		}
	}
}

// field splits one line into name and value and checks both.
func field(l string) (name, value string, e *Error) {
	n := 0
	for n < len(l) && tokenChars[l[n]] {
		n++
	}
	if n == 0 || n == len(l) || l[n] != ':' {
		return "", "", refuse(400, "a field line has no valid name")
	}
	from, to := n+1, len(l)
	for from < to && (l[from] == ' ' || l[from] == '\t') {
		from++
	}
	for from < to && (l[to-1] == ' ' || l[to-1] == '\t') {
		to--
	}
	if value = l[from:to]; !Plain(value) {
		return "", "", refuse(400, "a field value has a control character")
	}
	return l[:n], value, nil
}

// framing keeps a field that belongs to the connection or frames the message,
// and says whether it did: such a field is not passed on.
func (h *parser) framing(name, value string) bool {
	is := func(s string) bool { return exchange.EqualFold(name, s) }
	switch len(name) {
	case 2:
		if is("TE") {
			h.te = h.te || hasToken(value, "trailers")
			return true
		}
	case 4:
		if is("Host") {
			h.host = value
			h.hosts++
			return true
		}
	case 6:
		if is("Expect") {
			h.expect = value
			return true
		}
	case 7:
		if is("Upgrade") {
			h.upgrade = value
			return true
		}
	case 10:
		if is("Connection") {
			if h.connected {
				h.more = append(h.more, value)
			} else {
				h.connected, h.connection = true, value
			}
			return true // its tokens are read when all fields are known
		}
		return is("Keep-Alive")
	case 14:
		if is("Content-Length") {
			h.length = value
			h.lengths++
			return true
		}
	case 16:
		return is("Proxy-Connection")
	case 17:
		if is("Transfer-Encoding") {
			h.coding = value
			h.codings++
			return true
		}
	}
	return false
}

// connectionTokens applies Connection: close, keep-alive and upgrade, and the
// fields that it names are removed. Framing fields are out of its reach already.
func (h *parser) connectionTokens(f *Framing) (keepAlive bool) {
	switch h.connection {
	case "keep-alive", "Keep-Alive", "":
		keepAlive = h.connection != ""
	case "close":
		f.Close = true
	default:
		keepAlive = h.tokens(h.connection, f)
	}
	for _, v := range h.more {
		keepAlive = h.tokens(v, f) || keepAlive
	}
	return keepAlive
}

// tokens applies one Connection field.
func (h *parser) tokens(list string, f *Framing) (keepAlive bool) {
	for t := range strings.SplitSeq(list, ",") {
		switch t = strings.Trim(t, " \t"); {
		case t == "":
		case exchange.EqualFold(t, "close"):
			f.Close = true
		case exchange.EqualFold(t, "keep-alive"):
			keepAlive = true
		case exchange.EqualFold(t, "upgrade"):
			f.Upgrade = true
		default:
			h.fields.Del(t)
		}
	}
	return keepAlive
}

// contentLength reads Content-Length: digits only, once, at most 18 of them after leading zeros.
func (h *parser) contentLength() (int64, bool) {
	s := strings.TrimLeft(h.length, "0")
	if h.lengths != 1 || h.length == "" || len(s) > 18 {
		return 0, false
	}
	var n int64
	for i := 0; i < len(s); i++ {
		if !digit(s[i]) {
			return 0, false
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n, true
}

// request finishes a request head.
func (h *parser) request(r *exchange.Request, f *Framing) *Error {
	absolute := r.Absolute
	switch {
	case h.hosts > 1:
		return refuse(400, "there is more than one Host field")
	case h.hosts == 0 && r.Version >= exchange.HTTP11:
		return refuse(400, "there is no Host field")
	case h.host != "" && !ValidHost(h.host), h.host == "" && h.hosts == 1 && !absolute:
		return refuse(400, "the Host field is not a host")
	case !absolute:
		r.Host = h.host
	default:
		r.HostField = h.host
	}
	keepAlive := h.connectionTokens(f)
	f.Close = f.Close || r.Version < exchange.HTTP11 && !keepAlive
	if h.te {
		f.Trailers = true
		r.Fields.Add("TE", "trailers")
	}
	if f.Upgrade && exchange.EqualFold(h.upgrade, "websocket") {
		r.Upgrade = "websocket"
	}
	if h.expect != "" {
		if !exchange.EqualFold(h.expect, "100-continue") {
			return refuse(417, "the expectation is not 100-continue")
		}
		r.Expect100 = r.Version >= exchange.HTTP11
	}
	return h.requestBody(r, f)
}

// requestBody reads how the body of a request ends (RFC 9112, section 6.3).
func (h *parser) requestBody(r *exchange.Request, f *Framing) *Error {
	if h.codings > 0 {
		switch {
		case h.lengths > 0:
			return refuse(400, "there are both Transfer-Encoding and Content-Length")
		case r.Version < exchange.HTTP11:
			return refuse(400, "there is a Transfer-Encoding in HTTP/1.0")
		case h.codings > 1 || !exchange.EqualFold(h.coding, "chunked"):
			if h.codings == 1 && isTokenList(h.coding) && !hasToken(h.coding, "chunked") {
				return refuse(501, "the transfer coding is not known here")
			}
			return refuse(400, "Transfer-Encoding is not chunked alone")
		}
		f.Chunked, f.Length, r.Length = true, -1, -1
		return nil
	}
	if h.lengths > 0 {
		n, ok := h.contentLength()
		if !ok {
			return refuse(400, "Content-Length is not one number")
		}
		f.Length, r.Length, r.LengthGiven = n, n, true
	}
	return nil
}
