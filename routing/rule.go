package routing

import (
	"errors"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/routing/expr"
	"github.com/keyway-edge/keyway/routing/spec"
)

// shape is a rule: one group of one route's paths together with the route's
// other conditions, compiled. Immutable; tables made from equal routes share it.
type shape struct {
	weight   weight
	priority uint64
	id       string // breaks ties: higher first

	methods     []string
	hosts       []hostTest
	strictHosts bool     // a host has a port or a capital: being in the bucket is not enough
	paths       []string // the group as the document has it
	prefixes    []string // the group, if it is one of prefixes
	regexes     []*regexp.Regexp
	literal     string // what every path that regexes match begins with
	headers     []headerTest
	snis        []nameTest
	broken      bool // an expression does not compile: literal stands for it

	expr    *expr.Expr // says it all, and hosts and prefixes only lead to it; nil for none
	schemes schemes    // of expr's route
}

// schemes are those that a route speaks.
type schemes uint8

const (
	bothSchemes schemes = iota
	secureOnly
	clearOnly
)

// nameTest is a name, or a name whose first or last label is any.
type nameTest struct {
	text string   // without the star, with the dot
	kind nameKind // how text is compared
}

type nameKind uint8

const (
	whole nameKind = iota
	endsWith
	startsWith
)

func newNameTest(name string) nameTest {
	switch {
	case strings.HasPrefix(name, "*"):
		return nameTest{name[1:], endsWith}
	case strings.HasSuffix(name, "*"):
		return nameTest{name[:len(name)-1], startsWith}
	}
	return nameTest{name, whole}
}

func (t nameTest) matches(name string) bool {
	switch t.kind {
	case endsWith:
		return strings.HasSuffix(name, t.text)
	case startsWith:
		return strings.HasPrefix(name, t.text)
	}
	return name == t.text
}

// hostTest is one of a route's hosts; port is 0 for any.
type hostTest struct {
	nameTest
	folded string // text in lower case
	port   int
}

func newHostTest(host string) hostTest {
	name, port := splitPort(host)
	t := newNameTest(name)
	return hostTest{t, strings.ToLower(t.text), port}
}

func (t *hostTest) matches(q *target) bool {
	if t.port != 0 && t.port != q.port {
		return false
	}
	if q.sameCase {
		return t.nameTest.matches(q.host)
	}
	return nameTest{t.folded, t.kind}.matches(q.folded)
}

// splitPort cuts a numeric port off; an address in brackets keeps its colons.
func splitPort(host string) (string, int) {
	i := strings.LastIndexByte(host, ':')
	if i < 0 || host[0] != '[' && strings.IndexByte(host, ':') != i || strings.IndexByte(host[i:], ']') >= 0 {
		return host, 0
	}
	port, err := strconv.Atoi(host[i+1:])
	if err != nil || port < 0 {
		return host, 0
	}
	return host[:i], port
}

// headerTest is met by a field line called name whose value is one of values, or
// that one of regexes finds something in; the case of values does not count.
type headerTest struct {
	name    string
	values  []string
	regexes []*regexp.Regexp
}

func (t *headerTest) matches(f *exchange.Fields) bool {
	if f == nil {
		return false
	}
	for i := range f.Len() {
		line := f.At(i)
		if !exchange.EqualFold(line.Name, t.name) {
			continue
		}
		for _, v := range t.values {
			if exchange.EqualFold(v, line.Value) {
				return true
			}
		}
		for _, re := range t.regexes {
			if re.MatchString(line.Value) {
				return true
			}
		}
	}
	return false
}

// shapesOf compiles a route to its rules. With a problem the rules still claim
// the requests that the route as written could have meant, so that these answer
// 503 and do not fall through to a route without this one's plugins.
func shapesOf(r *spec.Route) ([]*shape, *spec.Problem) {
	if r.Expression != "" {
		return expressionShape(r)
	}
	base := shape{methods: r.Methods}
	for _, h := range r.Hosts {
		t := newHostTest(h)
		base.strictHosts = base.strictHosts || t.port != 0 || t.text != t.folded
		base.hosts = append(base.hosts, t)
	}
	for _, s := range r.SNIs {
		base.snis = append(base.snis, newNameTest(strings.ToLower(strings.TrimSuffix(s, "."))))
	}
	headers, problem := headerTests(r)
	base.headers, base.broken = headers, problem != nil
	groups := grouped(r.Paths)
	shapes := make([]*shape, len(groups))
	for i, group := range groups {
		s := base
		s.id = r.ID
		if len(groups) > 1 {
			s.id = partID(r.ID, i+1)
		}
		s.paths, s.weight = group, weigh(r, group)
		s.priority = s.weight.priority()
		if !s.weight.regex {
			s.prefixes = group
		} else if p := s.expressions(r, group); p != nil && problem == nil {
			problem = p
		}
		shapes[i] = &s
	}
	return shapes, problem
}

// expressions compiles a group of paths that are expressions.
func (s *shape) expressions(r *spec.Route, group []string) *spec.Problem {
	var problem *spec.Problem
	for i, path := range group {
		pattern := "^" + path[1:]
		literal := literalPrefix(pattern)
		if i == 0 {
			s.literal = literal
		}
		s.literal = s.literal[:shared(s.literal, literal)]
		re, err := regexp.Compile(pattern)
		if err != nil {
			s.broken = true
			problem = broken(r, "paths."+strconv.Itoa(slices.Index(r.Paths, path)+1), err)
			continue
		}
		s.regexes = append(s.regexes, re)
	}
	return problem
}

// headerTests compiles a route's headers in order of their names.
func headerTests(r *spec.Route) ([]headerTest, *spec.Problem) {
	var tests []headerTest
	var problem *spec.Problem
	for name, values := range r.Headers {
		t, bad := headerTest{name: name}, false
		for _, v := range values {
			pattern, ok := strings.CutPrefix(v, "~*")
			if !ok {
				t.values = append(t.values, v)
				continue
			}
			re, err := regexp.Compile("(?i)" + pattern)
			if err != nil {
				problem, bad = broken(r, "headers."+name, err), true
				continue
			}
			t.regexes = append(t.regexes, re)
		}
		// A header that cannot be judged whole is left out: that claims more, not less.
		if !bad {
			tests = append(tests, t)
		}
	}
	slices.SortFunc(tests, func(a, b headerTest) int { return strings.Compare(a.name, b.name) })
	return tests, problem
}

func broken(r *spec.Route, field string, err error) *spec.Problem {
	why := "it cannot be parsed"
	var bad *syntax.Error
	if errors.As(err, &bad) {
		why = bad.Error()
	}
	return &spec.Problem{
		Pos: r.Pos, Entity: "routes", ID: r.ID, Name: r.Name, Field: field, Reason: spec.ReasonCompile,
		Message: "expected a regular expression in RE2 syntax: " + why + "; the route answers 503 until it is corrected",
	}
}

// literalPrefix is what every text that an anchored pattern matches begins
// with, "" if that is unknown. Of a pattern that does not parse it is the text
// before the first character that could have a meaning.
func literalPrefix(pattern string) string {
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		text := pattern[1:]
		if i := strings.IndexAny(text, `\.+*?()|[]{}^$`); i >= 0 {
			// A quantifier makes the character before it optional.
			text = text[:max(i-1, 0)]
		}
		if strings.IndexByte(pattern, '|') >= 0 {
			return ""
		}
		return text
	}
	re = re.Simplify()
	if re.Op != syntax.OpConcat || re.Sub[0].Op != syntax.OpBeginText {
		return ""
	}
	var b strings.Builder
	for _, sub := range re.Sub[1:] {
		if sub.Op != syntax.OpLiteral || sub.Flags&syntax.FoldCase != 0 {
			break
		}
		b.WriteString(string(sub.Rune))
	}
	return b.String()
}

// shared is the number of bytes that a and b have in common at their beginning.
func shared(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}
