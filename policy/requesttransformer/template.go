package requesttransformer

import (
	"errors"
	"fmt"
	"strings"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/policy"
)

// template is text with $(...) expressions in it. An expression is one or more
// terms joined by "or" (the first that has a value) and ".." (one after the
// other); a term is a quoted string or a value of the request.
type template struct {
	parts []part
}

// part is literal text, or an expression when alternatives is not nil.
type part struct {
	literal      string
	alternatives [][]term // joined by "or"; each is terms joined by ".."
}

// term is a quoted string, or the name under a root.
type term struct {
	root string // "headers", "query_params", "uri_captures"; "" for a string
	name string
}

var errTemplate = errors.New("a template holds headers, query_params and uri_captures, quoted strings, 'or' and '..'")

// parseTemplate reads a value of a config. What is not between $( and ) is literal.
func parseTemplate(text string) (*template, error) {
	t := new(template)
	for text != "" {
		literal, rest, found := strings.Cut(text, "$(")
		if literal != "" {
			t.parts = append(t.parts, part{literal: literal})
		}
		if !found {
			break
		}
		p := parser{text: rest}
		alternatives, err := p.expression()
		if err != nil {
			return nil, fmt.Errorf("reading the expression $(%s: %w; %w", clip(rest), err, errTemplate)
		}
		t.parts = append(t.parts, part{alternatives: alternatives})
		text = p.text
	}
	return t, nil
}

// constant is the template's text when no expression is in it.
func (t *template) constant() (string, bool) {
	switch {
	case len(t.parts) == 0:
		return "", true
	case len(t.parts) == 1 && t.parts[0].alternatives == nil:
		return t.parts[0].literal, true
	}
	return "", false
}

// render is the text for one request. A value that is not there is empty; escape
// is applied to what comes from the request and not to what the document says.
func (t *template) render(e *env, escape func(string) string) string {
	var b strings.Builder
	for _, p := range t.parts {
		if p.alternatives == nil {
			b.WriteString(p.literal)
			continue
		}
		for _, terms := range p.alternatives {
			if text, ok := e.concat(terms, escape); ok {
				b.WriteString(text)
				break
			}
		}
	}
	return b.String()
}

// env is the request as it came to the plugin: expressions never see what the
// plugin itself has changed.
type env struct {
	c     *policy.Context
	query *args // parsed at first use
}

// concat is terms one after the other, and whether one of them has a value.
func (e *env) concat(terms []term, escape func(string) string) (string, bool) {
	text, any := "", false
	for _, t := range terms {
		if t.root == "" {
			text, any = text+t.name, true
			continue
		}
		if v, ok := e.value(t); ok {
			text, any = text+escape(v), true
		}
	}
	return text, any
}

func (e *env) value(t term) (string, bool) {
	switch t.root {
	case "headers":
		return e.header(t.name)
	case "query_params":
		if e.query == nil {
			e.query = parseArgs(e.c.X.Request.Query)
		}
		return e.query.first(t.name)
	}
	for _, c := range e.c.Captures {
		if c.Name == t.name {
			return c.Value, true
		}
	}
	return "", false
}

// header finds a field; a name written with underscores, as headers.x_a must be,
// stands for the one with hyphens too.
func (e *env) header(name string) (string, bool) {
	if exchange.EqualFold(name, "host") {
		return e.c.X.Request.Host, true
	}
	if v, ok := e.c.X.Request.Fields.Lookup(name); ok {
		return v, true
	}
	if strings.Contains(name, "_") {
		return e.c.X.Request.Fields.Lookup(strings.ReplaceAll(name, "_", "-"))
	}
	return "", false
}

// parser reads one expression from the front of text, through its closing parenthesis.
type parser struct {
	text string
}

func (p *parser) space() { p.text = strings.TrimLeft(p.text, " \t") }

// take removes token from the front, and says whether it was there.
func (p *parser) take(token string) bool {
	p.space()
	rest, ok := strings.CutPrefix(p.text, token)
	if ok {
		p.text = rest
	}
	return ok
}

func (p *parser) expression() ([][]term, error) {
	var alternatives [][]term
	for {
		var terms []term
		for {
			t, err := p.term()
			if err != nil {
				return nil, err
			}
			terms = append(terms, t)
			if !p.take("..") {
				break
			}
		}
		alternatives = append(alternatives, terms)
		if p.take(")") {
			return alternatives, nil
		}
		if word := p.word(); word != "or" {
			return nil, fmt.Errorf("expected 'or', '..' or ')' before %q", clip(word+p.text))
		}
	}
}

func (p *parser) term() (term, error) {
	p.space()
	if strings.HasPrefix(p.text, `"`) || strings.HasPrefix(p.text, "'") {
		text, err := p.quoted()
		return term{name: text}, err
	}
	root := p.word()
	switch root {
	case "headers", "query_params", "uri_captures":
	case "shared":
		return term{}, errors.New("'shared' holds values of other plugins, which expressions cannot read")
	default:
		return term{}, fmt.Errorf("expected a value of the request or a string before %q", clip(root+p.text))
	}
	if p.take("[") {
		return p.indexed(root)
	}
	if !strings.HasPrefix(p.text, ".") || strings.HasPrefix(p.text, "..") {
		return term{}, fmt.Errorf("expected %s.name or %s[\"name\"]", root, root)
	}
	p.text = p.text[1:]
	name := p.word()
	if name == "" || '0' <= name[0] && name[0] <= '9' {
		return term{}, fmt.Errorf("expected a name after %q; other names are written %s[\"name\"]", root+".", root)
	}
	return term{root: root, name: name}, nil
}

// indexed reads ["name"] or, for captures, [1], after its opening bracket.
func (p *parser) indexed(root string) (term, error) {
	p.space()
	var name string
	var err error
	if strings.HasPrefix(p.text, `"`) || strings.HasPrefix(p.text, "'") {
		name, err = p.quoted()
	} else if name = p.word(); root != "uri_captures" || name == "" || strings.Trim(name, "0123456789") != "" {
		err = errors.New("expected a quoted name between [ and ]")
	}
	if err == nil && !p.take("]") {
		err = errors.New("expected ]")
	}
	return term{root: root, name: name}, err
}

func (p *parser) word() string {
	p.space()
	i := 0
	for i < len(p.text) && isWord(p.text[i]) {
		i++
	}
	word := p.text[:i]
	p.text = p.text[i:]
	return word
}

func isWord(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
}

// quoted reads a string in its quotes; a backslash takes the next byte as it is.
func (p *parser) quoted() (string, error) {
	quote := p.text[0]
	var b strings.Builder
	for i := 1; i < len(p.text); i++ {
		switch c := p.text[i]; {
		case c == quote:
			p.text = p.text[i+1:]
			return b.String(), nil
		case c == '\\' && i+1 < len(p.text):
			i++
			b.WriteByte(p.text[i])
		default:
			b.WriteByte(c)
		}
	}
	return "", errors.New("a string has no closing quote")
}

// clip shortens text for an error.
func clip(text string) string {
	if len(text) > 32 {
		return text[:32] + "..."
	}
	return text
}
