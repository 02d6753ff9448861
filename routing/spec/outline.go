package spec

import (
	"bytes"
	"slices"
	"strings"
	"unicode/utf8"
)

// outline is a YAML file cut at the entities of its lists, without parsing it.
type outline struct {
	head  string // all that is no entity, with the names of the lists
	lists []outlined
}

// outlined is one list of entities.
type outlined struct {
	kind   string
	pieces []piece
}

// piece is the text of one entity, from its dash up to the next one's.
type piece struct {
	text []byte
	line int // where it begins, from 1
}

// strangers are bytes with which lines, or a file, would be more than they seem:
// other line breaks that YAML knows.
var strangers = [][]byte{{'\r'}, []byte("\u0085"), []byte("\u2028"), []byte("\u2029")}

// outlineOf cuts a file whose lists are written as most are, with each entity's dash
// in one column. It answers false for all others, which are read as a whole.
//
// A cut that is wrong, in the middle of a text of several lines, does not stay
// unseen: the piece before it ends where a text or a bracket is open, and is not
// YAML. Whoever parses pieces also compares where their entities begin.
func outlineOf(data []byte) (*outline, bool) {
	if looksLikeJSON(data) || !utf8.Valid(data) || slices.ContainsFunc(strangers, func(s []byte) bool { return bytes.Contains(data, s) }) {
		return nil, false
	}
	c := cutter{o: &outline{}}
	for number := 1; len(data) > 0; number++ {
		line := data
		if i := bytes.IndexByte(data, '\n'); i >= 0 {
			line = data[:i+1]
		}
		if !c.line(data, line, number) {
			return nil, false
		}
		data = data[len(line):]
	}
	c.close(nil)
	c.o.head = c.head.String()
	return c.o, true
}

// cutter is the state of one cut.
type cutter struct {
	o      *outline
	head   strings.Builder
	began  bool   // something other than comments was seen
	inList bool   // below the name of a list
	column int    // of the list's dashes, -1 before the first
	open   []byte // from the piece in hand to the end of the file, nil for none
	at     int
}

// line takes one line; rest begins with it.
func (c *cutter) line(rest, line []byte, number int) bool {
	text := bytes.TrimLeft(line, " ")
	indent := len(line) - len(text)
	if text = bytes.TrimRight(text, "\n"); len(text) == 0 || text[0] == '#' {
		if !c.inList {
			c.head.Write(line)
		}
		return true // within a piece it belongs to it
	}
	first := !c.began
	c.began = true
	dash := text[0] == '-' && (len(text) == 1 || text[1] == ' ')
	switch {
	case c.inList && dash && (c.column < 0 || indent == c.column):
		c.close(rest)
		c.column, c.open, c.at = indent, rest, number
		return true
	case c.inList && c.open == nil && indent > 0:
		return false // a map, or what is no list
	case c.inList && indent > c.column && c.open != nil:
		return true
	case indent > 0:
		if c.inList {
			return false
		}
		c.head.Write(line)
		return true
	case dash && !c.inList:
		c.head.Write(line) // of a list of texts in the head
		return true
	case first && bytes.Equal(bytes.TrimRight(text, " "), []byte("---")):
		c.head.Write(line)
		return true
	}
	name, value, ok := topKey(text)
	if !ok {
		return false
	}
	c.close(rest)
	c.head.Write(line)
	if c.inList = value == "" && newEntity(name) != nil; c.inList {
		c.column = -1
		c.o.lists = append(c.o.lists, outlined{kind: name})
	}
	return true
}

// close ends the piece in hand where rest begins.
func (c *cutter) close(rest []byte) {
	if c.open == nil {
		return
	}
	list := &c.o.lists[len(c.o.lists)-1]
	list.pieces = append(list.pieces, piece{c.open[:len(c.open)-len(rest)], c.at})
	c.open = nil
}

// topKey reads a line at the left edge: a plain name, a colon and perhaps a value.
func topKey(text []byte) (name, value string, ok bool) {
	key, rest, ok := strings.Cut(string(text), ":")
	if !ok || key == "" || rest != "" && rest[0] != ' ' {
		return "", "", false
	}
	for i := range len(key) {
		if c := key[i]; !isAlnum(c) && c != '_' {
			return "", "", false
		}
	}
	value = strings.TrimLeft(rest, " ")
	if strings.HasPrefix(value, "#") {
		value = ""
	}
	return key, value, true
}
