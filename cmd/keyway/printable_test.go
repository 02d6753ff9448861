package main

import (
	"errors"
	"strings"
	"testing"
)

func TestPrintable(t *testing.T) {
	for text, want := range map[string]string{
		"":                                "",
		"a b\tc\n":                        "a b\tc\n",
		"grüße, 日本, \xff\xe2":             "grüße, 日本, \xff\xe2",
		"\x1b[2J\r\n":                     `\u001b[2J\u000d` + "\n",
		"a\u2028b\u2029\u0085\x7f\x00":    `a\u2028b\u2029\u0085\u007f\u0000`,
		"\u202eevil\u202c, \u2066x\u2069": `\u202eevil\u202c, \u2066x\u2069`,
	} {
		var out strings.Builder
		if n, err := (printable{&out}).Write([]byte(text)); out.String() != want || n != len(text) || err != nil {
			t.Errorf("%q is written as %q (%d, %v), want %q", text, out.String(), n, err, want)
		}
	}
	for _, text := range []string{"x", "\x1b"} {
		if _, err := (printable{full{}}).Write([]byte(text)); err == nil {
			t.Errorf("%q: an error is swallowed", text)
		}
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("full") }
