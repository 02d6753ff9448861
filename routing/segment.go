package routing

import (
	"iter"
	"strings"
)

// segment is a part of a raw path between two separators, escaped ones included.
type segment struct {
	text  string // fully decoded
	at    int    // byte offset of its first byte
	end   byte   // separator after it: '/', '\\', '#', or 0 at the end of the path
	coded bool   // one of the two separators is an escape
}

// What segments cuts at.
const (
	slashes            = "/"
	slashesBackslashes = "/\\"
)

// segments cuts a raw path at the separators, spelled out or escaped, the way a
// lenient reader behind could. A number sign ends the last segment.
func segments(path, separators string) iter.Seq[segment] {
	return func(yield func(segment) bool) {
		s := segment{at: 1}
		from := 1
		for i := 1; ; {
			sep, width := separator(path, i, separators)
			if width == 0 {
				i += step(path, i)
				continue
			}
			coded := width > 1
			s.text, s.end = decodeAll(path[from:i]), sep
			next := segment{at: i + width, coded: coded}
			s.coded = s.coded || coded
			if !yield(s) || sep == 0 || sep == '#' {
				return
			}
			s, i, from = next, i+width, i+width
		}
	}
}

// separator says which separator stands at i and how many bytes it takes; the
// end of the path is a separator 0 of one byte.
func separator(path string, i int, separators string) (sep byte, width int) {
	if i >= len(path) {
		return 0, 1
	}
	c := path[i]
	if c == '#' || strings.IndexByte(separators, c) >= 0 {
		return c, 1
	}
	if c == '%' {
		if d, ok := escaped(path, i); ok && strings.IndexByte(separators, d) >= 0 {
			return d, 3
		}
	}
	return 0, 0
}

// step is the width of the character at i: three for an escape.
func step(path string, i int) int {
	if path[i] == '%' {
		if _, ok := escaped(path, i); ok {
			return 3
		}
	}
	return 1
}

// decodeAll decodes every escape.
func decodeAll(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' {
			if c, ok := escaped(s, i); ok {
				b = append(b, c)
				i += 2
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}

// judgeStrictly refuses spellings that readers are known to disagree about.
func judgeStrictly(path string) *PathError {
	if i := strings.IndexAny(path, "\\#"); i >= 0 {
		if path[i] == '#' {
			return &PathError{At: i, Reason: "a number sign is not allowed in a request's path; escape it"}
		}
		return &PathError{At: i, Reason: "a backslash is not allowed; escape it"}
	}
	for s := range segments(path, slashesBackslashes) {
		name, _, params := strings.Cut(s.text, ";")
		if name != "." && name != ".." {
			continue
		}
		if params {
			return &PathError{At: s.at, Reason: "a dot segment with parameters is not allowed"}
		}
		if s.coded {
			return &PathError{At: s.at, Reason: "an escaped slash or backslash next to a dot segment is not allowed"}
		}
	}
	return nil
}

// form is one of the two forms of a path.
type form uint8

const (
	forMatching form = iota // escapes of reserved characters stay, in upper case
	forSending              // all escapes but those of unreserved characters stay as they are spelled
)

// decode decodes the escapes in a judged path that do not stay in that form.
func decode(path string, f form) string {
	if strings.IndexByte(path, '%') < 0 {
		return path
	}
	b := make([]byte, 0, len(path))
	for i := 0; i < len(path); i++ {
		if path[i] != '%' {
			b = append(b, path[i])
			continue
		}
		c, _ := escaped(path, i)
		switch {
		case f == forMatching && staysEscaped(c):
			b = append(b, '%', upper(path[i+1]), upper(path[i+2]))
		case f == forSending && class[c] != classPlain && class[c] != classDot:
			b = append(b, path[i:i+3]...)
		default:
			b = append(b, c)
		}
		i += 2
	}
	return string(b)
}

func upper(c byte) byte {
	if 'a' <= c && c <= 'f' {
		return c - 'a' + 'A'
	}
	return c
}

// flatten removes dot segments (RFC 3986, section 5.2.4) and merges slashes.
func flatten(path string) string {
	if !strings.Contains(path, "//") && !strings.Contains(path, "/.") {
		return path
	}
	b := make([]byte, 0, len(path))
	for i := 0; i < len(path); {
		j := i + 1
		for j < len(path) && path[j] != '/' {
			j++
		}
		switch segment := path[i:j]; segment {
		case "/", "/.", "/..":
			if segment == "/.." {
				b = b[:max(lastSlash(b), 0)]
			}
			if j == len(path) {
				b = append(b, '/')
			}
		default:
			b = append(b, segment...)
		}
		i = j
	}
	return string(b)
}

func lastSlash(b []byte) int {
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] == '/' {
			return i
		}
	}
	return -1
}
