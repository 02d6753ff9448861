// Package requesttransformer is the plugin request-transformer: it changes method,
// path, fields, body and query of a request before it goes upstream. Each part is
// changed in the order remove, rename, replace, add, append.
package requesttransformer

import (
	"fmt"
	"slices"
	"strings"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/routing/spec"
)

// Name is the plugin's name in documents.
const Name = "request-transformer"

// Kind is the plugin.
func Kind() policy.Kind {
	return policy.Kind{
		Schema: spec.PluginSchema{Name: Name, Fields: schema(), Verify: verify},
		Compile: func(_ *policy.Env, p *spec.Plugin) (policy.Instance, error) {
			t, problems := compile(p.Config)
			if len(problems) > 0 {
				return policy.Instance{}, fmt.Errorf("compiling request-transformer: %s: %s", problems[0].Field, problems[0].Message)
			}
			instance := policy.Instance{Access: t.access}
			if t.method != "" {
				instance.Header = t.restoreMethod
			}
			return instance, nil
		},
	}
}

func schema() []spec.Schema {
	list := func(name, match string) spec.Schema {
		return spec.Schema{Name: name, Type: spec.Array, Required: true, Default: []any{}, Elements: &spec.Schema{Type: spec.String, Match: match}}
	}
	const pair = "^[^:]+:.*$"
	record := func(name, match string, extra ...spec.Schema) spec.Schema {
		fields := []spec.Schema{list("body", ""), list("headers", match), list("querystring", "")}
		return spec.Schema{Name: name, Type: spec.Record, Required: true, Fields: append(fields, extra...)}
	}
	return []spec.Schema{
		{Name: "http_method", Type: spec.String, Match: "^[A-Z]+$"},
		record("remove", ""),
		record("rename", pair),
		record("replace", pair, spec.Schema{Name: "uri", Type: spec.String}),
		record("add", pair),
		record("append", pair),
	}
}

// transformer is a compiled config. Immutable.
type transformer struct {
	method string               // "" to keep it
	client policy.State[string] // the method that the client used
	uri    *template            // nil to keep it

	headers, query, body section
	templates            []*template // those of the sections' values, by op.slot
}

// section is what is done to one part of a request.
type section struct {
	remove                       []string
	rename, replace, add, append []op
}

func (s *section) empty() bool {
	return len(s.remove)+len(s.rename)+len(s.replace)+len(s.add)+len(s.append) == 0
}

// op is a name and a value, which is in the transformer's templates when slot is not 0.
type op struct {
	name, value string
	slot        int // 1-based
}

// text is the op's value; values are the rendered templates.
func (o *op) text(values []string) string {
	if o.slot == 0 {
		return o.value
	}
	return values[o.slot-1]
}

func verify(config map[string]any) []spec.FieldError {
	_, problems := compile(config)
	return problems
}

// compile reads a complete config; the config cannot be used when there are problems.
func compile(config map[string]any) (*transformer, []spec.FieldError) {
	c := &compiler{t: new(transformer)}
	c.t.method, _ = config["http_method"].(string)
	c.t.client = policy.NewState[string]()
	for _, action := range []string{"remove", "rename", "replace", "add", "append"} {
		record, _ := config[action].(map[string]any)
		for _, part := range []string{"headers", "querystring", "body"} {
			list, _ := record[part].([]any)
			for i, item := range list {
				text, _ := item.(string)
				c.field = fmt.Sprintf("%s.%s.%d", action, part, i+1)
				c.op(action, part, text)
			}
		}
	}
	replace, _ := config["replace"].(map[string]any)
	if uri, _ := replace["uri"].(string); uri != "" {
		c.field = "replace.uri"
		c.uri(uri)
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

func (c *compiler) op(action, part, text string) {
	s := map[string]*section{"headers": &c.t.headers, "querystring": &c.t.query, "body": &c.t.body}[part]
	name, value, found := strings.Cut(text, ":")
	value = strings.TrimLeft(value, ":")
	if part == "headers" && !validName(name) {
		c.problem("%q is not a field name; expected letters, digits and hyphens", name)
		return
	}
	if action == "remove" {
		s.remove = append(s.remove, name)
		return
	}
	if !found {
		c.problem("expected name:value, got %q", text)
		return
	}
	o := op{name: name, value: value}
	tmpl, err := parseTemplate(value)
	if err != nil {
		c.problem("%v", err)
		return
	}
	if _, constant := tmpl.constant(); !constant {
		c.t.templates = append(c.t.templates, tmpl)
		o.slot = len(c.t.templates)
	}
	if part == "headers" {
		c.header(action, &o)
	}
	switch action {
	case "rename":
		s.rename = append(s.rename, o)
	case "replace":
		s.replace = append(s.replace, o)
	case "add":
		s.add = append(s.add, o)
	case "append":
		s.append = append(s.append, o)
	}
}

// header refuses what would let a document break the framing of a message.
func (c *compiler) header(action string, o *op) {
	target := o.name
	if action == "rename" {
		if target = o.value; o.slot != 0 || !validName(target) {
			c.problem("expected old:new with a field name after the colon, which cannot be an expression")
			return
		}
	}
	if connectionField(target) {
		c.problem("%s belongs to the connection and is written by the gateway alone; take it out", target)
	}
	if o.value != safeValue(o.value) {
		c.problem("the value holds a control character; take it out")
	}
}

func (c *compiler) uri(text string) {
	tmpl, err := parseTemplate(text)
	if err != nil {
		c.problem("%v", err)
		return
	}
	for i, p := range tmpl.parts {
		if path := strings.Replace(p.literal, "?", "", 1); path != safePath(path) {
			c.problem("%q is not a path with or without a query; expected RFC 3986 characters, others percent-encoded", p.literal)
		}
		if i == 0 && !strings.HasPrefix(p.literal, "/") {
			c.problem("expected a path that starts with /")
		}
	}
	c.t.uri = tmpl
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
		if c := name[i]; !isWord(c) && strings.IndexByte("!#$%&'*+-.^`|~", c) < 0 {
			return false
		}
	}
	return name != ""
}

// access changes the request: path, method, fields, body, query. Expressions are
// evaluated first, so that they see the request as it came.
func (t *transformer) access(c *policy.Context) *policy.Reply {
	e := env{c: c}
	var values []string
	if len(t.templates) > 0 {
		values = make([]string, len(t.templates))
		for i, tmpl := range t.templates {
			values[i] = tmpl.render(&e, func(s string) string { return s })
		}
	}
	if reply := t.changeURI(c, &e); reply != nil {
		return reply
	}
	if reply := t.changeMethod(c); reply != nil {
		return reply
	}
	if !t.headers.empty() {
		t.headers.changeFields(c, values)
	}
	if reply := t.body.changeBody(c, values); reply != nil {
		return reply
	}
	if !t.query.empty() {
		t.query.changeQuery(c, values)
	}
	return nil
}
