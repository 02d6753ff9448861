package policy

import (
	"encoding/json"
	"html"
	"net/http"
	"strconv"
	"strings"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// Content types of the bodies that are made here.
const (
	TypeJSON  = "application/json; charset=utf-8"
	TypeHTML  = "text/html; charset=utf-8"
	TypeXML   = "application/xml; charset=utf-8"
	TypePlain = "text/plain; charset=utf-8"
	typeGRPC  = "application/grpc"
)

// ErrorReply is an answer that says message, or what the status itself means when
// message is empty.
func ErrorReply(status int, message string) *Reply {
	if message == "" {
		message = StatusText(status)
	}
	return &Reply{Status: status, Message: message}
}

// StatusText is the message of an error that has nothing more precise to say.
func StatusText(status int) string {
	switch status {
	case http.StatusBadRequest:
		return "Bad request"
	case http.StatusNotFound:
		return "Not found"
	case http.StatusMethodNotAllowed:
		return "Method not allowed"
	case http.StatusRequestHeaderFieldsTooLarge:
		return "Request header or cookie too large"
	case http.StatusNotImplemented:
		return "Not implemented"
	case http.StatusHTTPVersionNotSupported:
		return "HTTP version not supported"
	case http.StatusRequestTimeout:
		return "Request timeout"
	case http.StatusLengthRequired:
		return "Length required"
	case http.StatusPreconditionFailed:
		return "Precondition failed"
	case http.StatusRequestEntityTooLarge:
		return "Payload too large"
	case http.StatusRequestURITooLong:
		return "URI too long"
	case http.StatusExpectationFailed:
		return "Expectation failed"
	case 494:
		return "Request header or cookie too large"
	case http.StatusInternalServerError:
		return "An unexpected error occurred"
	case http.StatusBadGateway:
		return "An invalid response was received from the upstream server"
	case http.StatusServiceUnavailable:
		return "The upstream server is currently unavailable"
	case http.StatusGatewayTimeout:
		return "The upstream server is timing out"
	}
	return "The upstream server responded with " + strconv.Itoa(status)
}

// HasErrorPage says whether an empty answer of this status gets a negotiated body.
func HasErrorPage(status int) bool {
	switch status {
	case 400, 404, 405, 408, 411, 412, 413, 414, 417, 431, 494, 500, 501, 502, 503, 504, 505:
		return true
	}
	return false
}

// Page says that a reply has nothing more to say than its status. Clients of this
// format are used to two defaults: where they name no type, a reply of a plugin or
// of the router is JSON, and one that only stands for a status is plain text.
// 500 is left out because plugins that fail say just that, in JSON.
func (r *Reply) Page() bool {
	if r.Message == "" {
		return true
	}
	return r.Status != http.StatusInternalServerError && HasErrorPage(r.Status) && r.Message == StatusText(r.Status)
}

// RenderFor is the body of r for one request, and its Content-Type, "" for none.
// A reply with a Body of its own is taken as it is; for others the form is
// negotiated by Accept, and for those that only stand for a status by the
// request's own Content-Type when there is no Accept.
func RenderFor(r *Reply, req *exchange.Request, requestID string) (contentType string, body []byte) {
	if r.Body != nil {
		return r.ContentType, r.Body
	}
	accept, ok := req.Fields.Lookup("Accept")
	if !ok && r.Page() {
		accept = req.Fields.Get("Content-Type")
	}
	return Render(r, accept, requestID, req.Method)
}

// Render is the body of r for a client that accepts what accept says, the value of
// its Accept field or "" for none. The method is that of the request: HEAD is
// answered with the same length as GET, so the engine alone drops the body.
func Render(r *Reply, accept, requestID, _ string) (contentType string, body []byte) {
	message := r.Message
	if message == "" {
		message = StatusText(r.Status)
	}
	form := negotiate(accept)
	switch {
	case r.Page() && strings.HasPrefix(accept, typeGRPC):
		return TypeJSON, MessageBody(message)
	case r.Page() && accept == "":
		form = TypePlain
	}
	switch form {
	case typeGRPC:
		return "", []byte{} // a gRPC client reads the status alone
	case TypeHTML:
		return form, []byte("<!doctype html>\n<html>\n  <head>\n    <meta charset=\"utf-8\">\n    <title>Error</title>\n  </head>\n" +
			"  <body>\n    <h1>Error</h1>\n    <p>" + html.EscapeString(message) + ".</p>\n    <p>request_id: " + requestID + "</p>\n  </body>\n</html>\n")
	case TypeXML:
		return form, []byte("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<error>\n  <message>" + html.EscapeString(message) +
			"</message>\n  <requestid>" + requestID + "</requestid>\n</error>\n")
	case TypePlain:
		return form, []byte(message + "\nrequest_id: " + requestID + "\n")
	}
	return TypeJSON, []byte("{\n  \"message\":" + quote(message) + ",\n  \"request_id\":\"" + requestID + "\"\n}")
}

// MessageBody is {"message":"..."} without white space and without a request id,
// the form of answers that a document's author wrote.
func MessageBody(message string) []byte {
	return []byte(`{"message":` + quote(message) + `}`)
}

// quote is s as a JSON string, with <, > and & as they are.
func quote(s string) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		return `""` // a string always encodes
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// negotiate picks the form of a body by an Accept value: the known type with the
// highest quality, the first among equals, JSON when none is known. Media types
// are compared as they are written, in lower case, as clients of this format see it.
func negotiate(accept string) string {
	best, form := 0.0, TypeJSON
	for part := range strings.SplitSeq(accept, ",") {
		media, params, _ := strings.Cut(part, ";")
		q := quality(params)
		if q <= best {
			continue
		}
		switch strings.TrimSpace(media) {
		case "application/json", "application/*", "*/*":
			best, form = q, TypeJSON
		case "text/html":
			best, form = q, TypeHTML
		case "application/xml":
			best, form = q, TypeXML
		case "text/plain", "text/*":
			best, form = q, TypePlain
		case typeGRPC:
			best, form = q, typeGRPC
		}
	}
	return form
}

// quality is the q parameter of a media range, 1 when there is none that can be read.
func quality(params string) float64 {
	for p := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(p, "=")
		if exchange.EqualFold(strings.TrimSpace(name), "q") {
			if q, err := strconv.ParseFloat(strings.TrimSpace(value), 64); err == nil && q >= 0 && q <= 1 {
				return q
			}
		}
	}
	return 1
}

// Charset is a response's Content-Type with the character set that this format
// adds to the textual types which name none. Redirects of status 301 and 302 keep
// theirs, whatever it is.
func Charset(status int, contentType string) string {
	if status == http.StatusMovedPermanently || status == http.StatusFound {
		return contentType
	}
	switch contentType {
	case "text/html", "text/xml", "text/plain", "text/vnd.wap.wml", "application/javascript", "application/rss+xml":
		return contentType + "; charset=UTF-8"
	}
	return contentType
}
