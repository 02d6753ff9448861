package edge

import (
	"bytes"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/policy"
)

// answer makes the response here, from a reply of a plugin or of the edge.
func (h *Handler) answer(r *request, reply *policy.Reply) {
	x := r.x
	r.reply = reply
	resp := &x.Response
	resp.Fields.Reset()
	*resp = exchange.Response{Status: reply.Status, Close: resp.Close, Fields: resp.Fields}
	resp.Fields.Add("Date", time.Now().UTC().Format(http.TimeFormat))
	resp.Close = resp.Close || closes(reply)
	if policy.IsGRPC(&x.Request) && answerGRPC(resp, reply) {
		return
	}
	contentType, body := policy.RenderFor(reply, &x.Request, x.RequestID)
	if contentType != "" {
		resp.Fields.Add("Content-Type", contentType)
	}
	for _, f := range reply.Fields {
		resp.Fields.Add(f.Name, f.Value)
	}
	resp.Length = int64(len(body))
	if len(body) > 0 {
		resp.Body = bytes.NewReader(body)
	}
}

// answerGRPC makes the response one that gRPC's clients read: a status and no message.
func answerGRPC(resp *exchange.Response, reply *policy.Reply) bool {
	fields, ok := policy.GRPCFields(reply)
	if !ok {
		return false
	}
	for _, f := range fields {
		resp.Fields.Add(f.Name, f.Value)
	}
	for _, f := range reply.Fields {
		resp.Fields.Add(f.Name, f.Value)
	}
	resp.Length = -1
	return true
}

// closes says whether an answer ends the connection: one that only stands for a
// status after which the rest of what the client sends is not to be trusted.
func closes(r *policy.Reply) bool {
	switch r.Status {
	case 400, 413, 414, 494:
		return r.Page()
	}
	return false
}

// finishHead adds the fields that this node puts on every response and runs the
// header phase, after which the head may be sent.
func (h *Handler) finishHead(r *request) {
	c, resp := &r.context, &r.x.Response
	for f := range c.ResponseFields.All() {
		resp.Fields.Set(f.Name, f.Value)
	}
	if r.chain != nil {
		r.chain.Header(c)
	}
	if ct, ok := resp.Fields.Lookup("Content-Type"); ok {
		if full := policy.Charset(resp.Status, ct); full != ct {
			resp.Fields.Set("Content-Type", full)
		}
	}
	if resp.FromUpstream {
		h.proxiedFields(r)
		if h.config.Headers.has(HeaderServer) && !resp.Fields.Has("Server") {
			resp.Fields.Add("Server", h.config.Token())
		}
	} else {
		h.localFields(r)
	}
	h.sharedFields(r)
}

// proxiedFields are the fields on a response of the upstream.
func (h *Handler) proxiedFields(r *request) {
	x, set := r.x, h.config.Headers
	f := &x.Response.Fields
	if set.has(HeaderUpstreamLatency) {
		f.Set("X-Kong-Upstream-Latency", latency(x.UpstreamHead.Sub(x.UpstreamStart)))
	}
	if set.has(HeaderProxyLatency) {
		f.Set("X-Kong-Proxy-Latency", latency(x.UpstreamStart.Sub(x.Start)))
	}
	if set.has(HeaderVia) {
		f.Set("Via", h.via11)
	}
	if set.has(HeaderUpstreamStatus) && len(x.Attempts) > 0 {
		f.Set("X-Kong-Upstream-Status", strconv.Itoa(x.Attempts[len(x.Attempts)-1].Status))
	}
}

// localFields are the fields on a response made here.
func (h *Handler) localFields(r *request) {
	x, set := r.x, h.config.Headers
	f := &x.Response.Fields
	if set.has(HeaderResponseLatency) {
		f.Set("X-Kong-Response-Latency", latency(time.Since(x.Start)))
	}
	if set.has(HeaderServer) {
		f.Set("Server", h.config.Token())
	}
}

func (h *Handler) sharedFields(r *request) {
	f := &r.x.Response.Fields
	if h.config.Headers.has(HeaderRequestID) {
		f.Set("X-Kong-Request-Id", r.x.RequestID)
	}
	if r.info.altSvc != "" {
		f.Set("Alt-Svc", r.info.altSvc)
	}
	if !h.config.AllowDebugHeader || r.bind == nil || r.x.Request.Fields.Get("Kong-Debug") != "1" {
		return
	}
	route := r.bind.route.Spec
	f.Set("Kong-Route-Id", route.ID)
	if route.Name != "" {
		f.Set("Kong-Route-Name", route.Name)
	}
	if s := r.bind.service; s != nil {
		f.Set("Kong-Service-Id", s.ID)
		if s.Name != "" {
			f.Set("Kong-Service-Name", s.Name)
		}
	}
}

// noRoute answers a request that no route takes. Where the document has listeners a call
// of gRPC is one that is not implemented, as its own servers answer and Gateway API has it.
func (r *request) noRoute() *policy.Reply {
	reply := &policy.Reply{Status: http.StatusNotFound, Message: "no Route matched with those values"}
	if r.snap.OwnListeners() {
		reply.GRPC = grpcUnimplemented
	}
	return reply
}

const grpcUnimplemented = 12

// protocolCheck refuses a protocol that the route does not speak: in clear on a
// route for TLS only it answers 426 or a redirect.
func (r *request) protocolCheck() *policy.Reply {
	route, x := r.bind.route.Spec, r.x
	accepts := func(p string) bool { return slices.Contains(route.Protocols, p) }
	grpc := accepts("grpc") || accepts("grpcs")
	secureOnly := !accepts("http") && !accepts("grpc")
	if secureOnly && !exchange.EqualFold(r.origin.proto, "https") {
		return r.toTLS(route.HTTPSRedirectStatusCode)
	}
	if !grpc {
		return nil
	}
	if x.Request.Version < exchange.HTTP2 {
		return &policy.Reply{
			Status: http.StatusUpgradeRequired, Message: "Please use HTTP2 protocol",
			Fields: []exchange.Field{{Name: "Connection", Value: "Upgrade"}, {Name: "Upgrade", Value: "HTTP/2"}},
		}
	}
	if ct := x.Request.Fields.Get("Content-Type"); len(ct) < 16 || ct[:16] != "application/grpc" {
		return &policy.Reply{Status: http.StatusUnsupportedMediaType, Message: "Non-gRPC request matched gRPC route"}
	}
	return nil
}

// toTLS answers a request in clear for a route that is for TLS only.
func (r *request) toTLS(status int) *policy.Reply {
	if status == 0 || status == http.StatusUpgradeRequired {
		return &policy.Reply{
			Status: http.StatusUpgradeRequired, Message: "Please use HTTPS protocol",
			Fields: []exchange.Field{{Name: "Connection", Value: "Upgrade"}, {Name: "Upgrade", Value: "TLS/1.2, HTTP/1.1"}},
		}
	}
	return &policy.Reply{
		Status: status, ContentType: "text/html", Body: statusPage(status),
		Fields: []exchange.Field{{Name: "Location", Value: "https://" + r.host + r.x.Request.Target}},
	}
}

// statusPage is the least page that says a status, as web servers write it.
func statusPage(status int) []byte {
	title := strconv.Itoa(status) + " " + http.StatusText(status)
	return []byte("<html>\r\n<head><title>" + title + "</title></head>\r\n<body>\r\n<center><h1>" + title + "</h1></center>\r\n</body>\r\n</html>\r\n")
}

// latency renders a duration as the whole milliseconds of the latency fields.
func latency(d time.Duration) string {
	if d < 0 {
		d = 0
	}
	return strconv.FormatInt(d.Milliseconds(), 10)
}
