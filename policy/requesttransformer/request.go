package requesttransformer

import (
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/policy"
)

var errDotSegment = errors.New("request-transformer: a value of the request would have put a dot segment into the path")

// changeURI replaces the path and keeps the query, after one that the document gives.
func (t *transformer) changeURI(c *policy.Context, e *env) *policy.Reply {
	if t.uri == nil {
		return nil
	}
	uri, constant := t.uri.constant()
	if !constant {
		uri = t.uri.render(e, safePath)
	}
	path, query, found := strings.Cut(uri, "?")
	if !constant && dotSegment(path) { // nobody matched or authorised what that would lead to
		return &policy.Reply{Status: http.StatusBadRequest, Message: "Bad request", Err: errDotSegment}
	}
	c.UpstreamURI = path
	if found {
		if c.X.Request.Query != "" {
			query += "&" + c.X.Request.Query
		}
		c.SetQuery(query, query != "")
	}
	return nil
}

// dotSegment says whether a segment of path is . or .., escaped or not.
func dotSegment(path string) bool {
	for s := range strings.SplitSeq(path, "/") {
		s, _, _ = strings.Cut(s, ";")
		if s = unescape(s); s == "." || s == ".." {
			return true
		}
	}
	return false
}

// changeMethod sets the method. A form that becomes a GET, HEAD or TRACE is given
// to the upstream in the query too, since few read a body there.
func (t *transformer) changeMethod(c *policy.Context) *policy.Reply {
	if t.method == "" {
		return nil
	}
	req := &c.X.Request
	*t.client.Of(c), req.Method = req.Method, t.method
	switch t.method {
	case http.MethodGet, http.MethodHead, http.MethodTrace:
	default:
		return nil
	}
	if contentOf(&req.Fields) != form || !req.HasBody() {
		return nil
	}
	body, reply := readBody(c)
	if reply != nil || len(body) == 0 {
		return reply
	}
	query := parseArgs(req.Query)
	query.list = append(query.list, parseArgs(string(body)).list...)
	setArgs(c, query)
	return nil
}

// restoreMethod gives the request its own method back before the response is sent:
// whether a body follows a head is settled between the client and the gateway by
// the method that the client used. A response to HEAD has no body to give to a
// client that sent something else.
func (t *transformer) restoreMethod(c *policy.Context) {
	method := *t.client.Of(c)
	if method == "" {
		return // answered before this plugin's turn
	}
	c.X.Request.Method = method
	if r := &c.X.Response; r.FromUpstream && t.method == http.MethodHead && method != http.MethodHead {
		if closer, ok := r.Body.(io.Closer); ok {
			_ = closer.Close() // nothing is left to read there
		}
		r.Body, r.Length = nil, 0
	}
}

// changeQuery changes the query. One that nothing applies to keeps its spelling.
func (s *section) changeQuery(c *policy.Context, values []string) {
	query := parseArgs(c.X.Request.Query)
	if s.changeArgs(query, values, true) {
		setArgs(c, query)
	}
}

// setArgs makes a the query; one without pairs is none.
func setArgs(c *policy.Context, a *args) {
	query := a.sorted().encode()
	c.SetQuery(query, query != "")
}

// changeArgs changes a query or a form, and says whether anything applied. Only
// additions apply to a form that was not there.
func (s *section) changeArgs(a *args, values []string, present bool) bool {
	changed := false
	if present {
		for _, name := range s.remove {
			changed = a.remove(name) || changed
		}
		for _, o := range s.rename {
			changed = a.rename(o.name, o.text(values)) || changed
		}
		for _, o := range s.replace {
			changed = a.replace(o.name, o.text(values)) || changed
		}
	}
	for _, o := range s.add {
		changed = a.add(o.name, o.text(values)) || changed
	}
	for _, o := range s.append {
		changed = a.append(o.name, o.text(values)) || changed
	}
	return changed
}

// changeFields changes the header section. Host is not a line of it: it can be
// replaced or renamed, but neither removed nor doubled.
func (s *section) changeFields(c *policy.Context, values []string) {
	f := &c.X.Request.Fields
	for _, name := range s.remove {
		f.Del(name)
	}
	for _, o := range s.rename {
		to := o.value
		switch {
		case isHost(o.name):
			f.Set(to, c.X.Request.Host)
		case isHost(to):
			if v, ok := f.Lookup(o.name); ok {
				c.UpstreamHost = v
				f.Del(o.name)
			}
		case f.Has(o.name):
			if !exchange.EqualFold(o.name, to) {
				f.Del(to)
			}
			f.Rename(o.name, to)
		}
	}
	for _, o := range s.replace {
		value := safeValue(o.text(values))
		if isHost(o.name) {
			c.UpstreamHost = value
		} else if f.Has(o.name) {
			f.Set(spelling(f, o.name), value)
		}
	}
	for _, o := range s.add {
		if !isHost(o.name) && !f.Has(o.name) {
			f.Add(o.name, safeValue(o.text(values)))
		}
	}
	for _, o := range s.append {
		if !isHost(o.name) {
			f.Add(o.name, safeValue(o.text(values)))
		}
	}
}

func isHost(name string) bool { return exchange.EqualFold(name, "host") }

// spelling is name as the first of its lines writes it.
func spelling(f *exchange.Fields, name string) string {
	for x := range f.All() {
		if exchange.EqualFold(x.Name, name) {
			return x.Name
		}
	}
	return name
}
