package responsetransformer

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/policy/vectortest"
)

func TestKongVectors(t *testing.T) {
	vectortest.Open(t, Kind(), nil).Each(t, func(c *vectortest.Case) error {
		c.Respond()
		c.Instance.Header(c.C)
		return c.CompareResponse(t)
	})
}

// run puts a response through the plugin with config.
func run(t *testing.T, config string, r exchange.Response) *policy.Context {
	t.Helper()
	instance, problems := vectortest.Compile(t, Kind(), nil, config)
	if len(problems) > 0 {
		t.Fatalf("%s: %v", config, problems)
	}
	c := vectortest.NewContext("GET", "/", "h")
	c.X.Response = r
	instance.Header(c)
	return c
}

func jsonResponse(body io.Reader, length int64) exchange.Response {
	r := exchange.Response{Status: 200, Body: body, Length: length, FromUpstream: true}
	r.Fields.Add("Content-Type", "application/json")
	return r
}

func TestKongDefaults(t *testing.T) { vectortest.Defaults(t, Kind()) }

func TestReadmeExample(t *testing.T) {
	doc := vectortest.Example(t, Kind())
	instance, err := Kind().Compile(nil, doc.Plugins[0])
	if err != nil {
		t.Fatal(err)
	}
	c := vectortest.NewContext("GET", "/", "h")
	c.X.Response = jsonResponse(strings.NewReader(`{"id":7,"password":"x"}`), 23)
	c.X.Response.Fields.Add("X-Powered-By", "y")
	instance.Header(c)
	if got := vectortest.ReadAll(t, c.X.Response.Body); got != `{"id":7,"version":2}` || c.X.Response.Fields.Has("X-Powered-By") {
		t.Errorf("got %s with %v", got, c.X.Response.Fields)
	}
}

func TestVerifyRefuses(t *testing.T) {
	f := func(config, want string) {
		t.Helper()
		_, problems := vectortest.Compile(t, Kind(), nil, config)
		if len(problems) == 0 || !strings.Contains(problems.Error(), want) {
			t.Errorf("%s: got %v, want %q", config, problems, want)
		}
	}
	f(`{"add":{"json":["a:1"],"json_types":["x"]}}`, "boolean, number, string")
	f(`{"add":{"headers":["x"]}}`, "invalid value: x")
	f(`{"add":{"json":["a:b"],"json_types":["number"]}}`, `"b" is not a number`)
	f(`{"add":{"json":["a:1e999"],"json_types":["number"]}}`, "is not a number")
	f(`{"replace":{"json":["a:yes"],"json_types":["boolean"]}}`, "is not a boolean")
	f(`{"add":{"headers":["Transfer-Encoding:chunked"]}}`, "written by the gateway alone")
	f(`{"rename":{"headers":["x:content-length"]}}`, "written by the gateway alone")
	f(`{"rename":{"headers":["x:a b"]}}`, "field name after the colon")
	f(`{"append":{"headers":["a b:x"]}}`, "not a field name")
	f(`{"append":{"headers":["a:x\ry"]}}`, "control character")
	f(`{"remove":{"headers":["a:/(/"]}}`, "regular expression")
}

func TestFields(t *testing.T) {
	f := func(config, want string) {
		t.Helper()
		r := exchange.Response{Status: 200}
		for _, line := range []string{"X-A=1", "Set-Cookie=s=1, x", "x-a=2", "Set-Cookie=t=2", "X-L=a, b,c"} {
			name, value, _ := strings.Cut(line, "=")
			r.Fields.Add(name, value)
		}
		var got []string
		for x := range run(t, config, r).X.Response.Fields.All() {
			got = append(got, x.Name+"="+x.Value)
		}
		if strings.Join(got, "|") != want {
			t.Errorf("%s: got %q", config, got)
		}
	}
	f(`{"remove":{"headers":["x-a","Set-Cookie:/^s=/","X-L:b"]}}`, "Set-Cookie=t=2|X-L=a, c")
	f(`{"remove":{"headers":["set-cookie","X-L:/./","X-None:1","X-A:2"]}}`, "X-A=1")
	f(`{"rename":{"headers":["X-A:x-l","x-none:y"]},"remove":{"headers":["set-cookie"]}}`, "x-l=1|x-l=2")
	f(`{"remove":{"headers":["set-cookie","x-l"]},"replace":{"headers":["x-a:r","x-n:1"]},"add":{"headers":["X-A:n","x-b:u:v"]},"append":{"headers":["X-A:z"]}}`, "X-A=r|x-b=u:v|X-A=z")
}

func TestJSONValues(t *testing.T) {
	f := func(config, in, want string) {
		t.Helper()
		c := run(t, config, jsonResponse(iotest.OneByteReader(strings.NewReader(in)), int64(len(in))))
		if got := vectortest.ReadAll(t, c.X.Response.Body); got != want || c.X.Response.Length != -1 {
			t.Errorf("%s of %s: got %s, length %d", config, in, got, c.X.Response.Length)
		}
	}
	f(`{"add":{"json":["a:1","b:true","c:07.50","d:a:b"],"json_types":["number","boolean","number"]}}`, ` { "z" : 1.0 } `, `{"z":1.0,"a":1,"b":true,"c":7.5,"d":"a:b"}`)
	f(`{"append":{"json":["a:x","b:x"]}}`, `{"a":["y"],"b":{}}`, `{"a":["y","x"],"b":{}}`)
	f(`{"remove":{"json":["a"]}}`, `[{"a":1}]`, `[{"a":1}]`)
	f(`{"remove":{"json":["a"]}}`, "", "")
	f(`{"rename":{"json":["a:b"]},"replace":{"json":["b:2"]}}`, `{"b":0,"a":1}`, `{"b":"2"}`)
}

func TestBodiesLeftAlone(t *testing.T) {
	f := func(edit func(r *exchange.Response)) {
		t.Helper()
		r := jsonResponse(strings.NewReader(`{"a":1}`), 7)
		edit(&r)
		length := r.Length
		c := run(t, `{"remove":{"json":["a"]}}`, r)
		if got := vectortest.ReadAll(t, c.X.Response.Body); got != `{"a":1}` || c.X.Response.Length != length {
			t.Errorf("got %s, length %d", got, c.X.Response.Length)
		}
	}
	f(func(r *exchange.Response) { r.Fields.Set("Content-Type", "text/plain") })
	f(func(r *exchange.Response) { r.Fields.Set("Content-Encoding", "gzip") })
	f(func(r *exchange.Response) { r.Status = 304 })
}

type closing struct {
	io.Reader
	closed *bool
}

func (c closing) Close() error { *c.closed = true; return nil }

func TestLongBodyDoesNotPassWhatWasToBeHidden(t *testing.T) {
	long := `{"a":"` + strings.Repeat("x", bodyLimit) + `"}`
	for _, hide := range []string{`{"remove":{"json":["a"]}}`, `{"replace":{"json":["a:1"]}}`} {
		closed := false
		c := run(t, hide, jsonResponse(closing{strings.NewReader(long), &closed}, int64(len(long))))
		if c.X.Response.Status != 502 || !closed || c.LocalReply == nil || strings.Contains(vectortest.ReadAll(t, c.X.Response.Body), "xxx") {
			t.Errorf("%s: announced: status %d, closed %v", hide, c.X.Response.Status, closed)
		}
		c = run(t, hide, jsonResponse(strings.NewReader(long), -1))
		if b, err := io.ReadAll(c.X.Response.Body); !errors.Is(err, errBodyTooLong) || len(b) > 0 {
			t.Errorf("%s: streamed: %d bytes, %v", hide, len(b), err)
		}
	}
	for _, length := range []int64{-1, int64(len(long))} {
		c := run(t, `{"add":{"json":["b:1"]}}`, jsonResponse(strings.NewReader(long), length))
		if got := vectortest.ReadAll(t, c.X.Response.Body); got != long || c.X.Response.Length != length {
			t.Errorf("an addition to a long body: %d bytes, length %d", len(got), c.X.Response.Length)
		}
	}
}

func TestUpstreamErrorComesBeforeAnyByte(t *testing.T) {
	broken, closed := errors.New("broken"), false
	src := closing{io.MultiReader(strings.NewReader(`{"a":1}`), iotest.ErrReader(broken)), &closed}
	c := run(t, `{"remove":{"json":["a"]}}`, jsonResponse(src, -1))
	if b, err := io.ReadAll(c.X.Response.Body); !errors.Is(err, broken) || len(b) > 0 {
		t.Errorf("%q, %v", b, err)
	}
	if err := c.X.Response.Body.(io.Closer).Close(); err != nil || !closed {
		t.Errorf("close: %v, closed %v", err, closed)
	}
}
