// Package compression is the plugin compression: it encodes response bodies with
// zstd, brotli or gzip for clients that accept it (RFC 9110, section 12.5.3). What is
// encoded already, may not be changed, or is too short to gain, passes as it is.
// Streams stay streams: what the upstream has sent is sent on at once.
package compression

import (
	"net/http"
	"strings"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/routing/spec"
)

// Name is the plugin's name in documents.
const Name = "compression"

// Kind is the plugin.
func Kind() policy.Kind {
	codings := []any{"zstd", "br", "gzip"}
	types := []any{
		"text/*", "application/json", "application/*+json", "application/javascript", "application/xml", "application/*+xml", "application/wasm", "image/svg+xml",
	}
	return policy.Kind{
		Schema: spec.PluginSchema{
			Name: Name,
			Fields: []spec.Schema{
				{Name: "codings", Type: spec.Array, Default: codings, Elements: &spec.Schema{Type: spec.String, OneOf: codings}},
				{Name: "types", Type: spec.Array, Default: types, Elements: &spec.Schema{Type: spec.String}},
				{Name: "min_length", Type: spec.Integer, Default: float64(1024), Required: true, Between: &[2]float64{0, 1 << 30}},
				{Name: "level", Type: spec.String, Default: "fast", Required: true, OneOf: []any{"fast", "better"}},
			},
			Verify: verify,
		},
		Compile: compile,
	}
}

func verify(config map[string]any) []spec.FieldError {
	var bad []spec.FieldError
	list, _ := config["types"].([]any)
	for _, x := range list {
		text, _ := x.(string)
		kind, sub, ok := strings.Cut(text, "/")
		if !ok || kind == "" || sub == "" || strings.Contains(kind, "*") || strings.ContainsAny(text, "; ") || strings.LastIndexByte(sub, '*') > 0 {
			bad = append(bad, spec.FieldError{Field: "types", Message: "'" + text + "' is no media type; expected one such as text/html, text/* or application/*+json"})
		}
	}
	return bad
}

// compressor is a compiled config. Immutable.
type compressor struct {
	codings []*coding // in order of preference
	types   []string
	least   int64
}

func compile(env *policy.Env, p *spec.Plugin) (policy.Instance, error) {
	texts := func(name string) []string {
		var out []string
		list, _ := p.Config[name].([]any)
		for _, x := range list {
			if text, ok := x.(string); ok {
				out = append(out, strings.ToLower(text))
			}
		}
		return out
	}
	n, _ := p.Config["min_length"].(float64)
	c := &compressor{types: texts("types"), least: int64(n)}
	level, _ := p.Config["level"].(string)
	for _, name := range texts("codings") {
		// Encoders are large: those of all uses of the plugin are one pool.
		c.codings = append(c.codings, env.Shared(Name+" "+name+" "+level, func() any { return newCoding(name, level == "better") }).(*coding))
	}
	return policy.Instance{Header: c.header}, nil
}

func (c *compressor) header(x *policy.Context) {
	r := &x.X.Response
	if !c.eligible(r) {
		return
	}
	// Caches have to know even where this client gets it as it is.
	if !listed(&r.Fields, "Vary", "Accept-Encoding") && !listed(&r.Fields, "Vary", "*") {
		r.Fields.Add("Vary", "Accept-Encoding")
	}
	coding := choose(c.codings, &x.X.Request.Fields)
	if coding == nil {
		return
	}
	r.Fields.Set("Content-Encoding", coding.name)
	if tag := r.Fields.Get("ETag"); tag != "" && !strings.HasPrefix(tag, "W/") {
		r.Fields.Set("ETag", "W/"+tag) // the bytes are others, the meaning is not (RFC 9110, section 8.8.1)
	}
	for _, name := range []string{"Accept-Ranges", "Content-MD5", "Content-Digest", "Digest"} {
		r.Fields.Del(name) // they speak of the bytes
	}
	r.Length = -1
	if x.X.Request.Method == http.MethodHead || r.Body == nil {
		return
	}
	r.Body = &body{source: r.Body, coding: coding}
}

// eligible says whether a response may be encoded and gains by it.
func (c *compressor) eligible(r *exchange.Response) bool {
	switch {
	case r.Switch != nil, r.Status < 200, r.Status == http.StatusNoContent, r.Status == http.StatusResetContent, r.Status == http.StatusPartialContent, r.Status == http.StatusNotModified:
		return false
	case r.Length >= 0 && r.Length < max(c.least, 1):
		return false
	case r.Fields.Has("Content-Range"), listed(&r.Fields, "Cache-Control", "no-transform"):
		return false
	}
	if e := r.Fields.Get("Content-Encoding"); e != "" && !exchange.EqualFold(e, "identity") {
		return false
	}
	kind, _, _ := strings.Cut(r.Fields.Get("Content-Type"), ";")
	return c.takes(strings.ToLower(strings.TrimSpace(kind)))
}

func (c *compressor) takes(kind string) bool {
	for _, t := range c.types {
		if head, tail, wild := strings.Cut(t, "*"); t == kind || wild && len(kind) >= len(head)+len(tail) && strings.HasPrefix(kind, head) && strings.HasSuffix(kind, tail) {
			return true
		}
	}
	return false
}

// listed says whether a field that is a list has a member.
func listed(f *exchange.Fields, name, member string) bool {
	for v := range f.Values(name) {
		for m := range strings.SplitSeq(v, ",") {
			if exchange.EqualFold(strings.TrimSpace(m), member) {
				return true
			}
		}
	}
	return false
}
