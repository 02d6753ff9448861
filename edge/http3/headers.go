package http3

import (
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/quic-go/qpack"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/exchange/wire"
)

// section is the header section of a request in the making. What is wrong is noted and
// judged at the end.
type section struct {
	st        *stream
	size      int
	lines     int // cookie crumbs count as one
	plain     bool
	malformed bool
	short     bool // the list was cut
	status    int

	scheme, authority, host string
	has                     pseudo
	hosts, lengths          int
	length                  string
	crumbs                  []string
}

// pseudo says which pseudo fields came.
type pseudo uint8

const (
	hasMethod pseudo = 1 << iota
	hasScheme
	hasAuthority
	hasPath
)

// cut refuses a list that is too long: what is missing cannot be told from what came.
func (s *section) cut() {
	s.short = true
	s.status = http.StatusRequestHeaderFieldsTooLarge
}

// decode takes the fields of a header section, up to the limit of a list.
func (s *section) decode(p []byte) error {
	var decoder qpack.Decoder
	next := decoder.Decode(p)
	for {
		f, err := next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if s.size += len(f.Name) + len(f.Value) + 32; s.size > s.st.c.e.set.HeaderList {
			s.cut()
			return nil
		}
		s.field(f.Name, f.Value)
	}
}

func (s *section) field(name, value string) {
	switch {
	case !wire.Plain(value):
		s.malformed = true
	case strings.HasPrefix(name, ":"):
		s.pseudo(name, value)
	case !wire.IsLowerToken(name):
		s.malformed = true
	default:
		s.plain = true
		s.plainField(name, value)
	}
}

// pseudo takes a pseudo field (RFC 9114, section 4.3).
func (s *section) pseudo(name, value string) {
	var which pseudo
	q := &s.st.x.Request
	switch name {
	case ":method":
		which, q.Method = hasMethod, value
	case ":scheme":
		which, s.scheme = hasScheme, value
	case ":authority":
		which, s.authority = hasAuthority, value
	case ":path":
		which, q.Target = hasPath, value
	}
	if which == 0 || s.plain || s.has&which != 0 {
		s.malformed = true
	}
	s.has |= which
}

// plainField takes a field of a request, and keeps those that frame it.
func (s *section) plainField(name, value string) {
	q := &s.st.x.Request
	if len(name)+len(value)+2 > s.st.c.e.set.Line && name != "cookie" {
		s.refuse(http.StatusRequestHeaderFieldsTooLarge)
	}
	if value != "" && (space(value[0]) || space(value[len(value)-1])) {
		s.refuse(http.StatusBadRequest)
	}
	s.lines++
	switch name {
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade":
		s.malformed = true // RFC 9114, section 4.2
		return
	case "te":
		s.malformed = s.malformed || !exchange.EqualFold(value, "trailers")
	case "host":
		s.host = value
		s.hosts++
		return
	case "content-length":
		s.length = value
		s.lengths++
		return
	case "expect":
		if !exchange.EqualFold(value, "100-continue") {
			s.refuse(http.StatusExpectationFailed)
		}
		q.Expect100 = true
		return
	case "cookie": // RFC 9114, section 4.2.1
		s.crumbs = append(s.crumbs, value)
		if len(s.crumbs) > 1 {
			s.lines--
			return
		}
	}
	q.Fields.Add(name, value)
}

func (s *section) refuse(status int) {
	if s.status == 0 {
		s.status = status
	}
}

// judge decides whether there is a request at all, and what it is refused with. What
// HTTP/1.1 could not carry without ambiguity ends here.
func (s *section) judge() bool {
	x := &s.st.x
	q := &x.Request
	if len(s.crumbs) > 1 {
		q.Fields.Set("cookie", strings.Join(s.crumbs, "; "))
	}
	q.Path, q.Query, q.HasQuery = strings.Cut(q.Target, "?")
	s.authorize()
	if s.malformed {
		return false
	}
	if s.short {
		x.Refused = s.status
		if q.Method == "" {
			q.Method = http.MethodGet
		}
		q.Target, q.Path, q.Query, q.HasQuery = "/", "/", "", false
		return true
	}
	if !s.complete() {
		return false
	}
	q.Host = s.authority
	switch {
	case q.Method == http.MethodConnect || q.Method == http.MethodTrace:
		x.Refused = http.StatusMethodNotAllowed
	case q.Method == "PRI" || !wire.IsToken(q.Method):
		x.Refused = http.StatusBadRequest
	case len(q.Target) > s.st.c.e.set.Target:
		x.Refused = http.StatusRequestURITooLong
	case !goodTarget(q.Method, q.Target) || !wire.ValidHost(q.Host):
		x.Refused = http.StatusBadRequest
	case s.status != 0:
		x.Refused = s.status
	case s.lines > s.st.c.e.set.Fields:
		x.Refused = http.StatusRequestHeaderFieldsTooLarge
	}
	s.judgeLength()
	return true
}

// judgeLength reads the announced length.
func (s *section) judgeLength() {
	st := s.st
	if s.lengths == 0 {
		return
	}
	n, ok := wire.ContentLength(s.length)
	if !ok || s.lengths > 1 {
		st.x.Refused = http.StatusBadRequest
		return
	}
	st.declared = n
	st.x.Request.LengthGiven = true
	if limit := st.c.e.set.MaxBody; limit > 0 && n > limit && st.x.Refused == 0 {
		st.x.Refused = http.StatusRequestEntityTooLarge
	}
}

// authorize takes the Host field for an authority that is missing; both must not differ.
func (s *section) authorize() {
	switch {
	case s.hosts > 1, s.hosts == 1 && s.has&hasAuthority != 0 && s.host != s.authority:
		s.malformed = true
	case s.has&hasAuthority == 0:
		s.authority = s.host
	}
	if s.authority == "" && !s.short || strings.Contains(s.authority, "@") {
		s.malformed = true // RFC 9114, section 4.3.1
	}
}

// complete says whether the pseudo fields are those of a request.
func (s *section) complete() bool {
	q := &s.st.x.Request
	if q.Method == http.MethodConnect {
		return s.has == hasMethod|hasAuthority
	}
	const needed = hasMethod | hasScheme | hasPath
	if s.has&needed != needed || s.scheme != "http" && s.scheme != "https" {
		return false
	}
	return q.Target != "" && (q.Target[0] == '/' || q.Target == "*")
}

// trailer decodes the trailer section of a request.
func (st *stream) trailer(p []byte) error {
	var decoder qpack.Decoder
	next := decoder.Decode(p)
	size := 0
	for {
		f, err := next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			st.c.fail(codeDecompression, "a trailer section cannot be decoded")
			return err
		}
		if size += len(f.Name) + len(f.Value) + 32; size > st.c.e.set.HeaderList {
			return errMalformed
		}
		if strings.HasPrefix(f.Name, ":") || !wire.IsLowerToken(f.Name) || !wire.Plain(f.Value) {
			return errMalformed
		}
		if !wire.ForbiddenTrailer(f.Name) {
			st.x.Request.Trailer.Add(f.Name, f.Value)
		}
	}
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

func space(c byte) bool { return c == ' ' || c == '\t' }
