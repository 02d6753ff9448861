package http2

import (
	"net/http"
	"strings"

	"github.com/keyway-edge/keyway/edge/exchange/wire"
)

// judgeRequest decides, when all fields are known, whether there is a request at all,
// and what it is refused with. What HTTP/1.1 could not carry without ambiguity ends here.
func (c *conn) judgeRequest() {
	s := &c.section
	x := &s.st.x
	q := &x.Request
	if s.cookies > 1 {
		q.Fields.Set("cookie", string(s.crumbs))
	}
	q.Path, q.Query, q.HasQuery = strings.Cut(q.Target, "?")
	s.authorize()
	if s.malformed || s.status == http.StatusRequestHeaderFieldsTooLarge && s.size > c.e.set.HeaderList {
		// The list was cut: what is missing cannot be told from what came after.
		x.Refused = s.status
		if q.Method == "" {
			q.Method = http.MethodGet
		}
		q.Target, q.Path = "/", "/"
		return
	}
	if !s.complete() {
		s.malformed = true
		return
	}
	q.Host = s.authority
	if s.has&hasProtocol != 0 {
		s.upgrade()
	}
	switch {
	case x.Refused != 0:
	case q.Method == http.MethodConnect || q.Method == http.MethodTrace:
		x.Refused = http.StatusMethodNotAllowed
	case q.Method == "PRI" || !wire.IsToken(q.Method):
		x.Refused = http.StatusBadRequest
	case len(q.Target) > c.e.set.Target:
		x.Refused = http.StatusRequestURITooLong
	case !goodTarget(q.Method, q.Target) || !wire.ValidHost(q.Host):
		x.Refused = http.StatusBadRequest
	case s.status != 0:
		x.Refused = s.status
	case s.lines > c.e.set.Fields:
		x.Refused = http.StatusRequestHeaderFieldsTooLarge
	}
	c.judgeLength()
}

// authorize takes the Host field for an authority that is missing; both must not differ.
func (s *section) authorize() {
	switch {
	case s.hosts > 1, s.hosts == 1 && s.has&hasAuthority != 0 && s.host != s.authority:
		s.malformed = true
	case s.has&hasAuthority == 0:
		s.authority = s.host
	}
	if strings.Contains(s.authority, "@") {
		s.malformed = true // RFC 9113, section 8.3.1
	}
}

// complete says whether the pseudo fields are those of a request.
func (s *section) complete() bool {
	q := &s.st.x.Request
	extended := s.has&hasProtocol != 0
	switch {
	case extended && (q.Method != http.MethodConnect || s.has&hasAuthority == 0 || s.ended || s.lengths > 0):
		return false // RFC 8441, section 4
	case !extended && q.Method == http.MethodConnect:
		return s.has == hasMethod|hasAuthority
	}
	const needed = hasMethod | hasScheme | hasPath
	if s.has&needed != needed || s.scheme != "http" && s.scheme != "https" {
		return false
	}
	return q.Target != "" && (q.Target[0] == '/' || q.Target == "*")
}

// goodTarget accepts an origin-form target of visible ASCII without a fragment, and OPTIONS *.
func goodTarget(method, target string) bool {
	if target == "*" {
		return method == http.MethodOptions
	}
	for i := 0; i < len(target); i++ {
		if c := target[i]; c <= ' ' || c >= 0x7f || c == '#' {
			return false
		}
	}
	return target != "" && target[0] == '/'
}

// judgeLength compares the announced length with what is known of the body.
func (c *conn) judgeLength() {
	s := &c.section
	st := s.st
	q := &st.x.Request
	declared := int64(-1)
	if s.lengths > 0 {
		var ok bool
		if declared, ok = wire.ContentLength(s.length); !ok || s.lengths > 1 || s.ended && declared > 0 {
			st.x.Refused = http.StatusBadRequest
			declared = -1
		}
	}
	st.declared = declared
	q.LengthGiven = declared >= 0
	switch {
	case s.ended:
		q.Length = 0
		return
	case c.e.set.MaxBody > 0 && declared > c.e.set.MaxBody && st.x.Refused == 0:
		st.x.Refused = http.StatusRequestEntityTooLarge
	}
	if st.key != "" {
		return // what follows is not the request's
	}
	q.Length = declared
	if st.x.Refused == 0 && declared != 0 {
		q.Body, q.StopBody = &st.body, st.stop
	}
}
