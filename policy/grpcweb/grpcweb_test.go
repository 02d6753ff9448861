package grpcweb

import (
	"encoding/base64"
	"errors"
	"io"
	"maps"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/routing/spec"
)

func instance(t *testing.T, config map[string]any) policy.Instance {
	t.Helper()
	full := map[string]any{"proto": nil, "pass_stripped_path": nil, "allow_origin_header": "*"} // as the schema fills it
	maps.Copy(full, config)
	i, err := compile(&policy.Env{}, &spec.Plugin{Config: full})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func request(method, contentType, body string) *policy.Context {
	c := &policy.Context{X: &exchange.Exchange{}, UpstreamURI: "/pkg.Service/Call", StrippedURI: "/Stripped"}
	r := &c.X.Request
	r.Method, r.Path, r.Version = method, "/pkg.Service/Call", exchange.HTTP11
	r.Body, r.Length = iotest.OneByteReader(strings.NewReader(body)), int64(len(body))
	if contentType != "" {
		r.Fields.Add("Content-Type", contentType)
	}
	return c
}

func TestForms(t *testing.T) {
	message := "\x00\x00\x00\x00\x03abc"
	pieces := base64.StdEncoding.EncodeToString([]byte(message[:4])) + base64.StdEncoding.EncodeToString([]byte(message[4:]))
	for _, c := range []struct{ kind, in string }{
		{"application/grpc-web", message},
		{"application/grpc-web+proto", message},
		{"application/grpc-web-text", pieces},
		{"application/grpc-web-text+proto", base64.StdEncoding.EncodeToString([]byte(message))},
	} {
		i := instance(t, map[string]any{"allow_origin_header": "https://a.test"})
		x := request("POST", c.kind, c.in)
		if reply := i.Access(x); reply != nil {
			t.Fatalf("%s: %+v", c.kind, reply)
		}
		got, err := io.ReadAll(x.X.Request.Body)
		if err != nil || string(got) != message {
			t.Errorf("%s: the service gets %q, %v", c.kind, got, err)
		}
		f := &x.X.Request.Fields
		if f.Get("Content-Type") != "application/grpc" || f.Get("TE") != "trailers" || x.UpstreamURI != "/pkg.Service/Call" || x.ResponseFields.Get(allowOrigin) != "https://a.test" {
			t.Errorf("%s: %v to %s", c.kind, f, x.UpstreamURI)
		}
		r := &x.X.Response
		r.Status, r.FromUpstream, r.Body = 200, true, iotest.HalfReader(strings.NewReader(message+message))
		r.Fields.Add("Content-Type", "application/grpc+proto")
		r.Trailer.Add("Grpc-Status", "0")
		r.Trailer.Add("X-More", "m")
		i.Header(x)
		out, err := io.ReadAll(r.Body)
		if strings.Contains(c.kind, "text") {
			d := decoder{source: strings.NewReader(string(out))}
			out, err = io.ReadAll(&d)
		}
		if want := message + message + "\x80\x00\x00\x00\x1bgrpc-status:0\r\nx-more:m\r\n"; err != nil || string(out) != strings.Replace(want, "\x1b", string(rune(len("grpc-status:0\r\nx-more:m\r\n"))), 1) {
			t.Errorf("%s: the client gets %q, %v", c.kind, out, err)
		}
		if r.Trailer.Len() != 0 || r.Fields.Get("Content-Type") != c.kind || r.Length != -1 {
			t.Errorf("%s: trailers %v, fields %v", c.kind, r.Trailer, r.Fields)
		}
	}
}

func TestEnds(t *testing.T) {
	i := instance(t, nil)
	for name, c := range map[string]struct {
		set  func(r *exchange.Response)
		want string
	}{
		"trailers only":           {func(r *exchange.Response) { r.FromUpstream = true; r.Fields.Add("grpc-status", "12") }, "grpc-status:12\r\n"},
		"no status":               {func(r *exchange.Response) { r.FromUpstream = true; r.Body = strings.NewReader("") }, "grpc-status:2\r\ngrpc-message:the service sent no status\r\n"},
		"an answer of the node's": {func(r *exchange.Response) { r.Status = 503; r.Body = strings.NewReader("{}") }, "grpc-status:14\r\ngrpc-message:The upstream server is currently unavailable\r\n"},
	} {
		x := request("POST", "application/grpc-web", "")
		i.Access(x)
		r := &x.X.Response
		r.Status = 200
		r.Fields.Add("Content-Type", "application/grpc")
		c.set(r)
		i.Header(x)
		out, err := io.ReadAll(r.Body)
		if err != nil || len(out) < 5 || out[0] != 0x80 || int(out[4]) != len(out)-5 || string(out[5:]) != c.want {
			t.Errorf("%s: %q, %v", name, out, err)
		}
	}
}

func TestBrokenResponseHasNoTrailers(t *testing.T) {
	i := instance(t, nil)
	x := request("POST", "application/grpc-web-text", "")
	i.Access(x)
	r := &x.X.Response
	r.Status, r.FromUpstream = 200, true
	r.Fields.Add("Content-Type", "application/grpc")
	bad := errors.New("broken")
	r.Body = io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(bad))
	i.Header(x)
	if out, err := io.ReadAll(r.Body); !errors.Is(err, bad) || string(out) != "YWJj" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestRefusals(t *testing.T) {
	i := instance(t, map[string]any{"allow_origin_header": "*"})
	for _, kind := range []string{"", "application/json", "application/grpc-web+json", "text/plain"} {
		if reply := i.Access(request("POST", kind, "{}")); reply == nil || reply.Status != 400 {
			t.Errorf("%q: %+v", kind, reply)
		}
	}
	for _, body := range []string{"AAA", "A===", "AA=A", "*AAA"} {
		x := request("POST", "application/grpc-web-text", body)
		i.Access(x)
		_, err := io.ReadAll(x.X.Request.Body)
		if be, ok := errors.AsType[*exchange.BodyError](err); !ok || be.Status != 400 {
			t.Errorf("%q: %v", body, err)
		}
	}
	if bad := verify(map[string]any{"proto": "a.proto"}); len(bad) != 1 {
		t.Errorf("a .proto file: %v", bad)
	}
	x := request("OPTIONS", "", "")
	reply := i.Access(x)
	if reply == nil || reply.Status != 200 || string(reply.Body) != "OK" || len(reply.Fields) != 2 || x.ResponseFields.Get(allowOrigin) != "*" {
		t.Errorf("OPTIONS: %+v", reply)
	}
	i.Header(x)
	if x.X.Response.Body != nil {
		t.Error("the answer to OPTIONS got a frame of trailers")
	}
}

func TestAnotherAnswerStaysAsItIs(t *testing.T) {
	i := instance(t, map[string]any{"pass_stripped_path": true})
	x := request("POST", "application/grpc-web", "")
	i.Access(x)
	if x.UpstreamURI != "/Stripped" {
		t.Errorf("the path is %s", x.UpstreamURI)
	}
	r := &x.X.Response
	r.Status, r.FromUpstream = 502, true
	r.Fields.Add("Content-Type", "text/html")
	i.Header(x)
	if r.Body != nil || r.Fields.Get("Content-Type") != "text/html" {
		t.Errorf("%v", r)
	}
}
