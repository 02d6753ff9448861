package secrets

import (
	"bufio"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// streamChunk is how much of a stream is sealed at once: little enough to take some
// ten microseconds, enough that a seal of 16 bytes for each is nothing.
const streamChunk = 64 << 10

// streamLabel parts the keys of streams from those of boxes of the same kind.
const streamLabel = "stream"

// errStreamOver is for what is written to a stream after its end.
var errStreamOver = errors.New("sealing a stream: it is over already")

// SealWriter seals what is written to it as a stream, in pieces of which no more than
// one is in memory. Make one with NewSealWriter; Close ends the stream, and what has no
// such end is refused when it is read.
//
// It is the STREAM construction: each chunk is sealed with a nonce of a prefix, the
// chunk's number and whether it is the last, under a key of this stream's own. So a
// chunk opens in its own place and nowhere else, and what is cut at the border of two
// chunks lacks its last. All but the last are full, and only a stream of nothing has an
// empty one: there is one way to cut a content.
type SealWriter struct {
	to    io.Writer
	chunk chunkCipher
	buf   []byte // what waits to be sealed, in its place; room for the seal
	err   error  // why nothing can be written any more
}

// NewSealWriter begins a stream in w. The stream is bound to its kind, which it begins
// with, and to its name, as a box of Seal is.
func NewSealWriter(w io.Writer, key []byte, kind, name string) (*SealWriter, error) {
	begin := make([]byte, len(kind)+saltSize)
	salt := begin[copy(begin, kind):]
	rand.Read(salt) // never fails
	chunk, err := newChunkCipher(key, salt, kind, name)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(begin); err != nil {
		return nil, fmt.Errorf("sealing a stream: %w", err)
	}
	return &SealWriter{to: w, chunk: chunk, buf: make([]byte, 0, streamChunk+chunk.aead.Overhead())}, nil
}

// Write seals p, of which the last part stays in memory until more comes.
func (s *SealWriter) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		if s.err != nil {
			return written, s.err
		}
		// A full chunk waits for what follows it: it could be the last.
		if len(s.buf) == streamChunk {
			s.seal(false)
			continue
		}
		n := min(len(p), streamChunk-len(s.buf))
		s.buf, p = append(s.buf, p[:n]...), p[n:]
		written += n
	}
	return written, s.err
}

// Close seals what is left and ends the stream. It does not close the writer beneath.
func (s *SealWriter) Close() error {
	if s.err != nil {
		return s.err
	}
	s.seal(true)
	if s.err != nil {
		return s.err
	}
	s.err = errStreamOver
	return nil
}

// seal writes the chunk that waits. It is sealed over itself: nothing of the content is
// left in the buffer.
func (s *SealWriter) seal(last bool) {
	sealed, err := s.chunk.seal(s.buf, last)
	if err == nil {
		_, err = s.to.Write(sealed)
	}
	if err != nil {
		s.err = fmt.Errorf("sealing a stream: %w", err)
	}
	s.buf = s.buf[:0]
}

// UnsealReader reads the content of a stream. Make one with NewUnsealReader.
//
// What it gives was sealed with the key in this order, from the beginning. That it is
// all of it is known at io.EOF and not before: any other error refuses the whole.
type UnsealReader struct {
	from  *bufio.Reader
	chunk chunkCipher
	buf   []byte // of one chunk
	left  []byte // what of it was not read yet
	err   error  // what comes after left
}

// NewUnsealReader reads the beginning of a stream. ErrForm is for what is of another
// kind; its Read answers ErrKey for what was changed in any bit, cut short, made
// longer, put in another order, moved to another name, or sealed with another key.
func NewUnsealReader(r io.Reader, key []byte, kind, name string) (*UnsealReader, error) {
	begin := make([]byte, len(kind)+saltSize)
	_, err := io.ReadFull(r, begin)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("reading a sealed stream: %w", err)
	}
	if err != nil || string(begin[:len(kind)]) != kind {
		return nil, fmt.Errorf("%w; expected a file that begins with %q", ErrForm, kind)
	}
	chunk, err := newChunkCipher(key, begin[len(kind):], kind, name)
	if err != nil {
		return nil, err
	}
	size := streamChunk + chunk.aead.Overhead()
	return &UnsealReader{from: bufio.NewReaderSize(r, size), chunk: chunk, buf: make([]byte, size)}, nil
}

// Read reads content.
func (u *UnsealReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(u.left) == 0 {
		if u.err != nil {
			return 0, u.err
		}
		u.left, u.err = u.next()
	}
	n := copy(p, u.left)
	u.left = u.left[n:]
	return n, nil
}

// next opens the next chunk; io.EOF comes with the last.
func (u *UnsealReader) next() ([]byte, error) {
	first := u.chunk.number == 0
	n, err := io.ReadFull(u.from, u.buf)
	last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
	if err == nil {
		_, err = u.from.Peek(1)
		last = errors.Is(err, io.EOF)
	}
	if err != nil && !last {
		return nil, fmt.Errorf("reading a sealed stream: %w", err)
	}
	plain, err := u.chunk.open(u.buf[:n], last)
	if err != nil || last && len(plain) == 0 && !first {
		return nil, fmt.Errorf("%w: what it should open was changed or cut short, or was sealed with another key; expected the key that it was sealed with", ErrKey)
	}
	if last {
		return plain, io.EOF
	}
	return plain, nil
}

// chunkCipher seals or opens the chunks of one stream in their order.
type chunkCipher struct {
	aead   cipher.AEAD
	nonce  []byte // its last five bytes are the number and whether the chunk is the last
	bound  []byte
	number uint64 // of the next chunk
}

func newChunkCipher(key, salt []byte, kind, name string) (chunkCipher, error) {
	aead, nonce, err := deriveSeal(key, salt, kind+streamLabel)
	return chunkCipher{aead: aead, nonce: nonce, bound: []byte(kind + name)}, err
}

// turn makes the nonce of the next chunk.
func (c *chunkCipher) turn(last bool) error {
	if c.number > math.MaxUint32 {
		return fmt.Errorf("it is longer than %d bytes", int64(math.MaxUint32)*streamChunk)
	}
	end := c.nonce[len(c.nonce)-5:]
	binary.BigEndian.PutUint32(end, uint32(c.number)) //nolint:gosec // held above
	end[4] = 0
	if last {
		end[4] = 1
	}
	c.number++
	return nil
}

func (c *chunkCipher) seal(plain []byte, last bool) ([]byte, error) {
	if err := c.turn(last); err != nil {
		return nil, err
	}
	return c.aead.Seal(plain[:0], c.nonce, plain, c.bound), nil
}

func (c *chunkCipher) open(sealed []byte, last bool) ([]byte, error) {
	if err := c.turn(last); err != nil {
		return nil, err
	}
	return c.aead.Open(sealed[:0], c.nonce, sealed, c.bound)
}
