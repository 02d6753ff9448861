package requesttransformer

import (
	"errors"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/policy/jsonobject"
)

// bodyLimit is the longest body, in bytes, that is read for changing it. A longer
// one is refused with 413: passing it on unchanged would let a client choose
// whether the policy applies.
const bodyLimit = 8 << 20

// content is a kind of body that can be changed.
type content int

const (
	other content = iota
	object
	form
	multipart
)

// contentOf finds the kind by the Content-Type field, wherever in it the type stands.
func contentOf(f *exchange.Fields) content {
	t := strings.ToLower(f.Get("Content-Type"))
	switch {
	case strings.Contains(t, "application/json"):
		return object
	case strings.Contains(t, "multipart/form-data"):
		return multipart
	case strings.Contains(t, "application/x-www-form-urlencoded"):
		return form
	}
	return other
}

// readBody reads the whole body, which stays there for whoever comes next.
func readBody(c *policy.Context) ([]byte, *policy.Reply) {
	body, err := c.RequestBody(bodyLimit)
	if err == nil {
		return body, nil
	}
	reply := policy.ErrorReply(http.StatusBadRequest, "")
	if errors.Is(err, policy.ErrBodyTooLarge) {
		reply = policy.ErrorReply(http.StatusRequestEntityTooLarge, "")
	}
	if be, ok := errors.AsType[*exchange.BodyError](err); ok && be.Status != 0 {
		reply = policy.ErrorReply(be.Status, "")
	}
	reply.Err = err
	return nil, reply
}

// changeBody changes a body of a kind that is understood; one that does not parse
// as what it says it is goes on unchanged.
func (s *section) changeBody(c *policy.Context, values []string) *policy.Reply {
	req := &c.X.Request
	kind := contentOf(&req.Fields)
	if s.empty() || kind == other || encoded(&req.Fields) {
		return nil
	}
	var body []byte
	if req.HasBody() {
		var reply *policy.Reply
		if body, reply = readBody(c); reply != nil {
			return reply
		}
	}
	changed := false
	switch kind {
	case object:
		body, changed = s.changeJSON(body, values)
	case form:
		a := parseArgs(string(body))
		if changed = s.changeArgs(a, values, len(body) > 0); changed {
			body = []byte(a.encode())
		}
	case multipart:
		body, changed = s.changeParts(body, req.Fields.Get("Content-Type"), values)
	}
	if changed {
		c.SetRequestBody(body)
		req.Trailer.Reset()
	}
	return nil
}

// encoded says whether the body is compressed, so that its text cannot be changed.
func encoded(f *exchange.Fields) bool {
	e, ok := f.Lookup("Content-Encoding")
	return ok && e != "" && !exchange.EqualFold(e, "identity")
}

// changeJSON changes the top level of a JSON object. An array and any other value
// has no members to change; no body at all counts as an object to add to.
func (s *section) changeJSON(body []byte, values []string) ([]byte, bool) {
	o, ok := new(jsonobject.Object), true
	if len(body) > 0 {
		if o, ok = jsonobject.Parse(body); !ok {
			return body, false
		}
	}
	changed := false
	for _, name := range s.remove {
		changed = o.Del(name) || changed
	}
	for _, x := range s.rename {
		changed = o.Rename(x.name, x.text(values)) || changed
	}
	for _, x := range s.replace {
		if o.Has(x.name) {
			o.Set(x.name, jsonobject.String(x.text(values)))
			changed = true
		}
	}
	for _, x := range s.add {
		if !o.Has(x.name) {
			o.Set(x.name, jsonobject.String(x.text(values)))
			changed = true
		}
	}
	for _, x := range s.append {
		changed = o.Append(x.name, jsonobject.String(x.text(values))) || changed
	}
	if !changed {
		return body, false
	}
	return o.Encode(), true
}

// formPart is one part of a multipart body: its head as it is, and its content.
type formPart struct {
	name          string
	head, content string
}

// changeParts changes a multipart body. Parts that are not named keep every byte.
// There is no append here: a second part of a name already means a list.
func (s *section) changeParts(body []byte, contentType string, values []string) ([]byte, bool) {
	boundary := boundaryOf(contentType)
	parts, ok := splitParts(string(body), boundary)
	if !ok {
		return body, false
	}
	index := func(name string) int {
		return slices.IndexFunc(parts, func(p formPart) bool { return p.name == name })
	}
	remove := func(name string) {
		parts = slices.DeleteFunc(parts, func(p formPart) bool { return p.name == name })
	}
	changed := false
	for _, name := range s.remove {
		if index(name) >= 0 {
			remove(name)
			changed = true
		}
	}
	for _, o := range s.rename {
		i, to := index(o.name), o.text(values)
		if i < 0 || to == o.name {
			continue
		}
		renamed := simplePart(to, parts[i].content)
		remove(to)
		parts[index(o.name)] = renamed
		remove(o.name)
		changed = true
	}
	for _, o := range s.replace {
		if i := index(o.name); i >= 0 {
			parts[i] = simplePart(o.name, o.text(values))
			changed = true
		}
	}
	for _, o := range s.add {
		if index(o.name) < 0 {
			parts = append(parts, simplePart(o.name, o.text(values)))
			changed = true
		}
	}
	if !changed {
		return body, false
	}
	var b strings.Builder
	for _, p := range parts {
		b.WriteString("--" + boundary + "\r\n" + p.head + "\r\n\r\n" + p.content + "\r\n")
	}
	b.WriteString("--" + boundary + "--\r\n")
	return []byte(b.String()), true
}

func boundaryOf(contentType string) string {
	_, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		return ""
	}
	return params["boundary"]
}

// simplePart is a part that holds one field of a form.
func simplePart(name, content string) formPart {
	quoted := strings.NewReplacer("\\", "\\\\", `"`, "%22", "\r", "%0D", "\n", "%0A").Replace(name)
	return formPart{name: name, head: `Content-Disposition: form-data; name="` + quoted + `"`, content: content}
}

// splitParts takes a multipart body apart (RFC 2046, section 5.1.1). An empty body
// has no parts; one that breaks the rules is answered with false.
func splitParts(body, boundary string) ([]formPart, bool) {
	if boundary == "" {
		return nil, false
	}
	if body == "" {
		return nil, true
	}
	delimiter := "\r\n--" + boundary
	pieces := strings.Split("\r\n"+body, delimiter)
	if len(pieces) < 2 || !strings.HasPrefix(pieces[len(pieces)-1], "--") {
		return nil, false
	}
	var parts []formPart
	for _, piece := range pieces[1 : len(pieces)-1] {
		piece, ok := strings.CutPrefix(strings.TrimLeft(piece, " \t"), "\r\n")
		head, content, found := strings.Cut(piece, "\r\n\r\n")
		if !ok || !found {
			return nil, false
		}
		parts = append(parts, formPart{name: partName(head), head: head, content: content})
	}
	return parts, true
}

// partName is the name parameter of a part's Content-Disposition, "" for none.
func partName(head string) string {
	for line := range strings.SplitSeq(head, "\r\n") {
		name, value, _ := strings.Cut(line, ":")
		if !exchange.EqualFold(strings.TrimSpace(name), "Content-Disposition") {
			continue
		}
		if _, params, err := mime.ParseMediaType(strings.TrimSpace(value)); err == nil {
			return params["name"]
		}
	}
	return ""
}
