package lastgood

import (
	"bytes"
	"context"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/keyway-edge/keyway/secrets"
)

const (
	family   = "keyway-last-good-"
	format   = family + "1"
	kindFile = format + " state\n" // of sealed boxes: a mark cannot stand for a state
	kindMark = format + " mark\n"
	maxHead  = 64 << 10
	maxFile  = 1 << 30
)

// Why a file is refused.
var (
	ErrNone    = errors.New("there is no last known good state")
	ErrForm    = errors.New("it is damaged or no such file at all")
	ErrFormat  = errors.New("it has another format")
	ErrForeign = errors.New("it is another node's")
	ErrOlder   = errors.New("it is older than the last one written")
)

// head is the first line of a file, in clear and authenticated with the rest.
type head struct {
	Node     string    `json:"node"`
	Sequence uint64    `json:"sequence"`
	Written  time.Time `json:"written"`
	Wrapped  []byte    `json:"wrapped_key,omitempty"`
}

// pack makes a file.
func pack(key []byte, kind string, h head, plain []byte) ([]byte, error) {
	text, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encoding the head: %w", err)
	}
	line := format + " " + string(text) + "\n"
	box, err := secrets.Seal(key, kind, line, plain)
	if err != nil {
		return nil, err
	}
	return append([]byte(line), box...), nil
}

// unpack opens a file of a node.
func unpack(ctx context.Context, keys Keys, kind, node string, data []byte) (head, []byte, error) {
	var h head
	end := bytes.IndexByte(data[:min(len(data), maxHead)], '\n')
	if end < 0 {
		return h, nil, fmt.Errorf("%w; expected a first line that begins with %s", ErrForm, format)
	}
	line, box := string(data[:end+1]), data[end+1:]
	first, rest, _ := strings.Cut(line, " ")
	if first != format {
		if number, ok := strings.CutPrefix(first, family); ok && len(number) < 10 {
			return h, nil, fmt.Errorf("%w: %s%q, written by another version of the program; expected %s", ErrFormat, family, number, format)
		}
		return h, nil, fmt.Errorf("%w; expected a first line that begins with %s", ErrForm, format)
	}
	if err := json.Unmarshal([]byte(rest), &h); err != nil {
		return h, nil, fmt.Errorf("%w: its head cannot be read", ErrForm)
	}
	if h.Node != node {
		return h, nil, fmt.Errorf("%w: node %q wrote it; expected %s", ErrForeign, h.Node, node)
	}
	key, err := keys.Open(ctx, h.Wrapped)
	if err != nil {
		return h, nil, fmt.Errorf("its key: %w", err)
	}
	plain, err := secrets.Unseal(key, kind, line, box)
	if err != nil {
		return h, nil, fmt.Errorf("%w: %w", ErrForm, err)
	}
	return h, plain, nil
}

// readFile reads at most maxFile bytes; ErrNone when there is no file.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNone
	}
	if err != nil {
		return nil, fmt.Errorf("reading it: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading it: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("%w: it is no regular file of at most %d bytes", ErrForm, maxFile)
	}
	data := make([]byte, info.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, fmt.Errorf("reading it: %w", err)
	}
	return data, nil
}

// image is the content of a file. Fields may be added; none may change its meaning.
type image struct {
	Document []byte
	Kept     []keptImage
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

func encode(document []byte, kept []secrets.Kept) ([]byte, error) {
	img := image{Document: document, Kept: make([]keptImage, len(kept))}
	size := len(document)
	for i := range kept {
		k := &kept[i]
		x := keptImage{Ref: k.Ref, Value: k.Value.Reveal(), Version: k.Version, Pinned: k.Pinned, Modified: k.Modified, Good: k.Good, NotAfter: k.NotAfter, Origin: k.Origin}
		size += len(x.Value) + len(x.Ref) + 128
		for _, o := range k.Older {
			x.Older = append(x.Older, olderImage{o.Version, o.Value.Reveal(), o.Modified, o.Until})
			size += len(o.Value.Reveal()) + 64
		}
		img.Kept[i] = x
	}
	var b bytes.Buffer
	b.Grow(size + 4096)
	if err := gob.NewEncoder(&b).Encode(img); err != nil {
		return nil, errors.New("encoding the state") // the encoder's text could quote a value
	}
	return b.Bytes(), nil
}

func decode(plain []byte) (document []byte, kept []secrets.Kept, err error) {
	var img image
	if err := gob.NewDecoder(bytes.NewReader(plain)).Decode(&img); err != nil {
		return nil, nil, fmt.Errorf("%w: its content cannot be decoded", ErrForm)
	}
	kept = make([]secrets.Kept, len(img.Kept))
	for i, x := range img.Kept {
		k := secrets.Kept{Ref: x.Ref, Value: secrets.NewValue(x.Value), Version: x.Version, Pinned: x.Pinned, Modified: x.Modified, Good: x.Good, NotAfter: x.NotAfter, Origin: x.Origin}
		for _, o := range x.Older {
			k.Older = append(k.Older, secrets.KeptValue{Version: o.Version, Value: secrets.NewValue(o.Value), Modified: o.Modified, Until: o.Until})
		}
		kept[i] = k
	}
	return img.Document, kept, nil
}
