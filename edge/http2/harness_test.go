package http2

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// handler answers by a function and notes what Done was told.
type handler struct {
	f    func(x *exchange.Exchange)
	mu   sync.Mutex
	seen []string // targets handled
	done []error
}

func (h *handler) Handle(x *exchange.Exchange) {
	h.mu.Lock()
	h.seen = append(h.seen, x.Request.Target)
	h.mu.Unlock()
	h.f(x)
}

func (h *handler) Done(_ *exchange.Exchange, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.done = append(h.done, err)
}

func (h *handler) ended() []error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]error(nil), h.done...)
}

func text(x *exchange.Exchange, status int, s string) {
	x.Response.Status, x.Response.Length, x.Response.Body = status, int64(len(s)), strings.NewReader(s)
}

// echo answers with what it read, or with the status that the engine asks for.
func echo(x *exchange.Exchange) {
	if x.Refused != 0 {
		text(x, x.Refused, "refused")
		return
	}
	q := &x.Request
	body, err := io.ReadAll(q.Body)
	var be *exchange.BodyError
	if errors.As(err, &be) {
		text(x, max(be.Status, 400), "bad body")
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s host=%s length=%d body=%q", q.Method, q.Target, q.Host, q.Length, body)
	for f := range q.Fields.All() {
		fmt.Fprintf(&b, " %s=%s", f.Name, f.Value)
	}
	for f := range q.Trailer.All() {
		fmt.Fprintf(&b, " trailer:%s=%s", f.Name, f.Value)
	}
	text(x, 200, b.String())
}

// client writes frames by hand.
type client struct {
	t   *testing.T
	c   net.Conn
	fr  *http2.Framer
	got map[uint32]*answer
	// of the connection
	goAway *http2.GoAwayFrame
	code   http2.ErrCode
	pongs  int
	closed bool
}

// answer is what came on a stream.
type answer struct {
	interim []string
	status  string
	fields  []string // name=value
	body    string
	trailer []string
	ended   bool
	reset   bool
	code    http2.ErrCode
}

// dial runs an engine on loopback and connects to it.
func dial(t *testing.T, set Settings, f func(*exchange.Exchange)) (*client, *handler, *Engine) {
	t.Helper()
	h := &handler{f: f}
	e := New(h, set)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		c, err := l.Accept()
		if err == nil {
			e.ServeConn(ctx, c, &exchange.Conn{})
		}
	})
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Close()
		_ = l.Close()
		cancel()
		wg.Wait()
	})
	_ = c.SetDeadline(time.Now().Add(60 * time.Second))
	k := &client{t: t, c: c, fr: http2.NewFramer(c, c), got: map[uint32]*answer{}}
	k.fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	k.fr.AllowIllegalWrites = true
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	k.must(k.fr.WriteSettings())
	return k, h, e
}

func (k *client) must(err error) {
	k.t.Helper()
	if err != nil {
		k.t.Fatal(err)
	}
}

// block encodes name, value, name, value...
func block(fields ...string) []byte {
	var b bytes.Buffer
	enc := hpack.NewEncoder(&b)
	for i := 0; i < len(fields); i += 2 {
		_ = enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return b.Bytes()
}

// head are the pseudo fields of a request, fields behind them. A pseudo field among
// fields takes the place of its default; one whose value is "-" is left out.
func head(method, path string, fields ...string) []string {
	list := []string{":method", method, ":scheme", "https", ":path", path, ":authority", "edge.test"}
	for i := 0; i < len(fields); i += 2 {
		replaced := false
		for j := 0; j < 8 && strings.HasPrefix(fields[i], ":"); j += 2 {
			if list[j] == fields[i] {
				list[j+1], replaced = fields[i+1], true
			}
		}
		if !replaced {
			list = append(list, fields[i], fields[i+1])
		}
	}
	var kept []string
	for i := 0; i < len(list); i += 2 {
		if list[i+1] != "-" || !strings.HasPrefix(list[i], ":") {
			kept = append(kept, list[i], list[i+1])
		}
	}
	return kept
}

// open sends a header section, in several frames if it is long.
func (k *client) open(id uint32, end bool, fields ...string) {
	k.t.Helper()
	b := block(fields...)
	first := b[:min(len(b), 16<<10)]
	k.must(k.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: first, EndStream: end, EndHeaders: len(first) == len(b)}))
	for b = b[len(first):]; len(b) > 0; {
		next := b[:min(len(b), 16<<10)]
		b = b[len(next):]
		k.must(k.fr.WriteContinuation(id, len(b) == 0, next))
	}
}

func (k *client) data(id uint32, end bool, s string) {
	k.t.Helper()
	k.must(k.fr.WriteData(id, end, []byte(s)))
}

func (k *client) answer(id uint32) *answer {
	a := k.got[id]
	if a == nil {
		a = &answer{}
		k.got[id] = a
	}
	return a
}

// frame reads one frame; false at the end of the connection.
func (k *client) frame() bool {
	f, err := k.fr.ReadFrame()
	if err != nil {
		k.closed = true
		return false
	}
	switch f := f.(type) {
	case *http2.MetaHeadersFrame:
		k.headers(f)
	case *http2.DataFrame:
		a := k.answer(f.StreamID)
		a.body += string(f.Data())
		a.ended = f.StreamEnded()
	case *http2.RSTStreamFrame:
		a := k.answer(f.StreamID)
		a.reset, a.code = true, f.ErrCode
	case *http2.PingFrame:
		k.pongs++
	case *http2.GoAwayFrame:
		k.goAway, k.code = f, f.ErrCode
	}
	return true
}

func (k *client) headers(f *http2.MetaHeadersFrame) {
	a := k.answer(f.StreamID)
	var list []string
	for _, x := range f.RegularFields() {
		list = append(list, x.Name+"="+x.Value)
	}
	switch status := f.PseudoValue("status"); {
	case status == "":
		a.trailer = list
	case status[0] == '1':
		a.interim = append(a.interim, status+" "+strings.Join(list, ","))
	default:
		a.status, a.fields = status, list
	}
	a.ended = f.StreamEnded()
}

// wait reads until the stream is over.
func (k *client) wait(id uint32) *answer {
	k.t.Helper()
	for !k.answer(id).ended && !k.answer(id).reset {
		if !k.frame() {
			k.t.Fatalf("the connection ended before stream %d did", id)
		}
	}
	return k.answer(id)
}

// verdict says how a stream ended: its status, "reset", or "closed" with its connection.
func (k *client) verdict(id uint32) string {
	k.t.Helper()
	a := k.answer(id)
	for !a.ended && !a.reset {
		if !k.frame() {
			return "closed"
		}
	}
	if a.status == "" {
		return "reset"
	}
	return a.status
}

// poll waits for what another goroutine does.
func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 30 s", what)
		}
		time.Sleep(time.Millisecond)
	}
}
