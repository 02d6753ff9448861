package expr

import (
	"regexp/syntax"
	"strings"
)

// maxFacts is how many alternatives are worth knowing.
const maxFacts = 64

// Host is a condition on the host that is necessary for a match.
type Host struct {
	Text string // in lower case
	Kind HostKind
}

// HostKind is how a Host is compared.
type HostKind uint8

// The kinds.
const (
	Whole HostKind = iota
	EndsWith
	StartsWith
)

// Hosts are alternatives, one of which the host of every request that matches
// fulfils, whatever its case; nil if there are none or too many to tell.
func (e *Expr) Hosts() []Host {
	list, ok := facts(e.root, func(n *node) (Host, bool) {
		if n.field.kind != host {
			return Host{}, false
		}
		t := strings.ToLower(n.text)
		switch n.op {
		case equal:
			return Host{t, Whole}, true
		case suffix:
			return Host{t, EndsWith}, true
		case prefix:
			return Host{t, StartsWith}, true
		}
		return Host{}, false
	})
	if !ok {
		return nil
	}
	return list
}

// Paths are alternatives, one of which the path of every request that matches begins
// with; nil if there are none or too many to tell.
func (e *Expr) Paths() []string {
	list, ok := facts(e.root, func(n *node) (string, bool) {
		if n.field.kind != path || n.lower {
			return "", false
		}
		switch n.op {
		case equal, prefix:
			return n.text, n.text != ""
		case matches:
			t := literal(n.text)
			return t, t != ""
		}
		return "", false
	})
	if !ok {
		return nil
	}
	return list
}

// facts collects what one side of each conjunction and both of each alternative say.
func facts[T comparable](n *node, of func(*node) (T, bool)) ([]T, bool) {
	switch n.op {
	case and:
		a, okA := facts(n.a, of)
		b, okB := facts(n.b, of)
		if okA && (!okB || len(a) <= len(b)) {
			return a, true
		}
		return b, okB
	case or:
		a, okA := facts(n.a, of)
		b, okB := facts(n.b, of)
		if !okA || !okB || len(a)+len(b) > maxFacts {
			return nil, false
		}
		return append(a, b...), true
	case not:
		return nil, false
	}
	f, ok := of(n)
	if !ok {
		return nil, false
	}
	return []T{f}, true
}

// literal is what every text that a pattern matches begins with, "" if unknown.
func literal(pattern string) string {
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return ""
	}
	if re = re.Simplify(); re.Op != syntax.OpConcat || re.Sub[0].Op != syntax.OpBeginText {
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

// Why says, of a request that does not match, which part is false: the first of
// those that would all have to be true.
func (e *Expr) Why(r *Request) string {
	n := e.root
	for n.op == and {
		if !n.a.match(r, nil) {
			n = n.a
		} else {
			n = n.b
		}
	}
	return e.source[n.from:n.to]
}
