package proxyproto

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
)

func TestAppendIsRead(t *testing.T) {
	for _, c := range []struct{ from, to, want string }{
		{"192.0.2.1:5", "198.51.100.2:443", "192.0.2.1:5 198.51.100.2:443"},
		{"[2001:db8::1]:65535", "[2001:db8::2]:1", "[2001:db8::1]:65535 [2001:db8::2]:1"},
		{"[::ffff:192.0.2.1]:5", "198.51.100.2:443", "192.0.2.1:5 198.51.100.2:443"},
		{"192.0.2.1:5", "[2001:db8::2]:443", "unknown"},
	} {
		for version := 1; version <= 2; version++ {
			for _, name := range []string{"", "a.test", strings.Repeat("x", 255), strings.Repeat("x", 256)} {
				in := Introduction{Source: netip.MustParseAddrPort(c.from), Destination: netip.MustParseAddrPort(c.to), Authority: name, ALPN: "h2"}
				b := Append([]byte("before"), version, in)
				r := bytes.NewReader(append(b[len("before"):], "after"...))
				h, err := Read(r)
				if err != nil {
					t.Errorf("version %d, %s to %s: %v", version, c.from, c.to, err)
					continue
				}
				got := "unknown"
				if h.Known() {
					got = h.Source.String() + " " + h.Destination.String()
				}
				if got != c.want || h.Version != version || r.Len() != len("after") {
					t.Errorf("version %d, %s to %s: %s, version %d, %d bytes left", version, c.from, c.to, got, h.Version, r.Len())
				}
			}
		}
	}
}

func TestAppendExtensions(t *testing.T) {
	b := Append(nil, 2, Introduction{
		Source: netip.MustParseAddrPort("192.0.2.1:5"), Destination: netip.MustParseAddrPort("192.0.2.2:443"), Authority: "a.test", ALPN: "h2", Datagram: true,
	})
	if b[13] != 0x12 {
		t.Errorf("family %#x, want datagrams of IPv4", b[13])
	}
	if !bytes.Contains(b, []byte("\x01\x00\x02h2\x02\x00\x06a.test\x03\x00\x04")) {
		t.Errorf("extensions in %x", b)
	}
	b[len(b)-20] ^= 1
	if _, err := Read(bytes.NewReader(b)); err == nil {
		t.Error("the checksum guards nothing")
	}
}
