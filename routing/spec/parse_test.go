package spec

import (
	"strings"
	"testing"
)

func TestParseStrict(t *testing.T) {
	f := func(name, text, want string) {
		t.Helper()
		_, problems := Load([]Source{src(name, text)}, nil)
		if got := problems.Error(); !strings.Contains(got, want) || len(problems) == 0 {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
	f("f", "a: [", "f:1: cannot be parsed as YAML")
	f("f", "a: 1\nb: {\n", "cannot be parsed as YAML")
	f("f", "a: 1\na: 2\n", "f:2: key 'a' is already set at line 1")
	f("f", "a: \xff\n", "f:1: expected UTF-8 text")
	f("f", "a: \x00", "cannot be parsed as YAML")
	f("f", "- 1\n", "f:1: expected a map of entities")
	f("f", "a: 1\n---\nb: 1\n", "expected one YAML document")
	f("f", "a: &x [*x]\n", "anchor 'x' contains itself")
	f("f", "a: *x\n", "unknown anchor")
	f("f", "a: !!binary aGk=\n", "without the tag !!binary")
	f("f", "a: !secret x\n", "without the tag !secret")
	f("f", "a: .inf\n", "expected a finite number")
	f("f", "? [a]\n: 1\n", "expected a text as key")
	f("f", "a: {<<: 5}\n", "expected a map, or a list of maps, to merge")
	f("f", strings.Repeat("[", 200)+strings.Repeat("]", 200), "levels of nesting")
	f("f.json", "{", "f.json:1: cannot be parsed as JSON")
	f("f.json", "{\n\"a\":1,\n\"a\":2}", "f.json:3: key 'a' is already set at line 2")
	f("f.json", "{\"a\":[1}", "cannot be parsed as JSON")
	f("f.json", "{\"a\":1} x", "expected the end of the file")
	f("f.json", "{\"a\":1e999}", "number that fits")
	f("f.json", "{\"a\":"+strings.Repeat("[", 200)+strings.Repeat("]", 200)+"}", "levels of nesting")
	f("f.json", "_format_version: \"3.0\"", "cannot be parsed as JSON")
	f("f", "", "_format_version: required field missing")
	f("f", "# nothing\n", "_format_version: required field missing")

	var many strings.Builder
	for i := range 20 {
		many.WriteString("k" + itoa(i) + ": 1\n")
	}
	f("f", many.String()+"k3: 2\n", "key 'k3' is already set at line 4")
}

func TestParseAliases(t *testing.T) {
	d := load3(t, `
_ignore:
- &base {host: h.test, port: 81}
- &more {retries: 9}
services:
- {<<: *base, name: a}
- {<<: [*more, *base], name: b, port: 82}
- name: c
  host: &h x.test
- {name: d, host: *h}
`, nil)
	a, b := d.Services[0], d.Services[1]
	if a.Host != "h.test" || a.Port != 81 || b.Port != 82 || b.Retries != 9 || b.Host != "h.test" || d.Services[3].Host != "x.test" {
		t.Errorf("got %+v %+v", a, b)
	}
}

func TestParseAliasBomb(t *testing.T) {
	var b strings.Builder
	b.WriteString("_format_version: \"3.0\"\n_ignore:\n- &a0 [x,x,x,x,x,x,x,x,x,x]\n")
	for i := range 30 {
		b.WriteString("- &a" + itoa(i+1) + " [")
		b.WriteString(strings.TrimSuffix(strings.Repeat("*a"+itoa(i)+",", 10), ","))
		b.WriteString("]\n")
	}
	_, problems := Load([]Source{src("bomb", b.String())}, nil)
	if len(problems) != 1 || !strings.Contains(problems[0].Message, "aliases that repeat at most") {
		t.Errorf("got %v", problems)
	}
	// The same depth by many small steps, each repeating the one before once.
	b.Reset()
	b.WriteString("_format_version: \"3.0\"\n_ignore:\n- &a0 [x]\n")
	for i := range 300 {
		b.WriteString("- &a" + itoa(i+1) + " [*a" + itoa(i) + "]\n")
	}
	_, problems = Load([]Source{src("ladder", b.String())}, nil)
	if len(problems) != 1 || !strings.Contains(problems[0].Message, "levels of nesting") {
		t.Errorf("got %v", problems)
	}
}

func TestParseScalars(t *testing.T) {
	root, problems := parseSource(src("f", "a: [0x1F, 0o17, 1_000, 010, -0, 1e3, 2001-01-01, yes, 'no', ~, \"\", 12345678901234567890]\n"))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	var got []string
	for _, n := range root.items[0].items {
		text := "?"
		switch n.shape {
		case shapeNull:
			text = "null"
		case shapeText:
			text = "'" + n.text + "'"
		case shapeNumber:
			if text = number(n.num); !n.isInt {
				text += "f"
			}
		}
		got = append(got, text)
	}
	if g, want := strings.Join(got, " "), "31 15 1000 8 0 1000 '2001-01-01' 'yes' 'no' null '' 1.2345678901234567e+19f"; g != want {
		t.Errorf("got %s\nwant %s", g, want)
	}
	// The old words are booleans where a boolean is expected, quoted ones are not.
	if s := load3(t, "services: [{name: yes, host: on, enabled: off}]", nil).Services[0]; s.Enabled || s.Name != "yes" || s.Host != "on" {
		t.Errorf("got %+v", s)
	}
	if got := refused(t, "services: [{host: h, enabled: 'off'}]", nil); !strings.Contains(got, "expected a boolean") {
		t.Error(got)
	}
}
