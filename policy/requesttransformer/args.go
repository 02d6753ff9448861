package requesttransformer

import (
	"slices"
	"strings"
)

// args is a query string or a form: pairs in order, duplicates kept.
type args struct {
	list []arg
}

type arg struct {
	key, value string
	bare       bool // written without '='
}

// parseArgs splits and decodes text; nothing in it is an error.
func parseArgs(text string) *args {
	a := new(args)
	for pair := range strings.SplitSeq(text, "&") {
		if pair == "" {
			continue
		}
		key, value, found := strings.Cut(pair, "=")
		a.list = append(a.list, arg{unescape(key), unescape(value), !found})
	}
	return a
}

// first is the first value of key as an expression sees it: "true" for a key without one.
func (a *args) first(key string) (string, bool) {
	i := a.index(key)
	if i < 0 {
		return "", false
	}
	if a.list[i].bare {
		return "true", true
	}
	return a.list[i].value, true
}

func (a *args) index(key string) int {
	return slices.IndexFunc(a.list, func(x arg) bool { return x.key == key })
}

func (a *args) remove(key string) bool {
	before := len(a.list)
	a.list = slices.DeleteFunc(a.list, func(x arg) bool { return x.key == key })
	return len(a.list) != before
}

// rename gives the pairs of from the key to, in place of any others of that key.
func (a *args) rename(from, to string) bool {
	if a.index(from) < 0 {
		return false
	}
	if from != to {
		a.remove(to)
		for i := range a.list {
			if a.list[i].key == from {
				a.list[i].key = to
			}
		}
	}
	return true
}

// replace makes value the only one of key, if key is there.
func (a *args) replace(key, value string) bool {
	i := a.index(key)
	if i < 0 {
		return false
	}
	a.list[i] = arg{key: key, value: value}
	rest := slices.DeleteFunc(a.list[i+1:], func(x arg) bool { return x.key == key })
	a.list = a.list[:i+1+len(rest)]
	return true
}

// add makes a pair of key, unless there is one.
func (a *args) add(key, value string) bool {
	if a.index(key) >= 0 {
		return false
	}
	a.list = append(a.list, arg{key: key, value: value})
	return true
}

// append makes one more pair of key, after the others of it; a key without a
// value counts as none.
func (a *args) append(key, value string) bool {
	last := -1
	for i, x := range a.list {
		if x.key == key {
			last = i
		}
	}
	switch {
	case last < 0:
		a.list = append(a.list, arg{key: key, value: value})
	case a.list[last].bare:
		a.list[last] = arg{key: key, value: value}
	default:
		a.list = slices.Insert(a.list, last+1, arg{key: key, value: value})
	}
	return true
}

// encode writes the pairs, escaped.
func (a *args) encode() string {
	var b strings.Builder
	for i, x := range a.list {
		if i > 0 {
			b.WriteByte('&')
		}
		escape(&b, x.key)
		if !x.bare {
			b.WriteByte('=')
			escape(&b, x.value)
		}
	}
	return b.String()
}

// sorted orders the pairs by key, each key's values in their order: what users of
// this format are used to for query strings that the plugin wrote.
func (a *args) sorted() *args {
	slices.SortStableFunc(a.list, func(x, y arg) int { return strings.Compare(x.key, y.key) })
	return a
}

// escape writes s with all but unreserved characters and !'()* percent-encoded.
func escape(b *strings.Builder, s string) {
	for i := range len(s) {
		c := s[i]
		if isWord(c) || strings.IndexByte("-.~!'()*", c) >= 0 {
			b.WriteByte(c)
		} else {
			percent(b, c)
		}
	}
}

func percent(b *strings.Builder, c byte) {
	const hex = "0123456789ABCDEF"
	b.Write([]byte{'%', hex[c>>4], hex[c&15]})
}

// unescape decodes plus signs and percent-encoding; what is malformed stays as it is.
func unescape(s string) string {
	if !strings.ContainsAny(s, "%+") {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '+':
			b = append(b, ' ')
		case s[i] == '%' && i+2 < len(s) && unhex(s[i+1]) >= 0 && unhex(s[i+2]) >= 0:
			b = append(b, byte(unhex(s[i+1])<<4|unhex(s[i+2])))
			i += 2
		default:
			b = append(b, s[i])
		}
	}
	return string(b)
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}

// safeValue makes text from a request fit for a field line: control characters,
// with which a client could write a field of its own, are percent-encoded.
func safeValue(s string) string {
	return escapeIf(s, func(_ string, c byte) bool { return c < ' ' && c != '\t' || c == 0x7f })
}

// safePath makes text from a request fit for a path: what ends a path or is no
// URI character is percent-encoded; escapes that are there already stay.
func safePath(s string) string {
	return escapeIf(s, func(rest string, c byte) bool {
		if c == '%' {
			return len(rest) < 3 || unhex(rest[1]) < 0 || unhex(rest[2]) < 0
		}
		return !isWord(c) && strings.IndexByte("-.~!$&'()*+,;=:@/", c) < 0
	})
}

// escapeIf percent-encodes the bytes for which must answers true; it is given the
// rest of the text from that byte on.
func escapeIf(s string, must func(rest string, c byte) bool) string {
	for i := range len(s) {
		if !must(s[i:], s[i]) {
			continue
		}
		var b strings.Builder
		b.WriteString(s[:i])
		for j := i; j < len(s); j++ {
			if must(s[j:], s[j]) {
				percent(&b, s[j])
			} else {
				b.WriteByte(s[j])
			}
		}
		return b.String()
	}
	return s
}
