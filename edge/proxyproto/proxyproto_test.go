package proxyproto_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/keyway-edge/keyway/edge/proxyproto"
)

const signature = "\r\n\r\n\x00\r\nQUIT\n"

// v2 makes a header of version 2.
func v2(command, family byte, rest string) string {
	return signature + string([]byte{command, family, byte(len(rest) >> 8), byte(len(rest))}) + rest
}

const (
	four = "\xc0\x00\x02\x01\xc6\x33\x64\x02\x30\x39\x01\xbb" // 192.0.2.1:12345, 198.51.100.2:443
	six  = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" + "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02" + "\x30\x39\x01\xbb"
)

// summed adds a checksum to addresses, right or wrong.
func summed(addresses string, wrong uint32) string {
	text := []byte(v2(0x21, 0x11, addresses+"\x03\x00\x04\x00\x00\x00\x00"))
	sum := crc32.Checksum(text, crc32.MakeTable(crc32.Castagnoli)) + wrong
	binary.BigEndian.PutUint32(text[len(text)-4:], sum)
	return string(text)
}

func TestHeaders(t *testing.T) {
	const then = "GET / HTTP/1.1\r\n"
	for name, c := range map[string]struct {
		header string
		source string // "" for unknown, "-" for malformed
	}{
		"1, IPv4":                   {"PROXY TCP4 192.0.2.1 198.51.100.2 12345 443\r\n", "192.0.2.1:12345"},
		"1, IPv6":                   {"PROXY TCP6 2001:db8::1 2001:db8::2 12345 443\r\n", "[2001:db8::1]:12345"},
		"1, unknown":                {"PROXY UNKNOWN\r\n", ""},
		"1, unknown with more":      {"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", ""},
		"1, longest":                {"PROXY UNKNOWN " + strings.Repeat("x", 107-16) + "\r\n", ""},
		"1, too long":               {"PROXY UNKNOWN " + strings.Repeat("x", 107-15) + "\r\n", "-"},
		"1, no line end":            {"PROXY TCP4 192.0.2.1 198.51.100.2 12345 443\n" + strings.Repeat("x", 100), "-"},
		"1, IPv6 as IPv4":           {"PROXY TCP4 2001:db8::1 2001:db8::2 12345 443\r\n", "-"},
		"1, IPv4 as IPv6":           {"PROXY TCP6 192.0.2.1 198.51.100.2 12345 443\r\n", "-"},
		"1, zone":                   {"PROXY TCP6 fe80::1%eth0 2001:db8::2 12345 443\r\n", "-"},
		"1, port with a zero":       {"PROXY TCP4 192.0.2.1 198.51.100.2 012345 443\r\n", "-"},
		"1, port with a sign":       {"PROXY TCP4 192.0.2.1 198.51.100.2 +1 443\r\n", "-"},
		"1, large port":             {"PROXY TCP4 192.0.2.1 198.51.100.2 65536 443\r\n", "-"},
		"1, two spaces":             {"PROXY TCP4  192.0.2.1 198.51.100.2 1 443\r\n", "-"},
		"1, too few":                {"PROXY TCP4 192.0.2.1 198.51.100.2 1\r\n", "-"},
		"1, lower case":             {"proxy TCP4 192.0.2.1 198.51.100.2 1 443\r\n", "-"},
		"1, UDP":                    {"PROXY UDP4 192.0.2.1 198.51.100.2 1 443\r\n", "-"},
		"2, IPv4":                   {v2(0x21, 0x11, four), "192.0.2.1:12345"},
		"2, IPv6":                   {v2(0x21, 0x21, six), "[2001:db8::1]:12345"},
		"2, mapped":                 {v2(0x21, 0x21, strings.Repeat("\x00", 10)+"\xff\xff\xc0\x00\x02\x01"+strings.Repeat("\x00", 16)+"\x00\x01\x00\x02"), "192.0.2.1:1"},
		"2, local":                  {v2(0x20, 0, ""), ""},
		"2, local with addresses":   {v2(0x20, 0x11, four), ""},
		"2, unspecified":            {v2(0x21, 0, "anything"[:0]), ""},
		"2, unix":                   {v2(0x21, 0x31, strings.Repeat("\x00", 216)), ""},
		"2, extensions":             {v2(0x21, 0x11, four+"\x01\x00\x02h2\x02\x00\x00"), "192.0.2.1:12345"},
		"2, checksum":               {summed(four, 0), "192.0.2.1:12345"},
		"2, wrong checksum":         {summed(four, 1), "-"},
		"2, short checksum":         {v2(0x21, 0x11, four+"\x03\x00\x01\x00"), "-"},
		"2, extension cut off":      {v2(0x21, 0x11, four+"\x01\x00\x09h2"), "-"},
		"2, extension's head alone": {v2(0x21, 0x11, four+"\x01\x00"), "-"},
		"2, addresses cut off":      {v2(0x21, 0x21, four), "-"},
		"2, another version":        {v2(0x11, 0x11, four), "-"},
		"2, another command":        {v2(0x22, 0x11, four), "-"},
		"2, another family":         {v2(0x21, 0x41, four), "-"},
		"2, too long":               {v2(0x21, 0x11, four+strings.Repeat("\x04\x00\x00", 700)), "-"},
		"none":                      {"", "-"},
	} {
		// Byte by byte too: a header may come in any number of segments.
		for _, r := range []io.Reader{strings.NewReader(c.header + then), iotest.OneByteReader(strings.NewReader(c.header + then))} {
			h, err := proxyproto.Read(r)
			if c.source == "-" {
				if !errors.Is(err, proxyproto.ErrMalformed) {
					t.Errorf("%s: %+v, %v; expected it refused", name, h, err)
				}
				continue
			}
			rest, _ := io.ReadAll(r)
			source := ""
			if h.Known() {
				source = h.Source.String()
			}
			if err != nil || source != c.source || string(rest) != then {
				t.Errorf("%s: source %s, %v, then %q", name, source, err, rest)
			}
		}
		if cut := len(c.header) - 1; cut > 0 && c.source != "-" {
			if _, err := proxyproto.Read(strings.NewReader(c.header[:cut])); err == nil {
				t.Errorf("%s: cut off and taken", name)
			}
		}
	}
}

// FuzzRead holds that nothing panics, and that no byte after a header is taken.
func FuzzRead(f *testing.F) {
	f.Add([]byte("PROXY TCP4 192.0.2.1 198.51.100.2 12345 443\r\n"))
	f.Add([]byte(v2(0x21, 0x11, four)))
	f.Add([]byte(summed(four, 0)))
	f.Fuzz(func(t *testing.T, text []byte) {
		whole := append(bytes.Clone(text), "then"...)
		r := bytes.NewReader(whole)
		if _, err := proxyproto.Read(r); err != nil {
			return
		}
		header := whole[:len(whole)-r.Len()]
		if _, err := proxyproto.Read(bytes.NewReader(header)); err != nil {
			t.Errorf("%q was taken, and is refused alone: %v", header, err)
		}
	})
}
