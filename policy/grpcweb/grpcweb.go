// Package grpcweb is the plugin grpc-web: it lets browsers, which can neither choose
// HTTP/2 nor read trailers, call gRPC services (gRPC's PROTOCOL-WEB). The request is
// handed on as gRPC, and the response's trailers follow its messages as one more frame.
package grpcweb

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/routing/spec"
)

// Name is the plugin's name in documents.
const Name = "grpc-web"

const allowOrigin = "Access-Control-Allow-Origin"

// Kind is the plugin.
func Kind() policy.Kind {
	return policy.Kind{
		Schema: spec.PluginSchema{
			Name: Name,
			Fields: []spec.Schema{
				{Name: "proto", Type: spec.String},
				{Name: "pass_stripped_path", Type: spec.Boolean},
				{Name: "allow_origin_header", Type: spec.String, Default: "*"},
			},
			Verify: verify,
		},
		Compile: compile,
	}
}

// verify refuses what would not be done: messages are passed on as they are.
func verify(config map[string]any) []spec.FieldError {
	if proto, _ := config["proto"].(string); proto != "" {
		return []spec.FieldError{{Field: "proto", Message: "JSON is not turned into messages here; expected no .proto file: clients send application/grpc-web or application/grpc-web-text"}}
	}
	return nil
}

type config struct {
	Proto  *string `json:"proto"` // never set: see verify
	Strip  bool    `json:"pass_stripped_path"`
	Origin string  `json:"allow_origin_header"`
}

// plugin is a compiled config. Immutable.
type plugin struct {
	config
	calls policy.State[call]
}

// call is what a request asked for; the zero value is one that is none of gRPC-Web.
type call struct {
	kind string // its content type, "" for none
	text bool   // in base64
}

func compile(_ *policy.Env, p *spec.Plugin) (policy.Instance, error) {
	x := &plugin{calls: policy.NewState[call]()}
	if err := spec.Bind(p.Config, &x.config); err != nil {
		return policy.Instance{}, fmt.Errorf("compiling grpc-web: %w", err)
	}
	return policy.Instance{Access: x.access, Header: x.header}, nil
}

func (x *plugin) access(c *policy.Context) *policy.Reply {
	if x.Origin != "" {
		c.ResponseFields.Set(allowOrigin, x.Origin)
	}
	r := &c.X.Request
	if r.Method == http.MethodOptions {
		return &policy.Reply{
			Status: http.StatusOK, Body: []byte("OK"), ContentType: "application/grpc-web-text+proto",
			Fields: []exchange.Field{
				{Name: "Access-Control-Allow-Methods", Value: "POST"},
				{Name: "Access-Control-Allow-Headers", Value: "content-type,x-grpc-web,x-user-agent"},
			},
		}
	}
	kind, text, ok := form(r.Fields.Get("Content-Type"))
	if !ok {
		return &policy.Reply{Status: http.StatusBadRequest, Message: "transcoding requests require a .proto file defining the service"}
	}
	*x.calls.Of(c) = call{kind, text}
	if x.Strip && c.StrippedURI != "" {
		c.UpstreamURI = c.StrippedURI
	}
	r.Fields.Set("Content-Type", "application/grpc")
	r.Fields.Set("TE", "trailers")
	if text && r.HasBody() {
		r.Body, r.Length, r.LengthGiven = &decoder{source: r.Body}, -1, false
	}
	return nil
}

// form reads a content type of gRPC-Web.
func form(contentType string) (kind string, text, ok bool) {
	kind, _, _ = strings.Cut(contentType, ";")
	kind = strings.TrimSpace(kind)
	switch strings.ToLower(kind) {
	case "application/grpc-web", "application/grpc-web+proto":
		return kind, false, true
	case "application/grpc-web-text", "application/grpc-web-text+proto":
		return kind, true, true
	}
	return "", false, false
}

// header turns a response of gRPC's into one of gRPC-Web's.
func (x *plugin) header(c *policy.Context) {
	at := x.calls.Peek(c)
	if at == nil || at.kind == "" {
		return
	}
	r := &c.X.Response
	grpc := strings.HasPrefix(r.Fields.Get("Content-Type"), "application/grpc")
	if r.FromUpstream && !grpc {
		return // not an answer of gRPC's: the client is to see it as it is
	}
	b := &encoder{response: r, text: at.text}
	switch {
	case !r.FromUpstream:
		b.source = exchange.NoBody
		b.local(c)
	case r.Body == nil:
		b.source = exchange.NoBody
		for _, name := range []string{"grpc-status", "grpc-message", "grpc-status-details-bin"} {
			if v, ok := r.Fields.Lookup(name); ok {
				r.Trailer.Add(name, v)
			}
		}
	default:
		b.source = r.Body
	}
	r.Fields.Set("Content-Type", at.kind)
	r.Fields.Del("Trailer")
	r.Body, r.Length = b, -1
}

// local makes trailers of an answer of the node's own, whose HTTP status stays.
func (b *encoder) local(c *policy.Context) {
	r := b.response
	message := policy.StatusText(r.Status)
	if c.LocalReply != nil && c.LocalReply.Message != "" {
		message = c.LocalReply.Message
	}
	if c, ok := r.Body.(io.Closer); ok {
		_ = c.Close()
	}
	if !r.Fields.Has("grpc-status") {
		r.Fields.Set("grpc-status", strconv.Itoa(policy.GRPCStatus(r.Status)))
		r.Fields.Set("grpc-message", policy.GRPCMessage(message))
	}
	r.Trailer.Reset()
	r.Trailer.Add("grpc-status", r.Fields.Get("grpc-status"))
	r.Trailer.Add("grpc-message", r.Fields.Get("grpc-message"))
}
