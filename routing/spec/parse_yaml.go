package spec

import (
	"bytes"
	"errors"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

var yamlErrorLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// yamlReader converts YAML's nodes to ours, each anchor once.
type yamlReader struct {
	*parser
	done    map[*yaml.Node]*node
	open    map[*yaml.Node]bool // anchors being converted: an alias to one is a circle
	written int
}

func (p *parser) parseYAML(data []byte) *node {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		p.yamlFailure(err)
		return nil
	}
	var next yaml.Node
	switch err := dec.Decode(&next); {
	case err == nil && (len(next.Content) != 1 || next.Content[0].Tag != "!!null"):
		p.fail(next.Line, 1, ReasonSyntax, "expected one YAML document in the file; put the second one in its own file")
		return nil
	case err != nil && !errors.Is(err, io.EOF):
		p.yamlFailure(err)
		return nil
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		return nil
	}
	r := &yamlReader{parser: p, done: map[*yaml.Node]*node{}, open: map[*yaml.Node]bool{}}
	n := r.convert(doc.Content[0], 0)
	if n.height > maxDepth {
		p.fail(1, 1, ReasonSyntax, "expected at most "+itoa(maxDepth)+" levels of nesting, aliases included")
	}
	if n.weight > r.written+maxRepeated {
		p.fail(1, 1, ReasonSyntax, "expected aliases that repeat at most "+itoa(maxRepeated)+" values in all")
	}
	return n
}

func (p *parser) yamlFailure(err error) {
	text, line := err.Error(), 1
	if m := yamlErrorLine.FindStringSubmatch(text); m != nil {
		text = text[len(m[0]):]
		if n, err := strconv.Atoi(m[1]); err == nil {
			line = n
		}
	}
	p.fail(line, 1, ReasonSyntax, "cannot be parsed as YAML: "+text)
}

func (r *yamlReader) convert(y *yaml.Node, depth int) *node {
	if y.Kind == yaml.AliasNode {
		return r.alias(y, depth)
	}
	r.written++
	n := &node{line: y.Line, col: y.Column, weight: 1}
	if depth > maxDepth {
		r.fail(y.Line, y.Column, ReasonSyntax, "expected at most "+itoa(maxDepth)+" levels of nesting")
		return n
	}
	if y.Anchor != "" {
		r.open[y] = true
		defer delete(r.open, y)
	}
	switch y.Kind {
	case yaml.ScalarNode:
		r.scalar(n, y)
	case yaml.SequenceNode:
		n.shape = shapeList
		n.items = make([]*node, len(y.Content))
		for i, item := range y.Content {
			n.items[i] = r.convert(item, depth+1)
		}
		r.seal(n)
	case yaml.MappingNode:
		n.shape = shapeObject
		r.mapping(n, y, depth)
		r.seal(n)
	}
	if y.Anchor != "" {
		r.done[y] = n
	}
	return n
}

func (r *yamlReader) alias(y *yaml.Node, depth int) *node {
	r.aliases = true
	if n := r.done[y.Alias]; n != nil {
		return n
	}
	if r.open[y.Alias] {
		r.fail(y.Line, y.Column, ReasonSyntax, "anchor '"+y.Value+"' contains itself")
		return &node{line: y.Line, col: y.Column, weight: 1}
	}
	return r.convert(y.Alias, depth)
}

func (r *yamlReader) mapping(n *node, y *yaml.Node, depth int) {
	n.keys = make([]key, 0, len(y.Content)/2)
	n.items = make([]*node, 0, len(y.Content)/2)
	var merged []*node
	for i := 0; i+1 < len(y.Content); i += 2 {
		k := y.Content[i]
		if k.Kind == yaml.AliasNode {
			r.aliases = true
			k = k.Alias
		}
		if k.Kind != yaml.ScalarNode {
			r.fail(k.Line, k.Column, ReasonSyntax, "expected a text as key")
			continue
		}
		v := r.convert(y.Content[i+1], depth+1)
		if k.Tag == "!!merge" {
			merged = append(merged, r.mergeSources(v)...)
			continue
		}
		n.keys = append(n.keys, key{k.Value, k.Line, k.Column})
		n.items = append(n.items, v)
	}
	for _, from := range merged {
		for i, k := range from.keys {
			if n.get(k.name) == nil {
				n.keys = append(n.keys, k)
				n.items = append(n.items, from.items[i])
			}
		}
	}
}

// mergeSources answers the objects that a merge key (<<) names, in order of strength.
func (r *yamlReader) mergeSources(v *node) []*node {
	sources := []*node{v}
	if v.shape == shapeList {
		sources = v.items
	}
	for _, s := range sources {
		if s.shape != shapeObject {
			r.fail(s.line, s.col, ReasonSyntax, "expected a map, or a list of maps, to merge")
			return nil
		}
	}
	return sources
}

func (r *yamlReader) scalar(n *node, y *yaml.Node) {
	n.text = y.Value
	n.plain = y.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0
	switch tag := y.ShortTag(); tag {
	case "!!null":
		n.shape = shapeNull
	case "!!bool":
		var yes bool
		if y.Decode(&yes) != nil {
			r.fail(y.Line, y.Column, ReasonSyntax, "expected a boolean")
		}
		n.shape, n.yes = shapeBool, yes
	case "!!int", "!!float":
		// Why: almost every number of a document is a short decimal, and decoding
		// through reflection costs more than the rest of its parsing.
		if whole, err := strconv.ParseInt(y.Value, 10, 64); err == nil && (y.Value[0] != '0' || len(y.Value) == 1) {
			n.setNumber(float64(whole), y.Value)
			return
		}
		var f float64
		if y.Decode(&f) != nil || math.IsInf(f, 0) || math.IsNaN(f) {
			r.fail(y.Line, y.Column, ReasonSyntax, "expected a finite number")
			return
		}
		text := y.Value
		// Why: 0x1F, 0o17 and 1_000 are whole numbers that ParseInt in base ten refuses.
		if whole, err := strconv.ParseInt(strings.ReplaceAll(text, "_", ""), 0, 64); err == nil && tag == "!!int" {
			text = strconv.FormatInt(whole, 10)
		}
		n.setNumber(f, text)
		n.text = y.Value
	case "!!str", "!!timestamp", "!!merge":
		n.shape = shapeText
	default:
		r.fail(y.Line, y.Column, ReasonSyntax, "expected a value without the tag "+tag)
	}
}
