package lastgood

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"
)

const (
	family    = "keyway-last-good-"
	format    = family + "2"
	formatOne = family + "1"
	kindFile  = format + " state\n" // of sealed streams and boxes: a mark cannot stand for a state
	maxHead   = 64 << 10
	maxFile   = 1 << 30
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

// line is the head as a file of a format begins with it.
func (h head) line(format string) (string, error) {
	text, err := json.Marshal(h)
	if err != nil {
		return "", fmt.Errorf("encoding the head: %w", err)
	}
	return format + " " + string(text) + "\n", nil
}

// opened is a file of which the first line was read.
type opened struct {
	head
	line string
	key  []byte
	rest io.Reader
}

// begin reads the first line of a file of a node, which has one of some formats.
func begin(ctx context.Context, keys Keys, node string, r io.Reader, formats ...string) (*opened, error) {
	in := bufio.NewReaderSize(r, maxHead)
	first, err := in.ReadSlice('\n')
	f := &opened{line: string(first), rest: in}
	wanted := strings.Join(formats, " or ")
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, bufio.ErrBufferFull) {
		return nil, fmt.Errorf("reading it: %w", err)
	}
	name, text, _ := strings.Cut(f.line, " ")
	if !slices.Contains(formats, name) || err != nil {
		if number, ok := strings.CutPrefix(name, family); ok && err == nil && len(number) < 10 {
			return nil, fmt.Errorf("%w: %s%q, written by another version of the program; expected %s", ErrFormat, family, number, wanted)
		}
		return nil, fmt.Errorf("%w; expected a first line that begins with %s", ErrForm, wanted)
	}
	if err := json.Unmarshal([]byte(text), &f.head); err != nil {
		return nil, fmt.Errorf("%w: its head cannot be read", ErrForm)
	}
	if f.Node != node {
		return nil, fmt.Errorf("%w: node %q wrote it; expected %s", ErrForeign, f.Node, node)
	}
	if f.key, err = keys.Open(ctx, f.Wrapped); err != nil {
		return nil, fmt.Errorf("its key: %w", err)
	}
	return f, nil
}

// unpack reads the state of a node.
func unpack(ctx context.Context, keys Keys, node string, r io.Reader) (*State, error) {
	f, err := begin(ctx, keys, node, r, format, formatOne)
	if err != nil {
		return nil, err
	}
	st := &State{Sequence: f.Sequence, Written: f.Written}
	if strings.HasPrefix(f.line, formatOne+" ") {
		return st, f.contentOne(st)
	}
	return st, f.content(st)
}

// openFile opens a file of at most maxFile bytes; ErrNone when there is none.
func openFile(path string) (*os.File, int, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, ErrNone
	}
	if err != nil {
		return nil, 0, fmt.Errorf("reading it: %w", err)
	}
	info, err := f.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Size() > maxFile) {
		err = fmt.Errorf("%w: it is no regular file of at most %d bytes", ErrForm, maxFile)
	} else if err != nil {
		err = fmt.Errorf("reading it: %w", err)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, int(info.Size()), nil
}
