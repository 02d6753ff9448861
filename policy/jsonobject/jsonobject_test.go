package jsonobject

import (
	"encoding/json"
	"testing"
)

func TestParseAcceptsOnlyObjects(t *testing.T) {
	for _, bad := range []string{"", "[1]", "1", `"a"`, "{", `{"a":1}{}`, `{"a":1}x`, `{"a":}`, "null", "{bad"} {
		if _, ok := Parse([]byte(bad)); ok {
			t.Errorf("Parse(%q) took it", bad)
		}
	}
	o, ok := Parse([]byte(" {\"b\" : 1.00 , \"a<\":[ 1 , {\"x\":\"y z\"} ], \"b\":12345678901234567890123} "))
	if !ok {
		t.Fatal("refused")
	}
	if got, want := string(o.Encode()), `{"b":12345678901234567890123,"a<":[1,{"x":"y z"}]}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestEdit(t *testing.T) {
	f := func(in string, edit func(o *Object), want string) {
		t.Helper()
		o, ok := Parse([]byte(in))
		if !ok {
			t.Fatalf("%s refused", in)
		}
		edit(o)
		if got := string(o.Encode()); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	add := func(v string) func(o *Object) {
		return func(o *Object) { o.Append("a", json.RawMessage(v)) }
	}
	f(`{}`, add(`2`), `{"a":[2]}`)
	f(`{"a":1}`, add(`2`), `{"a":[2]}`)
	f(`{"a":null}`, add(`2`), `{"a":[2]}`)
	f(`{"a":"1"}`, add(`"2"`), `{"a":["1","2"]}`)
	f(`{"a":[]}`, add(`2`), `{"a":[2]}`)
	f(`{"a":[1]}`, add(`2`), `{"a":[1,2]}`)
	f(`{"a":{"b":1}}`, add(`2`), `{"a":{"b":1}}`)
	f(`{"a":1,"b":2,"c":3}`, func(o *Object) { o.Del("b"); o.Del("x") }, `{"a":1,"c":3}`)
	f(`{"a":1,"b":2}`, func(o *Object) { o.Rename("a", "b") }, `{"b":1}`)
	f(`{"b":2,"a":1}`, func(o *Object) { o.Rename("a", "b") }, `{"b":1}`)
	f(`{"a":1}`, func(o *Object) { o.Rename("a", "a"); o.Rename("x", "a") }, `{"a":1}`)
	f(`{"a":1}`, func(o *Object) { o.Set("b", String(`"<`)) }, `{"a":1,"b":"\"<"}`)
}

func TestAppendDoesNotWriteIntoTheParsedText(t *testing.T) {
	o, _ := Parse([]byte(`{"a":[1],"b":2}`))
	o.Append("a", json.RawMessage(`99`))
	if got := string(o.Encode()); got != `{"a":[1,99],"b":2}` {
		t.Error(got)
	}
}
