package spec

import (
	"bytes"
	"strconv"
	"strings"
	"unicode/utf8"
)

// isBare says that a text is what YAML reads as text without quotes, whatever version of
// YAML. Bytes are looked at one by one: a document has a hundred thousand texts.
func isBare(s string) bool {
	if s == "" || !isAlnum(s[0]) && s[0] != '/' || '0' <= s[0] && s[0] <= '9' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isAlnum(c) && c != '_' && c != '.' && c != '/' && c != '-' {
			return false
		}
	}
	return true
}

// emitter writes block YAML. Each value is written after its "key:" or "-" and
// ends its line.
type emitter struct {
	bytes.Buffer
}

func (w *emitter) indent(depth int) {
	for range depth {
		w.WriteString("  ")
	}
}

func (w *emitter) key(depth int, name string) {
	w.indent(depth)
	// A key of more than 1024 bytes is not seen as one unless it is announced.
	if len(name) > 100 {
		w.WriteString("? ")
		w.quoted(name)
		w.WriteByte('\n')
		w.indent(depth)
	} else {
		w.quoted(name)
	}
	w.WriteByte(':')
}

func (w *emitter) scalar(text string) {
	w.WriteByte(' ')
	w.WriteString(text)
	w.WriteByte('\n')
}

// text writes a text value beneath depth; several lines, as certificates have,
// stay readable as a block.
func (w *emitter) text(depth int, s string) {
	w.WriteByte(' ')
	if !isBlock(s) {
		w.quoted(s)
		w.WriteByte('\n')
		return
	}
	w.WriteString("|\n")
	for line := range strings.SplitSeq(strings.TrimSuffix(s, "\n"), "\n") {
		w.indent(depth + 1)
		w.WriteString(line)
		w.WriteByte('\n')
	}
}

// isBlock says that a text survives a literal block: printable ASCII lines, none
// of them empty or begun with a space, one newline at the end.
func isBlock(s string) bool {
	if strings.Count(s, "\n") < 2 || !strings.HasSuffix(s, "\n") {
		return false
	}
	for line := range strings.SplitSeq(s[:len(s)-1], "\n") {
		if line == "" || line[0] == ' ' {
			return false
		}
		for i := range len(line) {
			if line[i] < 0x20 || line[i] > 0x7e {
				return false
			}
		}
	}
	return true
}

func (w *emitter) quoted(s string) {
	if isBare(s) && !isWord(s) {
		w.WriteString(s)
		return
	}
	w.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			w.WriteByte('\\')
			w.WriteRune(r)
		case r == '\n':
			w.WriteString(`\n`)
		case r >= 0x20 && r < 0x7f, r >= 0xa1 && r < 0x2000, r >= 0x3000 && r < 0xd800:
			w.WriteRune(r)
		case r <= 0xffff && r != utf8.RuneError:
			w.WriteString(`\u`)
			w.WriteString(hexDigits(uint32(r), 4))
		default:
			w.WriteString(`\U`)
			w.WriteString(hexDigits(uint32(r), 8))
		}
	}
	w.WriteByte('"')
}

func hexDigits(n uint32, digits int) string {
	s := strconv.FormatUint(uint64(n), 16)
	return strings.Repeat("0", digits-len(s)) + s
}

// isWord says that some version of YAML reads the text as something else.
func isWord(s string) bool {
	if len(s) > len("false") {
		return false
	}
	switch strings.ToLower(s) {
	case "null", "true", "false", "yes", "no", "on", "off", "y", "n":
		return true
	}
	return false
}

// value writes any value in the shapes of Plugin.Config.
func (w *emitter) value(depth int, v any) {
	switch v := v.(type) {
	case bool:
		w.scalar(strconv.FormatBool(v))
	case float64:
		w.scalar(number(v))
	case string:
		w.text(depth, v)
	case []any:
		if len(v) == 0 {
			w.scalar("[]")
			return
		}
		w.WriteByte('\n')
		for _, item := range v {
			w.indent(depth)
			w.WriteByte('-')
			w.value(depth+1, item)
		}
	case map[string]any:
		if len(v) == 0 {
			w.scalar("{}")
			return
		}
		w.WriteByte('\n')
		for _, name := range sortedKeys(v) {
			w.key(depth, name)
			w.value(depth+1, v[name])
		}
	default:
		w.scalar("null")
	}
}
