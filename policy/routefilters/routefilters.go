// Package routefilters is the plugin route-filters: what the filters of Gateway API's
// routes say of a request on its way to the service, of its response, or of where
// the client shall go instead.
package routefilters

import (
	"fmt"
	"slices"
	"strings"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/routing/spec"
)

// Name is the plugin's name in documents.
const Name = "route-filters"

// Kind is the plugin.
func Kind() policy.Kind {
	return policy.Kind{Schema: spec.PluginSchema{Name: Name, Fields: schema(), Verify: verify}, Compile: compile}
}

func schema() []spec.Schema {
	record := func(name string, fields ...spec.Schema) spec.Schema {
		return spec.Schema{Name: name, Type: spec.Record, Fields: fields}
	}
	text := func(name string) spec.Schema { return spec.Schema{Name: name, Type: spec.String} }
	needed := func(name string) spec.Schema {
		return spec.Schema{Name: name, Type: spec.String, Required: true, LenMin: -1}
	}
	line := record("", spec.Schema{Name: "name", Type: spec.String, Required: true}, needed("value"))
	lines := func(name string) spec.Schema { return spec.Schema{Name: name, Type: spec.Array, Elements: &line} }
	fields := func(name string) spec.Schema {
		return record(name, lines("set"), lines("add"), spec.Schema{Name: "remove", Type: spec.Array, Elements: &spec.Schema{Type: spec.String}})
	}
	path := record("path",
		spec.Schema{Name: "full", Type: spec.String, StartsWith: "/"},
		record("prefix", spec.Schema{Name: "match", Type: spec.String, Required: true, StartsWith: "/"}, needed("replace")))
	return []spec.Schema{
		fields("request_headers"),
		fields("response_headers"),
		record("rewrite", text("hostname"), path),
		record("redirect",
			spec.Schema{Name: "scheme", Type: spec.String, OneOf: []any{"http", "https"}},
			text("hostname"),
			spec.Schema{Name: "port", Type: spec.Integer, Between: &[2]float64{1, 65535}},
			path,
			spec.Schema{Name: "status_code", Type: spec.Integer, Default: 302.0, OneOf: []any{301.0, 302.0, 303.0, 307.0, 308.0}}),
	}
}

// config is the config as documents write it.
type config struct {
	RequestHeaders  *changes  `json:"request_headers"`
	ResponseHeaders *changes  `json:"response_headers"`
	Rewrite         *rewrite  `json:"rewrite"`
	Redirect        *redirect `json:"redirect"`
}

// changes are made in the order set, add, remove.
type changes struct {
	Set    []line   `json:"set"`
	Add    []line   `json:"add"`
	Remove []string `json:"remove"`
}

type line struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type rewrite struct {
	Hostname string `json:"hostname"`
	Path     *path  `json:"path"`
}

func verify(conf map[string]any) []spec.FieldError {
	var c config
	if err := spec.Bind(conf, &c); err != nil {
		return []spec.FieldError{{Message: err.Error()}}
	}
	return c.problems()
}

func (c *config) problems() []spec.FieldError {
	bad := c.RequestHeaders.problems("request_headers", true)
	bad = append(bad, c.ResponseHeaders.problems("response_headers", false)...)
	if c.Rewrite != nil && c.Redirect != nil {
		bad = append(bad, spec.FieldError{Field: "redirect", Message: "expected nothing, since 'rewrite' is set: a request is either sent on or redirected"})
	}
	if r := c.Rewrite; r != nil {
		bad = append(bad, r.Path.problems("rewrite.path")...)
		bad = append(bad, hostProblem("rewrite.hostname", r.Hostname)...)
	}
	if r := c.Redirect; r != nil {
		bad = append(bad, r.Path.problems("redirect.path")...)
		bad = append(bad, hostProblem("redirect.hostname", r.Hostname)...)
	}
	return bad
}

// hostProblem judges the name of a host, without a port.
func hostProblem(field, name string) []spec.FieldError {
	ok := func(r rune) bool {
		return r == '.' || r == '-' || '0' <= r && r <= '9' || 'a' <= r|0x20 && r|0x20 <= 'z'
	}
	if strings.IndexFunc(name, func(r rune) bool { return !ok(r) }) < 0 {
		return nil
	}
	return []spec.FieldError{{Field: field, Message: fmt.Sprintf("%q is not the name of a host; expected letters, digits, dots and hyphens, and no port", name)}}
}

func (c *changes) problems(field string, request bool) []spec.FieldError {
	if c == nil {
		return nil
	}
	var bad []spec.FieldError
	problem := func(at string, i int, message string) {
		bad = append(bad, spec.FieldError{Field: fmt.Sprintf("%s.%s.%d", field, at, i+1), Message: message})
	}
	host := func(name string) bool { return request && exchange.EqualFold(name, "Host") }
	judge := func(at string, i int, name, value string) {
		switch {
		case !validName(name):
			problem(at, i, fmt.Sprintf("%q is not a field name; expected letters, digits and hyphens", name))
		case connectionField(name):
			problem(at, i, name+" belongs to the connection and is written by the gateway alone; take it out")
		case host(name) && at != "set":
			problem(at, i, "a request has one Host; it can be set, neither added nor removed")
		case host(name) && value == "":
			problem(at, i, "expected the name of a host")
		case strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }):
			problem(at, i, "the value holds a control character; take it out")
		}
	}
	for i, x := range c.Set {
		judge("set", i, x.Name, x.Value)
	}
	for i, x := range c.Add {
		judge("add", i, x.Name, x.Value)
	}
	for i, name := range c.Remove {
		judge("remove", i, name, "")
	}
	return bad
}

// connectionField says whether a field is about the connection or the framing of a
// message (RFC 9110, section 7.6.1), which a plugin must never write.
func connectionField(name string) bool {
	return slices.ContainsFunc([]string{
		"Connection", "Content-Length", "Keep-Alive", "Proxy-Connection", "TE", "Trailer", "Transfer-Encoding", "Upgrade",
	}, func(x string) bool { return exchange.EqualFold(x, name) })
}

// validName says whether name is a token (RFC 9110, section 5.6.2).
func validName(name string) bool {
	for i := range len(name) {
		c := name[i]
		if (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return name != ""
}

func compile(_ *policy.Env, p *spec.Plugin) (policy.Instance, error) {
	c := new(config)
	if err := spec.Bind(p.Config, c); err != nil {
		return policy.Instance{}, fmt.Errorf("compiling route-filters: %w", err)
	}
	if bad := c.problems(); len(bad) > 0 {
		return policy.Instance{}, fmt.Errorf("compiling route-filters: config.%s: %s", bad[0].Field, bad[0].Message)
	}
	var instance policy.Instance
	switch {
	case c.Redirect != nil:
		c.Redirect.Path.compile()
		instance.Access = c.Redirect.access
	case c.RequestHeaders != nil || c.Rewrite != nil:
		if c.Rewrite != nil {
			c.Rewrite.Path.compile()
		}
		instance.Access = c.access
	}
	if c.ResponseHeaders != nil {
		instance.Header = func(x *policy.Context) { c.ResponseHeaders.apply(&x.X.Response.Fields) }
	}
	return instance, nil
}

// access changes what goes to the service.
func (c *config) access(x *policy.Context) *policy.Reply {
	if c.RequestHeaders != nil {
		c.RequestHeaders.apply(&x.X.Request.Fields)
		// Host is no line of the section, so that a line of this name is an order.
		if host, ok := x.X.Request.Fields.Lookup("Host"); ok {
			x.X.Request.Fields.Del("Host")
			x.UpstreamHost = host
		}
	}
	if r := c.Rewrite; r != nil {
		if r.Hostname != "" {
			x.UpstreamHost = r.Hostname
		}
		if to, ok := r.Path.apply(x.UpstreamURI); ok {
			x.UpstreamURI, x.StrippedURI = to, "" // no later plugin shall put another path in place of this one
		}
	}
	return nil
}

func (c *changes) apply(f *exchange.Fields) {
	for _, x := range c.Set {
		f.Set(x.Name, x.Value)
	}
	for _, x := range c.Add {
		f.Add(x.Name, x.Value)
	}
	for _, name := range c.Remove {
		f.Del(name)
	}
}
