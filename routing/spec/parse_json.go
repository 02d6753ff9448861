package spec

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"strconv"
)

// jsonReader walks the tokens of a JSON text and knows the place of each.
type jsonReader struct {
	*parser
	dec  *json.Decoder
	data []byte
	at   int // bytes looked at for counting lines
	line int
	bol  int // begin of the current line
}

func (p *parser) parseJSON(data []byte) *node {
	r := &jsonReader{parser: p, dec: json.NewDecoder(bytes.NewReader(data)), data: data, line: 1}
	r.dec.UseNumber()
	n := r.value(0)
	if len(p.problems) > 0 {
		return nil
	}
	if _, err := r.dec.Token(); !errors.Is(err, io.EOF) {
		r.advance(int(r.dec.InputOffset()))
		r.fail(r.line, 1, ReasonSyntax, "expected the end of the file after one JSON value")
	}
	return n
}

// place moves to where the next token starts and answers its line and column.
func (r *jsonReader) place() (line, col int) {
	start := int(r.dec.InputOffset())
	for start < len(r.data) && bytes.IndexByte([]byte(" \t\r\n,:"), r.data[start]) >= 0 {
		start++
	}
	r.advance(start)
	return r.line, start - r.bol + 1
}

func (r *jsonReader) advance(to int) {
	for r.at < to {
		i := bytes.IndexByte(r.data[r.at:to], '\n')
		if i < 0 {
			r.at = to
			return
		}
		r.at += i + 1
		r.line++
		r.bol = r.at
	}
}

func (r *jsonReader) value(depth int) *node {
	n := &node{weight: 1}
	n.line, n.col = r.place()
	token, err := r.dec.Token()
	if err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			r.advance(min(int(syntax.Offset), len(r.data)))
			r.fail(r.line, r.at-r.bol+1, ReasonSyntax, "cannot be parsed as JSON: "+syntax.Error())
		} else {
			r.fail(n.line, n.col, ReasonSyntax, "cannot be parsed as JSON: it ends too early")
		}
		return n
	}
	if depth > maxDepth {
		r.fail(n.line, n.col, ReasonSyntax, "expected at most "+itoa(maxDepth)+" levels of nesting")
		return n
	}
	switch t := token.(type) {
	case nil:
	case bool:
		n.shape, n.yes, n.text = shapeBool, t, strconv.FormatBool(t)
	case string:
		n.shape, n.text = shapeText, t
	case json.Number:
		r.number(n, string(t))
	case json.Delim:
		r.composite(n, t, depth)
	}
	return n
}

func (r *jsonReader) number(n *node, text string) {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		r.fail(n.line, n.col, ReasonSyntax, "expected a number that fits 64 bits")
		return
	}
	n.setNumber(f, text)
}

func (r *jsonReader) composite(n *node, open json.Delim, depth int) {
	n.shape = shapeList
	if open == '{' {
		n.shape = shapeObject
	}
	for r.dec.More() && len(r.problems) == 0 {
		if n.shape == shapeObject {
			line, col := r.place()
			token, err := r.dec.Token()
			name, ok := token.(string)
			if err != nil || !ok {
				r.fail(line, col, ReasonSyntax, "cannot be parsed as JSON: expected a key in quotes")
				return
			}
			n.keys = append(n.keys, key{name, line, col})
		}
		n.items = append(n.items, r.value(depth+1))
	}
	if len(r.problems) > 0 {
		return
	}
	if _, err := r.dec.Token(); err != nil {
		r.fail(r.line, 1, ReasonSyntax, "cannot be parsed as JSON: a list or an object that begins at line "+itoa(n.line)+" has no end")
		return
	}
	r.seal(n)
}

// setNumber makes the node a number.
func (n *node) setNumber(f float64, text string) {
	if f == 0 {
		f = 0 // not minus zero, which is written alike and hashed otherwise
	}
	n.shape, n.num, n.text = shapeNumber, f, text
	// Beyond 2^53 a config, whose numbers are float64, could not keep it.
	if f >= -1<<53 && f <= 1<<53 && f == math.Trunc(f) {
		n.whole, n.isInt = int64(f), true
	}
}
