package upstream

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// payload is the request body as it will be sent: none, whole in memory, whole
// in a file, or a stream that can be read once.
type payload struct {
	pools     *Pools
	announced bool   // the client framed a body, be it of length zero
	length    int64  // -1 when only its end tells
	memory    []byte // whole body, when there is neither file nor stream
	pooled    []byte // what memory lies in, to give back
	file      *os.File
	stream    io.Reader
	touched   bool             // the stream has been read from
	trailers  *exchange.Fields // complete at the body's end; nil for none
}

// bufferSize is that of the pooled buffers: one for what is read from a target,
// and one for what is written to it where the head and a small body fit.
const bufferSize = 16 << 10

func (p *Pools) buffer() []byte {
	if b, ok := p.buffers.Get().(*[bufferSize]byte); ok {
		return b[:]
	}
	return new([bufferSize]byte)[:]
}

func (p *Pools) giveBack(b []byte) {
	if cap(b) == bufferSize {
		p.buffers.Put((*[bufferSize]byte)(b[:bufferSize]))
	}
}

// load makes the payload. Buffered, it reads the whole body; its error is then
// the client's *exchange.BodyError, or an *Error when spooling failed.
func (b *payload) load(p *Pools, r *exchange.Request, buffered bool) error {
	b.pools = p
	b.announced = r.HasBody() || r.LengthGiven
	if !r.HasBody() {
		return nil
	}
	if r.Length < 0 {
		b.trailers = &r.Trailer
	}
	if !buffered {
		b.stream, b.length = r.Body, r.Length
		if r.Expect100 {
			return b.prime(r)
		}
		return nil
	}
	if err := b.read(r); err != nil {
		b.free()
		return err
	}
	if r.Length >= 0 && r.Length != b.length {
		b.free()
		return &exchange.BodyError{Status: 400, Err: fmt.Errorf("%w: announced %d, got %d", errBodyLength, r.Length, b.length)}
	}
	if r.Trailer.Len() > 0 {
		b.length = -1 // trailers exist in chunked framing only
	} else {
		b.trailers = nil
	}
	return nil
}

// prime reads the first piece of a streamed body whose client waits for 100
// Continue. That read sends the 100, and the client's connection may be written
// to by the exchange's own goroutine only: an upload would come in the way of a
// response that is early.
func (b *payload) prime(r *exchange.Request) error {
	b.pooled = b.pools.buffer()
	n, err := r.Body.Read(b.pooled)
	if err != nil && !errors.Is(err, io.EOF) {
		b.free()
		return blame(err)
	}
	first := bytes.NewReader(b.pooled[:n])
	b.stream = io.MultiReader(first, r.Body)
	return nil
}

// read takes the body into memory, and on into a file where it is long.
func (b *payload) read(r *exchange.Request) error {
	limit := int64(b.pools.set.SpoolAfter)
	b.pooled = b.pools.buffer()
	if r.Length > limit {
		return b.spool(nil, r)
	}
	held := b.pooled[:min(limit, bufferSize)]
	n := 0
	for {
		m, err := r.Body.Read(held[n:])
		n += m
		if errors.Is(err, io.EOF) {
			b.memory, b.length = held[:n], int64(n)
			return nil
		}
		if err != nil {
			return blame(err)
		}
		if n < len(held) {
			continue
		}
		if int64(n) >= limit {
			return b.spool(held[:n], r)
		}
		held = append(held, make([]byte, min(n, int(limit)-n))...)
	}
}

// spool writes the body to a file that has no name while it is used.
func (b *payload) spool(head []byte, r *exchange.Request) error {
	here := func(err error) error {
		return &Error{500, messageInternal, fmt.Errorf("spooling a request body: %w", err)}
	}
	f, err := os.CreateTemp(b.pools.set.SpoolDir, "keyway-body-")
	if err != nil {
		return here(err)
	}
	b.file = f
	_ = os.Remove(f.Name()) // where this fails, free removes it
	if _, err := f.Write(head); err != nil {
		return here(err)
	}
	b.length = int64(len(head))
	scratch := b.pooled
	for {
		n, err := r.Body.Read(scratch)
		if n > 0 {
			if _, err := f.Write(scratch[:n]); err != nil {
				return here(err)
			}
			b.length += int64(n)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return blame(err)
		}
	}
}

// blame makes an error of reading a body the client's.
func blame(err error) error {
	if _, ok := errors.AsType[*exchange.BodyError](err); ok {
		return err
	}
	return &exchange.BodyError{Status: 400, Err: err}
}

// empty says that nothing follows the head.
func (b *payload) empty() bool { return b.length == 0 }

// inMemory says that the whole body is at hand.
func (b *payload) inMemory() bool { return b.file == nil && b.stream == nil }

// replayable says that the body can be sent from its beginning.
func (b *payload) replayable() bool { return b.stream == nil || !b.touched }

// source answers a reader of the body from its beginning.
func (b *payload) source() io.Reader {
	switch {
	case b.stream != nil:
		return b.stream
	case b.file != nil:
		return io.NewSectionReader(b.file, 0, math.MaxInt64)
	default:
		return bytes.NewReader(b.memory)
	}
}

// free gives back what the payload holds.
func (b *payload) free() {
	if b.pooled != nil {
		b.pools.giveBack(b.pooled)
		b.pooled, b.memory = nil, nil
	}
	if b.file != nil {
		_ = b.file.Close()
		_ = os.Remove(b.file.Name())
		b.file = nil
	}
}
