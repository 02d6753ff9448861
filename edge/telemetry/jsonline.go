package telemetry

import (
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/keyway-edge/keyway/edge/exchange/wire"
	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/secrets"
)

// object is a JSON object on one line that is being written, as slog's handler would
// write it. The access log has a line for each request, and a handler for any record
// costs more than the router, the plugins and the encryption of a small response
// together.
type object []byte

// Fields begin with their key as it stands in the line, the comma before it included: a line
// has thirty of them, and each piece that is appended costs as much as a short text.

// text writes a string, whose quotes are begun by the key.
func (o *object) text(key, value string) {
	*o = append(appendEscaped(append(*o, key...), value), '"')
}

// number writes a number.
func (o *object) number(key string, n int64) {
	*o = strconv.AppendInt(append(*o, key...), n, 10)
}

// address writes an address as a text.
func (o *object) address(key string, a netip.Addr) {
	if a.Zone() != "" || !a.IsValid() {
		o.text(key, a.String()) // a zone is any text
		return
	}
	*o = append(a.AppendTo(append(*o, key...)), '"')
}

// time writes a time as a text.
func (o *object) time(key string, t time.Time, s *stamp) {
	*o = append(s.append(append(*o, key...), t), '"')
}

// stamp writes times as time.RFC3339Nano has them. It keeps the text of a second: there
// are thousands of lines in each.
type stamp struct {
	second     int64
	head, zone []byte
}

func (s *stamp) append(b []byte, t time.Time) []byte {
	if second := t.Unix(); second != s.second || len(s.head) == 0 {
		s.second = second
		s.head = t.AppendFormat(s.head[:0], "2006-01-02T15:04:05")
		s.zone = t.AppendFormat(s.zone[:0], "Z07:00")
	}
	b = append(b, s.head...)
	if ns := t.Nanosecond(); ns != 0 {
		at := len(b)
		b = append(b, ".000000000"...)
		for i := at + 9; ns > 0; i-- {
			b[i] = byte('0' + ns%10)
			ns /= 10
		}
		for b[len(b)-1] == '0' {
			b = b[:len(b)-1]
		}
	}
	return append(b, s.zone...)
}

// millis writes a duration in milliseconds, to the microsecond.
func (o *object) millis(key string, d time.Duration) {
	b, us := append(*o, key...), d.Microseconds()
	if us < 0 {
		b, us = append(b, '-'), -us
	}
	b = strconv.AppendInt(b, us/1000, 10)
	if part := us % 1000; part != 0 {
		b = append(b, '.', byte('0'+part/100), byte('0'+part/10%10), byte('0'+part%10))
		for b[len(b)-1] == '0' {
			b = b[:len(b)-1]
		}
	}
	*o = b
}

// versions writes which versions of credentials were sent.
func (o *object) versions(key string, list []*secrets.Credential) {
	b := append(*o, key...)
	for i, s := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendEscaped(append(b, '"'), s.Name), '@')
		b = append(strconv.AppendInt(b, int64(s.Version), 10), '"')
	}
	*o = append(b, ']')
}

// credential writes by what a request was known.
func (o *object) credential(key string, id *policy.Identity) {
	b := append(appendEscaped(append(*o, key...), id.Plugin), ':')
	b = append(appendEscaped(b, id.ID), '@')
	*o = append(strconv.AppendInt(b, int64(id.Version), 10), '"')
}

// appendEscaped writes what may stand in a JSON string on one line (RFC 8259, section 7):
// quotes, backslashes and control characters are escaped, what is not UTF-8 becomes U+FFFD,
// and so are the two separators that some readers take for the end of a line.
func appendEscaped(b []byte, s string) []byte {
	if wire.Verbatim(s) { // as nearly all that is logged is
		return append(b, s...)
	}
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		r, size := rune(c), 1
		if c >= utf8.RuneSelf {
			if r, size = utf8.DecodeRuneInString(s[i:]); (r != utf8.RuneError || size > 1) && r != 0x2028 && r != 0x2029 {
				i += size
				continue
			}
		}
		b = append(b, s[from:i]...)
		b = appendEscape(b, r)
		i += size
		from = i
	}
	return append(b, s[from:]...)
}

// appendEscape writes the escape of one character.
func appendEscape(b []byte, r rune) []byte {
	const digits = "0123456789abcdef"
	switch r {
	case '"', '\\':
		return append(b, '\\', byte(r))
	case '\n':
		return append(b, `\n`...)
	case '\r':
		return append(b, `\r`...)
	case '\t':
		return append(b, `\t`...)
	case utf8.RuneError:
		return append(b, `\ufffd`...)
	}
	return append(b, '\\', 'u', digits[r>>12&15], digits[r>>8&15], digits[r>>4&15], digits[r&15])
}
