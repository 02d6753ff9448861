// Package responsetransformer is the plugin response-transformer: it changes the
// fields and the JSON body of a response before the client gets it. Each part is
// changed in the order remove, rename, replace, add, append.
package responsetransformer

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/policy/jsonobject"
	"github.com/keyway-edge/keyway/routing/spec"
)

// Name is the plugin's name in documents.
const Name = "response-transformer"

// Kind is the plugin.
func Kind() policy.Kind {
	return policy.Kind{
		Schema: spec.PluginSchema{Name: Name, Fields: schema(), Verify: verify},
		Compile: func(_ *policy.Env, p *spec.Plugin) (policy.Instance, error) {
			t, problems := compile(p.Config)
			if len(problems) > 0 {
				return policy.Instance{}, fmt.Errorf("compiling response-transformer: %s: %s", problems[0].Field, problems[0].Message)
			}
			return policy.Instance{Header: t.header}, nil
		},
	}
}

func schema() []spec.Schema {
	list := func(name, match string, oneOf ...any) spec.Schema {
		return spec.Schema{Name: name, Type: spec.Array, Required: true, Default: []any{}, Elements: &spec.Schema{Type: spec.String, Match: match, OneOf: oneOf}}
	}
	const pair = "^[^:]+:.*$"
	types := list("json_types", "", "boolean", "number", "string")
	record := func(name string, fields ...spec.Schema) spec.Schema {
		return spec.Schema{Name: name, Type: spec.Record, Required: true, Fields: fields}
	}
	return []spec.Schema{
		record("remove", list("json", ""), list("headers", "")),
		record("rename", list("json", pair), list("headers", pair)),
		record("replace", list("json", pair), types, list("headers", pair)),
		record("add", list("json", pair), types, list("headers", pair)),
		record("append", list("json", pair), types, list("headers", pair)),
	}
}

// transformer is a compiled config. Immutable.
type transformer struct {
	remove                       []removal
	rename, replace, add, append []pair
	json                         members
}

type pair struct{ name, value string }

// removal is a field to take out: all its values, or those that match.
type removal struct {
	name  string
	value string         // "" for all
	match *regexp.Regexp // instead of value
}

// members is what is done to the top level of a JSON object.
type members struct {
	remove               []string
	rename               []pair
	replace, add, append []member
}

type member struct {
	name  string
	value json.RawMessage
}

func (m *members) empty() bool {
	return len(m.remove)+len(m.rename)+len(m.replace)+len(m.add)+len(m.append) == 0
}

// hides says whether something may be taken from the client's sight, so that a
// body that cannot be changed must not pass.
func (m *members) hides() bool { return len(m.remove)+len(m.replace) > 0 }

func verify(config map[string]any) []spec.FieldError {
	_, problems := compile(config)
	return problems
}

// compile reads a complete config; the config cannot be used when there are problems.
func compile(config map[string]any) (*transformer, []spec.FieldError) {
	c := &compiler{t: new(transformer)}
	for _, action := range []string{"remove", "rename", "replace", "add", "append"} {
		record, _ := config[action].(map[string]any)
		c.each(record, action, "headers", c.headerOp)
		types, _ := record["json_types"].([]any)
		c.each(record, action, "json", func(action, text string, i int) {
			kind := ""
			if i < len(types) {
				kind, _ = types[i].(string)
			}
			c.jsonOp(action, text, kind)
		})
	}
	return c.t, c.problems
}

type compiler struct {
	t        *transformer
	field    string
	problems []spec.FieldError
}

func (c *compiler) problem(format string, a ...any) {
	c.problems = append(c.problems, spec.FieldError{Field: c.field, Message: fmt.Sprintf(format, a...)})
}

func (c *compiler) each(record map[string]any, action, part string, op func(action, text string, i int)) {
	list, _ := record[part].([]any)
	for i, item := range list {
		text, _ := item.(string)
		c.field = fmt.Sprintf("%s.%s.%d", action, part, i+1)
		op(action, text, i)
	}
}

// split is name and value of a pair.
func split(text string) pair {
	name, value, _ := strings.Cut(text, ":")
	return pair{name, strings.TrimLeft(value, ":")}
}

func (c *compiler) headerOp(action, text string, _ int) {
	p := split(text)
	if !validName(p.name) {
		c.problem("%q is not a field name; expected letters, digits and hyphens", p.name)
		return
	}
	written := p.name
	switch action {
	case "remove":
		c.removal(p)
		return
	case "rename":
		if written = p.value; !validName(written) {
			c.problem("expected old:new with a field name after the colon, got %q", text)
			return
		}
		c.t.rename = append(c.t.rename, p)
	case "replace":
		c.t.replace = append(c.t.replace, p)
	case "add":
		c.t.add = append(c.t.add, p)
	case "append":
		c.t.append = append(c.t.append, p)
	}
	if connectionField(written) {
		c.problem("%s belongs to the connection and is written by the gateway alone; take it out", written)
	}
	if strings.ContainsFunc(p.value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
		c.problem("the value holds a control character; take it out")
	}
}

func (c *compiler) removal(p pair) {
	r := removal{name: p.name, value: p.value}
	if len(p.value) > 2 && p.value[0] == '/' && p.value[len(p.value)-1] == '/' {
		re, err := regexp.Compile(p.value[1 : len(p.value)-1])
		if err != nil {
			c.problem("%q is not a regular expression (RE2): %v", p.value, err)
			return
		}
		r.match = re
	}
	c.t.remove = append(c.t.remove, r)
}

func (c *compiler) jsonOp(action, text, kind string) {
	if action == "remove" {
		c.t.json.remove = append(c.t.json.remove, text)
		return
	}
	p := split(text)
	if action == "rename" {
		c.t.json.rename = append(c.t.json.rename, p)
		return
	}
	value, ok := typed(p.value, kind)
	if !ok {
		c.problem("%q is not a %s, which json_types says it is", p.value, kind)
		return
	}
	m := member{p.name, value}
	switch action {
	case "replace":
		c.t.json.replace = append(c.t.json.replace, m)
	case "add":
		c.t.json.add = append(c.t.json.add, m)
	case "append":
		c.t.json.append = append(c.t.json.append, m)
	}
}

// typed is text as a JSON value of a kind: "string", which "" stands for too,
// "number" or "boolean".
func typed(text, kind string) (json.RawMessage, bool) {
	switch kind {
	case "boolean":
		return json.RawMessage(text), text == "true" || text == "false"
	case "number":
		n, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
		if err != nil {
			return nil, false
		}
		raw, err := json.Marshal(n) // an infinity has no JSON form
		return raw, err == nil
	}
	return jsonobject.String(text), true
}

// connectionField says whether a field is about the connection or the framing of a
// message (RFC 9110, section 7.6.1), which a plugin must never write.
func connectionField(name string) bool {
	return slices.ContainsFunc([]string{
		"Connection", "Content-Length", "Keep-Alive", "Proxy-Connection", "TE", "Trailer", "Transfer-Encoding", "Upgrade",
	}, func(x string) bool { return exchange.EqualFold(x, name) })
}

// validName says whether name is a token (RFC 9110, section 5.6.2).
func validName(name string) bool {
	for i := range len(name) {
		c := name[i]
		if (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return name != ""
}

// header changes the head and prepares the change of the body.
func (t *transformer) header(c *policy.Context) {
	r := &c.X.Response
	for i := range t.remove {
		t.remove[i].apply(&r.Fields)
	}
	for _, p := range t.rename {
		if !r.Fields.Has(p.name) {
			continue
		}
		if !exchange.EqualFold(p.name, p.value) {
			r.Fields.Del(p.value)
		}
		r.Fields.Rename(p.name, p.value)
	}
	for _, p := range t.replace {
		replaceField(&r.Fields, p)
	}
	for _, p := range t.add {
		if !r.Fields.Has(p.name) {
			r.Fields.Add(p.name, p.value)
		}
	}
	for _, p := range t.append {
		r.Fields.Add(p.name, p.value)
	}
	t.json.prepare(c)
}

// replaceField sets a field that is there; it keeps its place and spelling.
func replaceField(f *exchange.Fields, p pair) {
	for x := range f.All() {
		if exchange.EqualFold(x.Name, p.name) {
			f.Set(x.Name, p.value)
			return
		}
	}
}

// apply takes the field out, or of each of its lines the values that match.
func (r *removal) apply(f *exchange.Fields) {
	if r.value == "" {
		f.Del(r.name)
		return
	}
	if !f.Has(r.name) {
		return
	}
	var kept []exchange.Field
	for x := range f.All() {
		if exchange.EqualFold(x.Name, r.name) {
			value, some := r.keep(x.Value)
			if !some {
				continue
			}
			x.Value = value
		}
		kept = append(kept, x)
	}
	f.Reset()
	for _, x := range kept {
		f.Add(x.Name, x.Value)
	}
}

// keep is what remains of one line, and whether anything does. A cookie is one
// value, whatever commas it holds.
func (r *removal) keep(line string) (string, bool) {
	if r.matches(line) {
		return "", false
	}
	if exchange.EqualFold(r.name, "Set-Cookie") || !strings.Contains(line, ",") {
		return line, true
	}
	var kept []string
	for item := range strings.SplitSeq(line, ",") {
		if item = strings.TrimSpace(item); !r.matches(item) {
			kept = append(kept, item)
		}
	}
	return strings.Join(kept, ", "), len(kept) > 0
}

func (r *removal) matches(value string) bool {
	if r.match != nil {
		return r.match.MatchString(value)
	}
	return value == r.value
}
