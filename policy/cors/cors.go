// Package cors is the plugin cors: it answers the questions that browsers ask
// before and after a request from another origin (Fetch standard, section 3.2).
package cors

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/routing/spec"
)

// Name is the plugin's name in documents.
const Name = "cors"

const (
	allowOrigin      = "Access-Control-Allow-Origin"
	allowCredentials = "Access-Control-Allow-Credentials"
	allowHeaders     = "Access-Control-Allow-Headers"
	allowMethods     = "Access-Control-Allow-Methods"
	allowPrivate     = "Access-Control-Allow-Private-Network"
	exposeHeaders    = "Access-Control-Expose-Headers"
	maxAge           = "Access-Control-Max-Age"
	requestMethod    = "Access-Control-Request-Method"
	requestHeaders   = "Access-Control-Request-Headers"
	requestPrivate   = "Access-Control-Request-Private-Network"
	vary             = "vary"
)

// Kind is the plugin.
func Kind() policy.Kind {
	return policy.Kind{Schema: schema(), Compile: compile}
}

func schema() spec.PluginSchema {
	texts := func(name string) spec.Schema {
		return spec.Schema{Name: name, Type: spec.Array, Elements: &spec.Schema{Type: spec.String}}
	}
	off := func(name string) spec.Schema {
		return spec.Schema{Name: name, Type: spec.Boolean, Required: true, Default: false}
	}
	methods := []any{"GET", "HEAD", "PUT", "PATCH", "POST", "DELETE", "OPTIONS", "TRACE", "CONNECT"}
	return spec.PluginSchema{
		Name:       Name,
		NoConsumer: true, // a preflight request carries no credentials
		Fields: []spec.Schema{
			texts("origins"),
			texts("headers"),
			texts("exposed_headers"),
			{Name: "methods", Type: spec.Array, Default: methods, Elements: &spec.Schema{Type: spec.String, OneOf: methods}},
			{Name: "max_age", Type: spec.Number},
			off("credentials"),
			off("private_network"),
			off("preflight_continue"),
			{Name: "allow_origin_absent", Type: spec.Boolean, OmitEmpty: true},
			filterSchema(),
		},
		Verify: verify,
	}
}

func verify(conf map[string]any) []spec.FieldError {
	var bad []spec.FieldError
	list, _ := conf["origins"].([]any)
	for i, x := range list {
		text, _ := x.(string)
		if _, err := parseOrigin(text); err != nil {
			bad = append(bad, spec.FieldError{Field: "origins." + strconv.Itoa(i+1), Message: "'" + text + "' is not a valid regex"})
		}
	}
	if record, ok := conf["gateway_api"].(map[string]any); ok {
		var f filter
		if err := spec.Bind(record, &f); err != nil {
			return append(bad, spec.FieldError{Field: "gateway_api", Message: err.Error()})
		}
		_, wrong := f.compile()
		bad = append(bad, wrong...)
	}
	return bad
}

type config struct {
	Origins           []string `json:"origins"`
	Headers           []string `json:"headers"`
	ExposedHeaders    []string `json:"exposed_headers"`
	Methods           []string `json:"methods"`
	MaxAge            *float64 `json:"max_age"`
	Credentials       bool     `json:"credentials"`
	PrivateNetwork    bool     `json:"private_network"`
	PreflightContinue bool     `json:"preflight_continue"`
	AllowOriginAbsent *bool    `json:"allow_origin_absent"`
	GatewayAPI        *filter  `json:"gateway_api"`
}

// plugin is a compiled config. Immutable.
type plugin struct {
	config
	origins   origins
	headers   string
	exposed   string
	methods   string
	age       string
	preflight policy.State[bool] // the request was one, and Header has nothing to add
}

func compile(_ *policy.Env, p *spec.Plugin) (policy.Instance, error) {
	x := &plugin{preflight: policy.NewState[bool]()}
	if err := spec.Bind(p.Config, &x.config); err != nil {
		return policy.Instance{}, fmt.Errorf("compiling cors: %w", err)
	}
	if x.GatewayAPI != nil {
		g, bad := x.GatewayAPI.compile()
		if len(bad) > 0 {
			return policy.Instance{}, fmt.Errorf("compiling cors: config.%s: %s", bad[0].Field, bad[0].Message)
		}
		return policy.Instance{Access: g.access, Header: g.header}, nil
	}
	var err error
	if x.origins, err = parseOrigins(x.Origins); err != nil {
		return policy.Instance{}, fmt.Errorf("compiling cors: config.origins: %w", err)
	}
	x.headers = strings.Join(x.Headers, ",")
	x.exposed = strings.Join(x.ExposedHeaders, ",")
	x.methods = strings.Join(x.Methods, ",")
	if x.MaxAge != nil {
		x.age = strconv.FormatFloat(*x.MaxAge, 'f', -1, 64)
	}
	return policy.Instance{Access: x.access, Header: x.header}, nil
}

// isPreflight: a browser asks whether it may send another request.
func isPreflight(r *exchange.Request) bool {
	return r.Method == http.MethodOptions && r.Fields.Has("Origin") && r.Fields.Has(requestMethod)
}

func (x *plugin) access(c *policy.Context) *policy.Reply {
	r := &c.X.Request
	if !isPreflight(r) {
		return nil
	}
	*x.preflight.Of(c) = true
	if x.PreflightContinue {
		return nil // the upstream answers, and what it says goes
	}
	var f exchange.Fields
	x.allow(r, &f)
	if x.headers != "" {
		f.Set(allowHeaders, x.headers)
	} else if asked := r.Fields.Get(requestHeaders); asked != "" {
		f.Set(allowHeaders, asked)
	}
	if x.methods != "" {
		f.Set(allowMethods, x.methods)
	}
	if x.age != "" {
		f.Set(maxAge, x.age)
	}
	if x.PrivateNetwork && r.Fields.Get(requestPrivate) == "true" {
		f.Set(allowPrivate, "true")
	}
	reply := &policy.Reply{Status: http.StatusOK, Body: []byte{}}
	for line := range f.All() {
		reply.Fields = append(reply.Fields, line)
	}
	return reply
}

func (x *plugin) header(c *policy.Context) {
	if x.preflight.Peek(c) != nil {
		return
	}
	f := &c.X.Response.Fields
	x.allow(&c.X.Request, f)
	if x.exposed != "" {
		f.Set(exposeHeaders, x.exposed)
	}
}

// allow says which origin may read the answer, and whether with credentials.
func (x *plugin) allow(r *exchange.Request, f *exchange.Fields) {
	origin, asked := r.Fields.Lookup("Origin")
	if !asked && x.AllowOriginAbsent != nil && !*x.AllowOriginAbsent {
		return // not a browser's request from elsewhere: nothing to say
	}
	allowed, anyone := x.origins.judge(origin, asked)
	if !x.origins.all {
		addVary(f)
	}
	if allowed == "" {
		// Why: what the upstream allows must not widen what this plugin was told.
		f.Del(allowOrigin)
	} else {
		f.Set(allowOrigin, allowed)
	}
	if !x.Credentials {
		return
	}
	if anyone {
		if origin == "" {
			return
		}
		// "*" does not go with credentials: the origin is named instead.
		f.Set(allowOrigin, origin)
		addVary(f)
	}
	f.Set(allowCredentials, "true")
}

// addVary keeps caches from giving one origin's answer to another.
func addVary(f *exchange.Fields) {
	for v := range f.Values(vary) {
		for name := range strings.SplitSeq(v, ",") {
			if exchange.EqualFold(strings.TrimSpace(name), "Origin") {
				return
			}
		}
	}
	f.Add(vary, "Origin")
}
