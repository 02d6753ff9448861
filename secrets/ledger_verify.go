package secrets

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Finding is one thing wrong with a ledger.
type Finding struct {
	File    string `json:"file"`
	Line    int    `json:"line"`          // from 1; 0 for the file as a whole
	Seq     uint64 `json:"seq,omitempty"` // what the line says it is, where it says
	Problem string `json:"problem"`       // changed, forged, missing, reordered, torn, truncated
	Message string `json:"message"`
}

// Report is what Verify found. NotShown says what these files and this key cannot
// prove, so that silence is not taken for proof.
type Report struct {
	Lines    int       `json:"lines"`
	First    uint64    `json:"first"` // sequence numbers
	Last     uint64    `json:"last"`
	Findings []Finding `json:"findings,omitempty"`
	NotShown []string  `json:"not_shown"`
}

// OK says that nothing wrong was found. What that is worth is in NotShown.
func (r Report) OK() bool { return len(r.Findings) == 0 }

// Verify checks files of one ledger, oldest first (LedgerFiles), by what is in them
// and by the head beside the last one. Without a key (nil) it shows what needs
// none. The error is about reading, not about what was found.
func Verify(paths []string, key []byte) (Report, error) {
	v := verifier{key: key}
	if len(paths) == 0 {
		return v.report, errors.New("verifying the ledger: no file is given; expected its files, oldest first")
	}
	// The head is read before the lines, so that a node that goes on writing
	// meanwhile is not taken for one whose last lines are gone.
	if err := v.readHead(paths[len(paths)-1]); err != nil {
		return v.report, fmt.Errorf("verifying the ledger: %w", err)
	}
	for _, path := range paths {
		v.file = path
		if err := eachLine(path, v.line); err != nil {
			return v.report, fmt.Errorf("verifying the ledger: %w", err)
		}
	}
	if key == nil {
		v.cannot("that no line was forged: whoever can write the files can recompute every hash; verify with the ledger's key")
	}
	v.end()
	if v.report.First > 1 {
		v.cannot("lines 1 to %d: they are in none of the given files", v.report.First-1)
	}
	v.cannot("that the whole folder, head included, was not put back to an older copy; compare the last number with one noted elsewhere")
	return v.report, nil
}

type verifier struct {
	key    []byte
	file   string
	report Report
	seq    uint64 // of the line before
	hash   string // of the line before
	broken uint64 // how many lines directly before could not be read: the link to them cannot be checked
	head   *head  // nil for none that can be judged
}

func (v *verifier) cannot(format string, args ...any) {
	v.report.NotShown = append(v.report.NotShown, fmt.Sprintf(format, args...))
}

func (v *verifier) find(n int, seq uint64, problem, format string, args ...any) {
	v.report.Findings = append(v.report.Findings, Finding{v.file, n, seq, problem, fmt.Sprintf(format, args...)})
}

// line checks one line and its link to the one before.
func (v *verifier) line(n int, text []byte, whole bool) bool {
	v.report.Lines++
	l, err := decodeLine(text)
	if err != nil {
		if whole {
			v.find(n, 0, "changed", "this is no line as the ledger writes it")
		} else {
			v.find(n, 0, "torn", "the last line has no end: the writer died in it, or it was cut")
		}
		v.broken++
		return true
	}
	switch {
	case l.Hash != l.sum():
		v.find(n, l.Seq, "changed", "its content does not have its hash: it was changed after it was written")
	case v.key != nil && !l.authentic(v.key):
		v.find(n, l.Seq, "forged", "it was not written with this key: it was changed and hashed anew, or the key is another ledger's")
	case !whole:
		v.find(n, l.Seq, "torn", "the line has no end")
	}
	v.link(n, l)
	if v.head != nil && l.Seq == v.head.Seq && l.Hash != v.head.Hash {
		v.find(n, l.Seq, "changed", "it is not the line that the head was made for")
	}
	v.seq, v.hash, v.broken = l.Seq, l.Hash, 0
	v.report.Last = max(v.report.Last, l.Seq)
	return true
}

func (v *verifier) link(n int, l line) {
	switch {
	case v.report.First == 0:
		v.report.First = l.Seq
		if v.broken > 0 { // what came before could not be read, so this is not the first
			return
		}
		if l.Seq <= 1 && l.Prev != "" {
			v.find(n, l.Seq, "changed", "the first line names a line before it")
		}
	case l.Seq <= v.seq:
		v.find(n, l.Seq, "reordered", "number %d comes after number %d: lines were moved or doubled", l.Seq, v.seq)
	case l.Seq > v.seq+1 && l.Seq <= v.seq+1+v.broken: // the unreadable lines stood between
	case l.Seq > v.seq+1:
		v.find(n, l.Seq, "missing", "lines %d to %d are missing before it", v.seq+1, l.Seq-1)
	case l.Prev != v.hash:
		v.find(n, l.Seq, "changed", "it does not follow from the line before it: that one, or this one's link, was changed")
	}
}

// readHead reads the head beside the file that is being written, or says why the
// end of the ledger cannot be judged.
func (v *verifier) readHead(last string) error {
	if filepath.Base(last) != LedgerFile {
		v.cannot("that no line was cut off at the end: %s, the file that is being written, is not the last one given", LedgerFile)
		return nil
	}
	text, err := os.ReadFile(filepath.Join(filepath.Dir(last), LedgerHead))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		v.cannot("that no line was cut off at the end: there is no %s beside the file", LedgerHead)
		return nil
	case err != nil:
		return err
	case v.key == nil:
		v.cannot("that no line was cut off at the end: the head can be judged with the key only")
		return nil
	}
	h, ok := decodeHead(v.key, text)
	if !ok {
		v.find(0, 0, "truncated", "the head is not authentic: it was changed, and lines may have been cut off at the end")
		return nil
	}
	v.head = &h
	return nil
}

// end compares the last line with the head. A line or two beyond it are right: a
// node that dies writes the line, and then no head.
func (v *verifier) end() {
	if v.head != nil && v.head.Seq > v.report.Last+v.broken {
		v.find(0, v.head.Seq, "truncated", "lines %d to %d are missing at the end", v.report.Last+1, v.head.Seq)
	}
}
