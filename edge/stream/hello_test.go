package stream

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// memory is a connection that reads from one buffer and writes to another.
type memory struct {
	net.Conn
	in  io.Reader
	out bytes.Buffer
}

func (m *memory) Read(p []byte) (int, error)       { return m.in.Read(p) }
func (m *memory) Write(p []byte) (int, error)      { return m.out.Write(p) }
func (m *memory) Close() error                     { return nil }
func (m *memory) SetDeadline(time.Time) error      { return nil }
func (m *memory) SetWriteDeadline(time.Time) error { return nil }
func (m *memory) SetReadDeadline(time.Time) error  { return nil }

// helloOf is the record with which a client begins.
func helloOf(t testing.TB, config *tls.Config) []byte {
	t.Helper()
	m := &memory{in: strings.NewReader("")}
	if err := tls.Client(m, config).Handshake(); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return m.out.Bytes()
}

// inRecords cuts the message of a record into records of n bytes.
func inRecords(record []byte, n int) []byte {
	var out []byte
	for body := record[recordHeader:]; len(body) > 0; {
		k := min(n, len(body))
		out = append(out, record[:3]...)
		out = binary.BigEndian.AppendUint16(out, uint16(k))
		out = append(out, body[:k]...)
		body = body[k:]
	}
	return out
}

func TestReadHello(t *testing.T) {
	long := helloOf(t, &tls.Config{ServerName: "Shop.Test"})
	short := helloOf(t, &tls.Config{ServerName: "shop.test", CurvePreferences: []tls.CurveID{tls.X25519}, MaxVersion: tls.VersionTLS12})
	if len(long) < 1400 || len(short) > 400 {
		t.Fatalf("%d and %d bytes: expected one hello with post-quantum keys and one without", len(long), len(short))
	}
	for name, whole := range map[string][]byte{"post-quantum": long, "classic": short} {
		for _, size := range []int{1, 2, 3, 4, 5, 38, 100, 511, 1 << 14} {
			wire := inRecords(whole, size)
			for how, r := range map[string]io.Reader{"at once": bytes.NewReader(append(bytes.Clone(wire), "behind"...)), "byte by byte": iotest.OneByteReader(io.MultiReader(bytes.NewReader(wire), strings.NewReader("behind")))} {
				raw, h, err := ReadHello(r)
				if err != nil || h.ServerName != "shop.test" || !bytes.Equal(raw, wire) {
					t.Errorf("%s, records of %d bytes, %s: %q, %d of %d bytes, %v", name, size, how, h.ServerName, len(raw), len(wire), err)
				}
				if rest, _ := io.ReadAll(r); string(rest) != "behind" {
					t.Errorf("%s, records of %d bytes, %s: %q is left, want all that is behind", name, size, how, rest)
				}
			}
		}
		for n := range whole { // cut off anywhere
			raw, _, err := ReadHello(bytes.NewReader(whole[:n]))
			if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) || len(raw) != n {
				t.Fatalf("%s, %d bytes: %d were told, %v", name, n, len(raw), err)
			}
		}
	}
	if _, h, err := ReadHello(bytes.NewReader(helloOf(t, &tls.Config{InsecureSkipVerify: true}))); err != nil || h.ServerName != "" || h.Encrypted {
		t.Errorf("without a name: %+v, %v", h, err)
	}
}

func TestReadHelloKnowsChallenges(t *testing.T) {
	for want, protocols := range map[bool][]string{true: {"acme-tls/1"}, false: {"h2", "acme-tls/1"}} {
		if _, h, err := ReadHello(bytes.NewReader(helloOf(t, &tls.Config{ServerName: "a.test", NextProtos: protocols}))); err != nil || h.Challenge != want {
			t.Errorf("%v: %+v, %v", protocols, h, err)
		}
	}
}

func TestReadHelloRefuses(t *testing.T) {
	good := helloOf(t, &tls.Config{ServerName: "shop.test"})
	change := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(good)) }
	at := bytes.Index(good, []byte("\x00\x00\x00\x0e\x00\x0c\x00\x00\x09shop.test"))
	if at < 0 {
		t.Fatal("the hello has its server name elsewhere")
	}
	for name, wire := range map[string][]byte{
		"HTTP":                       []byte("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n"),
		"an empty record":            {22, 3, 1, 0, 0},
		"a long record":              {22, 3, 1, 0x40, 1},
		"another version":            {22, 2, 1, 0, 4, 1, 0, 0, 0},
		"another message":            change(func(b []byte) []byte { b[5] = 2; return b }),
		"a huge message":             change(func(b []byte) []byte { b[6] = 1; return b }),
		"one byte too many":          change(func(b []byte) []byte { binary.BigEndian.PutUint16(b[3:], uint16(len(b)-4)); return append(b, 0) }),
		"a long session id":          change(func(b []byte) []byte { b[43] = 33; return b }),
		"a list that is cut off":     change(func(b []byte) []byte { b[at+5]++; return b }),
		"a name that is cut off":     change(func(b []byte) []byte { b[at+8]++; return b }),
		"an extension twice":         change(func(b []byte) []byte { b[at+1] = 43; return b }),
		"an extension of all length": change(func(b []byte) []byte { b[at+2] = 0xff; return b }),
		"endless tiny records":       bytes.Repeat([]byte{22, 3, 1, 0, 1, 1}, 1<<15),
	} {
		if _, h, err := ReadHello(bytes.NewReader(wire)); !errors.Is(err, ErrHello) {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
	for _, name := range []string{"", "a..b", ".a", "a.", "a b", "a\x00b", strings.Repeat("a", 64), strings.Repeat("a.", 127) + "a", "ä.test"} {
		if hostName(name) != "" {
			t.Errorf("%q is a host's name", name)
		}
	}
}

// FuzzClientHello holds what is read of a ClientHello against what the TLS library
// reads of it: a name that is routed by must be the one that the target sees.
func FuzzClientHello(f *testing.F) {
	for _, config := range []*tls.Config{{ServerName: "shop.test"}, {ServerName: "a.b.test", MaxVersion: tls.VersionTLS12}, {InsecureSkipVerify: true, NextProtos: []string{"h2"}}} {
		hello := helloOf(f, config)
		f.Add(hello)
		f.Add(inRecords(hello, 7))
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		raw, h, err := ReadHello(bytes.NewReader(wire))
		if !bytes.HasPrefix(wire, raw) {
			t.Fatalf("%x was told, %x came", raw, wire)
		}
		if err != nil {
			return
		}
		// However it arrives it is the same, and before its end it is nothing.
		again, how, err := ReadHello(iotest.OneByteReader(bytes.NewReader(wire)))
		if err != nil || how.ServerName != h.ServerName || !bytes.Equal(again, raw) {
			t.Fatalf("byte by byte it is %q, %v, was %q", how.ServerName, err, h.ServerName)
		}
		for n := range min(len(raw), 2048) {
			if _, part, err := ReadHello(bytes.NewReader(raw[:n])); err == nil {
				t.Fatalf("the first %d of %d bytes are taken for a hello that names %q", n, len(raw), part.ServerName)
			}
		}
		seen, called := "", false
		_ = tls.Server(&memory{in: bytes.NewReader(raw)}, &tls.Config{GetConfigForClient: func(c *tls.ClientHelloInfo) (*tls.Config, error) {
			seen, called = c.ServerName, true
			return nil, io.ErrClosedPipe
		}}).Handshake()
		if called && hostName(seen) != h.ServerName {
			t.Fatalf("routed by %q, the target sees %q", h.ServerName, seen)
		}
	})
}
