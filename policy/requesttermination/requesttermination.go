// Package requesttermination is the plugin request-termination: it answers
// requests here, with a status and a body that the document gives or with a
// picture of the request itself.
package requesttermination

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/routing/spec"
)

// Name is the plugin's name in documents.
const Name = "request-termination"

// Kind is the plugin.
func Kind() policy.Kind {
	return policy.Kind{
		Schema: spec.PluginSchema{
			Name: Name,
			Fields: []spec.Schema{
				{Name: "status_code", Type: spec.Integer, Default: 503.0, Required: true, Between: &[2]float64{100, 599}},
				{Name: "message", Type: spec.String},
				{Name: "content_type", Type: spec.String},
				{Name: "body", Type: spec.String},
				{Name: "echo", Type: spec.Boolean, Default: false, Required: true},
				{Name: "trigger", Type: spec.String},
			},
			Verify: verify,
		},
		Compile: compile,
	}
}

// verify refuses what cannot be sent as the answer to a request.
func verify(config map[string]any) []spec.FieldError {
	var problems []spec.FieldError
	refuse := func(field, format string, a ...any) {
		problems = append(problems, spec.FieldError{Field: field, Message: fmt.Sprintf(format, a...)})
	}
	if status, _ := config["status_code"].(float64); status >= 100 && status < 200 {
		refuse("status_code", "%v is an interim status, which does not end a request; expected 200 to 599", status)
	}
	_, hasMessage := config["message"].(string)
	_, hasBody := config["body"].(string)
	_, hasType := config["content_type"].(string)
	if hasMessage && (hasType || hasBody) {
		refuse("", "message cannot be used with content_type or body")
	}
	if hasType && !hasBody {
		refuse("", "content_type requires a body")
	}
	if contentType, _ := config["content_type"].(string); strings.ContainsFunc(contentType, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		refuse("content_type", "the value holds a control character; take it out")
	}
	return problems
}

// terminator is a compiled config. Immutable.
type terminator struct {
	reply   *policy.Reply // what is answered without echo
	trigger string
	message string
	node    nodeEcho
}

func compile(env *policy.Env, p *spec.Plugin) (policy.Instance, error) {
	status, ok := p.Config["status_code"].(float64)
	if !ok {
		status = http.StatusServiceUnavailable
	}
	message, _ := p.Config["message"].(string)
	if message == "" {
		message = defaultMessage(int(status))
	}
	t := &terminator{reply: fixedReply(int(status), message, p.Config), message: message}
	t.trigger, _ = p.Config["trigger"].(string)
	access := func(*policy.Context) *policy.Reply { return t.reply }
	if echo, _ := p.Config["echo"].(bool); echo {
		hostname, err := os.Hostname()
		if err != nil {
			return policy.Instance{}, fmt.Errorf("compiling request-termination: reading the host's name for echo: %w", err)
		}
		t.node = nodeEcho{NodeID: env.Node.ID, WorkerPID: os.Getpid(), Hostname: hostname}
		access = t.echo
	}
	return policy.Instance{Access: func(c *policy.Context) *policy.Reply {
		if !t.triggered(c) {
			return nil
		}
		return access(c)
	}}, nil
}

// triggered says whether the request is one to answer: any, or those that have the
// trigger as a field or a query argument.
func (t *terminator) triggered(c *policy.Context) bool {
	if t.trigger == "" || c.X.Request.Fields.Has(t.trigger) {
		return true
	}
	for pair := range strings.SplitSeq(c.X.Request.Query, "&") {
		if name, _, _ := strings.Cut(pair, "="); pair != "" && unescape(name) == t.trigger {
			return true
		}
	}
	return false
}

// fixedReply is the answer by a config: its body, its message, or what the status
// says by itself. Replies are shared by requests and never changed.
func fixedReply(status int, message string, config map[string]any) *policy.Reply {
	reply := &policy.Reply{Status: status, Body: []byte{}}
	body, hasBody := config["body"].(string)
	switch {
	case status == http.StatusNoContent || status == http.StatusNotModified:
	case hasBody:
		reply.Body, reply.ContentType = []byte(body), policy.TypeJSON
		if t, _ := config["content_type"].(string); t != "" {
			reply.ContentType = policy.Charset(status, t)
		}
	case message != "":
		reply.Body, reply.ContentType = policy.MessageBody(message), policy.TypeJSON
	case policy.HasErrorPage(status):
		return policy.ErrorReply(status, "")
	default:
		if title := pageTitle(status); title != "" {
			title = strconv.Itoa(status) + " " + title
			reply.Body = []byte("<html>\r\n<head><title>" + title + "</title></head>\r\n<body>\r\n<center><h1>" + title + "</h1></center>\r\n</body>\r\n</html>\r\n")
			reply.ContentType = policy.Charset(status, "text/html")
		}
	}
	return reply
}

// defaultMessage is what a config without message and body says, "" for nothing.
func defaultMessage(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "Unauthorized"
	case http.StatusNotFound:
		return "Not found"
	case http.StatusMethodNotAllowed:
		return "Method not allowed"
	case http.StatusInternalServerError:
		return "An unexpected error occurred"
	case http.StatusBadGateway:
		return "Bad Gateway"
	case http.StatusServiceUnavailable:
		return "Service unavailable"
	}
	return ""
}

// pageTitle names the statuses that are shown as a small HTML page.
func pageTitle(status int) string {
	switch status {
	case 301, 302, 303, 307, 308, 402, 403, 406, 409, 410, 415, 421, 429, 501, 505, 507:
		return http.StatusText(status)
	case 416:
		return "Requested Range Not Satisfiable"
	}
	return ""
}
