package lastgood

import (
	"bytes"
	"context"
	"encoding/gob"
	"fmt"
	"io"

	"github.com/keyway-edge/keyway/secrets"
)

const (
	kindOne  = formatOne + " state\n"
	kindMark = formatOne + " mark\n"
)

// image is the content of a file of format 1: a node that was upgraded starts from what
// it kept before.
type image struct {
	Document []byte
	Kept     []keptImage
}

// box opens the rest of a file of format 1, one box.
func (f *opened) box(kind string) ([]byte, error) {
	data, err := io.ReadAll(f.rest)
	if err != nil {
		return nil, fmt.Errorf("reading it: %w", err)
	}
	plain, err := secrets.Unseal(f.key, kind, f.line, data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrForm, err)
	}
	return plain, nil
}

func (f *opened) contentOne(st *State) error {
	plain, err := f.box(kindOne)
	if err != nil {
		return err
	}
	return decodeOne(plain, st)
}

func decodeOne(plain []byte, st *State) error {
	var img image
	if err := gob.NewDecoder(bytes.NewReader(plain)).Decode(&img); err != nil {
		return errContent
	}
	st.Document, st.Kept = img.Document, make([]secrets.Kept, len(img.Kept))
	for i := range img.Kept {
		st.Kept[i] = img.Kept[i].kept()
	}
	return nil
}

// packMark makes a mark, which keeps its format: a program of before that is put back
// counts on from it.
func packMark(key []byte, h head) ([]byte, error) {
	line, err := h.line(formatOne)
	if err != nil {
		return nil, err
	}
	box, err := secrets.Seal(key, kindMark, line, nil)
	if err != nil {
		return nil, err
	}
	return append([]byte(line), box...), nil
}

func unpackMark(ctx context.Context, keys Keys, node string, r io.Reader) (head, error) {
	f, err := begin(ctx, keys, node, r, formatOne)
	if err != nil {
		return head{}, err
	}
	_, err = f.box(kindMark)
	return f.head, err
}
