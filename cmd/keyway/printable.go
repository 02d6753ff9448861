package main

import (
	"fmt"
	"io"
	"unicode/utf8"
)

// printable writes text for people to a terminal: what strangers named their objects must
// not move the cursor there, colour a line or look like one of its own. Line ends and tabs
// pass, other control characters and the separators of Unicode are shown as escapes.
type printable struct{ to io.Writer }

func (p printable) Write(text []byte) (int, error) {
	var out []byte // nil while nothing had to be changed
	from := 0
	for i := 0; i < len(text); {
		r, n := rune(text[i]), 1
		if r >= utf8.RuneSelf {
			r, n = utf8.DecodeRune(text[i:])
		}
		if moves(r) {
			out = fmt.Appendf(append(out, text[from:i]...), `\u%04x`, r)
			from = i + n
		}
		i += n
	}
	if out == nil {
		return p.to.Write(text)
	}
	if _, err := p.to.Write(append(out, text[from:]...)); err != nil {
		return 0, err
	}
	return len(text), nil
}

// moves says whether a character does something to a terminal or to a reader of lines.
func moves(r rune) bool {
	return r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' || r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069'
}
