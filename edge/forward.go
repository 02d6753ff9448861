package edge

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/routing"
)

// origin is what is known, or believed, of where a request came from.
type origin struct {
	client  netip.Addr      // real client, behind trusted proxies too
	trusted bool            // the peer is one whose forwarding fields are believed
	proto   string          // scheme as the client is believed to have used it
	chain   *forwardedChain // what Forwarded says, nil for nothing
}

// originOf judges the peer. Only a trusted peer's fields are read at all.
func (c *Config) originOf(x *exchange.Exchange) origin {
	o := origin{client: x.Conn.Peer.Addr().Unmap(), proto: x.Request.Scheme}
	if len(c.TrustedIPs) == 0 || !c.trusts(o.client) {
		return o
	}
	o.trusted = true
	if c.readsForwarded() {
		c.readForwarded(&o, &x.Request.Fields)
		return o
	}
	o.client = c.realIP(o.client, &x.Request.Fields)
	if p, ok := x.Request.Fields.Lookup("X-Forwarded-Proto"); ok {
		o.proto = p
	}
	return o
}

func (c *Config) trusts(a netip.Addr) bool {
	for _, p := range c.TrustedIPs {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// realIP reads the client's address from RealIPHeader: the last address of a
// list, or with RealIPRecursive the last one that is not itself trusted. An
// entry that is no address ends the search. Several lines are one list, since a
// proxy may add its own line rather than lengthen the one that it was sent.
func (c *Config) realIP(peer netip.Addr, f *exchange.Fields) netip.Addr {
	name := c.RealIPHeader
	if name == "" {
		name = "X-Real-IP"
	}
	var list []string
	for v := range f.Values(name) {
		list = append(list, strings.Split(v, ",")...)
	}
	best := peer
	for i := len(list) - 1; i >= 0; i-- {
		a, ok := parseAddr(list[i])
		if !ok {
			break
		}
		best = a
		if !c.RealIPRecursive || !c.trusts(a) {
			break
		}
	}
	return best
}

// parseAddr reads an address with or without a port.
func parseAddr(s string) (netip.Addr, bool) {
	s = strings.TrimSpace(s)
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return a.Unmap(), true
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().Unmap(), true
	}
	return netip.Addr{}, false
}

// hostOnly is the host of a Host field, lower case, without port and without a
// trailing dot; brackets of an IPv6 literal stay.
func hostOnly(host string) string {
	if strings.HasPrefix(host, "[") {
		if i := strings.IndexByte(host, ']'); i > 0 {
			host = host[:i+1]
		}
	} else if i := strings.IndexByte(host, ':'); i >= 0 {
		host = host[:i]
	}
	return strings.TrimSuffix(lower(host), ".")
}

// lower is strings.ToLower for ASCII that does not allocate when there is nothing to do.
func lower(s string) string {
	for i := 0; i < len(s); i++ {
		if 'A' <= s[i] && s[i] <= 'Z' {
			return strings.ToLower(s)
		}
	}
	return s
}

// forward writes the fields of the upstream request into dst: ours first, in the
// order that users of this format know, then the client's without those.
// prefix is what strip_path took off the path, "" for nothing.
func (h *Handler) forward(r *request, dst *exchange.Fields, prefix string) {
	x, c := r.x, h.config
	f := &x.Request.Fields
	peer := r.peerText()
	r.before.Add("Via", h.viaRequest(f, x.Request.Version))

	clientIP := peer
	if r.origin.client != x.Conn.Peer.Addr().Unmap() {
		clientIP = r.origin.client.String()
	}
	proto, host, port := x.Request.Scheme, r.host, r.portText()
	chain := r.origin.chain
	if chain != nil {
		proto, host, port = chain.told.place(proto, host, port)
	}
	// A proxy that writes Forwarded may pass on X-Forwarded-* that its client made up.
	believe := r.origin.trusted && !c.readsForwarded()
	if chain != nil {
		dst.Add("X-Forwarded-For", chain.addresses(peer))
	} else if v, ok := forwardedFor(f, r.policy); ok && (believe || r.policy == routing.Compatible) {
		dst.Add("X-Forwarded-For", v+", "+peer)
	} else {
		dst.Add("X-Forwarded-For", clientIP)
	}
	put := func(name, own string) {
		if believe {
			if v, ok := f.Lookup(name); ok {
				own = v
			}
		}
		if own != "" {
			dst.Add(name, own)
		}
	}
	put("X-Forwarded-Proto", proto)
	put("X-Forwarded-Host", host)
	put("X-Forwarded-Port", port)
	put("X-Forwarded-Path", r.path)
	put("X-Forwarded-Prefix", visible(prefix))
	if c.Forwarded {
		dst.Add(forwardedName, r.forwarded(believe))
	}
	dst.Add("X-Real-IP", clientIP)
	if c.HeadersUpstream.has(HeaderRequestID) {
		dst.Add("X-Kong-Request-Id", x.RequestID)
	}
	r.lead = dst.Len()
	for i := range f.Len() {
		if line := f.At(i); !h.replaced(line.Name, r.policy) {
			dst.Add(line.Name, line.Value)
		}
	}
}

// withQuery is uri, '?' and query. Mostly that is how the target ends, and then
// it is cut from there instead of made anew.
func withQuery(target, uri, query string) string {
	if at := len(target) - len(uri) - 1 - len(query); at >= 0 {
		if end := target[at:]; end[:len(uri)] == uri && end[len(uri)] == '?' && end[len(uri)+1:] == query {
			return end
		}
	}
	return uri + "?" + query
}

// forwardedFor is the list of addresses that the request came with. Under the
// compatible policy it is the first line, as recorded; under the strict one every
// line counts: what a client wrote must not push out the line that a trusted
// proxy added after it.
func forwardedFor(f *exchange.Fields, p routing.Policy) (string, bool) {
	if p == routing.Compatible {
		return f.Lookup("X-Forwarded-For")
	}
	return lines(f, "X-Forwarded-For")
}

// lines is the list that all lines of a name make together.
func lines(f *exchange.Fields, name string) (string, bool) {
	all, ok := f.Lookup(name)
	if !ok || f.Count(name) == 1 {
		return all, ok
	}
	return strings.Join(slices.Collect(f.Values(name)), ", "), true
}

// visible percent-encodes the control characters that a decoded path may have: no
// field value may.
func visible(s string) string {
	for i := 0; i < len(s); i++ {
		if s[i] >= ' ' && s[i] != 0x7f {
			continue
		}
		b := []byte(s[:i])
		for ; i < len(s); i++ {
			if c := s[i]; c < ' ' || c == 0x7f {
				b = append(b, '%', "0123456789ABCDEF"[c>>4], "0123456789ABCDEF"[c&15])
			} else {
				b = append(b, c)
			}
		}
		return string(b)
	}
	return s
}

// viaRequest is the Via field of the upstream request: the client's first one with ours appended.
func (h *Handler) viaRequest(f *exchange.Fields, version int) string {
	own := h.via11
	switch version {
	case exchange.HTTP10:
		own = "1 " + h.config.Token()
	case exchange.HTTP2:
		own = "2 " + h.config.Token()
	case exchange.HTTP3:
		own = "3 " + h.config.Token()
	}
	if v, ok := f.Lookup("Via"); ok {
		return v + ", " + own
	}
	return own
}

// replaced says whether a client's field is dropped because forward writes it,
// or because the strict policy lets no client say such a thing.
func (h *Handler) replaced(name string, p routing.Policy) bool {
	switch len(name) {
	case 3:
		return exchange.EqualFold(name, "Via")
	case 9:
		return exchange.EqualFold(name, "X-Real-IP") ||
			(p == routing.Strict || h.config.Forwarded) && exchange.EqualFold(name, forwardedName)
	case 15:
		return exchange.EqualFold(name, "X-Forwarded-For")
	case 16:
		return exchange.EqualFold(name, "X-Forwarded-Host") || exchange.EqualFold(name, "X-Forwarded-Port") ||
			exchange.EqualFold(name, "X-Forwarded-Path")
	case 17:
		return exchange.EqualFold(name, "X-Forwarded-Proto") ||
			h.config.HeadersUpstream.has(HeaderRequestID) && exchange.EqualFold(name, "X-Kong-Request-Id")
	case 18:
		return exchange.EqualFold(name, "X-Forwarded-Prefix")
	case 19:
		return p == routing.Strict && exchange.EqualFold(name, "Proxy-Authorization")
	}
	return false
}

// tidyStrict takes out, under the strict policy, what the policy lets no client
// send: names with an underscore, which an origin may read as the name with a
// hyphen, and forwarding fields of peers that are not trusted.
func tidyStrict(f *exchange.Fields, trusted bool) {
	dirty := false
	for i := range f.Len() {
		if name := f.At(i).Name; strings.IndexByte(name, '_') >= 0 || !trusted && isForwarding(name) {
			dirty = true
			break
		}
	}
	if !dirty {
		return
	}
	f.DeleteFunc(func(x exchange.Field) bool {
		return strings.IndexByte(x.Name, '_') >= 0 || !trusted && isForwarding(x.Name)
	})
}

// isForwarding says whether a name belongs to the fields by which proxies speak of clients.
func isForwarding(name string) bool {
	if len(name) > 12 && exchange.EqualFold(name[:12], "X-Forwarded-") {
		return true
	}
	return exchange.EqualFold(name, forwardedName) || exchange.EqualFold(name, "X-Real-IP")
}

// peerText is the peer's address as text, made once a connection.
func (r *request) peerText() string {
	return r.info.peer
}

// portText is the local port as text, as clients see it.
func (r *request) portText() string {
	return r.info.port
}

// connInfo is what a listener keeps with a connection for the handler.
type connInfo struct {
	peer   string // address without port
	port   string // local port, as clients see it
	policy routing.Policy
	tls    *tlsFacts // nil in clear
	at     *gate     // what it came to, nil for unknown
	altSvc string    // what responses say of HTTP/3
}

func (c *Config) newConnInfo(x *exchange.Conn, p routing.Policy) *connInfo {
	return &connInfo{
		peer:   x.Peer.Addr().Unmap().String(),
		port:   c.seenPort(x.Local.Port()),
		policy: p,
	}
}
