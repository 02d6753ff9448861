package routing

import (
	"fmt"
	"strings"
)

// Policy is how strict paths, host names and fields are read. The zero value
// is read as Strict.
type Policy string

// The policies.
const (
	// Strict refuses what two readers could read differently, and folds the case of hosts.
	Strict Policy = "strict"
	// Compatible does what the format's other implementation was recorded doing.
	Compatible Policy = "compatible"
)

// PathError says why a path is refused; the answer to it is status 400.
type PathError struct {
	Policy Policy
	At     int    // byte offset in the path as received
	Reason string // what is wrong, in words; never the path itself
}

// Error renders the refusal in one line.
func (e *PathError) Error() string {
	return fmt.Sprintf("path: byte %d: %s", e.At, e.Reason)
}

// Normalize brings the path of a request (without query) into the form in which
// routes are matched, or says why it is refused. The form is the same under
// both policies: every escape but those of reserved characters and of the
// percent sign (RFC 3986, sections 2.2 and 6.2.2) is decoded, the others are
// written in upper case, dot segments are removed and empty segments merged.
// It can hold bytes that no URI may and is for matching only: what is sent comes
// from [Match.UpstreamPath]. An empty path is "/". Applying it twice is applying
// it once. A path that is already normal is returned as it is.
func Normalize(p Policy, path string) (string, *PathError) {
	if path == "" {
		return "/", nil
	}
	if plain(path) {
		return path, nil
	}
	if path[0] == '?' && p == Compatible {
		// Why: an absolute target without a path ("http://a?x=1") was recorded to be
		// routed with its query in the place of the path.
		return path, nil
	}
	if err := judge(path); err != nil {
		err.Policy = p
		return "", err
	}
	if p != Compatible {
		if err := judgeStrictly(path); err != nil {
			err.Policy = Strict
			return "", err
		}
	}
	return flatten(decode(path, forMatching)), nil
}

// plain says that a path needs no work under any policy.
func plain(path string) bool {
	if path[0] != '/' {
		return false
	}
	slash := false
	for i := range len(path) {
		switch class[path[i]] {
		case classPlain, classReserved:
			slash = false
		case classSlash:
			if slash {
				return false
			}
			slash = true
		case classDot:
			// A name may begin with a dot, unless more dots or parameters follow.
			if slash && (i+1 == len(path) || class[path[i+1]] != classPlain) {
				return false
			}
			slash = false
		default:
			return false
		}
	}
	return true
}

// Classes of bytes in a path.
const (
	classOther    = iota // not allowed raw in a URI; sent escaped
	classPlain           // unreserved, but for the dot
	classDot             // .
	classSlash           // /
	classReserved        // reserved, RFC 3986 section 2.2, but for the slash and the number sign
	classPercent         // %
	classSpecial         // number sign and backslash
	classControl         // C0 and DEL
)

// class is the class of each byte.
var class = classes()

func classes() (t [256]uint8) {
	for c := range 256 {
		b := byte(c)
		switch {
		case b < 0x20 || b == 0x7f:
			t[c] = classControl
		case 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || strings.IndexByte("-_~", b) >= 0:
			t[c] = classPlain
		case b == '.':
			t[c] = classDot
		case b == '/':
			t[c] = classSlash
		case b == '%':
			t[c] = classPercent
		case b == '#' || b == '\\':
			t[c] = classSpecial
		case strings.IndexByte("!$&'()*+,:;=?@[]", b) >= 0:
			t[c] = classReserved
		}
	}
	return t
}

// staysEscaped says whether an escape of c stays one in the form that is
// matched: reserved characters, since decoding them could change the meaning,
// and C0 controls, so that no line can end in the form.
func staysEscaped(c byte) bool {
	switch class[c] {
	case classReserved, classSlash, classPercent:
		return true
	}
	return c == '#' || c < 0x20
}

// escaped reads the escape at s[i], which is a percent sign.
func escaped(s string, i int) (byte, bool) {
	if i+2 >= len(s) {
		return 0, false
	}
	high, ok1 := unhex(s[i+1])
	low, ok2 := unhex(s[i+2])
	return high<<4 | low, ok1 && ok2
}

func unhex(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// judge refuses what no policy lets through: raw control characters, broken
// escapes, NUL, and paths that climb above the root when every escape in them,
// also of slashes, is decoded.
func judge(path string) *PathError {
	if path[0] != '/' {
		return &PathError{Reason: "a path starts with a slash"}
	}
	for i := 0; i < len(path); i++ {
		switch class[path[i]] {
		case classControl:
			return &PathError{At: i, Reason: "a control character is not allowed; escape it"}
		case classPercent:
			c, ok := escaped(path, i)
			if !ok {
				return &PathError{At: i, Reason: "a percent sign starts an escape of two hexadecimal digits"}
			}
			if c == 0 {
				return &PathError{At: i, Reason: "an escaped NUL is not allowed"}
			}
			i += 2
		}
	}
	return climbs(path)
}

// climbs refuses dot segments that lead above the root, escapes decoded.
func climbs(path string) *PathError {
	depth := 0
	for s := range segments(path, slashes) {
		switch {
		case s.text == ".." && depth == 0:
			return &PathError{At: s.at, Reason: "the dot segments lead above the root"}
		case s.text == "..":
			depth--
		case s.text != "" && s.text != ".":
			depth++
		}
		if s.end == '#' {
			return nil
		}
	}
	return nil
}
