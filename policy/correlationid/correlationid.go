// Package correlationid is the plugin correlation-id: it gives each request an
// identifier that it carries upstream and, if wanted, back to the client.
package correlationid

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"

	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/routing/spec"
)

// Name is the plugin's name in documents.
const Name = "correlation-id"

// Kind is the plugin.
func Kind() policy.Kind {
	return policy.Kind{
		Schema: spec.PluginSchema{
			Name: Name,
			Fields: []spec.Schema{
				{Name: "header_name", Type: spec.String, Default: "Kong-Request-ID"},
				{Name: "generator", Type: spec.String, Default: "uuid#counter", Required: true, OneOf: []any{"uuid", "uuid#counter", "tracker"}},
				{Name: "echo_downstream", Type: spec.Boolean, Default: false, Required: true},
			},
			Verify: verify,
		},
		Compile: compile,
	}
}

var errHeaderName = errors.New("header_name is not a field name; expected letters, digits and hyphens")

func verify(config map[string]any) []spec.FieldError {
	if name, _ := config["header_name"].(string); name != "" && !validName(name) {
		return []spec.FieldError{{Field: "header_name", Message: fmt.Sprintf("%q is not a field name; expected letters, digits and hyphens", name)}}
	}
	return nil
}

// validName says whether name is a token of the characters in use (RFC 9110, section 5.6.2).
func validName(name string) bool {
	for i := range len(name) {
		c := name[i]
		if c != '-' && c != '_' && c != '.' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
			return false
		}
	}
	return name != ""
}

// sequence numbers the identifiers of this node. It outlives snapshots, so that a
// reload neither repeats nor skips a number.
type sequence struct {
	prefix string // the UUID of this run, with # after it
	last   atomic.Uint64
}

type plugin struct {
	header string
	make   func(c *policy.Context) string
	echo   bool
	id     policy.State[string]
}

func compile(env *policy.Env, p *spec.Plugin) (policy.Instance, error) {
	header, _ := p.Config["header_name"].(string)
	if header == "" {
		header = "Kong-Request-ID"
	}
	if !validName(header) {
		return policy.Instance{}, fmt.Errorf("compiling correlation-id: %w", errHeaderName)
	}
	seq, _ := env.Shared(Name, func() any { return &sequence{prefix: newUUID() + "#"} }).(*sequence)
	c := &plugin{header: header, id: policy.NewState[string]()}
	c.echo, _ = p.Config["echo_downstream"].(bool)
	switch p.Config["generator"] {
	case "uuid":
		c.make = func(*policy.Context) string { return newUUID() }
	case "tracker":
		c.make = seq.tracker(os.Getpid())
	default:
		c.make = func(*policy.Context) string { return seq.prefix + strconv.FormatUint(seq.last.Add(1), 10) }
	}
	instance := policy.Instance{Access: c.access}
	if c.echo {
		instance.Header = c.answer
	}
	return instance, nil
}

// access keeps the identifier that the client sent, or makes one.
func (p *plugin) access(c *policy.Context) *policy.Reply {
	id := c.X.Request.Fields.Get(p.header)
	if id == "" {
		id = p.make(c)
		c.X.Request.Fields.Set(p.header, id)
	}
	if p.echo {
		*p.id.Of(c) = id
	}
	return nil
}

// answer shows the identifier to the client. A request that was answered before
// this plugin's turn gets one all the same.
func (p *plugin) answer(c *policy.Context) {
	id := *p.id.Of(c)
	if id == "" {
		if id = c.X.Request.Fields.Get(p.header); id == "" {
			id = p.make(c)
		}
	}
	c.X.Response.Fields.Set(p.header, id)
}

// tracker makes identifiers of address, port, process, connection, a number of
// this node and time: readable, and unique on the node.
func (s *sequence) tracker(pid int) func(c *policy.Context) string {
	return func(c *policy.Context) string {
		conn := c.X.Conn
		b := make([]byte, 0, 64)
		b = conn.Local.Addr().Unmap().AppendTo(b)
		for _, n := range []int64{int64(conn.Local.Port()), int64(pid), int64(conn.ID), int64(s.last.Add(1))} {
			b = append(b, '-')
			b = strconv.AppendInt(b, n, 10)
		}
		b = append(b, '-')
		b = strconv.AppendInt(b, c.Now.Unix(), 10)
		return string(fmt.Appendf(b, ".%03d", c.Now.Nanosecond()/1e6))
	}
}

// newUUID is a random UUID (RFC 9562, version 4) in lower case.
func newUUID() string {
	var u [16]byte
	rand.Read(u[:]) // crypto/rand.Read never fails
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	b := make([]byte, 0, 36)
	for i, n := range []int{0, 4, 6, 8, 10} {
		end := []int{4, 6, 8, 10, 16}[i]
		if i > 0 {
			b = append(b, '-')
		}
		b = hex.AppendEncode(b, u[n:end])
	}
	return string(b)
}
