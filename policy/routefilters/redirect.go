package routefilters

import (
	"strconv"
	"strings"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/routing/spec"
)

// redirect answers with another place, of which each part that is not given is the request's.
type redirect struct {
	Scheme     string `json:"scheme"`
	Hostname   string `json:"hostname"`
	Port       int    `json:"port"` // 0 for what follows from the scheme or the listener
	Path       *path  `json:"path"`
	StatusCode int    `json:"status_code"`
}

func (r *redirect) access(c *policy.Context) *policy.Reply {
	return &policy.Reply{
		Status: r.StatusCode, Body: []byte{},
		Fields: []exchange.Field{{Name: "Location", Value: r.location(c)}},
	}
}

// location is where the client shall go.
func (r *redirect) location(c *policy.Context) string {
	req := &c.X.Request
	to := req.Path
	if r.Path != nil {
		// The route matched the path in this form: what is left of its prefix is in it too.
		to, _ = r.Path.apply(escape(squeeze(spec.NormalPath(to))))
	}
	if to == "" || to[0] != '/' {
		to = "/"
	}
	if req.HasQuery {
		query, _, _ := strings.Cut(req.Query, "#")
		to += "?" + query
	}
	host := r.Hostname
	if host == "" {
		host = c.ForwardedHost
	}
	if host == "" {
		return squeeze(to) // the client named no host, and two slashes would be the beginning of one
	}
	scheme := r.Scheme
	if scheme == "" {
		scheme = strings.ToLower(c.ForwardedProto)
	}
	if scheme != "http" && scheme != "https" {
		scheme = req.Scheme
	}
	if port := r.port(c, scheme); port != wellKnown(scheme) {
		host += ":" + strconv.Itoa(port)
	}
	return scheme + "://" + host + to
}

// port is the one that is given; else the scheme's, where that is given or is not the
// one of this connection, whose port is then not the client's; else the listener's.
func (r *redirect) port(c *policy.Context, scheme string) int {
	switch {
	case r.Port != 0:
		return r.Port
	case r.Scheme != "" || scheme != c.X.Request.Scheme:
		return wellKnown(scheme)
	}
	return c.ForwardedPort
}

func wellKnown(scheme string) int {
	if scheme == "https" {
		return 443
	}
	return 80
}

// path is how a path is changed.
type path struct {
	Full   string  `json:"full"`
	Prefix *prefix `json:"prefix"`
}

// prefix replaces whole segments at the beginning. A slash at its end says nothing.
type prefix struct {
	Match   string `json:"match"`
	Replace string `json:"replace"`
}

func (p *path) problems(field string) []spec.FieldError {
	switch {
	case p == nil:
		return nil
	case (p.Full == "") == (p.Prefix == nil):
		return []spec.FieldError{{Field: field, Message: "expected one of 'full' and 'prefix'"}}
	case p.Prefix != nil && p.Prefix.Replace != "" && p.Prefix.Replace[0] != '/':
		return []spec.FieldError{{Field: field + ".prefix.replace", Message: "should start with: /, or be empty to take the prefix away"}}
	}
	return nil
}

// compile brings the texts into the form in which paths are sent.
func (p *path) compile() {
	if p == nil {
		return
	}
	p.Full = escape(p.Full)
	if x := p.Prefix; x != nil {
		x.Match = strings.TrimSuffix(escape(spec.NormalPath(x.Match)), "/")
		x.Replace = strings.TrimSuffix(escape(x.Replace), "/")
	}
}

// apply answers the changed path; the path itself, and false, where its beginning is
// not the prefix to be replaced.
func (p *path) apply(from string) (string, bool) {
	switch {
	case p == nil:
		return from, false
	case p.Prefix == nil:
		return p.Full, true
	}
	rest, ok := strings.CutPrefix(from, p.Prefix.Match)
	if !ok || rest != "" && rest[0] != '/' {
		return from, false
	}
	if to := p.Prefix.Replace + rest; to != "" {
		return to, true
	}
	return "/", true
}

// squeeze makes one slash of several at the beginning and elsewhere.
func squeeze(path string) string {
	for strings.Contains(path, "//") {
		path = strings.ReplaceAll(path, "//", "/")
	}
	return path
}

// escape escapes what no path may hold, a question mark among others; escapes stay.
func escape(path string) string {
	const digits = "0123456789ABCDEF"
	var b []byte
	for i := range len(path) {
		c := path[i]
		if c > ' ' && c < 0x7f && strings.IndexByte("\"#<>?\\^`{|}", c) < 0 {
			if b != nil {
				b = append(b, c)
			}
			continue
		}
		if b == nil {
			b = append(make([]byte, 0, len(path)+16), path[:i]...)
		}
		b = append(b, '%', digits[c>>4], digits[c&15])
	}
	if b == nil {
		return path
	}
	return string(b)
}
