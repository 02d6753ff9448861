package spec

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/keyway-edge/keyway/secrets"
)

// Bind decodes a complete plugin config into a struct with json tags. A key that
// the struct does not have is an error: schema and struct have come apart.
func Bind(config map[string]any, into any) error {
	text, err := json.Marshal(config)
	if err != nil {
		return fmt.Errorf("binding a plugin config: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return fmt.Errorf("binding a plugin config to %T: %w", into, err)
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// number writes a number as documents do: no exponent, no fraction it does not have.
func number(f float64) string {
	if math.Abs(f) < 1e17 {
		return strconv.FormatFloat(f, 'f', -1, 64)
	}
	return strconv.FormatFloat(f, 'g', -1, 64)
}

// config reads the config of a vault, which is free, or of a plugin, which its schema rules.
func (o *object) config(v *node, name string, at *map[string]any) {
	if v.shape == shapeList && len(v.items) == 0 {
		v = &node{shape: shapeObject, line: v.line, col: v.col}
	}
	if v.shape != shapeObject {
		o.bad(v, name, ReasonType, "expected a record")
		return
	}
	if _, ok := o.e.(*Plugin); ok {
		return // see pluginConfig
	}
	*at, _ = v.value().(map[string]any)
}

// pluginConfig completes a plugin: its config, written or named, and what its
// schema has defaults for.
func (o *object) pluginConfig(p *Plugin) {
	if p.Name == "" {
		return
	}
	schema, known := o.l.schemas[p.Name]
	if !known {
		o.bad(o.at("name"), "name", ReasonUnknown, "plugin '"+p.Name+"' is not in this build; expected one of: "+strings.Join(o.l.schemas.Plugins(), ", "))
		return
	}
	if !o.given("protocols") {
		if p.Protocols = slices.Clone(schema.Protocols); p.Protocols == nil {
			p.Protocols = slices.Clone(httpProtocols)
		}
	}
	written := o.n.get("config")
	if written == nil || written.shape != shapeObject {
		if written != nil && written.shape != shapeNull && len(written.items) > 0 {
			return // reported with the field
		}
		written = &node{shape: shapeObject, line: o.n.line, col: o.n.col}
	}
	if v := o.n.get("_config"); v != nil && v.shape != shapeNull {
		written = o.named(v, written)
	}
	before := len(o.l.problems)
	c := &completer{o: o, plugin: p}
	config, _ := c.record(written, "config", schema.Fields).(map[string]any)
	p.Config = config
	if len(o.l.problems) > before {
		return
	}
	c.checks(written, schema)
	if len(o.l.problems) > before || schema.Verify == nil {
		return
	}
	for _, bad := range schema.Verify(config) {
		path := "config"
		switch {
		case bad.Field == onEntity:
			path = onEntity
		case bad.Field != "":
			path = "config." + bad.Field
		}
		o.bad(find(written, bad.Field), path, ReasonValue, bad.Message)
	}
}

// named answers a config of _plugin_configs with what the plugin itself says on top.
func (o *object) named(v, written *node) *node {
	shared, ok := o.l.configs[v.text]
	if v.shape != shapeText || !ok {
		o.bad(v, "_config", ReasonReference, "expected the name of an entry in '_plugin_configs'")
		return written
	}
	merged := &node{shape: shapeObject, line: written.line, col: written.col}
	merged.keys = append(merged.keys, written.keys...)
	merged.items = append(merged.items, written.items...)
	for i, k := range shared.node.keys {
		if written.get(k.name) == nil {
			merged.keys = append(merged.keys, k)
			merged.items = append(merged.items, shared.node.items[i])
		}
	}
	return merged
}

// find answers the deepest node that a dotted path leads to.
func find(n *node, path string) *node {
	for name := range strings.SplitSeq(path, ".") {
		next := n.get(name)
		if i, err := strconv.Atoi(name); err == nil && n.shape == shapeList && i >= 1 && i <= len(n.items) {
			next = n.items[i-1]
		}
		if next == nil {
			return n
		}
		n = next
	}
	return n
}

// completer judges a config by its schema and fills in what was left out.
type completer struct {
	o      *object
	plugin *Plugin
}

func (c *completer) bad(n *node, path string, reason Reason, message string) any {
	c.o.bad(n, path, reason, message)
	return nil
}

func (c *completer) record(n *node, path string, fields []Schema) any {
	config := make(map[string]any, len(fields))
	for i := range fields {
		s := &fields[i]
		v := n.get(s.Name)
		if v == nil && s.OmitEmpty {
			continue
		}
		config[s.Name] = c.member(n, v, path+"."+s.Name, s)
	}
	for i, k := range n.keys {
		if !slices.ContainsFunc(fields, func(s Schema) bool { return s.Name == k.name }) {
			pos := *n.items[i]
			pos.line, pos.col = k.line, k.col
			c.bad(&pos, path+"."+k.name, ReasonUnknown, "unknown field")
		}
	}
	return config
}

// member completes one field of a record. n is the record, v the field's value or nil.
func (c *completer) member(n, v *node, path string, s *Schema) any {
	switch {
	case v == nil && s.Default != nil:
		if s.Type == Record {
			return c.record(nodeOf(s.Default, n), path, s.Fields)
		}
		return c.keep(s, path, copyValue(s.Default))
	case v == nil && s.Type == Record && s.Required:
		return c.record(&node{shape: shapeObject, line: n.line, col: n.col}, path, s.Fields)
	case v == nil && s.Required:
		return c.bad(n, path, ReasonRequired, "required field missing")
	case v == nil:
		return nil
	case v.shape == shapeNull && s.Required:
		return c.bad(v, path, ReasonRequired, "required field missing")
	case v.shape == shapeNull:
		return nil
	}
	return c.value(v, path, s)
}

func (c *completer) value(v *node, path string, s *Schema) any {
	switch s.Type {
	case String:
		return c.text(v, path, s)
	case Integer, Number:
		return c.number(v, path, s)
	case Boolean:
		yes, ok := v.asBool()
		if !ok {
			return c.bad(v, path, ReasonType, "expected a boolean")
		}
		return yes
	case Array, SetType:
		return c.list(v, path, s)
	case Map:
		return c.object(v, path, s)
	case Record:
		if v.shape == shapeList && len(v.items) == 0 {
			v = &node{shape: shapeObject, line: v.line, col: v.col}
		}
		if v.shape != shapeObject {
			return c.bad(v, path, ReasonType, "expected a record")
		}
		return c.record(v, path, s.Fields)
	}
	return c.bad(v, path, ReasonType, "schema of this field has the unknown type '"+string(s.Type)+"'")
}

func (c *completer) text(v *node, path string, s *Schema) any {
	if v.shape != shapeText {
		return c.bad(v, path, ReasonType, "expected a string")
	}
	text := v.text
	if strings.HasPrefix(text, "{vault://") {
		// Why an error where no reference is allowed: it would be sent or compared
		// as text, and whoever wrote it thinks that it is a secret.
		if !s.Referenceable {
			return c.bad(v, path, ReasonValue, "expected a plain value, this field cannot hold a reference")
		}
		if _, err := secrets.ParseRef(text); err != nil {
			return c.bad(v, path, ReasonValue, err.Error())
		}
		return c.keep(s, path, text)
	}
	shown := ": " + text
	if s.Referenceable || s.Encrypted {
		shown = ""
	}
	least := s.LenMin
	if least == 0 {
		least = 1
	}
	switch {
	case len(text) < least:
		return c.bad(v, path, ReasonValue, "length must be at least "+itoa(least))
	case s.OneOf != nil && !slices.Contains(s.OneOf, any(text)):
		return c.bad(v, path, ReasonValue, "expected one of: "+joinValues(s.OneOf))
	case s.StartsWith != "" && !strings.HasPrefix(text, s.StartsWith):
		return c.bad(v, path, ReasonValue, "should start with: "+s.StartsWith)
	case s.Match != "" && !matches(s.Match, text):
		return c.bad(v, path, ReasonValue, "invalid value"+shown)
	}
	return c.keep(s, path, text)
}

// keep remembers the places of a config that hold secrets.
func (c *completer) keep(s *Schema, path string, value any) any {
	if _, ok := value.(string); ok && (s.Referenceable || s.Encrypted) {
		c.plugin.secrets = append(c.plugin.secrets, strings.TrimPrefix(path, "config."))
	}
	return value
}

// matches judges by an expression of a schema. A schema whose expression does
// not compile lets nothing through, which its plugin's own tests then show.
func matches(expression, text string) bool {
	re, err := regexp.Compile(expression)
	return err == nil && re.MatchString(text)
}

func (c *completer) number(v *node, path string, s *Schema) any {
	switch {
	case v.shape != shapeNumber && s.Type == Integer, s.Type == Integer && !v.isInt:
		return c.bad(v, path, ReasonType, "expected an integer")
	case v.shape != shapeNumber:
		return c.bad(v, path, ReasonType, "expected a number")
	case s.Between != nil && (v.num < s.Between[0] || v.num > s.Between[1]):
		return c.bad(v, path, ReasonValue, between(*s.Between))
	case s.GT != nil && v.num <= *s.GT:
		return c.bad(v, path, ReasonValue, "value must be greater than "+number(*s.GT))
	case s.OneOf != nil && !slices.ContainsFunc(s.OneOf, func(o any) bool { return equalValues(v.num, o) }):
		return c.bad(v, path, ReasonValue, "expected one of: "+joinValues(s.OneOf))
	}
	return v.num
}

func (c *completer) list(v *node, path string, s *Schema) any {
	if v.shape == shapeObject && len(v.items) == 0 {
		v = &node{shape: shapeList, line: v.line, col: v.col}
	}
	if v.shape != shapeList {
		if s.Type == SetType {
			return c.bad(v, path, ReasonType, "expected a set")
		}
		return c.bad(v, path, ReasonType, "expected an array")
	}
	if len(v.items) < s.LenMin {
		return c.bad(v, path, ReasonValue, "length must be at least "+itoa(s.LenMin))
	}
	list := make([]any, 0, len(v.items))
	seen := map[string]bool{}
	element := cmp.Or(s.Elements, &Schema{Type: String})
	for i, item := range v.items {
		at := path + "." + itoa(len(list)+1)
		if item.shape == shapeNull {
			c.bad(item, path+"."+itoa(i+1), ReasonRequired, "required field missing")
			continue
		}
		if s.Type == SetType && item.shape == shapeText {
			if seen[item.text] {
				continue
			}
			seen[item.text] = true
		}
		list = append(list, c.value(item, at, element))
	}
	return list
}

func (c *completer) object(v *node, path string, s *Schema) any {
	if v.shape == shapeList && len(v.items) == 0 {
		v = &node{shape: shapeObject, line: v.line, col: v.col}
	}
	if v.shape != shapeObject {
		return c.bad(v, path, ReasonType, "expected a map")
	}
	if len(v.items) < s.LenMin {
		return c.bad(v, path, ReasonValue, "length must be at least "+itoa(s.LenMin))
	}
	object := make(map[string]any, len(v.items))
	for _, i := range v.order() {
		k := v.keys[i]
		if s.Keys != nil {
			c.value(&node{shape: shapeText, text: k.name, line: k.line, col: k.col}, path, s.Keys)
		}
		switch {
		case v.items[i].shape == shapeNull:
			object[k.name] = nil
		case s.Values == nil:
			object[k.name] = v.items[i].value()
		default:
			object[k.name] = c.value(v.items[i], path+"."+k.name, s.Values)
		}
	}
	return object
}

func joinValues(values []any) string {
	texts := make([]string, len(values))
	for i, v := range values {
		if f, ok := v.(float64); ok {
			texts[i] = number(f)
		} else {
			texts[i] = fmt.Sprint(v)
		}
	}
	return strings.Join(texts, ", ")
}
