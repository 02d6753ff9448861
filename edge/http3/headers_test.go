package http3

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/quic-go/qpack"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/exchange/wire"
)

// encode makes a header section of names and values.
func encode(fields ...string) []byte {
	var b bytes.Buffer
	e := qpack.NewEncoder(&b)
	for i := 0; i < len(fields); i += 2 {
		_ = e.WriteField(qpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return b.Bytes()
}

// judged decodes a header section as the engine does.
func judged(p []byte) (st *stream, ok bool, err error) {
	e := New(nil, Settings{MaxBody: 1000})
	st = &stream{c: &conn{e: e}, declared: -1}
	st.x.Request = exchange.Request{Version: exchange.HTTP3, Body: exchange.NoBody}
	s := section{st: st}
	if err := s.decode(p); err != nil {
		return st, false, err
	}
	return st, s.judge(), nil
}

func TestRequestsKeepWhatTheySay(t *testing.T) {
	st, ok, err := judged(encode(":method", "POST", ":scheme", "https", ":authority", "A.test:8443", ":path", "/a?b=c",
		"x-two", "1", "cookie", "a=1", "x-one", "2", "cookie", "b=2", "x-two", "3", "content-length", "7"))
	q := &st.x.Request
	if err != nil || !ok || st.x.Refused != 0 {
		t.Fatalf("%v %v %d", ok, err, st.x.Refused)
	}
	var got []string
	for f := range q.Fields.All() {
		got = append(got, f.Name+"="+f.Value)
	}
	if want := "x-two=1|cookie=a=1; b=2|x-one=2|x-two=3"; strings.Join(got, "|") != want {
		t.Errorf("fields %q, want %q", strings.Join(got, "|"), want)
	}
	if q.Host != "A.test:8443" || q.Path != "/a" || q.Query != "b=c" || !q.HasQuery || st.declared != 7 || !q.LengthGiven {
		t.Errorf("%+v, length %d", q, st.declared)
	}
}

func TestRequestsAreJudged(t *testing.T) {
	base := []string{":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", "/"}
	with := func(more ...string) []string { return append(base[:len(base):len(base)], more...) }
	many := base[:len(base):len(base)]
	for range 101 {
		many = append(many, "a", "b")
	}
	for _, c := range []struct {
		fields []string
		status int // -1 for a request that does not exist
	}{
		{base, 0},
		{with("te", "trailers"), 0},
		{with("te", "gzip"), -1},
		{with("host", "a.test"), 0},
		{with("host", "b.test"), -1},
		{with("transfer-encoding", "chunked"), -1},
		{with("a", " b"), 400},
		{with("a", "b\x00"), -1},
		{with("expect", "else"), 417},
		{with("content-length", "+1"), 400},
		{with("content-length", "1001"), 413},
		{many, 431},
		{[]string{":method", "PRI", ":scheme", "https", ":authority", "a.test", ":path", "/"}, 400},
		{[]string{":method", "TRACE", ":scheme", "https", ":authority", "a.test", ":path", "/"}, 405},
		{[]string{":method", "GET", ":scheme", "https", ":authority", "u@a.test", ":path", "/"}, -1},
		{[]string{":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", "http://b.test/"}, -1},
		{[]string{":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", "/" + strings.Repeat("a", 9000)}, 414},
		{[]string{":method", "OPTIONS", ":scheme", "https", ":authority", "a.test", ":path", "*"}, 0},
	} {
		st, ok, err := judged(encode(c.fields...))
		got := st.x.Refused
		if !ok {
			got = -1
		}
		if err != nil || got != c.status {
			t.Errorf("%.120q: %d %v, want %d", c.fields, got, err, c.status)
		}
	}
}

// TestALongListIsNotDecoded repeats one field that takes a byte ten thousand times.
func TestALongListIsNotDecoded(t *testing.T) {
	p := append(encode(":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", "/"), bytes.Repeat([]byte{0xc0 | 29}, 10000)...)
	st, ok, err := judged(p) // 29 is "accept: */*"
	if err != nil || !ok || st.x.Refused != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("%v %v %d", ok, err, st.x.Refused)
	}
	if n := st.x.Request.Fields.Len(); n > 1000 {
		t.Errorf("%d fields are kept", n)
	}
}

func TestResponsesLeaveConnectionFieldsOut(t *testing.T) {
	var fields exchange.Fields
	fields.Add("Connection", "close")
	fields.Add("X-Up", "1")
	b, err := headers(200, &fields, 5)
	if err != nil {
		t.Fatal(err)
	}
	next := qpack.NewDecoder().Decode(b[2:])
	var got []string
	for {
		f, err := next()
		if err != nil {
			break
		}
		got = append(got, f.Name+"="+f.Value)
	}
	if want := ":status=200|x-up=1|content-length=5"; strings.Join(got, "|") != want {
		t.Errorf("%q, want %q", got, want)
	}
	fields.Add("a", "b\r\nc: d")
	if _, err := headers(200, &fields, 5); err == nil {
		t.Error("a line feed is sent")
	}
}

// FuzzHeaders looks for header sections that break the decoder, or pass for requests
// that HTTP/1.1 cannot carry.
func FuzzHeaders(f *testing.F) {
	f.Add(encode(":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", "/a?b", "cookie", "a", "cookie", "b"))
	f.Add([]byte{2, 0, 0x80})
	f.Fuzz(func(t *testing.T, p []byte) {
		st, ok, err := judged(p)
		if err != nil || !ok || st.x.Refused != 0 {
			return
		}
		q := &st.x.Request
		if !wire.IsToken(q.Method) || !goodTarget(q.Method, q.Target) || !wire.ValidHost(q.Host) || q.Host == "" {
			t.Errorf("passed: %q %q %q", q.Method, q.Target, q.Host)
		}
		for f := range q.Fields.All() {
			if !wire.IsLowerToken(f.Name) || !wire.Plain(f.Value) {
				t.Errorf("passed: %q: %q", f.Name, f.Value)
			}
		}
	})
}
