package routing

import (
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/routing/expr"
)

// Query is what of a request decides about its route.
type Query struct {
	Method string
	// Scheme is "http" or "https". Only Explain looks at it: a route that does not
	// speak the scheme still matches, and answers 426 or a redirect.
	Scheme string
	// Host is the request's host as sent, with or without a port.
	Host string
	// Port is the port that the request came to, for a Host without one; 0 for unknown.
	Port int
	// Path is normalised: an answer of Normalize.
	Path string
	// SNI is the server name of the TLS handshake, "" for none.
	SNI string
	// Secure says the client speaks TLS; in clear the conditions on SNI are not looked at.
	Secure bool
	Fields *exchange.Fields
	// RawQuery is the query as sent, without '?'; Src and Dst are the client's address,
	// as far as trusted peers say it, and the one that the request came to. Only
	// expressions look at them.
	RawQuery string
	Src, Dst netip.AddrPort
	// Policy under which Host is read: under Compatible its case counts, as recorded.
	Policy Policy
}

// Match is the answer to a Query. It can be used again and again; Captures
// keeps its memory.
type Match struct {
	// Route is the route found.
	Route *Route
	// MatchedPath is the part of the path that the route's path matched, what
	// strip_path removes; "" if the route has no paths.
	MatchedPath string
	// Captures are the groups of the expression that matched, nil without one:
	// "0" is the whole match, "1" the first group and so on; a named group follows
	// under its name.
	Captures []exchange.Capture

	path string // normalised path of the request
}

// target is a Query prepared for comparing.
type target struct {
	*Query
	path         string
	host, folded string // without port; folded in lower case
	sni          string // in lower case
	port         int
	sameCase     bool         // the case of the host counts
	recheck      bool         // being in the bucket of a host is not enough
	asked        expr.Request // what expressions see
}

func (t *target) prepare(q *Query) {
	t.Query, t.path = q, q.Path
	t.host, t.port = splitPort(q.Host)
	if t.port == 0 {
		t.port = q.Port
	}
	t.folded, t.sni = strings.ToLower(t.host), strings.ToLower(q.SNI)
	t.sameCase = q.Policy == Compatible
	t.recheck = t.sameCase && t.folded != t.host
}

// ask prepares what expressions see. listens says that the document declares listeners:
// then a port is that of the socket, since a route that is bound to one listener must not be
// reached through another by whoever names its port.
func (t *target) ask(listens bool) {
	protocol := "http"
	if t.Secure {
		protocol = "https"
	}
	dst := t.Dst
	if dst.IsValid() && !listens && t.port != 0 && t.port <= math.MaxUint16 {
		// As recorded: the port that the client names counts, as with a route's hosts.
		dst = netip.AddrPortFrom(dst.Addr(), uint16(t.port)) //nolint:gosec // see the condition
	}
	t.asked = expr.Request{
		Protocol: protocol, Method: t.Method, Host: t.host, Path: t.path, RawQuery: t.RawQuery, SNI: t.SNI, Fields: t.Fields, Src: t.Src, Dst: dst,
	}
}

// Match finds the route of a request, whatever its protocol. Without one it
// answers false and leaves m empty. A path that is not UTF-8 has no route, nor
// has a host that is longer than names can be.
//
// It allocates nothing unless an expression matched or a host has capitals.
func (t *Table) Match(q *Query, m *Match) bool {
	m.Route, m.MatchedPath, m.path = nil, "", q.Path
	m.Captures = m.Captures[:0]
	if !routable(q) {
		return false
	}
	var tg target
	tg.prepare(q)
	if t.expressions {
		tg.ask(t.listens)
	}
	best := t.find(&tg)
	if best == nowhere {
		return false
	}
	r := &t.rules[best.slot()]
	m.Route = r.route
	if r.expr != nil {
		m.express(r.shape, &tg)
		return true
	}
	m.MatchedPath = r.matched(q.Path)
	if r.weight.regex && !r.broken {
		m.capture(r.shape)
	}
	return true
}

// longestHost is the length that a host name with a port may have (RFC 1035,
// section 2.3.4, and ":65535"). Why: wildcards are looked up dot by dot, at a
// cost that would grow with the square of a hostile host's length.
const longestHost = 255 + 6

// routable says whether a query may have a route at all.
func routable(q *Query) bool {
	return len(q.Host) <= longestHost && utf8.ValidString(q.Path)
}

// find answers the place of the best rule, nowhere for none.
func (t *Table) find(q *target) place {
	best := nowhere
	if n := t.whole[q.folded]; n != nil {
		best = n.find(t.rules, q, best)
	}
	if len(t.endings)+len(t.starts) > 0 {
		for i := range len(q.folded) {
			if q.folded[i] != '.' {
				continue
			}
			if n := t.endings[q.folded[i:]]; n != nil {
				best = n.find(t.rules, q, best)
			}
			if n := t.starts[q.folded[:i+1]]; n != nil {
				best = n.find(t.rules, q, best)
			}
		}
	}
	return t.anyHost.find(t.rules, q, best)
}

// matches says whether a rule in whose tree the request's host and path lead
// matches it.
func (r *rule) matches(q *target) bool {
	s := r.shape
	if s.expr != nil {
		return s.accepts(q) && s.expr.Match(&q.asked, nil)
	}
	if len(s.methods) > 0 && !slices.Contains(s.methods, q.Method) {
		return false
	}
	if (q.recheck || s.strictHosts) && !s.hostMatches(q) {
		return false
	}
	return s.sniMatches(q) && s.headersMatch(q) && s.regexMatches(q.path)
}

func (s *shape) hostMatches(q *target) bool {
	for i := range s.hosts {
		if s.hosts[i].matches(q) {
			return true
		}
	}
	return len(s.hosts) == 0
}

func (s *shape) sniMatches(q *target) bool {
	if len(s.snis) == 0 || !q.Secure {
		return true
	}
	for _, t := range s.snis {
		if q.sni != "" && t.matches(q.sni) {
			return true
		}
	}
	return false
}

func (s *shape) headersMatch(q *target) bool {
	for i := range s.headers {
		if !s.headers[i].matches(q.Fields) {
			return false
		}
	}
	return true
}

func (s *shape) regexMatches(path string) bool {
	if !s.weight.regex || s.broken {
		return true
	}
	for _, re := range s.regexes {
		if re.MatchString(path) {
			return true
		}
	}
	return false
}

// matched is the prefix that a rule matched; expressions are capture's.
func (r *rule) matched(path string) string {
	if len(r.prefixes) == 0 {
		return ""
	}
	return path[:r.weight.length]
}

// accepts says whether an expression is asked about a request of this scheme: a
// route for TLS only is, to answer that TLS is needed.
func (s *shape) accepts(q *target) bool {
	return s.schemes == bothSchemes || s.schemes == secureOnly || !q.Secure
}

// express notes what an expression has found.
func (m *Match) express(s *shape, q *target) {
	found := expr.Result{Captures: m.Captures[:0]}
	s.expr.Match(&q.asked, &found)
	m.MatchedPath, m.Captures = found.Path, found.Captures
}

// capture takes the groups of the first expression that matches.
func (m *Match) capture(s *shape) {
	for _, re := range s.regexes {
		at := re.FindStringSubmatchIndex(m.path)
		if at == nil {
			continue
		}
		for i, name := range re.SubexpNames() {
			if at[2*i] < 0 {
				continue
			}
			text := m.path[at[2*i]:at[2*i+1]]
			m.Captures = append(m.Captures, exchange.Capture{Name: strconv.Itoa(i), Value: text})
			if name != "" {
				m.Captures = append(m.Captures, exchange.Capture{Name: name, Value: text})
			}
		}
		m.MatchedPath = m.Captures[0].Value
		return
	}
}
