package expr

import (
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// Request is what of a request an expression can ask for.
type Request struct {
	Protocol string // "http", "https"; of streams "tcp", "tls", "udp"
	Method   string
	Host     string // without port
	Path     string // normalised, without query; it begins with a slash
	RawQuery string // as sent, without '?'
	SNI      string // "" for none
	Fields   *exchange.Fields
	Src, Dst netip.AddrPort
}

// Result is what a match has found of the path. The zero value is ready to use.
type Result struct {
	// Path is the part of the path that the last predicate about it has matched: its
	// text if it is equal, its prefix, its suffix or what its regular expression found; "" if there is none.
	Path string
	// Captures are the groups of regular expressions that matched: numbers first, "0"
	// for all, then names. Those of a later predicate take the place of equal ones.
	Captures []exchange.Capture
}

// Match says whether the expression is true of r. What it finds is noted in res,
// unless that is nil.
func (e *Expr) Match(r *Request, res *Result) bool { return e.root.match(r, res) }

func (n *node) match(r *Request, res *Result) bool {
	switch n.op {
	case and:
		return n.a.match(r, res) && n.b.match(r, res)
	case or:
		return n.a.match(r, res) || n.b.match(r, res)
	case not:
		return !n.a.match(r, res)
	}
	return n.holds(r, res)
}

// holds judges a predicate. A field that the request does not have fulfils none.
func (n *node) holds(r *Request, res *Result) bool {
	switch f := &n.field; f.kind {
	case protocol:
		return n.text1(r.Protocol, res)
	case serverName:
		return r.SNI != "" && n.text1(r.SNI, res)
	case method:
		return n.text1(r.Method, res)
	case host:
		return n.text1(r.Host, res)
	case path:
		return n.text1(r.Path, res)
	case segment:
		s, ok := cutSegments(r.Path, f.first, f.last)
		return ok && n.text1(s, res)
	case segments:
		return n.number(int64(countSegments(r.Path)))
	case header:
		return n.headers(r, res)
	case query:
		return n.queries(r, res)
	case srcIP:
		return n.address(r.Src.Addr())
	case dstIP:
		return n.address(r.Dst.Addr())
	case srcPort:
		return r.Src.IsValid() && n.number(int64(r.Src.Port()))
	case dstPort:
		return r.Dst.IsValid() && n.number(int64(r.Dst.Port()))
	}
	return false
}

// text1 compares one text.
func (n *node) text1(v string, res *Result) bool {
	if n.lower {
		v = strings.ToLower(v)
	}
	switch n.op {
	case equal:
		return v == n.text && n.note(res)
	case notEqual:
		return v != n.text
	case prefix:
		return strings.HasPrefix(v, n.text) && n.note(res)
	case suffix:
		return strings.HasSuffix(v, n.text) && n.note(res)
	case contains:
		return strings.Contains(v, n.text)
	case matches:
		if res == nil {
			return n.re.MatchString(v)
		}
		return n.search(v, res)
	}
	return false
}

// note keeps what a predicate about the path has matched.
func (n *node) note(res *Result) bool {
	if res != nil && n.field.kind == path {
		res.Path = n.text
	}
	return true
}

// search is a regular expression's match with its groups.
func (n *node) search(v string, res *Result) bool {
	at := n.re.FindStringSubmatchIndex(v)
	if at == nil {
		return false
	}
	if n.field.kind == path {
		res.Path = v[at[0]:at[1]]
	}
	for i, name := range n.re.SubexpNames() {
		if at[2*i] < 0 {
			continue
		}
		group := v[at[2*i]:at[2*i+1]]
		res.capture(strconv.Itoa(i), group)
		if name != "" {
			res.capture(name, group)
		}
	}
	return true
}

func (res *Result) capture(name, value string) {
	for i := range res.Captures {
		if res.Captures[i].Name == name {
			res.Captures[i].Value = value
			return
		}
	}
	res.Captures = append(res.Captures, exchange.Capture{Name: name, Value: value})
}

// several gathers the verdicts over the values of a field: all must fulfil the
// predicate, or with any() one.
type several struct {
	n     *node
	count int
	hit   bool // any: one fulfilled it
	miss  bool // all: one did not
}

func (s *several) value(v string, res *Result) (more bool) {
	s.count++
	if s.n.text1(v, res) {
		s.hit = true
		return !s.n.any
	}
	s.miss = true
	return s.n.any
}

func (s *several) verdict() bool {
	if s.n.any {
		return s.hit
	}
	return s.count > 0 && !s.miss
}

// headers judges the lines of a field. A name with underscores means the field of
// just that name, and if there is none the one with dashes.
func (n *node) headers(r *Request, res *Result) bool {
	if r.Fields == nil {
		return false
	}
	name := n.field.name
	if n.field.plain != "" && !r.Fields.Has(name) {
		name = n.field.plain
	}
	s := several{n: n}
	for i := range r.Fields.Len() {
		f := r.Fields.At(i)
		if exchange.EqualFold(f.Name, name) && !s.value(f.Value, res) {
			break
		}
	}
	return s.verdict()
}

// maxArguments is how many arguments of a query are looked at.
const maxArguments = 100

// queries judges the values of an argument; one without a value has the empty text.
func (n *node) queries(r *Request, res *Result) bool {
	s := several{n: n}
	rest := r.RawQuery
	for range maxArguments {
		if rest == "" {
			break
		}
		var one string
		one, rest, _ = strings.Cut(rest, "&")
		name, value, _ := strings.Cut(one, "=")
		if unescape(name) == n.field.name && one != "" && !s.value(unescape(value), res) {
			break
		}
	}
	return s.verdict()
}

// unescape decodes; what is no escape stands for itself.
func unescape(s string) string {
	if strings.IndexByte(s, '%') < 0 && strings.IndexByte(s, '+') < 0 {
		return s
	}
	if v, err := url.QueryUnescape(s); err == nil {
		return v
	}
	return s
}

func (n *node) number(v int64) bool {
	switch n.op {
	case equal:
		return v == n.num
	case notEqual:
		return v != n.num
	case greater:
		return v > n.num
	case greaterEqual:
		return v >= n.num
	case less:
		return v < n.num
	case lessEqual:
		return v <= n.num
	}
	return false
}

func (n *node) address(a netip.Addr) bool {
	if !a.IsValid() {
		return false
	}
	a = a.Unmap().WithZone("")
	switch n.op {
	case equal:
		return a == n.ip
	case notEqual:
		return a != n.ip
	case in:
		return n.cidr.Contains(a)
	case notIn:
		return !n.cidr.Contains(a)
	}
	return false
}

// countSegments counts what stands between slashes; one at the end begins none.
func countSegments(p string) int {
	p = strings.TrimSuffix(strings.TrimPrefix(p, "/"), "/")
	if p == "" {
		return 0
	}
	return strings.Count(p, "/") + 1
}

// cutSegments is the text from segment first to segment last, without slashes around it.
func cutSegments(p string, first, last int) (string, bool) {
	p = strings.TrimSuffix(strings.TrimPrefix(p, "/"), "/")
	for range first {
		i := strings.IndexByte(p, '/')
		if i < 0 {
			return "", false
		}
		p = p[i+1:]
	}
	end := 0
	for k := first; k <= last; k++ {
		i := strings.IndexByte(p[end:], '/')
		if i < 0 {
			return p, k == last && p != ""
		}
		end += i + 1
	}
	return p[:end-1], true
}
