package requesttermination

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/routing/spec"
)

// bodyLimit is the longest request body, in bytes, that is shown.
const bodyLimit = 1 << 20

// echo is the picture of a request: what was received, and what it matched.
type echo struct {
	Message string       `json:"message,omitempty"`
	Request requestEcho  `json:"request"`
	Route   *routeEcho   `json:"matched_route,omitempty"`
	Service *serviceEcho `json:"matched_service,omitempty"`
	Node    nodeEcho     `json:"kong"`
}

type nodeEcho struct {
	NodeID    string `json:"node_id"`
	WorkerPID int    `json:"worker_pid"`
	Hostname  string `json:"hostname"`
}

type requestEcho struct {
	Method   string         `json:"method"`
	Scheme   string         `json:"scheme"`
	Host     string         `json:"host"`
	Port     int            `json:"port"`
	Path     string         `json:"path"`
	Query    map[string]any `json:"query"`
	Headers  map[string]any `json:"headers"`
	RawBody  string         `json:"raw_body"`
	Captures captureEcho    `json:"uri_captures"`
}

type captureEcho struct {
	Unnamed []string          `json:"unnamed"`
	Named   map[string]string `json:"named"`
}

type idEcho struct {
	ID string `json:"id"`
}

type routeEcho struct {
	ID                      string              `json:"id"`
	Name                    string              `json:"name,omitempty"`
	Protocols               []string            `json:"protocols"`
	Methods                 []string            `json:"methods,omitempty"`
	Hosts                   []string            `json:"hosts,omitempty"`
	Paths                   []string            `json:"paths,omitempty"`
	Headers                 map[string][]string `json:"headers,omitempty"`
	SNIs                    []string            `json:"snis,omitempty"`
	HTTPSRedirectStatusCode int                 `json:"https_redirect_status_code"`
	RegexPriority           int                 `json:"regex_priority"`
	StripPath               bool                `json:"strip_path"`
	PathHandling            string              `json:"path_handling"`
	PreserveHost            bool                `json:"preserve_host"`
	RequestBuffering        bool                `json:"request_buffering"`
	ResponseBuffering       bool                `json:"response_buffering"`
	Service                 *idEcho             `json:"service,omitempty"`
	Tags                    []string            `json:"tags,omitempty"`
	CreatedAt               int64               `json:"created_at"`
	UpdatedAt               int64               `json:"updated_at"`
}

type serviceEcho struct {
	ID             string   `json:"id"`
	Name           string   `json:"name,omitempty"`
	Protocol       string   `json:"protocol"`
	Host           string   `json:"host"`
	Port           int      `json:"port"`
	Path           string   `json:"path,omitempty"`
	Retries        int      `json:"retries"`
	ConnectTimeout int      `json:"connect_timeout"`
	WriteTimeout   int      `json:"write_timeout"`
	ReadTimeout    int      `json:"read_timeout"`
	Enabled        bool     `json:"enabled"`
	Tags           []string `json:"tags,omitempty"`
	CreatedAt      int64    `json:"created_at"`
	UpdatedAt      int64    `json:"updated_at"`
}

// echo answers with the picture of the request.
func (t *terminator) echo(c *policy.Context) *policy.Reply {
	body, err := c.RequestBody(bodyLimit)
	if err != nil {
		reply := policy.ErrorReply(http.StatusBadRequest, "")
		if errors.Is(err, policy.ErrBodyTooLarge) {
			reply = policy.ErrorReply(http.StatusRequestEntityTooLarge, "")
		}
		if be, ok := errors.AsType[*exchange.BodyError](err); ok && be.Status != 0 {
			reply = policy.ErrorReply(be.Status, "")
		}
		reply.Err = err
		return reply
	}
	out, err := json.Marshal(echo{
		Message: t.message, Request: echoRequest(c, string(body)), Route: echoRoute(c.Route), Service: echoService(c.Service), Node: t.node,
	})
	if err != nil {
		return &policy.Reply{Status: http.StatusInternalServerError, Err: fmt.Errorf("writing the echo of a request: %w", err)}
	}
	return &policy.Reply{Status: t.reply.Status, Body: out, ContentType: policy.TypeJSON}
}

func echoRequest(c *policy.Context, body string) requestEcho {
	req := &c.X.Request
	host, _, _ := strings.Cut(req.Host, ":")
	e := requestEcho{
		Method: req.Method, Scheme: req.Scheme, Host: strings.ToLower(host), Port: int(c.X.Conn.Local.Port()), Path: req.Path, RawBody: body,
		Query: map[string]any{}, Headers: map[string]any{"host": req.Host},
		Captures: captureEcho{Unnamed: []string{}, Named: map[string]string{}},
	}
	for pair := range strings.SplitSeq(req.Query, "&") {
		if pair == "" {
			continue
		}
		name, value, found := strings.Cut(pair, "=")
		if found {
			more(e.Query, unescape(name), unescape(value))
		} else {
			more(e.Query, unescape(name), true)
		}
	}
	for f := range req.Fields.All() {
		more(e.Headers, strings.ToLower(f.Name), f.Value)
	}
	if req.LengthGiven {
		e.Headers["content-length"] = strconv.Itoa(len(body))
	}
	for _, group := range c.Captures {
		if strings.Trim(group.Name, "0123456789") == "" {
			e.Captures.Unnamed = append(e.Captures.Unnamed, group.Value)
		} else {
			e.Captures.Named[group.Name] = group.Value
		}
	}
	return e
}

// more adds a value of name: alone, or in a list when there are several.
func more(m map[string]any, name string, value any) {
	switch old := m[name].(type) {
	case nil:
		m[name] = value
	case []any:
		m[name] = append(old, value)
	default:
		m[name] = []any{old, value}
	}
}

func echoRoute(r *spec.Route) *routeEcho {
	if r == nil {
		return nil
	}
	e := &routeEcho{
		ID: r.ID, Name: r.Name, Protocols: r.Protocols, Methods: r.Methods, Hosts: r.Hosts, Paths: r.Paths,
		Headers: r.Headers, SNIs: r.SNIs, HTTPSRedirectStatusCode: r.HTTPSRedirectStatusCode, RegexPriority: r.RegexPriority,
		StripPath: r.StripPath, PathHandling: r.PathHandling, PreserveHost: r.PreserveHost, RequestBuffering: r.RequestBuffering,
		ResponseBuffering: r.ResponseBuffering, Tags: r.Tags, CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt,
	}
	if r.Service != "" {
		e.Service = &idEcho{ID: r.Service}
	}
	return e
}

func echoService(s *spec.Service) *serviceEcho {
	if s == nil {
		return nil
	}
	return &serviceEcho{
		ID: s.ID, Name: s.Name, Protocol: s.Protocol, Host: s.Host, Port: s.Port, Path: s.Path, Retries: s.Retries,
		ConnectTimeout: s.ConnectTimeout, WriteTimeout: s.WriteTimeout, ReadTimeout: s.ReadTimeout, Enabled: s.Enabled,
		Tags: s.Tags, CreatedAt: s.CreatedAt, UpdatedAt: s.UpdatedAt,
	}
}

// unescape decodes a query component; a malformed one stays as it is.
func unescape(s string) string {
	if u, err := url.QueryUnescape(s); err == nil {
		return u
	}
	return s
}
