package http2

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/exchange/wire"
)

// tape is a connection whose peer has said everything that it will, and reads nothing.
type tape struct {
	net.Conn
	in io.Reader
}

func (t *tape) Read(p []byte) (int, error)     { return t.in.Read(p) }
func (*tape) Write(p []byte) (int, error)      { return len(p), nil }
func (*tape) Close() error                     { return nil }
func (*tape) SetReadDeadline(time.Time) error  { return nil }
func (*tape) SetWriteDeadline(time.Time) error { return nil }

// carried checks that every request that is let through is one that HTTP/1.1 carries as
// what it is.
type carried struct{ t *testing.T }

func (c carried) Handle(x *exchange.Exchange) {
	text(x, 200, "ok")
	q := &x.Request
	if x.Refused != 0 {
		return
	}
	_, _ = io.Copy(io.Discard, q.Body)
	b, err := wire.AppendRequestLine(nil, q.Method, q.Target)
	if err == nil {
		b, err = wire.AppendField(b, "Host", q.Host)
	}
	for f := range q.Fields.All() {
		if err == nil {
			b, err = wire.AppendField(b, f.Name, f.Value)
		}
	}
	if err != nil {
		c.t.Errorf("a request that HTTP/1.1 cannot carry: %v", err)
		return
	}
	b = append(b, "\r\n"...)
	var again exchange.Request
	var framing wire.Framing
	if e := wire.ParseRequest(string(b), wire.Limits{}, &again, &framing); e != nil {
		c.t.Errorf("a request that HTTP/1.1 refuses: %v\n%q", e, b)
		return
	}
	if got, want := fmt.Sprint(again.Method, again.Target, again.Host, again.Fields.Len()), fmt.Sprint(q.Method, q.Target, q.Host, q.Fields.Len()); got != want {
		c.t.Errorf("the request becomes another one: %s, was %s", got, want)
	}
}

func (carried) Done(*exchange.Exchange, error) {}

// FuzzConnection gives the engine whatever may come from a client.
func FuzzConnection(f *testing.F) {
	seed := func(frames func(fr *http2.Framer)) {
		var b bytes.Buffer
		fr := http2.NewFramer(&b, nil)
		fr.AllowIllegalWrites = true
		_ = fr.WriteSettings()
		frames(fr)
		f.Add(b.Bytes())
	}
	request := func(fr *http2.Framer, id uint32, end bool, fields ...string) {
		_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block(fields...), EndStream: end, EndHeaders: true})
	}
	seed(func(fr *http2.Framer) {
		request(fr, 1, true, head("GET", "/a?b", "cookie", "a=1", "cookie", "b=2", "te", "trailers")...)
		request(fr, 3, false, head("POST", "/", "content-length", "5")...)
		_ = fr.WriteDataPadded(3, false, []byte("hello"), []byte{0, 0})
		request(fr, 3, true, "x-trailer", "1")
	})
	seed(func(fr *http2.Framer) {
		request(fr, 1, true, head("OPTIONS", "*", "host", "edge.test", "connection", "x")...)
		_ = fr.WriteRSTStream(1, http2.ErrCodeCancel)
		_ = fr.WritePriority(5, http2.PriorityParam{StreamDep: 5})
		_ = fr.WriteWindowUpdate(0, 1<<31-1)
		_ = fr.WriteGoAway(0, http2.ErrCodeNo, []byte("x"))
	})
	seed(func(fr *http2.Framer) {
		_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82}, PadLength: 3})
		_ = fr.WriteContinuation(1, true, []byte{0x87, 0x84, 0x41, 0x01, 'a'})
		_ = fr.WritePing(false, [8]byte{})
	})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 64<<10 {
			return
		}
		e := New(carried{t}, Settings{WriteStall: time.Millisecond})
		in := io.MultiReader(bytes.NewReader([]byte(http2.ClientPreface)), bytes.NewReader(b))
		e.ServeConn(context.Background(), &tape{in: in}, &exchange.Conn{})
	})
}
