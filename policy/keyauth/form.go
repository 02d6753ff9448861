package keyauth

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"mime/multipart"

	"github.com/keyway-edge/keyway/policy/jsonobject"
)

// form is a body in which values have names.
type form interface {
	get(name string) (value string, n found)
	// without is the body less what is called name.
	without(name string) (rest []byte, dropped bool)
}

type kind uint8

const (
	notForm kind = iota
	urlencoded
	jsonObject
	multipartForm
)

func formKind(contentType string) (kind, map[string]string) {
	mediaType, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		return notForm, nil
	}
	switch mediaType {
	case "application/x-www-form-urlencoded":
		return urlencoded, nil
	case "application/json":
		return jsonObject, nil
	case "multipart/form-data":
		return multipartForm, params
	}
	return notForm, nil
}

// parseForm answers nil for a body that is not what its Content-Type says.
func parseForm(k kind, params map[string]string, raw []byte) form {
	switch k {
	case urlencoded:
		return pairs(raw)
	case jsonObject:
		members := map[string]json.RawMessage{}
		if json.Unmarshal(raw, &members) != nil {
			return nil
		}
		return object{members, raw}
	case multipartForm:
		return parseParts(params["boundary"], raw)
	}
	return nil
}

type pairs string

func (p pairs) get(name string) (string, found) { return inQuery(string(p), name) }

func (p pairs) without(name string) ([]byte, bool) {
	rest, dropped := dropQuery(string(p), name)
	return []byte(rest), dropped
}

type object struct {
	members map[string]json.RawMessage
	raw     []byte
}

// get: a string is a key, a list or an object is several things under one name.
func (o object) get(name string) (string, found) {
	raw, ok := o.members[name]
	if !ok {
		return "", absent
	}
	var text string
	if len(raw) > 0 && (raw[0] == '[' || raw[0] == '{') {
		return "", several
	}
	if len(raw) == 0 || raw[0] != '"' || json.Unmarshal(raw, &text) != nil {
		return "", absent
	}
	return text, single
}

func (o object) without(name string) ([]byte, bool) {
	whole, ok := jsonobject.Parse(o.raw)
	if !ok || !whole.Del(name) {
		return nil, false
	}
	return whole.Encode(), true
}

// parts is a multipart form; each part keeps its bytes.
type parts struct {
	boundary string
	raw      []byte
	list     []part
}

type part struct {
	name, value string
	begin, end  int // of its section, from its delimiter to the next one
}

func parseParts(boundary string, raw []byte) form {
	if boundary == "" {
		return nil
	}
	p := &parts{boundary: boundary, raw: raw}
	r := multipart.NewReader(bytes.NewReader(raw), boundary)
	for {
		x, err := r.NextRawPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil
		}
		value, err := io.ReadAll(x)
		if err != nil {
			return nil
		}
		p.list = append(p.list, part{name: x.FormName(), value: string(value)})
	}
	if !p.locate() {
		return nil
	}
	return p
}

// locate finds each part's bytes. The reader above has agreed that so many parts
// are there; a body that reads differently here holds no key, so that nothing is
// taken for one that could not be hidden.
func (p *parts) locate() bool {
	delimiter := []byte("\r\n--" + p.boundary)
	at := 0 // of the delimiter's dashes
	if !bytes.HasPrefix(p.raw, delimiter[2:]) {
		n := bytes.Index(p.raw, delimiter)
		if n < 0 {
			return false
		}
		at = n + 2
	}
	for i := range p.list {
		n := bytes.Index(p.raw[at:], delimiter)
		if n < 0 {
			return false
		}
		p.list[i].begin = at
		at += n + 2
		p.list[i].end = at
	}
	return bytes.HasPrefix(p.raw[at+len(delimiter)-2:], []byte("--"))
}

func (p *parts) get(name string) (string, found) {
	value, n := "", absent
	for _, x := range p.list {
		if x.name != name {
			continue
		}
		if n != absent {
			return "", several
		}
		value, n = x.value, single
	}
	return value, n
}

func (p *parts) without(name string) ([]byte, bool) {
	rest, from := make([]byte, 0, len(p.raw)), 0
	for _, x := range p.list {
		if x.name == name {
			rest = append(rest, p.raw[from:x.begin]...)
			from = x.end
		}
	}
	return append(rest, p.raw[from:]...), from > 0
}
