package compression

import (
	"bytes"
	"errors"
	"io"
	"sync"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// encoder is what the libraries' writers have in common.
type encoder interface {
	io.WriteCloser
	Flush() error
	Reset(w io.Writer)
}

// coding is one content coding with the encoders that rest.
type coding struct {
	name string
	pool sync.Pool // of *work
}

// work is an encoder with its buffers.
type work struct {
	enc encoder
	out bytes.Buffer
	in  [32 << 10]byte
}

func newCoding(name string, better bool) *coding {
	c := &coding{name: name}
	c.pool.New = func() any {
		w := &work{}
		w.enc = newEncoder(name, better, &w.out)
		return w
	}
	return c
}

// newEncoder makes an encoder of one goroutine: as many run as there are responses.
func newEncoder(name string, better bool, w io.Writer) encoder {
	switch name {
	case "br":
		if better {
			return brotli.NewWriterLevel(w, 6)
		}
		return brotli.NewWriterLevel(w, 4)
	case "zstd":
		level := zstd.SpeedFastest
		if better {
			level = zstd.SpeedDefault
		}
		// No browser takes a window above 8 MiB (RFC 8878, section 3.1.1.1.2, RFC 9659).
		e, err := zstd.NewWriter(w, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
		if err != nil {
			panic(err) // of options alone, which are constants
		}
		return e
	default:
		level := 5
		if better {
			level = 7
		}
		e, err := gzip.NewWriterLevel(w, level)
		if err != nil {
			panic(err) // of the level alone
		}
		return e
	}
}

// body encodes what it reads.
type body struct {
	source io.Reader
	coding *coding
	work   *work // from the first Read to the end
	err    error // what ends it, once all before it is read
}

var errClosed = errors.New("compression: the body is closed")

// Read answers encoded bytes. What one read of the source gives can be decoded from
// what has been answered then: a stream is never held back.
func (b *body) Read(p []byte) (int, error) {
	if b.work == nil {
		if b.err != nil {
			return 0, b.err
		}
		b.work = b.coding.pool.Get().(*work)
		b.work.out.Reset()
		b.work.enc.Reset(&b.work.out)
	}
	for b.work.out.Len() == 0 {
		if b.err != nil {
			b.release()
			return 0, b.err
		}
		b.err = b.fill()
	}
	return b.work.out.Read(p)
}

// fill reads once from the source and encodes it.
func (b *body) fill() error {
	w := b.work
	n, err := b.source.Read(w.in[:])
	if n > 0 {
		if _, werr := w.enc.Write(w.in[:n]); werr != nil {
			return werr
		}
	}
	switch {
	case errors.Is(err, io.EOF):
		if cerr := w.enc.Close(); cerr != nil {
			return cerr
		}
		return io.EOF
	case err != nil:
		return err // no end is written: the client sees that it is cut off
	case n > 0:
		return w.enc.Flush()
	}
	return nil
}

func (b *body) release() {
	if b.work != nil {
		b.work.enc.Reset(io.Discard)
		b.coding.pool.Put(b.work)
		b.work = nil
	}
}

// Close gives the encoder back and closes the source.
func (b *body) Close() error {
	b.release()
	if b.err == nil {
		b.err = errClosed
	}
	if c, ok := b.source.(io.Closer); ok {
		return c.Close()
	}
	return nil
}
