package secrets

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

var errEmpty = errors.New("the value is empty; an empty credential is never used")

// field picks what a key names out of a whole secret: a top-level string of a
// JSON object, or for no key all of it. Its errors never quote the secret, which
// is why the JSON decoder's own are dropped.
func field(whole Value, key string) (Value, error) {
	if key == "" {
		if len(whole.Reveal()) == 0 {
			return Value{}, errEmpty
		}
		return whole, nil
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(whole.Reveal(), &object); err != nil || object == nil {
		return Value{}, fmt.Errorf("the secret is not a JSON object, so it has no subfield %s", key)
	}
	raw, ok := object[key]
	if !ok {
		return Value{}, fmt.Errorf("subfield %s not found in JSON secret", key)
	}
	if kind := jsonKind(raw); kind != "string" {
		return Value{}, fmt.Errorf("unexpected %s value in JSON secret for subfield %s", kind, key)
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return Value{}, fmt.Errorf("subfield %s in JSON secret is not a valid string", key)
	}
	if s == "" {
		return Value{}, fmt.Errorf("subfield %s: %w", key, errEmpty)
	}
	return NewValue([]byte(s)), nil
}

// jsonKind names the type of a well-formed JSON value.
func jsonKind(raw json.RawMessage) string {
	switch strings.TrimLeft(string(raw), " \t\r\n")[0] {
	case '"':
		return "string"
	case '{':
		return "object"
	case '[':
		return "array"
	case 't', 'f':
		return "boolean"
	case 'n':
		return "null"
	}
	return "number"
}
