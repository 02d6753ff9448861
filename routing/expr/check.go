package expr

import (
	"strconv"
	"strings"
)

// kind is what a field is taken from.
type kind uint8

const (
	unknown kind = iota
	protocol
	serverName
	method
	host
	path
	segment  // some segments of the path
	segments // how many there are
	header
	query
	srcIP
	srcPort
	dstIP
	dstPort
)

// valueType is what values are compared as.
type valueType uint8

const (
	text valueType = iota + 1
	integer
	address
	addresses // a range
)

// field is what a predicate looks at, and the type of what it is compared with.
type field struct {
	kind        kind
	name        string // of a header or an argument
	plain       string // a header's name with dashes, "" if that is the same
	first, last int    // segments
	given       valueType
}

var fields = map[string]kind{
	"net.protocol": protocol, "tls.sni": serverName, "http.method": method, "http.host": host, "http.path": path,
	"http.path.segments.len": segments, "net.src.ip": srcIP, "net.src.port": srcPort, "net.dst.ip": dstIP, "net.dst.port": dstPort,
	"net.port": dstPort,
}

// fieldNamed resolves a name.
func fieldNamed(name string) field {
	if k := fields[name]; k != unknown {
		return field{kind: k}
	}
	if n, ok := strings.CutPrefix(name, "http.headers."); ok && n != "" {
		n = strings.ToLower(n)
		f := field{kind: header, name: n}
		if dashed := strings.ReplaceAll(n, "_", "-"); dashed != n {
			f.plain = dashed
		}
		return f
	}
	if n, ok := strings.CutPrefix(name, "http.queries."); ok && n != "" {
		return field{kind: query, name: n}
	}
	if n, ok := strings.CutPrefix(name, "http.path.segments."); ok {
		a, b, two := strings.Cut(n, "_")
		first, ok1 := index(a)
		last, ok2 := first, true
		if two {
			last, ok2 = index(b)
		}
		if ok1 && ok2 && first <= last {
			return field{kind: segment, first: first, last: last}
		}
	}
	return field{}
}

// index reads the number of a segment: at most four digits.
func index(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return int(n), err == nil && len(s) <= 4
}

func (f *field) valueType() valueType {
	switch f.kind {
	case segments, srcPort, dstPort:
		return integer
	case srcIP, dstIP:
		return address
	}
	return text
}

// check judges the types of every predicate.
func check(n *node) error {
	if n.op <= not {
		if err := check(n.a); err != nil || n.b == nil {
			return err
		}
		return check(n.b)
	}
	is, given := n.field.valueType(), n.field.given
	switch n.op {
	case in, notIn:
		if is != address || given != addresses {
			return &Error{0, "In/NotIn operators only supports IP in CIDR"}
		}
		return nil
	case greater, greaterEqual, less, lessEqual:
		if is != given {
			break
		}
		if is != integer {
			return &Error{0, "Greater/GreaterOrEqual/Lesser/LesserOrEqual operators only supports integer operands"}
		}
	case matches, prefix, suffix, contains:
		if is == given && is != text {
			return &Error{0, "Regex/Prefix/Postfix/Contains operators only supports string operands"}
		}
	}
	if is != given {
		return &Error{0, "Type mismatch between the LHS and RHS values of predicate"}
	}
	if n.lower && is != text {
		return &Error{0, "lower-case transformation function only supported with String type fields"}
	}
	return nil
}
