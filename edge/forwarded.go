package edge

import (
	"net/netip"
	"strings"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/exchange/wire"
	"github.com/keyway-edge/keyway/routing"
)

// forwardedName is the field of RFC 7239. As the setting real_ip_header it is read as
// that says, and is then the only field by which a trusted peer speaks of clients.
const forwardedName = "Forwarded"

// hopsMax is how many hops of a chain are kept, the nearest ones. Nobody but an attacker
// has more, and each takes more memory than its text.
const hopsMax = 64

// hop is what one proxy says of who asked it: an element of Forwarded.
type hop struct {
	client netip.Addr // not valid for "unknown", a made-up name, or nothing said
	proto  string     // in lower case; "" for nothing said
	host   string     // with its port; "" for nothing said
}

// forwardedChain is what a trusted peer's Forwarded says.
type forwardedChain struct {
	text string
	hops []hop
	told hop // by the proxy that the client spoke to
}

// readsForwarded says whether Forwarded is what trusted peers are believed by.
func (c *Config) readsForwarded() bool { return exchange.EqualFold(c.RealIPHeader, forwardedName) }

// readForwarded fills in what a trusted peer's Forwarded says. A field that is not as
// RFC 7239 has it says nothing at all, and the peer counts as a stranger.
func (c *Config) readForwarded(o *origin, f *exchange.Fields) {
	text, ok := lines(f, forwardedName)
	if !ok {
		return
	}
	hops, ok := parseForwarded(text)
	if !ok {
		o.trusted = false
		return
	}
	if len(hops) == 0 {
		return
	}
	o.chain = &forwardedChain{text: text, hops: hops, told: hops[len(hops)-1]}
	for i := len(hops) - 1; i >= 0 && hops[i].client.IsValid(); i-- {
		o.client, o.chain.told = hops[i].client, hops[i]
		if !c.RealIPRecursive || !c.trusts(o.client) {
			break
		}
	}
	if o.chain.told.proto != "" {
		o.proto = o.chain.told.proto
	}
}

// addresses is the chain as X-Forwarded-For has it, with peer behind it.
func (c *forwardedChain) addresses(peer string) string {
	var b strings.Builder
	for _, h := range c.hops {
		if h.client.IsValid() {
			b.WriteString(h.client.String())
		} else {
			b.WriteString("unknown")
		}
		b.WriteString(", ")
	}
	b.WriteString(peer)
	return b.String()
}

// place is the scheme, host and port that the client asked for, where the chain tells.
func (h *hop) place(proto, host, port string) (string, string, string) {
	if h.proto != "" {
		proto = h.proto
	}
	if h.host == "" {
		return proto, host, port
	}
	switch proto {
	case "http":
		port = "80"
	case "https":
		port = "443"
	}
	if i := strings.LastIndexByte(h.host, ':'); i > strings.LastIndexByte(h.host, ']') && i+1 < len(h.host) {
		port = h.host[i+1:]
	}
	return proto, hostOnly(h.host), port
}

// forwarded is the field that an upstream is sent: the hops before this one, as far as
// they are believed, and who asked here for what. claims says that X-Forwarded-* are.
func (r *request) forwarded(claims bool) string {
	b := make([]byte, 0, 128)
	if r.origin.chain != nil {
		b = append(append(b, r.origin.chain.text...), ", "...)
	} else if claims {
		b = r.appendClaims(b)
	}
	x := &r.x.Request
	return string(appendHop(b, &hop{client: r.x.Conn.Peer.Addr().Unmap(), proto: x.Scheme, host: x.Host}))
}

// appendClaims appends the hops that X-Forwarded-* speak of. What was asked for belongs
// to the first one (RFC 7239, section 7.4).
func (r *request) appendClaims(b []byte) []byte {
	f := &r.x.Request.Fields
	h := hop{proto: f.Get("X-Forwarded-Proto"), host: f.Get("X-Forwarded-Host")}
	list, ok := forwardedFor(f, routing.Strict)
	if !ok {
		if r.origin.client != r.x.Conn.Peer.Addr().Unmap() {
			h.client = r.origin.client
		} else if h == (hop{}) {
			return b
		}
		return append(appendHop(b, &h), ", "...)
	}
	all := strings.Split(list, ",")
	for _, one := range all[max(0, len(all)-hopsMax):] {
		if strings.TrimSpace(one) == "" {
			continue
		}
		h.client, _ = parseAddr(one)
		b = append(appendHop(b, &h), ", "...)
		h = hop{}
	}
	return b
}

// appendHop appends an element. What it says of scheme and host comes from others, and
// is left out where it could not be read.
func appendHop(b []byte, h *hop) []byte {
	switch {
	case !h.client.IsValid():
		b = append(b, "for=unknown"...)
	case h.client.Is4():
		b = h.client.AppendTo(append(b, "for="...))
	default:
		b = append(h.client.WithZone("").AppendTo(append(b, `for="[`...)), `]"`...)
	}
	if isScheme(h.proto) && wire.IsToken(h.proto) {
		b = append(append(b, ";proto="...), h.proto...)
	}
	switch {
	case !wire.ValidHost(h.host):
	case wire.IsToken(h.host):
		b = append(append(b, ";host="...), h.host...)
	default: // no host has a quote or a backslash
		b = append(append(append(b, `;host="`...), h.host...), '"')
	}
	return b
}

// parseForwarded reads the hops of Forwarded. It is false for what is not exactly as
// RFC 7239, section 4, has it, if only in one place: where an element ends is then
// anybody's guess.
func parseForwarded(s string) (hops []hop, ok bool) {
	for s != "" {
		var h hop
		var said bool
		if h, said, s, ok = parseHop(strings.TrimLeft(s, " \t")); !ok {
			return nil, false
		}
		s = strings.TrimLeft(s, " \t")
		if s != "" && s[0] != ',' {
			return nil, false
		}
		s = strings.TrimPrefix(s, ",")
		if !said {
			continue // an empty element of a list means nothing (RFC 9110, section 5.6.1)
		}
		if len(hops) == hopsMax {
			hops = hops[:copy(hops, hops[1:])]
		}
		hops = append(hops, h)
	}
	return hops, true
}

// parseHop reads one element and answers what follows it.
func parseHop(s string) (h hop, said bool, rest string, ok bool) {
	for seen := uint8(0); ; {
		var name, value string
		if name, value, s, ok = parsePair(s); !ok {
			return h, said, s, false
		}
		bit := uint8(0)
		switch {
		case exchange.EqualFold(name, "for"):
			bit = 1
			h.client, ok = parseNode(value)
		case exchange.EqualFold(name, "by"):
			bit = 2
			_, ok = parseNode(value)
		case exchange.EqualFold(name, "proto"):
			bit = 4
			h.proto, ok = lower(value), isScheme(value)
		case exchange.EqualFold(name, "host"):
			bit = 8
			h.host, ok = value, wire.ValidHost(value)
		}
		if !ok || seen&bit != 0 { // once each, says section 4
			return h, said, s, false
		}
		seen |= bit
		said = said || name != ""
		if s == "" || s[0] != ';' {
			return h, said, s, true
		}
		s = s[1:]
	}
}

// parsePair reads a name and a value; nothing is a pair too, without a name.
func parsePair(s string) (name, value, rest string, ok bool) {
	i := tokenEnd(s)
	if i == 0 {
		return "", "", s, true
	}
	name, s = s[:i], s[i:]
	if s == "" || s[0] != '=' {
		return "", "", s, false
	}
	s = s[1:]
	if s != "" && s[0] == '"' {
		value, s, ok = unquote(s)
		return name, value, s, ok
	}
	i = tokenEnd(s)
	return name, s[:i], s[i:], i > 0
}

// tokenEnd is how much of the beginning of s is a token.
func tokenEnd(s string) int {
	i := 0
	for i < len(s) && wire.IsTokenByte(s[i]) {
		i++
	}
	return i
}

// unquote reads the quoted string that s begins with (RFC 9110, section 5.6.4).
func unquote(s string) (value, rest string, ok bool) {
	var plain []byte // nil until a character is escaped
	for i := 1; i < len(s); i++ {
		b := s[i]
		switch {
		case b == '"' && plain == nil:
			return s[1:i], s[i+1:], true
		case b == '"':
			return string(plain), s[i+1:], true
		case b == '\\':
			if plain == nil {
				plain = append(make([]byte, 0, len(s)), s[1:i]...)
			}
			if i++; i == len(s) {
				return "", "", false
			}
			b = s[i]
		}
		if b < ' ' && b != '\t' || b == 0x7f {
			return "", "", false
		}
		if plain != nil {
			plain = append(plain, b)
		}
	}
	return "", "", false
}

// parseNode reads a node (section 6): an address, IPv6 in brackets, "unknown" or a
// made-up name, each with or without a port. Only an address is answered.
func parseNode(s string) (netip.Addr, bool) {
	name, port := s, ""
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return netip.Addr{}, false
		}
		a, err := netip.ParseAddr(s[1:end])
		if err != nil || !a.Is6() || a.Zone() != "" || !isNodePort(s[end+1:]) {
			return netip.Addr{}, false
		}
		return a.Unmap(), true
	}
	if i := strings.IndexByte(s, ':'); i >= 0 {
		name, port = s[:i], s[i:]
	}
	if !isNodePort(port) {
		return netip.Addr{}, false
	}
	if exchange.EqualFold(name, "unknown") || isMadeUp(name) {
		return netip.Addr{}, true
	}
	a, err := netip.ParseAddr(name)
	return a, err == nil // without a colon it is none of IPv6
}

// isNodePort says whether s, colon included, is the port of a node, or none.
func isNodePort(s string) bool {
	if s == "" {
		return true
	}
	s, ok := strings.CutPrefix(s, ":")
	return ok && (isMadeUp(s) || s != "" && len(s) <= 5 && strings.Trim(s, "0123456789") == "")
}

// isMadeUp says whether s is an obfuscated identifier, which begins with an underscore.
func isMadeUp(s string) bool {
	if len(s) < 2 || s[0] != '_' {
		return false
	}
	for i := 1; i < len(s); i++ {
		if c := s[i]; !isAlnum(c) && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// isScheme says whether s is the scheme of a URI (RFC 3986, section 3.1).
func isScheme(s string) bool {
	if s == "" || '0' <= s[0] && s[0] <= '9' {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; !isAlnum(c) && (i == 0 || c != '+' && c != '-' && c != '.') {
			return false
		}
	}
	return true
}

func isAlnum(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
