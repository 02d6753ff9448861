package http3

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go/quicvarint"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/exchange/wire"
)

// frameRoom is the longest head of a frame of a body: its type and a length of 4 bytes.
const frameRoom = 5

var errSwitched = errors.New("the upstream switched protocols, which was not asked of it")

// respond sends the response.
func (st *stream) respond() error {
	resp := &st.x.Response
	if resp.Switch != nil {
		_ = resp.Switch.Close()
		return errSwitched
	}
	if c, ok := resp.Body.(io.Closer); ok {
		defer func() { _ = c.Close() }()
	}
	none := st.x.Request.Method == http.MethodHead || resp.Status == http.StatusNoContent || resp.Status == http.StatusNotModified ||
		resp.Body == nil && resp.Trailer.Len() == 0
	head, err := st.headFrame(resp.Status, &resp.Fields, true)
	if err != nil {
		return err
	}
	if none {
		return st.write(head)
	}
	if len(head) > headRoom || resp.Length < 0 && exchange.Waiting(resp.Body) {
		// A response is never held back for its first bytes.
		if err := st.write(head); err != nil {
			return err
		}
		head = nil
	}
	if err := st.sendBody(head); err != nil {
		return err
	}
	if resp.Trailer.Len() == 0 {
		return nil
	}
	trailer, err := headers(0, &resp.Trailer, -1)
	if err != nil {
		return err
	}
	return st.write(trailer)
}

// headFrame makes the HEADERS frame of a response.
func (st *stream) headFrame(status int, fields *exchange.Fields, final bool) ([]byte, error) {
	length := int64(-1)
	resp := &st.x.Response
	if final && resp.Length >= 0 && status != http.StatusNoContent && (resp.Length > 0 || status != http.StatusNotModified) {
		length = resp.Length
	}
	return headers(status, fields, length)
}

// headers makes a HEADERS frame. Fields of HTTP/1.1 connections may not be sent here:
// what the upstream side let through, or a plugin set, ends here.
func headers(status int, fields *exchange.Fields, length int64) ([]byte, error) {
	var block bytes.Buffer
	enc := qpack.NewEncoder(&block)
	put := func(name, value string) { _ = enc.WriteField(qpack.HeaderField{Name: name, Value: value}) } // a Buffer takes all
	if status > 0 {
		put(":status", strconv.Itoa(status))
	}
	for i := range fields.Len() {
		f := fields.At(i)
		switch name := strings.ToLower(f.Name); {
		case name == "connection", name == "keep-alive", name == "proxy-connection", name == "transfer-encoding", name == "upgrade":
		case !wire.IsToken(name):
			return nil, fmt.Errorf("writing field %q: the name is not a token", f.Name)
		case !wire.Plain(f.Value):
			return nil, fmt.Errorf("writing field %s: its value has a control character", f.Name)
		default:
			put(name, f.Value)
		}
	}
	if length >= 0 {
		put("content-length", strconv.FormatInt(length, 10))
	}
	b := quicvarint.Append(make([]byte, 0, block.Len()+9), frameHeaders)
	b = quicvarint.Append(b, uint64(block.Len()))
	return append(b, block.Bytes()...), nil
}

// write sends b within the time that a write may take.
func (st *stream) write(b []byte) error {
	_ = st.s.SetWriteDeadline(time.Now().Add(st.c.e.set.WriteStall))
	n, err := st.s.Write(b)
	st.x.BytesOut += int64(n)
	return err
}

// sendBody sends the body, behind the head that is not sent yet. What one read gives is
// sent at once.
func (st *stream) sendBody(head []byte) error {
	resp := &st.x.Response
	if resp.Body == nil {
		return st.write(head)
	}
	box := st.c.e.bodies.Get().(*[]byte)
	defer st.c.e.bodies.Put(box)
	buf := *box
	var total int64
	for {
		at := copy(buf, head)
		n, err := resp.Body.Read(buf[at+frameRoom:][:bodySize])
		total += int64(n)
		if n > 0 {
			buf[at] = frameData
			quicvarint.AppendWithLen(buf[:at+1], uint64(n), frameRoom-1)
			at += frameRoom + n
		}
		if at > 0 && (n > 0 || err != nil) {
			if err := st.write(buf[:at]); err != nil {
				return err
			}
			head = nil
		}
		switch {
		case err != nil && !errors.Is(err, io.EOF):
			return err
		case resp.Length >= 0 && (total > resp.Length || err != nil && total != resp.Length):
			return io.ErrUnexpectedEOF
		case err != nil:
			return nil
		}
	}
}

// interim sends a 1xx response at once.
func (st *stream) interim(status int, fields *exchange.Fields) error {
	if fields == nil {
		fields = &exchange.Fields{}
	}
	b, err := st.headFrame(status, fields, false)
	if err != nil {
		return err
	}
	return st.write(b)
}
