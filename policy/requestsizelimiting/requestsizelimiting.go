// Package requestsizelimiting is the plugin request-size-limiting: it refuses
// requests whose body is longer than a limit, by what they announce or, when they
// announce nothing, by what they send.
package requestsizelimiting

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/routing/spec"
)

// Name is the plugin's name in documents.
const Name = "request-size-limiting"

// Kind is the plugin.
func Kind() policy.Kind {
	return policy.Kind{
		Schema: spec.PluginSchema{
			Name: Name,
			Fields: []spec.Schema{
				{Name: "allowed_payload_size", Type: spec.Integer, Default: float64(defaultSize)},
				{Name: "size_unit", Type: spec.String, Default: "megabytes", Required: true, OneOf: []any{"megabytes", "kilobytes", "bytes"}},
				{Name: "require_content_length", Type: spec.Boolean, Default: false, Required: true},
			},
			Verify: verify,
		},
		Compile: compile,
	}
}

const (
	defaultSize = 128
	// lookAhead is how much of a body of unknown length is read before the request
	// goes upstream, so that one that is too long is refused before the upstream
	// hears of it. It bounds the memory that a client can make this plugin hold.
	lookAhead = 1 << 20

	messageTooLong  = "Request size limit exceeded"
	messageNoLength = "A valid Content-Length header is required"
)

var errTooLong = errors.New("request size limit exceeded")

func verify(config map[string]any) []spec.FieldError {
	if n, ok := config["allowed_payload_size"].(float64); ok && (n < 0 || n > 1<<40) {
		return []spec.FieldError{{Field: "allowed_payload_size", Message: fmt.Sprintf("expected a size from 0 to %d, got %v", int64(1)<<40, n)}}
	}
	return nil
}

// limiter is a compiled config. Immutable.
type limiter struct {
	limit         int64 // bytes
	requireLength bool
}

func compile(_ *policy.Env, p *spec.Plugin) (policy.Instance, error) {
	size, ok := p.Config["allowed_payload_size"].(float64)
	if !ok {
		size = defaultSize
	}
	l := &limiter{limit: int64(size)}
	switch p.Config["size_unit"] {
	case "megabytes":
		l.limit <<= 20
	case "kilobytes":
		l.limit <<= 10
	}
	l.requireLength, _ = p.Config["require_content_length"].(bool)
	return policy.Instance{Access: l.access}, nil
}

func (l *limiter) access(c *policy.Context) *policy.Reply {
	req := &c.X.Request
	if req.Length > l.limit {
		return tooLong(req)
	}
	if req.Length > 0 || req.LengthGiven {
		return nil
	}
	if l.requireLength {
		return policy.ErrorReply(http.StatusLengthRequired, messageNoLength)
	}
	if req.HasBody() {
		return l.watch(c)
	}
	return nil
}

// tooLong answers 417 to a client that asked before sending, 413 to others.
func tooLong(req *exchange.Request) *policy.Reply {
	status := http.StatusRequestEntityTooLarge
	if req.Expect100 {
		status = http.StatusExpectationFailed
	}
	return &policy.Reply{Status: status, Message: messageTooLong, Err: errTooLong}
}

// watch limits a body of unknown length. On a route that buffers requests its
// beginning is read here, so that nothing of a body that is too long goes
// upstream; what is beyond, and all of it on a route that streams, is counted as
// it passes.
func (l *limiter) watch(c *policy.Context) *policy.Reply {
	req := &c.X.Request
	body := &limited{body: req.Body, left: l.limit}
	req.Body = body
	if c.Route != nil && !c.Route.RequestBuffering {
		return nil
	}
	head, err := io.ReadAll(io.LimitReader(body, lookAhead))
	switch {
	case errors.Is(err, errTooLong):
		return tooLong(req)
	case err != nil:
		reply := policy.ErrorReply(http.StatusBadRequest, "")
		if be, ok := errors.AsType[*exchange.BodyError](err); ok && be.Status != 0 {
			reply = policy.ErrorReply(be.Status, "")
		}
		reply.Err = err
		return reply
	case len(head) < lookAhead && req.Trailer.Len() == 0:
		req.Body, req.Length = bytes.NewReader(head), int64(len(head))
	default:
		req.Body = io.MultiReader(bytes.NewReader(head), body)
	}
	return nil
}

// limited is a body that fails when it is longer than it may be.
type limited struct {
	body io.Reader
	left int64
	over bool
}

// Read answers a *exchange.BodyError with status 413 in place of the first byte
// too many, and no byte of it.
func (r *limited) Read(p []byte) (int, error) {
	if r.over {
		return 0, &exchange.BodyError{Status: http.StatusRequestEntityTooLarge, Err: errTooLong}
	}
	if int64(len(p)) > r.left+1 {
		p = p[:r.left+1]
	}
	n, err := r.body.Read(p)
	if int64(n) > r.left {
		r.over = true
		n = int(r.left)
		r.left = 0
		return n, &exchange.BodyError{Status: http.StatusRequestEntityTooLarge, Err: errTooLong}
	}
	r.left -= int64(n)
	return n, err
}
