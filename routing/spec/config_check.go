package spec

import (
	"encoding/json"
	"strings"
)

// checks applies a schema's rules over several fields.
func (c *completer) checks(written *node, schema PluginSchema) {
	whole := map[string]any{"config": c.plugin.Config}
	for _, check := range schema.Checks {
		set := 0
		for _, name := range check.Fields {
			if !isEmpty(lookup(whole, name)) {
				set++
			}
		}
		names := "'" + strings.Join(check.Fields, "', '") + "'"
		switch check.Kind {
		case AtLeastOneOf:
			c.unless(set > 0, written, check, "at least one of these fields must be non-empty: "+names)
		case OnlyOneOf:
			c.unless(set == 1, written, check, "exactly one of these fields must be non-empty: "+names)
		case MutuallyRequired:
			c.unless(set == 0 || set == len(check.Fields), written, check, "all or none of these fields must be set: "+names)
		case ConditionalNeeded:
			if len(check.Fields) != 2 || !equalValues(lookup(whole, check.Fields[0]), check.If) || !isEmpty(lookup(whole, check.Fields[1])) {
				continue
			}
			at := find(written, strings.TrimPrefix(check.Fields[1], "config."))
			c.bad(at, check.Fields[1], ReasonRequired, "required field missing")
			c.unless(false, written, check, "failed conditional validation given value of field '"+check.Fields[0]+"'")
		}
	}
}

func (c *completer) unless(right bool, written *node, check Check, message string) {
	if right {
		return
	}
	if check.Err != "" {
		message = check.Err
	}
	c.bad(written, onEntity, ReasonConflict, message)
}

func lookup(in any, path string) any {
	for name := range strings.SplitSeq(path, ".") {
		m, ok := in.(map[string]any)
		if !ok {
			return nil
		}
		in = m[name]
	}
	return in
}

func isEmpty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}

// equalValues compares scalars; an If written as an int in a schema means the number.
func equalValues(a, b any) bool {
	if n, ok := b.(int); ok {
		b = float64(n)
	}
	switch a.(type) {
	case nil, bool, float64, string:
		switch b.(type) {
		case nil, bool, float64, string:
			return a == b
		}
	}
	return false
}

// copyValue copies a default, in the shapes of Plugin.Config: a document shares
// nothing with a schema. Whole numbers and typed lists in a schema are welcome.
func copyValue(v any) any {
	switch v := v.(type) {
	case nil, bool, float64, string:
		return v
	case int:
		return float64(v)
	case []any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = copyValue(v[i])
		}
		return list
	case map[string]any:
		object := make(map[string]any, len(v))
		for k, item := range v {
			object[k] = copyValue(item)
		}
		return object
	}
	text, err := json.Marshal(v)
	if err != nil {
		return nil
	}
	var out any
	if json.Unmarshal(text, &out) != nil {
		return nil
	}
	return out
}

// nodeOf makes a node of a record's default, so that what it leaves out is filled too.
func nodeOf(v any, place *node) *node {
	n := &node{line: place.line, col: place.col}
	switch v := copyValue(v).(type) {
	case bool:
		n.shape, n.yes = shapeBool, v
	case float64:
		n.setNumber(v, number(v))
	case string:
		n.shape, n.text = shapeText, v
	case []any:
		n.shape = shapeList
		for _, item := range v {
			n.items = append(n.items, nodeOf(item, place))
		}
	case map[string]any:
		n.shape = shapeObject
		for _, k := range sortedKeys(v) {
			n.keys = append(n.keys, key{k, place.line, place.col})
			n.items = append(n.items, nodeOf(v[k], place))
		}
	}
	return n
}
