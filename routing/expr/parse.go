package expr

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"
)

// Limits of an expression.
const (
	MaxLength = 16 << 10 // bytes
	MaxDepth  = 100      // parentheses within each other
)

// Error says why a text is no expression.
type Error struct {
	Column int // in characters from 1; 0 when it is not about one place
	Reason string
}

func (e *Error) Error() string {
	if e.Column == 0 {
		return e.Reason
	}
	return "at character " + strconv.Itoa(e.Column) + ": " + e.Reason
}

// Expr is an expression. Immutable, safe for concurrent use.
type Expr struct {
	root   *node
	source string
}

// String is the expression as it was written.
func (e *Expr) String() string { return e.source }

type op uint8

const (
	and op = iota
	or
	not
	equal
	notEqual
	matches
	prefix
	suffix
	contains
	greater
	greaterEqual
	less
	lessEqual
	in
	notIn
)

// node is a logical operator over others, or a predicate.
type node struct {
	op   op
	a, b *node // b is nil for not

	field field
	lower bool // compare in lower case
	any   bool // one value of several is enough
	text  string
	num   int64
	ip    netip.Addr
	cidr  netip.Prefix
	re    *regexp.Regexp

	from, to int // where it stands in the source
}

// parser reads by recursive descent. It stops at the first thing that is wrong.
type parser struct {
	s     string
	at    int
	depth int
	err   *Error
}

// Parse reads an expression and checks its types. Errors are *Error.
func Parse(s string) (*Expr, error) {
	p := &parser{s: s}
	if len(s) > MaxLength {
		return nil, &Error{0, fmt.Sprintf("it is %d bytes long, at most %d are allowed", len(s), MaxLength)}
	}
	root := p.expression()
	if p.space(); p.err == nil && p.at < len(p.s) {
		p.fail("expected EOI, and_op, or or_op")
	}
	if p.err != nil {
		return nil, p.err
	}
	if err := check(root); err != nil {
		return nil, err
	}
	return &Expr{root, s}, nil
}

// fail notes what was expected here.
func (p *parser) fail(reason string) { p.failAt(p.at, reason) }

func (p *parser) failAt(at int, reason string) {
	if p.err == nil {
		p.err = &Error{len([]rune(p.s[:at])) + 1, reason}
	}
}

func (p *parser) space() {
	for p.at < len(p.s) && strings.IndexByte(" \t\r\n", p.s[p.at]) >= 0 {
		p.at++
	}
}

// accept takes a token.
func (p *parser) accept(token string) bool {
	p.space()
	if strings.HasPrefix(p.s[p.at:], token) {
		p.at += len(token)
		return true
	}
	return false
}

// expression reads terms joined by || and &&, which binds tighter.
func (p *parser) expression() *node {
	left := p.conjunction()
	for p.err == nil && p.accept("||") {
		right := p.conjunction()
		if p.err == nil {
			left = &node{op: or, a: left, b: right, from: left.from, to: right.to}
		}
	}
	return left
}

func (p *parser) conjunction() *node {
	left := p.term()
	for p.err == nil && p.accept("&&") {
		right := p.term()
		if p.err == nil {
			left = &node{op: and, a: left, b: right, from: left.from, to: right.to}
		}
	}
	return left
}

// term reads a predicate, or an expression in parentheses, which alone can be negated.
func (p *parser) term() *node {
	p.space()
	from := p.at
	negated := p.accept("!")
	if !p.accept("(") {
		if negated {
			p.failAt(from, "expected term (the ! needs parentheses)")
			return nil
		}
		return p.predicate()
	}
	if p.depth++; p.depth > MaxDepth {
		p.failAt(from, fmt.Sprintf("more than %d parentheses within each other", MaxDepth))
		return nil
	}
	n := p.expression()
	p.depth--
	if p.err == nil && !p.accept(")") {
		p.fail("expected and_op, or_op or )")
	}
	if p.err != nil {
		return nil
	}
	if negated {
		return &node{op: not, a: n, from: from, to: p.at}
	}
	return n
}

// predicate reads a comparison.
func (p *parser) predicate() *node {
	p.space()
	n := &node{from: p.at}
	name := p.operand(n)
	if p.err != nil {
		return nil
	}
	if n.field = fieldNamed(name); n.field.kind == unknown {
		// The comparison is read first: what does not parse at all is the nearer mistake.
		defer func() {
			if p.err == nil {
				p.err = &Error{0, "Unknown LHS field " + strconv.Quote(name)}
			}
		}()
	}
	if !p.operator(n) {
		p.fail("expected binary_operator")
		return nil
	}
	p.value(n)
	n.to = p.at
	return n
}

// operand reads a field, perhaps within functions.
func (p *parser) operand(n *node) string {
	open := 0
	for {
		p.space()
		from := p.at
		name := p.ident()
		if name == "" {
			p.fail("expected term")
			return ""
		}
		if !p.accept("(") {
			for range open {
				if !p.accept(")") {
					p.fail("expected )")
					return ""
				}
			}
			return name
		}
		switch name {
		case "lower":
			n.lower = true
		case "any":
			n.any = true
		default:
			p.failAt(from, "unknown function "+strconv.Quote(name)+"; lower and any are known")
			return ""
		}
		if open++; open > 8 {
			p.failAt(from, "too many functions within each other")
			return ""
		}
	}
}

// ident reads a name of letters, digits, underscores and dots, and of dashes where it is an
// argument's.
func (p *parser) ident() string {
	from := p.at
	for p.at < len(p.s) {
		c := p.s[p.at]
		if c|0x20 < 'a' || c|0x20 > 'z' {
			dash := c == '-' && strings.HasPrefix(p.s[from:p.at], "http.queries.")
			if p.at == from || c != '_' && c != '.' && !dash && (c < '0' || c > '9') {
				break
			}
		}
		p.at++
	}
	return p.s[from:p.at]
}

// operators in an order in which no one hides behind another that it begins with.
var operators = []struct {
	text string
	op   op
}{
	{"==", equal},
	{"!=", notEqual},
	{"=^", suffix},
	{"^=", prefix},
	{">=", greaterEqual},
	{">", greater},
	{"<=", lessEqual},
	{"<", less},
	{"~", matches},
	{"contains", contains},
	{"in", in},
}

func (p *parser) operator(n *node) bool {
	for _, o := range operators {
		if p.accept(o.text) {
			n.op = o.op
			return true
		}
	}
	from := p.at
	if p.accept("not") && p.accept("in") {
		n.op = notIn
		return true
	}
	p.at = from
	return false
}

// value reads what is compared with.
func (p *parser) value(n *node) {
	p.space()
	from := p.at
	rest := p.s[p.at:]
	switch {
	case rest == "":
		p.fail("expected rhs")
	case rest[0] == '"':
		n.text = p.quoted()
		n.field.given = text
	case strings.HasPrefix(rest, `r#"`):
		end := strings.Index(rest[3:], `"#`)
		if end < 0 {
			p.failAt(len(p.s), `expected "#`)
			return
		}
		n.text = rest[3 : 3+end]
		n.field.given = text
		p.at += 3 + end + 2
	default:
		p.number(n)
	}
	if p.err == nil && n.op == matches && n.field.given == text {
		p.compile(n, from)
	}
}

// quoted reads a text with escapes.
func (p *parser) quoted() string {
	var b strings.Builder
	for i := p.at + 1; i < len(p.s); i++ {
		switch c := p.s[i]; c {
		case '"':
			p.at = i + 1
			return b.String()
		case '\\':
			i++
			if i == len(p.s) {
				break
			}
			k := strings.IndexByte(`"\nrt`, p.s[i])
			if k < 0 {
				p.failAt(i, `expected one of the escapes \" \\ \n \r \t`)
				return ""
			}
			b.WriteByte("\"\\\n\r\t"[k])
		default:
			b.WriteByte(c)
		}
	}
	p.failAt(len(p.s), `expected "`)
	return ""
}

// number reads an integer, an address or a range of addresses.
func (p *parser) number(n *node) {
	from := p.at
	for p.at < len(p.s) && (p.s[p.at]|0x20 >= 'a' && p.s[p.at]|0x20 <= 'x' || p.s[p.at] >= '-' && p.s[p.at] <= ':') {
		p.at++
	}
	word := p.s[from:p.at]
	if strings.ContainsAny(word, ".:") || strings.Contains(word, "/") {
		p.address(n, from, word)
		return
	}
	v, err := strconv.ParseInt(word, 0, 64)
	switch {
	case errors.Is(err, strconv.ErrRange):
		p.failAt(from, "number too large to fit in target type")
	case err != nil || strings.Contains(word, "_"):
		p.failAt(from, "expected rhs (a text in double quotes, a number, an address or a range of addresses)")
	default:
		n.num, n.field.given = v, integer
	}
}

func (p *parser) address(n *node, from int, word string) {
	if a, err := netip.ParseAddr(word); err == nil && a.Zone() == "" {
		n.ip, n.field.given = a, address
		return
	}
	c, err := netip.ParsePrefix(word)
	if err != nil {
		p.failAt(from, "expected rhs: "+strconv.Quote(word)+" is no address and no range of addresses")
		return
	}
	n.cidr, n.field.given = c.Masked(), addresses
}

// compile makes the regular expression of a predicate.
func (p *parser) compile(n *node, from int) {
	// Go knows the name of a group in this form; the format's routers do not, and a
	// document has to mean the same to both.
	if strings.Contains(n.text, "(?<") {
		p.failAt(from, "regex parse error: groups are named (?P<name>...)")
		return
	}
	re, err := regexp.Compile(n.text)
	if err != nil {
		why := err.Error()
		var bad *syntax.Error
		if errors.As(err, &bad) {
			why = bad.Error()
		}
		p.failAt(from, "regex parse error: "+why)
		return
	}
	n.re = re
}
