package stream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Hello is what a route is found by in a ClientHello.
type Hello struct {
	ServerName string // in lower case; "" for none, and for one that no host can have
	Encrypted  bool   // the name that counts may be inside (Encrypted Client Hello)
	Challenge  bool   // an authority asks whether this node has the name (RFC 8737)
}

// ErrHello is wrapped by each error that is not one of reading.
var ErrHello = errors.New("it is no ClientHello")

func noHello(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrHello, fmt.Sprintf(format, args...))
}

// challengeALPN is the protocol of an authority's question (RFC 8737, section 6.2).
const challengeALPN = "acme-tls/1"

const (
	recordHeader  = 5
	recordMost    = 16384
	recordType    = 22 // handshake
	helloType     = 1
	longestHello  = 64 << 10 // bytes with record headers; one with post-quantum keys has two thousand
	extServerName = 0
	extALPN       = 16
	extEncrypted  = 0xfe0d
)

// ReadHello reads a ClientHello (RFC 8446, sections 4.1.2 and 5.1), in however many
// records it comes, and nothing behind its last record. It answers every byte that
// was read, with an error too.
func ReadHello(r io.Reader) (raw []byte, hello Hello, err error) {
	raw = make([]byte, 0, 2048)
	var message []byte
	for {
		var payload []byte
		if raw, payload, err = readRecord(r, raw); err != nil {
			return raw, Hello{}, err
		}
		message = append(message, payload...)
		if message[0] != helloType {
			return raw, Hello{}, noHello("its first message has type %d", message[0])
		}
		if len(message) < 4 {
			continue
		}
		switch n := int(message[1])<<16 | int(message[2])<<8 | int(message[3]); {
		case n > longestHello:
			return raw, Hello{}, noHello("it announces %d bytes, at most %d are expected", n, longestHello)
		case len(message)-4 > n:
			return raw, Hello{}, noHello("%d bytes follow it in its record", len(message)-4-n)
		case len(message)-4 == n:
			hello, err = parseHello(message[4:])
			return raw, hello, err
		}
	}
}

// readRecord reads one record, appends it to raw, and answers its content too.
func readRecord(r io.Reader, raw []byte) (all, payload []byte, err error) {
	begin := len(raw)
	if raw, err = readMore(r, raw, recordHeader); err != nil {
		return raw, nil, err
	}
	head := raw[begin:]
	if head[0] != recordType || head[1] != 3 {
		return raw, nil, noHello("it begins with % x", head)
	}
	n := int(binary.BigEndian.Uint16(head[3:]))
	if n == 0 || n > recordMost {
		return raw, nil, noHello("a record has %d bytes, expected 1 to %d", n, recordMost)
	}
	if len(raw)+n > longestHello {
		return raw, nil, noHello("it is longer than %d bytes", longestHello)
	}
	if raw, err = readMore(r, raw, n); err != nil {
		return raw, nil, err
	}
	return raw, raw[begin+recordHeader:], nil
}

// readMore appends the next n bytes to raw, those too that came before an error.
func readMore(r io.Reader, raw []byte, n int) ([]byte, error) {
	begin := len(raw)
	raw = append(raw, make([]byte, n)...)
	got, err := io.ReadFull(r, raw[begin:])
	if err != nil {
		err = fmt.Errorf("reading the ClientHello: %w", err)
	}
	return raw[:begin+got], err
}

// parseHello reads the body of a ClientHello.
func parseHello(b []byte) (Hello, error) {
	s := reader{b: b}
	s.take(2 + 32) // version and random
	if id := s.vector(1); len(id) > 32 {
		return Hello{}, noHello("its session id has %d bytes", len(id))
	}
	if suites := s.vector(2); len(suites) < 2 || len(suites)%2 != 0 {
		return Hello{}, noHello("its cipher suites have %d bytes", len(suites))
	}
	if methods := s.vector(1); len(methods) == 0 {
		return Hello{}, noHello("it names no compression method")
	}
	if s.cut {
		return Hello{}, noHello("it is cut off")
	}
	var h Hello
	if len(s.b) == 0 { // extensions are newer than the message
		return h, nil
	}
	list := reader{b: s.vector(2)}
	if s.cut || len(s.b) > 0 {
		return Hello{}, noHello("its extensions are not as long as it says")
	}
	seen := map[int]bool{}
	for len(list.b) > 0 {
		kind := list.number(2)
		value := list.vector(2)
		if list.cut {
			return Hello{}, noHello("an extension is cut off")
		}
		if seen[kind] {
			return Hello{}, noHello("extension %d is there twice", kind)
		}
		seen[kind] = true
		switch kind {
		case extEncrypted:
			h.Encrypted = true
		case extALPN:
			h.Challenge = string(value) == "\x00\x0b\x0a"+challengeALPN // and nothing else
		case extServerName:
			name, err := parseServerName(value)
			if err != nil {
				return Hello{}, err
			}
			h.ServerName = name
		}
	}
	return h, nil
}

// parseServerName reads the extension (RFC 6066, section 3).
func parseServerName(b []byte) (string, error) {
	s := reader{b: b}
	list := reader{b: s.vector(2)}
	if s.cut || len(s.b) > 0 || len(list.b) == 0 {
		return "", noHello("its list of server names is not as long as it says")
	}
	name, found := "", false
	for len(list.b) > 0 {
		kind := list.number(1)
		value := list.vector(2)
		if list.cut || len(value) == 0 {
			return "", noHello("a server name is cut off")
		}
		if kind != 0 {
			continue
		}
		if found {
			return "", noHello("it has two server names")
		}
		name, found = string(value), true
	}
	return hostName(name), nil
}

// hostName answers a server name in lower case, "" for one that no host can have.
func hostName(name string) string {
	if len(name) > 253 {
		return ""
	}
	for label := range strings.SplitSeq(name, ".") {
		if len(label) == 0 || len(label) > 63 {
			return ""
		}
	}
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c|0x20 && c|0x20 <= 'z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
		default:
			return ""
		}
	}
	return strings.ToLower(name)
}

// reader takes a message apart. cut is set once something is longer than what is
// left; all that is read then is empty.
type reader struct {
	b   []byte
	cut bool
}

func (r *reader) take(n int) []byte {
	if r.cut || len(r.b) < n {
		r.b, r.cut = nil, true
		return nil
	}
	p := r.b[:n]
	r.b = r.b[n:]
	return p
}

// number reads one of n bytes.
func (r *reader) number(n int) int {
	v := 0
	for _, c := range r.take(n) {
		v = v<<8 | int(c)
	}
	return v
}

// vector reads a length of n bytes, and as many.
func (r *reader) vector(n int) []byte { return r.take(r.number(n)) }
