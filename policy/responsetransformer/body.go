package responsetransformer

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/policy/jsonobject"
)

// bodyLimit is the longest body, in bytes, that is held in memory to be changed.
const bodyLimit = 8 << 20

var errBodyTooLong = errors.New("response-transformer: the body is too long to take members out of it")

// prepare puts a reader in front of a JSON body that changes it when it is read,
// after the head has gone out; so its length is no longer known. A body that is
// announced too long to be changed passes, unless something was to be hidden in it.
func (m *members) prepare(c *policy.Context) {
	r := &c.X.Response
	if m.empty() || r.Switch != nil || !isJSON(&r.Fields) {
		return
	}
	if r.Length > bodyLimit {
		if m.hides() {
			refuse(c)
		}
		return
	}
	if r.Status == http.StatusNoContent || r.Status == http.StatusNotModified {
		return
	}
	r.Length = -1
	if r.Body != nil {
		r.Body = &body{src: r.Body, members: m}
	}
}

// isJSON says whether the body is JSON as it is, not compressed.
func isJSON(f *exchange.Fields) bool {
	if e := f.Get("Content-Encoding"); e != "" && !exchange.EqualFold(e, "identity") {
		return false
	}
	return strings.Contains(strings.ToLower(f.Get("Content-Type")), "application/json")
}

// refuse answers 502 in place of a response that must not pass as it is.
func refuse(c *policy.Context) {
	r := &c.X.Response
	if closer, ok := r.Body.(io.Closer); ok {
		_ = closer.Close() // it is given up, whatever its end
	}
	reply := policy.ErrorReply(http.StatusBadGateway, "")
	reply.Err = errBodyTooLong
	contentType, text := policy.RenderFor(reply, &c.X.Request, c.X.RequestID)
	date := r.Fields.Get("Date")
	*r = exchange.Response{Status: reply.Status, Length: int64(len(text)), Close: r.Close}
	if date != "" {
		r.Fields.Add("Date", date)
	}
	r.Fields.Add("Content-Type", contentType)
	if c.X.Request.Method != http.MethodHead {
		r.Body = bytes.NewReader(text)
	}
	c.LocalReply = reply
}

// body is a response body that is read whole at the first Read and then given out
// changed. What it cannot change it gives out as it is.
type body struct {
	src     io.Reader
	members *members
	out     io.Reader // nil until the first Read
}

// Read gives out the changed body. The upstream's error comes before any byte: half
// a JSON text must not look like a whole one.
func (b *body) Read(p []byte) (int, error) {
	if b.out == nil {
		out, err := b.load()
		if err != nil {
			return 0, err
		}
		b.out = out
	}
	return b.out.Read(p)
}

func (b *body) load() (io.Reader, error) {
	text, err := io.ReadAll(io.LimitReader(b.src, bodyLimit+1))
	if err != nil {
		return nil, err // the engine judges the upstream's own error
	}
	if len(text) <= bodyLimit {
		return bytes.NewReader(b.members.change(text)), nil
	}
	if b.members.hides() {
		return nil, errBodyTooLong
	}
	return io.MultiReader(bytes.NewReader(text), b.src), nil
}

// Close closes the upstream's body.
func (b *body) Close() error {
	if closer, ok := b.src.(io.Closer); ok {
		return closer.Close() // this reader adds nothing to it
	}
	return nil
}

// change is text with the members changed; text itself when it is no JSON object.
func (m *members) change(text []byte) []byte {
	o, ok := jsonobject.Parse(text)
	if !ok {
		return text
	}
	for _, name := range m.remove {
		o.Del(name)
	}
	for _, p := range m.rename {
		o.Rename(p.name, p.value)
	}
	for _, x := range m.replace {
		if o.Has(x.name) {
			o.Set(x.name, x.value)
		}
	}
	for _, x := range m.add {
		if !o.Has(x.name) {
			o.Set(x.name, x.value)
		}
	}
	for _, x := range m.append {
		o.Append(x.name, x.value)
	}
	return o.Encode()
}
