package http2

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/exchange/wire"
)

// request fills the exchange. It answers the status to refuse the request with,
// 0 for a good one: what HTTP/1.1 could not carry without ambiguity, or what the
// library lets through although RFC 9113, section 8, does not, ends here.
func (e *Engine) request(x *exchange.Exchange, w http.ResponseWriter, r *http.Request) int {
	q := &x.Request
	q.Method, q.Scheme, q.Host, q.Version = r.Method, "http", r.Host, exchange.HTTP2
	if x.Conn.Secure() {
		q.Scheme = "https"
	}
	q.Target = r.RequestURI
	q.Path, q.Query, q.HasQuery = strings.Cut(q.Target, "?")
	q.Body = exchange.NoBody
	x.BytesIn += int64(len(q.Target) + len(q.Method) + len(q.Host))
	refused := e.fields(x, r.Header)
	switch {
	case q.Method == http.MethodConnect || q.Method == http.MethodTrace:
		return http.StatusMethodNotAllowed
	case q.Method == "PRI" || !wire.IsToken(q.Method):
		return http.StatusBadRequest
	case len(q.Target) > e.set.Target:
		return http.StatusRequestURITooLong
	case !goodTarget(q.Method, q.Target) || !wire.ValidHost(q.Host):
		return http.StatusBadRequest
	case refused != 0:
		return refused
	}
	return e.body(x, w, r)
}

// fields takes over the header section. The library has sorted it into a map;
// names are put into an order here so that equal requests are passed on as equal
// ones, and lines of one name stay in theirs.
func (e *Engine) fields(x *exchange.Exchange, header http.Header) (refused int) {
	lines := 0
	for _, name := range slices.Sorted(maps.Keys(header)) {
		values := header[name]
		lines += len(values)
		for _, v := range values {
			x.BytesIn += int64(len(name) + len(v) + 4)
			switch {
			case len(name)+len(v)+2 > e.set.Line && name != "Cookie": // its crumbs were joined, HeaderList bounds them
				refused = http.StatusRequestHeaderFieldsTooLarge
			case v != strings.Trim(v, " \t"): // RFC 9113, section 8.2.1
				refused = http.StatusBadRequest
			case name == "Expect": // the library has taken 100-continue out
				refused = http.StatusExpectationFailed
			case name != "Content-Length":
				x.Request.Fields.Add(name, v)
			}
		}
	}
	if lines > e.set.Fields {
		return http.StatusRequestHeaderFieldsTooLarge
	}
	return refused
}

// goodTarget accepts an origin-form target of visible ASCII without a fragment, and OPTIONS *.
func goodTarget(method, target string) bool {
	if target == "*" {
		return method == http.MethodOptions
	}
	if target == "" || target[0] != '/' {
		return false
	}
	for i := 0; i < len(target); i++ {
		if c := target[i]; c <= ' ' || c >= 0x7f || c == '#' {
			return false
		}
	}
	return true
}

// contentLength reads the field: digits only, once, at most 18 of them. -1 is no field.
func contentLength(values []string) (n int64, ok bool) {
	if len(values) == 0 {
		return -1, true
	}
	s := values[0]
	if len(values) > 1 || s == "" || len(s) > 18 {
		return 0, false
	}
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}
