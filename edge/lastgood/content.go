package lastgood

import (
	"bytes"
	"crypto/sha256"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/keyway-edge/keyway/secrets"
)

const (
	pieceBytes = 64 << 10 // of a document's text in one record at most
	pieceKept  = 64       // values between two rests
)

var errContent = fmt.Errorf("%w: its content cannot be decoded", ErrForm)

// record is a part of the content, which is one after the other: the pieces of the
// document's text, then each value. Fields may be added; none may change its meaning.
type record struct {
	Document []byte
	Kept     *keptImage
}

type keptImage struct {
	Ref                      string
	Value                    []byte
	Version, Pinned          int
	Modified, Good, NotAfter time.Time
	Origin                   string
	Older                    []olderImage
}

type olderImage struct {
	Version         int
	Value           []byte
	Modified, Until time.Time
}

func imageOf(k *secrets.Kept) *keptImage {
	x := &keptImage{Ref: k.Ref, Value: k.Value.Reveal(), Version: k.Version, Pinned: k.Pinned, Modified: k.Modified, Good: k.Good, NotAfter: k.NotAfter, Origin: k.Origin}
	for _, o := range k.Older {
		x.Older = append(x.Older, olderImage{o.Version, o.Value.Reveal(), o.Modified, o.Until})
	}
	return x
}

func (x *keptImage) kept() secrets.Kept {
	k := secrets.Kept{Ref: x.Ref, Value: secrets.NewValue(x.Value), Version: x.Version, Pinned: x.Pinned, Modified: x.Modified, Good: x.Good, NotAfter: x.NotAfter, Origin: x.Origin}
	for _, o := range x.Older {
		k.Older = append(k.Older, secrets.KeptValue{Version: o.Version, Value: secrets.NewValue(o.Value), Modified: o.Modified, Until: o.Until})
	}
	return k
}

// pack writes a file as it is encoded, and answers the sum of the document's text. It
// rests between parts of the work.
func pack(w io.Writer, key []byte, h head, now Serving, rest func()) (sum [sha256.Size]byte, err error) {
	line, err := h.line(format)
	if err != nil {
		return sum, err
	}
	if _, err := io.WriteString(w, line); err != nil {
		return sum, err
	}
	sealed, err := secrets.NewSealWriter(w, key, kindFile, line)
	if err != nil {
		return sum, err
	}
	if sum, err = encode(sealed, now, rest); err != nil {
		return sum, err
	}
	return sum, sealed.Close()
}

func encode(w *secrets.SealWriter, now Serving, rest func()) (sum [sha256.Size]byte, err error) {
	enc := gob.NewEncoder(w)
	put := func(r record) error {
		if err := enc.Encode(r); err != nil {
			if _, err := w.Write(nil); err != nil {
				return err // the writer's own
			}
			return errors.New("encoding the state") // the encoder's text could quote a value
		}
		return nil
	}
	hash := sha256.New()
	text := writerFunc(func(p []byte) error {
		for piece := range slices.Chunk(p, pieceBytes) {
			hash.Write(piece)
			if err := put(record{Document: piece}); err != nil {
				return err
			}
		}
		return nil
	})
	if err := now.Document.EncodeSlowly(text, rest); err != nil {
		return sum, err
	}
	for i := range now.Kept {
		if i%pieceKept == 0 {
			rest()
		}
		if err := put(record{Kept: imageOf(&now.Kept[i])}); err != nil {
			return sum, err
		}
	}
	hash.Sum(sum[:0])
	return sum, nil
}

// writerFunc takes all or fails.
type writerFunc func(p []byte) error

func (f writerFunc) Write(p []byte) (int, error) {
	if err := f(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// content reads the rest of a file to its end: before that nobody knows that it is whole.
func (f *opened) content(st *State) error {
	in, err := secrets.NewUnsealReader(f.rest, f.key, kindFile, f.line)
	if err != nil {
		return refused(err)
	}
	err = decode(in, st)
	if errors.Is(err, errContent) {
		// Perhaps for what the reader said, which the decoder passes on as it likes.
		if _, err := in.Read(make([]byte, 1)); err != nil && !errors.Is(err, io.EOF) {
			return refused(err)
		}
	}
	return err
}

// refused tells a file that cannot be trusted from a disk that cannot be read.
func refused(err error) error {
	if errors.Is(err, secrets.ErrKey) || errors.Is(err, secrets.ErrForm) {
		return fmt.Errorf("%w: %w", ErrForm, err)
	}
	return fmt.Errorf("reading it: %w", err)
}

func decode(r io.Reader, st *State) error {
	var text [][]byte
	dec := gob.NewDecoder(r)
	for {
		var part record
		err := dec.Decode(&part)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return errContent
		}
		if part.Kept != nil {
			st.Kept = append(st.Kept, part.Kept.kept())
			continue
		}
		text = append(text, part.Document)
	}
	st.Document = bytes.Join(text, nil)
	return nil
}
