package wire

import (
	"strings"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// tokenChars marks the characters of a token (RFC 9110, section 5.6.2).
var tokenChars = func() (t [256]bool) {
	for _, c := range "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" {
		t[c] = true
	}
	return t
}()

// hostChars marks the characters of a host name or address with port: unreserved,
// percent, sub-delims and colon (RFC 3986, section 3.2.2).
var hostChars = func() (t [256]bool) {
	for _, c := range "-._~%!$&'()*+;=:0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" {
		t[c] = true
	}
	return t
}()

// IsToken says whether s is a token: a method or a field name may be one only.
func IsToken(s string) bool {
	if s == "" {
		return false
	}
	for i := 0; i < len(s); i++ {
		if !tokenChars[s[i]] {
			return false
		}
	}
	return true
}

// IsTokenByte says whether a token may have b.
func IsTokenByte(b byte) bool { return tokenChars[b] }

// lowerToken is the lower case of a character of a token, 0 for others.
var lowerToken = func() (t [256]byte) {
	for c := range t {
		switch {
		case tokenChars[c] && 'A' <= c && c <= 'Z':
			t[c] = byte(c) | 0x20
		case tokenChars[c]:
			t[c] = byte(c)
		}
	}
	return t
}()

// AppendLower appends a token in lower case; ok is false for what is no token.
func AppendLower(dst []byte, s string) (_ []byte, ok bool) {
	for i := 0; i < len(s); i++ {
		c := lowerToken[s[i]]
		if c == 0 {
			return dst, false
		}
		dst = append(dst, c)
	}
	return dst, s != ""
}

// IsLowerToken says whether s is a token without upper-case letters: what names of HTTP/2
// and HTTP/3 are.
func IsLowerToken(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] == 0 || lowerToken[s[i]] != s[i] {
			return false
		}
	}
	return s != ""
}

// Most of what is looked at is plain text: eight bytes are looked at in one go, as a word.
const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// word is the first eight bytes of s.
func word(s string) uint64 {
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 | uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

// zeroes has one of highs set exactly if a byte of w is zero: if w is a text xored with
// eight times a character, if that is in the text.
func zeroes(w uint64) uint64 { return (w - ones) &^ w }

// controls has one of highs set exactly if a byte of w comes before the space.
func controls(w uint64) uint64 { return (w - ' '*ones) &^ w }

// Plain says whether s has no control character but tabs: what a field value may be.
func Plain(s string) bool {
	for len(s) >= 8 {
		w := word(s)
		if (controls(w)|zeroes(w^0x7f*ones))&highs != 0 && !plainBytes(s[:8]) {
			return false
		}
		s = s[8:]
	}
	return plainBytes(s)
}

func plainBytes(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// Verbatim says whether s is ASCII that may stand in a JSON string as it is: without
// control characters but DEL, quotes and backslashes.
func Verbatim(s string) bool {
	for len(s) >= 8 {
		w := word(s)
		if (w|controls(w)|zeroes(w^'"'*ones)|zeroes(w^'\\'*ones))&highs != 0 {
			return false
		}
		s = s[8:]
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= 0x80 {
			return false
		}
	}
	return true
}

// ValidHost says whether s can stand in a Host field: a name, an IPv4 address or
// an IPv6 address in brackets, with or without a port. User information, paths,
// spaces and lists cannot.
func ValidHost(s string) bool {
	if s == "" || len(s) > 255+6 {
		return false
	}
	name, port := s, ""
	if s[0] == '[' {
		i := strings.IndexByte(s, ']')
		if i < 2 || strings.Trim(s[1:i], "0123456789abcdefABCDEF:.") != "" {
			return false
		}
		name, port = "", s[i+1:]
	} else if i := strings.IndexByte(s, ':'); i >= 0 {
		name, port = s[:i], s[i:]
		if name == "" {
			return false
		}
	}
	for i := 0; i < len(name); i++ {
		if !hostChars[name[i]] || name[i] == ':' {
			return false
		}
	}
	if port == "" {
		return true
	}
	if port[0] != ':' || len(port) > 6 {
		return false
	}
	for i := 1; i < len(port); i++ {
		if !digit(port[i]) {
			return false
		}
	}
	return true
}

// hasToken says whether a comma list has the token t, parameters aside.
func hasToken(list, t string) bool {
	for v := range strings.SplitSeq(list, ",") {
		v, _, _ = strings.Cut(v, ";")
		if exchange.EqualFold(strings.Trim(v, " \t"), t) {
			return true
		}
	}
	return false
}

func isTokenList(list string) bool {
	for v := range strings.SplitSeq(list, ",") {
		v, _, _ = strings.Cut(v, ";")
		if !IsToken(strings.Trim(v, " \t")) {
			return false
		}
	}
	return true
}

// ContentLength reads the field as HTTP/2 and HTTP/3 have it: digits only, at most 18 of them.
func ContentLength(s string) (n int64, ok bool) {
	if s == "" || len(s) > 18 {
		return 0, false
	}
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n, true
}
