package wire

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
)

func parse(head string) (*exchange.Request, *Framing, *Error) {
	var r exchange.Request
	var f Framing
	e := ParseRequest(head, Limits{}, &r, &f)
	return &r, &f, e
}

func TestRequestsRefused(t *testing.T) {
	f := func(want int, head string) {
		t.Helper()
		if _, _, e := parse(head); e == nil || e.Status != want {
			t.Errorf("%q: %v, want status %d", head, e, want)
		}
	}
	const h = "Host: a\r\n"
	f(400, "GET / HTTP/1.1\r\n\r\n")
	f(400, "GET / HTTP/1.1\nHost: a\n\n")
	f(400, "GET / HTTP/1.1\r\nHost: a\n\r\n")
	f(400, "GET / HTTP/1.1\r\n"+h+h+"\r\n")
	f(400, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n")
	f(400, "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n")
	f(400, "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n")
	f(400, "GET / HTTP/1.1\r\nHost: a,b\r\n\r\n"[:0]+"GET / HTTP/1.1\r\nHost: \r\n\r\n")
	f(400, "GET / HTTP/1.1\r\nHost : a\r\n\r\n")
	f(400, "GET / HTTP/1.1\r\n"+h+" folded\r\n\r\n")
	f(400, "GET / HTTP/1.1\r\n"+h+": x\r\n\r\n")
	f(400, "GET / HTTP/1.1\r\n"+h+"X: a\x01b\r\n\r\n")
	f(400, "GET / HTTP/1.1\r\n"+h+"X: a\rb\r\n\r\n")
	f(400, "GET x HTTP/1.1\r\n"+h+"\r\n")
	f(400, "GET /a b HTTP/1.1\r\n"+h+"\r\n")
	f(400, "GET ftp://a/ HTTP/1.1\r\n"+h+"\r\n")
	f(400, "G(T / HTTP/1.1\r\n"+h+"\r\n")
	f(400, "GET / http/1.1\r\n"+h+"\r\n")
	f(400, "GET / HTTP/1.1x\r\n"+h+"\r\n")
	f(505, "GET / HTTP/2.0\r\n"+h+"\r\n")
	f(505, "PRI * HTTP/2.0\r\n\r\n")
	f(400, "CONNECT a:80 HTTP/1.1\r\n"+h+"\r\n")
	f(405, "TRACE / HTTP/1.1\r\n"+h+"\r\n")
	f(400, "GET /\r\n\r\n")
	f(400, "POST / HTTP/1.1\r\n"+h+"Content-Length: 5\r\nContent-Length: 5\r\n\r\n")
	f(400, "POST / HTTP/1.1\r\n"+h+"Content-Length: 5, 5\r\n\r\n")
	f(400, "POST / HTTP/1.1\r\n"+h+"Content-Length: +5\r\n\r\n")
	f(400, "POST / HTTP/1.1\r\n"+h+"Content-Length: 18446744073709551621\r\n\r\n")
	f(400, "POST / HTTP/1.1\r\n"+h+"Content-Length:\r\n\r\n")
	f(400, "POST / HTTP/1.1\r\n"+h+"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n")
	f(400, "POST / HTTP/1.0\r\n"+h+"Transfer-Encoding: chunked\r\n\r\n")
	f(400, "POST / HTTP/1.1\r\n"+h+"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n")
	f(400, "POST / HTTP/1.1\r\n"+h+"Transfer-Encoding: gzip, chunked\r\n\r\n")
	f(400, "POST / HTTP/1.1\r\n"+h+"Transfer-Encoding: \"chunked\"\r\n\r\n")
	f(501, "POST / HTTP/1.1\r\n"+h+"Transfer-Encoding: gzip\r\n\r\n")
	f(417, "POST / HTTP/1.1\r\n"+h+"Expect: 200-maybe\r\n\r\n")
	f(414, "GET /"+strings.Repeat("a", 9000)+" HTTP/1.1\r\n"+h+"\r\n")
	f(431, "GET / HTTP/1.1\r\n"+h+"X: "+strings.Repeat("a", 9000)+"\r\n\r\n")
	f(431, "GET / HTTP/1.1\r\n"+h+strings.Repeat("X: a\r\n", 101)+"\r\n")
}

func TestRequestsTaken(t *testing.T) {
	r, f, e := parse("POST http://b:81/p?q HTTP/1.1\r\nHost: a\r\nConnection: close, X-Hop, Content-Length\r\nX-Hop: 1\r\nContent-Length: 007\r\nTE: gzip, trailers\r\nKeep-Alive: 5\r\nx-A: \t v \r\n\r\n")
	if e != nil {
		t.Fatal(e)
	}
	if r.Host != "b:81" || r.Path != "/p" || r.Query != "q" || !r.HasQuery || r.Length != 7 || !r.LengthGiven || !f.Close || f.Chunked {
		t.Errorf("%+v %+v", r, f)
	}
	if r.Fields.Len() != 2 || r.Fields.Get("X-A") != "v" || r.Fields.Get("TE") != "trailers" {
		t.Errorf("fields %v", r.Fields)
	}
	r, f, e = parse("GET /c HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
	if e != nil || f.Close || r.Version != exchange.HTTP10 {
		t.Errorf("%v %+v", e, f)
	}
	r, f, e = parse("GET /c HTTP/1.1\r\nHost: [::1]:80\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	if e != nil || r.Upgrade != "websocket" || !f.Upgrade || r.Fields.Len() != 0 {
		t.Errorf("%v %+v", e, r)
	}
	r, _, e = parse("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")
	if e != nil || r.Target != "*" {
		t.Errorf("%v %+v", e, r)
	}
}

func TestHeadEnd(t *testing.T) {
	f := func(s string, want int) {
		t.Helper()
		if got := HeadEnd([]byte(s), 0); got != want {
			t.Errorf("HeadEnd(%q) = %d, want %d", s, got, want)
		}
		for i := range s { // in two pieces, split anywhere
			if end := HeadEnd([]byte(s[:i]), 0); end < 0 {
				if got := HeadEnd([]byte(s), i); got != want {
					t.Errorf("HeadEnd(%q, %d) = %d, want %d", s, i, got, want)
				}
			}
		}
	}
	f("GET / HTTP/1.1\r\nA: b\r\n\r\nrest", 24)
	f("GET / HTTP/1.1\nA: b\n\nrest", 21)
	f("GET / HTTP/1.1\r\nA: b\r\n", -1)
}

func TestResponses(t *testing.T) {
	try := func(method, head string) (*exchange.Response, *Framing, *Error) {
		var r exchange.Response
		var f Framing
		e := ParseResponse(head, method, Limits{}, &r, &f)
		return &r, &f, e
	}
	for _, bad := range []string{
		"HTTP/2.0 200 OK\r\n\r\n", "HTTP/1.1 20 OK\r\n\r\n", "garbage\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", "HTTP/1.1 200 OK\nA: b\n\n",
	} {
		if _, _, e := try("GET", bad); e == nil || e.Status != 502 {
			t.Errorf("%q: %v", bad, e)
		}
	}
	if r, f, e := try("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"); e != nil || f.Length != 0 || r.Length != 9 {
		t.Errorf("HEAD: %v %+v %+v", e, r, f)
	}
	if r, f, e := try("GET", "HTTP/1.0 200 Fine\r\n\r\n"); e != nil || f.Length != -1 || !f.Close || r.Reason != "Fine" {
		t.Errorf("until close: %v %+v %+v", e, r, f)
	}
	if _, f, e := try("GET", "HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n"); e != nil || !f.Close || f.Length != 0 {
		t.Errorf("204 with a length: %v %+v", e, f)
	}
}

// reader is a Source over a reader that gives n bytes at a time.
type reader struct {
	r   io.Reader
	n   int
	buf []byte
}

func (s *reader) Buffered() []byte { return s.buf }
func (s *reader) Discard(n int)    { s.buf = s.buf[n:] }
func (s *reader) More() error {
	p := make([]byte, s.n)
	n, err := s.r.Read(p)
	s.buf = append(s.buf, p[:n]...)
	if n > 0 {
		return nil
	}
	return err
}

func chunks(text string, step int) (string, *exchange.Fields, error) {
	var b Body
	var trailer exchange.Fields
	b.Reset(&reader{r: strings.NewReader(text), n: step}, &Framing{Chunked: true, Length: -1}, &trailer)
	got, err := io.ReadAll(&b)
	return string(got), &trailer, err
}

func TestChunks(t *testing.T) {
	for step := 1; step < 40; step += 3 {
		got, trailer, err := chunks("5;a=b\r\nhello\r\n00003 \r\nabc\r\n0\r\nX-T: 1\r\nContent-Length: 3\r\n\r\n", step)
		if err != nil || got != "helloabc" || trailer.Get("X-T") != "1" || trailer.Len() != 1 {
			t.Fatalf("step %d: %q %v %v", step, got, trailer, err)
		}
		for _, bad := range []string{
			"5\r\nhello\r\n0\n\n", "0_5\r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n-0\r\n\r\n", "+5\r\nhello\r\n0\r\n\r\n", "5;a=\"\r\n\"\r\nhello\r\n0\r\n\r\n",
			"5\r\nhello0\r\n\r\n", "5\r\nhelloXX0\r\n\r\n", "\r\nhello\r\n0\r\n\r\n", "5\r\r\nhello\r\n0\r\n\r\n", "5;\nhello\r\n0\r\n\r\n",
			"5\r\nhello\r\n0\r\n x\r\n\r\n", "ffffffffffffffffff\r\n", "5 5\r\nhello\r\n0\r\n\r\n",
		} {
			if _, _, err := chunks(bad, step); !errors.Is(err, ErrMalformed) {
				t.Errorf("%q, step %d: %v", bad, step, err)
			}
		}
		if _, _, err := chunks("5\r\nhel", step); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut off: %v", err)
		}
	}
}

// direct is a reader that reads past its buffer too.
type direct struct {
	reader
	past int
}

func (s *direct) ReadDirect(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.past += n
	if n > 0 {
		err = nil
	}
	return n, err
}

func TestLargeBodiesSkipTheBuffer(t *testing.T) {
	big := strings.Repeat("x", 50000)
	f := func(text string, fr Framing, rest string) {
		t.Helper()
		src := &direct{reader: reader{r: strings.NewReader(text), n: 64}}
		var b Body
		b.Reset(src, &fr, nil)
		got, err := io.ReadAll(&b)
		left, _ := io.ReadAll(src.r)
		if err != nil || string(got) != big || src.past < len(big)/2 || string(src.buf)+string(left) != rest {
			t.Errorf("%+v: %d bytes, %d of them past the buffer, %d left, %v", fr, len(got), src.past, len(src.buf)+len(left), err)
		}
	}
	f(big+"next", Framing{Length: 50000}, "next")
	f("c350\r\n"+big+"\r\n0\r\n\r\nnext", Framing{Length: -1, Chunked: true}, "next")
	f(big, Framing{Length: -1, Close: true}, "")
}

func TestTheEndComesWithTheLastBytes(t *testing.T) {
	var b Body
	src := &reader{r: strings.NewReader("3\r\nabc\r\n0\r\n\r\nnext"), n: 100}
	b.Reset(src, &Framing{Length: -1, Chunked: true}, nil)
	if n, err := b.Read(make([]byte, 10)); n != 3 || !errors.Is(err, io.EOF) || !b.Done() || string(src.buf) != "next" {
		t.Errorf("%d %v, left %q", n, err, src.buf)
	}
}

// FuzzParseRequest holds the parser against net/http: what is taken here must be
// taken there, and be read as the same request.
func FuzzParseRequest(f *testing.F) {
	for _, s := range []string{
		"GET /a?b HTTP/1.1\r\nHost: a\r\nX: 1\r\n\r\n", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
		"GET http://a:1/b HTTP/1.0\r\nConnection: close\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: [::1]\r\n\r\n", "GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Add([]byte("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n00\r\nX-T: 1\r\n\r\nGET / HTTP/1.1\r\n"))
	var cases []struct{ Raw []string }
	text, err := os.ReadFile("../../../integration/edgeprobe/cases/h1.json")
	if err == nil {
		err = json.Unmarshal(text, &cases)
	}
	if err != nil {
		f.Fatal(err)
	}
	for _, c := range cases {
		f.Add([]byte(strings.NewReplacer("{{ID}}", "x1", "{{HOST}}", "edge.test").Replace(strings.Join(c.Raw, ""))))
	}
	f.Add([]byte("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 05\r\n\r\nhelloGET / HTTP/1.1\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		end := HeadEnd(b, 0)
		if end < 0 {
			return
		}
		began := time.Now()
		r, fr, e := parse(string(b[:end]))
		if took := time.Since(began); took > time.Second+time.Duration(len(b))*time.Microsecond {
			t.Fatalf("%d bytes took %v", len(b), took) // a millisecond for each KiB, and what the scheduler may take
		}
		if e != nil {
			return
		}
		std, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			if strings.Contains(err.Error(), "invalid URL") || strings.Contains(err.Error(), "parse") || strings.Contains(err.Error(), "invalid URI") {
				return // net/http decodes the path, which is the router's business here
			}
			t.Fatalf("taken here, refused by net/http: %v\n%q", err, b[:end])
		}
		if std.Method != r.Method || std.Host != r.Host {
			t.Fatalf("read as %s %q, by net/http as %s %q\n%q", r.Method, r.Host, std.Method, std.Host, b[:end])
		}
		if !r.Absolute && std.RequestURI != r.Target {
			t.Fatalf("the target is read as %q, by net/http as %q\n%q", r.Target, std.RequestURI, b[:end])
		}
		if fr.Chunked != (len(std.TransferEncoding) == 1) || !fr.Chunked && std.ContentLength != r.Length {
			t.Fatalf("framed as %+v, by net/http as %v %d\n%q", fr, std.TransferEncoding, std.ContentLength, b[:end])
		}
		fields := http.Header{}
		for f := range r.Fields.All() {
			fields.Add(f.Name, f.Value)
		}
		for name, values := range std.Header {
			switch name {
			case "Content-Length", "Connection", "Keep-Alive", "Upgrade", "Te", "Trailer", "Proxy-Connection", "Transfer-Encoding", "Expect":
				continue // of this connection: they are read and not kept
			}
			if hasToken(strings.ToLower(strings.Join(std.Header["Connection"], ",")), strings.ToLower(name)) {
				continue // as are those that it names
			}
			if got := fields.Values(name); !slices.Equal(got, values) {
				t.Fatalf("field %s is read as %q, by net/http as %q\n%q", name, got, values, b[:end])
			}
		}
		var body Body
		body.Reset(&reader{r: bytes.NewReader(b[end:]), n: 7}, fr, &r.Trailer)
		got, err := io.ReadAll(&body)
		if err != nil {
			return
		}
		if want, err := io.ReadAll(std.Body); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("the body is read as %q, by net/http as %q, %v\n%q", got, want, err, b)
		}
	})
}

func BenchmarkParseRequest(b *testing.B) {
	head := "GET /echo/1k?x=1 HTTP/1.1\r\nHost: bench.example.com\r\nUser-Agent: h2load\r\nAccept: */*\r\nAccept-Encoding: gzip\r\n\r\n"
	var r exchange.Request
	b.ReportAllocs()
	for b.Loop() {
		fields := r.Fields
		fields.Reset()
		r = exchange.Request{Fields: fields}
		var f Framing
		if e := ParseRequest(head, Limits{}, &r, &f); e != nil {
			b.Fatal(e)
		}
	}
}

// FuzzPlain holds the checks that look at many bytes at once to what they stand for.
func FuzzPlain(f *testing.F) {
	for _, s := range []string{"", "a", "abcdefgh", "abcdefg\x7f", "\tabcdefgh\t", "abcdefghijk\x1f", "\x80\xff\x9f\xa0\x1f\x20\x7e\x7f", "x\x00yyyyyyyyyyyyyy", "ABC-def", "a:b", "abc\"defghij", "abcdefghij\\", "\xe0\xff\xff\xff\xff\xff\xff\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		plain, verbatim, token, lower := true, true, s != "", s != ""
		for i := range len(s) {
			c := s[i]
			plain = plain && (c >= ' ' || c == '\t') && c != 0x7f
			verbatim = verbatim && c >= ' ' && c < 0x80 && c != '"' && c != '\\'
			in := strings.IndexByte("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", c) >= 0
			token = token && in
			lower = lower && in && (c < 'A' || c > 'Z')
		}
		if Plain(s) != plain || Verbatim(s) != verbatim || IsToken(s) != token || IsLowerToken(s) != lower {
			t.Errorf("%q: plain %v, verbatim %v, token %v, lower %v", s, Plain(s), Verbatim(s), IsToken(s), IsLowerToken(s))
		}
		if b, ok := AppendLower([]byte("x"), s); ok != token || ok && string(b) != "x"+strings.ToLower(s) {
			t.Errorf("%q in lower case is %q, %v", s, b, ok)
		}
	})
}

// TestCopiesStay: what was copied is not touched by what comes after, and is made in few pieces.
func TestCopiesStay(t *testing.T) {
	var c Copies
	var got, want []string
	p := make([]byte, 3*copySize)
	for i := range 200 {
		for j := range p {
			p[j] = byte(i + j)
		}
		n := []int{1, 300, 0, copySize, 7, 3 * copySize}[i%6]
		got, want = append(got, c.Of(p[:n])), append(want, string(p[:n]))
		if i == 100 {
			c.Release()
		}
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("copy %d of %d bytes has changed", i, len(want[i]))
		}
	}
	head := p[:300]
	if n := testing.AllocsPerRun(600, func() { c.Of(head) }); n >= 1 {
		t.Errorf("%.1f allocations a head", n)
	}
}
