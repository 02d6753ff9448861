package spec

import (
	"slices"
	"strconv"
	"strings"
)

// shape is what a node of a parsed file is.
type shape uint8

const (
	shapeNull shape = iota
	shapeBool
	shapeNumber
	shapeText
	shapeList
	shapeObject
)

// The bounds of a file. Real documents nest about a dozen levels; what an alias
// repeats is counted as if it had been written out, so that a few hundred bytes
// cannot become millions of objects.
const (
	maxDepth    = 100
	maxRepeated = 1_000_000
)

// node is one value of a parsed file, whichever language it was written in. Nodes
// are never changed after parsing: an anchor's node is shared by its aliases.
type node struct {
	shape  shape
	plain  bool // an unquoted YAML scalar
	yes    bool // of shapeBool
	isInt  bool // the number has no fraction and fits whole
	line   int
	col    int
	weight int     // nodes beneath and including this one, aliases written out
	height int     // levels beneath this one
	num    float64 // of shapeNumber
	whole  int64   // of shapeNumber with isInt
	text   string  // of shapeText; of other scalars what was written
	keys   []key   // of shapeObject, unique
	items  []*node // of shapeList and, in the order of keys, of shapeObject
}

// key is one key of an object and where it stands.
type key struct {
	name string
	line int
	col  int
}

// get answers the value of a key, nil if there is none.
func (n *node) get(name string) *node {
	if n == nil || n.shape != shapeObject {
		return nil
	}
	for i := range n.keys {
		if n.keys[i].name == name {
			return n.items[i]
		}
	}
	return nil
}

// value answers the node in the shapes of Plugin.Config.
func (n *node) value() any {
	switch n.shape {
	case shapeBool:
		return n.yes
	case shapeNumber:
		return n.num
	case shapeText:
		return n.text
	case shapeList:
		list := make([]any, len(n.items))
		for i, item := range n.items {
			list[i] = item.value()
		}
		return list
	case shapeObject:
		object := make(map[string]any, len(n.items))
		for i, item := range n.items {
			object[n.keys[i].name] = item.value()
		}
		return object
	default:
		return nil
	}
}

// asBool reads a boolean. YAML 1.1 had more words for the two; files in use
// still have them where a boolean is expected, and only there.
func (n *node) asBool() (yes, ok bool) {
	if n.shape == shapeBool {
		return n.yes, true
	}
	if n.shape == shapeText && n.plain {
		switch n.text {
		case "yes", "Yes", "YES", "on", "On", "ON":
			return true, true
		case "no", "No", "NO", "off", "Off", "OFF":
			return false, true
		}
	}
	return false, false
}

// order answers the indexes of an object's keys, sorted by name.
func (n *node) order() []int {
	order := make([]int, len(n.keys))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return strings.Compare(n.keys[a].name, n.keys[b].name) })
	return order
}

// canonical writes the node's value in one unambiguous form: object keys in
// order, texts with their length. Keys in skip are left out at the top.
func (n *node) canonical(b *strings.Builder, skip func(string) bool) {
	switch n.shape {
	case shapeList:
		b.WriteByte('[')
		for _, item := range n.items {
			item.canonical(b, nil)
			b.WriteByte(',')
		}
		b.WriteByte(']')
	case shapeObject:
		b.WriteByte('{')
		for _, i := range n.order() {
			if skip != nil && skip(n.keys[i].name) {
				continue
			}
			b.WriteString(strconv.Quote(n.keys[i].name))
			b.WriteByte(':')
			n.items[i].canonical(b, nil)
			b.WriteByte(',')
		}
		b.WriteByte('}')
	case shapeText:
		b.WriteString(strconv.Quote(n.text))
	case shapeNumber:
		b.WriteString(strconv.FormatFloat(n.num, 'g', -1, 64))
	case shapeBool:
		b.WriteString(strconv.FormatBool(n.yes))
	default:
		b.WriteString("null")
	}
}

func itoa(n int) string { return strconv.Itoa(n) }
