package grpcweb

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// scratch is how much text is read at once.
const scratch = 8 << 10

var (
	errBase64 = errors.New("the body of a grpc-web-text request is not base64")
	errClosed = errors.New("the body is closed")
)

// decoder reads base64 in which each piece may have a padding of its own.
type decoder struct {
	source io.Reader
	in     [scratch]byte
	n      int // bytes of a group that is not whole yet
	out    []byte
	err    error
}

// Read answers decoded bytes.
func (d *decoder) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(d.out) == 0 {
		if d.err != nil {
			return 0, d.err
		}
		n, err := d.source.Read(d.in[d.n:])
		d.n += n
		d.err = err
		if errors.Is(err, io.EOF) && d.n%4 != 0 {
			d.err = &exchange.BodyError{Status: http.StatusBadRequest, Err: errBase64}
		}
		if err := d.decode(); err != nil {
			d.err = &exchange.BodyError{Status: http.StatusBadRequest, Err: err}
		}
	}
	n := copy(p, d.out)
	d.out = d.out[n:]
	return n, nil
}

// decode decodes the groups that are whole.
func (d *decoder) decode() error {
	whole := d.n / 4 * 4
	d.out = d.out[:0]
	for at := 0; at < whole; {
		end := whole
		if i := bytes.IndexByte(d.in[at:whole], '='); i >= 0 {
			end = at + i/4*4 + 4
		}
		var err error
		if d.out, err = base64.StdEncoding.AppendDecode(d.out, d.in[at:end]); err != nil {
			return errBase64
		}
		at = end
	}
	d.n = copy(d.in[:], d.in[whole:d.n])
	return nil
}

// encoder reads a response of gRPC's in the form of gRPC-Web: its messages, then a frame
// with its trailers.
type encoder struct {
	source   io.Reader
	response *exchange.Response
	text     bool
	in       []byte // of text
	out      []byte
	err      error
}

// Read answers what one read of the source gives: streams are not held back.
func (b *encoder) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(b.out) == 0 {
		if b.err != nil {
			return 0, b.err
		}
		if !b.text {
			n, err := b.source.Read(p)
			b.ended(err)
			if n > 0 {
				return n, nil
			}
			continue
		}
		if b.in == nil {
			b.in = make([]byte, scratch)
		}
		n, err := b.source.Read(b.in)
		if n > 0 {
			b.out = base64.StdEncoding.AppendEncode(nil, b.in[:n])
		}
		b.ended(err)
	}
	n := copy(p, b.out)
	b.out = b.out[n:]
	return n, nil
}

// ended notes how the source ended. Only a response that is whole has trailers.
func (b *encoder) ended(err error) {
	b.err = err
	if !errors.Is(err, io.EOF) {
		return
	}
	frame := b.trailers()
	if b.text {
		frame = base64.StdEncoding.AppendEncode(nil, frame)
	}
	b.out = append(b.out, frame...)
}

// trailers is the frame of the trailers, which are no trailers any more.
func (b *encoder) trailers() []byte {
	frame := []byte{0x80, 0, 0, 0, 0}
	t := &b.response.Trailer
	put := func(name, value string) {
		frame = append(append(append(append(frame, name...), ':'), value...), "\r\n"...)
	}
	for f := range t.All() {
		put(strings.ToLower(f.Name), f.Value)
	}
	if !t.Has("grpc-status") {
		put("grpc-status", "2")
		put("grpc-message", "the service sent no status")
	}
	t.Reset()
	binary.BigEndian.PutUint32(frame[1:], uint32(len(frame)-5))
	return frame
}

// Waiting says that nothing of the body is there yet.
func (b *encoder) Waiting() bool {
	return len(b.out) == 0 && b.err == nil && exchange.Waiting(b.source)
}

// Close closes the source.
func (b *encoder) Close() error {
	if b.err == nil {
		b.err = errClosed
	}
	if c, ok := b.source.(io.Closer); ok {
		return c.Close()
	}
	return nil
}
