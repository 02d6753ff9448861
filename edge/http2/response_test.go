package http2

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// TestResponses: what the handler said is what is sent, and nothing is made up.
func TestResponses(t *testing.T) {
	for _, c := range []struct {
		name    string
		method  string
		resp    func(r *exchange.Response)
		status  string
		fields  string
		body    string
		trailer string
	}{
		{"fields", "GET", func(r *exchange.Response) {
			r.Status, r.Length, r.Body = 200, 5, strings.NewReader("<p>hi")
			r.Fields.Add("X-B", "2")
			r.Fields.Add("x-a", "1")
			r.Fields.Add("X-B", "1")
		}, "200", "content-length=5 x-a=1 x-b=2 x-b=1", "<p>hi", ""},
		{"hop by hop", "GET", func(r *exchange.Response) {
			r.Status, r.Length = 426, 0
			r.Fields.Add("Connection", "Upgrade")
			r.Fields.Add("Upgrade", "TLS/1.2")
			r.Fields.Add("Keep-Alive", "timeout=5")
			r.Fields.Add("Transfer-Encoding", "chunked")
		}, "426", "content-length=0", "", ""},
		{"own date and type", "GET", func(r *exchange.Response) {
			r.Status, r.Length, r.Body = 200, 1, strings.NewReader("x")
			r.Fields.Add("Date", "then")
			r.Fields.Add("Content-Type", "text/x")
		}, "200", "content-length=1 content-type=text/x date=then", "x", ""},
		{"unknown length", "GET", func(r *exchange.Response) { r.Status, r.Length, r.Body = 200, -1, strings.NewReader("abc") }, "200", "", "abc", ""},
		{"HEAD", "HEAD", func(r *exchange.Response) { r.Status, r.Length, r.Body = 200, 500, strings.NewReader("") }, "200", "content-length=500", "", ""},
		{"204", "GET", func(r *exchange.Response) { r.Status, r.Length = 204, 0 }, "204", "", "", ""},
		{"304", "GET", func(r *exchange.Response) { r.Status, r.Length = 304, 77 }, "304", "content-length=77", "", ""},
		{"trailer", "GET", func(r *exchange.Response) {
			r.Status, r.Length, r.Body = 200, -1, strings.NewReader("abc")
			r.Trailer.Add("grpc-status", "0")
			r.Trailer.Add("Connection", "close")
		}, "200", "", "abc", "grpc-status=0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			k, h, _ := dial(t, Settings{}, func(x *exchange.Exchange) { c.resp(&x.Response) })
			k.open(1, true, head(c.method, "/")...)
			a := k.wait(1)
			slices.SortStableFunc(a.fields, func(x, y string) int {
				nx, _, _ := strings.Cut(x, "=")
				ny, _, _ := strings.Cut(y, "=")
				return strings.Compare(nx, ny)
			})
			if got := strings.Join(a.fields, " "); a.status != c.status || got != c.fields || a.body != c.body || strings.Join(a.trailer, " ") != c.trailer || a.reset {
				t.Errorf("got %+v", a)
			}
			poll(t, "done", func() bool { return len(h.ended()) == 1 })
			if err := h.ended()[0]; err != nil {
				t.Errorf("done with %v", err)
			}
		})
	}
}

type brokenBody struct {
	r      io.Reader
	closed chan struct{}
}

var errOrigin = errors.New("the origin broke off")

func (b *brokenBody) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err == io.EOF {
		err = errOrigin
	}
	return n, err
}

func (b *brokenBody) Close() error {
	close(b.closed)
	return nil
}

// failing gives nothing but its error.
type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("the target is gone") }

// TestBrokenResponse: a response that breaks off never looks complete, and the client hears
// of it what there was: its status at the least.
func TestBrokenResponse(t *testing.T) {
	for name, resp := range map[string]func(r *exchange.Response){
		"origin breaks off": func(r *exchange.Response) {
			r.Status, r.Length, r.Body = 200, -1, &brokenBody{strings.NewReader("abc"), make(chan struct{})}
		},
		"short":                 func(r *exchange.Response) { r.Status, r.Length, r.Body = 200, 9, strings.NewReader("abc") },
		"long":                  func(r *exchange.Response) { r.Status, r.Length, r.Body = 200, 3, strings.NewReader("abcdef") },
		"before its first byte": func(r *exchange.Response) { r.Status, r.Length, r.Body = 200, -1, failing{} },
	} {
		t.Run(name, func(t *testing.T) {
			var sent exchange.Response
			k, h, _ := dial(t, Settings{}, func(x *exchange.Exchange) {
				resp(&x.Response)
				sent.Body = x.Response.Body
			})
			k.open(1, true, head("GET", "/")...)
			if a := k.wait(1); !a.reset || a.ended {
				t.Errorf("got %+v, want the stream reset", a)
			} else if want := map[bool]string{false: "abc"}[name == "before its first byte"]; a.status != "200" || a.body != want {
				t.Errorf("the client hears %s %q, want 200 %q", a.status, a.body, want)
			}
			poll(t, "done", func() bool { return len(h.ended()) == 1 })
			if h.ended()[0] == nil {
				t.Error("done without an error")
			}
			if b, ok := sent.Body.(*brokenBody); ok {
				<-b.closed
			}
			k.open(3, true, head("GET", "/again")...)
			k.wait(3) // the connection goes on
		})
	}
}

// TestPanic: a panic resets its stream, and no other.
func TestPanic(t *testing.T) {
	k, h, _ := dial(t, Settings{}, func(x *exchange.Exchange) {
		if x.Request.Path == "/panic" {
			panic("on purpose")
		}
		text(x, 200, "")
	})
	k.open(1, true, head("GET", "/panic")...)
	k.open(3, true, head("GET", "/")...)
	if a, b := k.verdict(1), k.verdict(3); a != "reset" || b != "200" {
		t.Errorf("got %s and %s", a, b)
	}
	poll(t, "both done", func() bool { return len(h.ended()) == 2 })
}

// TestInterim: hints are sent at once, and their fields are theirs alone.
func TestInterim(t *testing.T) {
	k, _, _ := dial(t, Settings{}, func(x *exchange.Exchange) {
		var f exchange.Fields
		f.Add("Link", "</a>")
		if err := x.Interim(103, &f); err != nil {
			panic(err)
		}
		text(x, 200, "")
	})
	k.open(1, true, head("GET", "/")...)
	a := k.wait(1)
	if len(a.interim) != 1 || a.interim[0] != "103 link=</a>" || a.status != "200" || strings.Join(a.fields, " ") != "content-length=0" {
		t.Errorf("got %+v", a)
	}
}

// TestEarlyAnswer: an answer need not wait for the body.
func TestEarlyAnswer(t *testing.T) {
	k, _, _ := dial(t, Settings{}, func(x *exchange.Exchange) { text(x, 403, "no") })
	k.open(1, false, head("POST", "/")...)
	k.data(1, false, "x")
	if got := k.verdict(1); got != "403" {
		t.Fatalf("got %s", got)
	}
	k.open(3, false, head("POST", "/")...)
	if got := k.verdict(3); got != "403" {
		t.Errorf("the next stream got %s", got)
	}
	// What the client sent before it read the answer is not held against it.
	for range 500 {
		k.data(3, false, "x")
	}
	k.open(5, true, head("GET", "/")...)
	if got := k.verdict(5); got != "403" {
		t.Errorf("after the rest of an upload that nobody wanted: got %s", got)
	}
}

// TestStreamingAnswer: what is there of a body of unknown length is sent at once.
func TestStreamingAnswer(t *testing.T) {
	r, w := io.Pipe()
	k, _, _ := dial(t, Settings{}, func(x *exchange.Exchange) { x.Response = exchange.Response{Status: 200, Length: -1, Body: r} })
	k.open(1, true, head("GET", "/")...)
	for _, piece := range []string{"one", "two"} {
		if _, err := io.WriteString(w, piece); err != nil {
			t.Fatal(err)
		}
		for !strings.HasSuffix(k.answer(1).body, piece) {
			if !k.frame() {
				t.Fatal("the connection ended")
			}
		}
	}
	_ = w.Close()
	k.wait(1)
}

// late is a body whose first bytes are not there yet.
type late struct{ io.Reader }

func (late) Waiting() bool { return true }

// TestLateBody: the head does not wait for the first bytes of an endless body.
func TestLateBody(t *testing.T) {
	r, w := io.Pipe()
	k, _, _ := dial(t, Settings{}, func(x *exchange.Exchange) {
		x.Response = exchange.Response{Status: 200, Length: -1, Body: late{r}}
	})
	k.open(1, true, head("GET", "/")...)
	for k.answer(1).status == "" {
		if !k.frame() {
			t.Fatal("the connection ended")
		}
	}
	if _, err := io.WriteString(w, "event"); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	if a := k.wait(1); a.body != "event" {
		t.Errorf("got %q", a.body)
	}
}

// TestClientGone: a stream that its client gives up ends the exchange's context.
func TestClientGone(t *testing.T) {
	began := make(chan struct{})
	k, h, _ := dial(t, Settings{}, func(x *exchange.Exchange) {
		close(began)
		<-x.Ctx.Done()
		text(x, 499, "nobody reads this")
	})
	k.open(1, true, head("GET", "/")...)
	<-began
	k.must(k.fr.WriteRSTStream(1, http2.ErrCodeCancel))
	poll(t, "done", func() bool { return len(h.ended()) == 1 })
}

// TestDrain: GOAWAY at once, and what the peer sent before it could know is answered
// like the request in flight; then the connection closes.
func TestDrain(t *testing.T) {
	began, release := make(chan struct{}), make(chan struct{})
	k, _, e := dial(t, Settings{}, func(x *exchange.Exchange) {
		if x.Request.Path == "/slow" {
			close(began)
			<-release
		}
		text(x, 200, "late")
	})
	k.open(1, true, head("GET", "/slow")...)
	<-began
	drained := make(chan struct{})
	go func() {
		e.Drain(t.Context())
		close(drained)
	}()
	for k.goAway == nil {
		if !k.frame() {
			t.Fatal("the connection ended without GOAWAY")
		}
	}
	if last := k.goAway.LastStreamID; last != 1<<31-1 {
		t.Errorf("the first GOAWAY names stream %d as the last", last)
	}
	k.open(3, true, head("GET", "/")...)
	if got := k.verdict(3); got != "200" {
		t.Errorf("a request that met the first GOAWAY on its way got %s", got)
	}
	<-drained
	close(release)
	if got := k.verdict(1); got != "200" || k.got[1].body != "late" {
		t.Errorf("the request in flight got %s %q", got, k.got[1].body)
	}
	for k.frame() {
	}
	if k.code != http2.ErrCodeNo {
		t.Errorf("GOAWAY said %v", k.code)
	}
}

// TestDrainBeforeFirst: a connection that was not there yet when the drain began goes after its first answer.
func TestDrainBeforeFirst(t *testing.T) {
	k, _, e := dial(t, Settings{}, echo)
	e.draining.Store(true)
	k.open(1, true, head("GET", "/")...)
	if got := k.verdict(1); got != "200" {
		t.Errorf("got %s", got)
	}
	for k.goAway == nil {
		if !k.frame() {
			t.Fatal("the connection ended without GOAWAY")
		}
	}
}

// TestLeave: the connection that is meant gets a GOAWAY and ends after its stream; the
// other one goes on.
func TestLeave(t *testing.T) {
	began, release := make(chan struct{}), make(chan struct{})
	k, _, e := dial(t, Settings{}, func(x *exchange.Exchange) {
		if x.Request.Path == "/slow" {
			close(began)
			<-release
		}
		text(x, 200, "late")
	})
	k.open(1, true, head("GET", "/slow")...)
	<-began
	e.Leave(t.Context(), func(*exchange.Conn) bool { return false })
	if e.Leave(canceled(t), func(*exchange.Conn) bool { return true }); k.goAway != nil {
		t.Fatal("the test's peer reads by itself")
	}
	left := make(chan struct{})
	go func() {
		defer close(left)
		e.Leave(t.Context(), func(*exchange.Conn) bool { return true })
	}()
	k.open(3, true, head("GET", "/")...)
	if got := k.verdict(3); got != "200" || k.goAway == nil {
		t.Errorf("a request that met the GOAWAY on its way got %s", got)
	}
	select {
	case <-left:
		t.Fatal("left with a request in flight")
	case <-time.After(farewell + farewell/4):
	}
	close(release)
	if got := k.verdict(1); got != "200" || k.got[1].body != "late" {
		t.Errorf("the request in flight got %s %q", got, k.got[1].body)
	}
	for k.frame() {
	}
	<-left
}

func canceled(t *testing.T) context.Context {
	ctx, end := context.WithCancel(t.Context())
	end()
	return ctx
}

// TestLeaveIdle: a connection without streams is closed after the farewell.
func TestLeaveIdle(t *testing.T) {
	k, _, e := dial(t, Settings{}, echo)
	k.open(1, true, head("GET", "/")...)
	if got := k.verdict(1); got != "200" {
		t.Fatal(got)
	}
	e.Leave(t.Context(), func(*exchange.Conn) bool { return true })
	for k.frame() {
	}
	if k.goAway == nil {
		t.Error("the connection ended without GOAWAY")
	}
}
