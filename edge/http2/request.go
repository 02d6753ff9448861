package http2

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/exchange/wire"
)

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

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
	lines := 0
	for name, values := range r.Header {
		lines += len(values)
		if name == "Content-Length" {
			continue
		}
		for _, v := range values {
			q.Fields.Add(name, v)
			x.BytesIn += int64(len(name) + len(v) + 4)
		}
	}
	x.BytesIn += int64(len(q.Target) + len(q.Method) + len(q.Host))
	switch {
	case q.Method == http.MethodConnect || q.Method == http.MethodTrace:
		return http.StatusMethodNotAllowed
	case len(q.Target) > e.set.Target:
		return http.StatusRequestURITooLong
	case lines > e.set.Fields:
		return http.StatusRequestHeaderFieldsTooLarge
	case !goodTarget(q.Method, q.Target) || !wire.ValidHost(q.Host):
		return http.StatusBadRequest
	}
	return e.body(x, w, r)
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

// body gives the exchange its body.
func (e *Engine) body(x *exchange.Exchange, w http.ResponseWriter, r *http.Request) int {
	q := &x.Request
	if lengths, ok := r.Header["Content-Length"]; ok && (len(lengths) != 1 || !digits(lengths[0])) {
		return http.StatusBadRequest
	}
	q.Length, q.LengthGiven = r.ContentLength, len(r.Header["Content-Length"]) == 1
	if r.Body == nil || r.Body == http.NoBody || q.Length == 0 {
		q.Length = 0
		return 0
	}
	if e.set.MaxBody > 0 && q.Length > e.set.MaxBody {
		return http.StatusRequestEntityTooLarge
	}
	q.Expect100 = exchange.EqualFold(r.Header.Get("Expect"), "100-continue")
	q.Fields.Del("Expect")
	q.Body = &body{x: x, r: r, rc: http.NewResponseController(w), idle: e.set.BodyIdle, limit: e.set.MaxBody}
	return 0
}

func digits(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != "" && len(s) < 19
}

// body reads a request body and turns its failures into the client's fault.
type body struct {
	x     *exchange.Exchange
	r     *http.Request
	rc    *http.ResponseController
	idle  time.Duration
	limit int64 // 0 for none
	read  int64
	done  bool
}

var errTooLarge = errors.New("it is longer than the node's limit of request bodies")

func (b *body) Read(p []byte) (int, error) {
	if b.done {
		return 0, io.EOF
	}
	_ = b.rc.SetReadDeadline(time.Now().Add(b.idle))
	n, err := b.r.Body.Read(p)
	b.read += int64(n)
	b.x.BytesIn += int64(n)
	if b.limit > 0 && b.read > b.limit {
		return n, &exchange.BodyError{Status: http.StatusRequestEntityTooLarge, Err: errTooLarge}
	}
	switch {
	case err == nil:
		return n, nil
	case err == io.EOF:
		b.done = true
		for name, values := range b.r.Trailer {
			for _, v := range values {
				b.x.Request.Trailer.Add(name, v)
			}
		}
		return n, io.EOF
	case b.r.Context().Err() != nil:
		return n, &exchange.BodyError{Err: err}
	}
	status := http.StatusBadRequest
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() {
		status = http.StatusRequestTimeout
	}
	return n, &exchange.BodyError{Status: status, Err: err}
}
