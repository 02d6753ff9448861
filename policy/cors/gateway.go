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

// filter is config.gateway_api: the fields of Gateway API's CORS filter, which differ from
// the plugin's own in what an origin, a star and nothing at all mean.
type filter struct {
	Origins     []string `json:"allow_origins"`
	Credentials bool     `json:"allow_credentials"`
	Methods     []string `json:"allow_methods"`
	Headers     []string `json:"allow_headers"`
	Exposed     []string `json:"expose_headers"`
	MaxAge      int      `json:"max_age"`
}

func filterSchema() spec.Schema {
	texts := func(name string) spec.Schema {
		return spec.Schema{Name: name, Type: spec.Array, Elements: &spec.Schema{Type: spec.String}}
	}
	return spec.Schema{Name: "gateway_api", Type: spec.Record, OmitEmpty: true, Fields: []spec.Schema{
		texts("allow_origins"),
		{Name: "allow_credentials", Type: spec.Boolean, Required: true, Default: false},
		texts("allow_methods"),
		texts("allow_headers"),
		texts("expose_headers"),
		{Name: "max_age", Type: spec.Integer, Required: true, Default: 5.0, Between: &[2]float64{0, 2147483647}},
	}}
}

// gateway is a compiled filter. Immutable.
type gateway struct {
	filter
	all                bool // any origin
	origins            []allowed
	methods, headers   string // "" for none
	anyMethod, anyName bool   // what the browser asks for
	exposed, age       string
}

// allowed is one origin, or those of a domain.
type allowed struct {
	scheme, port string
	host         string // with a dot in front for all beneath it, "" for any
	wild         bool
}

// parseAllowed reads <scheme>://<host>[:<port>], whose host may begin with a star.
func parseAllowed(text string) (allowed, error) {
	wrong := fmt.Errorf("expected '*' or http(s)://<host>[:<port>], whose host may be or begin with '*', got %q", text)
	o, ok := splitOrigin(text)
	if !ok {
		return allowed{}, wrong
	}
	if rest, wild := strings.CutPrefix(o.host, "*"); wild {
		o.host, o.wild = rest, true
	}
	if strings.Contains(o.host, "*") || o.host == "" && !o.wild || o.wild && o.host != "" && o.host[0] != '.' {
		return allowed{}, wrong
	}
	return o, nil
}

// splitOrigin takes an origin apart; a port that the scheme has anyway is filled in.
func splitOrigin(text string) (allowed, bool) {
	scheme, rest, ok := strings.Cut(strings.ToLower(text), "://")
	o := allowed{scheme: scheme, host: rest, port: map[string]string{"http": "80", "https": "443"}[scheme]}
	if !ok || o.port == "" {
		return o, false
	}
	if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, ']') {
		n, err := strconv.ParseUint(rest[i+1:], 10, 16)
		if o.host, o.port = rest[:i], rest[i+1:]; err != nil || n == 0 {
			return o, false
		}
	}
	return o, o.host != "" && !strings.ContainsAny(o.host, "/?#@ ")
}

func (a *allowed) fits(o *allowed) bool {
	switch {
	case a.scheme != o.scheme || a.port != o.port:
		return false
	case !a.wild:
		return a.host == o.host
	}
	return len(o.host) > len(a.host) && strings.HasSuffix(o.host, a.host)
}

func (f *filter) compile() (*gateway, []spec.FieldError) {
	g := &gateway{filter: *f, age: strconv.Itoa(f.MaxAge)}
	var bad []spec.FieldError
	for i, text := range f.Origins {
		if text == "*" {
			g.all = true
			continue
		}
		o, err := parseAllowed(text)
		if err != nil {
			bad = append(bad, spec.FieldError{Field: "gateway_api.allow_origins." + strconv.Itoa(i+1), Message: err.Error()})
		}
		g.origins = append(g.origins, o)
	}
	for _, x := range []struct {
		name  string
		texts []string
	}{{"allow_methods", f.Methods}, {"allow_headers", f.Headers}, {"expose_headers", f.Exposed}} {
		for i, text := range x.texts {
			if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == ',' || r >= 0x7f }) {
				bad = append(bad, spec.FieldError{Field: "gateway_api." + x.name + "." + strconv.Itoa(i+1), Message: fmt.Sprintf("expected one name, got %q", text)})
			}
		}
	}
	g.methods, g.anyMethod = list(f.Methods)
	g.headers, g.anyName = list(f.Headers)
	star := false
	if g.exposed, star = list(f.Exposed); star && f.Credentials {
		g.exposed = "" // with credentials a star would be the name of a field
	}
	return g, bad
}

// list is a list as a field has it, and whether a star is in it.
func list(texts []string) (value string, star bool) {
	for _, text := range texts {
		if text == "*" {
			return "*", true
		}
	}
	return strings.Join(texts, ", "), false
}

// admit says which origin may read the answer, "" for none.
func (g *gateway) admit(r *exchange.Request) string {
	asking, asked := r.Fields.Lookup("Origin")
	if !asked || asking == "" {
		return ""
	}
	if g.all {
		if g.Credentials {
			return asking
		}
		return "*"
	}
	o, ok := splitOrigin(asking)
	for i := range g.origins {
		if ok && g.origins[i].fits(&o) {
			return asking
		}
	}
	return ""
}

func (g *gateway) access(c *policy.Context) *policy.Reply {
	r := &c.X.Request
	if !isPreflight(r) {
		return nil
	}
	var f exchange.Fields
	if g.mark(r, &f) {
		g.answer(&f, allowMethods, g.methods, g.anyMethod, r.Fields.Get(requestMethod))
		g.answer(&f, allowHeaders, g.headers, g.anyName, r.Fields.Get(requestHeaders))
		f.Set(maxAge, g.age)
	}
	reply := &policy.Reply{Status: http.StatusOK, Body: []byte{}}
	for line := range f.All() {
		reply.Fields = append(reply.Fields, line)
	}
	return reply
}

// answer says what is allowed: with credentials a star would allow nothing, so that
// what was asked for is named.
func (g *gateway) answer(f *exchange.Fields, name, value string, star bool, asked string) {
	if star && g.Credentials {
		value = asked
	}
	if value != "" {
		f.Set(name, value)
	}
}

func (g *gateway) header(c *policy.Context) {
	r := &c.X.Request
	if isPreflight(r) {
		return // access has answered it
	}
	f := &c.X.Response.Fields
	// What the service allows must not widen what the filter was told.
	f.Del(allowOrigin)
	f.Del(allowCredentials)
	g.mark(r, f)
}

// mark adds what is said of every answer, and says whether its origin may read it.
func (g *gateway) mark(r *exchange.Request, f *exchange.Fields) bool {
	if !g.all || g.Credentials {
		addVary(f)
	}
	origin := g.admit(r)
	if origin == "" {
		return false
	}
	f.Set(allowOrigin, origin)
	if g.Credentials {
		f.Set(allowCredentials, "true")
	}
	if g.exposed != "" {
		f.Set(exposeHeaders, g.exposed)
	}
	return true
}
