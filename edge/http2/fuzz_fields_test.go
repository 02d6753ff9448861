package http2

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/exchange/wire"
)

// wellFormed judges a field list as RFC 9113, sections 8.2 and 8.3, does, and what the edge
// asks beyond: it shares no code with the engine but the forms of tokens and hosts.
// Requests of the list end with it.
func wellFormed(list []hpack.HeaderField) bool {
	got := map[string]string{}
	regular := false
	for _, f := range list {
		if strings.ContainsFunc(f.Value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) || f.Value != strings.Trim(f.Value, " \t") {
			return false
		}
		if strings.HasPrefix(f.Name, ":") {
			switch f.Name {
			case ":method", ":scheme", ":authority", ":path":
			default:
				return false // CONNECT with a protocol does not end with its fields
			}
			if _, twice := got[f.Name]; twice || regular {
				return false
			}
			got[f.Name] = f.Value
			continue
		}
		regular = true
		if !wire.IsToken(f.Name) || f.Name != strings.ToLower(f.Name) {
			return false
		}
		switch f.Name {
		case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade":
			return false
		case "te":
			if !strings.EqualFold(f.Value, "trailers") {
				return false
			}
		case "expect":
			if !strings.EqualFold(f.Value, "100-continue") {
				return false
			}
		case "host", "content-length":
			if _, twice := got[f.Name]; twice {
				return false
			}
			got[f.Name] = f.Value
		}
	}
	method, scheme, target := got[":method"], got[":scheme"], got[":path"]
	authority, named := got[":authority"]
	if host, ok := got["host"]; ok {
		if named && host != authority {
			return false
		}
		authority = host
	}
	if length, ok := got["content-length"]; ok {
		n, err := strconv.ParseUint(length, 10, 63)
		if err != nil || n > 0 || strings.Trim(length, "0123456789") != "" || len(length) > 18 {
			return false // it ends with its fields
		}
	}
	switch method {
	case "CONNECT", "TRACE", "PRI":
		return false
	}
	origin := strings.HasPrefix(target, "/") && !strings.ContainsFunc(target, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '#' })
	return wire.IsToken(method) && (scheme == "http" || scheme == "https") && wire.ValidHost(authority) && (origin || target == "*" && method == "OPTIONS")
}

// verdict notes whether a request was let through.
type verdict struct {
	carried
	passed atomic.Bool
}

func (v *verdict) Handle(x *exchange.Exchange) {
	if x.Refused == 0 {
		v.passed.Store(true)
	}
	v.carried.Handle(x)
}

// judgedTape is a tape that ends once the request was answered or reset.
type judgedTape struct {
	tape
	over chan struct{}
	once sync.Once
}

func (t *judgedTape) Read(p []byte) (int, error) {
	n, err := t.tape.Read(p)
	if errors.Is(err, io.EOF) {
		select {
		case <-t.over:
		case <-time.After(10 * time.Second):
			t.once.Do(func() { panic("a request without an answer") })
		}
	}
	return n, err
}

// Write looks for the frames that end a stream or the connection. The engine writes whole frames.
func (t *judgedTape) Write(p []byte) (int, error) {
	for rest := p; len(rest) >= 9; {
		switch http2.FrameType(rest[3]) {
		case http2.FrameHeaders, http2.FrameRSTStream, http2.FrameGoAway:
			t.once.Do(func() { close(t.over) })
		}
		size := 9 + (int(rest[0])<<16 | int(rest[1])<<8 | int(rest[2]))
		rest = rest[min(size, len(rest)):]
	}
	return len(p), nil
}

// FuzzFields holds the verdict on a field list against wellFormed, and what is let
// through against HTTP/1.1. A line of text is a field, its first '=' ends the name.
func FuzzFields(f *testing.F) {
	good := ":method=GET\n:scheme=https\n:path=/a?b\n:authority=edge.test\n"
	for _, more := range []string{
		"", "cookie=a\ncookie=b\n", "te=trailers\n", "te=gzip\n", "host=edge.test\n", "host=other.test\n", "content-length=0\n", "content-length=+0\n", "content-length=0\ncontent-length=0\n",
		"connection=close\n", "X-A=1\n", "x a=1\n", "x-a= 1\n", "x-a=\x01\n", ":path=/\n", ":status=200\n", "expect=100-continue\n", "transfer-encoding=chunked\n", "=x\n", ":=x\n",
	} {
		f.Add([]byte(good + more))
	}
	f.Add([]byte(":method=OPTIONS\n:scheme=http\n:path=*\nhost=a:1\n"))
	f.Add([]byte(":method=CONNECT\n:authority=a:1\n"))
	f.Add([]byte(":method=GET\n:scheme=https\n:path=\n:authority=\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 4<<10 {
			return // longer ones meet limits
		}
		var list []hpack.HeaderField
		var section, b bytes.Buffer
		enc := hpack.NewEncoder(&section)
		for l := range strings.SplitSeq(strings.TrimSuffix(string(text), "\n"), "\n") {
			start := min(1, len(l)) // names of pseudo fields begin with a colon, none with '='
			name, value, _ := strings.Cut(l[start:], "=")
			field := hpack.HeaderField{Name: l[:start] + name, Value: value}
			list = append(list, field)
			_ = enc.WriteField(field)
		}
		if len(list) > 60 {
			return
		}
		fr := http2.NewFramer(&b, nil)
		fr.AllowIllegalWrites = true
		_ = fr.WriteSettings()
		_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: section.Bytes(), EndStream: true, EndHeaders: true})
		v := &verdict{carried: carried{t}}
		e := New(v, Settings{WriteStall: time.Millisecond})
		in := io.MultiReader(strings.NewReader(http2.ClientPreface), &b)
		e.ServeConn(context.Background(), &judgedTape{tape: tape{in: in}, over: make(chan struct{})}, &exchange.Conn{})
		if want := wellFormed(list); v.passed.Load() != want {
			t.Fatalf("%q: let through: %v, expected %v", list, !want, want)
		}
	})
}
