package secrets

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/iotest"
)

const (
	streamKind = "test-stream-1\n"
	sealedSize = streamChunk + 16
)

func streamKey(n byte) []byte { return bytes.Repeat([]byte{n}, keySize) }

// numbers is content of which no part is like another.
func numbers(n int) []byte {
	var b []byte
	for i := 0; len(b) < n; i++ {
		b = fmt.Appendf(b, "%08d", i)
	}
	return b[:n]
}

// streamed seals content that comes in pieces of a size.
func streamed(t testing.TB, key []byte, kind, name string, content []byte, piece int) []byte {
	t.Helper()
	var b bytes.Buffer
	s, err := NewSealWriter(&b, key, kind, name)
	if err != nil {
		t.Fatal(err)
	}
	for p := range slices.Chunk(content, piece) {
		if n, err := s.Write(p); n != len(p) || err != nil {
			t.Fatal(n, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func unstreamed(key []byte, kind, name string, data []byte) ([]byte, error) {
	u, err := NewUnsealReader(bytes.NewReader(data), key, kind, name)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(u)
}

func TestAStreamComesBackAsItWas(t *testing.T) {
	key := streamKey(1)
	f := func(size, piece, chunks int) {
		t.Helper()
		content := numbers(size)
		data := streamed(t, key, streamKind, "a", content, piece)
		if want := len(streamKind) + saltSize + size + 16*chunks; len(data) != want {
			t.Errorf("%d bytes are %d in a stream; expected %d", size, len(data), want)
		}
		is, err := unstreamed(key, streamKind, "a", data)
		if err != nil || !bytes.Equal(is, content) {
			t.Errorf("%d bytes came back as %d: %v", size, len(is), err)
		}
		if size > 8 && bytes.Contains(data, content[:8]) {
			t.Errorf("a stream of %d bytes tells them", size)
		}
		u, err := NewUnsealReader(iotest.OneByteReader(bytes.NewReader(data)), key, streamKind, "a")
		if err != nil {
			t.Fatal(err)
		}
		if is, err := io.ReadAll(iotest.HalfReader(u)); err != nil || !bytes.Equal(is, content) {
			t.Errorf("%d bytes that came one by one came back as %d: %v", size, len(is), err)
		}
	}
	f(0, 1, 1)
	f(1, 1, 1)
	f(streamChunk-1, 1000, 1)
	f(streamChunk, 1000, 1)
	f(streamChunk, streamChunk, 1)
	f(streamChunk+1, streamChunk+1, 2)
	f(2*streamChunk, 3*streamChunk, 2)
	f(3*streamChunk+5, 77, 4)
	if bytes.Equal(streamed(t, key, streamKind, "a", nil, 1), streamed(t, key, streamKind, "a", nil, 1)) {
		t.Error("two streams of the same are the same")
	}
}

// TestNoOtherStreamIsTaken changes a stream in every way that has a name: what is read of
// it before it is refused is its beginning.
func TestNoOtherStreamIsTaken(t *testing.T) {
	key := streamKey(1)
	content := numbers(3*streamChunk + 100)
	good := streamed(t, key, streamKind, "a", content, 1000)
	begin, body := good[:len(streamKind)+saltSize], good[len(streamKind)+saltSize:]
	parts := slices.Collect(slices.Chunk(body, sealedSize))
	f := func(what string, want error, data []byte) {
		t.Helper()
		is, err := unstreamed(key, streamKind, "a", data)
		if !errors.Is(err, want) {
			t.Errorf("%s: %v; expected %v", what, err, want)
		}
		if !bytes.HasPrefix(content, is) {
			t.Errorf("%s: something else was read before it was refused", what)
		}
	}
	made := func(parts ...[]byte) []byte { return slices.Concat(begin, bytes.Join(parts, nil)) }
	for i := range parts {
		border := len(begin) + i*sealedSize
		for _, n := range []int{border - 1, border, border + 1, border + 16} {
			want := ErrKey
			if n < len(begin) {
				want = ErrForm
			}
			f(fmt.Sprintf("cut to %d bytes", n), want, good[:n])
		}
		f(fmt.Sprintf("without chunk %d", i), ErrKey, made(slices.Delete(slices.Clone(parts), i, i+1)...))
		f(fmt.Sprintf("chunk %d twice", i), ErrKey, made(slices.Insert(slices.Clone(parts), i, parts[i])...))
		for j := range i {
			swapped := slices.Clone(parts)
			swapped[i], swapped[j] = parts[j], parts[i]
			f(fmt.Sprintf("chunks %d and %d swapped", i, j), ErrKey, made(swapped...))
		}
	}
	f("nothing", ErrForm, nil)
	f("one byte more", ErrKey, append(slices.Clone(good), 0))
	f("one chunk more", ErrKey, made(slices.Concat(parts, parts[:1])...))
	f("twice", ErrKey, slices.Concat(good, good))
	other := streamed(t, key, streamKind, "a", content, 1000)
	f("a chunk of another stream", ErrKey, made(parts[0], other[len(begin)+sealedSize:len(begin)+2*sealedSize], parts[2], parts[3]))
	f("another's beginning", ErrKey, slices.Concat(other[:len(begin)], body))
	for i := range good {
		// Each byte of the beginning and of the borders, and some between.
		if at := (i - len(begin)) % sealedSize; i >= len(begin) && at > 20 && at < sealedSize-20 && i%4999 != 0 {
			continue
		}
		flipped := slices.Clone(good)
		flipped[i] ^= 1 << (i % 8)
		want := ErrKey
		if i < len(streamKind) {
			want = ErrForm
		}
		f(fmt.Sprintf("byte %d flipped", i), want, flipped)
	}
	f("a full last chunk as one before the last", ErrKey, append(streamed(t, key, streamKind, "a", content[:streamChunk], 1000), parts[1]...))
	f("another key", ErrKey, streamed(t, streamKey(2), streamKind, "a", content, 1000))
	f("another kind", ErrForm, streamed(t, key, "test-stream-2\n", "a", content, 1000))
	f("another name", ErrKey, streamed(t, key, streamKind, "b", content, 1000))
	box, err := Seal(key, streamKind, "a", content[:100])
	if err != nil {
		t.Fatal(err)
	}
	f("a box", ErrKey, box)
	if _, err := Unseal(key, streamKind, "a", streamed(t, key, streamKind, "a", content[:100], 1000)); !errors.Is(err, ErrKey) {
		t.Errorf("a stream as a box: %v", err)
	}
	if is, err := unstreamed(key, streamKind, "a", good); err != nil || !bytes.Equal(is, content) {
		t.Errorf("as it was: %v", err)
	}
}

// TestAnEmptyLastChunkIsRefused seals by hand what no SealWriter does.
func TestAnEmptyLastChunkIsRefused(t *testing.T) {
	key := streamKey(1)
	var b bytes.Buffer
	s, err := NewSealWriter(&b, key, streamKind, "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write(numbers(streamChunk)); err != nil {
		t.Fatal(err)
	}
	s.seal(false)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := unstreamed(key, streamKind, "a", b.Bytes()); !errors.Is(err, ErrKey) {
		t.Errorf("%v; expected it refused", err)
	}
}

var errDisk = errors.New("the disk is gone")

func TestADiskThatFailsIsNotTakenForAnEnd(t *testing.T) {
	key := streamKey(1)
	good := streamed(t, key, streamKind, "a", numbers(2*streamChunk), 1000)
	begin := len(streamKind) + saltSize
	for _, n := range []int{0, 10, begin, begin + 100, begin + sealedSize, len(good)} {
		u, err := NewUnsealReader(io.MultiReader(bytes.NewReader(good[:n]), iotest.ErrReader(errDisk)), key, streamKind, "a")
		if err == nil {
			_, err = io.Copy(io.Discard, u)
		}
		if !errors.Is(err, errDisk) || errors.Is(err, ErrKey) || errors.Is(err, ErrForm) {
			t.Errorf("after %d bytes: %v; expected what the disk says", n, err)
		}
	}
}

// full takes so many bytes.
type full struct{ room int }

func (f *full) Write(p []byte) (int, error) {
	if f.room -= len(p); f.room < 0 {
		return 0, errDisk
	}
	return len(p), nil
}

func TestAStreamThatFailedIsOver(t *testing.T) {
	key := streamKey(1)
	if _, err := NewSealWriter(&full{}, key, streamKind, "a"); !errors.Is(err, errDisk) {
		t.Errorf("no room for the beginning: %v", err)
	}
	s, err := NewSealWriter(&full{len(streamKind) + saltSize + sealedSize}, key, streamKind, "a")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := s.Write(numbers(3 * streamChunk)); !errors.Is(err, errDisk) || n >= 3*streamChunk {
		t.Errorf("%d bytes, %v", n, err)
	}
	if _, err := s.Write([]byte("x")); !errors.Is(err, errDisk) {
		t.Errorf("a write after that: %v", err)
	}
	if err := s.Close(); !errors.Is(err, errDisk) {
		t.Errorf("its end: %v", err)
	}
	s, err = NewSealWriter(io.Discard, key, streamKind, "a")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write([]byte("x")); err == nil {
		t.Error("something was written after the end")
	}
	if err := s.Close(); err == nil {
		t.Error("a stream has two ends")
	}
}

// TestAStreamIsAsLongAsItsNumbers is about what comes after the last number there is.
func TestAStreamIsAsLongAsItsNumbers(t *testing.T) {
	s, err := NewSealWriter(io.Discard, streamKey(1), streamKind, "a")
	if err != nil {
		t.Fatal(err)
	}
	s.chunk.number = 1<<32 - 1
	if _, err := s.Write(numbers(streamChunk + 1)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err == nil {
		t.Error("a number was used again")
	}
}

// TestNothingIsLeftInTheBuffer looks at the memory that a stream sealed from.
func TestNothingIsLeftInTheBuffer(t *testing.T) {
	s, err := NewSealWriter(io.Discard, streamKey(1), streamKind, "a")
	if err != nil {
		t.Fatal(err)
	}
	secret := []byte("canary-of-a-secret-value")
	if _, err := s.Write(secret); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(s.buf[:cap(s.buf)], secret[:12]) {
		t.Error("the content is still there")
	}
}

// FuzzStream changes streams of several chunks at random: none is taken that does not hold
// what was sealed, and what is read before is its beginning.
func FuzzStream(f *testing.F) {
	key := streamKey(1)
	content := numbers(2*streamChunk + 100)
	good := streamed(f, key, streamKind, "a", content, 1000)
	f.Add(uint32(0), []byte(nil), uint32(0), uint32(0))
	f.Add(uint32(len(good)), []byte("x"), uint32(0), uint32(0))
	f.Add(uint32(100), []byte("x"), uint32(1), uint32(0))
	f.Add(uint32(len(good)-116), []byte(nil), uint32(116), uint32(0))
	f.Add(uint32(len(streamKind)+saltSize), []byte(nil), uint32(sealedSize), uint32(sealedSize))
	// At a place so much of the stream goes, something comes, and so much of what went before comes again.
	f.Fuzz(func(t *testing.T, at uint32, come []byte, gone, again uint32) {
		i := min(int(at), len(good))
		rest := good[min(i+int(gone), len(good)):]
		data := slices.Concat(good[:i], come, good[max(i-int(again), 0):i], rest)
		is, err := unstreamed(key, streamKind, "a", data)
		if !bytes.HasPrefix(content, is) {
			t.Error("something else was read")
		}
		if err == nil && (!bytes.Equal(data, good) || !bytes.Equal(is, content)) {
			t.Error("it was taken")
		}
	})
}

func TestAReplacementIsWholeOrNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := ReplaceFile(path, []byte("old")); err != nil {
		t.Fatal(err)
	}
	f := func(what, want string) {
		t.Helper()
		text, err := os.ReadFile(path)
		if err != nil || string(text) != want {
			t.Errorf("%s: %q, %v; expected %q", what, text, err, want)
		}
	}
	r, err := Replace(path)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := r.Write([]byte("new")); err != nil {
			t.Fatal(err)
		}
	}
	f("not committed", "old")
	r.Drop()
	r.Drop()
	f("dropped", "old")
	if r, err = Replace(path); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Write([]byte("newer")); err != nil {
		t.Fatal(err)
	}
	if err := r.Commit(); err != nil {
		t.Fatal(err)
	}
	r.Drop()
	f("committed", "newer")
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	// A folder in the way: the rename fails, and nothing is left.
	way := filepath.Join(dir, "way")
	if err := os.MkdirAll(filepath.Join(way, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := ReplaceFile(way, []byte("x")); err == nil {
		t.Error("a folder was replaced")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Errorf("left over: %v %v", left, err)
	}
	if _, err := Replace(filepath.Join(dir, "none", "f")); err == nil {
		t.Error("a file was begun in no folder")
	}
}
