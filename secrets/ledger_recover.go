package secrets

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// recover finds the end of the chain, cuts a torn last line, and answers the
// events that tell what was found. Whatever it finds, the chain goes on at a
// number that was not used before: a gap stays visible to Verify for ever.
func (l *Ledger) recover() ([]Event, error) {
	var found []Event
	tell := func(result, format string, args ...any) {
		found = append(found, Event{Kind: "ledger", Subject: LedgerFile, Result: result, Reason: fmt.Sprintf(format, args...), Actor: "node"})
	}
	text, err := os.ReadFile(l.path(LedgerHead))
	if err != nil {
		return nil, err
	}
	promised, haveHead := decodeHead(l.key, text)

	good, torn, last, err := tail(l.file)
	if err != nil {
		return nil, err
	}
	if torn > 0 {
		if err := l.file.Truncate(good); err != nil {
			return nil, fmt.Errorf("cutting a torn line: %w", err)
		}
		tell("recovered", "the last line was torn; its %d bytes were cut", torn)
	}
	l.size, l.stats.Bytes = good, good
	if good > 0 {
		first, err := firstLine(l.path(LedgerFile))
		if err == nil {
			l.first = first.Seq
		}
	} else if last, err = l.lastRotated(); err != nil {
		return nil, err
	}

	end, err := decodeLine(last)
	intact := err == nil && end.authentic(l.key)
	switch {
	case len(last) == 0 && !haveHead: // a new ledger
	case len(last) > 0 && !intact:
		tell("damaged", "the last line was not written with the key of this ledger")
		if l.seq, l.hash = promised.Seq, promised.Hash; !haveHead {
			tell("damaged", "the head is gone too, or not authentic; one number is left out to show the break")
			l.seq, l.hash = l.highest()
			l.seq++
		}
	case haveHead && promised.Seq > end.Seq:
		tell("truncated", "lines %d to %d are missing at the end: they were cut off, or lost in a power failure", end.Seq+1, promised.Seq)
		l.seq, l.hash = promised.Seq, promised.Hash
	default:
		l.seq, l.hash = end.Seq, end.Hash
		if !haveHead {
			tell("damaged", "the head was gone or not authentic; lines cut off before now cannot be told")
		}
	}
	if l.first == 0 {
		l.first = l.seq + 1
	}
	l.stats.Sequence = l.seq
	return found, nil
}

// tail answers where the last whole line of a file ends, how many bytes follow it,
// and that line without its end.
func tail(f *os.File) (good, torn int64, last []byte, err error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, 0, nil, err
	}
	at := max(0, size-2*maxLine)
	text := make([]byte, size-at)
	if _, err := f.ReadAt(text, at); err != nil && !errors.Is(err, io.EOF) {
		return 0, 0, nil, err
	}
	end := bytes.LastIndexByte(text, '\n') + 1
	torn = int64(len(text) - end)
	if end == 0 {
		if at > 0 {
			return 0, 0, nil, fmt.Errorf("%s ends with %d bytes that are no line; expected JSON lines: move it away", f.Name(), len(text))
		}
		return 0, torn, nil, nil
	}
	begin := bytes.LastIndexByte(text[:end-1], '\n') + 1
	return at + int64(end), torn, text[begin : end-1], nil
}

// lastRotated answers the last line of the newest file put aside, nil for none.
func (l *Ledger) lastRotated() ([]byte, error) {
	files, err := filepath.Glob(l.path(rotatedGlob))
	if err != nil || len(files) == 0 {
		return nil, err
	}
	f, err := os.Open(files[len(files)-1]) // Glob sorts
	if err != nil {
		return nil, err
	}
	defer f.Close()
	_, _, last, err := tail(f)
	return last, err
}

// highest answers the line with the highest number in the file being written,
// authentic or not.
func (l *Ledger) highest() (seq uint64, hash string) {
	_ = eachLine(l.path(LedgerFile), func(_ int, text []byte, _ bool) bool {
		if x, err := decodeLine(text); err == nil && x.Seq > seq {
			seq, hash = x.Seq, x.Hash
		}
		return true
	})
	return seq, hash
}

func firstLine(path string) (line, error) {
	var first line
	err := eachLine(path, func(_ int, text []byte, _ bool) bool {
		first, _ = decodeLine(text)
		return false
	})
	return first, err
}

// eachLine calls f with each line of a file, its number from 1, and whether its end
// is there, until f says false. Lines longer than any ledger writes are given cut.
func eachLine(path string, f func(n int, text []byte, whole bool) bool) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	r := bufio.NewReaderSize(file, maxLine+1)
	for n := 1; ; n++ {
		text, err := r.ReadSlice('\n')
		if len(text) > 0 {
			cut, whole := bytes.CutSuffix(text, []byte("\n"))
			if !f(n, cut, whole) {
				return nil
			}
		}
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = r.ReadSlice('\n')
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", path, err)
		}
	}
}

// Versions answers the highest version number that the ledger in a folder records
// for each secret, so that a new process counts on (Config.Versions). A folder
// without a ledger has none.
func Versions(dir string) (map[string]int, error) {
	files, err := LedgerFiles(dir)
	if err != nil {
		return nil, err
	}
	versions := make(map[string]int)
	for _, path := range files {
		err := eachLine(path, func(_ int, text []byte, _ bool) bool {
			if !bytes.Contains(text, []byte(`"kind":"secret"`)) {
				return true
			}
			var l struct{ Event Event }
			if json.Unmarshal(text, &l) == nil && l.Event.Kind == "secret" {
				versions[l.Event.Subject] = max(versions[l.Event.Subject], l.Event.NewVersion)
			}
			return true
		})
		if err != nil {
			return nil, fmt.Errorf("reading the versions of secrets: %w", err)
		}
	}
	return versions, nil
}
