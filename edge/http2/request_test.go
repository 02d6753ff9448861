package http2

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// TestHeads sends header sections and expects each to be answered as it deserves:
// "reset" is the stream error that RFC 9113 asks for, which is sent before any request
// exists.
func TestHeads(t *testing.T) {
	long := strings.Repeat("a", 9000)
	for _, c := range []struct {
		name   string
		fields []string
		want   string
	}{
		{"plain", head("GET", "/a?b=c"), "200"},
		{"options asterisk", head("OPTIONS", "*"), "200"},
		{"asterisk of another method", head("GET", "*"), "400"},
		{"CONNECT", []string{":method", "CONNECT", ":authority", "edge.test:443"}, "405"},
		{"CONNECT with a path", head("CONNECT", "/"), "reset"},
		{"extended CONNECT of a request that is over", head("CONNECT", "/", ":protocol", "websocket"), "reset"},
		{"protocol of another method", head("GET", "/", ":protocol", "websocket"), "reset"},
		{"TRACE", head("TRACE", "/"), "405"},
		{"PRI", head("PRI", "/"), "400"},
		{"method with a space", head("GET /x HTTP/1.1", "/"), "400"},
		{"method with CRLF", head("GET\r\nx: y", "/"), "reset"},
		{"no method", head("-", "/"), "reset"},
		{"empty path", head("GET", ""), "reset"},
		{"relative path", head("GET", "a"), "reset"},
		{"absolute URI as path", head("GET", "http://edge.test/"), "reset"},
		{"space in path", head("GET", "/a b"), "400"},
		{"fragment", head("GET", "/a#b"), "400"},
		{"raw byte above ASCII", head("GET", "/\xe4"), "400"},
		{"broken escape, which routing refuses", head("GET", "/%zz"), "200"},
		{"path twice", append(head("GET", "/"), ":path", "/b"), "reset"},
		{"long path", head("GET", "/"+long), "414"},
		{"no authority", head("GET", "/", ":authority", "-"), "400"},
		{"empty authority", head("GET", "/", ":authority", ""), "400"},
		{"authority with a path", head("GET", "/", ":authority", "edge.test/x"), "400"},
		{"authority with a user", head("GET", "/", ":authority", "me@edge.test"), "reset"},
		{"authority with a comma", head("GET", "/", ":authority", "edge.test,evil.test"), "400"},
		{"Host for the authority", head("GET", "/", ":authority", "-", "host", "edge.test"), "200"},
		{"Host unlike the authority", head("GET", "/", "host", "evil.test"), "reset"},
		{"Host twice", head("GET", "/", ":authority", "-", "host", "a", "host", "b"), "reset"},
		{"connection", head("GET", "/", "connection", "close"), "reset"},
		{"transfer-encoding", head("POST", "/", "transfer-encoding", "chunked"), "reset"},
		{"upgrade", head("GET", "/", "upgrade", "websocket"), "reset"},
		{"te: trailers", head("GET", "/", "te", "trailers"), "200"},
		{"te: gzip", head("GET", "/", "te", "gzip"), "reset"},
		{"upper-case name", head("GET", "/", "X-A", "b"), "reset"},
		{"space in name", head("GET", "/", "x a", "b"), "reset"},
		{"CRLF in value", head("GET", "/", "x-a", "b\r\nc: d"), "reset"},
		{"NUL in value", head("GET", "/", "x-a", "b\x00"), "reset"},
		{"value ends with a space", head("GET", "/", "x-a", "b "), "400"},
		{"value begins with a tab", head("GET", "/", "x-a", "\tb"), "400"},
		{"unknown expectation", head("POST", "/", "expect", "200-maybe"), "417"},
		{"long line", head("GET", "/", "x-a", long), "431"},
		{"header list over its limit", head("GET", "/", "x-a", strings.Repeat("a", 30<<10), "x-b", strings.Repeat("a", 3<<10)), "431"},
		{"header list far over its limit", head("GET", "/", "x-a", strings.Repeat("a", 80<<10)), "closed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			k, h, _ := dial(t, Settings{}, echo)
			k.open(1, true, c.fields...)
			if got := k.verdict(1); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if c.want == "reset" && len(h.seen) > 0 {
				t.Errorf("the handler was asked for %q", h.seen)
			}
		})
	}
}

// TestManyFields: too many lines, and cookie crumbs, which count as one.
func TestManyFields(t *testing.T) {
	k, _, _ := dial(t, Settings{}, echo)
	many := head("GET", "/")
	for i := range 101 {
		many = append(many, fmt.Sprint("x-", i), "1")
	}
	k.open(1, true, many...)
	if got := k.verdict(1); got != "431" {
		t.Errorf("101 lines: got %s, want 431", got)
	}
	crumbs := head("GET", "/")
	for i := range 150 {
		crumbs = append(crumbs, "cookie", fmt.Sprintf("c%d=%d", i, i))
	}
	k.open(3, true, crumbs...)
	if got := k.verdict(3); got != "200" || !strings.Contains(k.got[3].body, "cookie=c0=0; c1=1; c2=2;") {
		t.Errorf("crumbs: got %s %q, want one line", got, k.got[3].body)
	}
}

// TestFieldOrder: fields are passed on in the order in which they came.
func TestFieldOrder(t *testing.T) {
	k, _, _ := dial(t, Settings{}, echo)
	want := ` c=3 b=2 a=1 b=1`
	for i := range uint32(20) {
		k.open(2*i+1, true, head("GET", "/", "c", "3", "b", "2", "a", "1", "b", "1")...)
		k.wait(2*i + 1)
		if got := k.got[2*i+1].body; !strings.HasSuffix(got, want) {
			t.Fatalf("got %q, want its end to be %q", got, want)
		}
	}
}

// TestContentLength: the bytes of a body are as many as its length says, and nobody
// behind the engine ever sees a whole body when they are not.
func TestContentLength(t *testing.T) {
	type step struct {
		data string
		end  bool
	}
	for _, c := range []struct {
		name    string
		lengths []string
		steps   []step
		want    string // verdict
		body    string // what the handler read, if it saw the end
	}{
		{"right", []string{"5"}, []step{{"hel", false}, {"lo", true}}, "200", "hello"},
		{"end in a frame of its own", []string{"5"}, []step{{"hello", false}, {"", true}}, "200", "hello"},
		{"none", nil, []step{{"hello", true}}, "200", "hello"},
		{"zero", []string{"0"}, []step{{"", true}}, "200", ""},
		{"more than it says", []string{"4"}, []step{{"hello", true}}, "reset", ""},
		{"more in a second frame", []string{"5"}, []step{{"hello", false}, {"GET /", true}}, "reset", ""},
		{"more than nothing", []string{"0"}, []step{{"GET /", true}}, "reset", ""},
		{"less", []string{"6"}, []step{{"hello", true}}, "400", ""},
		{"less in a second frame", []string{"6"}, []step{{"hello", false}, {"", true}}, "400", ""},
		{"nothing", []string{"5"}, nil, "400", ""},
		{"zero and nothing", []string{"0"}, nil, "200", ""},
		{"two unlike", []string{"5", "6"}, []step{{"hello", true}}, "400", ""},
		{"two alike", []string{"5", "5"}, []step{{"hello", true}}, "400", ""},
		{"plus", []string{"+5"}, []step{{"hello", true}}, "", ""},
		{"list", []string{"5,5"}, []step{{"hello", true}}, "", ""},
		{"empty", []string{""}, []step{{"hello", true}}, "", ""},
		{"overflow", []string{"18446744073709551621"}, []step{{"hello", true}}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			whole := make(chan string, 1)
			k, _, _ := dial(t, Settings{}, func(x *exchange.Exchange) {
				if x.Refused == 0 {
					b, err := io.ReadAll(x.Request.Body)
					if err == nil {
						whole <- string(b)
					} else if x.Request.Length > 0 && int64(len(b)) >= x.Request.Length {
						whole <- "all bytes of a bad body"
					}
					x.Request.Body = exchange.NoBody
					if err != nil {
						text(x, 400, "bad body")
						return
					}
				}
				echo(x)
			})
			fields := head("POST", "/")
			for _, l := range c.lengths {
				fields = append(fields, "content-length", l)
			}
			k.open(1, c.steps == nil, fields...)
			for _, s := range c.steps {
				k.data(1, s.end, s.data)
			}
			got := k.verdict(1)
			if c.want == "" && got != "400" && got != "reset" || c.want != "" && got != c.want {
				t.Errorf("got %s, want %q (\"\" is any refusal)", got, c.want)
			}
			select {
			case b := <-whole:
				if c.want != "200" || b != c.body {
					t.Errorf("the handler saw a whole body %q", b)
				}
			default:
				if c.want == "200" {
					t.Error("the handler did not see the whole body")
				}
			}
		})
	}
}

// TestLastBytesWait: the last byte of a body of known length is not given out before
// the stream has ended.
func TestLastBytesWait(t *testing.T) {
	read := make(chan int, 10)
	k, _, _ := dial(t, Settings{}, func(x *exchange.Exchange) {
		total, buf := 0, make([]byte, 64)
		for {
			n, err := x.Request.Body.Read(buf)
			total += n
			read <- total
			if err != nil {
				break
			}
		}
		text(x, 200, "")
	})
	k.open(1, false, head("POST", "/", "content-length", "10")...)
	k.data(1, false, "12345")
	if n := <-read; n != 5 {
		t.Fatalf("%d bytes were read, want 5", n)
	}
	k.data(1, false, "67890")
	k.must(k.fr.WritePing(false, [8]byte{}))
	for k.pongs == 0 { // the connection has gone on past the data; the handler has not
		if !k.frame() {
			t.Fatal("the connection ended")
		}
	}
	select {
	case n := <-read:
		t.Fatalf("%d bytes were given out before the stream had ended", n)
	default:
	}
	k.data(1, true, "")
	if n := <-read; n != 10 {
		t.Fatalf("%d bytes were read in the end, want 10", n)
	}
	if got := k.verdict(1); got != "200" {
		t.Errorf("got %s", got)
	}
}

// TestTrailers: trailer fields arrive, announced or not; those that frame, route or
// identify a message are dropped.
func TestTrailers(t *testing.T) {
	for _, c := range []struct{ name, announced, field, want string }{
		{"announced", "x-t", "x-t", "trailer:x-t=1"},
		{"not announced", "x-u", "x-t", "trailer:x-t=1"},
		{"no place for it", "authorization, forwarded", "forwarded", `trailer=authorization, forwarded`},
		{"host", "host", "host", `trailer=host`},
		{"identity", "cookie", "cookie", `trailer=cookie`},
		{"pseudo field", "x-t", ":path", "reset"},
		{"upper case", "x-t", "X-T", "reset"},
	} {
		t.Run(c.name, func(t *testing.T) {
			k, _, _ := dial(t, Settings{}, echo)
			k.open(1, false, head("POST", "/", "trailer", c.announced)...)
			k.data(1, false, "hello")
			k.open(1, true, c.field, "1")
			got := k.verdict(1)
			if body := k.got[1].body; c.want == "reset" && got == "200" || c.want != "reset" && !strings.HasSuffix(body, c.want) {
				t.Errorf("got %s %q, want %q", got, body, c.want)
			}
		})
	}
}

// TestBodyLimits: size and silence.
func TestBodyLimits(t *testing.T) {
	k, _, _ := dial(t, Settings{MaxBody: 8, BodyIdle: 50 * time.Millisecond}, echo)
	k.open(1, false, head("POST", "/", "content-length", "9")...)
	if got := k.verdict(1); got != "413" {
		t.Errorf("declared too long: got %s", got)
	}
	k.open(3, false, head("POST", "/")...)
	k.data(3, false, "12345")
	k.data(3, false, "6789")
	if got := k.verdict(3); got != "413" {
		t.Errorf("grown too long: got %s", got)
	}
	k.open(5, false, head("POST", "/")...)
	k.data(5, false, "1")
	if got := k.verdict(5); got != "408" {
		t.Errorf("silent: got %s", got)
	}
	k.open(7, false, head("POST", "/", "content-length", "0")...)
	if got := k.verdict(7); got != "408" {
		t.Errorf("silent after zero: got %s", got)
	}
}

// TestContinue: an announced body is asked for when the handler first reads.
func TestContinue(t *testing.T) {
	k, _, _ := dial(t, Settings{}, echo)
	k.open(1, false, head("POST", "/", "expect", "100-continue", "content-length", "5")...)
	for k.got[1] == nil {
		if !k.frame() {
			t.Fatal("the connection ended")
		}
	}
	if got := k.got[1].interim; len(got) != 1 || got[0] != "100 " {
		t.Fatalf("got %q, want 100", got)
	}
	k.data(1, true, "hello")
	if got := k.verdict(1); got != "200" || strings.Contains(k.got[1].body, "Expect") {
		t.Errorf("got %s %q", got, k.got[1].body)
	}
}

// TestStopBody: a read that waits for the client ends when nobody wants the rest.
func TestStopBody(t *testing.T) {
	k, _, _ := dial(t, Settings{}, func(x *exchange.Exchange) {
		stopped := make(chan error)
		go func() {
			_, err := io.ReadAll(x.Request.Body)
			stopped <- err
		}()
		x.Request.StopBody()
		if err := <-stopped; err == nil {
			panic("the body ended well")
		}
		text(x, 200, "early")
	})
	k.open(1, false, head("POST", "/")...)
	k.data(1, false, "x")
	k.wait(1)
	if k.got[1].status != "200" || k.got[1].body != "early" {
		t.Errorf("got %+v, want the early answer", k.got[1])
	}
}
