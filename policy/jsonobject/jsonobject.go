// Package jsonobject edits the top level of a JSON object without decoding what
// is below: members keep their order, numbers keep every digit, nested values
// keep their text. It is what the body transformers share; it is not a plugin.
package jsonobject

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
)

// Object is a JSON object. The zero value is an empty one.
type Object struct {
	members []member
}

type member struct {
	key   string
	value json.RawMessage
}

// Parse reads body, and answers false when it is not one JSON object. Of members
// with the same key the last one counts, at the place of the first.
func Parse(body []byte) (*Object, bool) {
	var compact bytes.Buffer
	if err := json.Compact(&compact, body); err != nil || compact.Len() == 0 || compact.Bytes()[0] != '{' {
		return nil, false
	}
	o := new(Object)
	d := json.NewDecoder(&compact)
	if _, err := d.Token(); err != nil {
		return nil, false
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, false
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, false
		}
		name, _ := key.(string)
		o.Set(name, value)
	}
	return o, true
}

func (o *Object) index(key string) int {
	return slices.IndexFunc(o.members, func(m member) bool { return m.key == key })
}

// Has says whether there is a member called key.
func (o *Object) Has(key string) bool { return o.index(key) >= 0 }

// Set gives the member called key a value, which must be valid JSON, and makes
// the member at the end if there is none.
func (o *Object) Set(key string, value json.RawMessage) {
	if i := o.index(key); i >= 0 {
		o.members[i].value = value
		return
	}
	o.members = append(o.members, member{key, value})
}

// Del removes the member called key and says whether there was one.
func (o *Object) Del(key string) bool {
	i := o.index(key)
	if i >= 0 {
		o.members = slices.Delete(o.members, i, i+1)
	}
	return i >= 0
}

// Rename gives the member called from the name to, in place of any other of that
// name, and says whether there was one.
func (o *Object) Rename(from, to string) bool {
	if !o.Has(from) {
		return false
	}
	if from != to {
		o.Del(to)
		o.members[o.index(from)].key = to
	}
	return true
}

// Append makes value one more of the member called key: at the end of an array,
// second after a string, the only one where anything else or nothing was. An
// object is left alone, since it has no end to append to; then Append answers false.
func (o *Object) Append(key string, value json.RawMessage) bool {
	i := o.index(key)
	if i < 0 {
		o.Set(key, array(value))
		return true
	}
	switch old := o.members[i].value; old[0] {
	case '{':
		return false
	case '"':
		o.members[i].value = array(old, value)
	case '[':
		if len(old) == len("[]") {
			o.members[i].value = array(value)
		} else {
			o.members[i].value = slices.Concat(old[:len(old)-1], []byte{','}, value, []byte{']'})
		}
	default:
		o.members[i].value = array(value)
	}
	return true
}

func array(values ...json.RawMessage) json.RawMessage {
	raw := make([][]byte, len(values))
	for i, v := range values {
		raw[i] = v
	}
	return slices.Concat([]byte{'['}, bytes.Join(raw, []byte{','}), []byte{']'})
}

// Encode is the object as JSON without white space.
func (o *Object) Encode() []byte {
	out := []byte{'{'}
	for i, m := range o.members {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, String(m.key)...)
		out = append(out, ':')
		out = append(out, m.value...)
	}
	return append(out, '}')
}

// String is s as a JSON string, with <, > and & as they are.
func String(s string) json.RawMessage {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		return json.RawMessage(`""`) // a string always encodes
	}
	return json.RawMessage(strings.TrimSuffix(b.String(), "\n"))
}
