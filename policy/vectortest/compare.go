package vectortest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/policy"
)

// gatewayFields are on recorded messages but made by the gateway around a plugin.
var gatewayFields = []string{
	"host", "connection", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-forwarded-path",
	"x-forwarded-prefix", "x-real-ip", "via", "x-kong-request-id", "kong-debug", "content-length", "transfer-encoding", "date",
	"x-kong-upstream-latency", "x-kong-proxy-latency", "x-kong-response-latency", "expect",
}

// values lists the lines of a message by lower-case name, without the gateway's own.
func values(lines [][2]string) map[string][]string {
	m := map[string][]string{}
	for _, l := range lines {
		if name := strings.ToLower(l[0]); !slices.Contains(gatewayFields, name) {
			m[name] = append(m[name], l[1])
		}
	}
	return m
}

func pairs(f *exchange.Fields) [][2]string {
	var out [][2]string
	for x := range f.All() {
		out = append(out, [2]string{x.Name, x.Value})
	}
	return out
}

// Each makes a check of every case, and reports those that fail it.
func (r *Recording) Each(t *testing.T, check func(c *Case) error) {
	t.Helper()
	passed := 0
	for _, c := range r.Cases {
		if err := check(c); err != nil {
			t.Errorf("group %d %s: %v", c.Group, c.Host, err)
			continue
		}
		passed++
	}
	t.Logf("%d of %d recorded cases pass", passed, len(r.Cases))
}

// Access runs the plugin's access phase and compares its reply, or what goes on where it
// has none. shown is given a reply before it is compared; nil for nothing.
func (c *Case) Access(t *testing.T, shown func(reply *policy.Reply)) error {
	t.Helper()
	reply := c.Instance.Access(c.C)
	switch {
	case (reply == nil) != c.Contacted():
		return fmt.Errorf("answered %+v, upstream contacted: %v", reply, c.Contacted())
	case reply == nil:
		return c.CompareUpstream(t)
	case shown != nil:
		shown(reply)
	}
	c.Reply(reply)
	return c.CompareResponse(t)
}

// Contacted says whether the recorded request reached the upstream.
func (c *Case) Contacted() bool { return c.upstream != nil }

// CompareUpstream checks that the request in C is what the upstream got.
func (c *Case) CompareUpstream(t *testing.T) error {
	t.Helper()
	want, req := c.upstream, &c.C.X.Request
	if want == nil {
		return fmt.Errorf("the upstream was not contacted")
	}
	uri := c.C.UpstreamURI
	if req.HasQuery && !strings.Contains(uri, "?") {
		uri += "?" + req.Query
	}
	if req.Method != want.Method || uri != want.Target {
		return fmt.Errorf("got %s %s, want %s %s", req.Method, uri, want.Method, want.Target)
	}
	host := c.C.UpstreamHost
	if host == "" {
		host = "127.0.0.1:19900"
	}
	if host != header(*want, "Host") {
		return fmt.Errorf("got Host %q, want %q", host, header(*want, "Host"))
	}
	if got, want := values(pairs(&req.Fields)), values(want.Headers); !maps.EqualFunc(got, want, slices.Equal) {
		return fmt.Errorf("got fields %q, want %q", got, want)
	}
	got := ReadAll(t, req.Body)
	if text := header(*want, "Content-Length"); text != "" && req.Length >= 0 && strconv.FormatInt(req.Length, 10) != text {
		return fmt.Errorf("got length %d, want %s", req.Length, text)
	}
	if want.Body != nil && !sameBody(got, string(Latin1(*want.Body)), req.Fields.Get("Content-Type")) {
		return fmt.Errorf("got body %q, want %q", got, *want.Body)
	}
	return nil
}

// sameBody compares bodies; of JSON objects and forms the order of members may differ.
func sameBody(got, want, contentType string) bool {
	if got == want {
		return true
	}
	if strings.Contains(contentType, "urlencoded") {
		a, b := strings.Split(got, "&"), strings.Split(want, "&")
		slices.Sort(a)
		slices.Sort(b)
		return slices.Equal(a, b)
	}
	return len(got) == len(want) && sameJSON(got, want)
}

func sameJSON(got, want string) bool {
	var a, b any
	return json.Unmarshal([]byte(got), &a) == nil && json.Unmarshal([]byte(want), &b) == nil && reflect.DeepEqual(a, b)
}

// Respond puts the recorded answer of the backend into C.
func (c *Case) Respond() {
	r := &c.C.X.Response
	*r = exchange.Response{Status: http.StatusOK, FromUpstream: true}
	contentType, body, extra := "application/json", "<echo>", [][2]string{{"X-Echo", "1"}}
	if b := c.request.Backend; b != nil {
		extra, body = b.Headers, *b.Body
		if b.Status != 0 {
			r.Status = b.Status
		}
		if t := header(*b, "Content-Type"); t != "" {
			contentType = t
		}
	}
	r.Fields.Add("Content-Type", contentType)
	r.Fields.Add("Server", "echo/1")
	for _, h := range extra {
		if !exchange.EqualFold(h[0], "Content-Type") {
			r.Fields.Add(h[0], h[1])
		}
	}
	raw := Latin1(body)
	r.Length = int64(len(raw))
	if c.C.X.Request.Method != http.MethodHead {
		r.Body = strings.NewReader(string(raw))
	}
}

// Reply puts a plugin's answer into C as the gateway would.
func (c *Case) Reply(reply *policy.Reply) {
	r := &c.C.X.Response
	contentType, body := policy.RenderFor(reply, &c.C.X.Request, RequestID)
	*r = exchange.Response{Status: reply.Status, Length: int64(len(body))}
	if contentType != "" {
		r.Fields.Add("Content-Type", contentType)
	}
	for _, f := range reply.Fields {
		r.Fields.Add(f.Name, f.Value)
	}
	if c.C.X.Request.Method != http.MethodHead {
		r.Body = strings.NewReader(string(body))
	}
}

// CompareResponse checks that the response in C is what the client got.
func (c *Case) CompareResponse(t *testing.T) error {
	t.Helper()
	want, r := c.response, &c.C.X.Response
	if r.Status != want.Status {
		return fmt.Errorf("got status %d, want %d", r.Status, want.Status)
	}
	if v, ok := r.Fields.Lookup("Content-Type"); ok {
		r.Fields.Set("Content-Type", policy.Charset(r.Status, v))
	}
	if !r.Fields.Has("Server") { // what the gateway puts where there is none
		r.Fields.Add("Server", "kong/3.9.3")
	}
	if got, want := values(pairs(&r.Fields)), values(want.Headers); !maps.EqualFunc(got, want, slices.Equal) {
		return fmt.Errorf("got fields %q, want %q", got, want)
	}
	got := strings.ReplaceAll(ReadAll(t, r.Body), RequestID, "<id>")
	body := ""
	if want.Body != nil {
		body = string(Latin1(*want.Body))
	}
	if c.maskBody != nil && body != "<echo>" {
		if got, want := c.maskBody(got), c.maskBody(body); got != want {
			return fmt.Errorf("got body %s, want %s", got, want)
		}
		return nil
	}
	if body != "<echo>" && got != body && (len(got) != len(body) || !sameJSON(got, body)) {
		return fmt.Errorf("got body %q, want %q", got, body)
	}
	if length := header(want, "Content-Length"); length != "" && body != "<echo>" && strconv.FormatInt(r.Length, 10) != length {
		return fmt.Errorf("got length %d, want %s", r.Length, length)
	}
	if header(want, "Content-Length") == "" && body != "" && r.Length >= 0 {
		return fmt.Errorf("got length %d, want none announced", r.Length)
	}
	return nil
}

// MaskBody makes CompareResponse compare what f makes of the two bodies.
func (c *Case) MaskBody(f func(string) string) { c.maskBody = f }

// MaskRecorded lets f change the lines of both recorded messages, so that values
// that are random can be compared by their form.
func (c *Case) MaskRecorded(f func(*exchange.Fields)) {
	for _, m := range []*message{c.upstream, &c.response} {
		if m == nil {
			continue
		}
		var fields exchange.Fields
		for _, h := range m.Headers {
			fields.Add(h[0], h[1])
		}
		f(&fields)
		m.Headers = pairs(&fields)
	}
}
