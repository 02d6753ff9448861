package edge

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// recorder is an origin that keeps what it was asked.
type recorder struct {
	mu   sync.Mutex
	seen []string
}

func (o *recorder) answer(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.seen = append(o.seen, fmt.Sprintf("%s %s %s %s %d %v %s", q.Method, q.RequestURI, q.Header.Get("X-A"), q.Header.Get("Authorization"), len(body), err, q.Trailer.Get("X-Sum")))
	w.WriteHeader(500)
}

func (o *recorder) list() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]string(nil), o.seen...)
}

func TestMirror(t *testing.T) {
	own := newOrigin(t, func(w http.ResponseWriter, q *http.Request) {
		_, _ = io.Copy(io.Discard, q.Body)
		_, _ = io.WriteString(w, "from the origin")
	})
	var all, half recorder
	one, two := newOrigin(t, all.answer), newOrigin(t, half.answer)
	r := newRig(t, &Config{}, fmt.Sprintf(`services:
- {name: own, url: %q, x_keyway_upstream_auth: {type: bearer, value: mine}, routes: [
    {name: r, paths: [/r], strip_path: false, x_keyway_mirrors: [{service: one}, {service: two, numerator: 1, denominator: 2}, {service: gone}]},
    {name: streamed, paths: [/s], request_buffering: false, x_keyway_mirrors: [{service: one}]}]}
- {name: one, url: %q, x_keyway_upstream_auth: {type: bearer, value: theirs}}
- {name: two, url: %q}
- {name: gone, host: 127.0.0.1, port: 1}
`, own.URL, one.URL, two.URL))
	m := &Mirrors{}
	r.handler.Mirror(m)
	const n = 40
	for range n {
		x := ask(t, "GET", "h.test", "/r/x?q=1", "X-A: a", "Authorization: client's")
		if body := r.do(x); x.Response.Status != 200 || body != "from the origin" {
			t.Fatalf("%d %q", x.Response.Status, body)
		}
		if got := own.got().Header.Get("Authorization"); got != "Bearer mine" {
			t.Fatalf("the service got %q", got)
		}
	}
	poll(t, "not all copies came", func() bool { return len(all.list()) == n && m.open.Load() == 0 })
	for _, got := range all.list() {
		if got != "GET /r/x?q=1 a Bearer theirs 0 <nil> " {
			t.Fatalf("the copy was %q", got)
		}
	}
	if got := half.list(); len(got) < n/2-3 || len(got) > n/2+3 || got[0] != "GET /r/x?q=1 a client's 0 <nil> " {
		t.Errorf("%d of %d copies, %q", len(got), n, got[0])
	}
	if got := m.Results(); got["failed"] != n || got["answered"] != uint64(n+len(half.list())) || len(got) != 2 {
		t.Errorf("counted %v", got)
	}
	// Bodies, read before they are sent and as they come, with trailers.
	for i, target := range []string{"/r", "/s"} {
		x := ask(t, "POST", "h.test", target)
		x.Request.Body, x.Request.Length = &trailing{Reader: strings.NewReader(strings.Repeat("b", 300<<10)), to: &x.Request.Trailer}, -1
		r.do(x)
		if x.Response.Status != 200 {
			t.Fatalf("%s: %d", target, x.Response.Status)
		}
		poll(t, "no copy came", func() bool { return len(all.list()) == n+1+i && m.open.Load() == 0 })
		if got := all.list()[n+i]; !strings.HasSuffix(got, "Bearer theirs 307200 <nil> 7") {
			t.Errorf("%s: the copy was %q", target, got)
		}
	}
	if m.held.Load() != 0 {
		t.Errorf("%d bytes are still held", m.held.Load())
	}
	// A conversation is not copied.
	x := ask(t, "GET", "h.test", "/r")
	x.Request.Upgrade = "websocket"
	r.do(x)
	if m.open.Load() != 0 || len(all.list()) != n+2 {
		t.Error("an upgrade was copied")
	}
}

// trailing is a body with a trailer field.
type trailing struct {
	io.Reader
	to *exchange.Fields
}

func (b *trailing) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if errors.Is(err, io.EOF) && b.to.Len() == 0 {
		b.to.Add("X-Sum", "7")
	}
	return n, err
}

// A mirror that does not answer, or takes nothing, holds up nobody, and there are never
// more than so many copies.
func TestMirrorHoldsUpNobody(t *testing.T) {
	own := newOrigin(t, func(w http.ResponseWriter, q *http.Request) { _, _ = io.Copy(w, q.Body) })
	release := make(chan struct{})
	var stuck atomic.Int32
	deaf := newOrigin(t, func(_ http.ResponseWriter, q *http.Request) {
		stuck.Add(1)
		select {
		case <-release:
		case <-q.Context().Done():
		}
	})
	t.Cleanup(func() { close(release) })
	r := newRig(t, &Config{}, fmt.Sprintf("services:\n- {name: own, url: %q, routes: [{name: r, paths: [/], x_keyway_mirrors: [{service: deaf}]}]}\n- {name: deaf, url: %q, read_timeout: 60000}\n", own.URL, deaf.URL))
	m := &Mirrors{}
	r.handler.Mirror(m)
	began := time.Now()
	big := bytes.Repeat([]byte("x"), 16<<20)
	x := ask(t, "POST", "h.test", "/")
	x.Request.Body, x.Request.Length, x.Request.LengthGiven = bytes.NewReader(big), int64(len(big)), true
	if body := r.do(x); x.Response.Status != 200 || len(body) != len(big) {
		t.Fatalf("%d, %d bytes", x.Response.Status, len(body))
	}
	poll(t, "a copy that is behind was not given up", func() bool { return m.Results()["behind"] == 1 && m.held.Load() == 0 && m.open.Load() == 0 })
	for range mirrorsAtOnce + 10 {
		x := ask(t, "GET", "h.test", "/")
		if r.do(x); x.Response.Status != 200 {
			t.Fatal(x.Response.Status)
		}
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("took %v", took)
	}
	if got := m.Results()["crowded"]; got != 10 || m.open.Load() != mirrorsAtOnce {
		t.Errorf("%d copies too many, %d under way", got, m.open.Load())
	}
}

// What is put in comes out, and what nobody takes is given up.
func TestPassage(t *testing.T) {
	m := &Mirrors{}
	var q exchange.Request
	p := newPassage(&m.held, &q, func() {})
	var got bytes.Buffer
	done := make(chan error)
	go func() {
		_, err := io.Copy(&got, p)
		done <- err
	}()
	var want bytes.Buffer
	for i := range 100 {
		part := bytes.Repeat([]byte{byte(i)}, i*10)
		want.Write(part)
		p.put(part)
	}
	var trailer exchange.Fields
	trailer.Add("X-T", "1")
	p.finish(io.EOF, &trailer)
	p.abandon() // too late to matter, if all was taken
	if err := <-done; err == nil && (!bytes.Equal(got.Bytes(), want.Bytes()) || q.Trailer.Get("X-T") != "1") {
		t.Errorf("%d bytes of %d came, trailer %q", got.Len(), want.Len(), q.Trailer.Get("X-T"))
	}
	if m.held.Load() != 0 {
		t.Errorf("%d bytes are held", m.held.Load())
	}
	p = newPassage(&m.held, &q, func() {})
	p.put(make([]byte, mirrorAhead))
	p.put([]byte{1})
	if _, err := p.Read(make([]byte, 1)); !errors.Is(err, errBehind) || !p.behind() || m.held.Load() != 0 {
		t.Errorf("%v, %d bytes are held", err, m.held.Load())
	}
	p = newPassage(&m.held, &q, func() {})
	m.held.Store(mirrorHeld)
	p.put([]byte{1})
	if !p.behind() || m.held.Load() != mirrorHeld {
		t.Errorf("beyond what all may hold: %v, %d", p.behind(), m.held.Load())
	}
	m.held.Store(0)
	p = newPassage(&m.held, &q, func() {})
	p.put([]byte("ab"))
	p.cut()
	if b, err := io.ReadAll(p); !errors.Is(err, errAbandoned) || len(b) != 0 || m.held.Load() != 0 {
		t.Errorf("a body that broke off: %q, %v", b, err)
	}
}
