package spec

import (
	"bytes"
	"encoding/json"
	"path"
	"strings"
	"unicode/utf8"
)

// parser turns one file into nodes and remembers what was wrong.
type parser struct {
	file     string
	problems Problems
	aliases  bool // there are some, in YAML
}

func (p *parser) fail(line, col int, reason Reason, message string) {
	p.problems = append(p.problems, &Problem{
		Pos: Pos{File: p.file, Line: line, Col: col}, Reason: reason, Message: message,
	})
}

// parseSource parses one file. A nil node with no problem is an empty file.
func parseSource(s Source) (*node, Problems) {
	p := &parser{file: s.Name}
	data := bytes.TrimPrefix(s.Data, []byte("\ufeff"))
	if !utf8.Valid(data) {
		p.fail(lineOfBadUTF8(data), 1, ReasonSyntax, "expected UTF-8 text; save the file in that encoding")
		return nil, p.problems
	}
	var n *node
	// Why: JSON is tried first as the format's other readers do. Most JSON is YAML
	// as well, but not all of it (surrogate escapes, tabs).
	if isJSON(s.Name) || looksLikeJSON(data) {
		n = p.parseJSON(data)
	} else {
		n = p.parseYAML(data)
	}
	if len(p.problems) > 0 {
		return nil, p.problems
	}
	return n, nil
}

func isJSON(name string) bool { return strings.EqualFold(path.Ext(name), ".json") }

func looksLikeJSON(data []byte) bool {
	trimmed := bytes.TrimLeft(data, " \t\r\n")
	return len(trimmed) > 0 && trimmed[0] == '{' && json.Valid(trimmed)
}

func lineOfBadUTF8(data []byte) int {
	line := 1
	for len(data) > 0 {
		r, size := utf8.DecodeRune(data)
		if r == utf8.RuneError && size == 1 {
			break
		}
		if r == '\n' {
			line++
		}
		data = data[size:]
	}
	return line
}

// seal finishes a list or an object: keys must be unique and the whole bounded.
func (p *parser) seal(n *node) {
	n.weight = 1
	for _, item := range n.items {
		n.weight = min(n.weight+item.weight, 1<<40)
		n.height = max(n.height, item.height+1)
	}
	if len(n.keys) < 2 {
		return
	}
	if len(n.keys) <= 12 {
		for i := range n.keys {
			for j := range i {
				if n.keys[i].name == n.keys[j].name {
					p.duplicate(n.keys[i], n.keys[j])
				}
			}
		}
		return
	}
	seen := make(map[string]key, len(n.keys))
	for _, k := range n.keys {
		if first, ok := seen[k.name]; ok {
			p.duplicate(k, first)
			continue
		}
		seen[k.name] = k
	}
}

func (p *parser) duplicate(k, first key) {
	p.fail(k.line, k.col, ReasonSyntax, "key '"+k.name+"' is already set at line "+itoa(first.line)+"; keep one of the two")
}
