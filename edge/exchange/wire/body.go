package wire

import (
	"bytes"
	"errors"
	"io"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// Source is buffered input: Buffered is what is there already, Discard takes n of
// it, More reads at least one byte more (io.EOF at the end).
type Source interface {
	Buffered() []byte
	Discard(n int)
	More() error
}

// DirectSource is a Source that can also read past its buffer, which is empty then:
// a large body needs no copy.
type DirectSource interface {
	Source
	// ReadDirect reads once into p; the error is nil when n is not zero.
	ReadDirect(p []byte) (n int, err error)
}

// ErrMalformed is what a body whose chunks are wrong answers; it wraps into the
// error that says how.
var ErrMalformed = errors.New("the chunked body is malformed")

// Body reads a body as its framing says. Reset makes it ready; it may be reused.
type Body struct {
	src     Source
	left    int64 // of the body, or of the chunk
	chunked bool
	toEnd   bool // the end of the connection ends it
	first   bool // no chunk was read yet
	trailer *exchange.Fields
	err     error // sticky
}

const (
	maxChunkLine = 4 << 10  // bytes of a size line with its extension
	maxTrailer   = 16 << 10 // bytes of a trailer section
	directSize   = 4 << 10  // least room in which a read past the buffer pays
)

// Reset makes b read a body framed as f says from src. Trailer fields are added
// to trailer, which may be nil.
func (b *Body) Reset(src Source, f *Framing, trailer *exchange.Fields) {
	*b = Body{src: src, left: f.Length, chunked: f.Chunked, toEnd: f.Length < 0 && !f.Chunked, first: true, trailer: trailer}
	if b.chunked {
		b.left = 0
	} else if b.left == 0 {
		b.err = io.EOF
	}
}

// Done says that the whole body was read.
func (b *Body) Done() bool { return errors.Is(b.err, io.EOF) }

// Read reads into p. The last bytes come with io.EOF where that is known.
func (b *Body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if b.chunked && b.left == 0 {
		if b.err = b.nextChunk(); b.err != nil {
			return 0, b.err
		}
	}
	if !b.toEnd && int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.some(p)
	if err != nil {
		b.err = b.ended(err)
		return 0, b.err
	}
	if b.toEnd {
		return n, nil
	}
	if b.left -= int64(n); b.left == 0 && (!b.chunked || b.endsHere()) {
		b.err = io.EOF
	}
	return n, b.err
}

// some reads at least one byte of what belongs to the body.
func (b *Body) some(p []byte) (int, error) {
	if len(b.src.Buffered()) == 0 {
		if d, ok := b.src.(DirectSource); ok && len(p) >= directSize {
			return d.ReadDirect(p)
		}
		if err := b.src.More(); err != nil {
			return 0, err
		}
	}
	n := copy(p, b.src.Buffered())
	b.src.Discard(n)
	return n, nil
}

// endsHere takes the end of the chunk and a last chunk without trailers if they
// are there already. The reader then learns of the end together with the last
// bytes, and a small answer is passed on in one write.
func (b *Body) endsHere() bool {
	const end = "\r\n0\r\n\r\n"
	if have := b.src.Buffered(); len(have) < len(end) || string(have[:len(end)]) != end {
		return false
	}
	b.src.Discard(len(end))
	return true
}

// ended is the error of a connection that ended inside the body.
func (b *Body) ended(err error) error {
	if errors.Is(err, io.EOF) && !b.toEnd {
		return io.ErrUnexpectedEOF
	}
	return err
}

// nextChunk reads the end of the chunk before, the size line, and for the last
// chunk the trailer section, after which it answers io.EOF.
func (b *Body) nextChunk() error {
	if !b.first {
		l, err := b.line(2)
		if err != nil {
			return err
		}
		if len(l) != 0 {
			return malformed("a chunk is longer than its size")
		}
	}
	b.first = false
	l, err := b.line(maxChunkLine)
	if err != nil {
		return err
	}
	size, err := chunkSize(l)
	if err != nil {
		return err
	}
	if size > 0 {
		b.left = size
		return nil
	}
	return b.trailers()
}

func malformed(how string) error { return &malformedError{how} }

type malformedError struct{ how string }

func (e *malformedError) Error() string { return ErrMalformed.Error() + ": " + e.how }
func (e *malformedError) Unwrap() error { return ErrMalformed }

// line takes one line, CRLF included in its limit but not in its result, which
// holds until the source reads more. A bare line feed or carriage return is malformed.
func (b *Body) line(limit int) ([]byte, error) {
	looked := 0
	for {
		have := b.src.Buffered()
		if i := bytes.IndexByte(have[looked:], '\n'); i >= 0 {
			i += looked
			if i+1 > limit || i == 0 || have[i-1] != '\r' {
				return nil, malformed("a line is too long or does not end with CRLF")
			}
			b.src.Discard(i + 1)
			return have[:i-1], nil
		}
		looked = len(have)
		if looked >= limit {
			return nil, malformed("a line is too long")
		}
		if err := b.src.More(); err != nil {
			return nil, b.ended(err)
		}
	}
}

// chunkSize reads a size line: hexadecimal digits, then at most blanks and an
// extension, which is checked for control characters and dropped.
func chunkSize(l []byte) (int64, error) {
	var n int64
	i := 0
	for ; i < len(l); i++ {
		c := l[i]
		var d int64
		switch {
		case '0' <= c && c <= '9':
			d = int64(c - '0')
		case 'a' <= c && c <= 'f':
			d = int64(c-'a') + 10
		case 'A' <= c && c <= 'F':
			d = int64(c-'A') + 10
		default:
			d = -1
		}
		if d < 0 {
			break
		}
		if n > 1<<58 {
			return 0, malformed("a chunk size is too large")
		}
		n = n<<4 | d
	}
	if i == 0 {
		return 0, malformed("a chunk has no size")
	}
	ext := bytes.TrimLeft(l[i:], " \t")
	if len(ext) > 0 && ext[0] != ';' {
		return 0, malformed("a chunk size is not hexadecimal")
	}
	for _, c := range ext {
		if c < ' ' && c != '\t' || c == 0x7f {
			return 0, malformed("a chunk extension has a control character")
		}
	}
	return n, nil
}

// trailers reads the trailer section. Fields that frame, route or identify a
// message are dropped: they may stand in a header section only (RFC 9110, 6.5.1).
func (b *Body) trailers() error {
	left := maxTrailer
	for {
		l, err := b.line(left)
		if err != nil {
			return err
		}
		if len(l) == 0 {
			return io.EOF
		}
		if left -= len(l) + 2; left <= 2 {
			return malformed("the trailer section is too long")
		}
		name, value, e := field(string(l))
		if e != nil {
			return malformed(e.Reason)
		}
		if b.trailer != nil && !ForbiddenTrailer(name) {
			b.trailer.Add(name, value)
		}
	}
}

// ForbiddenTrailer says whether a field that frames, routes or identifies a message
// is called name: it may not stand in a trailer section.
func ForbiddenTrailer(name string) bool {
	for _, n := range [...]string{
		"Content-Length", "Transfer-Encoding", "Host", "Connection", "Keep-Alive", "Proxy-Connection", "TE", "Trailer", "Upgrade", "Expect",
		"Authorization", "Proxy-Authorization", "Cookie", "Set-Cookie", "Content-Type", "Content-Encoding", "Content-Range", "Location",
		"Cache-Control", "Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP",
	} {
		if exchange.EqualFold(name, n) {
			return true
		}
	}
	return false
}
