package spec

import (
	"bytes"
	"slices"
	"strings"
	"unicode/utf8"
)

// outline is a YAML file cut at the entities of its lists, without parsing it.
type outline struct {
	head  string // all that is no entity, with a mark in place of each list's
	lists []outlined
}

// outlined is one list of entities.
type outlined struct {
	kind   string
	mark   string // the one item that stands for them in the text around
	pieces []piece
}

// piece is the text of one entity, from its dash up to the next one's.
type piece struct {
	text   []byte
	line   int // where it begins, from 1
	column int // of the dash
}

// large is the size from which a piece is cut at the entities inside of it.
const large = 4 << 10

// strangers are bytes with which lines, or a file, would be more than they seem:
// other line breaks that YAML knows.
var strangers = [][]byte{{'\r'}, []byte("\u0085"), []byte("\u2028"), []byte("\u2029")}

// outlineOf cuts a file whose lists are written as most are, with each entity's dash
// in one column. It answers false for all others, which are read as a whole.
//
// A cut that is wrong, within a text of several lines, does not stay unseen by whoever
// parses what was cut: the piece before it ends where a text or a bracket is open,
// which is no YAML, or the mark is a part of a text and not the one item of its list.
// pause is called from time to time.
func outlineOf(data []byte, pause func()) (*outline, bool) {
	if looksLikeJSON(data) || !utf8.Valid(data) || slices.ContainsFunc(strangers, func(s []byte) bool { return bytes.Contains(data, s) }) {
		return nil, false
	}
	return (&cutter{lists: func(name string) bool { return newEntity(name) != nil }, pause: pause}).cut(data, nil, 1)
}

// inside cuts a piece at the entities inside of it. Its head is an entity of its own.
func (p piece) inside(kind string) (*outline, bool) {
	if len(p.text) < large {
		return nil, false
	}
	first, _, _ := bytes.Cut(p.text, []byte("\n"))
	plain := bytes.Clone(append(first, '\n'))
	plain[p.column] = ' ' // so that the first name is one among the others
	c := &cutter{edge: len(plain) - len(bytes.TrimLeft(plain, " ")), lists: func(name string) bool {
		return name != "snis" && newEntity(name) != nil && nests(kind, name) != ""
	}}
	o, ok := c.cut(p.text, plain, p.line)
	return o, ok && len(o.lists) > 0
}

// cutter is the state of one cut.
type cutter struct {
	edge  int                    // the column of names
	lists func(name string) bool // what names are those of lists of entities
	pause func()                 // nil for none

	o      outline
	head   strings.Builder
	began  bool   // something other than comments was seen
	inList bool   // below the name of a list
	kind   string // the list's
	column int    // of the list's dashes, -1 before the first
	open   []byte // from the piece in hand to the end of the file, nil for none
	at     int
}

// cut cuts a text that begins in the line number. first is what to read its first line as, nil for as it is.
func (c *cutter) cut(data, first []byte, number int) (*outline, bool) {
	for ; len(data) > 0; number++ {
		line := data
		if i := bytes.IndexByte(data, '\n'); i >= 0 {
			line = data[:i+1]
		}
		if first == nil {
			first = line
		}
		if !c.line(data, line, first, number) {
			return nil, false
		}
		data, first = data[len(line):], nil
		if number%(4*stretch) == 0 && c.pause != nil {
			c.pause()
		}
	}
	c.close(nil)
	c.o.head = c.head.String()
	return &c.o, true
}

// line takes one line, which is read as text says; rest begins with it.
func (c *cutter) line(rest, line, text []byte, number int) bool {
	bare := bytes.TrimLeft(text, " ")
	indent := len(text) - len(bare)
	if bare = bytes.TrimRight(bare, "\n"); len(bare) == 0 || bare[0] == '#' {
		if !c.inList {
			c.head.Write(line)
		}
		return true // within a piece it belongs to it
	}
	first := !c.began
	c.began = true
	dash := bare[0] == '-' && (len(bare) == 1 || bare[1] == ' ')
	switch {
	case c.inList && dash && (indent == c.column || c.column < 0 && indent >= c.edge):
		c.piece(rest, indent, number)
		return true
	case c.inList && c.open != nil && indent > c.column:
		return true
	case c.inList && indent != c.edge || indent < c.edge:
		return false
	case indent > c.edge, dash && !c.inList, first && c.edge == 0 && bytes.Equal(bytes.TrimRight(bare, " "), []byte("---")):
		c.head.Write(line) // what is beneath a name of the head
		return true
	}
	name, value, ok := topKey(bare)
	if !ok {
		return false
	}
	c.close(rest)
	c.head.Write(line)
	c.inList, c.kind, c.column = value == "" && c.lists(name), name, -1
	return true
}

// piece begins a piece.
func (c *cutter) piece(rest []byte, indent, number int) {
	c.close(rest)
	if c.column < 0 {
		mark := "cut-" + itoa(len(c.o.lists))
		c.o.lists = append(c.o.lists, outlined{kind: c.kind, mark: mark})
		c.head.WriteString(strings.Repeat(" ", indent) + "- " + mark + "\n")
	}
	c.column, c.open, c.at = indent, rest, number
}

// close ends the piece in hand where rest begins.
func (c *cutter) close(rest []byte) {
	if c.open == nil {
		return
	}
	list := &c.o.lists[len(c.o.lists)-1]
	list.pieces = append(list.pieces, piece{c.open[:len(c.open)-len(rest)], c.at, c.column})
	c.open = nil
}

// unmark takes the marks out of an object that was parsed from a head. It answers
// false if one of them is not where it was put.
func (o *outline) unmark(n *node) bool {
	for _, list := range o.lists {
		v := n.get(list.kind)
		if v == nil || v.shape != shapeList || len(v.items) != 1 || v.items[0].shape != shapeText || v.items[0].text != list.mark {
			return false
		}
		*v = node{shape: shapeNull, line: v.line, col: v.col, weight: 1}
	}
	return true
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
