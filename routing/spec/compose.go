package spec

import (
	"iter"
	"maps"
	"slices"
)

// Compose makes entities of values, by kind, as Load makes them of a file: decoded
// strictly, with ids, defaults and plugin configs complete. name stands in
// problems where a file's name does. Values are in the shapes of Plugin.Config,
// int besides.
//
// It is for what composes documents of parts: a foreign key may also be the id of
// an entity of another part, which is not looked for, and what is unique is so
// within the part. On any problem there is no document.
func Compose(name string, values map[string][]any, schemas Schemas) (*Document, Problems) {
	l := &loader{
		schemas: schemas, part: true,
		doc:     &Document{FormatVersion: "3.0"},
		configs: map[string]namedConfig{},
		repeats: map[string]int{},
		file:    &file{name: name},
	}
	for _, kind := range Kinds() {
		if list := values[kind]; len(list) > 0 {
			l.list(kind, composed(list), nil, "")
		}
	}
	l.identify()
	l.resolve()
	l.unique()
	if len(l.problems) > 0 {
		return nil, l.problems
	}
	l.doc.sum()
	return l.doc, nil
}

// composed makes a node of a value. What is in no shape of a document becomes a
// text that no rule accepts.
func composed(v any) *node {
	n := &node{}
	switch v := v.(type) {
	case nil:
	case bool:
		n.shape, n.yes = shapeBool, v
	case int:
		n.setNumber(float64(v), itoa(v))
	case float64:
		n.setNumber(v, number(v))
	case string:
		n.shape, n.text = shapeText, v
	case []string:
		n.shape, n.items = shapeList, make([]*node, len(v))
		for i, s := range v {
			n.items[i] = &node{shape: shapeText, text: s}
		}
	case []any:
		n.shape, n.items = shapeList, make([]*node, len(v))
		for i := range v {
			n.items[i] = composed(v[i])
		}
	case map[string]any:
		n.shape = shapeObject
		for _, k := range slices.Sorted(maps.Keys(v)) {
			n.keys, n.items = append(n.keys, key{name: k}), append(n.items, composed(v[k]))
		}
	default:
		n.shape, n.text = shapeText, "\x00"
	}
	return n
}

// DeriveID is the id of an entity that has none and is known by a name: a service,
// route, upstream, consumer or group of consumers. It is the same on every node.
func DeriveID(kind, name string) string { return deriveID(kind, name) }

// Join makes one document of parts, in their order. Entities are shared, and so are
// the lists of prev (nil for none) but for those of the kinds that changed says. parts are
// those that may have something of a kind.
func Join(prev *Document, changed func(kind string) bool, parts func(kind string) iter.Seq[*Document]) *Document {
	doc := &Document{}
	if prev != nil {
		*doc = *prev
	}
	doc.FormatVersion = "3.0"
	for _, kind := range Kinds() {
		if prev != nil && !changed(kind) {
			continue
		}
		l := doc.list(kind)
		l.fill(sizeOf(l), func(yield func(list) bool) {
			for part := range parts(kind) {
				if !yield(part.list(kind)) {
					return
				}
			}
		})
	}
	return doc
}

// JoinAll is Join of whole documents, without one before.
func JoinAll(parts ...*Document) *Document {
	return Join(nil, nil, func(string) iter.Seq[*Document] { return slices.Values(parts) })
}

// NormalPath is a path as the router compares it: escapes decoded where they may be,
// without dot segments.
func NormalPath(path string) string { return normalPath(path) }
