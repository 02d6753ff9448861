package edge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// slow answers at once, or as its query says: "head" waits before the head, "trickle"
// sends a byte now and then for ever, "talk" says what it is told.
func slow(w http.ResponseWriter, q *http.Request) {
	switch q.URL.RawQuery {
	case "head":
		<-q.Context().Done()
	case "talk":
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_, _ = io.Copy(c, rw)
	case "trickle":
		for q.Context().Err() == nil {
			_, _ = io.WriteString(w, ".")
			_ = http.NewResponseController(w).Flush()
			select {
			case <-q.Context().Done():
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
}

func TestRequestTimeout(t *testing.T) {
	o := newOrigin(t, slow)
	r := newRig(t, &Config{}, site(o, "{name: r, paths: [/], x_keyway_timeouts: {request: 600}}, {name: free, paths: [/free], x_keyway_timeouts: {}}"))
	do := func(x *exchange.Exchange) (int, string, time.Duration, error) {
		began := time.Now()
		own := x.Ctx
		r.handler.Handle(x)
		var body []byte
		var err error
		if x.Response.Body != nil {
			body, err = io.ReadAll(x.Response.Body)
			if c, ok := x.Response.Body.(io.Closer); ok {
				_ = c.Close()
			}
		}
		status := x.Response.Status
		r.handler.Done(x, err)
		if x.Ctx != own {
			t.Error("the exchange has another context than before")
		}
		return status, string(body), time.Since(began), err
	}
	// One that waits for a processor for all of its time says nothing of the others.
	poll(t, "who is in time gets no answer", func() bool {
		s, _, _, err := do(ask(t, "GET", "h.test", "/"))
		return s == 200 && err == nil
	})
	s, body, took, _ := do(ask(t, "GET", "h.test", "/?head"))
	if s != 504 || !strings.Contains(body, "timing out") || took > 20*time.Second {
		t.Errorf("no head: %d %q after %v", s, body, took)
	}
	if f := r.finished[len(r.finished)-1]; f.Source != "keyway" || !errors.Is(f.Reply.Err, errRequestTime) {
		t.Errorf("told as %s, %v", f.Source, f.Reply.Err)
	}
	if s, body, took, err := do(ask(t, "GET", "h.test", "/?trickle")); s != 200 || body == "" || err == nil || took > 20*time.Second {
		t.Errorf("no end: %d with %d bytes after %v, %v", s, len(body), took, err)
	}
	poll(t, "the origin still has a connection", func() bool { return o.open() <= 1 })

	// The body of a client that sends slowly is read no longer either.
	x := ask(t, "POST", "h.test", "/")
	pr, pw := io.Pipe()
	defer pw.Close()
	x.Request.Body, x.Request.Length = pr, -1
	x.Request.StopBody = func() { _ = pr.CloseWithError(&exchange.BodyError{Err: errors.New("stopped")}) }
	if s, _, took, _ := do(x); s != 504 || took > 20*time.Second {
		t.Errorf("no request body: %d after %v", s, took)
	}
	// A client that leaves is not taken for the time.
	ctx, cancel := context.WithCancel(t.Context())
	x = ask(t, "GET", "h.test", "/?head")
	x.Ctx = ctx
	cancel()
	if s, _, _, _ := do(x); s != 499 {
		t.Errorf("a client that left: %d", s)
	}
	// A conversation goes on for as long as it likes.
	poll(t, "nobody is upgraded", func() bool {
		x = ask(t, "GET", "h.test", "/?talk")
		x.Request.Upgrade = "echo"
		if r.handler.Handle(x); x.Response.Status != 101 {
			r.handler.Done(x, nil)
		}
		return x.Response.Status == 101
	})
	<-time.After(800 * time.Millisecond)
	said := make([]byte, 5)
	if _, err := io.WriteString(x.Response.Switch, "hello"); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(x.Response.Switch, said); err != nil || string(said) != "hello" || x.Ctx.Err() != nil {
		t.Errorf("%q came back, %v", said, err)
	}
	_ = x.Response.Switch.Close()
	r.handler.Done(x, nil)
	if s, _, _, err := do(ask(t, "GET", "h.test", "/free")); s != 200 || err != nil {
		t.Errorf("without a limit: %d, %v", s, err)
	}
}

func TestAttemptTimeoutAndRetryOfARoute(t *testing.T) {
	var hits atomic.Int32
	o := newOrigin(t, func(w http.ResponseWriter, q *http.Request) {
		n := hits.Add(1)
		switch {
		case q.URL.RawQuery == "late" && n < 3:
			<-q.Context().Done()
		case q.URL.RawQuery == "status" && n < 3:
			w.WriteHeader(503)
		case q.URL.RawQuery == "trickle":
			slow(w, q)
		}
	})
	r := newRig(t, &Config{}, site(o, strings.Join([]string{
		"{name: plain, paths: [/plain], strip_path: false}",
		"{name: late, paths: [/late], x_keyway_timeouts: {attempt: 400}}",
		"{name: once, paths: [/once], x_keyway_timeouts: {attempt: 400}, x_keyway_retry: {attempts: 0}}",
		"{name: some, paths: [/some], x_keyway_retry: {on_statuses: [503], attempts: 2, backoff: 60}}",
		"{name: few, paths: [/few], x_keyway_retry: {on_statuses: [503], attempts: 1}}",
		"{name: none, paths: [/none], x_keyway_retry: {on_statuses: [500], attempts: 2}}",
		"{name: both, paths: [/both], x_keyway_timeouts: {request: 200}, x_keyway_retry: {on_statuses: [503], attempts: 2, backoff: 10000}}",
	}, ", ")))
	for _, row := range []struct {
		method, target string
		status, hits   int
		least, most    time.Duration
	}{
		{"GET", "/plain?status", 503, 1, 0, 0},
		{"GET", "/late?late", 200, 3, 800 * time.Millisecond, 0},
		{"POST", "/late?late", 504, 1, 400 * time.Millisecond, 0},
		{"GET", "/once?late", 504, 1, 400 * time.Millisecond, 0},
		{"GET", "/some?status", 200, 3, 120 * time.Millisecond, 0},
		{"POST", "/some?status", 503, 1, 0, 0},
		{"GET", "/few?status", 503, 2, 0, 0},
		{"GET", "/none?status", 503, 1, 0, 0},
		{"GET", "/both?status", 504, 1, 200 * time.Millisecond, 9 * time.Second},
	} {
		fault := ""
		for range 3 { // an attempt that waits for a processor for all of its time is one more
			hits.Store(0)
			began := time.Now()
			x := ask(t, row.method, "h.test", row.target)
			r.do(x)
			took := time.Since(began)
			poll(t, row.target+": the origin was not asked as often as it is to be", func() bool { return int(hits.Load()) >= row.hits })
			if n := int(hits.Load()); x.Response.Status != row.status || n != row.hits || took < row.least || row.most > 0 && took > row.most {
				fault = fmt.Sprintf("%d, the origin was asked %d times, after %v", x.Response.Status, n, took)
				continue
			}
			fault = ""
			break
		}
		if fault != "" {
			t.Errorf("%s %s: %s; expected %+v", row.method, row.target, fault, row)
		}
	}
	// The end of the attempt's time is the end of a response too.
	x := ask(t, "GET", "h.test", "/late?trickle")
	r.handler.Handle(x)
	_, err := io.ReadAll(x.Response.Body)
	_ = x.Response.Body.(io.Closer).Close()
	r.handler.Done(x, err)
	if x.Response.Status != 200 || err == nil {
		t.Errorf("an endless response: %d, %v", x.Response.Status, err)
	}
}
